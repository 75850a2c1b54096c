"""Recurring meetings on wall clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from transactional import (
    BookingConflict,
    Frequency,
    Interval,
    InvalidTimeError,
    Recurrence,
    Reservations,
    Wanted,
    occurrences,
)

HOUR = timedelta(hours=1)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)


def test_weekly_nine_oclock_in_berlin_across_both_changes():
    """[transactional 46] Nine o'clock stays nine o'clock: 8 UTC in winter, 7 UTC in summer."""
    spring = Recurrence(datetime(2025, 3, 24, 9), HOUR, count=3)  # noqa: DTZ001 wall clock
    starts = [one.start for one in occurrences(spring, "Europe/Berlin")]
    assert starts == [utc(2025, 3, 24, 8), utc(2025, 3, 31, 7), utc(2025, 4, 7, 7)]
    autumn = Recurrence(datetime(2025, 10, 20, 9), HOUR, count=3)  # noqa: DTZ001 wall clock
    starts = [one.start for one in occurrences(autumn, "Europe/Berlin")]
    assert starts == [utc(2025, 10, 20, 7), utc(2025, 10, 27, 8), utc(2025, 11, 3, 8)]


def test_the_gap_and_the_fold():
    """[transactional 46] 02:30 that does not exist is read as 03:30; of two 02:30 the first."""
    nightly = Recurrence.parse(
        "FREQ=DAILY;COUNT=3",
        start=datetime(2025, 3, 29, 2, 30),  # noqa: DTZ001 wall clock
        duration=HOUR,
    )
    starts = [one.start for one in occurrences(nightly, "Europe/Berlin")]
    assert starts == [utc(2025, 3, 29, 1, 30), utc(2025, 3, 30, 1, 30), utc(2025, 3, 31, 0, 30)]
    fold = Recurrence(datetime(2025, 10, 26, 2, 30), HOUR, Frequency.DAILY, count=1)  # noqa: DTZ001
    (once,) = occurrences(fold, "Europe/Berlin")
    assert once == Interval(utc(2025, 10, 26, 0, 30), utc(2025, 10, 26, 1, 30))


def test_the_length_is_elapsed_time():
    """An hour that begins before the clock jumps is an hour."""
    jump = Recurrence(datetime(2025, 3, 30, 1, 30), HOUR, Frequency.DAILY, count=1)  # noqa: DTZ001
    (once,) = occurrences(jump, "Europe/Berlin")
    assert once.duration == HOUR


def test_rules_are_read_as_calendars_write_them():
    """INTERVAL, BYDAY, UNTIL and months without a 31st; nothing is skipped in silence."""
    start = datetime(2025, 1, 31, 9)  # noqa: DTZ001 wall clock, a Friday
    months = Recurrence.parse("RRULE:FREQ=MONTHLY;COUNT=4", start=start, duration=HOUR)
    assert [one.start.month for one in occurrences(months, "UTC")] == [1, 3, 5, 7]
    days = Recurrence.parse(
        "FREQ=WEEKLY;BYDAY=MO,FR;INTERVAL=2;UNTIL=20250228T090000Z", start=start, duration=HOUR
    )
    assert [one.start.day for one in occurrences(days, "UTC")] == [31, 10, 14, 24, 28]
    endless = Recurrence(start, HOUR)
    assert len(list(islice(occurrences(endless, "UTC"), 500))) == 500
    within = Interval(utc(2025, 6, 1), utc(2025, 6, 15))
    assert [o.start.day for o in occurrences(endless, "UTC", within=within)] == [6, 13]
    for bad in ("FREQ=HOURLY", "COUNT=1", "FREQ=WEEKLY;BYDAY=1MO", "FREQ=DAILY;BYHOUR=9", "FREQ"):
        with pytest.raises(InvalidTimeError):
            Recurrence.parse(bad, start=start, duration=HOUR)
    with pytest.raises(InvalidTimeError):
        next(occurrences(endless, "Mars/Olympus"))
    with pytest.raises(InvalidTimeError):
        Recurrence(utc(2025, 1, 1), HOUR)


async def test_a_series_is_booked_at_once_or_not_at_all(store):
    """All occurrences in one commit; one that is taken refuses the series."""
    rooms = Reservations(store)
    series = Recurrence(datetime(2025, 3, 24, 9), HOUR, count=4)  # noqa: DTZ001 wall clock
    wanted = [Wanted("turing", each) for each in occurrences(series, "Europe/Berlin")]
    booked = await rooms.book_many(wanted, holder="ann")
    assert [b.interval for b in booked] == [w.interval for w in wanted]
    later = [
        Wanted("turing", Interval(w.interval.start + HOUR / 2, w.interval.end + HOUR))
        for w in wanted[-1:]
    ]
    with pytest.raises(BookingConflict):
        await rooms.book_many([Wanted("hopper", wanted[0].interval), *later], holder="bob")
    assert await rooms.agenda("hopper") == ()

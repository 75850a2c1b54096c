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
    with pytest.raises(InvalidTimeError, match="unknown time zone"):
        next(occurrences(endless, "Mars/Olympus"))
    with pytest.raises(InvalidTimeError):
        Recurrence(utc(2025, 1, 1), HOUR)


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        ("FREQ=WEEKLY;WKST=SU;INTERVAL=1;BYDAY=MO;UNTIL=20250120T080000Z", [6, 13, 20]),
        ("FREQ=WEEKLY;BYDAY=MO;UNTIL=20250120", [6, 13, 20]),  # the whole day counts
        ("FREQ=WEEKLY;BYDAY=MO;UNTIL=20250120T085959", [6, 13]),  # local, inclusive
        ("FREQ=WEEKLY;BYDAY=MO;UNTIL=20250120T090000", [6, 13, 20]),
        ("freq=daily;count=2;", [6, 7]),
        ("RRULE:FREQ=WEEKLY;COUNT=2;BYDAY=+MO".replace("+", ""), [6, 13]),
        ("FREQ=MONTHLY;BYDAY=1MO,-1FR;COUNT=3", [6, 31, 3]),
        ("FREQ=MONTHLY;BYDAY=MO,3TU;COUNT=4", [6, 13, 20, 21]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=3", [31, 28, 31]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;COUNT=3", [31, 28, 31]),
        ("FREQ=YEARLY;BYMONTH=1;BYDAY=2SU;COUNT=2", [12, 11]),
        ("FREQ=YEARLY;BYYEARDAY=10,-1;COUNT=3", [10, 31, 10]),
        ("FREQ=YEARLY;BYWEEKNO=2;COUNT=2", [6, 5]),  # the start's weekday
        ("FREQ=DAILY;INTERVAL=10;COUNT=3;RSCALE=GREGORIAN;SKIP=OMIT", [6, 16, 26]),
    ],
)
def test_what_calendars_write_is_read(rule: str, days: list[int]) -> None:
    """Ordinals, days from the end, positions, weeks; an UNTIL that is an instant, a time, a day."""
    start = datetime(2025, 1, 6, 9)  # noqa: DTZ001 wall clock, a Monday
    read = Recurrence.parse(rule, start=start, duration=HOUR)
    assert [one.start.day for one in occurrences(read, "Europe/Berlin")] == days


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "FREQ",
        "FREQ=",
        "COUNT=1",
        "FREQ=FORTNIGHTLY",
        "FREQ=DAILY;FREQ=WEEKLY",
        "FREQ=DAILY;COUNT=2;COUNT=2",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;INTERVAL=-1",
        "FREQ=DAILY;COUNT=0",
        "FREQ=DAILY;COUNT=" + "9" * 5000,
        "FREQ=DAILY;COUNT=٣",
        "FREQ=DAILY;UNTIL=20250110,20250112",
        "FREQ=DAILY;UNTIL=20250230",
        "FREQ=DAILY;UNTIL=20250110T250000Z",
        "FREQ=DAILY;UNTIL=soon",
        "FREQ=WEEKLY;BYDAY=1MO",
        "FREQ=DAILY;BYDAY=-1MO",
        "FREQ=MONTHLY;BYDAY=6MO",
        "FREQ=MONTHLY;BYDAY=0MO",
        "FREQ=YEARLY;BYDAY=54MO",
        "FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO",
        "FREQ=MONTHLY;BYWEEKNO=1",
        "FREQ=DAILY;BYYEARDAY=1",
        "FREQ=WEEKLY;BYMONTHDAY=1",
        "FREQ=DAILY;BYHOUR=24",
        "FREQ=DAILY;BYMONTH=13",
        "FREQ=DAILY;BYMONTHDAY=0",
        "FREQ=DAILY;BYSETPOS=0",
        "FREQ=DAILY;BYDAY=XX",
        "FREQ=DAILY;BYEASTER=1",
        "FREQ=DAILY;X-MINE=1",
        "FREQ=DAILY;SKIP=FORWARD",
        "FREQ=DAILY;RSCALE=HEBREW",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",  # has no occurrence
        "FREQ=DAILY;UNTIL=20240101T000000Z",  # ends before it starts
        "FREQ=DAILY;UNTIL=00010101",
    ],
)
def test_what_is_no_rule_is_refused(rule: str) -> None:
    """Malformed, repeated, unknown, contradictory, never true: a typed error, at once."""
    start = datetime(2025, 1, 6, 9)  # noqa: DTZ001 wall clock
    with pytest.raises(InvalidTimeError):
        next(occurrences(Recurrence.parse(rule, start=start, duration=HOUR), "Europe/Berlin"))


def test_no_rule_ends_in_silence():
    """One occurrence more than the limit is an error; a window is not, however far it is."""
    start = datetime(2025, 1, 6, 9)  # noqa: DTZ001 wall clock
    daily = Recurrence.parse("FREQ=DAILY;COUNT=99999999", start=start, duration=HOUR)
    with pytest.raises(InvalidTimeError, match="more than 10000 occurrences"):
        list(occurrences(daily, "UTC"))
    assert len(list(occurrences(Recurrence(start, HOUR, count=5), "UTC", limit=5))) == 5
    with pytest.raises(InvalidTimeError, match="more than 5"):
        list(occurrences(Recurrence(start, HOUR, count=6), "UTC", limit=5))
    far = Interval(utc(2924, 1, 1), utc(2924, 1, 8))
    (one,) = occurrences(Recurrence(start, HOUR), "UTC", within=far)
    assert one.start.weekday() == 0


def test_the_ends_of_time_are_refused_by_type():
    """Years 1 and 9999, on either side of UTC."""
    for start, zone in (
        (datetime(1, 1, 1), "Asia/Tokyo"),  # noqa: DTZ001 wall clock
        (datetime(9999, 12, 31, 23), "America/New_York"),  # noqa: DTZ001 wall clock
    ):
        with pytest.raises(InvalidTimeError):
            list(occurrences(Recurrence(start, HOUR, count=1), zone))
    first = Recurrence(datetime(1, 1, 1), HOUR, Frequency.DAILY)  # noqa: DTZ001 wall clock
    year_1 = Interval(utc(1, 1, 1), utc(1, 1, 3))
    assert len(list(occurrences(first, "UTC", within=year_1))) == 2
    with pytest.raises(InvalidTimeError):
        next(occurrences(Recurrence(datetime(2025, 1, 1), timedelta.max), "UTC"))  # noqa: DTZ001


async def test_whole_days_touch_across_a_change_and_never_overlap(store):
    """A day of the calendar has 23 hours in spring and 25 in autumn: no gap, no collision."""
    rooms = Reservations(store)
    for room, start, hours in (("spring", 29, [24, 23, 24, 24]), ("autumn", 25, [24, 25, 24, 24])):
        month = 3 if room == "spring" else 10
        rule = Recurrence.parse(
            "FREQ=DAILY;COUNT=4",
            start=datetime(2025, month, start),  # noqa: DTZ001 wall clock
            duration=timedelta(days=1),
        )
        days = list(occurrences(rule, "Europe/Berlin"))
        assert [day.duration / HOUR for day in days] == hours
        await rooms.book_many([Wanted(room, day) for day in days], holder="cleaning")
        whole = Interval(days[0].start, days[-1].end)
        assert await rooms.free(room, whole, timedelta(minutes=1)) == ()


def test_days_of_a_length_are_of_the_calendar_and_the_rest_is_elapsed_time():
    """A day and two hours from 09:00 across the spring change: until 11:00 on the next day."""
    rule = Recurrence(
        datetime(2025, 3, 29, 9),  # noqa: DTZ001 wall clock
        timedelta(days=1, hours=2),
        count=1,
    )
    (one,) = occurrences(rule, "Europe/Berlin")
    assert one == Interval(utc(2025, 3, 29, 8), utc(2025, 3, 30, 9))


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

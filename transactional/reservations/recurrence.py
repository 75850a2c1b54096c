"""Recurring meetings: which instants does "every Monday at nine in Berlin" mean?

A rule is written in wall-clock time and a zone, because that is what people agree on; a booking is
an interval in UTC, because that is what can be compared.  This module walks the rule's *local*
dates and converts each one on its own, so the meeting stays at nine o'clock while its UTC hour
moves with daylight saving time.

Two local times a year are special (RFC 5545, section 3.3.5, and we follow it):

* in the *gap* of spring (02:30 when the clock jumps from 02:00 to 03:00) the time does not exist;
  it is read with the offset in force before the jump, so it shows as 03:30;
* in the *fold* of autumn (02:30 happens twice) the first of the two is meant.

The length of an occurrence is elapsed time, not wall-clock time: a one-hour meeting that starts
before a change lasts one hour.  A monthly rule on a day that a month lacks (the 31st in June) skips
that month (section 3.3.10: invalid dates are ignored).  Of RFC 5545's RRULE we read the parts that
meetings use: FREQ, INTERVAL, COUNT, UNTIL, BYDAY.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from itertools import count as count_from
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from transactional.clock import as_utc
from transactional.errors import InvalidTimeError
from transactional.reservations.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")

# A rule without COUNT or UNTIL goes on for ever; nobody wants all of it.
OCCURRENCES_MAX = 10_000


class Frequency(Enum):
    """How often a rule repeats, before `interval` multiplies it."""

    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A repeating meeting: first occurrence in wall-clock time (naive), length, how it repeats.

    `count` and `until` (aware, inclusive) bound it; with neither, whoever walks it does.
    `weekdays` (0 = Monday) is for weekly rules; empty means the weekday of `start`.

    Raises:
        InvalidTimeError: `start` is aware (`occurrences` is told the zone), or a bound is absurd.
    """

    start: datetime
    duration: timedelta
    frequency: Frequency = Frequency.WEEKLY
    interval: int = 1
    count: int | None = None
    until: datetime | None = None
    weekdays: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.start.tzinfo is not None:
            raise InvalidTimeError("a rule starts in wall-clock time: give a naive datetime")
        if self.duration <= timedelta(0):
            raise InvalidTimeError(f"an occurrence needs a positive length, got {self.duration}")
        if self.interval < 1 or (self.count is not None and self.count < 1):
            raise InvalidTimeError("interval and count of a rule are at least 1")
        if not all(0 <= day <= 6 for day in self.weekdays):
            raise InvalidTimeError("weekdays run from 0 (Monday) to 6 (Sunday)")
        if self.weekdays and self.frequency is not Frequency.WEEKLY:
            raise InvalidTimeError("weekdays are for weekly rules")
        if self.until is not None:
            object.__setattr__(self, "until", as_utc(self.until))

    @classmethod
    def parse(cls, rule: str, *, start: datetime, duration: timedelta) -> Recurrence:
        """Read an RRULE value such as `FREQ=WEEKLY;BYDAY=MO,WE;INTERVAL=2;COUNT=10`.

        Raises:
            InvalidTimeError: a part is malformed or unknown; none is ignored in silence.
        """
        parts = dict(_split_rule(rule))
        try:
            until = parts.pop("UNTIL", None)
            days = parts.pop("BYDAY", "")
            made = cls(
                start=start,
                duration=duration,
                frequency=Frequency(parts.pop("FREQ")),
                interval=int(parts.pop("INTERVAL", "1")),
                count=int(parts.pop("COUNT")) if "COUNT" in parts else None,
                until=datetime.strptime(until, "%Y%m%dT%H%M%S%z") if until else None,
                weekdays=frozenset(WEEKDAYS.index(day) for day in days.split(",") if day),
            )
        except (KeyError, ValueError) as error:
            raise InvalidTimeError(f"cannot read the rule {rule!r}: {error}") from error
        if parts:
            raise InvalidTimeError(f"the rule {rule!r} has parts not supported: {sorted(parts)}")
        return made


def occurrences(
    rule: Recurrence, zone: str, *, within: Interval | None = None, limit: int = OCCURRENCES_MAX
) -> Iterator[Interval]:
    """The occurrences of `rule` on the clocks of `zone` (an IANA name): UTC intervals, in order.

    With `within` only those that overlap it.  At most `limit` are yielded; a rule without an end
    simply stops there.  O(1) per occurrence since the rule's start.

    Raises:
        InvalidTimeError: the zone is unknown on this machine.
    """
    try:
        clocks = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidTimeError(f"unknown time zone {zone!r}") from error
    yielded = 0
    for number, day in enumerate(_dates(rule), start=1):
        start = to_instant(datetime.combine(day, rule.start.time()), clocks)
        if rule.until is not None and start > rule.until:
            return
        occurrence = Interval(start, start + rule.duration)
        if within is not None and occurrence.start >= within.end:
            return
        if within is None or occurrence.overlaps(within):
            yield occurrence
            yielded += 1
        if number == rule.count or yielded == limit:
            return


def to_instant(wall_clock: datetime, zone: ZoneInfo) -> datetime:
    """The UTC instant at which the clocks of `zone` show `wall_clock` (naive).

    `fold=0` is the first of two equal times, and for a time in a gap Python then applies the offset
    from before the jump: RFC 5545's reading of both special cases.
    """
    return wall_clock.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _split_rule(rule: str) -> Iterator[tuple[str, str]]:
    for part in rule.removeprefix("RRULE:").split(";"):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidTimeError(f"{part!r} in the rule {rule!r} is not NAME=VALUE")
        yield name.upper(), value.upper()


def _dates(rule: Recurrence) -> Iterator[date]:
    """Local dates of the rule, in order, without end (but within datetime's years)."""
    first = rule.start.date()
    try:
        if rule.frequency is Frequency.DAILY:
            for step in count_from(0, rule.interval):
                yield first + timedelta(days=step)
        elif rule.frequency is Frequency.WEEKLY:
            yield from _weekly(first, rule)
        else:
            yield from _monthly(first, rule.interval)
    except OverflowError:  # past the year 9999
        return


def _weekly(first: date, rule: Recurrence) -> Iterator[date]:
    monday = first - timedelta(days=first.weekday())
    days = sorted(rule.weekdays or {first.weekday()})
    for step in count_from(0, rule.interval):
        for day in days:
            occurrence = monday + timedelta(weeks=step, days=day)
            if occurrence >= first:
                yield occurrence


def _monthly(first: date, interval: int) -> Iterator[date]:
    for step in count_from(0, interval):
        years, month = divmod(first.month - 1 + step, 12)
        year = first.year + years
        if year > date.max.year:
            return
        if first.day <= calendar.monthrange(year, month + 1)[1]:
            yield date(year, month + 1, first.day)

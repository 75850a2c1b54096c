"""Recurring meetings: which instants does "every Monday at nine in Berlin" mean?

A rule is written in wall-clock time and a zone, because that is what people agree on; a booking is
an interval in UTC, because that is what can be compared.  `wall_times` walks the rule on *local*
time and `occurrences` converts each on its own, so the meeting stays at nine o'clock while its UTC
hour moves with daylight saving time.  All of RFC 5545's RECUR is read (section 3.3.10).

How a rule is walked
--------------------
Year by year.  The days of a year that a rule lets through depend on nothing but where its weeks
fall and whether it, its predecessor and its successor are leap years, so there are at most some
dozens of such lists for a rule, and each is made once (`_days_of_year`); if all are empty, the rule
never matches (30 February), and that is known before it is walked.  Days are then counted off
in periods of the frequency (every second week), times of day are laid into them, and BYSETPOS takes
its pick of each period.  A year without a day costs one look.  What is walked is counted (`Steps`),
because a rule of seconds could do without end what no one needs.

Two local times a year are special (RFC 5545, section 3.3.5, and we follow it):

* in the *gap* of spring (02:30 when the clock jumps from 02:00 to 03:00) the time does not exist;
  it is read with the offset in force before the jump, so it shows as 03:30;
* in the *fold* of autumn (02:30 happens twice) the first of the two is meant.

The whole days of an occurrence's length are days of the calendar, and the rest is elapsed time
(section 3.3.6): a series of whole days touches itself and never overlaps, though one of them has 23
hours, and a one-hour meeting that starts before a change lasts one hour.  A date that does not
exist (the 31st in June) is skipped (section 3.3.10), as is the 60th second.
"""

from __future__ import annotations

import re
from calendar import isleap
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from functools import lru_cache
from itertools import groupby, product
from math import gcd
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from transactional.calendars.zones import zone_named
from transactional.clock import as_utc
from transactional.errors import InvalidTimeError
from transactional.reservations import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import tzinfo

WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")

OCCURRENCES_MAX: Final = 10_000
"""So many are walked unless more are asked for; one more is an error, not a silent end."""
STEPS_MAX: Final = 500_000
"""Years, days and times that may be looked at for one rule: about a second."""

_DAY: Final = timedelta(days=1)
_DAY_S: Final = 86_400
_YEAR_DAYS: Final = 366


class Frequency(Enum):
    """How often a rule repeats, before `interval` multiplies it."""

    YEARLY = "YEARLY"
    MONTHLY = "MONTHLY"
    WEEKLY = "WEEKLY"
    DAILY = "DAILY"
    HOURLY = "HOURLY"
    MINUTELY = "MINUTELY"
    SECONDLY = "SECONDLY"


_UNIT_S: Final = {Frequency.HOURLY: 3600, Frequency.MINUTELY: 60, Frequency.SECONDLY: 1}
_ORDINALS: Final = {Frequency.MONTHLY: 5, Frequency.YEARLY: 53}


@dataclass(slots=True)
class Steps:
    """How much may still be walked, of one rule or of all rules of a file."""

    left: int = STEPS_MAX

    def take(self, count: int = 1) -> None:
        """Count `count` steps.

        Raises:
            InvalidTimeError: there are not as many left.
        """
        self.left -= count
        if self.left < 0:
            raise InvalidTimeError("the rule matches too rarely, or too much, to be walked")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A repeating meeting: first possible occurrence in wall-clock time, length, how it repeats.

    `count` and `until` (inclusive) bound it; with neither, whoever walks it does.  `until` is an
    instant (aware), a wall-clock time (naive), or a date, whose whole day counts.

    The rest are the BY parts of RFC 5545, section 3.3.10, and mean what they mean there; empty is
    absent.  A weekday is a number (0 = Monday), or with an ordinal a pair: `(-1, 4)` is the last
    Friday of the month, or of the year.  `week_start` says where weeks begin.  What a rule leaves
    open comes from `start`: a weekly rule without weekdays takes its weekday, a monthly one its
    day.  `start` itself is an occurrence only if the rule says so.

    Raises:
        InvalidTimeError: `start` is aware (`occurrences` is told the zone), a part is out of its
            range, or does not go with the frequency.
    """

    start: datetime
    duration: timedelta
    frequency: Frequency = Frequency.WEEKLY
    interval: int = 1
    count: int | None = None
    until: datetime | date | None = None
    weekdays: frozenset[int | tuple[int, int]] = frozenset()
    months: frozenset[int] = frozenset()
    week_numbers: frozenset[int] = frozenset()
    year_days: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    minutes: frozenset[int] = frozenset()
    seconds: frozenset[int] = frozenset()
    positions: frozenset[int] = frozenset()
    week_start: int = 0

    def __post_init__(self) -> None:
        if self.start.tzinfo is not None:
            raise InvalidTimeError("a rule starts in wall-clock time: give a naive datetime")
        if self.duration <= timedelta(0):
            raise InvalidTimeError(f"an occurrence needs a positive length, got {self.duration}")
        if self.interval < 1 or (self.count is not None and self.count < 1):
            raise InvalidTimeError("interval and count of a rule are at least 1")
        self._check_ranges()
        self._check_parts()
        if isinstance(self.until, datetime) and self.until.tzinfo is not None:
            object.__setattr__(self, "until", as_utc(self.until))

    def _check_ranges(self) -> None:
        ordinal = _ORDINALS.get(self.frequency, 0)
        for day in self.weekdays:
            number, weekday = day if isinstance(day, tuple) else (1, day)
            if not 0 <= weekday <= 6:
                raise InvalidTimeError("weekdays run from 0 (Monday) to 6 (Sunday)")
            if isinstance(day, tuple) and not ordinal:
                raise InvalidTimeError("a weekday has an ordinal in monthly and yearly rules only")
            if number == 0 or abs(number) > max(ordinal, 1):
                raise InvalidTimeError(f"there is no {number}th weekday in the rule's period")
        for what, values, least, most in (
            ("BYMONTH", self.months, 1, 12),
            ("BYWEEKNO", self.week_numbers, -53, 53),
            ("BYYEARDAY", self.year_days, -366, 366),
            ("BYMONTHDAY", self.month_days, -31, 31),
            ("BYHOUR", self.hours, 0, 23),
            ("BYMINUTE", self.minutes, 0, 59),
            ("BYSECOND", self.seconds, 0, 60),
            ("BYSETPOS", self.positions, -366, 366),
            ("WKST", {self.week_start}, 0, 6),
        ):
            for value in values:
                if not least <= value <= most or (value == 0 and least < 0):
                    raise InvalidTimeError(f"{what} of a rule is not {value}")

    def _check_parts(self) -> None:
        """What RFC 5545 forbids because it says two things, or none."""
        frequency = self.frequency
        if self.week_numbers and frequency is not Frequency.YEARLY:
            raise InvalidTimeError("BYWEEKNO is for yearly rules")
        if self.week_numbers and any(isinstance(day, tuple) for day in self.weekdays):
            raise InvalidTimeError("a weekday has no ordinal where BYWEEKNO names the weeks")
        if self.year_days and frequency in {
            Frequency.MONTHLY,
            Frequency.WEEKLY,
            Frequency.DAILY,
        }:
            raise InvalidTimeError("BYYEARDAY is not for monthly, weekly and daily rules")
        if self.month_days and frequency is Frequency.WEEKLY:
            raise InvalidTimeError("BYMONTHDAY is not for weekly rules")

    @classmethod
    def parse(cls, rule: str, *, start: datetime, duration: timedelta) -> Recurrence:
        """Read an RRULE value such as `FREQ=WEEKLY;BYDAY=MO,WE;INTERVAL=2;COUNT=10`.

        Raises:
            InvalidTimeError: a part is malformed, unknown, or stands twice; none is ignored in
                silence.
        """
        fields: dict[str, Any] = {}
        for name, value in _split_rule(rule):
            try:
                what, read = _PARTS[name]
                made = read(value)
            except (KeyError, ValueError) as error:
                why = f"{name}={value}" if name in _PARTS else f"the part {name} is not supported"
                raise InvalidTimeError(f"cannot read the rule {rule!r}: {why}") from error
            if what in fields:
                raise InvalidTimeError(f"the rule {rule!r} has the part {name} twice")
            fields[what] = made
        for what, only in _NOTHING_ELSE.items():
            if fields.pop(what, only) != only:
                raise InvalidTimeError(f"the rule {rule!r} asks for {what} other than {only}")
        if "frequency" not in fields:
            raise InvalidTimeError(f"the rule {rule!r} has no FREQ")
        return cls(start=start, duration=duration, **fields)


# --- reading a rule ------------------------------------------------------------------------------


def _split_rule(rule: str) -> Iterator[tuple[str, str]]:
    text = re.sub(r"(?i)^\s*(RRULE|EXRULE):", "", rule)
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise InvalidTimeError(f"{part!r} in the rule {rule!r} is not NAME=VALUE")
        yield name.strip().upper(), value.strip().upper()


def _number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise ValueError(text)
    return int(text)


def _listed(text: str) -> list[str]:
    """The values of a list; one too many comma is no value."""
    found = [part for part in (part.strip() for part in text.split(",")) if part]
    if not found:
        raise ValueError(text)
    return found


def _numbers(text: str) -> frozenset[int]:
    return frozenset(map(_number, _listed(text)))


def _weekday(text: str) -> int:
    return WEEKDAYS.index(text)


def _weekdays(text: str) -> frozenset[int | tuple[int, int]]:
    found: set[int | tuple[int, int]] = set()
    for part in _listed(text):
        ordinal, day = part[:-2].strip(), _weekday(part[-2:])
        found.add((_number(ordinal), day) if ordinal else day)
    return frozenset(found)


def _until(text: str) -> datetime | date:
    if re.fullmatch(r"[0-9]{8}", text):
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z?", text):
        raise ValueError(text)
    day, clock = text[:8], text[9:15]
    wall = datetime(  # noqa: DTZ001 wall clock
        int(day[:4]),
        int(day[4:6]),
        int(day[6:]),
        int(clock[:2]),
        int(clock[2:4]),
        int(clock[4:]),
    )
    return wall.replace(tzinfo=UTC) if text.endswith("Z") else wall


# Of RFC 5545; and of RFC 7529 what changes nothing.
_PARTS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "FREQ": ("frequency", Frequency),
    "INTERVAL": ("interval", _number),
    "COUNT": ("count", _number),
    "UNTIL": ("until", _until),
    "BYDAY": ("weekdays", _weekdays),
    "BYMONTH": ("months", _numbers),
    "BYWEEKNO": ("week_numbers", _numbers),
    "BYYEARDAY": ("year_days", _numbers),
    "BYMONTHDAY": ("month_days", _numbers),
    "BYHOUR": ("hours", _numbers),
    "BYMINUTE": ("minutes", _numbers),
    "BYSECOND": ("seconds", _numbers),
    "BYSETPOS": ("positions", _numbers),
    "WKST": ("week_start", _weekday),
    "RSCALE": ("RSCALE", str),
    "SKIP": ("SKIP", str),
}
_NOTHING_ELSE: Final = {"RSCALE": "GREGORIAN", "SKIP": "OMIT"}


# --- walking it ----------------------------------------------------------------------------------


class _Days(NamedTuple):
    """What a rule says of days; equal ones share the days of a year."""

    months: frozenset[int]
    week_numbers: frozenset[int]
    year_days: frozenset[int]
    month_days: frozenset[int]
    weekdays: frozenset[int | tuple[int, int]]
    week_start: int
    in_months: bool  # ordinals of weekdays count in the month, not in the year


def _days_of(rule: Recurrence) -> _Days:
    """The day parts, with what they leave open taken from the start."""
    months, month_days, weekdays = rule.months, rule.month_days, rule.weekdays
    if not (rule.week_numbers or rule.year_days or month_days or weekdays):
        if rule.frequency in {Frequency.YEARLY, Frequency.MONTHLY}:
            month_days = frozenset({rule.start.day})
        if rule.frequency is Frequency.YEARLY:
            months = months or frozenset({rule.start.month})
        if rule.frequency is Frequency.WEEKLY:
            weekdays = frozenset({rule.start.weekday()})
    elif rule.week_numbers and not (rule.year_days or month_days or weekdays):
        weekdays = frozenset({rule.start.weekday()})
    in_months = rule.frequency is Frequency.MONTHLY or bool(rule.months)
    return _Days(
        months,
        rule.week_numbers,
        rule.year_days,
        month_days,
        weekdays,
        rule.week_start,
        in_months,
    )


@lru_cache(maxsize=4096)
def _days_of_year(
    first_weekday: int, leaps: tuple[bool, bool, bool], days: _Days
) -> tuple[int, ...]:
    """Days (0 = 1 January) that pass all day parts, of a year of this shape."""
    length = 365 + leaps[1]
    passed = []
    number = 0
    for month in range(1, 13):
        in_month = _month_days(month, leap=leaps[1])
        if days.months and month not in days.months:
            number += in_month
            continue
        for day in range(1, in_month + 1):
            here, number = number, number + 1
            weekday = (first_weekday + here) % 7
            if days.month_days and not {day, day - in_month - 1} & days.month_days:
                continue
            if days.year_days and not {here + 1, here - length} & days.year_days:
                continue
            if days.weekdays:
                at, of = (day, in_month) if days.in_months else (here + 1, length)
                ordinals = {(at + 6) // 7, -((of - at) // 7 + 1)}
                if weekday not in days.weekdays and not any(
                    (ordinal, weekday) in days.weekdays for ordinal in ordinals
                ):
                    continue
            if days.week_numbers and not (
                _week_numbers(here, first_weekday, leaps, days.week_start) & days.week_numbers
            ):
                continue
            passed.append(here)
    return tuple(passed)


def _month_days(month: int, *, leap: bool) -> int:
    return 28 + leap if month == 2 else 30 + ((month + month // 8) & 1)


def _week_numbers(
    day: int, first_weekday: int, leaps: tuple[bool, bool, bool], week_start: int
) -> set[int]:
    """The number of the week that holds the day, from the front and from the back of its year.

    Week 1 is the first with at least four days in the year (ISO 8601, with any first weekday); the
    days before it belong to a week of the year before, those after the last to one of the next.
    """
    lengths = [365 + leap for leap in leaps]
    # Where the first weeks of this year and the next begin, as days of this year.
    firsts = [_week_1((first_weekday - week_start) % 7)]
    firsts.append(lengths[1] + _week_1((first_weekday - week_start + lengths[1]) % 7))
    if day < firsts[0]:
        firsts.insert(0, _week_1((first_weekday - week_start - lengths[0]) % 7) - lengths[0])
    elif day >= firsts[1]:
        total = sum(lengths[1:])
        firsts.append(total + _week_1((first_weekday - week_start + total) % 7))
        del firsts[0]
    weeks = (firsts[1] - firsts[0]) // 7
    week = (day - firsts[0]) // 7 + 1
    return {week, week - weeks - 1}


def _week_1(offset: int) -> int:
    """The day on which week 1 begins, if 1 January is `offset` days into its week."""
    return -offset if offset <= 3 else 7 - offset


@lru_cache(maxsize=1)
def _shapes() -> frozenset[tuple[int, tuple[bool, bool, bool]]]:
    """All shapes that a year can have: the calendar repeats itself after 400 years."""
    return frozenset(_shape(year) for year in range(2000, 2400))


@lru_cache(maxsize=4096)
def _never(days: _Days) -> bool:
    """Whether no year has a day that passes: 30 February, the fifth Monday that is the first."""
    return not any(_days_of_year(*shape, days) for shape in _shapes())


def _shape(year: int) -> tuple[int, tuple[bool, bool, bool]]:
    first = date(year, 1, 1).weekday()
    return first, (isleap(year - 1), isleap(year), isleap(year + 1))


def _days(rule: Recurrence, since: date, until: date, steps: Steps) -> Iterator[int]:
    """Ordinals of the days that the rule lets through, in order, from some day before `since`."""
    days, first, interval = _days_of(rule), rule.start.toordinal(), rule.interval
    week = first - (rule.start.weekday() - rule.week_start) % 7
    if _never(days):
        return
    barren = 0  # years that are counted off and have no day; after 400 of them all have been seen
    for year in range(max(since.year - 1, rule.start.year), until.year + 1):
        steps.take()
        here, begin = days, date(year, 1, 1).toordinal()
        if rule.frequency is Frequency.YEARLY and (year - rule.start.year) % interval:
            continue
        if rule.frequency is Frequency.MONTHLY and interval > 1:
            gone = 12 * (year - rule.start.year) - rule.start.month
            months = frozenset(m for m in range(1, 13) if (gone + m) % interval == 0)
            months &= days.months or months
            if not months:
                continue
            here = days._replace(months=months)
        passed = [begin + day for day in _days_of_year(*_shape(year), here)]
        barren = 0 if passed or rule.frequency is not Frequency.YEARLY else barren + 1
        if barren == 400:
            return
        if interval > 1 and passed and rule.frequency in {Frequency.WEEKLY, Frequency.DAILY}:
            weekly = rule.frequency is Frequency.WEEKLY
            passed = _every(passed, week if weekly else first, 7 if weekly else 1, interval)
        begins = since.toordinal() if rule.frequency in _UNIT_S else 0
        passed = [day for day in passed if begins <= day <= until.toordinal()]
        steps.take(len(passed) // 16)
        yield from passed


def _every(days: list[int], first: int, length: int, interval: int) -> list[int]:
    """Of the days those in every `interval`th period of `length` days, counted from `first`."""
    stride = length * interval
    ahead = (days[0] - first) % stride
    if ahead >= length and days[0] - ahead + stride > days[-1]:
        return []  # between two periods that are far apart: no day needs a look
    return [day for day in days if (day - first) % stride < length]


def wall_times(
    rule: Recurrence,
    *,
    since: datetime | None = None,
    before: datetime | None = None,
    steps: Steps | None = None,
) -> Iterator[datetime]:
    """Wall-clock times of the rule, in order; `count` ends them, and `until` if it is one of them.

    Those at or after `before` are left out; those before `since` may be, without being walked, if
    no `count` has to be counted from the start.  O(1) per time.

    Raises:
        InvalidTimeError: the rule was walked further than `steps` allows.
    """
    steps = steps or Steps()
    begin = rule.start if since is None or rule.count is not None else max(since, rule.start)
    last = date.max if before is None else before.date()
    if rule.until is not None:
        # An instant is compared on the clocks of a zone, which differ from UTC's by a day at most.
        until = rule.until.date() if isinstance(rule.until, datetime) else rule.until
        last = min(last, until + _DAY if until < date.max else until)
    if rule.positions and rule.frequency not in _UNIT_S and last.year < date.max.year:
        last = date(last.year + 1, 1, 7)  # they are counted in whole periods
    made = 0
    for wall in _in_order(rule, begin, last, steps):
        if wall < rule.start:
            continue
        if _is_over(rule.until, wall) or (before is not None and wall >= before):
            return
        yield wall
        made += 1
        if made == rule.count:
            return


def _is_over(until: datetime | date | None, wall: datetime) -> bool:
    """Whether a bound that is on the wall clock is behind; one that is an instant needs a zone."""
    if isinstance(until, datetime):
        return until.tzinfo is None and wall > until
    return until is not None and wall.date() > until


def _in_order(rule: Recurrence, begin: datetime, last: date, steps: Steps) -> Iterator[datetime]:
    days = _days(rule, begin.date(), last, steps)
    if rule.frequency in _UNIT_S:
        yield from _sub_daily(rule, days, steps)
        return
    start = rule.start
    seconds = (rule.seconds - {60}) if rule.seconds else {start.second}
    times = [
        time(*hms, start.microsecond)
        for hms in product(
            sorted(rule.hours or {start.hour}),
            sorted(rule.minutes or {start.minute}),
            sorted(seconds),
        )
    ]
    if not times:
        return
    if not rule.positions:
        for day in days:
            steps.take()
            for at in times:
                yield datetime.combine(date.fromordinal(day), at)
        return
    for _, group in groupby(days, _period(rule)):
        in_period = list(group)
        total = len(in_period) * len(times)
        picks = {p - 1 if p > 0 else total + p for p in rule.positions if abs(p) <= total}
        for pick in sorted(picks):
            steps.take()
            which, when = divmod(pick, len(times))
            yield datetime.combine(date.fromordinal(in_period[which]), times[when])


def _period(rule: Recurrence) -> Callable[[int], object]:
    """Which year, month, week or day a day lies in: what BYSETPOS counts in."""
    if rule.frequency is Frequency.DAILY:
        return lambda day: day
    if rule.frequency is Frequency.WEEKLY:
        return lambda day: (day - 1 - rule.week_start) // 7
    if rule.frequency is Frequency.MONTHLY:
        return lambda day: date.fromordinal(day).replace(day=1)
    return lambda day: date.fromordinal(day).year


def _sub_daily(rule: Recurrence, days: Iterator[int], steps: Steps) -> Iterator[datetime]:
    """Hours, minutes or seconds: units of the day, every `interval`th of them since the start."""
    unit_s = _UNIT_S[rule.frequency]
    in_day = _DAY_S // unit_s
    start = rule.start
    first_unit = (start.hour * 3600 + start.minute * 60 + start.second) // unit_s
    base = start.toordinal() * in_day + first_unit
    units = _allowed(rule, unit_s)
    if units is not None:
        # The start of a day moves by multiples of this against the units that are counted off.
        common = gcd(rule.interval, in_day)
        steps.take(len(units) // 16)
        units = [unit for unit in units if (unit - first_unit) % common == 0]
        if not units:
            return
    inner = _inside(rule, unit_s)
    allowed = frozenset(units or ())
    for day in days if inner else ():
        steps.take()
        offset = (base - day * in_day) % rule.interval
        if day == start.toordinal():
            offset = first_unit
        if units is None or len(units) * rule.interval > in_day:
            counted: Iterable[int] = range(offset, in_day, rule.interval)
            here = (u for u in counted if units is None or u in allowed)
        else:
            here = (u for u in units if (u - offset) % rule.interval == 0)
        midnight = datetime.combine(date.fromordinal(day), time(0, 0, 0, start.microsecond))
        for unit in here:
            steps.take()
            for second in inner:
                yield midnight + timedelta(seconds=unit * unit_s + second)


def _allowed(rule: Recurrence, unit_s: int) -> list[int] | None:
    """Units of a day that BYHOUR, BYMINUTE and BYSECOND let through; None: all."""
    seconds = rule.seconds - {60}
    if not (rule.hours or (unit_s < 3600 and rule.minutes) or (unit_s == 1 and rule.seconds)):
        return None
    hours = sorted(rule.hours or range(24))
    minutes = sorted(rule.minutes or range(60)) if unit_s < 3600 else [0]
    inner = sorted(seconds if rule.seconds else range(60)) if unit_s == 1 else [0]
    return [(h * 3600 + m * 60 + s) // unit_s for h, m, s in product(hours, minutes, inner)]


def _inside(rule: Recurrence, unit_s: int) -> list[int]:
    """Seconds inside a unit at which the rule has a time; BYSETPOS takes its pick of them."""
    start = rule.start
    minutes = sorted(rule.minutes or {start.minute}) if unit_s == 3600 else [0]
    seconds = (rule.seconds - {60}) if rule.seconds else {start.second}
    inner = [0] if unit_s == 1 else [m * 60 + s for m, s in product(minutes, sorted(seconds))]
    if not rule.positions:
        return inner
    total = len(inner)
    return [
        inner[pick]
        for pick in sorted(
            {p - 1 if p > 0 else total + p for p in rule.positions if abs(p) <= total}
        )
    ]


# --- on the clocks of a zone ---------------------------------------------------------------------


def occurrences(
    rule: Recurrence, zone: str, *, within: Interval | None = None, limit: int = OCCURRENCES_MAX
) -> Iterator[Interval]:
    """The occurrences of `rule` on the clocks of `zone`: UTC intervals, in the order of the rule.

    `zone` is an IANA name, or what calendars write for one (docs/calendars.md).  With `within` only
    those that overlap it.  O(1) per occurrence; without a COUNT what lies before `within` is not
    walked.

    Raises:
        InvalidTimeError: the zone is unknown on this machine, the rule has no occurrence at all,
            there are more than `limit`, or one lies beyond the years 1 to 9999.
    """
    clocks = zone_named(zone)
    if clocks is None:
        raise InvalidTimeError(f"unknown time zone {zone!r}")
    steps = Steps()
    if next(before_until(rule, wall_times(rule, steps=steps), clocks), None) is None:
        raise InvalidTimeError("the rule has no occurrence")
    since = None
    if within is not None:
        since = _earlier(within.start.replace(tzinfo=None), rule.duration + 2 * _DAY)
    yielded = 0
    for wall in before_until(rule, wall_times(rule, since=since, steps=steps), clocks):
        occurrence = interval_at(wall, clocks, *divmod(rule.duration, _DAY))
        if within is not None and occurrence.start >= within.end:
            return
        if within is None or occurrence.overlaps(within):
            if yielded == limit:
                raise InvalidTimeError(
                    f"the rule has more than {limit} occurrences: give it an end, or a window"
                )
            yield occurrence
            yielded += 1


def _earlier(moment: datetime, by: timedelta) -> datetime | None:
    """The moment less `by`; None if that lies before all time."""
    try:
        return moment - by
    except OverflowError:
        return None


def before_until(rule: Recurrence, walls: Iterator[datetime], zone: tzinfo) -> Iterator[datetime]:
    """The times up to `until`, if that is an instant."""
    until = rule.until
    if not isinstance(until, datetime) or until.tzinfo is None:
        yield from walls
        return
    for wall in walls:
        if to_instant(wall, zone) > until:
            return
        yield wall


def interval_at(wall: datetime, zone: tzinfo, days: int, rest: timedelta) -> Interval:
    """What begins at the wall-clock time and takes `days` of the calendar and `rest` after them.

    Raises:
        InvalidTimeError: it has no length, or an end lies beyond the years 1 to 9999.
    """
    start = to_instant(wall, zone)
    try:
        end = (to_instant(wall + days * _DAY, zone) if days else start) + rest
    except OverflowError as error:
        raise InvalidTimeError(f"what begins at {wall} ends beyond the year 9999") from error
    return Interval(start, end)


def to_instant(wall_clock: datetime, zone: tzinfo) -> datetime:
    """The UTC instant at which the clocks of `zone` show `wall_clock` (naive).

    `fold=0` is the first of two equal times, and for a time in a gap Python then applies the offset
    from before the jump: RFC 5545's reading of both special cases.

    Raises:
        InvalidTimeError: it lies beyond the years 1 to 9999.
    """
    return as_utc(wall_clock.replace(tzinfo=zone, fold=0))

"""Times as a calendar file writes them, and the clocks on which they are read.

A value is a date (a whole day), a local time, or an instant (RFC 5545, sections 3.3.4 and 3.3.5); a
length is days of the calendar and elapsed time (3.3.6), and a period is both (3.3.9).  Which clocks
a local time means is decided here, in this order:

1. a name of the IANA database;
2. the file's own VTIMEZONE of that name;
3. what else `zones` can read: Windows' names and what is written around them;
4. the zone that the caller gives;
5. X-WR-TIMEZONE of the calendar.

The last two also read what names no zone: floating times and whole days.  What took more than the
first three is told by a note; what none of them reads is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Final

from transactional.calendars.recurrence import Recurrence, Steps, to_instant, wall_times
from transactional.calendars.zones import FileZone, Onset, iana, zone_of
from transactional.errors import InvalidTimeError, TransactionalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transactional.calendars.content import Component, Property

_STAMP: Final = re.compile(
    r"([0-9]{4})([0-9]{2})([0-9]{2})(?:T([0-9]{2})([0-9]{2})([0-9]{2})?(Z)?)?"
)
_LENGTH: Final = re.compile(
    r"([+-])?P(?:([0-9]+)W)?(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?)?"
)
_OFFSET: Final = re.compile(r"([+-])([0-9]{2})([0-9]{2})([0-9]{2})?")
_LENGTH_DAYS_MAX: Final = 3_700_000  # all the days there are


@dataclass(frozen=True, slots=True)
class Length:
    """Days of the calendar, and elapsed time after them."""

    days: int
    rest: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as it is written: on the clocks of a zone; `whole_day` if it is a date."""

    wall: datetime
    zone: tzinfo
    whole_day: bool = False

    @property
    def instant(self) -> datetime:
        """When that is, in UTC.

        Raises:
            InvalidTimeError: it lies beyond the years 1 to 9999.
        """
        return to_instant(self.wall, self.zone)


@dataclass(slots=True)
class Clocks:
    """The zones of one calendar: its own, and those that names mean."""

    note: Callable[[str], None]
    given: tzinfo | None = None  # by the caller
    calendar: tuple[str, tzinfo] | None = None  # X-WR-TIMEZONE
    own: dict[str, FileZone | str] = field(default_factory=dict)  # or why it cannot be read

    def named(self, name: str) -> tzinfo:
        """The clocks of a TZID.

        Raises:
            InvalidTimeError: nobody knows it.
        """
        own = self.own.get(name)
        plain = iana(name.strip("/ "))
        if plain is not None:
            return plain
        if isinstance(own, FileZone):
            return own
        found = zone_of(name)
        if found is not None:
            if found.reading:
                self.note(f"the zone {name!r} is read as {found.reading}")
            return found.clocks
        why = f" (its VTIMEZONE cannot be read: {own})" if own else ""
        return self._instead(f"the zone {name!r} is unknown{why}")

    def floating(self, what: str) -> tzinfo:
        """The clocks of what names no zone.

        Raises:
            InvalidTimeError: there are none to read it on.
        """
        return self._instead(what)

    def _instead(self, what: str) -> tzinfo:
        if self.given is not None:
            self.note(f"{_kind(what)}: it is read in the zone that was given")
            return self.given
        if self.calendar is not None:
            name, clocks = self.calendar
            self.note(f"{_kind(what)}: it is read in the calendar's X-WR-TIMEZONE, {name}")
            return clocks
        raise InvalidTimeError(f"{what}; give the zone in which it is to be read")


def _kind(what: str) -> str:
    """What a note says of all times alike: not which one it was."""
    return re.sub(r"^[A-Z-]+ [0-9TZ]+ is", "a time is", what)


def clocks_of(calendar: Component, given: tzinfo | None, note: Callable[[str], None]) -> Clocks:
    """The zones that a calendar brings along."""
    clocks = Clocks(note, given)
    for part in calendar.parts:
        if part.name == "VTIMEZONE":
            _take_in(clocks, part)
    try:
        zone = calendar.one("X-WR-TIMEZONE")
    except TransactionalError as error:
        note(_said(error))
        return clocks
    if zone is not None and zone.value:
        own, found = clocks.own.get(zone.value), zone_of(zone.value)
        if isinstance(own, FileZone) and (found is None or found.reading):
            clocks.calendar = (zone.value, own)
        elif found is not None:
            clocks.calendar = (zone.value, found.clocks)
        else:
            note(f"X-WR-TIMEZONE names a zone that is unknown, {zone.value!r}")
    return clocks


def _take_in(clocks: Clocks, part: Component) -> None:
    """A VTIMEZONE; what cannot be read of it is told by whoever needs it."""
    try:
        name = part.one("TZID")
        if name is not None:
            clocks.own.setdefault(name.value, _file_zone(name.value, part))
    except TransactionalError as error:
        for prop in part.properties:
            if prop.name == "TZID":
                clocks.own.setdefault(prop.value, _said(error))


def _said(error: TransactionalError) -> str:
    return str(error).removesuffix(" (nothing was written)")


# --- a zone of the file ---------------------------------------------------------------------------


def _file_zone(name: str, component: Component) -> FileZone:
    onsets = []
    for part in component.parts:
        if part.name not in {"STANDARD", "DAYLIGHT"}:
            continue
        before, after = _offset(part, "TZOFFSETFROM"), _offset(part, "TZOFFSETTO")
        start = part.one("DTSTART")
        if start is None:
            raise InvalidTimeError(f"{part.name} has no DTSTART")
        first = _wall(start.value)[0]
        rules = [
            Recurrence.parse(rule.value, start=first, duration=timedelta(hours=1))
            for rule in part.all("RRULE")
        ]
        more = [
            _wall(value)[0]
            for prop in part.all("RDATE")
            for value in prop.value.split(",")
            if value
        ]
        onsets.append(_onsets(first, rules, more, before, after))
    if not onsets:
        raise InvalidTimeError("it has neither STANDARD nor DAYLIGHT")
    return FileZone(name, onsets)


def _offset(part: Component, name: str) -> timedelta:
    prop = part.one(name)
    read = _OFFSET.fullmatch(prop.value) if prop is not None else None
    if read is None:
        raise InvalidTimeError(f"{part.name} has no {name} that can be read")
    size = timedelta(hours=int(read[2]), minutes=int(read[3]), seconds=int(read[4] or 0))
    if size >= timedelta(days=1):
        raise InvalidTimeError(f"{name} is a day or more")
    return -size if read[1] == "-" else size


def _onsets(
    first: datetime,
    rules: list[Recurrence],
    more: list[datetime],
    before: timedelta,
    after: timedelta,
) -> Iterator[Onset]:
    """When an observance begins, in order: each local time is one of the offset before it."""

    def onset(wall: datetime) -> Onset | None:
        try:
            return Onset(wall - before, before, after)
        except OverflowError:
            return None

    fixed = sorted({first, *more})
    for rule in rules[:1]:
        listed = [wall for wall in fixed if wall != first]
        for wall in wall_times(rule, steps=Steps()):
            while listed and listed[0] < wall:
                if (made := onset(listed.pop(0))) is not None:
                    yield made
            made = onset(wall)
            until = rule.until
            if made is None or (
                isinstance(until, datetime)
                and until.tzinfo
                and made.at > until.replace(tzinfo=None)
            ):
                break
            yield made
        fixed = listed
    for wall in fixed:
        if (made := onset(wall)) is not None:
            yield made


# --- reading values -------------------------------------------------------------------------------


def _wall(text: str) -> tuple[datetime, bool, bool]:
    """(local time, whether it is a date, whether it is UTC)."""
    read = _STAMP.fullmatch(text.strip().upper())
    try:
        if read is None:
            raise ValueError(text)
        day = date(int(read[1]), int(read[2]), int(read[3]))
        at = time(int(read[4] or 0), int(read[5] or 0), int(read[6] or 0))
    except ValueError:
        raise InvalidTimeError(f"{text[:40]!r} is neither a date nor a time") from None
    return datetime.combine(day, at), read[4] is None, read[7] is not None


def moment_of(prop: Property, text: str, clocks: Clocks, zone: tzinfo | None = None) -> Moment:
    """One value of a property; `zone` reads what names none.

    A VALUE that says something else than the value shows is believed only of midnights.

    Raises:
        InvalidTimeError: it is no time, or there are no clocks to read it on.
    """
    try:
        wall, whole_day, utc = _wall(text)
    except InvalidTimeError as error:
        raise InvalidTimeError(f"{prop.name}: {error.reason}") from error
    if prop.params.get("VALUE", "").upper() == "DATE" and not whole_day:
        if wall.time() != time(0):
            raise InvalidTimeError(f"{prop.name} {text} says that it is a date, and has a time")
        whole_day, utc = True, False
    name = prop.params.get("TZID", "")
    if utc:
        if name and iana(name.strip("/ ")) != iana("UTC"):
            clocks.note(f"{prop.name} has a TZID and is UTC: the TZID is not looked at")
        return Moment(wall, UTC)
    if name:
        return Moment(wall, clocks.named(name), whole_day)
    if zone is not None:
        return Moment(wall, zone, whole_day)
    kind = "a whole day" if whole_day else "floating"
    return Moment(
        wall, clocks.floating(f"{prop.name} {text} is {kind}: it names no zone"), whole_day
    )


def moments_of(
    prop: Property, clocks: Clocks, zone: tzinfo
) -> Iterator[tuple[Moment, Moment | Length | None]]:
    """(time, the end or length of its period) of each value of a list.

    Raises:
        InvalidTimeError: one of them is none, or there are no clocks to read it on.
    """
    for value in filter(None, (value.strip() for value in prop.value.split(","))):
        start, slash, end = value.partition("/")
        begins = moment_of(prop, start, clocks, zone)
        if not slash:
            yield begins, None
        elif end.upper().lstrip("+-").startswith("P"):
            yield begins, length_of(end)
        else:
            yield begins, moment_of(prop, end, clocks, zone)


def length_of(text: str) -> Length:
    """A DURATION: weeks and days are of the calendar, hours, minutes and seconds elapse.

    Raises:
        InvalidTimeError: it is none, goes backwards, or beyond all time.
    """
    read = _LENGTH.fullmatch(text.strip().upper())
    if read is None or not any(read.groups()[1:]):
        raise InvalidTimeError(f"DURATION {text[:40]!r} is none")
    numbers = [int(number[:12]) if number else 0 for number in read.groups()[1:]]
    weeks, days, hours, minutes, seconds = numbers
    try:
        rest = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        rest = timedelta.max
    days += 7 * weeks
    if read[1] == "-" and (days or rest):
        raise InvalidTimeError(f"DURATION {text[:40]} ends not after its start")
    if days + rest.days > _LENGTH_DAYS_MAX:
        raise InvalidTimeError(f"DURATION {text[:40]} is beyond all time")
    return Length(days, rest)

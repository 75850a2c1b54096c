"""From a calendar file to meetings: which instants, in which room, with whom; and what is left out.

A file is a heap of VEVENTs.  Those of one UID are one thing, and what they say is put together here
(RFC 5545, sections 3.8.4.4 and 3.8.5; RFC 5546, section 2.1.4):

    revisions    of several VEVENTs for the same thing the one with the highest SEQUENCE counts,
                 then the latest DTSTAMP; two that differ in neither and are not alike are ambiguous
    the set      DTSTART, what RRULEs add and EXRULEs take away, RDATEs, less EXDATEs
    overrides    a VEVENT with a RECURRENCE-ID is one occurrence as it was changed; with
                 RANGE=THISANDFUTURE it moves all that follow by as much

Two things are told besides the meetings.  `left_out`: a VEVENT that is not scheduled, and why; a
series of which a part cannot be read is left out as a whole, and an occurrence whose override
cannot be read is left out alone.  `notes`: what was read in another way than it is written, or not
to its end.

A rule without an end goes on for ever, and is read to the end of the file's own window: the latest
end of whatever has one.  Where that is no later than its first occurrence, a year is read; and
never more than `HORIZON_YEARS`.  A series with an end is read whole.  More than `OCCURRENCES_MAX`
of one series leave it out.  `within` asks for a window instead.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from transactional.calendars.content import components
from transactional.calendars.moments import (
    Clocks,
    Length,
    Moment,
    clocks_of,
    length_of,
    moment_of,
    moments_of,
)
from transactional.calendars.recurrence import (
    Recurrence,
    Steps,
    before_until,
    interval_at,
    to_instant,
    wall_times,
)
from transactional.calendars.zones import zone_named
from transactional.errors import InvalidRequestError, InvalidTimeError, TransactionalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

    from transactional.calendars.content import Component, Property
    from transactional.reservations import Interval

OCCURRENCES_MAX: Final = 2_000
"""Of one series; one that has more is left out."""
HORIZON_YEARS: Final = 5
"""So far from its start a rule without an end is read."""
STEPS_MAX: Final = 200_000
"""Years, days and times that are looked at for all rules of a file, and for each VEVENT"""
STEPS_EACH: Final = 300
"""as many more: a file that asks for more than it is worth is refused series by series."""
SEARCH_YEARS: Final = 100
"""So far from its start the first occurrence of a rule is looked for."""
_YEAR: Final = timedelta(days=366)
_DAY: Final = timedelta(days=1)
_PROPOSALS: Final = frozenset({"REPLY", "REFRESH", "COUNTER", "DECLINECOUNTER", "ADD"})


@dataclass(frozen=True, slots=True)
class Meeting:
    """One meeting: when, where, what and with whom, as the file has it.

    `original` is the start of the occurrence in its series (also of one that was moved), None of a
    meeting that is alone.  `location` is on one line.  `people` are the addresses of attendees who
    have not declined, without rooms and resources.
    """

    uid: str
    original: datetime | None
    interval: Interval
    location: str
    title: str
    categories: tuple[str, ...]
    people: tuple[str, ...]
    whole_day: bool
    line: int


@dataclass(frozen=True, slots=True, order=True)
class Remark:
    """What is to be told of a VEVENT; `line` is that of its BEGIN, or of the line in question."""

    line: int
    text: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class CalendarFile:
    """What a file says: meetings in the order of time, what is left out, what was read how."""

    meetings: tuple[Meeting, ...]
    left_out: tuple[Remark, ...]
    notes: tuple[Remark, ...]


def read_calendar(
    data: bytes, *, zone: str | None = None, within: Interval | None = None
) -> CalendarFile:
    """Read an iCalendar file (RFC 5545), as Google, Outlook, Nextcloud, Indico and others write it.

    Args:
        data: the file; whoever reads it limits its size.
        zone: on whose clocks times are read that name no zone, or an unknown one: see
            docs/calendars.md for the names that are read.
        within: only meetings that overlap it, and rules without an end as far as it reaches.

    Raises:
        InvalidRequestError: the data is no calendar file, or the extra `calendar` is missing.
        InvalidTimeError: `zone` is unknown.
    """
    given = zone_named(zone) if zone is not None else None
    if zone is not None and given is None:
        raise InvalidTimeError(f"unknown time zone {zone!r}")
    return _Reading(within).of(data, given)


# --- one VEVENT -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Event:
    """A VEVENT, with what decides between it and others of its UID."""

    part: Component
    clocks: Clocks
    uid: str
    sequence: int
    stamp: str
    cancelled: bool
    this_and_future: bool
    recurrence: Property | None
    _read: _Texts | None = None

    @property
    def rank(self) -> tuple[int, str, bool]:
        """The later revision has the higher rank; a cancellation wins where all else is equal."""
        return self.sequence, self.stamp, self.cancelled

    @property
    def content(self) -> list[tuple[str, list[tuple[str, str]], str]]:
        """What makes two of the same rank the same."""
        ignored = {"DTSTAMP", "LAST-MODIFIED", "SEQUENCE"}
        return sorted(
            (prop.name, sorted(prop.params.items()), prop.value)
            for prop in self.part.properties
            if prop.name not in ignored
        )

    def start(self, zone: tzinfo | None = None) -> Moment:
        """DTSTART."""
        prop = self.part.one("DTSTART")
        if prop is None:
            raise InvalidTimeError("no DTSTART")
        return moment_of(prop, prop.value, self.clocks, zone)

    def length(self, start: Moment) -> Length:
        """From DTEND or DURATION; a whole day that has neither is one."""
        end, duration = self.part.one("DTEND"), self.part.one("DURATION")
        if end is None and duration is None:
            if start.whole_day:
                return Length(1)
            raise InvalidTimeError("neither DTEND nor DURATION, so it takes no time")
        lengths = []
        if end is not None:
            own = start.zone if end.params.get("TZID") is None else None
            lengths.append(self._until(start, moment_of(end, end.value, self.clocks, own)))
        if duration is not None:
            lengths.append(_in_days(length_of(duration.value), start))
        if start.whole_day and any(length.rest for length in lengths):
            raise InvalidTimeError("a whole day ends at a time of day")
        if len({_end_of(start, length) for length in lengths}) > 1:
            raise InvalidTimeError("DTEND and DURATION differ")
        if _end_of(start, lengths[0]) <= start.instant:
            raise InvalidTimeError("it ends not after its start, so it takes no time")
        return lengths[0]

    def texts(self) -> _Texts:
        """What it says besides its time; read once."""
        if self._read is None:
            self._read = _texts(self.part)
        return self._read

    def _until(self, start: Moment, end: Moment) -> Length:
        if start.whole_day != end.whole_day:
            raise InvalidTimeError("of DTSTART and DTEND one is a whole day and one is a time")
        if start.whole_day and end.wall == start.wall:
            self.clocks.note("a whole day ends on the day on which it begins: one day is meant")
            return Length(1)
        midnights = start.wall.time() == end.wall.time() == time(0) and start.zone == end.zone
        if start.whole_day or (midnights and end.wall > start.wall):
            return Length((end.wall - start.wall).days)
        return Length(0, end.instant - start.instant)


def _in_days(length: Length, start: Moment) -> Length:
    """The length of whole days in days, where it is written in hours."""
    days, rest = divmod(length.rest, _DAY)
    return Length(length.days + days) if start.whole_day and not rest else length


def _end_of(start: Moment, length: Length) -> datetime:
    if not length.days and length.rest <= timedelta(0):
        return start.instant + length.rest
    return interval_at(start.wall, start.zone, length.days, length.rest).end


@dataclass(frozen=True, slots=True)
class _Texts:
    """What a meeting says besides its time."""

    location: str
    title: str
    categories: tuple[str, ...]
    people: tuple[str, ...]


def _texts(part: Component) -> _Texts:
    location = part.one("LOCATION")
    titles = part.all("SUMMARY")
    people = [
        re.sub(r"(?i)^mailto:", "", _plain(prop.value)).strip()
        for prop in part.all("ATTENDEE")
        if prop.params.get("CUTYPE", "").upper() not in {"ROOM", "RESOURCE"}
        and prop.params.get("PARTSTAT", "").upper() != "DECLINED"
    ]
    lists = [re.split(r"(?<!\\),", prop.value) for prop in part.all("CATEGORIES")]
    return _Texts(
        location=", ".join(_lines(_plain(location.value))) if location else "",
        title=" ".join(_lines(_plain(titles[0].value))) if titles else "",
        categories=tuple(filter(None, (" ".join(_lines(_plain(c))) for c in chain(*lists)))),
        people=tuple(dict.fromkeys(filter(None, people))),
    )


def _plain(text: str) -> str:
    """TEXT without its escapes (RFC 5545, section 3.3.11)."""
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] in "nN" else m[1], text, flags=re.DOTALL)


def _lines(text: str) -> list[str]:
    """The lines of a text, without what is not printed and with single spaces."""
    lines = re.split(r"[\r\n\v\f\x85\u2028\u2029]+", text)
    shown = ("".join(c if c.isprintable() else " " for c in line) for line in lines)
    return [line for line in (" ".join(line.split()).strip(" ,") for line in shown) if line]


# --- a series -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Occurrence:
    """One element of a set, as it stands after ranges and overrides."""

    event: _Event
    start: Moment
    length: Length


@dataclass(slots=True)
class _Series:
    """The VEVENTs of one UID of which each is the latest of its kind."""

    uid: str
    master: _Event
    start: Moment
    length: Length
    rules: list[Recurrence] = field(default_factory=list)
    walls: set[datetime] = field(default_factory=set)  # of rules with an end, all of them
    endless: list[Recurrence] = field(default_factory=list)
    overrides: list[_Event] = field(default_factory=list)
    last: datetime | None = None  # the end of the last occurrence, if there is a last one

    @property
    def repeats(self) -> bool:
        """Whether it may be more than one meeting."""
        names = ("RRULE", "RDATE")
        return bool(self.overrides or any(self.master.part.all(name) for name in names))


class _Reading:
    """The reading of one file: what is said of it on the way, and the steps that are left."""

    def __init__(self, within: Interval | None) -> None:
        self._within = within
        self._left_out: dict[tuple[int, str], Remark] = {}
        self._notes: dict[str, tuple[int, str, int]] = {}  # line and UID of the first, how many
        self._steps = Steps(0)
        self._about: tuple[int, str] = (1, "")

    def _note(self, text: str) -> None:
        line, uid = self._about
        line, uid, count = self._notes.get(text, (line, uid, 0))
        self._notes[text] = (line, uid, count + 1)

    def _leave_out(self, line: int, uid: str, why: TransactionalError | str) -> None:
        text = why if isinstance(why, str) else getattr(why, "reason", str(why))
        text = " ".join(text.split())
        self._left_out.setdefault((line, text), Remark(line, text, uid))

    def of(self, data: bytes, given: tzinfo | None) -> CalendarFile:
        """Everything that the file says."""
        content = components(data)
        for line, text in content.notes:
            self._about = (line, "")
            self._note(text)
        parts = sum(len(calendar.parts) for calendar in content.calendars)
        self._steps.left = STEPS_MAX + STEPS_EACH * parts
        by_uid: dict[str, list[_Event]] = defaultdict(list)
        for calendar in content.calendars:
            self._about = (calendar.line, "")
            clocks = clocks_of(calendar, given, self._note)
            method = _word(calendar, "METHOD")
            for part in calendar.parts:
                if part.name == "VEVENT":
                    event = self._event(part, clocks, method)
                    if event is not None:
                        by_uid[event.uid].append(event)
        meetings: list[Meeting] = []
        series: list[_Series] = []
        for uid, events in by_uid.items():
            made = self._put_together(uid, events)
            if isinstance(made, _Series):
                series.append(made)
            else:
                meetings += made
        file_end = max((one.last for one in series if one.last), default=None)
        for one in series:
            meetings += self._expanded(one, file_end)
        if self._within is not None:
            meetings = [m for m in meetings if m.interval.overlaps(self._within)]
        meetings.sort(key=lambda m: (m.interval, m.location, m.uid))
        notes = (
            Remark(line, text if count == 1 else f"{text} ({count} times)", uid)
            for text, (line, uid, count) in self._notes.items()
        )
        left_out = sorted(self._left_out.values())
        return CalendarFile(tuple(meetings), tuple(left_out), tuple(sorted(notes)))

    # -- which VEVENTs count

    def _event(self, part: Component, clocks: Clocks, method: str) -> _Event | None:
        self._about = (part.line, "")
        uid = ""
        try:
            named = part.one("UID")
            uid = "".join(c for c in named.value if c.isprintable()).strip() if named else ""
            if not uid:
                raise InvalidRequestError("no UID")
            if not part.complete:
                raise InvalidRequestError("the file ends, or goes on, before its END:VEVENT")
            if method in _PROPOSALS:
                raise InvalidRequestError(f"METHOD:{method} schedules nothing by itself")
            recurrence = part.one("RECURRENCE-ID")
            span = recurrence.params.get("RANGE", "").upper() if recurrence else ""
            if span not in {"", "THISANDFUTURE"}:
                raise InvalidRequestError(f"RANGE={span} is not read")
            return _Event(
                part=part,
                clocks=clocks,
                uid=uid,
                sequence=self._sequence(part),
                stamp=max(_word(part, "DTSTAMP"), _word(part, "LAST-MODIFIED")),
                cancelled=method == "CANCEL" or _word(part, "STATUS") == "CANCELLED",
                this_and_future=span == "THISANDFUTURE",
                recurrence=recurrence,
            )
        except TransactionalError as error:
            self._leave_out(part.line, uid, error)
            return None

    def _sequence(self, part: Component) -> int:
        text = _word(part, "SEQUENCE") or "0"
        if not re.fullmatch(r"[0-9]{1,18}", text):
            self._note(f"SEQUENCE {text[:20]!r} is no number: 0 is taken")
            return 0
        return int(text)

    def _latest(self, events: list[_Event]) -> _Event:
        """The revision that counts.

        Raises:
            InvalidRequestError: two that are not alike have the highest rank.
        """
        ranked = sorted(events, key=lambda event: event.rank, reverse=True)
        best = ranked[0]
        for other in ranked[1:]:
            self._about = (other.part.line, other.uid)
            if other.content == best.content and other.cancelled == best.cancelled:
                self._note("the same VEVENT stands more than once in the file")
            elif other.rank == best.rank:
                lines = sorted({best.part.line, other.part.line})
                raise InvalidRequestError(
                    f"UID {best.uid} stands twice (lines {lines[0]} and {lines[1]}), with the same"
                    " SEQUENCE and DTSTAMP, and not alike"
                )
            else:
                self._note("an older revision (SEQUENCE, DTSTAMP) is not looked at")
        self._about = (best.part.line, best.uid)
        return best

    def _put_together(self, uid: str, events: list[_Event]) -> _Series | list[Meeting]:
        """What the VEVENTs of a UID are: a series, or overrides that are alone."""
        masters = [event for event in events if event.recurrence is None]
        changed = [event for event in events if event.recurrence is not None]
        line = (masters or changed)[0].part.line
        try:
            if not masters:
                return self._alone(changed)
            master = self._latest(masters)
            line = master.part.line
            if master.cancelled:
                return []
            start = master.start()
            series = _Series(uid, master, start, master.length(start))
            master.texts()
            interval_at(start.wall, start.zone, series.length.days, series.length.rest)
            series.overrides = self._latest_of_each(changed, start)
            self._read_rules(series)
        except TransactionalError as error:
            self._leave_out(line, uid, error)
            return []
        return series

    def _alone(self, events: list[_Event]) -> list[Meeting]:
        """Overrides without their series: an invitation to one occurrence is a meeting."""
        found = []
        for event in self._latest_of_each(events, None):
            self._about = (event.part.line, event.uid)
            try:
                if event.this_and_future:
                    raise InvalidRequestError("RANGE=THISANDFUTURE, and the series is not there")
                if not event.cancelled:
                    start = event.start()
                    one = _Occurrence(event, start, event.length(start))
                    found.append(self._meeting(one, self._original(event, None).instant))
            except TransactionalError as error:
                self._leave_out(event.part.line, event.uid, error)
        return found

    def _latest_of_each(self, events: list[_Event], start: Moment | None) -> list[_Event]:
        """Of the overrides of each occurrence the one that counts.

        Raises:
            TransactionalError: it is not clear which occurrence one of them is.
        """
        by_original: dict[tuple[datetime, bool], list[_Event]] = defaultdict(list)
        for event in events:
            self._about = (event.part.line, event.uid)
            original = self._original(event, start)
            by_original[original.instant, event.this_and_future].append(event)
        return [self._latest(same) for same in by_original.values()]

    def _original(self, event: _Event, start: Moment | None) -> Moment:
        assert event.recurrence is not None
        prop = event.recurrence
        zone = start.zone if start is not None else None
        if zone is None and "TZID" not in prop.params:
            own = event.part.one("DTSTART")
            if own is not None and not own.value.upper().endswith("Z"):
                zone = event.start().zone
        return moment_of(prop, prop.value, event.clocks, zone)

    # -- its rules

    def _read_rules(self, series: _Series) -> None:
        start, part = series.start, series.master.part
        for prop in part.all("RRULE"):
            rule = self._synchronized(self._rule(prop, start), prop.value, start)
            if rule is not None and rule not in series.rules:
                series.rules.append(rule)
        series.walls.add(start.wall)
        for rule in series.rules:
            if rule.count is None and rule.until is None:
                series.endless.append(rule)
                continue
            series.walls |= self._bounded(rule, series)
        if series.endless:
            return
        walls = max(series.walls)
        ends = [_end_of(Moment(walls, start.zone), series.length)]
        for prop in part.all("RDATE"):
            for begins, until in moments_of(prop, series.master.clocks, start.zone):
                length = _length(begins, until) or series.length
                ends.append(_end_of(begins, length))
        series.last = max(ends)

    def _synchronized(self, rule: Recurrence, text: str, start: Moment) -> Recurrence | None:
        """The rule less DTSTART, if that is none of its occurrences: it is the first of COUNT."""
        if (rule.count or 0) > OCCURRENCES_MAX and self._within is None:
            raise InvalidTimeError(f"a series of more than {OCCURRENCES_MAX} occurrences")
        first = next(self._walk(rule, start, before=_far(start.wall)), None)
        if first is None:
            ended = ", or ends before it starts" if rule.until else ""
            raise InvalidTimeError(
                f"the rule {text} never matches, not in {SEARCH_YEARS} years{ended}"
            )
        if first == start.wall:
            return rule
        self._note("DTSTART is no occurrence of its own rule; it is read as the first one")
        if rule.count is None:
            return rule
        return replace(rule, count=rule.count - 1) if rule.count > 1 else None

    def _bounded(self, rule: Recurrence, series: _Series) -> set[datetime]:
        """All times of a rule that has an end, or those that may reach into the window."""
        walked = self._walk(rule, series.start, *self._window(series))
        found = set(islice(walked, OCCURRENCES_MAX + 1))
        if len(found) > OCCURRENCES_MAX:
            raise InvalidTimeError(f"a series of more than {OCCURRENCES_MAX} occurrences")
        return found

    def _rule(self, prop: Property, start: Moment) -> Recurrence:
        rule = Recurrence.parse(prop.value, start=start.wall, duration=_DAY)
        until = rule.until
        # For whole days a midnight, UTC or local, is a date written as a time; others are instants.
        if (
            start.whole_day
            and isinstance(until, datetime)
            and (until.tzinfo is None or until.time() == time(0))
        ):
            return replace(rule, until=until.date())
        return rule

    def _walk(
        self,
        rule: Recurrence,
        start: Moment,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Iterator[datetime]:
        walls = wall_times(rule, since=since, before=before, steps=self._steps)
        return before_until(rule, walls, start.zone)

    def _window(self, series: _Series) -> tuple[datetime | None, datetime | None]:
        """Between which wall-clock times a series is walked, if a window is asked for."""
        if self._within is None:
            return None, None
        since, before = (
            moment.replace(tzinfo=None) for moment in (self._within.start, self._within.end)
        )
        reach = 2 * _DAY + series.length.days * _DAY + series.length.rest
        moved = any(event.this_and_future for event in series.overrides)
        try:
            return (None if moved else since - reach), before + 2 * _DAY + (
                _YEAR if moved else _DAY
            )
        except OverflowError:
            return None, None

    # -- from the series to meetings

    def _expanded(self, series: _Series, file_end: datetime | None) -> list[Meeting]:
        self._about = (series.master.part.line, series.uid)
        try:
            found, since, before = self._set_of(series, file_end)
            self._override(series, found, since, before)
            meetings = []
            for original, one in found.items():
                try:
                    meetings.append(self._meeting(one, original if series.repeats else None))
                except TransactionalError as error:
                    if one.event is series.master:
                        raise
                    self._leave_out(one.event.part.line, series.uid, error)
        except TransactionalError as error:
            self._leave_out(series.master.part.line, series.uid, error)
            return []
        return meetings

    def _set_of(
        self, series: _Series, file_end: datetime | None
    ) -> tuple[dict[datetime, _Occurrence], datetime | None, datetime | None]:
        """The occurrences by the instant of their start, and between which walls it was walked."""
        start, part = series.start, series.master.part
        since, before = self._window(series)
        walls = set(series.walls)
        if series.endless and self._within is None:
            before = self._horizon(series, file_end)
        for rule in series.endless:
            walked = self._walk(rule, start, since, before)
            walls |= set(islice(walked, OCCURRENCES_MAX + 1))
        for prop in part.all("EXRULE"):
            last = max(walls) + timedelta(seconds=1)
            walls -= set(self._walk(self._rule(prop, start), start, since, last))
        found = {
            to_instant(wall, start.zone): _Occurrence(
                series.master, Moment(wall, start.zone, start.whole_day), series.length
            )
            for wall in sorted(walls)
        }
        self._listed(series, found, before)
        if len(found) > OCCURRENCES_MAX:
            raise InvalidTimeError(f"a series of more than {OCCURRENCES_MAX} occurrences")
        return found, since, before

    def _listed(
        self, series: _Series, found: dict[datetime, _Occurrence], before: datetime | None
    ) -> None:
        """What RDATEs add, and then what EXDATEs take away."""
        start, part, clocks = series.start, series.master.part, series.master.clocks
        for prop in part.all("RDATE"):
            for begins, until in moments_of(prop, clocks, start.zone):
                self._add(series, found, begins, _length(begins, until))
        for prop in part.all("EXDATE"):
            for gone, _ in moments_of(prop, clocks, start.zone):
                matched = self._matching(found, gone, series)
                for instant in matched:
                    del found[instant]
                if not matched and (before is None or gone.wall < before):
                    self._note("an EXDATE is no occurrence of its series and takes none away")

    def _horizon(self, series: _Series, file_end: datetime | None) -> datetime:
        """Up to which wall-clock time a rule without an end is read."""
        start = series.start
        first_end = _end_of(start, series.length)
        try:
            end = file_end if file_end and file_end > first_end else start.instant + _YEAR
            end = min(end, start.instant + HORIZON_YEARS * _YEAR)
            before = end.astimezone(start.zone).replace(tzinfo=None)
        except OverflowError:
            before = datetime(9999, 12, 31)  # noqa: DTZ001 wall clock
        self._note(f"a rule without an end is read up to {before:%Y-%m-%d %H:%M}")
        return before

    def _add(
        self,
        series: _Series,
        found: dict[datetime, _Occurrence],
        begins: Moment,
        length: Length | None,
    ) -> None:
        """An RDATE; a date among times is that day at the series' time, and the reverse."""
        start = series.start
        if begins.whole_day != start.whole_day:
            self._note("an RDATE of another kind than DTSTART is read on that day")
            at = time(0) if start.whole_day else start.wall.time()
            begins = Moment(datetime.combine(begins.wall.date(), at), start.zone, start.whole_day)
        known = found.get(begins.instant)
        if known is None or length is not None:
            found[begins.instant] = _Occurrence(series.master, begins, length or series.length)

    def _matching(
        self, found: dict[datetime, _Occurrence], moment: Moment, series: _Series
    ) -> list[datetime]:
        """Which occurrences an EXDATE or RECURRENCE-ID means: by instant, else by its day."""
        timed = not moment.whole_day
        try:
            if timed and moment.instant in found:
                return [moment.instant]
        except InvalidTimeError:
            return []  # beyond all years: the least date of a program that had none
        if timed and not series.start.whole_day and moment.wall.time() != time(0):
            return []
        zone, day = series.start.zone, moment.wall.date()
        same = [instant for instant in found if _wall_in(instant, zone).date() == day]
        if timed and len(same) > 1:
            return []
        if timed and same:
            self._note("a time that is no occurrence of its series is read as the one on that day")
        return same

    def _override(
        self,
        series: _Series,
        found: dict[datetime, _Occurrence],
        since: datetime | None,
        before: datetime | None,
    ) -> None:
        """Put changed occurrences in the place of those that they change; ranges come first."""
        originals = []
        for event in series.overrides:
            self._about = (event.part.line, event.uid)
            moment = self._original(event, series.start)
            originals.append((moment, event))
        originals.sort(key=lambda pair: pair[0].instant)
        unchanged = dict(found)
        for moment, event in originals:
            if event.this_and_future:
                self._about = (event.part.line, event.uid)
                self._move_all(found, unchanged, moment, event, series)
        for moment, event in originals:
            if not event.this_and_future:
                self._about = (event.part.line, event.uid)
                matched = self._matching(unchanged, moment, series)
                near = (since is None or moment.wall >= since) and (
                    before is None or moment.wall < before
                )
                if (
                    not matched
                    and not event.cancelled
                    and not self._stands_alone(event, series, near=near)
                ):
                    continue
                original = matched[0] if len(matched) == 1 else moment.instant
                found.pop(original, None)
                self._change(found, original, event, series)

    def _stands_alone(self, event: _Event, series: _Series, *, near: bool) -> bool:
        """Whether a change of what is no occurrence is a meeting all the same."""
        if event.sequence < series.master.sequence:
            self._note("a changed occurrence of an older revision is not looked at")
            return False
        if near:
            self._note("a changed occurrence is none of its series; it is a meeting alone")
        return True

    def _change(
        self,
        found: dict[datetime, _Occurrence],
        original: datetime,
        event: _Event,
        series: _Series,
    ) -> None:
        if event.cancelled:
            return
        try:
            self._no_rule(event)
            start = event.start(series.start.zone)
            found[original] = _Occurrence(event, start, event.length(start))
        except TransactionalError as error:
            self._leave_out(event.part.line, event.uid, error)

    def _move_all(
        self,
        found: dict[datetime, _Occurrence],
        unchanged: dict[datetime, _Occurrence],
        moment: Moment,
        event: _Event,
        series: _Series,
    ) -> None:
        """RANGE=THISANDFUTURE: this occurrence and all after it, by as much on the wall clock.

        Raises:
            TransactionalError: it cannot be read, so nobody knows when the rest takes place.
        """
        matched = self._matching(unchanged, moment, series)
        first = matched[0] if len(matched) == 1 else moment.instant
        if event.cancelled:
            for instant in [instant for instant in found if instant >= first]:
                del found[instant]
            return
        self._no_rule(event)
        start = event.start(series.start.zone)
        length = event.length(start)
        zone = series.start.zone
        wall = moment.wall if moment.zone == zone else _wall_in(first, zone)
        shift = start.wall - (_wall_in(first, zone) if matched else wall)
        for instant, one in unchanged.items():
            if instant >= first:
                there = one.start.wall if one.start.zone == zone else _wall_in(instant, zone)
                try:
                    moved = Moment(there + shift, start.zone, start.whole_day)
                except OverflowError as error:
                    raise InvalidTimeError("RANGE=THISANDFUTURE moves beyond all time") from error
                found[instant] = _Occurrence(event, moved, length)

    def _no_rule(self, event: _Event) -> None:
        for name in ("RRULE", "RDATE"):
            if event.part.all(name):
                raise InvalidRequestError(f"a changed occurrence has an {name} of its own")

    def _meeting(self, one: _Occurrence, original: datetime | None) -> Meeting:
        event, texts = one.event, one.event.texts()
        return Meeting(
            uid=event.uid,
            original=original,
            interval=interval_at(one.start.wall, one.start.zone, one.length.days, one.length.rest),
            location=texts.location,
            title=texts.title,
            categories=texts.categories,
            people=texts.people,
            whole_day=one.start.whole_day,
            line=event.part.line,
        )


def _far(wall: datetime) -> datetime | None:
    """Where the search for a first occurrence ends; None: with all time."""
    try:
        return wall + SEARCH_YEARS * _YEAR
    except OverflowError:
        return None


def _wall_in(instant: datetime, zone: tzinfo) -> datetime:
    try:
        return instant.astimezone(zone).replace(tzinfo=None)
    except OverflowError as error:
        raise InvalidTimeError("a time beyond the years 1 to 9999") from error


def _length(begins: Moment, until: Moment | Length | None) -> Length | None:
    """The length of a period."""
    if not isinstance(until, Moment):
        return until
    if until.instant <= begins.instant:
        raise InvalidTimeError("a period ends not after its start")
    return Length(0, until.instant - begins.instant)


def _word(part: Component, name: str) -> str:
    """The value of a property, of which the first counts, in upper case; what is broken is none."""
    if name in part.broken:
        return ""
    return next((p.value.upper() for p in part.properties if p.name == name), "")

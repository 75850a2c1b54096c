"""Turns an iCalendar file (RFC 5545) into a programme; needs the extra `calendar`.

The parser is the icalendar package, recurrence arithmetic is dateutil's (which icalendar brings
along). Rules are expanded on naive wall time and only then given their zone: that is what RFC 5545
section 3.3.10 asks for, and what keeps a weekly 09:00 at 09:00 across a change of daylight saving
time. An unbounded rule ends where the file's own window ends: at the latest end, UNTIL, RDATE or
last counted occurrence that the file names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice
from typing import Any

from demos.meetings.programme import (
    Malformed,
    MalformedRow,
    Programme,
    ProgrammeError,
    Talk,
    checked,
    unique,
)

OCCURRENCES_MAX = 10_000  # of one rule inside the window; a rule beyond it is refused, not cut


@dataclass(frozen=True, slots=True)
class Series:
    """A VEVENT with what its recurrences need: wall time and zone of its start, its length."""

    line: int
    event: Any
    uid: str
    wall: datetime
    zone: tzinfo
    length: timedelta
    original: (
        datetime | None
    )  # RECURRENCE-ID in UTC: this event replaces that occurrence of its series

    @property
    def start(self) -> datetime:
        """The first start, in UTC."""
        return _utc(self.wall, self.zone)


def from_ics(text: str) -> Programme:
    """Talks of a calendar, recurrences expanded inside the file's window.

    Raises:
        ProgrammeError: the text is no calendar, or the extra `calendar` is not installed.
    """
    try:
        from icalendar import Calendar  # noqa: PLC0415 - the extra `calendar` is optional
    except ImportError as error:
        raise ProgrammeError(
            "reading .ics needs the icalendar package", "pip install 'convoca[calendar]'"
        ) from error
    try:
        calendar = Calendar.from_ical(text)
    except (ValueError, IndexError, KeyError) as error:
        raise ProgrammeError(
            f"no iCalendar file: {error}", "it opens with BEGIN:VCALENDAR"
        ) from error
    lines = [
        number
        for number, line in enumerate(text.splitlines(), start=1)
        if re.fullmatch(r"BEGIN:VEVENT\s*", line, re.IGNORECASE)
    ]
    series: list[Series] = []
    malformed: list[Malformed] = []
    for line, event in zip(lines, calendar.walk("VEVENT"), strict=False):
        try:
            series.append(_series(line, event))
        except MalformedRow as error:
            malformed.append(Malformed(line, str(error)))
    ends = []
    for item in list(series):
        try:
            ends.append(_latest_named(item))
        except MalformedRow as error:
            malformed.append(Malformed(item.line, str(error)))
            series.remove(item)
    talks = _expand(series, max(ends), malformed) if ends else []
    return Programme(tuple(talks), tuple(sorted(malformed, key=lambda row: row.line)))


def _expand(series: list[Series], end: datetime, malformed: list[Malformed]) -> list[Talk]:
    """Talks of all series in time order; overrides replace, cancelled occurrences vanish."""
    replaced = {(item.uid, item.original) for item in series if item.original}
    talks: dict[str, Talk] = {}
    for item in series:
        try:
            starts = [item.start] if item.original else _starts(item, end)
            many = item.original is not None or "RRULE" in item.event or "RDATE" in item.event
            for start in starts:
                if item.original is None and (item.uid, start) in replaced:
                    continue
                if str(item.event.get("STATUS", "")).upper() == "CANCELLED":
                    continue
                original = item.original or start
                name = f"{item.uid}@{original:%Y%m%dT%H%M%SZ}" if many else item.uid
                if name in talks:
                    raise MalformedRow(f"UID {item.uid} stands twice in the file")
                talks[name] = checked(_talk(item, name, start))
        except MalformedRow as error:
            malformed.append(Malformed(item.line, str(error)))
    return sorted(talks.values(), key=lambda talk: (talk.start, talk.room, talk.id))


def _series(line: int, event: Any) -> Series:
    if event.errors:
        name, reason = event.errors[0]
        raise MalformedRow(f"{name or 'a property'}: {reason}")
    uid = str(event.get("UID", "")).strip()
    if not uid:
        raise MalformedRow("no UID")
    start = _aware(event, "DTSTART")
    if "DTEND" in event:
        length = _aware(event, "DTEND").astimezone(UTC) - start.astimezone(UTC)
    elif "DURATION" in event and isinstance(event["DURATION"].dt, timedelta):
        length = event["DURATION"].dt
    else:
        raise MalformedRow("neither DTEND nor DURATION")
    original = _aware(event, "RECURRENCE-ID").astimezone(UTC) if "RECURRENCE-ID" in event else None
    zone = start.tzinfo
    if zone is None:
        raise MalformedRow("DTSTART names no zone")
    return Series(line, event, uid, start.replace(tzinfo=None), zone, length, original)


def _aware(event: Any, name: str) -> datetime:
    if name not in event:
        raise MalformedRow(f"no {name}")
    when = getattr(event[name], "dt", None)
    if isinstance(when, datetime):
        if when.utcoffset() is None:
            raise MalformedRow(f"{name} {when.isoformat()} is floating: it names no zone")
        return when
    if isinstance(when, date):
        raise MalformedRow(f"{name} is a whole day; a room is booked by time")
    raise MalformedRow(f"{name} is not one time")


def _utc(wall: datetime, zone: tzinfo) -> datetime:
    return wall.replace(tzinfo=zone).astimezone(UTC)


def _latest_named(item: Series) -> datetime:
    """The latest instant that a series names without the help of an unbounded rule."""
    ends = [item.start, *_listed(item, "RDATE")]
    if "RRULE" in item.event:
        rule = _rule(item)
        if rule._until is not None or rule._count is not None:  # noqa: SLF001 - dateutil has no getter
            ends += (_utc(wall, item.zone) for wall in islice(rule, OCCURRENCES_MAX))
    return max(ends) + item.length


def _starts(item: Series, end: datetime) -> list[datetime]:
    """Starts of one series in UTC, at most `OCCURRENCES_MAX`, none at or after the window's end."""
    starts = {item.start, *_listed(item, "RDATE")}
    if "RRULE" in item.event:
        for wall in _rule(item):
            start = _utc(wall, item.zone)
            if start >= end:
                break
            starts.add(start)
            if len(starts) > OCCURRENCES_MAX:
                raise MalformedRow(
                    f"more than {OCCURRENCES_MAX} occurrences inside the file's window"
                )
    return sorted(starts - set(_listed(item, "EXDATE")))


def _rule(item: Series) -> Any:
    """The recurrence rule on naive wall time; UNTIL, given in UTC, is brought to it."""
    from dateutil.rrule import rrulestr  # noqa: PLC0415 - comes with the extra `calendar`

    rule = item.event["RRULE"]
    if isinstance(rule, list):
        raise MalformedRow("more than one RRULE")
    parts = dict(rule)
    if "UNTIL" in parts:
        (until,) = parts.pop("UNTIL")
        if not isinstance(until, datetime):
            until = datetime.combine(until, datetime.max.time())
        if until.tzinfo:
            until = until.astimezone(item.zone).replace(tzinfo=None)
        text = f"{type(rule)(parts).to_ical().decode()};UNTIL={until:%Y%m%dT%H%M%S}"
    else:
        text = rule.to_ical().decode()
    try:
        return rrulestr(text, dtstart=item.wall)
    except ValueError as error:
        raise MalformedRow(f"RRULE {text}: {error}") from None


def _listed(item: Series, name: str) -> list[datetime]:
    """The instants of RDATE or EXDATE, in UTC."""
    values = item.event.get(name, [])
    found = []
    for value in values if isinstance(values, list) else [values]:
        for stamp in value.dts:
            when = stamp.dt
            if not isinstance(when, datetime):
                raise MalformedRow(f"{name} is a whole day; a room is booked by time")
            found.append((when if when.tzinfo else when.replace(tzinfo=item.zone)).astimezone(UTC))
    return found


def _talk(item: Series, name: str, start: datetime) -> Talk:
    event = item.event
    attendees = event.get("ATTENDEE", [])
    categories = event.get("CATEGORIES")
    cats = getattr(categories[0] if isinstance(categories, list) else categories, "cats", [])
    return Talk(
        id=name,
        room=str(event.get("LOCATION", "")).strip(),
        start=start,
        end=start + item.length,
        track=str(cats[0]) if cats else "calendar",
        title=str(event.get("SUMMARY", "")).strip(),
        people=unique(
            re.sub(r"(?i)^mailto:", "", str(attendee)).strip()
            for attendee in (attendees if isinstance(attendees, list) else [attendees])
        ),
    )

"""Turns an iCalendar file (RFC 5545) into a programme; needs the extra `calendar`.

What the file means is read by `transactional.read_calendar`: revisions, recurrences, overrides,
zones. Here each meeting becomes a talk: its UID (with the original start, if it is one of a series)
is the id, LOCATION the room, the first of CATEGORIES the track, ATTENDEEs are the persons.
"""

from __future__ import annotations

from demos.meetings.programme import (
    Malformed,
    MalformedRow,
    Programme,
    ProgrammeError,
    Talk,
    checked,
)
from transactional import InvalidTimeError, Meeting, TransactionalError, read_calendar


def from_ics(data: bytes, zone: str | None = None) -> Programme:
    """Talks of a calendar, recurrences expanded; `zone` reads what names no zone that is known.

    Raises:
        ProgrammeError: the data is no calendar, the zone is unknown, or the extra is missing.
    """
    try:
        read = read_calendar(data, zone=zone)
    except TransactionalError as error:
        text = str(error).removesuffix(" (nothing was written)")
        hint = "a calendar file opens with BEGIN:VCALENDAR"
        if isinstance(error, InvalidTimeError):
            hint = "give --zone an IANA name, such as Europe/Berlin"
        raise ProgrammeError(text, hint) from error
    left_out = {(remark.line, remark.text) for remark in read.left_out}
    talks: dict[str, Talk] = {}
    for meeting in read.meetings:
        try:
            talk = checked(_talk(meeting))
            if talk.id in talks:
                raise MalformedRow(f"{talk.id} is the id of another meeting, too")
            talks[talk.id] = talk
        except MalformedRow as error:
            left_out.add((meeting.line, str(error)))
    return Programme(
        tuple(sorted(talks.values(), key=lambda talk: (talk.start, talk.room, talk.id))),
        tuple(Malformed(line, why) for line, why in sorted(left_out)),
        tuple(Malformed(remark.line, remark.text) for remark in read.notes),
    )


def _talk(meeting: Meeting) -> Talk:
    original = meeting.original
    return Talk(
        id=meeting.uid if original is None else f"{meeting.uid}@{original:%Y%m%dT%H%M%SZ}",
        room=meeting.location,
        start=meeting.interval.start,
        end=meeting.interval.end,
        track=next(iter(meeting.categories), "calendar"),
        title=meeting.title,
        people=meeting.people,
    )

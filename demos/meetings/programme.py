"""Reads the programme that the meetings demo schedules: a CSV of talks, or an iCalendar file.

The question answered here: which talks want which room when, and which rows could not be
understood? A malformed row never stops the rest: it becomes a `Malformed` with its line number and
a reason, and whoever runs the programme decides what that is worth. Only a file that cannot be read
at all, or that is no programme, raises `ProgrammeError`.

Form of the CSV (header required): `event_id, room, start, end, track, title, person_ids`, times in
ISO 8601 with offset, persons separated by `;`. From an iCalendar file (RFC 5545) every VEVENT is a
talk: UID, LOCATION, DTSTART, DTEND or DURATION, CATEGORIES, SUMMARY, ATTENDEE; recurrences are
expanded inside the window that the file itself spans, in the wall time of their zone, so that a
weekly 09:00 stays 09:00 across a change of daylight saving time.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

COLUMNS = ("event_id", "room", "start", "end", "track", "title", "person_ids")
FILE_BYTES_MAX = 64 * 1024 * 1024  # a programme is read whole; a larger file is not a programme
PEOPLE_MAX = 50  # of one talk: their notifications are one commit
FIELD_CHARS_MAX = 2_000  # titles and names; what is longer is refused by line, not truncated


class ProgrammeError(Exception):
    """The file holds no programme that could be scheduled; nothing was booked.

    Attributes:
        hint: what the caller can do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Talk:
    """A room wanted for a half-open interval, and the persons who appear."""

    id: str
    room: str
    start: datetime
    end: datetime
    track: str
    title: str
    people: tuple[str, ...]

    @property
    def key(self) -> str:
        """The id as one path segment: safe inside document names, store keys and stream names."""
        return quote(self.id, safe="")


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that was not scheduled: where it stands and what is wrong with it."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Programme:
    """What a file held: talks in file order, and the rows that were not understood."""

    talks: tuple[Talk, ...]
    malformed: tuple[Malformed, ...]

    @property
    def rooms(self) -> tuple[str, ...]:
        """Every room that a talk wants, sorted."""
        return tuple(sorted({talk.room for talk in self.talks}))

    @property
    def tracks(self) -> tuple[str, ...]:
        """Every track, sorted."""
        return tuple(sorted({talk.track for talk in self.talks}))

    @property
    def appearances(self) -> int:
        """Pairs of talk and person: what notifications are counted against."""
        return sum(len(talk.people) for talk in self.talks)


class MalformedRow(Exception):  # noqa: N818 - control flow inside the two readers, never seen outside
    """A row cannot be a talk; the reader turns it into a `Malformed`."""


def read(path: Path) -> Programme:
    """Read a programme by its suffix: `.csv`, or `.ics`.

    Raises:
        ProgrammeError: the file is missing, unreadable, too large, of another kind, or holds no
            talk at all.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ProgrammeError(
                f"{path} is larger than {FILE_BYTES_MAX} bytes",
                "split the programme into several files",
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ProgrammeError(
            f"cannot read {path}: {error.strerror}",
            "give --input a .csv or .ics file that you may read",
        ) from error
    except UnicodeDecodeError as error:
        raise ProgrammeError(f"{path} is not UTF-8 text", "convert it to UTF-8") from error
    match path.suffix.lower():
        case ".csv":
            programme = from_csv(text)
        case ".ics":
            from demos.meetings.icalendar_input import from_ics  # noqa: PLC0415 - needs the extra `calendar`

            programme = from_ics(text)
        case other:
            raise ProgrammeError(
                f"{path} ends in {other or 'no suffix'}", "a programme is a .csv or an .ics file"
            )
    if not programme.talks:
        first = (
            f": line {programme.malformed[0].line}: {programme.malformed[0].reason}"
            if programme.malformed
            else ""
        )
        raise ProgrammeError(
            f"{path} holds no talk that can be scheduled{first}", "see the form in the demo's text"
        )
    return programme


def from_csv(text: str) -> Programme:
    """Talks of a CSV in the form of this module's docstring.

    Raises:
        ProgrammeError: the header lacks a column.
    """
    rows = csv.DictReader(text.splitlines(keepends=True), strict=True)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise ProgrammeError(
            f"the header lacks {', '.join(missing)}", f"the first line is: {','.join(COLUMNS)}"
        )
    talks: dict[str, Talk] = {}
    line_of: dict[str, int] = {}
    malformed: list[Malformed] = []
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
            if row is None:
                break
            talk = _talk_from_row(row)
            if talk.id in talks:
                raise MalformedRow(f"event_id {talk.id} stands already on line {line_of[talk.id]}")
            talks[talk.id] = talk
            line_of[talk.id] = line
        except (MalformedRow, csv.Error) as error:
            malformed.append(Malformed(line, str(error)))
    return Programme(tuple(talks.values()), tuple(malformed))


def _talk_from_row(row: dict[str | None, str | None]) -> Talk:
    if None in row:
        raise MalformedRow(f"more than {len(COLUMNS)} fields")
    short = [column for column in COLUMNS if row.get(column) is None]
    if short:
        raise MalformedRow(f"fields missing: {', '.join(short)}")
    cell = {column: str(row[column]).strip() for column in COLUMNS}
    return checked(
        Talk(
            id=cell["event_id"],
            room=cell["room"],
            start=_instant("start", cell["start"]),
            end=_instant("end", cell["end"]),
            track=cell["track"],
            title=cell["title"],
            people=unique(person.strip() for person in cell["person_ids"].split(";")),
        )
    )


def _instant(column: str, text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedRow(f"{column} {text!r} is not an ISO 8601 time") from None
    if instant.utcoffset() is None:
        raise MalformedRow(f"{column} {text!r} has no offset from UTC")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise MalformedRow(f"{column} {text!r} lies outside the years 1 to 9999") from None


def checked(talk: Talk) -> Talk:
    """The talk itself if it can be scheduled.

    Raises:
        MalformedRow: it lacks an id or a room, ends before it starts, has too many persons, or an
            oversized or unprintable text.
    """
    if not talk.id:
        raise MalformedRow("no event_id")
    if not talk.room:
        raise MalformedRow("no room")
    if talk.end <= talk.start:
        raise MalformedRow(
            f"ends at {talk.end.isoformat()}, not after its start {talk.start.isoformat()}"
        )
    if len(talk.people) > PEOPLE_MAX:
        raise MalformedRow(f"{len(talk.people)} persons; at most {PEOPLE_MAX}")
    for text in (talk.id, talk.room, talk.track, talk.title, *talk.people):
        if len(text) > FIELD_CHARS_MAX:
            raise MalformedRow(f"a field of {len(text)} characters; at most {FIELD_CHARS_MAX}")
        if any(ord(character) < 32 for character in text):
            raise MalformedRow(f"a control character in {text!r}")
    return talk


def unique(people: Iterable[str]) -> tuple[str, ...]:
    """Names without blanks and repetitions, in their order: a person attends a talk once."""
    return tuple(dict.fromkeys(person for person in people if person))

"""Turns a CSV of talks into a programme.

Form (header required): `event_id, room, start, end, track, title, person_ids`, times in ISO 8601
with offset, persons separated by `;`. Empty rows are skipped; a row that is no talk is named by the
line on which it begins.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime

from demos.meetings.programme import (
    Malformed,
    MalformedRow,
    Programme,
    ProgrammeError,
    Talk,
    checked,
    unique,
)

COLUMNS = ("event_id", "room", "start", "end", "track", "title", "person_ids")


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

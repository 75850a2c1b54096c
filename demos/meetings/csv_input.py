"""Turns a CSV of talks into a programme.

Form (header required): `event_id, room, start, end, track, title, person_ids`, times in ISO 8601
with offset, persons separated by `;`. Columns may stand in any order, and there may be more. The
separator is the one that the header uses: a comma, a semicolon (persons are then separated by `,`
or, in quotes, by `;`) or a tab. Empty rows are skipped; a row that is no talk is named by the line
on which it begins.

A cell in quotes may hold line breaks, so a quote that is never closed would swallow all that
follows. It is the row with the stray quote that is wrong: if a line inside of what it would swallow
is a talk by itself, or no closing quote comes within `ROW_LINES_MAX` lines, the row ends where its
line ends, and is reported.
"""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from demos.meetings.programme import (
    Malformed,
    MalformedRow,
    Programme,
    ProgrammeError,
    Talk,
    checked,
    unique,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("event_id", "room", "start", "end", "track", "title", "person_ids")
SEPARATORS = (",", ";", "\t")
ROW_LINES_MAX = 100  # of one row, for line breaks in quotes


def from_csv(text: str) -> Programme:
    """Talks of a CSV in the form of this module's docstring.

    Raises:
        ProgrammeError: the header lacks a column.
    """
    # What ends a line is CR, LF or both; U+2028 and others that Python splits at are text.
    lines = re.split(r"\r\n|\n|\r", text)
    at = 1 if re.fullmatch(r"\ufeff?sep=.", lines[0]) else 0  # Excel's own first line
    separator, header = _header(lines[at])
    talks: dict[str, Talk] = {}
    line_of: dict[str, int] = {}
    malformed: list[Malformed] = []
    at += 1
    while at < len(lines):
        line = at + 1
        try:
            cells, count = _row(lines, at, separator, header)
            at += count
            if not any(cells):
                continue
            talk = _talk(cells, header)
            if talk.id in talks:
                raise MalformedRow(f"event_id {talk.id} stands already on line {line_of[talk.id]}")
            talks[talk.id] = talk
            line_of[talk.id] = line
        except MalformedRow as error:
            malformed.append(Malformed(line, str(error)))
            at = max(at, line)
    return Programme(tuple(talks.values()), tuple(malformed))


def _header(line: str) -> tuple[str, list[str]]:
    """The separator that the header uses, and its columns."""
    best: list[str] = []
    for separator in SEPARATORS:
        try:
            names = [name.strip().lower() for name in _cells(line, separator)]
        except csv.Error:
            continue
        if set(COLUMNS) <= set(names):
            return separator, names
        best = max(best, names, key=lambda found: len(set(found) & set(COLUMNS)))
    missing = [column for column in COLUMNS if column not in best]
    raise ProgrammeError(
        f"the header lacks {', '.join(missing)}", f"the first line is: {','.join(COLUMNS)}"
    )


def _cells(text: str, separator: str) -> list[str]:
    """The cells of one row, which may hold line breaks in quotes."""
    rows = list(csv.reader([text], delimiter=separator, strict=True))
    return rows[0] if rows else []


def _row(
    lines: Sequence[str], at: int, separator: str, header: Sequence[str]
) -> tuple[list[str], int]:
    """The cells of the row that begins on a line, and how many lines it takes."""
    text = lines[at]
    try:
        return _cells(text, separator), 1
    except csv.Error as error:
        if text.count('"') % 2 == 0:
            raise MalformedRow(str(error)) from None
    for count in range(2, min(ROW_LINES_MAX, len(lines) - at) + 1):
        line = lines[at + count - 1]
        if _is_talk(line, separator, header):
            break
        text += "\n" + line
        if line.count('"') % 2:
            try:
                return _cells(text, separator), count
            except csv.Error:
                break
    raise MalformedRow("a quote is opened and not closed")


def _is_talk(line: str, separator: str, header: Sequence[str]) -> bool:
    try:
        _talk(_cells(line, separator), header)
    except (MalformedRow, csv.Error):
        return False
    return True


def _talk(cells: Sequence[str], header: Sequence[str]) -> Talk:
    if len(cells) > len(header):
        raise MalformedRow(f"more than {len(header)} fields")
    if len(cells) < len(header):
        raise MalformedRow(f"fields missing: {', '.join(header[len(cells) :])}")
    cell = {
        name: re.sub(r"[\r\n]+", " ", text).strip()
        for name, text in zip(header, cells, strict=True)
    }
    return checked(
        Talk(
            id=cell["event_id"],
            room=cell["room"],
            start=_instant("start", cell["start"]),
            end=_instant("end", cell["end"]),
            track=cell["track"],
            title=cell["title"],
            people=unique(person.strip() for person in re.split("[;,]", cell["person_ids"])),
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

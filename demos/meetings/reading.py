"""Reads a programme from a file, in the form that its suffix names.

A `.csv` has the form of `csv_input`. From an iCalendar file (RFC 5545) every VEVENT is a talk: UID,
LOCATION, DTSTART, DTEND or DURATION, CATEGORIES, SUMMARY, ATTENDEE; recurrences are expanded inside
the window that the file itself spans, in the wall time of their zone, so that a weekly 09:00 stays
09:00 across a change of daylight saving time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from demos.meetings.csv_input import from_csv
from demos.meetings.icalendar_input import from_ics
from demos.meetings.programme import Programme, ProgrammeError

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES_MAX = 64 * 1024 * 1024  # a programme is read whole; a larger file is not a programme


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

"""Reads a programme from a file, in the form that its suffix names.

A `.csv` has the form of `csv_input`, as UTF-8 (with or without a byte-order mark) or as UTF-16 with
one; any other encoding has to be named. An `.ics` file is read as docs/calendars.md says.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from demos.meetings.csv_input import from_csv
from demos.meetings.icalendar_input import from_ics
from demos.meetings.programme import Programme, ProgrammeError

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES_MAX = 64 * 1024 * 1024  # a programme is read whole; a larger file is not a programme


def read(path: Path, *, zone: str | None = None, encoding: str | None = None) -> Programme:
    """Read a programme by its suffix: `.csv`, or `.ics`.

    `zone` is for times in an .ics file that name no zone, or an unknown one; `encoding` for a .csv
    that is neither UTF-8 nor UTF-16.

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
        data = path.read_bytes()
    except OSError as error:
        raise ProgrammeError(
            f"cannot read {path}: {error.strerror}",
            "give --input a .csv or .ics file that you may read",
        ) from error
    match path.suffix.lower():
        case ".csv":
            programme = from_csv(_decoded(path, data, encoding))
        case ".ics":
            programme = from_ics(data, zone)
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


def _decoded(path: Path, data: bytes, encoding: str | None) -> str:
    if encoding is None:
        utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if utf_16 else "utf-8-sig"
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise ProgrammeError(
            f"there is no encoding {encoding!r}", "name one such as windows-1252 or latin-1"
        ) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ProgrammeError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02x}"
            if encoding == "utf-8-sig"
            else f"{path} is not {encoding}: line {line}",
            "name its encoding, such as --encoding windows-1252, or convert it to UTF-8",
        ) from error

"""Reading a programme: what is a talk, what is malformed and why, what cannot be read at all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from demos.meetings.csv_input import COLUMNS, from_csv
from demos.meetings.programme import ProgrammeError
from demos.meetings.reading import read

FOSDEM = Path(__file__).parents[2] / "demos" / "data" / "fosdem-2025.csv"
HEADER = ",".join(COLUMNS)


def row(**changes: str) -> str:
    cells = {
        "event_id": "1",
        "room": "H.1",
        "start": "2025-02-01T10:00:00+01:00",
        "end": "2025-02-01T11:00:00+01:00",
        "track": "LLVM",
        "title": "Passes",
        "person_ids": "7;8",
    }
    return ",".join((cells | changes).values())


def test_the_shipped_programme_is_whole() -> None:
    """943 talks in 29 rooms, 1 172 appearances of 992 persons, nothing malformed."""
    programme = read(FOSDEM)
    assert len(programme.talks) == 943
    assert len(programme.rooms) == 29
    assert programme.appearances == 1172
    assert len({person for talk in programme.talks for person in talk.people}) == 992
    assert programme.malformed == ()


def test_a_row_becomes_a_talk_in_utc() -> None:
    """Offsets are resolved at once; blank and repeated persons are dropped."""
    (talk,) = from_csv(f"{HEADER}\n{row(person_ids='7;;8;7')}\n").talks
    assert talk.start == datetime(2025, 2, 1, 9, tzinfo=UTC)
    assert talk.start.tzinfo is UTC
    assert talk.people == ("7", "8")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(event_id="2", start="2025-02-01T10:00:00"), "no offset"),
        (row(event_id="2", start="yesterday"), "not an ISO 8601 time"),
        (row(event_id="2", start="2025-02-01T12:00:00+01:00"), "not after its start"),
        (row(event_id="2", start="2025-02-01T11:00:00+01:00"), "not after its start"),
        (row(event_id="2", start="0001-01-01T00:00:00+14:00"), "years 1 to 9999"),
        (row(event_id=""), "no event_id"),
        (row(event_id="2", room=" "), "no room"),
        (row(event_id="1"), "already on line 2"),
        (row(event_id="2") + ",more", "more than 7 fields"),
        ("2,H.1,2025-02-01T10:00:00+01:00", "fields missing: end, track, title, person_ids"),
        (row(event_id="2", title="x" * 2001), "a field of 2001 characters"),
        (row(event_id="2", title="bell\a"), "control character"),
        (row(event_id="2", title='"open'), "a quote is opened and not closed"),
    ],
)
def test_a_malformed_row_is_named_and_the_rest_goes_on(bad: str, reason: str) -> None:
    """Line number and reason are kept, and the rows around it are talks."""
    text = f"{HEADER}\n{row()}\n{bad}\n{row(event_id='3', room='H.2')}\n"
    programme = from_csv(text)
    (malformed,) = programme.malformed
    assert malformed.line == 3
    assert reason.replace("already on", "stands already on") in malformed.reason
    assert [talk.id for talk in programme.talks] == ["1", "3"]


def test_what_python_takes_for_a_line_break_is_text() -> None:
    """U+2028, U+0085 and a form feed end no row; CR, LF and both do."""
    title = "one\u2028two\x85three"
    text = f"{HEADER}\r\n{row(title=title)}\r{row(event_id='2')}\n{row(event_id='3')}"
    programme = from_csv(text)
    assert programme.talks[0].title == title
    assert [talk.id for talk in programme.talks] == ["1", "2", "3"]
    assert programme.malformed == ()


def test_a_stray_quote_costs_its_own_row() -> None:
    """Rows after it are talks, even if another stray quote would close it."""
    rows = [row(event_id=str(n), room=f"R{n}") for n in range(1, 200)]
    rows[4] = row(event_id="5", title='"open')
    rows[9] = row(event_id="10", title='open"')
    rows[19] = row(event_id="20", title='"two\nlines, and a ""quote"""')
    programme = from_csv("\n".join([HEADER, *rows]))
    assert [row.line for row in programme.malformed] == [
        6,
    ]
    (title,) = [talk.title for talk in programme.talks if talk.id == "20"]
    assert title == 'two lines, and a "quote"'
    assert len(programme.talks) == 198
    far = from_csv("\n".join([HEADER, row(title='"open'), *["x"] * 300, row(event_id="2")]))
    assert [talk.id for talk in far.talks] == ["2"]
    assert len(far.malformed) == 301


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_excels_first_line(tmp_path: Path, separator: str) -> None:
    """A semicolon or a tab as the header has it; persons, columns in another order, a BOM."""
    columns = [*reversed(COLUMNS), "Remark"]
    cells = ["7,8", "Passes, 1;2", "LLVM", "2025-02-01T11:00:00,5+01:00"]
    cells += ["2025-02-01T10:00:00+01:00", "H.1", "1", "x"]
    text = f"sep={separator}\n{separator.join(columns)}\n"
    text += separator.join(f'"{cell}"' for cell in cells)
    for encoding in ("utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.csv"
        path.write_text(text, encoding=encoding)
        (talk,) = read(path).talks
        assert (talk.id, talk.title, talk.people) == ("1", "Passes, 1;2", ("7", "8"))
        assert talk.end.microsecond == 500_000


def test_an_encoding_is_taken_by_its_name_and_never_guessed(tmp_path: Path) -> None:
    """Windows-1252 is read if it is named; what is not is refused with the line."""
    path = tmp_path / "programme.csv"
    path.write_bytes(f"{HEADER}\n{row(room='Münster')}\n".encode("cp1252"))
    with pytest.raises(ProgrammeError, match="line 2 holds the byte 0xfc") as caught:
        read(path)
    assert "--encoding windows-1252" in caught.value.hint
    assert read(path, encoding="windows-1252").rooms == ("Münster",)
    with pytest.raises(ProgrammeError, match="no encoding 'klingon'"):
        read(path, encoding="klingon")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "cannot read"),
        ("empty.csv", b"", "the header lacks"),
        ("other.csv", b"a,b\n1,2\n", "the header lacks event_id"),
        ("hollow.csv", HEADER.encode(), "holds no talk"),
        ("latin.csv", b"ev\nM\xfcnchen", "not UTF-8: line 2 holds the byte 0xfc"),
        ("half.csv", b"\xff\xfe\xfa", "not utf-16: line 1"),
        ("programme.txt", HEADER.encode(), "ends in .txt"),
        ("not.ics", b"hello", "no iCalendar file"),
        ("hollow.ics", b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "holds no talk"),
    ],
)
def test_what_is_no_programme_says_so(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """A file that holds nothing to schedule is one typed error with a hint."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProgrammeError, match=message) as caught:
        read(path)
    assert caught.value.hint


CALENDAR = """\
BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example//EN
{events}
END:VCALENDAR
"""

WEEKLY = """\
BEGIN:VEVENT
UID:weekly
DTSTART;TZID=Europe/Berlin:20250324T090000
DTEND;TZID=Europe/Berlin:20250324T100000
RRULE:FREQ=WEEKLY
EXDATE;TZID=Europe/Berlin:20250407T090000
LOCATION:Room 1
SUMMARY:Standup
ATTENDEE:mailto:ada@example.org
ATTENDEE:mailto:bob@example.org
END:VEVENT
BEGIN:VEVENT
UID:weekly
RECURRENCE-ID;TZID=Europe/Berlin:20250414T090000
DTSTART;TZID=Europe/Berlin:20250414T110000
DTEND;TZID=Europe/Berlin:20250414T120000
LOCATION:Room 1
SUMMARY:Standup, later
END:VEVENT
BEGIN:VEVENT
UID:closing
DTSTART:20250430T100000Z
DURATION:PT1H
LOCATION:Room 2
SUMMARY:Closing
CATEGORIES:Plenary
END:VEVENT"""


def calendar(tmp_path: Path, events: str) -> Path:
    path = tmp_path / "programme.ics"
    path.write_text(CALENDAR.format(events=events).replace("\n", "\r\n"), encoding="utf-8")
    return path


def test_recurrences_expand_inside_the_files_window(tmp_path: Path) -> None:
    """A weekly 09:00 stays 09:00 across the clock change; EXDATE and RECURRENCE-ID count."""
    programme = read(calendar(tmp_path, WEEKLY))
    assert not programme.malformed
    assert [(talk.id, f"{talk.start:%m-%d %H:%M}") for talk in programme.talks] == [
        ("weekly@20250324T080000Z", "03-24 08:00"),
        ("weekly@20250331T070000Z", "03-31 07:00"),
        ("weekly@20250414T070000Z", "04-14 09:00"),
        ("weekly@20250421T070000Z", "04-21 07:00"),
        ("weekly@20250428T070000Z", "04-28 07:00"),
        ("closing", "04-30 10:00"),
    ]
    assert programme.talks[0].people == ("ada@example.org", "bob@example.org")
    assert programme.talks[-1].track == "Plenary"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("UID:x\nDTSTART:20250430T100000\nDTEND:20250430T110000Z\nLOCATION:R", "floating"),
        ("UID:x\nDTSTART;VALUE=DATE:20250430\nDURATION:P1D\nLOCATION:R", "whole day"),
        ("UID:x\nDTSTART:20250430T100000Z\nLOCATION:R", "neither DTEND nor DURATION"),
        ("UID:x\nDTSTART:20250430T100000Z\nDTEND:20250430T090000Z\nLOCATION:R", "not after"),
        ("UID:x\nDTSTART:20250430T100000Z\nDTEND:20250430T110000Z", "no room"),
        ("DTSTART:20250430T100000Z\nDTEND:20250430T110000Z\nLOCATION:R", "no UID"),
        ("UID:x\nDTEND:20250430T110000Z\nLOCATION:R", "no DTSTART"),
        ("UID:x\nDTSTART:garbage\nDTEND:20250430T110000Z\nLOCATION:R", "DTSTART"),
        (
            (
                "UID:x\nDTSTART:20250330T100000Z\nDTEND:20250330T100010Z\nLOCATION:R"
                "\nRRULE:FREQ=SECONDLY"
            ),
            "more than 2000 occurrences",
        ),
        (
            (
                "UID:x\nDTSTART:20250330T100000Z\nDTEND:20250330T110000Z\nLOCATION:R"
                "\nRRULE:FREQ=WEEKLY;BYDAY=XX"
            ),
            "BYDAY=XX",
        ),
    ],
)
def test_a_malformed_event_is_named_by_its_line(tmp_path: Path, lines: str, reason: str) -> None:
    """The line of its BEGIN:VEVENT, the reason, and the other events are talks."""
    path = calendar(tmp_path, f"BEGIN:VEVENT\n{lines}\nEND:VEVENT\n{WEEKLY}")
    programme = read(path)
    (malformed,) = programme.malformed
    assert malformed.line == 4
    assert reason in malformed.reason
    assert len(programme.talks) == 6

"""Calendar files of all the kinds there are, against what they mean."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.scale import rounds, seeds
from tests.transactional.calendars.brute_force import enumerated
from tests.transactional.calendars.corpus import (
    VTIMEZONE,
    WEEKLY,
    B,
    Case,
    E,
    Z,
    by_hand,
    calendar,
    event,
)
from transactional import (
    Interval,
    InvalidRequestError,
    InvalidTimeError,
    Meeting,
    read_calendar,
)
from transactional.calendars import reader
from transactional.calendars.recurrence import Steps

ROOT = Path(__file__).resolve().parents[3]
CASES = by_hand()
STEPS_MAX = 20_000  # of one file: what a rule costs is counted, not timed

RULES = [
    "FREQ=DAILY;COUNT=10",
    "FREQ=DAILY;INTERVAL=3;COUNT=30",
    "FREQ=DAILY;BYMONTH=3,10;COUNT=40",
    "FREQ=DAILY;BYDAY=MO,WE,FR;COUNT=60",
    "FREQ=DAILY;BYHOUR=9,14;COUNT=50",
    "FREQ=DAILY;BYSETPOS=-1;BYHOUR=8,9,17;COUNT=20",
    "FREQ=DAILY;BYMONTHDAY=1,-1;COUNT=24",
    "FREQ=WEEKLY;COUNT=30",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,TH;WKST=MO;COUNT=20",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU;WKST=SU;COUNT=20",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,SU;WKST=WE;COUNT=20",
    "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR;COUNT=120",
    "FREQ=WEEKLY;BYDAY=MO,TU,WE;BYSETPOS=2;COUNT=12",
    "FREQ=WEEKLY;BYMONTH=1,6;BYDAY=MO;COUNT=12",
    "FREQ=MONTHLY;COUNT=12",
    "FREQ=MONTHLY;INTERVAL=5;COUNT=6",
    "FREQ=MONTHLY;BYDAY=1MO;COUNT=12",
    "FREQ=MONTHLY;BYDAY=-1FR;COUNT=12",
    "FREQ=MONTHLY;BYDAY=2TU,4TH;COUNT=12",
    "FREQ=MONTHLY;BYDAY=MO,1TU;COUNT=12",
    "FREQ=MONTHLY;BYMONTHDAY=15;COUNT=12",
    "FREQ=MONTHLY;BYMONTHDAY=31;COUNT=8",
    "FREQ=MONTHLY;BYMONTHDAY=-1,-3;COUNT=20",
    "FREQ=MONTHLY;BYMONTHDAY=13;BYDAY=FR;COUNT=3",
    "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;COUNT=12",
    "FREQ=MONTHLY;BYDAY=SA,SU;BYSETPOS=1,-1;COUNT=12",
    "FREQ=MONTHLY;BYDAY=5WE;COUNT=5",
    "FREQ=YEARLY;COUNT=3",
    "FREQ=YEARLY;BYMONTH=6,12;COUNT=6",
    "FREQ=YEARLY;BYMONTHDAY=29;BYMONTH=2;COUNT=1",
    "FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10;COUNT=3",
    "FREQ=YEARLY;BYDAY=20MO;COUNT=3",
    "FREQ=YEARLY;BYDAY=MO;BYMONTH=2;COUNT=8",
    "FREQ=YEARLY;BYYEARDAY=1,100,-1;COUNT=9",
    "FREQ=YEARLY;BYWEEKNO=20;COUNT=3",
    "FREQ=YEARLY;BYWEEKNO=1,-1;BYDAY=TH;COUNT=6",
    "FREQ=YEARLY;BYWEEKNO=53;BYDAY=FR;WKST=SU;COUNT=1",
    "FREQ=YEARLY;BYMONTH=1;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=1;COUNT=3",
    "FREQ=YEARLY;INTERVAL=2;BYMONTH=3;BYDAY=1SU;COUNT=2",
    "FREQ=HOURLY;INTERVAL=6;COUNT=100",
    "FREQ=HOURLY;BYHOUR=9,10,11;BYDAY=MO;COUNT=30",
    "FREQ=MINUTELY;INTERVAL=90;COUNT=60",
]

ZONES = {
    "Europe/Berlin": "",
    "Customized Time Zone": VTIMEZONE.format(name="Customized Time Zone"),
    "W. Europe Standard Time": "",
}


def told(meeting: Meeting, *, ends: bool) -> str:
    start, end = meeting.interval.start, meeting.interval.end
    text = f"{start:%Y-%m-%dT%H:%M}"
    return f"{text}/{end:%Y-%m-%dT%H:%M}" if ends else text


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_file_means_what_was_worked_out_by_hand(case: Case) -> None:
    """Each meeting at its instants, or one remark that says what is left out, and why."""
    read = read_calendar(case.data, zone=case.zone)
    ends = any("/" in start for start in case.starts)
    assert [told(m, ends=ends) for m in read.meetings] == sorted(case.starts), read
    left_out = [remark.text for remark in read.left_out]
    assert bool(left_out) == bool(case.left_out), left_out
    assert not case.left_out or any(case.left_out in text for text in left_out), left_out
    notes = [remark.text for remark in read.notes]
    assert not case.note or any(case.note in text for text in notes), notes


def test_the_corpus_has_its_size() -> None:
    """At least 200 files of a few lines, no two of one name."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(CASES) + len(RULES) * len(ZONES) >= 300
    assert len(CASES) >= 180


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_in_a_file_means_what_the_enumerator_finds(rule: str, zone: str) -> None:
    """In a zone of the database, in the file's own, under a Windows name: the same instants."""
    start = datetime(2024, 10, 21, 9, 30)  # noqa: DTZ001 wall clock, a Monday
    walls = enumerated(rule, start, 80 if rule[5:9] in {"HOUR", "MINU"} else 1300)
    count = int(rule.rpartition("=")[2])
    if not walls or walls[0] != start:
        walls = [start, *walls][:count]  # DTSTART is the first of COUNT
    # The enumerator sees three and a half years: what lies beyond is not compared.
    end = datetime(2028, 5, 1)  # noqa: DTZ001
    dtstart = f"DTSTART;TZID={zone}:20241021T093000"
    data = calendar(ZONES[zone], event(dtstart, "DURATION:PT20M", f"RRULE:{rule}")).encode()
    read = read_calendar(data)
    berlin = ZoneInfo("Europe/Berlin")
    wanted = sorted(wall.replace(tzinfo=berlin).astimezone(UTC) for wall in walls if wall < end)
    found = [m.interval.start for m in read.meetings if m.interval.start < end.replace(tzinfo=UTC)]
    assert found == wanted
    assert read.left_out == ()
    assert all(m.interval.duration == timedelta(minutes=20) for m in read.meetings)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Steps]:
    """What is left of the steps of each reading."""
    made: list[Steps] = []

    def counted(left: int) -> Steps:
        made.append(Steps(left))
        return made[-1]

    monkeypatch.setattr(reader, "Steps", counted)
    return made


def test_no_file_is_walked_for_long(taken: list[Steps]) -> None:
    """What a file of the corpus costs is counted in years, days and times looked at."""
    for case in CASES:
        read_calendar(case.data, zone=case.zone)
        assert taken[-1].left > reader.STEPS_MAX - STEPS_MAX, case.name
    assert len(taken) == len(CASES)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("FREQ=SECONDLY", "more than 2000 occurrences|walked"),
        ("FREQ=SECONDLY;INTERVAL=60;BYSECOND=30", "never matches"),
        ("FREQ=DAILY;COUNT=99999999", "more than 2000 occurrences"),
        ("FREQ=DAILY;UNTIL=99991231T235959Z", "more than 2000 occurrences|walked"),
        ("FREQ=DAILY;INTERVAL=7;BYDAY=TU", "never matches"),
        ("FREQ=YEARLY;INTERVAL=2;BYMONTH=2;BYMONTHDAY=29", "never matches"),
    ],
)
def test_a_thousand_bad_rules_are_refused_in_bounded_steps(
    taken: list[Steps], rule: str, why: str
) -> None:
    """Each is told, none is half booked, and the last one that is good is read."""
    bad = [event(B, E, f"RRULE:{rule}", uid=f"u{n}") for n in range(rounds(1000, 60))]
    read = read_calendar(calendar(*bad, event(B, E, uid="good")).encode())
    assert [meeting.uid for meeting in read.meetings] == ["good"]
    assert len(read.left_out) == len(bad)
    assert all(re.search(why, remark.text) for remark in read.left_out)
    assert reader.STEPS_MAX + reader.STEPS_EACH * len(bad) - taken[-1].left < 700_000


def test_what_is_told_says_where(tmp_path: Path) -> None:
    """A remark names the line of the BEGIN:VEVENT, and the UID; notes are counted, not repeated."""
    odd = "EXDATE:20250113T093000Z,20250113T093100Z"
    text = calendar(event(B, E, WEEKLY, odd), event(B, "DTEND:no", uid="v"))
    read = read_calendar(text.encode())
    (left_out,) = read.left_out
    assert (left_out.uid, text.splitlines()[left_out.line - 1]) == ("v", "BEGIN:VEVENT")
    (note,) = read.notes
    assert (note.line, note.uid) == (4, "u")
    assert note.text.endswith("(2 times)")


def test_the_window_of_a_file() -> None:
    """A rule without an end: to the file's own end, else a year, at most five; each is told."""

    def last(*events: str) -> str:
        read = read_calendar(calendar(*events).encode())
        assert any("without an end" in note.text for note in read.notes)
        assert read.left_out == ()
        return f"{max(m.interval.start for m in read.meetings if m.uid == 'u'):%Y-%m-%d}"

    endless = event(B, E, "RRULE:FREQ=WEEKLY")
    assert last(endless) == "2026-01-05"
    assert last(endless, event(Z, "RRULE:FREQ=DAILY", uid="v")) == "2026-01-05"
    closing = event("DTSTART:20250301T080000Z", "DURATION:PT1H", uid="w")
    assert last(endless, closing) == "2025-02-24"
    assert last(endless, closing.replace("2025", "2024")) == "2026-01-05"
    assert last(endless, closing.replace("2025", "2099")) == "2030-01-07"


def test_a_window_that_is_asked_for() -> None:
    """Only what overlaps it, endless or not, moved into it or out of it; and no note of an end."""
    text = calendar(
        event(B, E, "RRULE:FREQ=WEEKLY"),
        event("RECURRENCE-ID:20250217T080000Z", "DTSTART:20250305T080000Z", "DURATION:PT1H"),
        event("RECURRENCE-ID:20250310T080000Z", "DTSTART:20250401T080000Z", "DURATION:PT1H"),
        event(Z, "RRULE:FREQ=DAILY;COUNT=99999", "LOCATION:Other", uid="v").replace(
            "LOCATION:Room\n", ""
        ),
    )
    march = Interval(datetime(2025, 3, 3, tzinfo=UTC), datetime(2025, 3, 15, tzinfo=UTC))
    read = read_calendar(text.encode(), within=march)
    assert [f"{m.interval.start:%m-%d}" for m in read.meetings if m.uid == "u"] == [
        "03-03",
        "03-05",
    ]
    assert len([m for m in read.meetings if m.uid == "v"]) == 12
    assert read.left_out == ()
    assert read.notes == ()


def test_texts_are_one_line_each_and_people_are_those_who_come() -> None:
    """Escapes, line breaks, control characters; rooms are no persons, nor who has declined."""
    lines = [
        "LOCATION:Roadstar 1\\nHappyville\\, Denmark \x07",
        "SUMMARY;LANGUAGE=en:  Stand\\;up\\n\\NPlan\u2028B  ",
        "CATEGORIES:Plenary\\, open,Track",
        "CATEGORIES:More",
        "ATTENDEE;CN=Ada:mailto:ada@example.org",
        'ATTENDEE;CN="B, ob":MAILTO:bob@example.org',
        "ATTENDEE:mailto:ada@example.org",
        "ATTENDEE;PARTSTAT=DECLINED:mailto:eve@example.org",
        "ATTENDEE;CUTYPE=ROOM:mailto:room1@example.org",
    ]
    text = calendar(event(Z, *lines).replace("LOCATION:Room\n", ""))
    (meeting,) = read_calendar(text.encode()).meetings
    assert meeting.location == "Roadstar 1, Happyville, Denmark"
    assert meeting.title == "Stand;up Plan B"
    assert meeting.categories == ("Plenary, open", "Track", "More")
    assert meeting.people == ("ada@example.org", "bob@example.org")


def test_what_is_no_calendar_is_refused_by_type() -> None:
    """No calendar in it; a zone that nobody knows."""
    for data in (b"", b"hello", b"\xff\xfe\x00", b"BEGIN:VCARD\r\nEND:VCARD", b"\x00" * 1000):
        with pytest.raises(InvalidRequestError, match="no iCalendar file"):
            read_calendar(data)
    with pytest.raises(InvalidTimeError, match="unknown time zone"):
        read_calendar(calendar(event(Z)).encode(), zone="Mars/Olympus")


def test_damaged_files_end_in_remarks(tmp_path: Path) -> None:
    """Lines lost, doubled, cut and turned around in files of the corpus: never anything untyped."""
    (seed,) = seeds(1)
    print(f"CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    for _ in range(rounds(5000, 300)):
        data = bytearray(dice.choice(CASES).data)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            match dice.randrange(4):
                case 0:
                    del data[at : at + dice.randint(1, 30)]
                case 1:
                    data[at:at] = data[dice.randrange(len(data) + 1) :][: dice.randint(1, 60)]
                case 2:
                    data[at:at] = bytes([dice.randrange(256)])
                case _:
                    data[at : at + 1] = dice.choice([b"9", b"0", b";", b":", b"\n", b",", b"-"])
        with contextlib.suppress(InvalidRequestError):  # its BEGIN:VCALENDAR is gone
            read_calendar(bytes(data))


@pytest.mark.processes
def test_a_machine_without_zone_data_reads_by_the_package(tmp_path: Path) -> None:
    """Where the system has no zones, tzdata has; this is a process that finds none of its own."""
    text = calendar(event(B, E, WEEKLY), event(B.replace("Europe", "europe"), E, uid="v"))
    (tmp_path / "in.ics").write_text(text)
    program = (
        "import sys, zoneinfo, pathlib, transactional;"
        "assert zoneinfo.TZPATH == (sys.argv[2],), zoneinfo.TZPATH;"
        "read = transactional.read_calendar(pathlib.Path(sys.argv[1]).read_bytes());"
        "print(len(read.meetings), len(read.left_out))"
    )
    empty = tmp_path / "zones"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "in.ics"), str(empty)],
        env={"PYTHONTZPATH": str(empty), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["5", "0"], done.stderr

"""The meetings demo as a user starts it: real processes, exit status, what it prints and writes."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path

import icalendar
import pytest

from demos.meetings.csv_input import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
FOSDEM = ROOT / "demos" / "data" / "fosdem-2025.csv"


def demo(*arguments: str | Path, out: Path) -> tuple[int, str, str]:
    """Run it; returns exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "demos", "meetings", "--out", str(out), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def programme(tmp_path: Path, *more: str, talks: int = 90) -> Path:
    """The first talks of the shipped programme, with lines added."""
    lines = FOSDEM.read_text(encoding="utf-8").splitlines()[: talks + 1]
    path = tmp_path / "programme.csv"
    path.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
    return path


def events_in(path: Path) -> int:
    return len(icalendar.Calendar.from_ical(path.read_bytes()).walk("VEVENT"))


@pytest.mark.demo
@pytest.mark.processes
def test_the_conference_is_scheduled_through_all_trouble(tmp_path: Path) -> None:
    """943 talks booked, no overlap, replicas equal after partition and kill, exit status 0.

    Six pairs want one slot each, holds of rivals and of sleepers time out, and the organizer that
    is killed has sagas in flight: the trouble that a run promises takes place in each run.
    """
    status, output, errors = demo(out=tmp_path)
    assert status == 0, output + errors
    assert "943 / 0" in output
    assert re.search(r"overlapping bookings +│ 0 ", output), output
    assert "person 4347 is in" in output
    assert re.search(r"refusals that name the booking in the way +│ ([6-9]|\d\d) of \1 ", output)
    assert re.search(r"pairs of talks that wanted one slot +│ 6 of 6: ", output), output
    assert re.search(r"holds that timed out +│ [1-9]\d*, [1-9]\d* of them rivals'", output), output
    assert re.search(r"sagas in flight at the kill +│ ([1-9]\d*) of \w+, \1 of them ended", output)
    assert re.search(r"\d+ of \d+; 0 missing, 0 twice, 0 besides", output), output
    assert "1172 entries on 5 replicas; 0 missing, 0 orphaned" in output
    assert "partition:" in output
    assert "SIGKILL to" in output
    assert "FAILED" not in output
    assert errors == ""
    assert output.endswith("943 talks booked, 0 refused; all 11 checks hold (exit status 0)\n"), (
        output
    )
    assert events_in(tmp_path / "rooms.ics") == 943
    agendas = [
        line.split("\t")
        for line in (tmp_path / "agendas" / "index.tsv").read_text(encoding="utf-8").splitlines()
    ]
    assert len([kind for kind, *_ in agendas if kind == "rooms"]) == 29
    assert sum(int(count) for kind, *_, count in agendas if kind == "people") == 1172
    assert "FAILED" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.demo
@pytest.mark.processes
def test_a_talk_in_an_occupied_slot_is_refused_and_a_bad_row_is_named(tmp_path: Path) -> None:
    """One of the two gets the room; the refusal names the booking in its way; exit status 4."""
    first = FOSDEM.read_text(encoding="utf-8").splitlines()[1].split(",", 1)
    path = programme(tmp_path, f"copy,{first[1]}", "bad,K.1,yesterday,today,t,t,1")
    status, output, errors = demo(
        *("--input", path, "--agents", "2", "--rivals", "3", "--no-trouble"),
        *("--collisions", "0", "--stalls", "0"),
        out=tmp_path,
    )
    assert status == 4, output + errors
    assert "90 / 1" in output
    assert re.search(rf"K\.3\.201 is booked .* for talk ({first[0]}|copy)", output), output
    assert "programme.csv:93: not scheduled: start 'yesterday'" in errors
    assert "FAILED" not in output
    assert events_in(tmp_path / "rooms.ics") == 90


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meetings", "--input", "none.csv"], "error: cannot read none.csv"),
        (["meetings", "--agents", "0"], "a number from 1 to 10, not '0'"),
        (["meetings", "--out", "/proc/none"], "error: cannot write to /proc/none"),
        (["metings"], "error: no demo is called 'metings'"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    """Usage errors: exit status 2, one line that says what to do, no traceback, nothing written."""
    done = subprocess.run(
        [sys.executable, "-m", "demos", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_form_in_the_text_is_the_form_of_the_file() -> None:
    """The header of the shipped file is the one that the reader wants."""
    assert FOSDEM.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.demo
@pytest.mark.processes
def test_a_calendar_file_is_scheduled_though_holds_expire_under_their_sagas(tmp_path: Path) -> None:
    """Every occurrence in an .ics gets its room, at the second attempt where a saga overslept.

    Sagas that oversleep are compensated and their cancellations reach the inboxes; an event that is
    no talk is named by its line, and the exit status says so.
    """
    path = tmp_path / "weekly.ics"
    path.write_text(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//example//EN\r\n"
        "BEGIN:VEVENT\r\nUID:weekly/1\r\nDTSTART;TZID=Europe/Berlin:20250324T090000\r\n"
        "DTEND;TZID=Europe/Berlin:20250324T100000\r\nRRULE:FREQ=WEEKLY;COUNT=12\r\n"
        "LOCATION:Room [1]\r\nSUMMARY:Stand/up [b]\r\n"
        "ATTENDEE:mailto:ada@example.org\r\nEND:VEVENT\r\n"
        "BEGIN:VEVENT\r\nUID:floating\r\nDTSTART:20250324T090000\r\nDURATION:PT1H\r\n"
        "LOCATION:Room [1]\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
        encoding="utf-8",
    )
    status, output, errors = demo(
        *("--input", path, "--agents", "2", "--rivals", "1", "--stalls", "3", "--no-trouble"),
        *("--collisions", "0"),
        out=tmp_path,
    )
    assert status == 3, output + errors
    assert "weekly.ics:13: not scheduled: DTSTART 20250324T090000 is floating" in errors
    assert "12 / 0" in output
    assert re.search(r"sagas completed / compensated +│ 12 / 3 ", output), output
    assert re.search(r"notifications in the inboxes +│ 18 of 18; 0 missing", output), output
    assert "FAILED" not in output
    assert events_in(tmp_path / "rooms.ics") == 12


@pytest.mark.demo
@pytest.mark.processes
def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL to the director in the midst of a run: every actor ends by itself."""
    command = [sys.executable, "-m", "demos", "meetings", "--agents", "2", "--out", str(tmp_path)]
    # The actors' folder is a child of this one, so that each of them is known by its command line.
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as director:
        assert director.stdout is not None
        for line in director.stdout:
            if line.rstrip().endswith("  go"):
                break
        assert len(actors_in(tmp_path)) >= 5, "organizers, rivals, authority and its keeper"
        director.kill()
    deadline = time.monotonic() + 30
    while actors_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)  # other processes: nothing tells us but a look
    assert actors_in(tmp_path) == []


def actors_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in the folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{folder}/convoca-meetings-" in line:
                found.append(line)
    return found

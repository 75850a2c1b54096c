"""The rooms demo as a user starts it: what was told, what stands, and the exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import demos.rooms
from demos.rooms import judge
from demos.rooms.story import Outcome, Row
from demos.rooms.ways import CAS, DICT, HOLD, LOCK, LWW

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments: str) -> tuple[int, str, str]:
    """Run it; returns exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "demos", "rooms", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def rows_of(text: str) -> list[str]:
    """The names of ways and checks in the tables, drawn or in the docstring."""
    found = re.findall(r"^(?:│ |    )(\S.*?)(?:  +| +│).*(?:\d s|ok|FAILED)\b", text, re.MULTILINE)
    return [name for name in found if name != "way"]


@pytest.mark.demo
@pytest.mark.processes
def test_two_ways_break_their_word_and_three_keep_it() -> None:
    """Eight agents: all are told "booked" by the naive ways, one by each of the others."""
    status, output, errors = demo("--agents", "8")
    assert status == 0, output + errors
    assert errors == ""
    assert re.search(r"naive shared dict +│ +8 │ +1 │ +7 │", output), output
    assert re.search(r"lock with fence +│ +1 │ +1 │ +0 │", output), output
    assert output.count("SIGKILL to agent-") == 1
    assert output.endswith(
        "by 2 naive ways, 0 by the other 3; all 8 checks hold (exit status 0)\n"
    ), output
    assert rows_of(output) == rows_of(demos.rooms.__doc__ or "")


@pytest.mark.demo
@pytest.mark.processes
def test_an_agent_that_says_booked_and_is_not_is_found() -> None:
    """Counterexample on purpose: one of those that lost the compare-and-swap says that it won."""
    status, output, _ = demo("--agents", "3", "--lie")
    assert status == 1, output
    assert re.search(r"compare-and-swap, retried +│ +2 │ +1 │ +1 │", output), output
    assert output.endswith("a check FAILED (exit status 1)\n")


@pytest.mark.parametrize("words", [("--agents", "1"), ("--agents", "61"), ("--seed", "-1")])
def test_what_makes_no_sense_is_one_line(words: tuple[str, str]) -> None:
    """Usage, exit status 2."""
    with pytest.raises(SystemExit) as caught:
        demos.rooms.main(list(words))
    assert caught.value.code == 2


def outcome() -> Outcome:
    """What a good run counts."""
    rows = [
        Row(way, ["a", "b", "c"] if way in (DICT, LWW) else ["a"], ["a"], 3, way == LOCK, 0.1)
        for way in (DICT, LWW, CAS, LOCK, HOLD)
    ]
    return Outcome(rows, 3, {"00"}, ["b"], ["b"])


def test_a_good_run_holds() -> None:
    """Every check."""
    assert all(check.ok for check in judge(outcome()))


@pytest.mark.parametrize(
    ("way", "told", "stands"),
    [
        (DICT, ["a"], ["a"]),
        (LWW, ["a"], ["a"]),
        (CAS, ["a", "b"], ["a"]),
        (LOCK, [], []),
        (HOLD, ["a"], ["b"]),
        (HOLD, ["a", "b"], ["a", "b"]),
    ],
)
def test_each_way_is_judged_by_what_was_told_and_what_stands(
    way: str, told: list[str], stands: list[str]
) -> None:
    """A naive way that kept its word shows nothing; another that broke it is wrong."""
    wrong = outcome()
    (row,) = (row for row in wrong.rows if row.way == way)
    row.told, row.stands = told, stands
    assert [check.ok for check in judge(wrong)].count(False) == 1


def test_a_fence_that_refused_nothing_and_a_hold_that_stayed_are_found() -> None:
    """The two agents that fail are part of what is shown."""
    wrong = outcome()
    wrong.rows[3].late = 0
    wrong.expired = []
    wrong.digests = {"00", "01"}
    assert [check.name[:3] for check in judge(wrong) if not check.ok] == ["..."] * 3

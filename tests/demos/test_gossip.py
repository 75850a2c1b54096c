"""The gossip demo: scripts, the ledger, and whole runs as a user starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import demos.gossip
from demos.__main__ import DEMOS
from demos.gossip import load
from demos.gossip.hands import step_of
from demos.gossip.load import KEYS, Ledger
from demos.gossip.screen import sparkline
from demos.gossip.script import ScriptError, Step, names_of, read, rolled
from tests.demos.test_teams import lives

ROOT = Path(__file__).resolve().parents[2]
NAMES = names_of(5)
SHORT = """
1    partition ada | rest     # cyd hears of nothing
3    heal
4    slow bob cyd 200ms
5    kill bob
6    return bob
7.5  end
"""


def demo(*arguments: str | Path, columns: int = 160) -> tuple[int, str, str]:
    """Run it; returns exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "demos", "gossip", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": str(columns), "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def rows_of(text: str) -> list[str]:
    """The names of the checks in a closing table, drawn or in the docstring, without numbers."""
    names = re.findall(r"^(?:│ |    )(\S.*?)(?:  | │).*\b(?:ok|FAILED)", text, re.MULTILINE)
    return [re.sub(r"(ada|bob|\.\.\.|\d+(\.\d+)?)", "#", name) for name in names]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A script of eight seconds."""
    path = tmp_path / "script"
    path.write_text(SHORT, encoding="utf-8")
    return path


@pytest.mark.demo
@pytest.mark.processes
def test_three_processes_converge_through_a_partition_a_slow_link_and_a_kill(short: Path) -> None:
    """Every check holds, exit status 0; the table is the one that the docstring shows."""
    status, output, errors = demo("--nodes", 3, "--script", short)
    assert status == 0, output + errors
    assert errors == ""
    assert "partition ada | bob cyd" in output
    assert "SIGKILL to bob" in output
    assert re.search(r"\d+ writes acknowledged; 0 lost", output), output
    assert re.search(r"\d+ KiB sent in all; \d+ full states", output), output
    assert "3 of 3 know 2 others" in output
    assert "everybody has it:" in output
    assert "\x1b" not in output, "no terminal, no colours"
    assert output.endswith("3 nodes, 2 heals; all 7 checks hold (exit status 0)\n"), output
    assert rows_of(output) == rows_of(demos.gossip.__doc__ or "")


@pytest.mark.demo
@pytest.mark.processes
def test_a_write_that_was_acknowledged_and_never_made_is_found(short: Path) -> None:
    """The hidden switch drops one; the check names it, and the exit status is 1."""
    status, output, errors = demo("--nodes", 3, "--script", short, "--drop", 7, columns=200)
    assert status == 1, output + errors
    assert "ada.1.7 is missing" in output
    assert output.endswith("a check FAILED (exit status 1)\n")


@pytest.mark.demo
@pytest.mark.parametrize(("drop", "status"), [(0, 0), (3, 1)], ids=["whole", "one dropped"])
def test_the_same_script_on_virtual_time(short: Path, drop: int, status: int) -> None:
    """The curve is printed, the same checks decide, in a narrow terminal, too."""
    found, output, errors = demo("--simulate", 8, "--script", short, "--drop", drop, columns=40)
    assert found == status, output + errors
    assert re.search(r"^diverged keys [ ▁▂▃▄▅▆▇█]+ \d$", output, re.MULTILINE), output


def test_a_simulated_run_repeats_by_its_seed(short: Path) -> None:
    """Every line is the same again."""
    runs = [demo("--simulate", 4, "--script", short, "--seed", 5)[1] for _ in range(2)]
    assert runs[0] == runs[1]


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.demo
@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_ended_leaves_no_process(how: signal.Signals) -> None:
    """However it ends, its nodes end, too."""
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "demos", "gossip", "--nodes", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert "have met" in running.stdout.readline()
        nodes = children_of(running.pid)
        assert len(nodes) == 2
        running.send_signal(how)
        _, errors = running.communicate(timeout=30)
        if how is not signal.SIGKILL:
            assert running.returncode == 5
            assert errors == "interrupted: every process was stopped\n"
        deadline = time.monotonic() + 30
        while any(map(lives, nodes)):
            assert time.monotonic() < deadline, "a node outlived its demo"
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()


@pytest.mark.processes
def test_the_demos_are_listed_with_a_line_and_a_time_each() -> None:
    """`python -m demos`."""
    done = subprocess.run(
        [sys.executable, "-m", "demos", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(DEMOS)
    assert all(re.search(r"\d+ s", line) for line in lines), done.stdout


# -- scripts


def test_a_script_is_read_as_it_is_written() -> None:
    """`rest` is whoever was not named; an end is added if there is none."""
    assert read("0 partition ada cyd | rest\n2.5 slow bob rest 30ms # now\n\n3 heal", NAMES) == [
        Step(0.0, "partition", (("ada", "cyd"), ("bob", "dee", "eve"))),
        Step(2.5, "slow", (("bob",), ("ada", "cyd", "dee", "eve")), 0.03),
        Step(3.0, "heal"),
        Step(9.0, "end"),
    ]
    assert read("1 partition alone", NAMES)[0].groups == tuple((name,) for name in NAMES)


@pytest.mark.parametrize("count", [2, 3, 5, 20, 200])
@pytest.mark.parametrize("seed", range(5))
def test_a_rolled_script_can_be_carried_out(count: int, seed: int) -> None:
    """For any number of nodes; everybody is on one side, and who is killed returns."""
    names = names_of(count)
    assert len(set(names)) == count
    steps = rolled(names, seed)
    assert steps == rolled(names, seed)
    assert [step.verb for step in steps] == [
        *("partition", "heal", "slow", "heal", "kill", "return", "end")
    ]
    assert sorted(name for side in steps[0].groups for name in side) == sorted(names)
    assert steps[-1].at_s < 40, "a run takes less than a minute"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no step in it"),
        ("soon heal", "'soon' is no second"),
        ("601 heal", "no second from 0 to 600"),
        ("-1 heal", "no second"),
        ("1 explode ada", "no verb is called 'explode'"),
        ("1", "no verb is called ''"),
        ("2 heal\n1 heal", ":2: second 1 is before 2"),
        ("1 end\n2 heal", ":2: a step after the end"),
        ("1 heal ada", "heal takes no names"),
        ("1 kill", "kill is of one node"),
        ("1 kill zed", "no node is called 'zed'"),
        ("1 kill ada\n2 kill ada", "ada was killed already"),
        ("1 return ada", "ada runs"),
        ("1 kill ada\n1 kill bob\n1 kill cyd\n1 kill dee\n1 kill eve", "eve is the last one"),
        ("1 partition ada", "a partition has two sides"),
        ("1 partition ada |", "a partition has two sides"),
        ("1 partition ada | ada bob", "on two sides"),
        ("1 partition ada bob cyd dee eve | rest", "`rest` is a side of its own"),
        ("1 partition ada rest | bob", "`rest` is a side of its own"),
        ("1 slow ada bob", "a slow link has two ends"),
        ("1 slow ada bob 0ms", "a delay is 1 to 5000 ms"),
        ("1 slow ada bob 9999ms", "a delay is 1 to 5000 ms"),
        ("1 slow ada ada 9ms", "on two sides"),
        ("1 heal\n" * 1001, ":1001: more than 1000 steps"),
    ],
)
def test_a_script_that_cannot_be_carried_out_is_refused_by_its_line(
    text: str, message: str
) -> None:
    """Before anything starts, with what the line should look like."""
    with pytest.raises(ScriptError) as refused:
        read(text, NAMES, "file")
    assert message in str(refused.value)
    assert str(refused.value).startswith("file:")
    assert refused.value.hint


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "1"], "a number from 2 to 20, not '1'"),
        (["--simulate", "201"], "a number from 2 to 200"),
        (["--script", "none"], "error: cannot read none"),
        (["--script", "/"], "error: cannot read /"),
        (["--script", sys.executable], "it is not text"),
        (["--by-hand"], "error: --by-hand wants a terminal"),
        (["--by-hand", "--script", "x"], "not allowed with"),
        (["--ui", "--simulate", "3"], "--ui shows real nodes"),
    ],
)
def test_a_mistake_is_one_message_and_starts_nothing(arguments: list[str], message: str) -> None:
    """Exit status 2, no traceback."""
    status, output, errors = demo(*arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert "Traceback" not in errors


def test_each_key_is_a_step_where_it_can_be_done() -> None:
    """The last one that runs cannot be killed, and nobody returns who runs."""
    assert step_of("k", 1.0, ("ada", "bob"), set()) == Step(1.0, "kill", (("bob",),))
    assert step_of("k", 1.0, ("ada", "bob"), {"bob"}) is None
    assert step_of("r", 1.0, ("ada", "bob"), {"bob"}) == Step(1.0, "return", (("bob",),))
    assert step_of("r", 1.0, ("ada", "bob"), set()) is None
    assert step_of("\x1b", 1.0, ("ada", "bob"), set()) is None
    verbs = [getattr(step_of(key, 1.0, NAMES, set()), "verb", "") for key in "pashq"]
    assert verbs == ["partition", "partition", "slow", "heal", "end"]


# -- the ledger


class Place:
    """A replica's values that a test may spoil, made by the writes of three nodes."""

    def __init__(self, acked: int = 30, made: int = 33) -> None:
        from crdt import Kernel

        self.ledger = Ledger(7)
        kernel = Kernel("here~1")
        for number in range(1, made + 1):
            place = ("ada", 1, number)
            self.ledger.note(place, acked=False)
            load.carry_out(load.write(7, place), kernel.document)
            if number <= acked:
                self.ledger.note(place, acked=True)
        self.values = load.values(kernel.document)


def test_what_was_written_is_neither_lost_nor_invented() -> None:
    """Acknowledged or not: what was said to be written may be there."""
    world = Place()
    assert world.ledger.compare(world.values) == ([], [])
    assert set(world.values) == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_each_kind_of_loss_and_invention_is_found(key: str) -> None:
    """A counter too low or too high, a tag missing, back or foreign, a status overwritten."""
    world = Place()
    if key.startswith("orders/"):
        wrong = [({key: 0}, 0), ({key: 10_000}, 1)]
    elif key.startswith("status/"):
        before = next(p for p in sorted(world.ledger.acked) if world.ledger.wrote[p].status == key)
        wrong = [({key: None}, 0), ({key: list(before)}, 0), ({key: ["eve", 1, 1]}, 1)]
    else:
        gone = [w.element for w in world.ledger.wrote.values() if w.removes and w.tags == key]
        wrong = [({key: []}, 0), ({key: [*world.values[key], "eve.1.1"]}, 1)]
        wrong += [({key: [*world.values[key], gone[0]]}, 0)] if gone else []
    for change, which in wrong:
        found = world.ledger.compare({**world.values, **change})
        assert found[which], (change, found)


def test_a_sparkline_loses_no_peak() -> None:
    """The greatest of each piece; nothing is an empty bar."""
    assert sparkline([0, 1, 8], 3) == " ▁█"
    line = sparkline([0] * 50 + [9] + [0] * 50, 10)
    assert line.count("█") == 1
    assert len(line) <= 10


@pytest.mark.demo
@pytest.mark.processes
@pytest.mark.parametrize("words", [["gossip", "--simulate", "5"], ["meetings", "--help"]])
def test_demos_of_the_packages_below_do_not_need_the_face(tmp_path: Path, words: list[str]) -> None:
    """With a `convoca` that cannot be imported they run: it is a face, and no fourth engine."""
    (tmp_path / "convoca.py").write_text('raise ImportError("the face is gone")')
    root = Path(__file__).resolve().parent.parent.parent
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    done = subprocess.run(
        [sys.executable, "-m", "demos", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "the face is gone" not in done.stderr
    assert done.returncode == 0, done.stderr

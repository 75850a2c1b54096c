"""The teams demo as a user starts it: real processes, real kills, exit status, what it prints."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import demos.teams

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments: str) -> tuple[int, str, str]:
    """Run it; returns exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "demos", "teams", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.demo
@pytest.mark.processes
def test_every_job_is_done_once_whoever_is_killed() -> None:
    """All checks hold, and the table is the one of the module's text."""
    status, output, errors = demo("--jobs", "120", "--workers", "6", "--kills", "3")
    assert status == 0, output + errors
    assert errors == ""
    assert output.count("SIGKILL to worker") == 3
    assert "a person requeued" in output
    assert output.endswith(
        "120 jobs done by 6 workers, 3 of them killed; all 5 checks hold (exit status 0)\n"
    )
    said = [line.strip()[:38].strip() for line in (demos.teams.__doc__ or "").splitlines()]
    for check in ("every job is done", "every job had its effect once", "no lane ran more than"):
        assert check in output
        assert any(line.startswith(check) for line in said)


@pytest.mark.demo
@pytest.mark.processes
def test_an_effect_that_is_missing_is_found() -> None:
    """Counterexample on purpose: one worker leaves an effect out, and the run fails."""
    status, output, _ = demo("--jobs", "20", "--workers", "3", "--kills", "0", "--drop", "3-wrap")
    assert status == 1
    assert "1 missing" in output
    assert "a check FAILED (exit status 1)" in output


@pytest.mark.parametrize("words", [("--jobs", "3"), ("--workers", "0"), ("--kills", "-1")])
def test_what_makes_no_sense_is_one_line(words: tuple[str, str]) -> None:
    """Usage, exit status 2."""
    with pytest.raises(SystemExit) as caught:
        demos.teams.main(list(words))
    assert caught.value.code == 2


def descendants(of: int) -> list[int]:
    """The processes that this one has started, and those that they have."""
    told = subprocess.run(
        ["/bin/ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in told.stdout.splitlines()[1:]]
    found, ahead = [], [of]
    while ahead:
        parent = ahead.pop()
        children = [pid for pid, ppid in pairs if ppid == parent]
        found += children
        ahead += children
    return found


def lives(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


@pytest.mark.demo
@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc tells who lives")
def test_a_killed_demo_leaves_no_process() -> None:
    """SIGKILL to the director: its workers and the authority that they share end by themselves."""
    director = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "demos",
            "teams",
            "--jobs",
            "240",
            "--workers",
            "3",
            "--kills",
            "24",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert director.stdout is not None
    director.stdout.readline()  # it has begun: this is a remark of the first kill, or the end
    started = descendants(director.pid)
    assert len(started) >= 4
    director.kill()
    director.wait()
    director.stdout.close()
    for _ in range(200):
        if not any(map(lives, started)):
            return
        time.sleep(0.1)
    pytest.fail(f"these live on: {[pid for pid in started if lives(pid)]}")

"""`python -m transactional queue`: workers written in shell, and people who look and intervene."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import transactional
from transactional.__main__ import main
from transactional.cli import queues
from transactional.stores.memory import MemoryStore

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority in a process of its own: claims outlive the command that made them."""
    file = tmp_path_factory.mktemp("queues") / "store.db"
    words = [sys.executable, "-m", "transactional", "serve", str(file), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[2]
        process.terminate()


@pytest.fixture
def run(authority, capfd):
    """Run a verb on a queue of the test's own; its rows, or the line on stderr and the status."""
    name = secrets.token_hex(4)

    def call(verb: str, queue: str, *words: str, store: str = authority):
        before, program = [*words], []
        if "--" in before:
            at = before.index("--")
            before, program = before[:at], before[at:]
        mine = queue and f"{name}{queue}"
        status = main(["queue", verb, mine, *before, "--store", store, "-o", "json", *program])
        out, err = capfd.readouterr()
        if status:
            assert len(err.splitlines()) <= 1
            return err, status
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    call.name, call.store = name, authority
    return call


def test_a_job_s_life_by_hand(run):
    """Put, claim, checkpoint, done; another process each time, and the claim holds."""
    (put,) = run("put", "q", "T-1", '{"n": 1}', "--priority", "2", "--lane", "acme")
    assert (put["state"], put["priority"], put["lane"]) == ("ready", 2, "acme")
    assert run("put", "q", "T-1", '{"n": 1}', "--priority", "2", "--lane", "acme") == [put]
    run("put", "q", "T-2", "--after", "T-1")
    (claim,) = run("claim", "q", "--worker", "ann")
    assert (claim["id"], claim["payload"], claim["attempt"]) == ("T-1", {"n": 1}, 1)
    run("checkpoint", "q", "T-1", '"half"', "--claim", claim["claim"])
    (shown,) = run("show", "q", "T-1")
    assert (shown["state"], shown["worker"], shown["checkpointed"]) == ("claimed", "ann", "half")
    (done,) = run("done", "q", "T-1", "--claim", claim["claim"], "--result", "7")
    assert (done["state"], done["result"]) == ("done", "7")
    err, status = run("done", "q", "T-1", "--claim", claim["claim"] + "9")
    assert status == 1
    assert json.loads(err)["code"] == "claim_lost"
    (claim,) = run("claim", "q")
    assert claim["id"] == "T-2"


def test_a_program_is_a_worker(run):
    """The exit status decides; the job is on standard input."""
    script = (
        "import json,os,sys; job=json.load(sys.stdin); print(job['id']); sys.exit(job['payload'])"
    )
    for job, status in (("fine", 0), ("broken", 100), ("weak", 3)):
        run("put", "q", job, str(status))
    run("rules", "q", "--attempts", "2")
    program = ("--", sys.executable, "-c", script)
    run("claim", "q", "--count", "4", *program)
    assert {row["state"]: row["jobs"] for row in run("list", "q")} == {
        "waiting": 0, "ready": 0, "claimed": 0, "done": 1, "parked": 2, "cancelled": 0,
    }  # fmt: skip
    parked = {row["id"]: row["error"] for row in run("list", "q", "parked")}
    assert parked["weak"] == "exit status 3"
    assert "no attempt can help" in parked["broken"]
    err, status = run("claim", "q", *program)
    assert (json.loads(err)["code"], status) == ("not_found", 1)


def test_what_people_do_with_parked_jobs(run):
    """Requeue, skip, cancel; and what cannot be done is one line."""
    for job in ("a", "b", "c"):
        run("put", "q", job)
        (claim,) = run("claim", "q")
        run("fail", "q", job, "broken", "--claim", claim["claim"])
    assert run("requeue", "q", "a")[0]["state"] == "ready"
    assert run("skip", "q", "b", "--result", "1")[0]["state"] == "done"
    assert run("cancel", "q", "c", "--reason", "no need")[0]["error"] == "no need"
    err, status = run("skip", "q", "b")
    assert (json.loads(err)["code"], status) == ("job_state", 1)
    err, status = run("show", "q", "z")
    assert (json.loads(err)["code"], status) == ("unknown_job", 1)
    (claim,) = run("claim", "q")
    run("retry", "q", "a", "later", "--in", "60", "--claim", claim["claim"])
    assert run("show", "q", "a")[0]["state"] == "waiting"


def test_a_claim_on_a_file_needs_a_program(run, tmp_path):
    """It would be over with the command: said before anything is claimed."""
    store = f"sqlite:{tmp_path / 'store.db'}"
    run("put", "q", "a", store=store)
    err, status = run("claim", "q", store=store)
    assert (status, "serve it" in err) == (1, True)
    run("claim", "q", "--", "true", store=store)
    assert run("show", "q", "a", store=store)[0]["state"] == "done"


def running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(pid: int) -> None:
    """Wait until it is gone: who was killed may have a last moment of the processor to come."""
    for _ in range(400):
        if not running(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} lives on")


def wait_for(file: Path) -> int:
    """The number that a program writes there."""
    for _ in range(400):
        if file.exists() and (text := file.read_text()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError(f"nothing came to {file}")


def test_a_worker_that_is_told_to_end_ends_its_program(run, authority, tmp_path):
    """Nobody works on under a claim that goes to the next; the job goes back untried."""
    (put,) = run("put", "q", "a")
    name, told = run.name + "q", tmp_path / "pid"
    words = [sys.executable, "-m", "transactional", "queue", "claim", name, "--store", authority]
    program = ["sh", "-c", f"echo $$ > {told}; sleep 60; true"]
    with subprocess.Popen([*words, "--", *program]) as worker:
        pid = wait_for(told)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 128 + signal.SIGTERM
    ended(pid)
    (shown,) = run("show", "q", "a")
    assert (shown["state"], shown["attempts"]) == (put["state"], 0) == ("ready", 0)
    assert [attempt["ended"] for attempt in shown["history"]] == ["released"]


def test_a_worker_that_is_told_to_end_as_its_program_begins_ends_it(run, authority, tmp_path):
    """Counterexample: it died of the signal, and the program worked on without a claim."""
    run("put", "q", "a")
    told = tmp_path / "pid"
    words = [sys.executable, "-m", "transactional", "queue", "claim", run.name + "q"]
    program = ["sh", "-c", f"kill -TERM $PPID; echo $$ > {told}; sleep 60"]
    done = subprocess.run([*words, "--store", authority, "--", *program], check=False)
    assert done.returncode == 128 + signal.SIGTERM
    if told.exists():  # it may have been ended before it came to that
        ended(wait_for(told))
    assert run("show", "q", "a")[0]["state"] == "ready"


def test_what_a_program_started_ends_with_it(run, authority, tmp_path):
    """A script that loses its job is ended, and so is what it waits for."""
    run("put", "q", "a")
    told = tmp_path / "pid"
    queue = f"{sys.executable} -m transactional queue"
    script = f"sleep 60 & echo $! > {told}; {queue} cancel {run.name}q a --store {authority}; wait"
    err, status = run("claim", "q", "--lease", "2", "--", "sh", "-c", script)
    assert (json.loads(err)["code"], status) == ("claim_lost", 1)
    ended(wait_for(told))


def test_a_program_that_is_not_there_costs_no_attempt(run, tmp_path):
    """It is said before a job is claimed; what cannot be run after all gives the job back."""
    run("put", "q", "a")
    err, status = run("claim", "q", "--", str(tmp_path / "missing"))
    assert (json.loads(err)["code"], status) == ("invalid_request", 1)
    (no_program := tmp_path / "no-program").write_bytes(b"\x7fELF")
    no_program.chmod(0o755)
    err, status = run("claim", "q", "--", str(no_program))
    assert (json.loads(err)["code"], status) == ("os", 1)
    (shown,) = run("show", "q", "a")
    assert (shown["state"], shown["attempts"]) == ("ready", 0)


def test_a_job_that_no_program_can_be_told_is_parked(run, authority):
    """A null byte fits into no environment: a person hears of it, and the worker goes on."""

    async def put() -> None:
        async with transactional.open(authority) as store:
            await transactional.WorkQueue(store, f"{run.name}q").put("a\0b")

    asyncio.run(put())
    _err, status = run("claim", "q", "--", "true")
    assert status == 100
    (parked,) = run("list", "q", "parked")
    assert "null byte" in parked["error"]


def test_a_program_need_not_read_its_job(run):
    """A large payload that nobody reads, while something that it started lives on: it is over."""
    run("put", "q", "a", json.dumps("x" * 120_000))
    script = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3)"
    run("claim", "q", "--", sys.executable, "-c", script)
    assert run("show", "q", "a")[0]["state"] == "done"


def test_numbers_are_judged_before_a_job_is_claimed(run):
    """What would fail when the program has ended is refused before it began."""
    run("put", "q", "a")
    for words in (("--count", "-1"), ("--retry-in", "-1"), ("--retry-in", "nan")):
        err, status = run("claim", "q", *words, "--", "false")
        assert (json.loads(err)["code"], status) == ("invalid_request", 1)
    assert run("show", "q", "a")[0]["attempts"] == 0


def test_a_claim_steers_no_terminal(run, capfd):
    """Of a payload that holds what a terminal obeys its escape is printed, by every verb."""
    run("put", "q", "a", json.dumps("\x9b31m\u202e"))
    name = f"{run.name}q"
    for words in (["claim", name], ["show", name, "a"], ["list", name, "claimed"]):
        assert main(["queue", *words, "--store", run.store, "-o", "json"]) == 0
        out = capfd.readouterr().out
        assert out.isprintable() or out.rstrip("\n").isprintable()
        assert "\\u009b31m" in out


async def test_the_end_of_a_job_is_told_as_long_as_it_is_ours(monkeypatch, capsys):
    """The work is done and the store is away: it is asked again, until the claim is over."""
    monkeypatch.setattr(queues, "AGAIN_S", 0.0)
    queue = transactional.WorkQueue(MemoryStore(), "q")
    await queue.put("a")
    (job,) = await queue.claim("ann")
    errors = [transactional.UnavailableError("away"), transactional.OutcomeUnknownError("op", "")]

    async def done() -> None:
        if errors:
            raise errors.pop()
        await job.done(7)

    await queues._insist(job, done)
    assert capsys.readouterr().err.count("tried again") == 2
    told = await queue.get("a")
    assert told is not None
    assert told.result == 7
    job.lost.set()
    errors.append(transactional.UnavailableError("away"))
    with pytest.raises(transactional.UnavailableError):
        await queues._insist(job, done)
    await queue.close()


@pytest.mark.parametrize(
    "words",
    [
        ("put", "q", "a", "{"),
        ("put", "q", "a", "--not-before", "tomorrow"),
        ("put", "q", "a", "--not-before", "2030-01-01"),
        ("put", "q", "a", "--priority", "99999999"),
        ("put", "q", "a", "--after", "a"),
        ("claim", "q", "--lease", "nan"),
        ("claim", "q", "--wait", "-1"),
        ("done", "q", "a"),
        ("done", "q", "a", "--claim", "x"),
        ("rules", "q", "--lane", "acme"),
        ("rules", "q", "--lane", "acme=0"),
        ("rules", "q", "--keep", "nan"),
        ("put", "", "a"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line(run, words, monkeypatch):
    """No traceback, and a status that says that nothing was written."""
    monkeypatch.delenv("CONVOCA_CLAIM", raising=False)
    _, status = run(*words)
    assert status == 1

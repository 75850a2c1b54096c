"""`python -m transactional queue`: workers written in shell, and people who look and intervene."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest

from transactional.__main__ import main

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

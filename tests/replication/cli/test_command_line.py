"""`python -m replication` against running agents, and on files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys

import pytest

from replication import Agent, Config
from replication.cli.command_line import main, shown
from replication.journal.memory import MemoryJournal
from replication.transport import AdminClient

pytestmark = pytest.mark.processes
SECRET = "a shared secret"


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "replication",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode().strip(), err.decode().strip()


async def test_people_read_and_write_a_running_agent(tmp_path, say):
    """set, add, remove, inc, get: each is the agent's own write, durable when the verb returns."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    async with Agent("ada", secret=SECRET, journal=tmp_path / "ada.db") as ada:
        to = ["--peer", ada.address, "--secret-file", str(secret)]
        assert await run("set", "order/1", "paid", *to) == (0, "", "")
        assert await say("inc", "stock", "5", *to) == (0, "", "")
        assert await say("inc", "stock", "-2", *to) == (0, "", "")
        assert await say("add", "tags", "new", *to) == (0, "", "")
        assert await say("add", "tags", '["a", 1]', "--json", *to) == (0, "", "")
        assert await say("remove", "tags", "new", *to) == (0, "", "")
        assert ada.register("order/1").value == "paid"
        assert (await say("get", "order/1", *to))[1] == "paid"
        assert (await say("get", "stock", *to))[1] == "3"
        assert json.loads((await say("get", "tags", "-o", "json", *to))[1]) == [["a", 1]]
        assert (await say("get", *to))[1].split() == ["order/1", "stock", "tags"]
        assert list(ada.kernel.vector) == [ada.id], "a verb costs no identity"
        told = json.loads((await say("inc", "stock", "-o", "json", *to))[1])
        assert told["writer"] == ada.id
        code, out, err = await say("get", "nothing", *to)
        assert (code, out) == (1, "")
        assert err.startswith("error: there is no document 'nothing'")
        code, _, err = await say("inc", "stock", "--copies", "1", "--timeout", "0.2", *to)
        assert code == 5
        assert "the write stands" in err
        assert ada.counter("stock").value == 5


async def test_explain_names_writers_times_and_losers(say, tmp_path):
    """Two agents write one register while cut: the answer says whose write lost, and to whom."""
    journal = tmp_path / "bob.db"
    async with Agent("ada") as ada, Agent("bob", peers=[ada.address], journal=journal) as bob:
        ada.register("status").set("draft")
        await bob.seen(ada.version(), 10)
        ada.block("bob")
        bob.register("status").set("paid")
        await asyncio.sleep(0.002)  # stamps are milliseconds
        ada.register("status").set("cancelled")
        ada.unblock("bob")
        await bob.seen(ada.version(), 20)
        code, out, _ = await say("explain", "status", "-o", "json", "--peer", bob.address)
        assert code == 0
        shown_, lost, *replaced = json.loads(out)
        assert (shown_["value"], shown_["fate"]) == ('"cancelled"', "shown")
        assert shown_["writer"] == f"{ada.id}:2"
        assert shown_["written"].startswith("20")
        assert shown_["durable here"].startswith("20")
        assert (lost["value"], lost["fate"]) == ('"paid"', f"lost to {ada.id}:2")
        assert [(line["value"], line["writer"]) for line in replaced] == [
            ('"draft"', f"{ada.id}:1")
        ]
        code, out, _ = await say("explain", "status", "--peer", bob.address)
        assert out.splitlines()[0].split()[:4] == ["type", "place", "value", "fate"]
        assert (await say("explain", "nothing", "--peer", bob.address))[0] == 1


async def test_explain_shows_replaced_values_and_says_where_they_end(say):
    """Seen by two; not by the one that came later, or looks back too far, or keeps none."""
    async with Agent("ada") as ada, Agent("bob", peers=[ada.address]) as bob:
        ada.register("status").set("draft")
        await bob.seen(ada.version(), 10)
        bob.register("status").set("paid")
        await ada.seen(bob.version(), 10)
        for peer in (ada, bob):  # the one overwrote it, the other saw it overwritten
            code, out, _ = await say("explain", "status", "-o", "json", "--peer", peer.address)
            _, replaced = json.loads(out)
            assert (code, replaced["value"]) == (0, '"draft"')
            assert replaced["fate"] == f"replaced by {bob.id}:1"
            assert replaced["writer"] == f"{ada.id}:1"
        nothing = Config(replaced_bytes_max=0)
        async with (
            Agent("cyd", peers=[ada.address]) as cyd,
            Agent("dan", peers=[ada.address], config=nothing) as dan,
        ):
            for late in (cyd, dan):
                await late.seen(ada.version(), 10)
            out = (await say("explain", "status", "-o", "json", "--peer", cyd.address))[1]
            assert [line["value"] for line in json.loads(out)][1:] == ["(never seen here)"]
            out = (await say("explain", "status", "--peer", cyd.address))[1]
            assert "(never seen here)" in out.splitlines()[-1]
            out = (await say("explain", "status", "-o", "json", "--peer", dan.address))[1]
            assert "replaced_bytes_max is 0" in json.loads(out)[-1]["value"]
        for number in range(120):
            ada.register("status").set(number)
        out = (await say("explain", "status", "-o", "json", "--peer", ada.address))[1]
        lines = json.loads(out)
        assert [line["value"] for line in lines[1:101]] == [str(n) for n in range(118, 18, -1)]
        assert lines[-1]["value"] == "(older values are forgotten here: 100 kept)"
        out = (await say("explain", "status", "--peer", ada.address))[1]
        assert "(older values are forgotten here: 100 kept)" in out.splitlines()[-1]


async def test_an_agent_that_starts_again_says_what_it_does_not_know(tmp_path, say):
    """The history is of one life, and not on disk."""
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        ada.register("status").set("a secret")
        ada.register("status").set("paid")
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        ada.register("status").set("sent")
        lines = json.loads((await say("explain", "status", "-o", "json", "--peer", ada.address))[1])
        assert [line["value"] for line in lines[:2]] == ['"sent"', '"paid"']
        assert "before this agent started" in lines[-1]["value"]
        assert "a secret" not in str(lines)


async def test_cut_heal_members_diff_stats_and_doctor_tell_of_a_partition(say):
    """A cut is seen by diff and doctor (exit code 1), and both are content after heal."""
    async with (
        Agent("ada", journal=MemoryJournal()) as ada,
        Agent("bob", journal=MemoryJournal(), peers=[ada.address]) as bob,
    ):
        await bob.seen(ada.version(), 10)
        ada.counter("n").increment(1)
        await ada.replicated(ada.version(), 1, 10)
        assert await say("cut", "bob", "--peer", ada.address) == (0, "", "")
        ada.counter("n").increment(1)
        await ada.durable()
        code, out, _ = await say("diff", ada.address, bob.address, "-o", "json")
        assert (code, json.loads(out)) == (0, [{"origin": ada.id, ada.id: 2, bob.id: 1}])
        code, _, err = await say("doctor", "--peer", bob.address)
        assert code == 1
        assert "ada: cut off from bob by an operator" in err
        assert await say("heal", "bob", "--peer", ada.address) == (0, "", "")
        assert (await say("heal", "bob", "--peer", ada.address))[0] == 1  # there is none
        await bob.seen(ada.version(), 20)
        assert (await say("diff", ada.address, bob.address))[1] == "equal"
        out = (await say("members", "-o", "json", "--peer", ada.address))[1]
        assert [member["id"] for member in json.loads(out)] == [ada.id, bob.id]
        out = (await say("stats", "-o", "json", "--peer", ada.address))[1]
        assert json.loads(out)["entries"] == 1


async def test_watch_prints_changes_until_the_agent_stops():
    """One line per changed document, from the agent that is asked, whoever wrote it."""
    async with contextlib.AsyncExitStack() as stack:
        ada = await stack.enter_async_context(Agent("ada"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *["-m", "replication", "watch", "order/", "--peer", ada.address],
            stdout=asyncio.subprocess.PIPE,
        )

        async def write() -> None:
            for number in range(1000):
                ada.register("other").set(number)
                ada.orset("order/tags").add(number)
                await asyncio.sleep(0.05)

        writing = asyncio.create_task(write())
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        writing.cancel()
        assert line.decode().split()[:2] == ["order/tags", "ORSet"]
        await stack.aclose()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def up(*arguments: str) -> tuple[asyncio.subprocess.Process, dict]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", "replication", "up", *arguments],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return process, json.loads(await asyncio.wait_for(process.stdout.readline(), 30))


async def test_an_agent_runs_until_sigterm_and_its_journal_can_be_backed_up(tmp_path, say):
    """[replication 28] SIGTERM: leaves, flushes, last push to two peers, a clean stop within 5 s.

    Then backup, restore and doctor on what it left.
    """
    journal, backup = str(tmp_path / "ada.db"), str(tmp_path / "backup.db")
    async with Agent("bob") as bob, Agent("cyd", peers=[bob.address]) as cyd:
        process, started = await up(
            *["ada", "--journal", journal, "--peer", bob.address],
            *["--log-level", "info", "--log-format", "json"],
        )
        while len(bob.members()) < 2 or len(cyd.members()) < 2:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
        assert (await say("add", "tags", "x", "--peer", started["address"]))[0] == 0
        code, _, err = await say("backup", journal, backup)
        assert code == 1
        assert "held by another process" in err
        process.send_signal(signal.SIGTERM)
        _, told = await asyncio.wait_for(process.communicate(), 5)
        assert process.returncode == 0
        lines = [json.loads(line) for line in told.decode().splitlines()]
        assert [line["event"] for line in lines] == ["started", "order", "stopping", "stopped"]
        for other in (bob, cyd):
            assert other.orset("tags").value == {"x"}
        left = {m.name: m.status.name for m in bob.members()} | {
            m.name: m.status.name for m in cyd.members()
        }
        assert left["ada"] == "LEFT"
    assert (await say("backup", journal, backup))[0] == 0
    assert (await say("restore", backup, journal))[0] == 1  # nothing is overwritten
    assert (await say("restore", backup, str(tmp_path / "new.db")))[0] == 0
    code, out, _ = await say("doctor", str(tmp_path / "new.db"), "-o", "json")
    found = json.loads(out)
    assert (code, found["verdict"], found["continuous"]) == (0, "adds up", False)


async def test_a_restore_beside_a_left_over_log_is_the_backup_and_says_what_it_moved(tmp_path, say):
    """The agent was killed and its file removed; its log stayed, and would be played into this."""
    journal, backup = tmp_path / "ada.db", tmp_path / "backup.db"
    async with Agent("ada", journal=journal) as ada:
        ada.counter("n").increment(1)
    assert (await say("backup", str(journal), str(backup)))[0] == 0
    process, started = await up("ada", "--journal", str(journal))
    assert (await say("inc", "n", "41", "--peer", started["address"]))[0] == 0
    process.kill()
    await process.communicate()
    journal.unlink()
    code, out, _ = await say("restore", str(backup), str(journal))
    assert code == 0
    assert "ada.db-wal.aside-1" in out
    async with Agent("ada", journal=journal) as ada:
        assert ada.counter("n").value == 1


async def test_a_restore_of_what_is_no_journal_fails_and_leaves_nothing(tmp_path, say):
    """Success is told of a file that was opened, and of no other."""
    (tmp_path / "backup.db").write_bytes(
        b"not a journal, but long enough to be read as a page" * 99
    )
    code, _, err = await say("restore", str(tmp_path / "backup.db"), str(tmp_path / "ada.db"))
    assert code == 1
    assert "hint:" in err
    assert not (tmp_path / "ada.db").exists()


async def test_a_second_sigterm_stops_at_once(tmp_path):
    """[replication 28] (second signal) It waits for a peer that hangs; the next one ends that."""
    bob, told = await up("bob")
    ada, _ = await up(
        *["ada", "--journal", str(tmp_path / "a.db"), "--peer", told["address"]],
        *["--log-level", "info"],
    )
    try:
        client = AdminClient(told["address"])
        while not json.loads(await client.get("/status"))["members"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
        bob.send_signal(signal.SIGSTOP)
        ada.send_signal(signal.SIGTERM)
        while b"stopping" not in (line := await ada.stderr.readline()):
            assert line
        ada.send_signal(signal.SIGTERM)
        await asyncio.wait_for(ada.communicate(), 5)
        assert ada.returncode == -signal.SIGTERM
    finally:
        bob.kill()
        await bob.communicate()
    again, _ = await up("ada", "--journal", str(tmp_path / "a.db"))  # nothing is left locked
    again.send_signal(signal.SIGTERM)
    await asyncio.wait_for(again.communicate(), 10)
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["get", "x", "--peer", "127.0.0.1:9"], 3),
        (["get", "x", "--peer", "nowhere"], 1),
        (["doctor", "/nonexistent/x.db"], 1),
        (["doctor"], 1),
        (["up", "ada", "--listen", "0.0.0.0:0"], 1),
        (["up", "ada", "--secret-file", "/nonexistent"], 1),
        (["get", "x"], 2),
        (["inc", "x", "many", "--peer", "127.0.0.1:9"], 1),
        (["set", "x", "{", "--json", "--peer", "127.0.0.1:9"], 1),
    ],
)
async def test_a_bad_command_is_one_line_and_a_code(arguments, code, say):
    """Never a traceback: 1 for what failed, 2 for what was said wrongly."""
    if code == 2:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        return
    got, out, err = await say(*arguments)
    assert got == code
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")


async def test_an_agent_that_does_not_answer_is_a_timeout(say):
    """Exit code 3, not a hang."""
    with socket.create_server(("127.0.0.1", 0)) as hung:  # the kernel accepts, nobody answers
        address = f"127.0.0.1:{hung.getsockname()[1]}"
        code, _, err = await say("get", "x", "--peer", address, "--timeout", "0.2")
    assert code == 3
    assert address in err


def test_answers_are_shown_as_asked():
    """A table has aligned columns and a head, plain has tabs and none, JSON is JSON."""
    rows = [{"id": "ada", "lag": 0}, {"id": "cy", "lag": 12}]
    assert shown(rows, "table") == "id   lag\nada  0\ncy   12"
    assert shown(rows, "plain") == "ada\t0\ncy\t12"
    assert json.loads(shown(rows, "json")) == rows
    assert shown({"a": 1, "bcd": 2}, "table") == "a   1\nbcd 2"
    assert shown({"a": 1, "bcd": 2}, "plain") == "a 1\nbcd 2"
    assert shown(["x", "y"], "plain") == "x\ny"


async def started(*arguments: str) -> tuple[asyncio.subprocess.Process, dict[str, str]]:
    """`up` in a process of its own, and what it said when it was ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "replication", "up", *arguments, stdout=asyncio.subprocess.PIPE
    )
    return process, json.loads(await asyncio.wait_for(process.stdout.readline(), 60))


async def test_the_command_line_speaks_mutual_tls_and_rotates_secrets(tmp_path, say, tls_contexts):
    """Two agents from PEM files, one of them dialling out only; a verb needs a certificate too."""
    tls_contexts("all")
    pem, key = str(tmp_path / "all.pem"), str(tmp_path / "all.key")
    tls = ["--tls-cert", pem, "--tls-key", key, "--tls-ca", pem]
    old, both = tmp_path / "old", tmp_path / "both"
    old.write_text("the old secret\n")
    both.write_text("the new secret\nthe old secret\n")
    old.chmod(0o600)
    both.chmod(0o600)
    ada, said = await started(
        "ada", *tls, "--secret-file", str(both), "--journal", str(tmp_path / "ada.db")
    )
    to = ["--peer", said["address"]]
    nat, _ = await started(
        *["nat", "--listen", "", "--hub", said["address"], *tls, "--secret-file", str(both)],
        *["--journal", str(tmp_path / "nat.db")],
    )
    try:
        known = [*tls, "--secret-file", str(old)]
        code, _, err = await say("set", "x", "1", "--copies", "1", *to, *known)
        assert (code, err) == (0, ""), "the previous secret still opens"
        assert (await say("get", "x", *to, *tls, "--secret-file", str(both)))[1] == "1"
        for stranger in (["--secret-file", str(old)], [*known[-2:], "--tls-ca", pem]):
            code, out, err = await say("get", "x", *to, *stranger)
            assert (code, out) == (3, "")
            assert err.startswith(f"error: {said['address']}: ")
        code, out, err = await say("get", "x", *to, "--tls-cert", str(old))
        assert (code, out) == (1, "")
        assert err.startswith("error: TLS cannot be set up: ")
        code, out, err = await say("up", "eve", "--tls-ca", pem)
        assert (code, out) == (1, "")
        assert "needs a certificate" in err
    finally:
        for process in (nat, ada):
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0

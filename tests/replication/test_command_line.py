"""`python -m replication` against a running agent, and on files."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

from replication import Agent

pytestmark = pytest.mark.processes


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


async def test_people_read_and_write_a_running_cluster(tmp_path):
    """set, add, inc, get, explain, members: through one address, with the cluster's secret."""
    secret = tmp_path / "secret"
    secret.write_text("a shared secret\n")
    async with Agent("ada", secret="a shared secret") as ada:
        to = ["--peer", ada.address, "--secret-file", str(secret)]
        assert await run("set", "order/1", "paid", *to) == (0, "", "")
        assert await run("inc", "stock", "5", *to) == (0, "", "")
        assert ada.register("order/1").value == "paid"
        assert ada.counter("stock").value == 5
        assert (await run("get", "order/1", *to))[1] == "paid"
        code, out, _ = await run("explain", "order/1", "-o", "json", *to)
        assert code == 0
        assert "paid" in json.loads(out)[0]["entries"]
        code, out, err = await run("get", "nothing", *to)
        assert (code, out) == (1, "")
        assert err.startswith("error: there is no document")
        assert len(err.splitlines()) == 1
        code, out, _ = await run("members", "-o", "json", *to)
        assert {member["status"] for member in json.loads(out)} == {"left"}


async def test_an_agent_runs_until_sigterm_and_its_journal_can_be_backed_up(tmp_path):
    """[replication 28] (one agent) SIGTERM: a clean stop within 5 s; backup, restore, doctor."""
    journal, backup = str(tmp_path / "ada.db"), str(tmp_path / "backup.db")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", "replication", "up", "ada", "--journal", journal],
        stdout=asyncio.subprocess.PIPE,
    )
    started = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
    assert (await run("add", "tags", "x", "--peer", started["address"]))[0] == 0
    code, _, err = await run("backup", journal, backup)
    assert code == 1
    assert "held by another process" in err
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 0
    assert (await run("backup", journal, backup))[0] == 0
    assert (await run("restore", backup, journal))[0] == 1  # it exists: nothing is overwritten
    assert (await run("restore", backup, str(tmp_path / "new.db")))[0] == 0
    code, out, _ = await run("doctor", str(tmp_path / "new.db"), "-o", "json")
    assert code == 0
    found = json.loads(out)
    assert (found["verdict"], found["continuous"], found["entries"]) == ("adds up", False, 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["get", "x", "--peer", "127.0.0.1:9"], 1),
        (["get", "x", "--peer", "nowhere"], 1),
        (["doctor", "/nonexistent/x.db"], 1),
        (["up", "ada", "--listen", "0.0.0.0:0"], 1),
        (["up", "ada", "--secret-file", "/nonexistent"], 1),
        (["get", "x"], 2),
    ],
)
async def test_a_bad_command_is_one_line_and_a_code(arguments, code):
    """Never a traceback: 1 for what failed, 2 for what was said wrongly."""
    got, out, err = await run(*arguments)
    assert got == code
    assert out == ""
    assert "Traceback" not in err
    assert code == 2 or len(err.splitlines()) == 1

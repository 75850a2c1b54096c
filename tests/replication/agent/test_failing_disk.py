"""Agents on disks that are full or break: real files, real processes, real errors of the system."""

from __future__ import annotations

import asyncio
import sys

import pytest

from replication import Agent, JournalUnreadableError
from tests.disk_faults import BROKEN, FULL, faulty_disk
from tests.replication.processes import start

SECRET = "a shared secret"


@pytest.mark.processes
@pytest.mark.parametrize(("fault", "says"), [(FULL, "full"), (BROKEN, "I/O")], ids=["full", "EIO"])
async def test_a_failing_disk_stops_writes_and_nothing_else(tmp_path, fault, says, until):
    """[replication 18] (real files) disk full; EIO on fsync.

    Writes fail by type; reads go on, and so does the gossip of what is durable; what the disk did
    not take is told to nobody. The disk mended, the agent goes on by itself; after
    kill -9 all that was ever acknowledged is there.
    """
    disk = faulty_disk(tmp_path, tmp_path / "ada.db")
    journal = str(tmp_path / "ada.db")
    ada = await start("ada", disk.environment, journal=journal)
    try:
        await ada.do("add", value="acknowledged")
        await ada.do("durable")
        disk.fail(fault)
        await ada.do("add", value="in doubt")  # seen here at once; the disk comes later
        refusal = await ada.refusal("durable")
        assert refusal.startswith("JournalFailedError")
        assert says in refusal
        assert (await ada.refusal("add", value="refused")).startswith("JournalFailedError")
        async with Agent("bob", secret=SECRET, peers=[ada.address]) as bob:
            await until(lambda: set(bob.orset("set")) == {"acknowledged"}, 60)
            assert (await ada.do("state"))["set"] == ["acknowledged", "in doubt"]
            disk.mend()
            while "error" in await ada.answer("add", value="after"):  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.05)
            await ada.do("durable")
            everything = {"acknowledged", "in doubt", "after"}
            await until(lambda: set(bob.orset("set")) == everything, 60)
        await ada.kill()
        ada = await start("ada", journal=journal)
        assert set((await ada.do("state"))["set"]) == everything
    finally:
        await ada.kill()


@pytest.mark.processes
async def test_a_witness_that_cannot_be_written_ends_no_commit(tmp_path):
    """Counterexample: ENOSPC on the lock file, after a commit, ended the loop of the agent."""
    disk = faulty_disk(tmp_path, tmp_path / "ada.db.lock")
    journal = str(tmp_path / "ada.db")
    ada = await start("ada", disk.environment, journal=journal)
    try:
        disk.fail(FULL)
        await ada.do("add", value="acknowledged")
        await ada.do("durable")
        await ada.kill()
        ada = await start("ada", journal=journal)
        assert (await ada.do("state"))["set"] == ["acknowledged"]
    finally:
        await ada.kill()


@pytest.mark.processes
async def test_an_agent_does_not_start_on_a_disk_that_is_full(tmp_path):
    """[replication 18] (at the start) by type and with a hint; with room again, it starts."""
    disk = faulty_disk(tmp_path, tmp_path / "ada.db")
    program = """
import asyncio, sys
from replication import Agent, JournalUnreadableError

async def main():
    try:
        async with Agent("ada", journal=sys.argv[1]) as ada:
            print("started", ada.name)
    except JournalUnreadableError as error:
        print(error.code, bool(error.hint))

asyncio.run(main())
"""

    async def said() -> str:
        command = [sys.executable, "-c", program, str(tmp_path / "ada.db")]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=disk.environment
        )
        return (await process.communicate())[0].decode().strip()

    for fault in (FULL, BROKEN):
        disk.fail(fault)
        assert await said() == f"{JournalUnreadableError.code} True"
    disk.mend()
    assert await said() == "started ada"

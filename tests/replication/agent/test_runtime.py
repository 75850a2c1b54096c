"""The runtime: what is opened in which order, the turns of the loop, and how a life ends."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING

import aiohttp
import pytest

from replication import (
    Agent,
    ClosedError,
    Config,
    JournalFailedError,
    ListenError,
)
from replication.addresses import PATH
from replication.agent import runtime
from replication.journal import look
from replication.journal.memory import MemoryJournal
from replication.transport.http import MEDIA_TYPE
from replication.transport.memory import Switchboard
from tests.ports import free_ports

if TYPE_CHECKING:
    from replication.journal.base import Recovered


async def test_a_failing_disk_makes_the_agent_read_only_until_it_works_again(until):
    """[replication 18] typed error, nothing changed, durable state still spreads, recovery.

    What was not saved when the disk failed is visible here, sent to nobody, and saved by a retry.
    """
    journal, board = MemoryJournal(), Switchboard()
    config = Config(journal_retry_s=0.05)
    async with (
        Agent("ada", journal=journal, transport=board.transport("ada:1"), config=config) as ada,
        Agent("bob", transport=board.transport("bob:1"), peers=["ada:1"], config=config) as bob,
    ):
        ada.orset("tags").add("durable")
        await bob.seen(ada.version(), timeout_s=10)
        journal.fail = "no space left on device"
        ada.counter("n").increment(1)
        with pytest.raises(JournalFailedError, match="no space"):
            await ada.durable(timeout_s=5)
        with pytest.raises(JournalFailedError):
            ada.counter("n").increment(1)
        assert ada.counter("n").value == 1
        late = Agent("cyd", transport=board.transport("cyd:1"), peers=["ada:1"], config=config)
        bob._runtime.replica.exchanges.blocked.add("cyd")  # so that cyd can only ask ada
        async with late as cyd:
            await until(lambda: set(cyd.orset("tags")) == {"durable"})
            assert cyd.counter("n").value == 0
        assert bob.counter("n").value == 0
        journal.fail = ""
        await until(lambda: not ada.read_only)
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)
        assert bob.counter("n").value == 2


async def test_a_fault_in_one_step_does_not_end_the_agent(monkeypatch, caplog, until):
    """A step that raises is logged and counted; its exchange runs out, everything else goes on."""
    board, config = Switchboard(), Config(journal_retry_s=0.05)
    async with (
        Agent("ada", transport=board.transport("ada:1"), config=config) as ada,
        Agent("bob", transport=board.transport("bob:1"), peers=["ada:1"], config=config) as bob,
    ):
        await bob.seen(ada.version(), timeout_s=10)
        replica = ada._runtime.replica
        sound = replica.tick

        def faulty(now_s: float):
            monkeypatch.setattr(replica, "tick", sound)
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(replica, "tick", faulty)
        await until(lambda: ada.counts().get("step:raised") == 1)
        bob.counter("n").increment(1)
        await ada.seen(bob.version(), timeout_s=10)
        assert "a fault of ours" in caplog.text


class FailingJournal(MemoryJournal):
    """A disk that can be told to fail, when writes came in between."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def append(self, entry) -> None:
        if self.fails:
            self.begun.set()
            assert self.go_on.wait(30)
            raise JournalFailedError("no space left on the disk of this test")
        super().append(entry)


async def test_writes_made_during_a_commit_that_fails_are_kept(until):
    """A failed commit drops its frames; the effects of that held the rows of later writes.

    They were thrown away: `durable` returned for writes that no row held, and the journal was
    unreadable at the next start.
    """
    board, journal = Switchboard(), FailingJournal()
    ada = Agent("ada", journal=journal, transport=board.transport("a:1"), peers=["b:1"])
    bob = Agent("bob", journal=MemoryJournal(), transport=board.transport("b:1"), peers=["a:1"])
    async with ada, bob:
        names = ada.orset("names")
        names.add("before")
        await ada.replicated(ada.version(), 1, timeout_s=10)
        journal.fails = True
        names.add("first")
        await asyncio.to_thread(journal.begun.wait, 30)  # its commit is under way
        names.add("second")
        journal.go_on.set()
        await until(lambda: ada.read_only)  # the disk's thread knows a moment earlier
        journal.fails = False
        await until(lambda: not ada.read_only)
        names.add("third")
        await ada.durable(timeout_s=10)
    again = Agent("ada", journal=journal, transport=board.transport("a:1"))
    async with again:
        assert set(again.orset("names")) == {"before", "first", "second", "third"}


async def test_half_of_a_documents_own_batch_is_seen_by_nobody(until):
    """An author who waits inside `document.batch()` and then fails must not have told anybody."""
    board = Switchboard()
    ada = Agent("ada", journal=MemoryJournal(), transport=board.transport("a:1"), peers=["b:1"])
    bob = Agent("bob", journal=MemoryJournal(), transport=board.transport("b:1"), peers=["a:1"])
    async with ada, bob:
        names = ada.orset("names")
        names.add("before")
        await ada.replicated(ada.version(), 1, timeout_s=10)

        async def half_a_batch() -> None:
            with names.batch():
                names.add("half")
                await asyncio.sleep(0.3)
                raise KeyError("rolled back")

        with pytest.raises(KeyError):
            await half_a_batch()
        names.add("after")
        await ada.replicated(ada.version(), 1, timeout_s=10)
        assert set(bob.orset("names")) == {"before", "after"}
        await until(lambda: ada.digest() == bob.digest())


async def test_a_cancelled_close_is_carried_through(tmp_path):
    """Whoever closes may be cancelled; the journal is let go of all the same."""
    ada = await Agent("ada", journal=tmp_path / "ada.db").start()
    closing = asyncio.create_task(ada.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await ada.close()
    async with Agent("ada", journal=tmp_path / "ada.db"):
        pass


class SlowJournal(MemoryJournal):
    """A large one: it takes a while to read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_it = threading.Event()

    def open(self) -> Recovered:
        assert self.read_it.wait(30)
        return super().open()


async def test_a_start_on_a_busy_port_leaves_no_journal_behind(tmp_path):
    """A new journal is made when all else that can fail has succeeded."""
    async with Agent("ada") as ada:
        bob = Agent("bob", listen=ada.address, journal=tmp_path / "bob.db")
        with pytest.raises(ListenError):
            await bob.start()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ClosedError):
            bob.version()


async def test_an_agent_that_still_reads_its_journal_is_busy_and_then_there():
    """Its port answers from the first moment: 503 to whoever asks how it is, and to peers."""
    journal, listen = SlowJournal(), f"127.0.0.1:{free_ports(1)[0]}"
    bob = Agent("bob", listen=listen, journal=journal)
    starting = asyncio.create_task(bob.start())
    async with asyncio.timeout(30), aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"http://{listen}/status") as answer:
                    assert answer.status == 503
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
        body, kind = b"a frame", {"Content-Type": MEDIA_TYPE}
        async with client.post(f"http://{listen}{PATH}", data=body, headers=kind) as answer:
            assert answer.status == 503
        journal.read_it.set()
        await starting
        async with client.get(f"http://{listen}/status") as answer:
            assert answer.status == 200
    await bob.close()


async def test_the_log_is_replaced_above_its_limit_over_restarts_too(tmp_path, monkeypatch):
    """Counterexample: bytes were counted from nothing at each start, so short lives never did."""
    limit = 64 * 1024
    monkeypatch.setattr(runtime, "SNAPSHOT_ABOVE_BYTES", limit)
    path = tmp_path / "ada.db"
    replaced, dice = 0, random.Random(1)
    for life in range(12):
        async with Agent("ada", journal=path) as ada:
            ada.register("doc").set(dice.randbytes(20_000))
            await ada.durable()
        held = look(path)
        assert sum(len(row.data) for row in held.rows) <= limit
        replaced += not held.rows
        assert held.boots == life + 1
    assert replaced >= 2


async def test_a_vector_ahead_of_its_rows_is_saved_as_a_whole_state(tmp_path, caplog):
    """Whatever lost the rows of a write: the journal refuses the claim, and holds the state."""
    path = tmp_path / "ada.db"
    async with Agent("ada", journal=path) as ada:
        ada.orset("set").add("lost on its way")
        ada._runtime.replica._pending._rows.clear()
        ada.orset("set").add("x")
        await ada.durable(timeout_s=5)
        assert "vector-ahead" in caplog.text
        ada.orset("set").add("y")
        await ada.durable(timeout_s=5)
        incarnation = ada.id
    async with Agent("ada", journal=path) as again:
        assert set(again.orset("set")) == {"lost on its way", "x", "y"}
        assert again.id == incarnation

"""[crdt 15] A decrement is acknowledged only when durable."""

from __future__ import annotations

import asyncio
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from crdt import BatchOpenError, BoundedCounter, InsufficientRightsError
from replication import (
    Agent,
    JournalFailedError,
    NotYetError,
    UnacknowledgedError,
    UnknownDocumentTypeError,
)
from replication.agent import BlockingAgent
from replication.journal.base import rebuild
from replication.journal.memory import MemoryJournal
from replication.journal.sqlite import SqliteJournal
from replication.transport.memory import Switchboard

if TYPE_CHECKING:
    from replication.journal.base import Journal


class HeldJournal(MemoryJournal):
    """A disk whose commits wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    def append(self, entry) -> None:
        assert self.free.wait(30)
        super().append(entry)


def on_disk(journal: Journal, minimum: int = 0) -> int:
    """The quantity that would come back after a crash at this moment."""
    kernel = rebuild(journal.read(), "somebody~1", None)
    return kernel.document("seats", BoundedCounter.at_least(minimum)).value


async def test_a_decrement_returns_when_it_is_durable_and_not_before(until):
    """[crdt 15] it is seen here at once; its caller hears of it after the commit."""
    journal = HeldJournal()
    async with Agent("ada", journal=journal, transport=Switchboard().transport("a:1")) as ada:
        seats = ada.bounded("seats")
        seats.increment(10)
        await ada.durable()
        journal.free.clear()
        sold = asyncio.create_task(seats.decrement(3))
        await until(lambda: seats.value == 7)
        assert not sold.done()
        assert on_disk(journal) == 10
        with pytest.raises(NotYetError):
            await seats.decrement(1, timeout_s=0.01)
        assert seats.value == 6, "a wait that ran out is no rollback"
        journal.free.set()
        await sold
        assert on_disk(journal) <= 7
        await ada.durable()
        assert on_disk(journal) == 6


async def test_a_decrement_that_cannot_be_persisted_says_so_and_is_told_to_nobody(until):
    """[crdt 15] made but not acknowledged; the next one is refused; a retry settles the first."""
    board, journal = Switchboard(), MemoryJournal()
    ada = Agent("ada", journal=journal, transport=board.transport("a:1"))
    bob = Agent("bob", journal=MemoryJournal(), transport=board.transport("b:1"), peers=["a:1"])
    async with ada, bob:
        seats = ada.bounded("seats")
        seats.increment(10)
        await ada.replicated(ada.version(), 1, timeout_s=10)
        journal.fail = "no space left on device"
        with pytest.raises(UnacknowledgedError, match="decrement of 3 is not durable") as error:
            await seats.decrement(3)
        assert error.value.amount == 3
        assert seats.value == 7
        assert on_disk(journal) == bob.bounded("seats").value == 10
        with pytest.raises(JournalFailedError) as refused:
            await seats.decrement(1)
        assert not isinstance(refused.value, UnacknowledgedError)
        assert seats.value == 7
        journal.fail = ""
        await until(lambda: not ada.read_only)
        await ada.durable(timeout_s=10)
        assert on_disk(journal) == 7
        await until(lambda: bob.bounded("seats").value == 7)


async def test_what_is_not_held_here_cannot_be_taken_here(until):
    """Concurrent callers share the rights of one agent; a transfer brings more."""
    board = Switchboard()
    ada = Agent("ada", journal=MemoryJournal(), transport=board.transport("a:1"))
    bob = Agent("bob", journal=MemoryJournal(), transport=board.transport("b:1"), peers=["a:1"])
    async with ada, bob:
        mine, theirs = ada.bounded("seats", 5), bob.bounded("seats", 5)
        mine.increment(3)
        outcomes = await asyncio.gather(
            *(mine.decrement(1) for _ in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes].count(InsufficientRightsError) == 2
        assert mine.value == mine.minimum == 5
        with pytest.raises(InsufficientRightsError) as poor:
            await theirs.decrement(1)
        assert poor.value.local == 0
        mine.increment(2)
        mine.transfer(2, bob.id)
        await until(lambda: theirs.rights() == 2)
        await theirs.decrement(2)
        assert int(theirs) == 5


async def test_a_decrement_is_refused_where_it_could_not_wait():
    """Inside of a batch, and by `document`, whose mutators do not wait: nothing changes."""
    async with Agent(
        "ada", journal=MemoryJournal(), transport=Switchboard().transport("a:1")
    ) as ada:
        seats = ada.bounded("seats")
        seats.increment(1)
        with ada.batch(), pytest.raises(BatchOpenError):
            await seats.decrement(1)
        assert seats.value == 1
        for kind in (BoundedCounter, BoundedCounter.at_least(0)):
            with pytest.raises(UnknownDocumentTypeError, match="bounded") as refused:
                ada.document("seats", kind)
            assert "agent.bounded('seats'" in refused.value.hint


def test_the_synchronous_twin_decrements_durably(tmp_path):
    """[crdt 15] when the call returns, the file has it."""
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        seats = ada.bounded("seats", 1)
        seats.increment(4)
        seats.decrement(2)
        shutil.copytree(tmp_path, tmp_path / "after")
        assert seats.value == 3
        with pytest.raises(InsufficientRightsError):
            seats.decrement(3)
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        assert ada.bounded("seats", 1).value == 3
        assert ada.bounded("seats", 1).rights() == 2
    journal = SqliteJournal(tmp_path / "after" / "ada.db")
    journal.open()
    assert on_disk(journal, 1) == 3
    journal.close()


async def test_a_bound_is_part_of_what_is_listed(say):
    """`get` and watchers name the document with its bound, so what they read is its value."""
    async with Agent("ada") as ada:
        seats = ada.bounded("seats", 5)
        watch = ada.watch("seats")
        seats.increment(2)
        ((seen,),) = [(await anext(watch)).documents]
        assert seen.type == BoundedCounter.at_least(5)
        assert ada.kernel.document(seen.name, seen.type).value == 7
        assert await say("get", "seats", "--peer", ada.address) == (0, "7", "")

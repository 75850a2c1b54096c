"""The edges of an agent's life: cancelled, doubled and repeated starts, dead loops, forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from contextlib import AsyncExitStack

import pytest

from crdt import PNCounter
from replication import (
    Agent,
    AlreadyStartedError,
    ClosedError,
    ForkedError,
    ListenError,
    LoopEndedError,
    ReplicationError,
    UnacknowledgedError,
    Version,
    WrongLoopError,
)
from replication.journal.memory import MemoryJournal
from replication.testing import local_agents
from tests.ports import free_ports


class SlowJournal(MemoryJournal):
    """Its steps take as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def open(self):
        self.begun.set()
        assert self.go_on.wait(30)
        return super().open()

    def append(self, entry) -> None:
        self.begun.set()
        assert self.go_on.wait(30)
        super().append(entry)


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_start_leaves_nothing_held(tmp_path, steps):
    """Wherever it was: before the port, between port and journal, in the middle of reading."""
    place, (port,) = tmp_path / "ada.db", free_ports(1)
    ada = Agent("ada", listen=f"127.0.0.1:{port}", journal=place)
    starting = asyncio.create_task(ada.start())
    for _ in range(steps):
        await asyncio.sleep(0.0005 if steps > 6 else 0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await ada.close()
    async with Agent("ada", listen=f"127.0.0.1:{port}", journal=place) as ada:
        ada.counter("n").increment(1)


async def test_a_start_that_is_timed_out_while_the_journal_is_read_gives_it_back():
    """Reading cannot be stopped half way, so the start ends when the journal is closed again."""
    journal = SlowJournal()
    journal.go_on.clear()
    ada = Agent("ada", listen="", journal=journal)
    starting = asyncio.create_task(asyncio.wait_for(ada.start(), 0.01))
    await asyncio.to_thread(journal.begun.wait, 10)
    await asyncio.sleep(0.02)
    journal.go_on.set()
    with pytest.raises(TimeoutError):
        await starting
    async with Agent("ada", listen="", journal=journal):
        pass


async def test_a_close_during_the_start_ends_the_start():
    """Whoever starts is told; nothing runs."""
    journal = SlowJournal()
    journal.go_on.clear()
    ada = Agent("ada", listen="", journal=journal)
    starting = asyncio.create_task(ada.start())
    await asyncio.to_thread(journal.begun.wait, 10)
    closing = asyncio.create_task(ada.close())
    await asyncio.sleep(0)
    journal.go_on.set()
    await closing
    with pytest.raises(ClosedError, match="while it started"):
        await starting
    async with Agent("ada", listen="", journal=journal):
        pass


async def test_a_second_start_is_refused_and_the_running_agent_goes_on():
    """It used to close the running agent's server and session."""
    async with Agent("ada") as ada:
        with pytest.raises(AlreadyStartedError):
            await ada.start()
        ada.counter("n").increment(1)
        async with Agent("bob", peers=[ada.address]) as bob:
            await bob.seen(ada.version(), timeout_s=10)
    twice = Agent("ada")
    results = await asyncio.gather(twice.start(), twice.start(), return_exceptions=True)
    assert [type(result) for result in results] == [Agent, AlreadyStartedError]
    await twice.close()


async def test_an_agent_that_is_started_again_watches_and_tells_its_new_port(tmp_path):
    """A watch used to end at once, and the address was that of the first life."""
    ada = Agent("ada", journal=tmp_path / "ada.db")
    async with ada:
        ada.counter("n").increment(1)
        over = ada.watch()
    assert [event async for event in over] == []
    async with ada:
        watch = ada.watch()
        ada.counter("n").increment(1)
        assert (await asyncio.wait_for(anext(watch), 10)).documents[0].name == "n"
        async with Agent("bob", peers=[ada.address]) as bob:
            await bob.seen(ada.version(), timeout_s=10)
            assert bob.counter("n").value == 2


async def test_a_close_ends_every_wait_with_an_error_that_says_so():
    """None of them has a time limit of its own."""
    async with local_agents("ada", "bob") as (ada, bob):
        await ada.seen(bob.version())
        ada.counter("n").increment(1)
        other = Version({"x~1": 5})
        waits = [
            asyncio.create_task(work)
            for work in (
                ada.seen(other),
                ada.read("n", PNCounter, at_least=other),
                ada.stable(other),
            )
        ]
        watch = ada.watch()
        await asyncio.sleep(0)
        await ada.close()
        for wait in waits:
            with pytest.raises(ClosedError, match="closed while this waited"):
                await wait
        async for _ in watch:
            pass
        with pytest.raises(ClosedError):
            await ada.durable()


async def test_an_agent_whose_loop_was_cancelled_saves_turns_read_only_and_says_why(tmp_path):
    """Whoever cancels all tasks - a shutdown handler, a failing gather - cancels it, too."""
    ada = await Agent("ada", journal=tmp_path / "ada.db").start()
    ada.counter("n").increment(1)
    waiting = asyncio.create_task(ada.seen(Version({"x~1": 5})))
    await asyncio.sleep(0)
    ada.counter("n").increment(1)
    ada._runtime._loop.cancel()
    with pytest.raises(LoopEndedError, match="cancelled"):
        await waiting
    assert ada.read_only
    for use in (ada.counter("n").increment, ada.members, ada.batch):
        with pytest.raises(LoopEndedError, match="was cancelled"):
            use()
    with pytest.raises(LoopEndedError):
        await ada.durable()
    assert ada.counter("n").value == 2
    await ada.close()
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        assert ada.counter("n").value == 2


async def test_a_commit_under_way_is_carried_through_when_the_loop_is_cancelled():
    """Its rows were neither saved nor kept: what came later claimed them all the same."""
    journal = SlowJournal()
    ada = await Agent("ada", listen="", journal=journal).start()
    await asyncio.sleep(0.05)
    journal.begun.clear()
    journal.go_on.clear()
    ada.counter("n").increment(1)
    await asyncio.to_thread(journal.begun.wait, 10)
    ada.counter("n").increment(1)
    for _ in range(3):
        ada._runtime._loop.cancel()
        await asyncio.sleep(0)
    journal.go_on.set()
    await ada.close()
    async with Agent("ada", listen="", journal=journal) as ada:
        assert ada.counter("n").value == 2


async def test_a_decrement_whose_agent_dies_is_not_acknowledged(tmp_path):
    """It is made, and nobody may act on it."""
    journal = SlowJournal()
    ada = await Agent("ada", listen="", journal=tmp_path / "ada.db").start()
    ada.bounded("seats").increment(3)
    await ada.durable()
    append, go_on = ada._runtime._journal.append, threading.Event()

    def slow(entry) -> None:
        journal.begun.set()
        go_on.wait(10)
        append(entry)

    ada._runtime._journal.append = slow
    taking = asyncio.create_task(ada.bounded("seats").decrement(2))
    await asyncio.to_thread(journal.begun.wait, 10)
    taking.cancel()  # the caller gives up; and then the loop dies
    ada._runtime._loop.cancel()
    go_on.set()
    with pytest.raises((asyncio.CancelledError, UnacknowledgedError)):
        await taking
    await ada.close()


async def test_a_close_is_carried_through_when_everything_is_cancelled(tmp_path):
    """The close's own task as well, at any of its steps; courtesies are left out."""
    for steps in range(0, 12, 2):
        ada = await Agent("ada", journal=tmp_path / "ada.db").start()
        ada.counter("n").increment(1)
        closing = asyncio.create_task(ada.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await ada.close()
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        assert ada.counter("n").value == 6


@pytest.mark.parametrize("closes", ["in the second loop", "never"])
def test_an_agent_is_of_one_event_loop(tmp_path, closes):
    """Used in another one it refuses; closed there it lets go of its journal."""
    ada = Agent("ada", listen="", journal=tmp_path / "ada.db")

    async def first() -> None:
        await ada.start()
        ada.counter("n").increment(1)

    async def second() -> None:
        with pytest.raises(WrongLoopError, match="another event loop"):
            ada.counter("n")
        with pytest.raises(WrongLoopError):
            await ada.durable()
        if closes == "in the second loop":
            await ada.close()
            await ada.close()

    asyncio.run(first())
    asyncio.run(second())

    async def third() -> None:
        async with Agent("ada", listen="", journal=tmp_path / "ada.db") as again:
            assert again.counter("n").value == 1

    if closes == "in the second loop":
        asyncio.run(third())
    else:
        asyncio.run(ada.close())


def test_a_loop_that_runs_now_and_then_is_one_loop(tmp_path):
    """As in a notebook, or a test's fixture: writes between two runs of it are welcome."""
    with asyncio.Runner() as runner:
        ada = runner.run(Agent("ada", listen="", journal=tmp_path / "ada.db").start())
        ada.counter("n").increment(1)
        ada.batch(lambda: ada.counter("n").increment(1))
        runner.run(ada.durable())
        assert ada.counter("n").value == 2
        runner.run(ada.close())


async def test_a_fork_inherits_neither_lock_nor_port_nor_the_right_to_write(tmp_path):
    """The parent's journal and port open again while the child lives; the child says why not."""
    place, (port,) = tmp_path / "ada.db", free_ports(1)
    ada = await Agent("ada", listen=f"127.0.0.1:{port}", journal=place).start()
    counter = ada.counter("n")
    counter.increment(1)
    await ada.durable()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"?"
        try:
            for use in (
                lambda: counter.increment(1),
                lambda: ada.counter("n"),
                ada.version,
                ada.batch,
                ada.watch,
            ):
                with contextlib.suppress(ForkedError):
                    use()
                    said = b"used"
            ada._runtime._journal.close()
            said = b"refused" if said == b"?" else said
        except BaseException as error:
            said = repr(error).encode()
        finally:
            os.write(tell, said)
            time.sleep(30)  # noqa: ASYNC251 - there is no loop in a child
            os._exit(0)
    try:
        assert await asyncio.to_thread(os.read, told, 1000) == b"refused"
        ada.counter("n").increment(1)
        await ada.close()
        async with Agent("ada", listen=f"127.0.0.1:{port}", journal=place) as ada:
            assert ada.counter("n").value == 2
            ada.counter("n").increment(1)
            await ada.durable()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)  # noqa: ASYNC222 - it was killed
        os.close(told)
        os.close(tell)
    async with Agent("ada", listen="", journal=place) as ada:
        assert ada.counter("n").value == 3


async def test_every_error_of_the_edge_says_what_to_do():
    """Typed, one tree, a code and a hint each."""
    for kind in (AlreadyStartedError, LoopEndedError, WrongLoopError, ForkedError):
        assert issubclass(kind, ReplicationError)
        assert kind.code != ReplicationError.code
        assert kind("x").hint != ReplicationError("x").hint


async def test_a_whole_cluster_on_default_ports_finds_itself_again(tmp_path):
    """Each listens where it did, as its journal notes; their books say who else there is."""
    names = ["ada", "bob", "cyd"]
    seeds: list[str] = []
    for life in range(3):
        async with AsyncExitStack() as stack:
            agents = [Agent(name, journal=tmp_path / name, peers=seeds) for name in names[:1]]
            await stack.enter_async_context(agents[0])
            if life == 0:
                seeds = [agents[0].address]
                before = {"ada": agents[0].address}
            for name in names[1:]:
                agent = Agent(name, journal=tmp_path / name, peers=seeds if life == 0 else ())
                agents.append(await stack.enter_async_context(agent))
                before.setdefault(name, agent.address)
            assert {agent.name: agent.address for agent in agents} == before
            agents[life].counter("n").increment(1)
            assert await agents[life].replicated(agents[life].version(), 2, 30) == 2


async def test_a_port_that_somebody_else_took_is_not_insisted_on(tmp_path):
    """Another one is taken, and noted; a port that was asked for by number is insisted on."""
    async with Agent("ada", journal=tmp_path / "ada") as ada:
        first = ada.address
    async with Agent("bob", listen=first), Agent("ada", journal=tmp_path / "ada") as ada:
        second = ada.address
        assert second != first
    async with Agent("ada", journal=tmp_path / "ada") as ada:
        assert ada.address == second
    async with Agent("bob", listen=first):
        with pytest.raises(ListenError):
            await Agent("ada", journal=tmp_path / "ada", listen=first).start()

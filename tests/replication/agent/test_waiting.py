"""Session guarantees: a token carried from agent to agent, and a watch taken up again."""

from __future__ import annotations

import asyncio

import pytest

from crdt import ORSet, PNCounter, ResettableCounter
from replication import NotYetError, UnknownPeerError, Version
from replication.agent.blocking import BlockingAgent
from replication.testing import local_agents


async def test_a_read_at_least_shows_what_the_token_names():
    """Read-your-writes at any agent: ada's token makes bob wait until bob has it."""
    async with local_agents("ada", "bob") as (ada, bob):
        for number in range(1, 21):
            ada.counter("n").increment(1)
            counter = await bob.read("n", PNCounter, at_least=ada.version(), timeout_s=10)
            assert counter.value >= number
        bob.counter("n").increment(1)  # and back
        assert (await ada.read("n", PNCounter, at_least=bob.version(), timeout_s=10)).value == 21


async def test_a_read_at_least_says_when_it_cannot_be_had():
    """Cut off, the old state is not passed off as the new; after the heal the same token works."""
    async with local_agents("ada", "bob") as (ada, bob):
        await bob.seen(ada.version(), timeout_s=10)
        bob.block("ada")
        ada.orset("tags").add("x")
        token = Version.decode(ada.version().encode())  # as it travels between programs
        with pytest.raises(NotYetError) as late:
            await bob.read("tags", ORSet, at_least=token, timeout_s=0.05)
        assert late.value.missing == {ada.id: 1}
        assert f"1 of {ada.id}" in str(late.value)
        assert not set(bob.orset("tags"))
        bob.unblock("ada")
        assert set(await bob.read("tags", ORSet, at_least=token, timeout_s=10)) == {"x"}


async def test_increments_of_one_commit_stay_apart():
    """[crdt 14] a read context taken between two of them resets the first and leaves the second."""
    async with local_agents("ada") as (ada,):
        total = ada.document("sum", ResettableCounter)
        total.increment(1)
        seen = total.context
        total.increment(2)
        await ada.durable()
        total.reset(seen=seen)
        assert total.value == 2


async def test_a_watch_goes_on_where_it_stopped():
    """What came meanwhile is one folded event; then changes come as they are made, each once."""
    async with local_agents("ada") as (ada,):
        watch = ada.watch("order/")
        ada.register("order/1").set("new")
        assert (await anext(watch)).cause == "local"
        token = watch.token
        await watch.aclose()
        ada.register("order/1").set("paid")
        ada.register("order/2").set("new")
        ada.register("stock/1").set(7)
        await ada.durable()
        again = ada.watch("order/", after=token)
        missed = await anext(again)
        assert (missed.cause, missed.lagged, missed.everything) == ("resume", True, False)
        assert sorted(d.name for d in missed.documents) == ["order/1", "order/2"]
        ada.register("order/3").set("new")
        event = await anext(again)
        assert (event.cause, [d.name for d in event.documents]) == ("local", ["order/3"])
        last = ada.watch("order/", after=again.token)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(last)


async def test_a_token_is_not_ahead_of_what_was_handed_out():
    """Stopped before it took an event, a watcher is told of it again: at least once, never less."""
    async with local_agents("ada") as (ada,):
        watch = ada.watch()
        ada.register("a").set(1)
        ada.register("b").set(1)
        await ada.durable()
        await anext(watch)
        again = ada.watch(after=watch.token)
        assert "b" in {d.name for d in (await anext(again)).documents}


async def test_a_resumed_watch_tells_what_vanished():
    """A document that was emptied is named; overwrites elsewhere do not hide which it was."""
    async with local_agents("ada") as (ada,):
        ada.orset("order/1").add("x")
        ada.orset("order/2").add("y")
        await ada.durable()
        token = ada.version()
        ada.orset("order/1").remove("x")
        event = await anext(ada.watch("order/", after=token))
        assert not event.everything
        assert [(d.name, d.type) for d in event.documents] == [("order/1", ORSet)]


async def test_a_resumed_watch_says_when_the_history_is_gone():
    """Removal records are a cache: without them all documents are named, the others are empty."""
    async with local_agents("ada") as (ada,):
        ada.orset("order/1").add("x")
        ada.orset("order/2").add("y")
        await ada.durable()
        token = ada.version()
        ada.orset("order/1").remove("x")
        ada.kernel.drop_records()
        event = await anext(ada.watch("order/", after=token))
        assert event.everything
        assert [d.name for d in event.documents] == ["order/2"]


async def test_a_watch_goes_on_at_another_agent():
    """A token of ada resumes at bob, also when bob has not seen all of it yet."""
    async with local_agents("ada", "bob") as (ada, bob):
        watch = ada.watch()
        ada.register("one").set(1)
        await anext(watch)
        await bob.seen(ada.version(), timeout_s=10)
        bob.block("ada")
        ada.register("two").set(2)
        await anext(watch)
        other = bob.watch(after=watch.token)
        bob.unblock("ada")
        ada.register("three").set(3)
        names: set[str] = set()
        async with asyncio.timeout(10):
            while "three" not in names:
                names |= {d.name for d in (await anext(other)).documents}
        assert "one" not in names


def test_the_synchronous_twin_reads_at_least_and_resumes():
    """The same tokens from threads without a loop; a watch ends with its agent."""
    with BlockingAgent("ada") as ada, BlockingAgent("bob", peers=[ada.address]) as bob:
        watch = bob.watch("n")
        ada.counter("n").increment(3)
        seen = bob.read("n", PNCounter, at_least=ada.version(), timeout_s=10)
        assert seen.value == 3
        event = watch.take(timeout_s=10)
        assert [d.name for d in event.documents] == ["n"]
        with pytest.raises(TimeoutError):
            watch.take(timeout_s=0.05)
        token = watch.token
        watch.close()
        assert list(watch) == []
        bob.counter("n").increment(1)
        again = bob.watch("n", after=token)
        assert next(again).cause == "resume"
        with pytest.raises(NotYetError):
            ada.read("n", PNCounter, at_least=Version({"nobody~1": 9}), timeout_s=0.05)
        assert bob.quarantine() == {}
        with pytest.raises(UnknownPeerError):
            bob.skip(ada.id)

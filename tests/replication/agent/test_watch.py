"""Watching: whole changes in bounded memory, honest about lagging, taken up again after a break."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from crdt import Kernel, ORSet
from replication import Agent, Version
from replication.agent.watch import Feed, Watchers, missed_since
from replication.testing import local_agents

SECRET = "a secret of this test"


def change(*documents: tuple[str, set | None]) -> SimpleNamespace:
    return SimpleNamespace(
        documents=tuple(
            SimpleNamespace(name=name, type=set, keys=None if keys is None else frozenset(keys))
            for name, keys in documents
        )
    )


def drained(feed: Feed) -> list:
    return list(iter(feed.take, None))


def test_a_change_arrives_whole_and_only_its_watched_documents():
    """A batch is one event; documents outside of the prefix are left out of it."""
    feed = Feed("order/", 10)
    assert feed.offer(change(("order/1", {"a"}), ("order/2", None), ("stock", {"b"})), "local")
    assert not feed.offer(change(("stock", {"b"})), "local")
    (event,) = drained(feed)
    assert [d.name for d in event.documents] == ["order/1", "order/2"]
    assert not event.lagged


def test_a_slow_subscriber_gets_every_changed_key_in_bounded_memory():
    """[replication 13] conflated to the latest per key, `lagged` set, nothing forgotten."""
    feed = Feed("", 8)
    for number in range(1000):
        feed.offer(change(("set", {number % 10}), (f"d{number % 3}", None)), "remote")
        assert len(feed) <= 8
    events = drained(feed)
    assert events[0].lagged
    assert not events[-1].lagged
    keys = {d.name: d.keys for d in events[0].documents}
    assert keys["set"] == frozenset(range(10))
    assert keys["d0"] is None


def test_causes_that_were_folded_are_called_several():
    """A folded event does not claim one cause for changes that had two."""
    feed = Feed("", 2)
    for cause in ("local", "remote", "local", "remote"):
        feed.offer(change(("x", {1})), cause)
    assert feed.take().cause in {"several", "local"}


def published(name: str) -> SimpleNamespace:
    return SimpleNamespace(change=change((name, {1})), cause="local")


async def test_a_watch_that_began_at_a_vector_is_not_handed_what_came_before():
    """A write made before the watch may be committed after it; the watcher has seen it already."""
    watchers = Watchers(8)
    began = Version({"ada~1": 2})
    watch = watchers.watch("", began, began, None)
    watchers.publish(published("early"), {"ada~1": 2})
    watchers.publish(published("later"), {"ada~1": 3})
    assert [d.name for d in (await anext(watch)).documents] == ["later"]


async def test_the_token_moves_when_everything_up_to_it_was_handed_out():
    """With two changes queued it waits for the second; what is not watched moves it at once."""
    watchers = Watchers(8)
    watch = watchers.watch("order/", Version({}), Version({}), None)
    watchers.publish(published("order/1"), {"ada~1": 1})
    watchers.publish(published("order/2"), {"ada~1": 2})
    await anext(watch)
    assert watch.token == Version({})
    await anext(watch)
    assert watch.token == Version({"ada~1": 2})
    watchers.publish(published("stock"), {"ada~1": 3})
    assert watch.token == Version({"ada~1": 3})


async def test_a_closed_watch_hands_out_what_is_queued_and_ends():
    """And whoever comes after the close gets a watch that ends at once."""
    watchers = Watchers(8)
    watch = watchers.watch("", Version({}), Version({}), None)
    watchers.publish(published("x"), {"ada~1": 1})
    watchers.close()
    assert [event.cause async for event in watch] == ["local"]
    late = watchers.watch("", Version({}), Version({}), None)
    assert [event async for event in late] == []


def test_nothing_is_missed_when_nothing_changed():
    """A resumed watch begins with an event only if there is one to tell."""
    kernel = Kernel("ada~1")
    kernel.document("tags", ORSet).add("x")
    assert missed_since(kernel, kernel.vector, "") is None
    assert missed_since(kernel, {}, "order/") is None
    missed = missed_since(kernel, {}, "ta")
    assert [(d.name, d.type) for d in missed.documents] == [("tags", ORSet)]
    assert (missed.cause, missed.lagged) == ("resume", True)


async def test_a_batch_is_one_change_to_its_watchers():
    """watch: whole batches, only the prefix, local and remote told apart."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
    ):
        local, remote = aiter(ada.watch("order/")), aiter(bob.watch("order/"))
        first, second = asyncio.ensure_future(anext(local)), asyncio.ensure_future(anext(remote))
        await asyncio.sleep(0)
        ada.counter("elsewhere").increment(1)
        with ada.batch():
            ada.register("order/42/status").set("paid")
            ada.orset("order/42/tags").add("gift")
        here = await asyncio.wait_for(first, 10)
        there = await asyncio.wait_for(second, 10)
        names = {"order/42/status", "order/42/tags"}
        assert {d.name for d in here.documents} == {d.name for d in there.documents} == names
        assert (here.cause, there.cause) == ("local", "remote")
        await local.aclose()
        await remote.aclose()


async def test_watching_ends_when_the_agent_closes():
    """A watcher is not left hanging."""
    agent = await Agent("ada").start()
    feed = aiter(agent.watch())
    waiting = asyncio.ensure_future(anext(feed, None))
    await asyncio.sleep(0)
    await agent.close()
    assert await asyncio.wait_for(waiting, 5) is None


async def test_a_watch_holds_from_its_call_on_and_survives_a_timeout():
    """Changes before the first step are seen; giving up one wait does not end the subscription."""
    async with Agent("ada") as ada:
        watch = ada.watch("n")
        ada.counter("n").increment(1)
        assert (await asyncio.wait_for(anext(watch), 10)).documents
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.01)
        ada.counter("n").increment(1)
        assert (await asyncio.wait_for(anext(watch), 10)).documents
        await watch.aclose()
        assert [event async for event in watch] == []


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

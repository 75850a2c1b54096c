"""The feed by itself: cursors, the floor, and who is woken by what."""

from __future__ import annotations

import asyncio

from tests.transactional.counting import calls
from transactional.stores.feed import Feed
from transactional.values import Compacted


def put(revision: int, key: str):
    return revision, ((revision, key, b"v", revision, None, "me", revision),)


async def never(cursor: int):
    raise AssertionError(f"nothing below {cursor} is asked of the engine")


def test_what_lies_above_a_cursor_comes_whole_and_in_order() -> None:
    """Only commits that touch the prefix, each with its revision."""
    feed = Feed(0, commits_max=10)
    feed.publish([put(1, "a/1"), put(2, "b/1"), put(3, "a/2")])
    assert [event.revision for event in feed.after(0, "a/")] == [1, 3]
    assert [event.revision for event in feed.after(1, "")] == [2, 3]
    assert feed.after(3, "") == []


def test_the_oldest_commit_falls_out_and_raises_the_floor() -> None:
    """At most so many commits are here; the floor is the last one that is not."""
    feed = Feed(0, commits_max=2)
    feed.publish([put(1, "a"), put(2, "a"), put(3, "a")])
    assert (feed.floor, feed.revision) == (1, 3)


async def test_a_waiter_is_woken_by_its_own_prefix_alone() -> None:
    """A commit elsewhere leaves it asleep; closing the feed ends the wait."""
    feed = Feed(0, commits_max=10)
    mine = asyncio.create_task(feed.wait("a/"))
    other = asyncio.create_task(feed.wait("b/"))
    await asyncio.sleep(0)
    feed.publish([put(1, "a/1")])
    assert await mine == 1
    assert not other.done()
    feed.close()
    assert await other is None


async def test_a_commit_costs_the_same_beside_ten_waiters_and_ten_thousand() -> None:
    """Nobody is looked at whom it does not concern; whom it concerns is woken, also among many."""
    costs = []
    for others in (10, 10_000):
        feed = Feed(0, commits_max=10)
        waits = [asyncio.create_task(feed.wait(f"queue/{n:05}/")) for n in range(others)]
        mine = [asyncio.create_task(feed.wait(prefix)) for prefix in ("", "m", "mine/1")]
        await asyncio.sleep(0)
        with calls() as made:
            feed.publish([put(1, "elsewhere")])
        assert [wait.done() for wait in mine] == [False] * 3  # woken, and not yet run
        assert await mine[0] == 1
        with calls() as more:
            feed.publish([put(2, "mine/1")])
        assert [await wait for wait in mine[1:]] == [2, 2]
        assert not any(wait.done() for wait in waits)
        costs.append((made[0], more[0]))
        feed.close()
        assert await asyncio.gather(*waits) == [None] * others
    assert costs[0] == costs[1]


async def test_many_waiters_for_one_prefix_may_give_up_in_any_order() -> None:
    """What is remembered of a prefix goes with its last waiter."""
    feed = Feed(0, commits_max=10)
    waits = [asyncio.create_task(feed.wait("a")) for _ in range(5)]
    await asyncio.sleep(0)
    for wait in waits[1:4]:
        wait.cancel()
    await asyncio.sleep(0)
    feed.publish([put(1, "a")])
    assert (await waits[0], await waits[4]) == (1, 1)
    again = asyncio.create_task(feed.wait("a"))
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert not feed._waiters
    assert not feed._lengths


async def test_a_watcher_below_the_floor_reads_the_rest_from_the_engine() -> None:
    """What the engine calls compacted is passed on, then the feed takes over."""
    feed = Feed(0, commits_max=1)
    feed.publish([put(1, "a"), put(2, "a")])

    async def older(cursor: int):
        return feed.floor, [Compacted(cursor, feed.floor)]

    events = feed.follow("a", 0, older)
    assert await anext(events) == Compacted(0, 1)
    assert (await anext(events)).revision == 2
    await events.aclose()


async def test_a_watch_without_a_cursor_starts_at_the_present() -> None:
    """What was published before it began is not its concern."""
    feed = Feed(0, commits_max=10)
    feed.publish([put(1, "a")])
    events = feed.follow("a", None, never)
    first = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    feed.publish([put(2, "a")])
    assert (await first).revision == 2
    await events.aclose()

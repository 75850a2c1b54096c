"""The feed by itself: cursors, the floor, and who is woken by what."""

from __future__ import annotations

import asyncio

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

"""A watch sees every commit under its prefix once, whole and in order, on every engine."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds

if TYPE_CHECKING:
    from tests.transactional.engines import Engine


async def test_a_watcher_sees_every_commit_once_whole_and_in_order(engine: Engine) -> None:
    """[transactional 14] Across reconnects: events equal the commits under the prefix."""
    store, other = await engine.client(), await engine.client()
    dice = random.Random(seeds(1)[0])
    written: dict[int, set[str]] = {}

    async def write(client: t.Store, number: int) -> None:
        inside = {f"in/{dice.randint(0, 9)}" for _ in range(dice.randint(0, 3))}
        writes = [t.Put(key, b"%d" % number) for key in inside]
        commit = await client.commit([], [*writes, t.Put("out", b"")])
        if inside:
            written[commit.revision] = inside

    async def write_all() -> None:
        for start in range(0, total_writes, 20):
            numbers = range(start, start + 20)
            await asyncio.gather(*[write(store if n % 2 else other, n) for n in numbers])
        await store.commit([], [t.Put("in/end", b"")])

    total_writes = rounds(2000, 200)
    writer = asyncio.create_task(write_all())
    seen: dict[int, set[str]] = {}
    cursor, last = 0, False
    while not last:
        events = other.watch("in/", after=cursor)
        async for event in events:
            assert isinstance(event, t.WatchEvent)
            assert event.revision > cursor
            cursor = event.revision
            seen[cursor] = {change.key for change in event.changes}
            last = "in/end" in seen[cursor]
            if last or dice.random() < 0.1:
                break  # connect anew at the cursor
        await events.aclose()
    await writer
    del seen[cursor]
    assert seen == written


async def test_a_watch_from_now_on_waits_for_the_next_commit(store: t.Store) -> None:
    """after=None starts at the present."""
    await store.commit([], [t.Put("a", b"old")])
    events = store.watch("a")
    first = asyncio.ensure_future(anext(events))
    while not first.done():
        await store.commit([], [t.Put("a", b"new")])
        await asyncio.sleep(0.01)
    event = await first
    assert isinstance(event, t.WatchEvent)
    assert [change.current.value for change in event.changes if change.current] == [b"new"]
    await events.aclose()


async def test_deletes_and_expiries_are_events_too(store: t.Store) -> None:
    """A watcher hears of a delete and of a lease that ran out, without anybody calling."""
    lease = await store.lease(1)
    first = await store.commit([], [t.Put("a", b""), t.Put("b", b"", lease.id)])
    await store.commit([], [t.Delete("a")])
    events = store.watch("", after=first.revision)
    gone = [await anext(events), await anext(events)]
    await events.aclose()
    assert [list(event.changes) for event in gone if isinstance(event, t.WatchEvent)] == [
        [t.KeyChange("a", None)],
        [t.KeyChange("b", None)],
    ]


async def test_a_cursor_from_the_future_is_refused(store: t.Store) -> None:
    """A revision the store never had belongs to another store."""
    events = store.watch("a", after=10**9)
    with pytest.raises(t.InvalidRequestError):
        await anext(events)


async def test_closing_a_store_ends_its_watches(store: t.Store) -> None:
    """A watcher of a closed store comes to its end."""
    await store.commit([], [t.Put("a", b"")])
    seen = asyncio.Event()

    async def watch() -> None:
        async for _ in store.watch("", after=0):
            seen.set()

    watcher = asyncio.create_task(watch())
    await seen.wait()
    await store.close()
    with contextlib.suppress(t.UnavailableError):
        await asyncio.wait_for(watcher, 10)
    with pytest.raises(t.StoreClosedError):
        await store.get("a")


async def test_a_commit_that_changes_nothing_concerns_nobody(store: t.Store) -> None:
    """Deleting what is absent is no change: ranges stay unchanged, watchers are not woken."""
    first = await store.commit([], [t.Put("a/1", b"")])
    events, everything = store.watch("a/", after=first.revision), store.watch("", after=0)
    empty = await store.commit([], [t.Delete("zzz/absent"), t.DeletePrefix("none/")])
    assert empty.revision > first.revision
    for prefix in ("a/", "zzz/", ""):
        await store.commit([t.Unchanged(prefix, first.revision)], [])
    second = await store.commit([], [t.Put("a/2", b"")])
    seen = [await anext(everything), await anext(everything), await anext(events)]
    assert [event.revision for event in seen] == [first.revision, second.revision, second.revision]
    await events.aclose()
    await everything.aclose()


async def test_what_is_forgotten_is_not_told_by_a_watch_from_before(store: t.Store) -> None:
    """Same commits, same revisions, other values: of a put, a delete, a prefix and its past."""
    written: list[list[t.Put | t.Delete]] = [
        [t.Put("a", b"secret 1"), t.Put("p/1", b"secret 2"), t.Put("keep", b"kept")],
        [t.Put("a", b"secret 3"), t.Delete("p/1"), t.Put("b", b"secret 4")],
        [t.Put("p/2", b"secret 5")],
    ]
    revisions = [(await store.commit([], writes)).revision for writes in written]
    last = await store.commit(
        [],
        [
            t.Put("a", b"bare", forget=True),
            t.Delete("b", forget=True),
            t.DeletePrefix("p/", forget=True),
        ],
    )
    events = store.watch("", after=revisions[0] - 1)
    if not store.capabilities.forgets_in_place:
        told = await anext(events)
        assert isinstance(told, t.Compacted)
        assert told.revision == last.revision
        again = await store.commit([], [t.Put("b", b"")])
        assert (await anext(events)).revision == again.revision
        await events.aclose()
        return
    told = [await anext(events) for _ in range(4)]
    await events.aclose()
    assert [event.revision for event in told] == [*revisions, last.revision]
    assert [
        {change.key: change.current and change.current.value for change in event.changes}
        for event in told
    ] == [
        {"a": b"bare", "keep": b"kept", "p/1": b""},
        {"a": b"bare", "b": b"", "p/1": None},
        {"p/2": b""},
        {"a": b"bare", "b": None, "p/2": None},
    ]
    # A write without `forget` forgets nothing, and what was forgotten is another content.
    await store.commit([], [t.Put("a", b"new")], op_id="one")
    with pytest.raises(t.OperationIdReusedError):
        await store.commit([], [t.Put("a", b"new", forget=True)], op_id="one")

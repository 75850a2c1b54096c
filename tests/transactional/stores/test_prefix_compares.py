"""A range that was read is compared: no phantom, no write skew, on every engine."""

from __future__ import annotations

import asyncio

import pytest

import transactional as t


async def test_of_two_doctors_one_stays_on_call(store: t.Store) -> None:
    """[transactional 4] Write skew: both see two on call, both sign off, one is refused."""
    await store.commit([], [t.Put("call/ann", b"on"), t.Put("call/bob", b"on")])
    both_read = asyncio.Barrier(2)

    async def sign_off(name: str) -> bool:
        first = True

        async def decide(tx: t.Transaction) -> bool:
            nonlocal first
            on_call = [key for key, value in (await tx.scan("call/")).items() if value == b"on"]
            if first:
                first = False
                await both_read.wait()
            if len(on_call) > 1:
                tx.put(f"call/{name}", b"off")
            return len(on_call) > 1

        return (await t.transact(store, decide))[0]

    assert sorted(await asyncio.gather(sign_off("ann"), sign_off("bob"))) == [False, True]


async def test_a_phantom_insert_under_a_prefix_is_seen(store: t.Store) -> None:
    """[transactional 4] Both find the prefix empty, both insert another key: one wins."""
    seen = await store.scan("room/")
    await store.commit([t.Unchanged("room/", seen.revision)], [t.Put("room/a", b"")])
    with pytest.raises(t.ConflictError):
        await store.commit([t.Unchanged("room/", seen.revision)], [t.Put("room/b", b"")])
    after_delete = await store.scan("room/")
    await store.commit([], [t.Delete("room/a")])
    with pytest.raises(t.ConflictError):
        await store.commit([t.Unchanged("room/", after_delete.revision)], [t.Put("x", b"")])


async def test_writes_elsewhere_do_not_disturb_a_prefix(store: t.Store) -> None:
    """Unchanged looks at its own prefix only."""
    seen = await store.scan("room/")
    await store.commit([], [t.Put("room", b""), t.Put("room0", b"")])
    await store.commit([t.Unchanged("room/", seen.revision)], [t.Put("room/a", b"")])

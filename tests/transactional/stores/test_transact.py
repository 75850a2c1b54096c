"""A transaction reads its own writes and is all or nothing, on every engine."""

from __future__ import annotations

import pytest

import transactional as t


async def test_a_transaction_sees_its_own_writes(store: t.Store) -> None:
    """Get and scan inside a transaction include what it wrote."""
    await store.commit([], [t.Put("p/a", b"1"), t.Put("p/b", b"2")])

    async def run(tx: t.Transaction) -> dict[str, bytes]:
        tx.put("p/c", b"3")
        tx.delete("p/a")
        assert await tx.get("p/a") is None
        assert await tx.get("p/c") == b"3"
        return await tx.scan("p/")

    seen, commit = await t.transact(store, run)
    assert seen == {"p/b": b"2", "p/c": b"3"}
    assert list((await store.scan("p/")).items) == ["p/b", "p/c"]
    assert commit.succeeded


async def test_an_exception_inside_a_transaction_writes_nothing(store: t.Store) -> None:
    """What the function raises comes out, and its writes are forgotten."""

    async def run(tx: t.Transaction) -> None:
        tx.put("a", b"")
        raise LookupError("no")

    with pytest.raises(LookupError):
        await t.transact(store, run)
    assert await store.get("a") is None

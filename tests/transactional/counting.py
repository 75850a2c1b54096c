"""Numbers as values of a store, for tests that count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import transactional as t


def count(value: bytes | None) -> int:
    return int(value or b"0")


async def total(store: t.Store, prefix: str) -> int:
    snapshot = await store.scan(prefix)
    return sum(count(item.value) for item in snapshot.items.values())

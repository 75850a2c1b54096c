"""Waiting for a change without missing one: read at a revision, wait for what comes after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transactional.store import Store


async def next_change(store: Store, prefix: str, after: int) -> None:
    """Return when something under `prefix` changed after revision `after`; at once if it has.

    `after` is the revision of the snapshot in which the awaited thing was not there yet.
    """
    events = store.watch(prefix, after=after)
    try:
        async for _ in events:
            return
    finally:
        await events.aclose()

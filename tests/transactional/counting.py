"""For tests that count: numbers as values of a store, and the calls that something makes."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import transactional as t


def count(value: bytes | None) -> int:
    return int(value or b"0")


async def total(store: t.Store, prefix: str) -> int:
    snapshot = await store.scan(prefix)
    return sum(count(item.value) for item in snapshot.items.values())


@contextmanager
def calls() -> Iterator[list[int]]:
    """Count the calls that are made meanwhile in this thread, of Python's functions and of C's.

    What a test says instead of a time: how the work grows. The collector of garbage waits, since
    what it calls belongs to whoever happens to be counted when it runs.
    """
    made = [0]

    def count_one(_frame: object, event: str, _argument: object) -> None:
        made[0] += event in {"call", "c_call"}

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(count_one)
    try:
        yield made
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()

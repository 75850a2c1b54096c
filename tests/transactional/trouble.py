"""What can go wrong between a client and a store, in one process: the line is cut."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from transactional import Commit, KeyValue, OutcomeUnknownError, Snapshot, Store, UnavailableError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence


class BadLine:
    """A store as seen over a bad line: each call may fail before it is sent, or lose its answer."""

    def __init__(self, store: Store, dice: random.Random, *, odds: float) -> None:
        self._store = store
        self.dice = dice
        self.odds = odds

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def _asked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        if self.dice.random() < self.odds:
            raise UnavailableError("cut before it was sent")
        answer = await ask()
        await asyncio.sleep(0)
        return answer

    async def get(self, key: str) -> KeyValue | None:
        return await self._asked(partial(self._store.get, key))

    async def get_many(self, keys: Sequence[str]) -> Snapshot:
        return await self._asked(partial(self._store.get_many, keys))

    async def scan(self, prefix: str, **options: Any) -> Snapshot:
        return await self._asked(partial(self._store.scan, prefix, **options))

    async def commit(self, compares, writes, otherwise=(), *, op_id=None) -> Commit:
        commit = partial(self._store.commit, compares, writes, otherwise, op_id=op_id)
        made = await self._asked(commit)
        if self.dice.random() < self.odds:
            raise OutcomeUnknownError(op_id, "cut before the answer")
        return made

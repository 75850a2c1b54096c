"""What can go wrong between clients and a store: it is killed or paused, and lines are cut."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from transactional import Commit, KeyValue, OutcomeUnknownError, Snapshot, Store, UnavailableError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from tests.transactional.authority import AuthorityProcess, Relay
    from tests.transactional.linearizability import Recorder


class Trouble:
    """What can be done to an authority while clients talk to it, until ``over``."""

    def __init__(
        self, authority: AuthorityProcess, relay: Relay, log: Recorder, dice: random.Random
    ) -> None:
        self.authority = authority
        self.relay = relay
        self.log = log
        self.dice = dice
        self.over = asyncio.Event()

    async def rest(self, least_s: float, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), self.dice.uniform(least_s, most_s))

    async def kill(self) -> None:
        for _ in range(3):  # not for ever: each start gives every lease its whole time again
            # Counted in answers, so that a slow machine is killed in mid-work, too, and not before.
            wanted = self.log.answered + self.dice.randint(3, 30)
            while self.log.answered < wanted and not self.over.is_set():  # noqa: ASYNC110 as said
                await asyncio.sleep(0.001)
            if self.over.is_set():
                return
            self.log.up.clear()
            await self.authority.kill()
            await self.authority.start()
            self.log.up.set()

    async def pause(self) -> None:
        while not self.over.is_set():
            await self.rest(0.01, 0.1)
            self.authority.pause()
            await self.rest(0.05, 0.4)
            self.authority.resume()

    async def drop(self) -> None:
        while not self.over.is_set():
            await self.rest(0.005, 0.05)
            lost = self.dice.choice(["lose_answers", "lose_requests"])
            setattr(self.relay, lost, True)
            await self.rest(0.002, 0.02)
            setattr(self.relay, lost, False)


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

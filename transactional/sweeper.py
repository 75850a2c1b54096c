"""Takes away what a recipe keeps only for those who may still ask: ends, records of requests, runs.

Theory of operation
-------------------
How a booking ended, what an idempotency key made, a run that is over: each is a key that nothing
but a repeat or a look back needs.  They are kept for `retention_s`, at least as long as the store
remembers callers' own op_ids, and are then taken away *in passing*: every `EVERY` calls one looks
at a page of `PAGE_KEYS`, where the last one stopped, and removes what is old in it.  A row knows
when it was written, so no index of ages is needed and no write is added to any operation::

    cursor --> [ page of 256 keys ] --> old ones --> the recipe's judge --> removals, in one commit
                                                                            with the next cursor

A page is read for every 128 keys that are made, so two are looked at for each one made; where one
in two is old, as many go as come: what is left lying is at most as much as what is kept.  To look
at more keys for each that goes would leave less, and cost more: reading a key that stays is half
the price of taking one away.
Each begins to count somewhere, so that of programs that make one call each one in `EVERY` looks.
The cursor lies in the store: processes that come and go continue each other's round.  Two at once
do the same page twice, and the second one's removals meet no keys.

A key whose time is not known (from a file of an earlier format) is written anew as it is, which
dates it; it goes one retention later.

Nothing depends on a sweep.  One that fails is left to the next; the caller it came along with never
hears of it.
"""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transactional.clock import microseconds
from transactional.errors import ConflictError, InvalidRequestError, TransactionalError
from transactional.values import Put, Revision

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from transactional.store import Store
    from transactional.values import Compare, KeyValue, Write

    Judge = Callable[[Sequence[KeyValue], int], Awaitable[list["Removal"]]]

RETENTION_S: Final = 7 * 86_400.0
"""How long ends and records are kept at least, and by default: as long as callers' own op_ids."""
EVERY: Final = 128
"""One call in so many looks at a page."""
PAGE_KEYS: Final = 256
"""How many keys a page has."""

_log = logging.getLogger(__name__)


def first_count() -> int:
    """Return how many calls are taken to have been made before the first one: 0 to `EVERY` - 1."""
    return random.randrange(EVERY)  # noqa: S311 no secret


def check_retention(retention_s: float) -> float:
    """Return it; raise InvalidRequestError if it is shorter than that of op_ids."""
    if not retention_s >= RETENTION_S:  # NaN is refused as well
        raise InvalidRequestError(f"retention_s is {RETENTION_S:g} or more, not {retention_s!r}")
    return retention_s


@dataclass(frozen=True, slots=True)
class Removal:
    """What takes one thing away, and on which condition."""

    compares: Sequence[Compare]
    writes: Sequence[Write]


@dataclass(slots=True)
class Sweeper:
    """One round over the keys under a prefix; `marker` is the key that holds its cursor.

    `judge` is given keys that were last written before the retention, and the time before which
    that is (business time, microseconds since 1970); it returns the removals of those that may go.
    """

    store: Store
    prefix: str
    marker: str
    judge: Judge
    retention_s: float = RETENTION_S
    _calls: int = field(default_factory=lambda: first_count(), init=False)  # noqa: PLW0108 looked up late
    _busy: bool = field(default=False, init=False)

    async def pass_by(self) -> None:
        """Count a call; with every `EVERY`-th, look at a page.  Raises nothing of the store's."""
        self._calls += 1
        if self._calls % EVERY or self._busy:
            return
        self._busy = True
        try:
            found = await self.store.get(self.marker)
            await self._page(found.value.decode() if found is not None else "", note=True)
        except TransactionalError as error:
            _log.debug("nothing was taken away under %s: %s", self.prefix, error)
        finally:
            self._busy = False

    async def sweep(self) -> int:
        """Look at all of it, from the beginning; return how many things were taken away."""
        cursor, count = "", 0
        while True:
            removed, cursor = await self._page(cursor, note=False)
            count += removed
            if not cursor:
                return count

    async def _page(self, after: str, *, note: bool) -> tuple[int, str]:
        """Look at one page; how much went, and the next page's cursor ("": it was the last)."""
        page = await self.store.scan(self.prefix, after=after or None, limit=PAGE_KEYS)
        cursor = list(page.items)[-1] if page.more else ""
        before_us = microseconds(await self.store.now()) - int(self.retention_s * 1e6)
        old = [entry for entry in page.items.values() if entry.time_us < before_us]
        dated = [entry for entry in old if entry.time_us]
        removals = await self.judge(dated, before_us) if dated else []
        count = len(removals)
        removals += [
            Removal([Revision(e.key, e.revision)], [Put(e.key, e.value, e.lease)])
            for e in old
            if not e.time_us
        ]
        if note and (cursor or after):
            removals.append(Removal([], [Put(self.marker, cursor.encode())]))
        for compares, writes in self._commits(removals):
            with suppress(ConflictError):  # something of it is younger than it seemed: next time
                await self.store.commit(compares, writes)
        return count, cursor

    def _commits(self, removals: Sequence[Removal]) -> list[tuple[list[Compare], list[Write]]]:
        """Pack removals into commits."""
        most = self.store.capabilities.max_operations
        packed: list[tuple[list[Compare], list[Write]]] = []
        for removal in removals:
            last = packed[-1] if packed else ([], [])
            if not packed or len(last[1]) + len(removal.writes) > most:
                packed.append(last := ([], []))
            last[0].extend(removal.compares)
            last[1].extend(removal.writes)
        return packed

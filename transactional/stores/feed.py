"""The recent commits, and who waits for the next one: the watching half of an engine.

Waiters are found by their prefixes, one look-up for each length that a waited-for prefix has: a
commit costs the same beside ten of them and beside ten thousand, if it does not concern them.

An engine publishes every commit here, in order, on its event loop.  A watcher owns nothing but a
cursor, the revision up to which it has seen everything.  It reads what is above its cursor and
then waits; both happen in one turn of the loop, so nothing slips between.  A waiter is woken only
by a commit that touches its prefix, and told that commit's revision: all before it did not concern
the watcher, so its cursor never falls behind the compaction for want of news.

The feed holds at most ``commits_max`` commits and ``bytes_max`` bytes of values.  A watcher whose
cursor is below ``floor`` reads the rest from the engine (a history on disk), or is told that it is
compacted.

A commit waits here as a tuple of rows of plain values and becomes a ``WatchEvent`` when somebody
reads it.  Python's collector leaves such tuples alone; objects it would walk through again and
again, and that took a fifth of a busy engine's time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, deque
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from transactional.clock import utc
from transactional.stores.retention import ROW_BYTES
from transactional.values import KeyChange, KeyValue, WatchEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from transactional.rules import Forgotten
    from transactional.values import Compacted


Row = tuple[int, str, bytes | None, int | None, str | None, str, int]
"""One changed key: revision, key, value (None: deleted), created revision, lease, by whom, time."""
Rows = tuple[Row, ...]
"""What one commit changed, in the order of the keys."""


def rows_under(rows: Rows, prefix: str) -> Rows:
    """Return the part of a commit that concerns ``prefix``; empty if there is none."""
    return tuple([row for row in rows if row[1].startswith(prefix)]) if prefix else rows


def event_of(rows: Rows) -> WatchEvent:
    """Return what a commit changed, which is something, as an event."""
    changes = tuple(
        KeyChange(
            key,
            None
            if value is None
            else KeyValue(key, value, revision, created or 0, lease, by, time_us),
        )
        for revision, key, value, created, lease, by, time_us in rows
    )
    *_, by, time_us = rows[0]
    return WatchEvent(rows[0][0], utc(time_us), changes, by)


def row_of(change: KeyChange, revision: int, by: str, time_us: int) -> Row:
    """Return a change as it is kept."""
    new = change.current
    if new is None:
        return (revision, change.key, None, None, None, by, time_us)
    return (revision, change.key, new.value, new.created_revision, new.lease, by, time_us)


def bytes_of(rows: Rows) -> int:
    """Return how many bytes of values a commit holds, each with what it costs beside them."""
    return sum([ROW_BYTES + len(row[2] or b"") for row in rows])


def _without(row: Row, forgotten: Forgotten) -> Row:
    instead = None if row[2] is None else forgotten.instead(row[1])
    return row if instead is None else (*row[:2], instead, *row[3:])


FEED_BYTES_MAX: Final = 64 << 20
"""Values that are kept in memory for watchers; who is further behind reads the history."""


class Feed:
    """Events in memory plus wake-ups; belongs to one event loop."""

    def __init__(self, revision: int, *, commits_max: int, bytes_max: int = FEED_BYTES_MAX) -> None:
        self.floor = revision
        """Commits up to this revision are not here."""
        self.revision = revision
        """The last published revision."""
        self._commits: deque[tuple[int, Rows]] = deque()
        self._commits_max = commits_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._waiters: dict[str, set[asyncio.Future[int | None]]] = {}
        self._lengths: Counter[int] = Counter()  # of the prefixes in `_waiters`
        self._erasures = 0
        self._closed = False
        self._why: Callable[[], Exception] | None = None

    @property
    def watches(self) -> int:
        """How many wait for the next commit."""
        return sum(map(len, self._waiters.values()))

    def publish(self, commits: Iterable[tuple[int, Rows]]) -> None:
        """Take in commits, oldest first, and wake the watchers whose prefix they touch."""
        for revision, rows in commits:
            self._commits.append((revision, rows))
            self.revision = revision
            self._bytes += bytes_of(rows)
            while len(self._commits) > self._commits_max or self._bytes > self._bytes_max:
                self.floor, oldest = self._commits.popleft()
                self._bytes -= bytes_of(oldest)
            if self._waiters:
                self._wake(revision, rows)

    def skip(self, revision: int) -> None:
        """Go on behind ``revision``: what is not here up to it is the engine's to read, or gone."""
        self._commits.clear()
        self._bytes = 0
        self.floor = self.revision = revision
        for prefix in [*self._waiters]:
            for future in self._drop(prefix):
                if not future.done():
                    future.set_result(0)

    def _wake(self, revision: int, rows: Rows) -> None:
        for row in rows:
            key = row[1]
            for length in [*self._lengths]:
                if length <= len(key):
                    for future in self._drop(key[:length]):
                        if not future.done():
                            future.set_result(revision)

    def _drop(self, prefix: str) -> set[asyncio.Future[int | None]]:
        """Forget the waiters for a prefix, and return them."""
        futures = self._waiters.pop(prefix, None)
        if futures is None:
            return set()
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]
        return futures

    def after(self, cursor: int, prefix: str) -> list[WatchEvent | Compacted]:
        """Return the commits above ``cursor`` (not below ``floor``) that touch ``prefix``."""
        first = bisect_right(self._commits, cursor, key=itemgetter(0))
        rest = (self._commits[index][1] for index in range(first, len(self._commits)))
        return [event_of(mine) for rows in rest if (mine := rows_under(rows, prefix))]

    def forget(self, forgotten: Forgotten, before: int) -> None:
        """Replace values that were written before revision ``before``; O(commits here)."""
        for number, (revision, rows) in enumerate(self._commits):
            if revision < before and any(forgotten.instead(row[1]) is not None for row in rows):
                after = tuple([_without(row, forgotten) for row in rows])
                self._commits[number] = (revision, after)
                self._bytes += bytes_of(after) - bytes_of(rows)
        self._erasures += 1

    async def wait(self, prefix: str) -> int | None:
        """Wait for the next commit under ``prefix``; return its revision, None when closed."""
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        if prefix not in self._waiters:
            self._lengths[len(prefix)] += 1
        self._waiters.setdefault(prefix, set()).add(future)
        try:
            return await future
        finally:
            same = self._waiters.get(prefix)
            if same is not None:
                same.discard(future)
                if not same:
                    self._drop(prefix)

    async def follow(
        self,
        prefix: str,
        after: int | None,
        older: Callable[[int], Awaitable[tuple[int, list[WatchEvent | Compacted]]]],
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under ``prefix`` above ``after`` (None: above the present) for ever.

        ``older(cursor)`` reads a stretch of what is not here and returns the cursor behind it.
        When the feed is closed it ends, or raises what it was closed for.
        """
        cursor = self.revision if after is None else after
        while not self._closed:
            erasures = self._erasures
            here = cursor >= self.floor
            if here:
                # A cursor may be ahead of us: a reader sees a commit before the loop publishes it.
                end, events = max(cursor, self.revision), self.after(cursor, prefix)
            else:
                end, events = await older(cursor)
            for event in events:
                if erasures != self._erasures:
                    break  # something was forgotten since, perhaps of this: it is read again
                yield event
                cursor = event.revision
            else:
                cursor = max(cursor, end)
                if here and not events:
                    woken = await self.wait(prefix)
                    cursor = max(cursor, woken - 1) if woken is not None else cursor
        if self._why is not None:
            raise self._why()

    def close(self, why: Callable[[], Exception] | None = None) -> None:
        """Wake everybody for the last time; `why` makes the error that each of them is told."""
        self._closed, self._why = True, self._why or why
        for prefix in [*self._waiters]:
            for future in self._drop(prefix):
                if not future.done():
                    future.set_result(None)

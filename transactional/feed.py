"""The recent commits, and who waits for the next one: the watching half of an engine.

An engine publishes every commit here, in order, on its event loop.  A watcher owns nothing but a
cursor, the revision up to which it has seen everything.  It reads what is above its cursor and
then waits; both happen in one turn of the loop, so nothing slips between.  A waiter is woken only
by a commit that touches its prefix, and told that commit's revision: all before it did not concern
the watcher, so its cursor never falls behind the compaction for want of news.

The feed holds at most ``commits_max`` commits.  A watcher whose cursor is below ``floor`` reads
the rest from the engine (a history on disk), or is told that it is compacted.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from transactional.store import Compacted, Event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable


def only_under(event: Event, prefix: str) -> Event | None:
    """Return the part of the event that concerns ``prefix``, None if there is none.

    A commit that changed nothing (it deleted what was absent) concerns nobody.
    """
    if event.changes and not prefix:
        return event
    mine = tuple(change for change in event.changes if change.key.startswith(prefix))
    if not mine:
        return None
    whole = len(mine) == len(event.changes)
    return event if whole else Event(event.revision, event.time, mine)


class Feed:
    """Events in memory plus wake-ups; belongs to one event loop."""

    def __init__(self, revision: int, *, commits_max: int) -> None:
        self.floor = revision
        """Commits up to this revision are not here."""
        self.revision = revision
        """The last published revision."""
        self._events: deque[Event] = deque()
        self._commits_max = commits_max
        self._waiters: dict[asyncio.Future[int | None], str] = {}
        self._closed = False

    def publish(self, events: Iterable[Event]) -> None:
        """Take in commits, oldest first, and wake the watchers whose prefix they touch."""
        for event in events:
            self._events.append(event)
            self.revision = event.revision
            if len(self._events) > self._commits_max:
                self.floor = self._events.popleft().revision
            if self._waiters:
                self._wake(event)

    def _wake(self, event: Event) -> None:
        for future, prefix in list(self._waiters.items()):
            if any(change.key.startswith(prefix) for change in event.changes):
                del self._waiters[future]
                if not future.done():
                    future.set_result(event.revision)

    def after(self, cursor: int, prefix: str) -> list[Event]:
        """Return the commits above ``cursor`` (not below ``floor``) that touch ``prefix``."""
        first = bisect_right(self._events, cursor, key=attrgetter("revision"))
        rest = (self._events[index] for index in range(first, len(self._events)))
        return [mine for event in rest if (mine := only_under(event, prefix)) is not None]

    async def wait(self, prefix: str) -> int | None:
        """Wait for the next commit under ``prefix``; return its revision, None when closed."""
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = prefix
        try:
            return await future
        finally:
            self._waiters.pop(future, None)

    async def follow(
        self,
        prefix: str,
        after: int | None,
        older: Callable[[int], Awaitable[tuple[int, list[Event | Compacted]]]],
    ) -> AsyncGenerator[Event | Compacted, None]:
        """Yield the commits under ``prefix`` above ``after`` (None: above the present) for ever.

        ``older(cursor)`` reads a stretch of what is not here and returns the cursor behind it.
        """
        cursor = self.revision if after is None else after
        while not self._closed:
            if cursor < self.floor:
                cursor, stretch = await older(cursor)
                for event in stretch:
                    yield event
                continue
            # A cursor may be ahead of us: a reader sees a commit before the loop publishes it.
            events = self.after(cursor, prefix)
            cursor = max(cursor, self.revision)
            for event in events:
                yield event
            if not events:
                woken = await self.wait(prefix)
                cursor = max(cursor, woken - 1) if woken is not None else cursor

    def close(self) -> None:
        """Wake everybody for the last time."""
        self._closed = True
        for future in self._waiters:
            if not future.done():
                future.set_result(None)
        self._waiters.clear()

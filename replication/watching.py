"""Hands published changes to the subscribers of one agent, each at its own pace.

Theory of operation. `Feed` (pure) bounds and folds; this adds the waiting. A subscription holds
from the call of `watch` on, and ends when its last reference is let go of, as a `for` loop does at
its end: the agent refers to it weakly. Closing wakes everybody, hands out what is queued, and ends
their loops.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from replication.subscription import Event, Feed

if TYPE_CHECKING:
    from replication.protocol.effects import Published


class Watch:
    """One subscription: iterate it for as long as you like, with time-outs if you like."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._ready = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event; giving up waiting for it loses nothing."""
        while (event := self._feed.take()) is None:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return event

    async def aclose(self) -> None:
        """End it: what is queued is still handed out, then its loop ends."""
        self.end()

    def offer(self, published: Published) -> None:
        """Queue a change, if it is one of those watched."""
        if not self._ended and self._feed.offer(published.change, published.cause):
            self._ready.set()

    def end(self) -> None:
        """Take nothing more."""
        self._ended = True
        self._ready.set()


class Watchers:
    """The subscribers of one agent."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._watches: WeakSet[Watch] = WeakSet()
        self._closed = False

    def publish(self, published: Published) -> None:
        """Offer a change to every subscriber; O(subscribers x documents in the change)."""
        for watch in list(self._watches):
            watch.offer(published)

    def watch(self, prefix: str) -> Watch:
        """Events from now on, until `close`."""
        watch = Watch(Feed(prefix, self._events_max))
        if self._closed:
            watch.end()
        self._watches.add(watch)
        return watch

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        for watch in list(self._watches):
            watch.end()

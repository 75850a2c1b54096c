"""Hands published changes to the subscribers of one agent, each at its own pace.

Theory of operation. `Feed` (pure) bounds and folds; this adds the waiting. A subscription holds
from the call of `watch` on, and ends when its last reference is let go of, as a `for` loop does at
its end: the agent refers to it weakly. Closing wakes everybody, hands out what is queued, and ends
their loops.

A watcher that was away comes back with a token: the vector up to which everything was handed out.
What changed since is told in one folded event, computed from the state. It names the documents that
changed, emptied ones too, as far as the history tells. A removal leaves nothing behind, so after a
while nothing says where it was; then the event names every document there is, and says so
(`everything`): a document that it leaves out has nothing left. A skip (`protocol.skips`) may have
taken something back anywhere.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from replication.agent.subscription import Event, Feed, Touched
from replication.protocol.policy import SKIPPED
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crdt import Kernel
    from replication.protocol.effects import Published


class Watch:
    """One subscription: iterate it for as long as you like, with time-outs if you like."""

    def __init__(self, feed: Feed, after: Version, now: Version, missed: Event | None) -> None:
        self._feed = feed
        self._missed = missed
        self._reached = now
        self._began: Version | None = now  # until something later comes
        self._token = now if missed is None else after
        self._ready = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event; giving up waiting for it loses nothing."""
        if self._missed is not None:
            missed, self._missed = self._missed, None
            self._caught_up()
            return missed
        while (event := self._feed.take()) is None:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        self._caught_up()
        return event

    @property
    def token(self) -> Version:
        """Where to go on after a break: all changes up to it were handed out, and perhaps more.

        Keep it after an event was dealt with; `watch(prefix, after=token)` tells what came later.
        """
        return self._token

    def _caught_up(self) -> None:
        if not len(self._feed):
            self._token = self._reached

    async def aclose(self) -> None:
        """End it: what is queued is still handed out, then its loop ends."""
        self.end()

    def offer(self, published: Published, vector: Mapping[str, int]) -> None:
        """Queue a change, if it is one of those watched; `vector` is what it leads to."""
        if self._ended:
            return
        if self._began is not None:
            if Version(vector) <= self._began:
                return  # written before the watch began, and committed only now
            self._began = None
        idle = not len(self._feed) and self._missed is None
        if self._feed.offer(published.change, published.cause):
            self._ready.set()
        self._reached = Version(vector)
        if idle and not len(self._feed):
            self._token = self._reached

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

    def publish(self, published: Published, vector: Mapping[str, int]) -> None:
        """Offer a change to every subscriber; O(subscribers x documents in the change)."""
        for watch in list(self._watches):
            watch.offer(published, vector)

    def watch(self, prefix: str, after: Version, now: Version, missed: Event | None) -> Watch:
        """Events from `now` on; first `missed`, which stands for those between `after` and now."""
        watch = Watch(Feed(prefix, self._events_max), after, now, missed)
        if self._closed:
            watch.end()
        self._watches.add(watch)
        return watch

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        for watch in list(self._watches):
            watch.end()


def missed_since(kernel: Kernel, vector: Mapping[str, int], prefix: str) -> Event | None:
    """What changed under `prefix` after a vector, in one event; None if nothing did. O(changes)."""
    touched, complete = kernel.documents_since(vector)
    complete = complete and not any(name == SKIPPED for name, _ in touched)
    if not complete:
        touched.update(kernel.documents())
    places = sorted(
        ((name, kind) for name, kind in touched if name.startswith(prefix)),
        key=lambda place: (place[0], place[1].__name__),
    )
    if not places and complete:
        return None
    documents = tuple(Touched(name, kind, None) for name, kind in places)
    return Event(documents, "resume", lagged=True, everything=not complete)

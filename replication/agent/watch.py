"""Watching: the changes that an agent publishes, handed to each subscriber at its own pace.

Theory of operation. *The feed* (`Feed`, pure) is the queue of one subscriber: bounded, conflating,
and honest about having lagged. Changes arrive as the replica publishes them (a batch is one
change). A subscriber that reads fast sees every change whole. When the queue is full, the oldest
half is folded into one event: per document, the set of keys that changed; that event and whatever
is folded into it later says `lagged`. So memory is bounded by the queue and the number of changed
keys of watched documents, and a slow reader still learns of every key that changed - it just reads
the latest value instead of each step.

*The watch* adds the waiting. A subscription holds from the call of `watch` on, and ends when its
last reference is let go of, as a `for` loop does at its end: the agent refers to it weakly. Closing
wakes everybody, hands out what is queued, and ends their loops.

*Coming back.* A watcher that was away comes back with a token: the vector up to which everything
was handed out. What changed since is said in one folded event, computed from the state. It names
the documents that changed, emptied ones too, as far as the history tells. A removal leaves nothing
behind, so after a while nothing says where it was; then the event names every document there is,
and says so (`everything`): a document that it leaves out has nothing left. A skip
(`protocol.skips`) may have taken something back anywhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from replication.protocol import SKIPPED, is_reserved
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from crdt import Change, Kernel
    from replication.protocol import Published


@dataclass(frozen=True, slots=True)
class ChangedDocument:
    """A document that changed; `keys` are its changed top-level keys, None if it has none."""

    name: str
    type: type
    keys: frozenset[object] | None


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One change as a subscriber sees it.

    Attributes:
        documents: what changed, watched documents only.
        cause: "local", "remote", "bootstrap", "resume" after a break, or "several" when changes
            were folded.
        lagged: the subscriber was too slow, or away; steps between were folded into this one.
        everything: `documents` are all that hold state (of the watched): any other is empty now.
    """

    documents: tuple[ChangedDocument, ...]
    cause: str
    lagged: bool = False
    everything: bool = False


class Feed:
    """The queue of one subscriber. `offer` is O(documents in the change).

    Args:
        prefix: only documents whose name starts with it.
        events_max: the bound of the queue (at least 2).
    """

    __slots__ = ("_events", "_events_max", "_prefix")

    def __init__(self, prefix: str, events_max: int) -> None:
        self._prefix = prefix
        self._events_max = max(2, events_max)
        self._events: deque[ChangeEvent] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def offer(self, change: Change, cause: str) -> bool:
        """Queue what concerns this subscriber; whether anything did."""
        touched = tuple(
            ChangedDocument(d.name, d.type, d.keys)
            for d in change.documents
            if d.name.startswith(self._prefix) and not is_reserved(d.name)
        )
        if not touched:
            return False
        if len(self._events) >= self._events_max:
            half = [self._events.popleft() for _ in range(self._events_max // 2)]
            self._events.appendleft(_folded(half))
        self._events.append(ChangeEvent(touched, cause))
        return True

    def take(self) -> ChangeEvent | None:
        """The next event, or None if nothing waits."""
        return self._events.popleft() if self._events else None


def _folded(events: Iterable[ChangeEvent]) -> ChangeEvent:
    keys: dict[tuple[str, type], frozenset[object] | None] = {}
    causes: set[str] = set()
    for event in events:
        causes.add(event.cause)
        for document in event.documents:
            place = (document.name, document.type)
            before = keys.get(place, frozenset())
            known = before is not None and document.keys is not None
            keys[place] = before | document.keys if known and before is not None else None  # type: ignore[operator]
    cause = causes.pop() if len(causes) == 1 else "several"
    return ChangeEvent(
        tuple(ChangedDocument(n, t, k) for (n, t), k in keys.items()), cause, lagged=True
    )


class Watch:
    """One subscription: iterate it for as long as you like, with time-outs if you like."""

    def __init__(
        self,
        feed: Feed,
        after: Version,
        now: Version,
        missed: ChangeEvent | None,
        check_wait: Callable[[], None],
    ) -> None:
        self._check_wait = check_wait
        self._feed = feed
        self._missed = missed
        self._reached = now
        self._began: Version | None = now  # until something later comes
        self._token = now if missed is None else after
        self._ready = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChangeEvent:
        """The next event; giving up waiting for it loses nothing. BatchOpenError in a batch."""
        while (event := self.queued()) is None:
            if self._ended:
                raise StopAsyncIteration
            self._check_wait()
            self._ready.clear()
            await self._ready.wait()
        return event

    def queued(self) -> ChangeEvent | None:
        """The next event if there is one already; it does not wait."""
        event, self._missed = self._missed, None
        if event is None:
            event = self._feed.take()
        if event is not None:
            self._caught_up()
        return event

    @property
    def token(self) -> Version:
        """Where to go on after a break: all changes up to it were handed out, and perhaps more.

        Keep it after an event was dealt with; `watch(prefix, after=token)` gives what came later.
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
    """The subscribers of one agent; `check_wait` raises at those who may not wait for events."""

    def __init__(self, events_max: int, check_wait: Callable[[], None] = lambda: None) -> None:
        self._events_max = events_max
        self._check_wait = check_wait
        self._watches: WeakSet[Watch] = WeakSet()
        self._closed = False

    def publish(self, published: Published, vector: Mapping[str, int]) -> None:
        """Offer a change to every subscriber; O(subscribers x documents in the change)."""
        for watch in list(self._watches):
            watch.offer(published, vector)

    def watch(self, prefix: str, after: Version, now: Version, missed: ChangeEvent | None) -> Watch:
        """Events from `now` on; first `missed`, which stands for those between `after` and now."""
        watch = Watch(Feed(prefix, self._events_max), after, now, missed, self._check_wait)
        if self._closed:
            watch.end()
        self._watches.add(watch)
        return watch

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        for watch in list(self._watches):
            watch.end()


def missed_since(kernel: Kernel, vector: Mapping[str, int], prefix: str) -> ChangeEvent | None:
    """What changed under `prefix` after a vector, in one event; None if nothing did. O(changes)."""
    touched, complete = kernel.documents_since(vector)
    complete = complete and not any(name == SKIPPED for name, _ in touched)
    if not complete:
        touched.update(kernel.documents())
    places = sorted(
        (place for place in touched if place[0].startswith(prefix) and not is_reserved(place[0])),
        key=lambda place: (place[0], place[1].__name__),
    )
    if not places and complete:
        return None
    documents = tuple(ChangedDocument(name, kind, None) for name, kind in places)
    return ChangeEvent(documents, "resume", lagged=True, everything=not complete)

"""The change feed of one subscriber: bounded, conflating, and honest about having lagged.

Theory of operation. Changes arrive as the replica publishes them (a batch is one change) and wait
in a queue. A subscriber that reads fast sees every change whole. When the queue is full, the oldest
half is folded into one event: per document, the set of keys that changed; that event and whatever
is folded into it later says `lagged`. So memory is bounded by the queue and the number of changed
keys of watched documents, and a slow reader still learns of every key that changed - it just reads
the latest value instead of each step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crdt import Change


@dataclass(frozen=True, slots=True)
class Touched:
    """A document that changed; `keys` are its changed top-level keys, None if it has none."""

    name: str
    type: type
    keys: frozenset[object] | None


@dataclass(frozen=True, slots=True)
class Event:
    """One change as a subscriber sees it.

    Attributes:
        documents: what changed, watched documents only.
        cause: "local", "remote", "bootstrap", "resume" after a break, or "several" when changes
            were folded.
        lagged: the subscriber was too slow, or away; steps between were folded into this one.
        everything: `documents` are all that hold state (of the watched): any other is empty now.
    """

    documents: tuple[Touched, ...]
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
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def offer(self, change: Change, cause: str) -> bool:
        """Queue what concerns this subscriber; whether anything did."""
        touched = tuple(
            Touched(d.name, d.type, d.keys)
            for d in change.documents
            if d.name.startswith(self._prefix)
        )
        if not touched:
            return False
        if len(self._events) >= self._events_max:
            half = [self._events.popleft() for _ in range(self._events_max // 2)]
            self._events.appendleft(_folded(half))
        self._events.append(Event(touched, cause))
        return True

    def take(self) -> Event | None:
        """The next event, or None if there is none now."""
        return self._events.popleft() if self._events else None


def _folded(events: Iterable[Event]) -> Event:
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
    return Event(tuple(Touched(n, t, k) for (n, t), k in keys.items()), cause, lagged=True)

"""Who may say what: roles of agents, and who writes which documents. Checked at every merge.

Theory of operation. An event names its origin, and an origin its agent (`name~incarnation`). Two
questions decide whether an event may enter:

* may its *sender* bring it? A relay brings anybody's events, a leaf its own and no others;
* may its *origin* do it? Writing into, and removing from, a document whose name has a listed prefix
  is for the agents listed there; the longest prefix speaks, and what has none is open to all.

The rules hold because every agent checks them on its own, so they have to be the same everywhere:
their digest stands in every frame, and agents of different rules exchange nothing. One refused
event refuses its whole range; the vector stays before it, so it cannot slip in with a later one.

What a removal did to a dot that is unknown here cannot be judged. From an origin that some prefix
excludes it is refused until the dot is known; such an agent removes only what it saw, so its relay
knows the dot, too.

Names are as good as the keys behind them: with the cluster secret alone whoever holds it may take
any name, and the rules guard against mistakes, not against malice (docs/security.md).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from crdt import Delta
    from replication.protocol.caller import Caller

Dots = tuple[str, int, int]
DIGEST_BYTES = 8
SEQ_MAX = 1 << 62
SKIPPED = "_convoca/skipped"
"""The document of events given up (`skips`), which takes back what others wrote."""


def agent_of(replica: str) -> str:
    """The name of the agent that an id or origin belongs to."""
    return replica.partition("~")[0]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a cluster; the same on every agent.

    Args:
        relays: names of the agents that may bring others' events; None: every agent may.
        writers: document prefix -> names of the agents that may write there.
        certified: the client certificate of a request has to name its sender, as its common name or
            a DNS name (mutual TLS with a certificate for each agent).
    """

    relays: Collection[str] | None = None
    writers: Mapping[str, Collection[str]] = field(default_factory=dict)
    certified: bool = False

    @property
    def digest(self) -> bytes:
        """Eight bytes that are equal for equal rules; b"" for none at all."""
        if self == Rules():
            return b""
        relays = None if self.relays is None else sorted(self.relays)
        writers = {prefix: sorted(names) for prefix, names in sorted(self.writers.items())}
        text = json.dumps([relays, writers, self.certified])
        return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()

    def names_of(self, caller: Caller) -> frozenset[str] | None:
        """The names that a sender may use by its certificate; None where none is asked for."""
        return caller.names if self.certified else None

    def may_relay(self, name: str) -> bool:
        """Whether the agent of that name may bring events of others."""
        return self.relays is None or name in self.relays

    def may_write(self, name: str, document: str) -> bool:
        """Whether the agent of that name may write the document; O(prefixes).

        Who may not write everything may not give up what others wrote, either.
        """
        if document == SKIPPED and self.is_bound(name):
            return False
        fitting = [prefix for prefix in self.writers if document.startswith(prefix)]
        return not fitting or name in self.writers[max(fitting, key=len)]

    def is_bound(self, name: str) -> bool:
        """Whether there is a document that the agent of that name may not write."""
        return any(name not in allowed for allowed in self.writers.values())

    def check_sender(self, sender: str, origins: Iterable[str]) -> None:
        """Raise ForbiddenError if a leaf brings events of somebody else."""
        if self.relays is None or self.may_relay(agent_of(sender)):
            return
        for origin in origins:
            if agent_of(origin) != agent_of(sender):
                raise ForbiddenError(f"{sender} is a leaf and brought events of {origin}")

    def check_events(self, delta: Delta, documents_of: Callable[[Dots], set[str | None]]) -> None:
        """Raise ForbiddenError if an event touches a document that its origin may not write.

        Args:
            delta: what came.
            documents_of: the documents of the live entries among some dots; None stands for dots
                that were never seen.
        """
        if not self.writers:
            return
        brought = {
            run.origin: [(event.seq, event.path[0]) for event in run.events if event.path]
            for run in delta.runs
        }
        covered = {run.origin: (run.first, run.last) for run in delta.runs}
        for run in delta.runs:
            name = agent_of(run.origin)
            if not self.is_bound(name):
                continue
            for event in run.events:
                touched: set[str | None] = {event.path[0]} if event.path else set()
                for origin, first, last in event.kills:
                    low, high = covered.get(origin, (SEQ_MAX, SEQ_MAX))
                    known = brought.get(origin, [])
                    touched.update(
                        document
                        for _, document in known[
                            bisect_left(known, (first,)) : bisect_left(known, (last + 1,))
                        ]
                    )
                    for dots in ((first, min(last, low - 1)), (max(first, high + 1), last)):
                        if dots[0] <= dots[1]:
                            touched |= documents_of((origin, *dots))
                self._check(run.origin, event.seq, touched)

    def _check(self, origin: str, seq: int, documents: Iterable[str | None]) -> None:
        for document in documents:
            if document is None:
                raise ForbiddenError(f"{origin}:{seq} removed what is not known here yet")
            if not self.may_write(agent_of(origin), document):
                raise ForbiddenError(f"{origin}:{seq} touches {document[:80]!r}, not its to write")

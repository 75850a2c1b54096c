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
    from replication.protocol.link import PeerConnection

Dots = tuple[str, int, int]
DIGEST_BYTES = 8
SEQ_MAX = 1 << 62
RESERVED = "_convoca/"
"""Documents of these names are the library's own: nobody is shown them or writes them by name."""
SKIPPED = RESERVED + "skipped"
"""The document of events given up (`intake`), which takes back what others wrote."""
LIVES = RESERVED + "lives"
"""The document of former lives (`lives`). Everybody writes of the own ones; what is said of others'
counts for nothing, so it need not be refused."""


def is_reserved(document: object) -> bool:
    """Whether a document of that name is the library's own."""
    return isinstance(document, str) and document.startswith(RESERVED)


def agent_of(replica: str) -> str:
    """The name of the agent that an id or origin belongs to."""
    return replica.partition("~")[0]


@dataclass(frozen=True, slots=True)
class AccessPolicy:
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
        if self == AccessPolicy():
            return b""
        relays = None if self.relays is None else sorted(self.relays)
        writers = {prefix: sorted(names) for prefix, names in sorted(self.writers.items())}
        text = json.dumps([relays, writers, self.certified])
        return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()

    def names_of(self, connection: PeerConnection) -> frozenset[str] | None:
        """The names that a sender may use by its certificate; None where none is asked for."""
        return connection.names if self.certified else None

    def may_relay(self, name: str) -> bool:
        """Whether the agent of that name may bring events of others."""
        return self.relays is None or name in self.relays

    def may_write(self, name: str, document: str) -> bool:
        """Whether the agent of that name may write the document; O(prefixes).

        Who may not write everything may not give up what others wrote, either.
        """
        if document.startswith(RESERVED) and self.is_bound(name):
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

        To touch is to write an entry there or to kill one. O(events + killed ranges x log events).

        Args:
            delta: what came.
            documents_of: the documents of the live entries among some dots; None stands for dots
                that were never seen.
        """
        if not self.writers:
            return
        # A removal says which dots it kills, not of which document they were. Each dot is in one of
        # two places, and both have to be asked, since neither knows what the other holds:
        #
        #     covered by this delta     the run of its origin says what it wrote, if it lives
        #     anywhere else             the state says what it holds, and whether it saw the dot
        #
        # A dot of the delta must not be looked up in the state: it is not applied yet, and "never
        # seen" would refuse a delta that brings an entry and its removal together.
        written = {
            run.origin: [(event.seq, event.path[0]) for event in run.events if event.path]
            for run in delta.runs
        }
        covered = {run.origin: (run.first, run.last) for run in delta.runs}
        for run in delta.runs:
            name = agent_of(run.origin)
            if not self.is_bound(name):
                continue  # it may write everything: nothing to look up
            for event in run.events:
                touched: set[str | None] = {event.path[0]} if event.path else set()
                touched.discard(LIVES)  # to add to it; whoever kills there, kills what others said
                for origin, first, last in event.kills:
                    # Within the delta: seqs ascend, so the killed ones are one slice. Beyond its
                    # origins `low` and `high` lie above any seq: all dots are anywhere else.
                    seqs = written.get(origin, [])
                    start, stop = bisect_left(seqs, (first,)), bisect_left(seqs, (last + 1,))
                    touched.update(document for _, document in seqs[start:stop])
                    # Anywhere else: what of first..last lies below the run, and what lies above.
                    low, high = covered.get(origin, (SEQ_MAX, SEQ_MAX))
                    below, above = (first, min(last, low - 1)), (max(first, high + 1), last)
                    for begin, end in (below, above):
                        if begin <= end:
                            touched |= documents_of((origin, begin, end))
                self._check(run.origin, event.seq, touched)

    def _check(self, origin: str, seq: int, documents: Iterable[str | None]) -> None:
        for document in documents:
            if document is None:
                raise ForbiddenError(f"{origin}:{seq} removed what is not known here yet")
            if not self.may_write(agent_of(origin), document):
                raise ForbiddenError(f"{origin}:{seq} touches {document[:80]!r}, not its to write")

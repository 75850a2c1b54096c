"""Who may say what: roles of agents, and who writes which documents. Checked at every merge.

Theory of operation. An event names its origin, and an origin its agent (`name~incarnation`). Two
questions decide whether an event may enter:

* may its *sender* bring it? A relay brings anybody's events, a leaf its own and no others;
* may its *origin* do it? Writing into, and removing from, a document whose name has a listed prefix
  is for the agents listed there; the longest prefix speaks, and what has none is open to all.

The rules hold because every agent checks them on its own, so they have to be the same everywhere:
their digest stands in every frame, and agents of different rules exchange nothing. One refused
event keeps its whole range out; the vector of its origin stays before it, so it cannot slip in with
a later one. Ranges of other origins go on.

What is refused must not depend on what an agent holds at the moment: one would take an event that
another refuses, and whatever builds on it would stop there. Where an event writes, it says itself.
What it removes it names by dots, of which one agent may know that they are dead and another what
they stand for: so a removal that hits a document which is not its origin's to write is *void*, and
not refused. A dot that is unknown here cannot be judged; from an origin that some prefix excludes
it waits until the dot is known. Such an agent removes only what it saw, so that its relay knows the
dot, and sooner or later everybody does.

Names are as good as the keys behind them: with the cluster secret alone whoever holds it may take
any name, and the rules guard against mistakes, not against malice (docs/security.md).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING

from replication.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from crdt import Delta, Run
    from replication.protocol.link import PeerConnection

Dots = tuple[str, int, int]
DIGEST_BYTES = 8
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

    def judged(
        self,
        delta: Delta,
        documents_of: Callable[[Dots], set[str | None]],
        places_of: Callable[[Dots], Iterable[tuple[int, str]]],
    ) -> tuple[Delta, dict[str, str]]:
        """What of a delta may enter, and the origins that have to wait or may not, with the reason.

        An event that writes where its origin may not, or that removes what is not known here yet,
        keeps its whole run out, and no other. A removal is void where it hits a document that its
        origin may not write: so it is at every agent, whatever each holds of it at the moment.
        O(events + killed ranges x log events).

        Args:
            delta: what came.
            documents_of: the documents of the live entries among some dots; None stands for dots
                that were never seen.
            places_of: (seq, document) of each of these entries.
        """
        names = map(agent_of, (run.origin for run in delta.runs))
        bound = [index for index, name in enumerate(names) if self.writers and self.is_bound(name)]
        if not bound:
            return delta, {}
        runs, refused = list(delta.runs), dict[str, str]()
        while True:
            count, left = len(refused), [run for run in runs if run.origin not in refused]
            brought = _Brought(left)
            for index in bound:
                run = delta.runs[index]  # as it came, whatever was made of it before
                origin = run.origin
                if origin in refused:
                    continue
                try:
                    runs[index] = self._of_run(run, brought, documents_of, places_of)
                except ForbiddenError as error:
                    refused[origin] = str(error)
            if len(refused) == count:  # else what one of them brought is not known any longer
                break
        left = [run for run in runs if run.origin not in refused]
        same = len(left) == len(delta.runs) and all(map(is_, left, delta.runs))
        return delta if same else type(delta)(tuple(left)), refused

    def _of_run(
        self,
        run: Run,
        brought: _Brought,
        documents_of: Callable[[Dots], set[str | None]],
        places_of: Callable[[Dots], Iterable[tuple[int, str]]],
    ) -> Run:
        """The run without its void removals, itself if there are none; ForbiddenError."""
        name, rows, thinned = agent_of(run.origin), [], False
        for row in run.rows:
            seq, path, kills = row[0], row[1], row[5]
            if path is not None and path[0] != LIVES and not self.may_write(name, path[0]):
                raise ForbiddenError(f"{run.origin}:{seq} writes {path[0][:80]!r}, not its own")
            left: list[Dots] = []
            for kill in kills:
                void = [s for s, d in brought.written(kill) if not self.may_write(name, d)]
                for part in brought.elsewhere(kill):
                    documents = documents_of(part)
                    if None in documents:
                        raise ForbiddenError(
                            f"{run.origin}:{seq} removed what is not known here yet"
                        )
                    if not all(self.may_write(name, d) for d in documents if d is not None):
                        void += [s for s, d in places_of(part) if not self.may_write(name, d)]
                left += _without(kill, void)
            if tuple(left) == kills:
                rows.append(row)
                continue
            thinned = True
            if path is not None or left:
                rows.append((*row[:5], tuple(left)))
        if not thinned:
            return run
        return type(run)(run.origin, run.first, run.last, tuple(rows), run.batches)


class _Brought:
    """What the runs of a delta bring.

    A removal says which dots it kills, not of which document they were. Each dot is in one of two
    places, and both have to be asked, since neither knows what the other holds:

        covered by this delta     the run of its origin says what it wrote, if it lives
        anywhere else             the state says what it holds, and whether it saw the dot

    A dot of the delta must not be looked up in the state: it is not applied yet, and "never seen"
    would refuse a delta that brings an entry and its removal together.
    """

    __slots__ = ("_covered", "_written")

    def __init__(self, runs: Iterable[Run]) -> None:
        self._covered: dict[str, list[tuple[int, int]]] = {}
        self._written: dict[str, list[tuple[int, str]]] = {}
        for run in sorted(runs, key=lambda run: (run.origin, run.first)):
            self._covered.setdefault(run.origin, []).append((run.first, run.last))
            entries = [(row[0], row[1][0]) for row in run.rows if row[1] is not None]
            self._written.setdefault(run.origin, []).extend(entries)

    def written(self, kill: Dots) -> list[tuple[int, str]]:
        """(seq, document) of what is brought among some dots."""
        origin, first, last = kill
        seqs = self._written.get(origin, [])
        return seqs[bisect_left(seqs, (first,)) : bisect_left(seqs, (last + 1,))]

    def elsewhere(self, kill: Dots) -> Iterable[Dots]:
        """The parts of some dots that are not covered."""
        origin, first, last = kill
        for low, high in self._covered.get(origin, ()):
            if first < low:
                yield origin, first, min(last, low - 1)
            first = max(first, high + 1)
        if first <= last:
            yield origin, first, last


def _without(kill: Dots, void: list[int]) -> list[Dots]:
    """A range of dots without some of its seqs."""
    origin, first, last = kill
    left = []
    for seq in sorted(set(void)):
        if first < seq:
            left.append((origin, first, seq - 1))
        first = seq + 1
    return [*left, (origin, first, last)] if first <= last else left

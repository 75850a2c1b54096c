"""What a journal promises, and how a kernel comes back from one.

Theory of operation. A journal is a log of encoded deltas, the vector that they add up to, and the
identity that wrote them. One `append` is one transaction: rows, vector and the lease of own
sequence numbers become durable together or not at all, so the vector is never ahead of the data.
From time to time the log is replaced by one snapshot.

Identity. A replica may continue under its id only if nothing that it ever sent can be missing from
its journal. A clean stop proves that: `close` gives back the lease of own sequence numbers. After
any other stop - a crash, or a disk rolled back to a moment when the agent ran - the lease still
lies beyond the own events, and the replica takes a new incarnation; so does one whose journal was
copied or restored (`Recovered.continuous`), or has lost a row. A crash therefore never reuses a
number, and costs one more origin. (Covering the unused numbers with a void range instead would
hide, from every vector, the events that a rolled back disk has lost.) A peer that knows more of our
events than we do makes the machine take a new incarnation, too.

A row that cannot be rebuilt - damaged, or one that this build cannot apply - keeps its own origins
out and nothing else: each stands where its rows still add up, and what came later is asked of peers
again (`KeptOut`). Only a snapshot that cannot be read leaves nothing to start from.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from crdt import BoundedCounter, Chunk, Delta, Kernel, VersionVector
from replication.errors import JournalUnreadableError, VectorAheadError
from replication.protocol import CHUNK, OWN, AccessPolicy, Row, agent_of, record_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from replication.protocol import MemberClaim


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a journal held when it was opened. `replica` is "" for a new one.

    `descends`: nobody else can have this journal, nor its lock; so the life that wrote it is over,
    and the events in it are all it wrote. Never so for a copy; a crash changes nothing about it.
    """

    replica: str = ""
    boots: int = 1
    continuous: bool = True
    descends: bool = True
    lease: int = 0
    snapshot: bytes = b""
    rows: Sequence[Row] = ()
    vector: Mapping[str, int] = field(default_factory=dict)
    book: tuple[MemberClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One transaction: rows, the vector after them, and the identity they belong to.

    `snapshot`, if given, covers everything up to and including `rows` and replaces the log.
    """

    rows: Sequence[Row]
    vector: Mapping[str, int]
    replica: str
    lease: int
    snapshot: bytes = b""
    book: tuple[MemberClaim, ...] | None = None


class Journal(Protocol):
    """The port. Methods block; the agent calls them in a thread of its own, one at a time."""

    port: int
    """Where its agent listened last, 0 for unknown; kept from the next `open` on. A hint: whoever
    may listen anywhere listens there again, so that a cluster that restarts finds itself. It can be
    asked for while somebody holds the journal."""

    def open(self) -> Recovered:
        """Take exclusive hold and read everything.

        Raises:
            JournalHeldError: another process has it.
            JournalUnreadableError: it is damaged or not a journal; it was left as it is.
        """

    def append(self, entry: Entry) -> None:
        """Make one transaction durable; returns after the disk has it.

        Raises:
            JournalFailedError: nothing of it is durable; the same entry may be tried again.
            VectorAheadError: nothing of it is durable; its vector claims what its rows do not hold
                (`check_vector`). With a snapshot it may be tried again.
        """

    def read(self) -> Recovered:
        """Everything durable, once more, while the journal is open.

        Raises:
            JournalUnreadableError: not even reading works.
        """

    def close(self) -> None:
        """Let go of the hold."""


class KeptOut(NamedTuple):
    """An origin that a journal claims to hold up to `claimed`, and holds up to `held`."""

    origin: str
    held: int
    claimed: int
    why: str

    def __str__(self) -> str:
        first = self.held + 1
        return f"{self.origin} is kept out from event {first} on, of {self.claimed}: {self.why}"


HOW_TO_GO_ON = (
    "start the agent: it takes a new incarnation and asks its peers for these events; "
    "what no peer has is lost, so keep a copy of the journal first"
)


@dataclass(frozen=True, slots=True)
class Booted:
    """A kernel that may write, and what else the journal held."""

    kernel: Kernel
    lease: int
    recovered: Recovered
    kept_out: tuple[KeptOut, ...] = ()

    def chunks(self) -> Iterator[bytes]:
        """Chunks of a bootstrap that was not finished."""
        return (row.data for row in self.recovered.rows if row.kind == CHUNK)


def boot(
    journal: Journal,
    fresh: str,
    clock: Callable[[], int] | None,
    rules: AccessPolicy | None = None,
) -> Booted:
    """Open a journal and bring back its kernel under an id that it may write with.

    If that is another one than before, and descent from it is shown, the record of that is written
    first: the new identity, the end of the old one, and what is left of its rights in bounded
    quantities, become durable together.

    Args:
        journal: closed; it is open afterwards, unless this raises.
        fresh: `name~incarnation` to use when the journal is new or continuity cannot be proven.
        clock: wall milliseconds for the kernel's stamps.
        rules: what this agent may not write, it does not inherit.

    Raises:
        JournalHeldError, JournalUnreadableError: the journal was left as it is.
    """
    recovered, kept_out = journal.open(), list[KeptOut]()
    try:
        kernel = _restore(recovered, fresh, clock, kept_out)
        if kernel.replica != recovered.replica:
            lost_own = any(lost.origin == recovered.replica for lost in kept_out)
            rows = [] if lost_own else _succeed(kernel, recovered, rules or AccessPolicy())
            lease = len(rows)  # all that was written: no number is out on lease yet
            vector = {lost.origin: lost.held for lost in kept_out} | dict(kernel.vector)
            journal.append(Entry(rows, vector, kernel.replica, lease))
            return Booted(kernel, lease, recovered, tuple(kept_out))
    except BaseException:
        journal.close()
        raise
    return Booted(kernel, recovered.lease, recovered)


def _succeed(kernel: Kernel, recovered: Recovered, rules: AccessPolicy) -> list[Row]:
    """What the first life after another one writes about it, if it can show descent.

    Each row is one event. O(bounded documents).
    """
    former, name = recovered.replica, agent_of(kernel.replica)
    if not (former and recovered.descends):
        return []
    written = [record_end(kernel, former)]
    for document, kind in list(kernel.documents()):
        if kind.__name__ == BoundedCounter.__name__ and rules.may_write(name, document):
            written.append(kernel.document(document, kind).adopt(former))
    return [Row(OWN, delta.encode()) for delta in written if delta]


def check_vector(entry: Entry, known: Mapping[str, int]) -> None:
    """Assert that the rows of a transaction carry its vector, from the one before. O(rows).

    Every journal asks this inside of its transaction, whatever led to it: a vector that is ahead of
    its rows claims events that nobody would ever send again.

    Raises:
        VectorAheadError: they do not.
    """
    if entry.snapshot:
        return
    risen = list(VersionVector(entry.vector).above(known))
    if not risen:
        return
    reach = {origin: known.get(origin, 0) for origin in risen}
    for row in entry.rows:
        for origin, first, last in sorted(row.ranges or _ranges_in(row)):
            if origin in reach and first <= reach[origin] + 1:
                reach[origin] = max(reach[origin], last)
    ahead = [origin for origin in risen if entry.vector[origin] > reach[origin]]
    if ahead:
        named = ", ".join(f"{o} {reach[o]} -> {entry.vector[o]}" for o in ahead[:3])
        raise VectorAheadError(f"the vector is ahead of the rows: {named}")


def _ranges_in(row: Row) -> Sequence[tuple[str, int, int]]:
    """The events that a row made by hand is of."""
    if row.kind != CHUNK:
        return Delta.decode(row.data).ranges
    return [(origin, 1, seq) for origin, seq in Chunk.decode(row.data).vector.items()]


def leased(own: int, lease: int, block: int) -> int:
    """The lease to persist with own events up to `own`: the old one, or a fresh block beyond.

    While it lies beyond `own` the journal is in use; `close` gives the rest back.
    """
    return lease if own <= lease - block // 2 else own + block


def _restore(
    recovered: Recovered, fresh: str, clock: Callable[[], int] | None, kept_out: list[KeptOut]
) -> Kernel:
    """The kernel that a journal describes, under an id that it may write with."""
    replica = recovered.replica or fresh
    name, ours = replica.partition("~")[0], fresh.partition("~")[0]
    if name != ours:
        raise JournalUnreadableError(
            f"the journal belongs to agent {name!r}, not to {ours!r}",
            hint="give each agent its own journal",
        )
    kernel = rebuild(recovered, replica, clock, kept_out)
    unclean = recovered.lease > kernel.vector.get(replica, 0)
    if recovered.replica and (unclean or kept_out or not recovered.continuous):
        kernel.reincarnate(fresh)
    return kernel


def rebuild(
    recovered: Recovered,
    replica: str,
    clock: Callable[[], int] | None,
    kept_out: list[KeptOut] | None = None,
) -> Kernel:
    """The kernel of what a journal holds; O(its size).

    Args:
        recovered: what it holds.
        replica: the id of the kernel.
        clock: wall milliseconds for its stamps.
        kept_out: where to say which origins stand before a row that cannot be rebuilt, and go on
            without it; without such a list that is an error.

    Raises:
        JournalUnreadableError: the snapshot cannot be read, or the rows do not add up to the vector
            beside them.
    """
    try:
        if recovered.snapshot:
            kernel = Kernel.from_bytes(recovered.snapshot, replica=replica, clock=clock)
        else:
            kernel = Kernel(replica, clock=clock)
    except Exception as error:
        raise JournalUnreadableError(f"its snapshot cannot be read: {error}") from error
    why = _replay(kernel, recovered.rows)
    stands = kernel.vector
    lost = [
        KeptOut(origin, stands.get(origin, 0), seq, why or "its rows are missing")
        for origin, seq in sorted(recovered.vector.items())
        if stands.get(origin, 0) < seq
    ]
    if kept_out is not None:
        kept_out += lost
    elif lost:
        raise JournalUnreadableError(
            f"{len(lost)} origins of the journal do not add up: {lost[0]}", hint=HOW_TO_GO_ON
        )
    return kernel


def _replay(kernel: Kernel, rows: Sequence[Row]) -> str:
    """Apply the rows, as far as each can be; what was wrong with the first that cannot."""
    why, stands = "", dict(kernel.vector)
    for number, row in enumerate(rows, 1):
        try:
            if row.kind == CHUNK:
                kernel.apply_chunk(Chunk.decode(row.data), set())  # reported when it came
                stands = dict(kernel.vector)
                continue
            delta = Delta.decode(row.data)
            reached = _reached(delta.ranges, stands)
            if reached is not None and not why:
                kernel.replay(delta)
                stands |= reached
            else:
                why = why or f"rows are missing before row {number}"
                _replay_sound(kernel, delta, stands)
            if row.kind == OWN:  # whatever the wall clock says today: never below an own stamp
                stamps = (event.stamp for run in delta.runs for event in run.events)
                kernel.clock.observe(max(stamps, default=0))
        except Exception as error:  # noqa: BLE001 - damaged or not, the other origins go on
            why = why or f"row {number} cannot be applied: {error!r:.200}"
            if row.kind != CHUNK:
                with contextlib.suppress(Exception):  # of a damaged one nothing can be told
                    _replay_sound(kernel, Delta.decode(row.data), stands)
    return why


def _reached(
    ranges: Iterable[tuple[str, int, int]], stands: Mapping[str, int]
) -> dict[str, int] | None:
    """How far these lead who stands there; None if there is a gap."""
    reached: dict[str, int] = {}
    for origin, first, last in sorted(ranges):
        before = reached.get(origin, stands.get(origin, 0))
        if first > before + 1:
            return None
        reached[origin] = max(before, last)
    return reached


def _replay_sound(kernel: Kernel, delta: Delta, stands: dict[str, int]) -> None:
    """Apply the batches that are sound and follow what is here; the others keep an origin out."""
    for batch in delta.batches():
        ((origin, first, last),) = batch.ranges
        if first <= stands.get(origin, 0) + 1:
            with contextlib.suppress(Exception):  # this is where its origin stands
                kernel.replay(batch)
                stands[origin] = max(last, stands.get(origin, 0))

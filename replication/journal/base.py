"""What a journal promises, and how a kernel comes back from one.

Theory of operation. A journal is a log of encoded deltas, the vector that they add up to, and the
identity that wrote them. One `append` is one transaction: rows, vector and the lease of own
sequence numbers become durable together or not at all, so the vector is never ahead of the data.
From time to time the log is replaced by one snapshot.

Identity. A replica may continue under its id only if nothing that it ever sent can be missing from
its journal. A clean stop proves that: `close` gives back the lease of own sequence numbers. After
any other stop - a crash, or a disk rolled back to a moment when the agent ran - the lease still
lies beyond the own events, and the replica takes a new incarnation; so does one whose journal was
copied or restored (`Recovered.continuous`). A crash therefore never reuses a number, and costs one
more origin. (Covering the unused numbers with a void range instead would hide, from every vector,
the events that a rolled back disk has lost.) A peer that knows more of our events than we do makes
the machine take a new incarnation, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from crdt import BoundedCounter, Chunk, CRDTError, Delta, Kernel
from replication.errors import JournalUnreadableError
from replication.protocol import CHUNK, OWN, AccessPolicy, Row, agent_of, record_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
        """

    def read(self) -> Recovered:
        """Everything durable, once more, while the journal is open.

        Raises:
            JournalUnreadableError: not even reading works.
        """

    def close(self) -> None:
        """Let go of the hold."""


@dataclass(frozen=True, slots=True)
class Booted:
    """A kernel that may write, and what else the journal held."""

    kernel: Kernel
    lease: int
    recovered: Recovered

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
    recovered = journal.open()
    try:
        kernel = _restore(recovered, fresh, clock)
        if kernel.replica != recovered.replica:
            rows = _succeed(kernel, recovered, rules or AccessPolicy())
            lease = len(rows)  # all that was written: no number is out on lease yet
            journal.append(Entry(rows, dict(kernel.vector), kernel.replica, lease))
            return Booted(kernel, lease, recovered)
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


def leased(own: int, lease: int, block: int) -> int:
    """The lease to persist with own events up to `own`: the old one, or a fresh block beyond.

    While it lies beyond `own` the journal is in use; `close` gives the rest back.
    """
    return lease if own <= lease - block // 2 else own + block


def _restore(recovered: Recovered, fresh: str, clock: Callable[[], int] | None) -> Kernel:
    """The kernel that a journal describes, under an id that it may write with."""
    replica = recovered.replica or fresh
    name, ours = replica.partition("~")[0], fresh.partition("~")[0]
    if name != ours:
        raise JournalUnreadableError(
            f"the journal belongs to agent {name!r}, not to {ours!r}",
            hint="give each agent its own journal",
        )
    kernel = rebuild(recovered, replica, clock)
    unclean = recovered.lease > kernel.vector.get(replica, 0)
    if recovered.replica and (unclean or not recovered.continuous):
        kernel.reincarnate(fresh)
    return kernel


def rebuild(recovered: Recovered, replica: str, clock: Callable[[], int] | None) -> Kernel:
    """The kernel of what a journal holds; O(its size).

    Raises:
        JournalUnreadableError: the rows do not add up to the vector beside them.
    """
    try:
        if recovered.snapshot:
            kernel = Kernel.from_bytes(recovered.snapshot, replica=replica, clock=clock)
        else:
            kernel = Kernel(replica, clock=clock)
        for row in recovered.rows:
            if row.kind == CHUNK:
                kernel.apply_chunk(Chunk.decode(row.data), set())  # reported when it came
                continue
            delta = Delta.decode(row.data)
            kernel.replay(delta)
            if row.kind == OWN:  # whatever the wall clock says today: never below an own stamp
                stamps = (event.stamp for run in delta.runs for event in run.events)
                kernel.clock.observe(max(stamps, default=0))
    except CRDTError as error:
        raise JournalUnreadableError(f"a row of the journal cannot be applied: {error}") from error
    stands = kernel.vector
    for origin, seq in recovered.vector.items():
        held = stands.get(origin, 0)
        if held < seq:
            raise JournalUnreadableError(
                f"the journal claims {origin} up to {seq} but holds {held}: rows are missing"
            )
    return kernel

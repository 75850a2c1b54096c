"""What a step of the replica asks the world to do; the order of the fields is the order of duties.

Theory of operation. etcd's raft returns a `Ready` whose contract reads "persist before send"; this
is the same idea as a type. A shell that executes `persist`, then `send`, then `publish` - for this
step and all steps before it - can never show a peer an event that a power cut would take back: a
dot, once sent, cannot be taken back. Frames in `send` are already sealed and tell the vector of
the moment they were made; because everything up to that moment is in this or an earlier `persist`,
the vector is durable when they leave.

Effects concatenate, so a shell may commit many steps in one transaction (group commit).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crdt import VersionVector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crdt import Change, Delta, Kernel


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the journal: `data` is an encoded delta (or chunk), `kind` where it came from.

    `ranges` are the events by which the applied vector may rise with it, (origin, first, last): a
    journal holds a vector to them (`check_vector`). They are not stored; `data` says it, too.
    """

    kind: str
    data: bytes
    ranges: tuple[tuple[str, int, int], ...] = field(default=(), compare=False)


OWN = "own"
DELTA = "delta"
CHUNK = "chunk"


@dataclass(frozen=True, slots=True)
class Send:
    """A sealed frame for `address`.

    `exchange` is this replica's number of the exchange: the shell hands it back to `answered` or
    `failed`. An answer to a peer's exchange has `address == ""` and the number that the shell gave
    to `receive`; `status` is the HTTP status that an answer travels with.
    """

    address: str
    frame: bytes
    exchange: int
    status: int = 200


@dataclass(frozen=True, slots=True)
class Notice:
    """Something an operator should know; `code` is stable, `data` is for the log line."""

    code: str
    data: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """A change of visible values, for subscribers.

    `cause` is "local", "remote" or "bootstrap"; a batch is one `Published`, whoever wrote it.
    """

    change: Change
    cause: str


@dataclass(frozen=True, slots=True)
class Effects:
    """Duties of one or more steps, in order: persist, then send, then publish.

    What has to be over before what (the contract of raft's `Ready`, as a table):

        duty       not before                       because
        persist    persist of earlier steps         a vector is never ahead of its rows
        send       persist of this and earlier      a frame shows the vector, and a peer keeps a dot
        publish    persist of this and earlier      a subscriber may tell the world, too
        notices    at once                          an operator wants to know of a disk that hangs

    Sends need not wait for each other, nor publications for sends. While a persist fails nothing of
    its step, or of a later one, may leave: rows are kept and tried again; frames may be dropped, as
    the network might do, if the machine hears that their exchanges failed.
    """

    persist: tuple[Row, ...] = ()
    """Before all else: rows of the journal, one transaction with `vector`."""
    send: tuple[Send, ...] = ()
    """After persist, in any order."""
    publish: tuple[Published, ...] = ()
    """After persist, in this order; the agent does it last."""
    notices: tuple[Notice, ...] = ()
    """At any time."""
    vector: VersionVector = field(default_factory=VersionVector)
    """With persist: what the rows of this and all earlier steps add up to. It is part of the
    effects because the kernel may be ahead by the time a shell gets to its disk."""

    def __add__(self, later: Effects) -> Effects:
        """Both, the left one first."""
        return Effects(
            self.persist + later.persist,
            self.send + later.send,
            self.publish + later.publish,
            self.notices + later.notices,
            later.vector or self.vector,
        )

    def __bool__(self) -> bool:
        return bool(self.persist or self.send or self.publish or self.notices)


NOTHING = Effects()


@dataclass(frozen=True, slots=True)
class Written:
    """One local mutation or batch: the events first..last of an origin, encoded."""

    origin: str
    first: int
    last: int
    data: bytes

    def covers(self, since: Mapping[str, int], applied: Mapping[str, int]) -> bool:
        """Whether it is all that lies above `since`, for the origins named there; O(origins)."""
        return all(
            (seq, applied.get(origin, 0)) == (self.first - 1, self.last)
            if origin == self.origin
            else seq >= applied.get(origin, 0)
            for origin, seq in since.items()
        )


@dataclass(slots=True)
class Pending:
    """What the current step produced so far; `take` turns it into the step's effects.

    Whoever changes the state says here what happened, by the method of that name; what follows
    from it - a row, a publication, that there is news for peers - is decided in this one place.
    """

    counts: Counter[str] = field(default_factory=Counter)
    """Of events since the start, for operators; no step takes them."""
    written: Written | None = None
    """The one local write of this step, as long as nothing came on top of it; else None."""
    wrote: bool = False
    """Whether there are local writes to spread."""
    wrote_bytes: int = 0
    """How much they are."""
    learned: bool = False
    """Whether there are remote events that were not here before."""
    risen: set[str] | None = field(default_factory=set)
    """The origins of those; None for any, after a chunk."""
    _rows: list[Row] = field(default_factory=list)
    _answers: list[Send] = field(default_factory=list)
    _published: list[Published] = field(default_factory=list)
    _notices: list[Notice] = field(default_factory=list)

    def write(self, delta: Delta, change: Change) -> None:
        """A local mutation or batch; encoded here, once, for the journal and for its pushes."""
        data = delta.encode()
        self._keep(Row(OWN, data, delta.ranges), change, "local")
        ((origin, first, last),) = delta.ranges
        self.written = None if self.wrote else Written(origin, first, last, data)
        self.wrote = True
        self.wrote_bytes += len(data)

    def merge(self, row: Row, change: Change) -> None:
        """A delta of a peer was applied."""
        if self.risen is not None:
            self.risen.update(origin for origin, _, _ in row.ranges)
        self._keep(row, change, "remote")
        self.learned, self.written = True, None

    def join(self, row: Row, change: Change) -> None:
        """A chunk of a peer's state was joined."""
        self.risen = None
        self._keep(row, change, "bootstrap")
        self.learned, self.written = True, None

    def _keep(self, row: Row, change: Change, cause: str) -> None:
        self._rows.append(row)
        if change:
            self._published.append(Published(change, cause))

    def answer(self, frame: bytes, exchange: int, status: int = 200) -> None:
        """A peer's request is answered."""
        self._answers.append(Send("", frame, exchange, status))

    def notice(self, code: str, /, **data: str) -> None:
        """Something for an operator happened."""
        self._notices.append(Notice(code, tuple(data.items())))

    def spread(self) -> None:
        """The news of this step were handed on."""
        self.wrote = self.learned = False
        self.wrote_bytes = 0

    def take(self, requests: Sequence[Send], kernel: Kernel) -> Effects:
        """The effects, and an empty slate; the kernel's vector is what the rows add up to."""
        effects = Effects(
            tuple(self._rows),
            (*self._answers, *requests),
            tuple(self._published),
            tuple(self._notices),
            kernel.vector if self._rows else VersionVector(),
        )
        self._rows, self._answers, self._published, self._notices = [], [], [], []
        self.written = None
        return effects

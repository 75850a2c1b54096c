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

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crdt import Change


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the journal: `data` is an encoded delta (or chunk), `kind` where it came from."""

    kind: str
    data: bytes


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

    `vector` is what the rows of this and all earlier steps add up to; it is persisted with them. It
    is part of the effects because the kernel may be ahead by the time a shell gets to its disk.
    """

    persist: tuple[Row, ...] = ()
    send: tuple[Send, ...] = ()
    publish: tuple[Published, ...] = ()
    notices: tuple[Notice, ...] = ()
    vector: Mapping[str, int] = field(default_factory=dict)

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

"""Former lives of an agent: closed by a record of its successor, not by a rumour.

Theory of operation. An agent that did not stop cleanly goes on under a new id. Its old one would
stay a dead member for ever, and dead is not gone: `stable`, `lag` and the forgetting of removals
would wait for it until somebody retires it. But its successor *knows*. Where it can show descent -
it holds the lock of the very journal that the old life wrote to (nonce, inode and number of commits
match, see `journal`) - there is nobody else who could write under the old id, and the last event of
it is known. So the first event of the new life is the record `(old id, last seq, new id)`, an
element of a grow-only set: durable with the new identity in one transaction, gossiped, merged and
handed to newcomers like any write, and in the state for ever.

    who may record      the agent of that name alone: the event's origin is the new id, which has
                        the old one's name. What others put there says nothing.
    who cannot          a clone, a restored backup, an agent that took a new id because somebody
                        else used its own: none of them shows descent
    while it holds      the old id is no member: not dialled, not waited for, not listed
    it is void          as soon as an event of the old id beyond `last` is here: a disk was rolled
                        back, or a machine was copied as a whole and the original lives
                        as soon as the old id speaks, later than its last frames can be on their way

A life that hears its own end answers with an event of its own, which makes the record void wherever
it comes, for ever: the same rule that a member refutes what is said of it. That the record was
wrong costs nothing but a dead member: events are compared by vectors, and nobody's are skipped.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from crdt import CRDTError, GSet
from replication.errors import ReplicationError
from replication.protocol.policy import LIVES, agent_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crdt import Delta, Kernel
    from replication.protocol.membership import Membership

NEVER = float("inf")


def record_end(kernel: Kernel, former: str) -> Delta:
    """Write down that a life of this name is over; descent was shown. One event, O(1)."""
    last = kernel.vector.get(former, 0)
    return kernel.document(LIVES, GSet).add((former, last, kernel.replica))


def ends(kernel: Kernel) -> Iterator[tuple[str, int]]:
    """(id, last seq) of every life whose end its successor recorded; O(records)."""
    return ((former, last) for former, last, heir, origin in _told(kernel) if heir == origin)


def _told(kernel: Kernel) -> Iterator[tuple[str, int, str, str]]:
    """(id, last seq, its heir, who wrote that), of whatever looks like a record; O(elements)."""
    for element, origin in kernel.authors(LIVES, GSet):
        match element:
            case (str(former), int(last), str(heir)) if former != heir and agent_of(
                former
            ) == agent_of(heir):
                yield former, last, heir, origin


@dataclass(slots=True)
class Lives:
    """Which lives are over, as far as this replica knows; it tells `members`. One per replica."""

    kernel: Kernel
    members: Membership
    late_s: float
    """So long after a record is heard of, frames of the life that it ends may be on their way."""
    _last: dict[str, int] = field(default_factory=dict)
    """The records: id -> last seq, void ones included."""
    _heard_s: dict[str, float] = field(default_factory=dict)
    """When a record was heard of, of those that hold."""
    _spoke: set[str] = field(default_factory=set)
    """Ids that spoke after their end."""
    _awaited: set[str] = field(default_factory=set)
    """Heirs that somebody else wrote of, and that are not known yet."""
    _count: int = 0

    def look(self, risen: Iterable[str] | None, now_s: float) -> tuple[list[str], list[str]]:
        """The lives that turned out to be over, and those whose record turned out to be void.

        `risen` are the origins of which events came since the last look, None for any. O(those),
        and O(records) if there are new ones.
        """
        count = self.kernel.rows(LIVES, GSet)
        if count != self._count or risen is None or not self._awaited.isdisjoint(risen):
            self._read(count)
            risen = self._last
        over, void = [], []
        vector = self.kernel.vector
        for origin in risen:
            last = self._last.get(origin)
            if last is None:
                continue
            holds = vector.get(origin, 0) <= last and origin not in self._spoke
            if origin == self.kernel.replica:
                continue  # see `refute`
            if holds and origin not in self._heard_s:
                self._heard_s[origin] = now_s
                if self.members.close(origin):
                    over.append(origin)
            elif not holds and self._heard_s.pop(origin, None) is not None:
                self.members.reopen(origin)
                void.append(origin)
        return over, void

    def _read(self, count: int) -> None:
        """Read all records. There may be one more and not one more row: somebody forged it first.

        An heir writes its record before anything else, so this is looked for once.
        """
        told = list(_told(self.kernel))
        heirs = {heir for _, _, heir, _ in told}
        self._count, vector = count, self.kernel.vector
        self._last = {former: last for former, last, heir, origin in told if heir == origin}
        self._awaited = {heir for heir in heirs if heir not in vector}

    def spoke(self, replica: str, now_s: float) -> bool:
        """A frame of this id came; whether that makes the record of its end void."""
        if now_s - self._heard_s.get(replica, NEVER) <= self.late_s:
            return False
        self._spoke.add(replica)
        del self._heard_s[replica]
        self.members.reopen(replica)
        return True

    def refute(self) -> bool:
        """Say that we live, if a record says otherwise; whether we may go on under this id.

        We may not if the record knows of more events of ours than this journal.
        """
        me, kernel = self.kernel.replica, self.kernel
        last = self._last.get(me)
        if last is None or kernel.in_batch:
            return True
        stands = kernel.vector.get(me, 0)
        if stands == last:
            with suppress(CRDTError, ReplicationError):  # then the next step tries again
                kernel.document(LIVES, GSet).add(me)
        return stands >= last

    def check(self) -> None:
        """Assert that no life is closed of which an event beyond its recorded end is here."""
        vector = self.kernel.vector
        for former in islice(reversed(self._heard_s), 64):  # of the older ones, each had its turn
            assert vector.get(former, 0) <= self._last[former], f"{former} went on, and is closed"

"""A network of replicas of a user's own type: whole states travel, or deltas if it has them.

What a type needs is little: `Type(name)` makes an empty replica, `merge(other)` joins another one
in place, `value` shows it, and mutators change it. What it may have is used where a history calls
for it:

    apply(delta)              then what mutators return is sent instead of a copy of the state
    fork(name)                a copy that writes under another name (else `copy.deepcopy`)
    to_bytes, from_bytes(data, replica=name)     restarts

Who saw which operation is counted here, outside of the type, so that an oracle can be asked: every
mutation gets a dot, whatever the type thinks of it.
"""

from __future__ import annotations

import copy as copying
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from crdt.errors import require
from crdt.kernel import Dot
from crdt.testing.network import InFlight, Written

if TYPE_CHECKING:
    import random

    from crdt.testing.operation import Operation


class Mergeable(Protocol):
    """The least that a type of your own has to offer."""

    def __init__(self, replica: str, /) -> None: ...

    def merge(self, other: Self, /) -> object:
        """Join another replica into this one; the other stays as it is."""

    @property
    def value(self) -> Any:
        """What a reader sees, comparable with ==."""


class StateNetwork:
    """Replicas of a plain class; the same interface as the network of kernels."""

    def __init__(self, kind: Any, names: list[str]) -> None:
        self.kind = kind
        self.names = list(names)
        self.replicas: list[Mergeable] = [kind(name) for name in names]
        self.seen: list[set[Dot]] = [set() for _ in names]
        self.in_flight: list[InFlight] = []
        self.moment = 0
        self._seqs: dict[str, int] = {}

    @property
    def values(self) -> list[Any]:
        """What each replica shows."""
        return [replica.value for replica in self.replicas]

    @property
    def converged(self) -> bool:
        """Whether all replicas show the same value."""
        values = self.values
        return all(value == values[0] for value in values)

    def write(self, index: int, operation: Operation, _context: object) -> Written:
        """Perform an operation and publish it: its delta, or a copy of the state."""
        replica, name = self.replicas[index], self.names[index]
        result = operation.perform(replica)
        self._seqs[name] = self._seqs.get(name, 0) + 1
        dot = Dot(name, self._seqs[name])
        self.seen[index].add(dot)
        by_delta = result is not None and hasattr(replica, "apply")
        sent = (result, {dot}) if by_delta else (self.copy(index, ""), set(self.seen[index]))
        for target in range(len(self.replicas)):
            if target != index:
                self.in_flight.append(InFlight(index, target, (by_delta, *sent), self.moment))
        return Written(dot, 0)

    def deliver(self, message: InFlight) -> None:
        """A delta or a state arrives."""
        by_delta, payload, seen = message.data
        if by_delta:
            cast("Any", self.replicas[message.target]).apply(payload)
            self.seen[message.target] |= seen
        else:
            self.merge_copy(message.target, payload, seen)

    def merge_from(self, index: int, source: int) -> None:
        """A replica joins the whole state of another."""
        self.merge_copy(index, self.replicas[source], self.seen[source])

    def exchange(self, index: int, source: int, bytes_max: int | None = None) -> bool:
        """States have no shorter answer than themselves, and none that can be cut."""
        if bytes_max is not None or self.seen[source] <= self.seen[index]:
            return False
        self.merge_from(index, source)
        return True

    def copy(self, index: int, name: str) -> Mergeable:
        """An independent copy; under another name if the type can do that."""
        replica = cast("Any", self.replicas[index])
        if name and hasattr(replica, "fork"):
            return cast("Mergeable", replica.fork(name))
        return cast("Mergeable", copying.deepcopy(replica))

    def merge_copy(self, index: int, copy: Mergeable, seen: set[Dot]) -> None:
        """A replica joins a state, which stays as it is."""
        before = copying.deepcopy(copy.value)
        self.replicas[index].merge(copy)
        require(copy.value == before, "merging changed its argument")
        self.seen[index] |= seen

    def restart(self, index: int) -> bool:
        """A replica goes through its bytes, if it has such."""
        replica = cast("Any", self.replicas[index])
        if not (hasattr(replica, "to_bytes") and hasattr(self.kind, "from_bytes")):
            return False
        data, name = replica.to_bytes(), self.names[index]
        twin = self.kind.from_bytes(data, replica=name)  # the one that goes on is not looked at
        require(twin.value == replica.value, "a restart changed the value")
        self.replicas[index] = self.kind.from_bytes(data, replica=name)
        return True

    def rebirth(
        self, index: int, name: str, back: tuple[Mergeable, set[Dot]], _copies: list[Any]
    ) -> bool:
        """A replica goes on from an earlier state under a new name, if the type can do that."""
        copy, seen = cast("Any", back[0]), back[1]
        if not hasattr(copy, "fork"):
            return False
        self.replicas[index], self.seen[index] = copy.fork(name), set(seen)
        self.names[index] = name
        return True

    def batch(self, _index: int) -> None:
        """A plain type has no batches, ..."""

    def look(self, _index: int) -> None:
        """... no read context, ..."""

    def some_chunks(self, _index: int, _source: int, _bytes_max: int, _dice: random.Random) -> bool:
        """... no chunks, ..."""
        return False

    def refuse(self, _message: InFlight, _pick: int) -> bool:
        """... no delta that the kit could spoil, ..."""
        return False

    def relearn(self, _index: int) -> bool:
        """... no identity that could be taken for another life, ..."""
        return False

    def forget(self, _index: int, _pick: int) -> bool:
        """... no removal records, ..."""
        return False

    def void(self, _index: int, _count: int) -> bool:
        """... and no numbers to leave out."""
        return False

    def check(self, _index: int) -> None:
        """What is sound inside a plain type, only the type knows."""

    def heal(self) -> None:
        """Merge everybody into everybody, twice, so that all know all."""
        self.in_flight.clear()
        everyone = range(len(self.replicas))
        for _ in range(2):
            for index in everyone:
                for source in everyone:
                    if source != index:
                        self.merge_from(index, source)

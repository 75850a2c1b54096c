"""A network of replicas of a user's own type: whole states travel, and deltas if it has them.

What a type needs is little: `Type(name)` makes an empty replica, `merge(other)` joins another one
in place, `value` shows it, and mutators change it. What it may have is used where a history calls
for it:

    apply(delta)              then what mutators return is sent instead of a copy of the state
    fork(name)                a copy that writes under another name (else `copy.deepcopy`)
    to_bytes, from_bytes(data, replica=name)     restarts

Who saw which operation is counted here, outside of the type, so that an oracle can be asked: every
mutation gets a dot, whatever the type thinks of it.

A type has deltas if it has `apply` and its mutators return something. They are held to what states
do, because a merged state mends whatever a delta forgot, and nobody would see it: at each write the
delta is applied to a copy of the state before it; an exchange sends the deltas that are missing and
no state; and healing begins with deltas alone, each replica getting what it lacks in another order.
Only then do states travel, and they have nothing to add. A mutator with nothing to tell returns
None.

Deltas arrive in any order, any number of times. But a replica that is about to *write* first gets
whatever came before what it has (`catch_up`). Otherwise an operation would have seen the second of
two and not the first, and what that has to mean is no question of right and wrong: where the second
replaced the first, the first is gone, and where it joined it, it is there.
"""

from __future__ import annotations

import copy as copying
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from crdt.errors import require
from crdt.kernel import Dot
from crdt.testing.network import InFlight, Written
from crdt.testing.operation import Operation, menu_of
from crdt.testing.scheduler import dice_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

_NARROW_BYTES = 100  # of an answer that is cut, per delta: nobody knows what one weighs


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
        self.publishes = publishes_deltas(kind)
        self._seqs: dict[str, int] = {}
        # By dot, in the order in which they were written: the delta, and what its writer had seen.
        self._deltas: dict[Dot, Any] = {}
        self._pasts: dict[Dot, frozenset[Dot]] = {}

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
        name = self.names[index]
        self._seqs[name] = self._seqs.get(name, 0) + 1
        dot = Dot(name, self._seqs[name])
        if self.publishes:
            self._pasts[dot] = frozenset(self.seen[index])
            sent = self._deltas[dot] = self._perform(index, operation)
            seen = {dot}
        else:
            operation.perform(self.replicas[index])
            sent, seen = self.copy(index, ""), {*self.seen[index], dot}
        self.seen[index].add(dot)
        for target in range(len(self.replicas)) if sent is not None else ():
            if target != index:
                self.in_flight.append(InFlight(index, target, (sent, seen), self.moment))
        return Written(dot, 0)

    def _perform(self, index: int, operation: Operation) -> Any:
        """Perform an operation; its delta does to the state before it what the operation did."""
        replica, twin = self.replicas[index], copying.deepcopy(self.replicas[index])
        delta = operation.perform(replica)
        if delta is not None:
            cast("Any", twin).apply(delta)
        if twin.value != replica.value:
            shown = f"{operation} leads to {replica.value!r:.200}"
            if delta is None:
                raise AssertionError(f"{shown} and returns no delta that says so")
            raise AssertionError(f"{shown}; whoever applies its delta shows {twin.value!r:.200}")
        return delta

    def deliver(self, message: InFlight) -> None:
        """A delta or a state arrives."""
        sent, seen = message.data
        if self.publishes:
            self._learn(message.target, seen)
        else:
            self.merge_copy(message.target, sent, seen)

    def _learn(self, index: int, dots: Iterable[Dot]) -> None:
        """A replica applies deltas."""
        for dot in dots:
            if self._deltas[dot] is not None:
                cast("Any", self.replicas[index]).apply(self._deltas[dot])
            self.seen[index].add(dot)

    def _lacking(self, index: int, dots: set[Dot]) -> list[Dot]:
        """Those that a replica has not seen, in the order in which they were written."""
        lacking = dots - self.seen[index]
        return [dot for dot in self._deltas if dot in lacking]

    def catch_up(self, index: int) -> bool:
        """A replica gets what came before what it has; whether there was any of it."""
        past = {dot for seen in self.seen[index] for dot in self._pasts.get(seen, ())}
        lacking = self._lacking(index, past)
        self._learn(index, lacking)
        return bool(lacking)

    def merge_from(self, index: int, source: int) -> None:
        """A replica joins the whole state of another."""
        self.merge_copy(index, self.replicas[source], self.seen[source])

    def exchange(self, index: int, source: int, bytes_max: int | None = None) -> bool:
        """A replica gets the deltas that it lacks, the oldest of them if the answer is cut.

        States have no shorter answer than themselves, and none that can be cut.
        """
        if self.seen[source] <= self.seen[index] or not (self.publishes or bytes_max is None):
            return False
        if not self.publishes:
            self.merge_from(index, source)
            return True
        count = None if bytes_max is None else 1 + bytes_max // _NARROW_BYTES
        self._learn(index, self._lacking(index, self.seen[source])[:count])
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
        """Let all know all: by deltas alone, if the type has them; then by states, twice.

        Replicas that differ when they have heard every delta are left so, for the verdict to tell.
        Of what was written to a replica itself, and not by `write`, nobody knows a delta: where all
        was written so, states alone heal.
        """
        self.in_flight.clear()
        everyone = range(len(self.replicas))
        by_deltas = bool(self._deltas)
        if by_deltas:
            known = {dot for seen in self.seen for dot in seen}
            for index in everyone:
                lacking = self._lacking(index, known)
                self._learn(index, reversed(lacking) if index % 2 else lacking)
            if not self.converged:
                return
        told = copying.deepcopy(self.replicas[0].value)
        for _ in range(2):
            for index in everyone:
                for source in everyone:
                    if source != index:
                        self.merge_from(index, source)
        if by_deltas and self.converged:
            now = self.replicas[0].value
            require(now == told, f"by deltas all show {told!r:.200}, by states {now!r:.200}")


def publishes_deltas(kind: Any) -> bool:
    """Whether a type has deltas: it has `apply`, and some mutator of it returns something."""
    if not hasattr(kind, "apply"):
        return False
    dice = dice_of(0)
    replica = kind("probe")
    for choice in menu_of(kind) * 2:
        try:
            args = tuple(argument(dice, 2) for argument in choice.arguments)
            if Operation(choice.action, args).perform(replica) is not None:
                return True
        except Exception:  # noqa: BLE001, S112  # a refusal; if it is a fault, a history will tell
            continue
    return False

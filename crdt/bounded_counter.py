"""BoundedCounter: a shared quantity that no replica can bring below its bound, without asking.

Escrow (Balegas et al. 2015): the distance between value and bound is divided into rights, one per
unit, and every right belongs to one replica at a time. Incrementing creates rights, decrementing
spends them, a transfer hands them on. A replica decrements out of its own rights only, so whatever
the others do at the same time, the sum of all decrements stays within the sum of all rights.

Each replica keeps one row of running totals: (produced, spent, {peer: granted}); only its owner
writes it. Rights of replica r: produced(r) + granted to r - granted by r - spent(r).

Top level only and without reset: forgetting a row would forget spent rights. The bound is part of
the document's type, so that two replicas cannot disagree about it. Rights of a replica that is gone
for good are `stranded`; `adopt` moves them, and must be decided once, outside of this type: if the
replica still lives, or two others adopt, the bound can be broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from crdt.counter import CounterView, ReadsAsNumber, check_amount
from crdt.errors import InsufficientRightsError, InvalidAmountError
from crdt.kernel import NOTHING, Kernel, Seen, check_replica, context_of, freeze, thaw
from crdt.view import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crdt.kernel import Container, Delta


def _amount(amount: object, least: int | None, seen: Seen | None) -> int:
    """The amount, checked; a read context beside it is checked too, and changes nothing."""
    if seen is not None:
        context_of(seen)
    return check_amount(amount, least)


_Row = tuple[int, int, dict[str, int]]  # produced, spent, granted to peers


class BoundedType:
    """The document type of a bound: what `BoundedCounter.at_least` returns."""

    __slots__ = ("minimum", "type_name")

    def __init__(self, minimum: int) -> None:
        self.minimum = check_amount(minimum)
        self.type_name = f"BoundedCounter:{minimum}"

    def attach(self, kernel: Kernel, container: Container) -> BoundedCounter:
        """A view on a container of a kernel; `Kernel.document` calls it."""
        return BoundedCounter.attach(kernel, container)

    @property
    def __name__(self) -> str:
        """That of the view class: whoever lists documents shows types by name."""
        return BoundedCounter.__name__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundedType) and self.minimum == other.minimum

    def __hash__(self) -> int:
        return hash(self.type_name)


class BoundedCounter(CounterView):
    """A counter that never goes below its bound on any replica.

    `BoundedCounter("a", minimum=10)` stands alone; in a kernel,
    `kernel.document("seats", BoundedCounter.at_least(10))`, and the class itself means 0.
    """

    __slots__ = ()

    type_name: ClassVar[str] = "BoundedCounter:0"

    def __init__(
        self, replica: str, *, minimum: int = 0, clock: Callable[[], int] | None = None
    ) -> None:
        self._own(Kernel(replica, clock=clock), BoundedType(minimum).type_name)

    @staticmethod
    def at_least(minimum: int) -> BoundedType:
        """The document type of counters with this bound."""
        return BoundedType(minimum)

    @property
    def minimum(self) -> int:
        """The bound."""
        return int(self._place.path[-1].partition(":")[2])

    @property
    def value(self) -> int:
        """The quantity as seen from here; never below the bound. O(replicas)."""
        return self.minimum + sum(
            produced - spent for produced, spent, _ in self._totals().values()
        )

    def rights(self, replica: str | None = None) -> int:
        """How much a replica (default: this one) may decrement, as seen from here. O(replicas)."""
        name, rows = replica if replica is not None else self.replica, self._totals()
        produced, spent, granted = rows.get(name, (0, 0, {}))
        received = sum(row[2].get(name, 0) for row in rows.values())
        return produced - spent - sum(granted.values()) + received

    def increment(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Add `amount` >= 0; this replica gets the rights. O(1)."""
        if _amount(amount, 0, seen) == 0:
            return NOTHING
        produced, spent, granted = self._row()
        return self._write(produced + amount, spent, granted)

    def decrement(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Take `amount` >= 0 out of this replica's rights. O(replicas).

        Count it as done only when it is durable: a replica that forgets a decrement would spend
        the right again.

        Raises:
            InsufficientRightsError: `.local` says how much there is. Nothing was changed.
        """
        if _amount(amount, 0, seen) == 0:
            return NOTHING
        self._refuse_beyond(amount)
        produced, spent, granted = self._row()
        return self._write(produced, spent + amount, granted)

    def __isub__(self, amount: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `-`
        self.decrement(plain(amount))
        return self

    def transfer(self, amount: int, to: str, *, seen: Seen | None = None) -> Delta:
        """Hand `amount` >= 1 of this replica's rights to another. O(replicas).

        Raises:
            InsufficientRightsError: `.local` says how much there is. Nothing was changed.
            InvalidAmountError: to itself. Nothing was changed.
        """
        _amount(amount, 1, seen)
        if check_replica(to) == self.replica:
            raise InvalidAmountError("a transfer to itself moves nothing")
        self._refuse_beyond(amount)
        produced, spent, granted = self._row()
        return self._write(produced, spent, {**granted, to: granted.get(to, 0) + amount})

    def stranded(self, members: Iterable[str]) -> dict[str, int]:
        """Rights held by replicas that are not among `members`. O(replicas squared)."""
        present = {*members, self.replica}
        holders = {*self._totals(), *(peer for row in self._totals().values() for peer in row[2])}
        lost = {name: self.rights(name) for name in sorted(holders - present)}
        return {name: rights for name, rights in lost.items() if rights > 0}

    def adopt(self, lost: str, *, seen: Seen | None = None) -> Delta:
        """Take over the rights of a replica that is gone for good. O(replicas).

        The bound holds only if `lost` never decrements again and nobody else adopts it: have that
        decided once, for instance under a lock of the transactional layer.
        """
        amount = _amount(self.rights(check_replica(lost)), None, seen)
        if lost == self.replica or amount <= 0:
            return NOTHING
        produced, spent, granted = self._row()
        return self._write(produced, spent, {**granted, lost: granted.get(lost, 0) - amount})

    def _import(self, value: Any) -> None:
        self.increment(check_amount(value) - self.minimum)

    def _totals(self) -> dict[str, _Row]:
        latest = self._writer.state.live.latest
        return {str(step): thaw(latest(row)[2]) for step, row in list(self._container.rows.items())}

    def _row(self) -> _Row:
        return self._totals().get(self.replica, (0, 0, {}))

    def _write(self, produced: int, spent: int, granted: dict[str, int]) -> Delta:
        row = freeze((produced, spent, granted))
        return self._writer.put(self._place, self.replica, 0, row)

    def _refuse_beyond(self, amount: int) -> None:
        local = self.rights()
        if amount > local:
            raise InsufficientRightsError(amount, local)

    def fork(self, replica: str) -> Self:
        """An independent copy that writes under another id; the rights stay with the old one."""
        self._refuse_shared("fork")
        twin = type(self).__new__(type(self))
        return twin._own(self._kernel.fork(replica), self._place.path[-1])  # noqa: SLF001

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        replica: str,
        clock: Callable[[], int] | None = None,
        minimum: int = 0,
    ) -> Self:
        """A replica from such bytes: the same life's id, or a fresh one that holds no rights.

        Raises:
            TypeMismatchError: of another type, or another bound than `minimum`.
        """
        type_name = BoundedType(minimum).type_name
        kernel = Kernel.from_bytes(data, replica=replica, clock=clock, only=type_name)
        return cls.__new__(cls)._own(kernel, type_name)  # noqa: SLF001

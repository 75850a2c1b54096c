"""Counters that every replica may change at once: GCounter (up) and PNCounter (up and down).

Each replica keeps its own running total as one live entry, written over and over: the step is the
replica's id, the value its total, and an increment kills the replica's own previous dot. The value
is the sum over replicas (Shapiro et al. 2011, section 3.1). A million increments leave one dot. If
two totals of one replica are alive, because an event between them is missing, the later counts.

There is no reset and no setter: what a concurrent increment should do with either is a question the
total cannot answer. Inside an ORMap, removing the key while somebody increments concurrently brings
back that somebody's *whole* total, since its new dot carries all of it; `ResettableCounter` is the
type for which the concurrent increment alone survives.

Like every mutator, those of the counters accept `seen=`. It changes nothing here: an increment
takes nothing back that others wrote.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from crdt.errors import InvalidAmountError, InvalidAmountTypeError
from crdt.kernel import INT_BYTES_MAX, INT_MAX, INT_MIN, NOTHING
from crdt.view import Seen, View, context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from crdt.kernel import Delta


def check_amount(amount: object, least: int | None = None) -> int:
    """The amount, if it is an int (True is not) that can be stored and is not below `least`."""
    if type(amount) is not int:
        raise InvalidAmountTypeError(f"an amount is an int, not {amount!r:.80}")
    if not INT_MIN <= amount <= INT_MAX:
        size = amount.bit_length() // 8 + 1
        raise InvalidAmountError(f"an amount of {size} bytes, allowed are {INT_BYTES_MAX}")
    if least is not None and amount < least:
        raise InvalidAmountError(f"an amount of at least {least} is wanted, not {amount}")
    return amount


def _total(view: View) -> int:
    latest = view._writer.state.live.latest  # noqa: SLF001  # the two counters share this rule
    return sum([latest(row)[2] for row in view._container.rows.values()])  # type: ignore[misc]  # noqa: SLF001


def _add(view: View, amount: int, seen: Seen | None) -> Delta:
    if seen is not None:
        context_of(seen)
    if amount == 0:
        return NOTHING
    writer, container = view._writer, view._container  # noqa: SLF001  # as above
    replica = writer.state.replica
    row = container.rows.get(replica)
    own: Any = 0 if row is None else writer.state.live.latest(row)[2]
    return writer.put(container, replica, 0, own + amount)


Number: TypeAlias = "int | float | NumberView"


class NumberView(View):
    """Counters read like the number that they show now; mutable, so they have no hash."""

    __slots__ = ()

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> bool:
        return _combined(operator.eq, self, other)  # type: ignore[no-any-return]  # a bool

    __hash__: ClassVar[None]  # type: ignore[assignment]  # as for a list: what it equals may change

    def __lt__(self, other: Number) -> bool:
        return _combined(operator.lt, self, other)  # type: ignore[no-any-return]  # a bool

    def __le__(self, other: Number) -> bool:
        return _combined(operator.le, self, other)  # type: ignore[no-any-return]  # a bool

    def __gt__(self, other: Number) -> bool:
        return _combined(operator.gt, self, other)  # type: ignore[no-any-return]  # a bool

    def __ge__(self, other: Number) -> bool:
        return _combined(operator.ge, self, other)  # type: ignore[no-any-return]  # a bool

    def __add__(self, other: Number) -> Any:
        return _combined(operator.add, self, other)

    def __sub__(self, other: Number) -> Any:
        return _combined(operator.sub, self, other)

    def __rsub__(self, other: Number) -> Any:
        return _combined(lambda mine, theirs: theirs - mine, self, other)

    def __radd__(self, other: Number) -> Any:
        return _combined(operator.add, self, other)


def _combined(operation: Callable[[Any, Any], Any], view: NumberView, other: object) -> Any:
    """The operation on two numbers, plain or counters; NotImplemented for anything else."""
    if isinstance(other, int | float):
        return operation(view.value, other)
    if isinstance(other, NumberView):
        return operation(view.value, other.value)
    return NotImplemented


class GCounter(NumberView):
    """A counter that only grows. Concurrent increments add up."""

    __slots__ = ()

    @property
    def value(self) -> int:
        """The sum of all increments seen. O(replicas)."""
        return _total(self)

    def increment(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Add `amount` >= 0; 0 takes no dot. O(1)."""
        return _add(self, check_amount(amount, 0), seen)

    def _import(self, value: Any) -> None:
        self.increment(value)


class PNCounter(NumberView):
    """A counter that goes up and down. Concurrent changes add up."""

    __slots__ = ()

    @property
    def value(self) -> int:
        """Increments minus decrements seen. O(replicas)."""
        return _total(self)

    def increment(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Add `amount`, of any sign; 0 takes no dot. O(1)."""
        return _add(self, check_amount(amount), seen)

    def decrement(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Subtract `amount`, of any sign; 0 takes no dot. O(1)."""
        return _add(self, -check_amount(amount), seen)

    def _import(self, value: Any) -> None:
        self.increment(value)

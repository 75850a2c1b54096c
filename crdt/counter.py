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
from typing import TYPE_CHECKING, Any, ClassVar, Self

from crdt.errors import InvalidAmountError, InvalidAmountTypeError
from crdt.kernel import INT_BYTES_MAX, INT_MAX, INT_MIN, NOTHING, Seen, context_of
from crdt.view import View, plain, refusing_in_place

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
    writer = view._writer  # noqa: SLF001  # the two counters share this rule
    if writer.open_batch is not None:
        writer.admit()
    latest = writer.state.live.latest
    rows = view._rows  # noqa: SLF001  # as above
    try:
        return sum([latest(row)[2] for row in rows.values()])  # type: ignore[misc]  # ints
    except RuntimeError:  # another thread looks, and the first row of a replica came meanwhile
        return sum([latest(row)[2] for row in list(rows.values())])  # type: ignore[misc]  # as above


def _add(view: View, amount: int, seen: Seen | None) -> Delta:
    if seen is not None:
        context_of(seen)
    if amount == 0:
        return NOTHING
    writer, container = view._writer, view._place  # noqa: SLF001  # as above
    if writer.open_batch is not None:
        writer.admit()  # before the total is read
    replica = writer.state.replica
    row = container.rows.get(replica)
    own: Any = 0 if row is None else writer.state.live.latest(row)[2]
    return writer.put(container, replica, 0, own + amount)


def _binary(name: str, operation: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """An operator and its reflection; the number decides what it can be computed with."""

    def forward(self: ReadsAsNumber, other: Any) -> Any:
        return operation(self.value, _number(other))

    def reflected(self: ReadsAsNumber, other: Any) -> Any:
        return operation(_number(other), self.value)

    for method, prefix in ((forward, "__"), (reflected, "__r")):
        method.__name__ = f"{prefix}{name}__"
        method.__qualname__ = f"ReadsAsNumber.{method.__name__}"
    return forward, reflected


def _number(other: Any) -> Any:
    return other.value if isinstance(other, ReadsAsNumber) else other


@refusing_in_place
class ReadsAsNumber:
    """What shows a number in `value` reads like that number: it computes, compares and formats.

    Each operator gives what the plain number would give, a plain value or its TypeError. `str` is
    that of the number, so that text shows 3 and not the object; `repr` is the object's own.
    """

    __slots__ = ()

    _instead: ClassVar[str] = "call the method that says what is meant, or start from `.value`"

    @property
    def value(self) -> int:
        """The number that it shows now."""
        raise NotImplementedError

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __float__(self) -> float:
        return float(self.value)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __bool__(self) -> bool:
        return self.value != 0

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == _number(other))

    __hash__: ClassVar[None]  # type: ignore[assignment]  # as of a view

    def __neg__(self) -> int:
        return -self.value

    def __pos__(self) -> int:
        return self.value

    def __abs__(self) -> int:
        return abs(self.value)

    def __invert__(self) -> int:
        return ~self.value

    def __round__(self, digits: int | None = None) -> int:
        return round(self.value, digits) if digits is not None else self.value

    def __trunc__(self) -> int:
        return self.value

    def __floor__(self) -> int:
        return self.value

    def __ceil__(self) -> int:
        return self.value

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < _number(other))

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= _number(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > _number(other))

    def __ge__(self, other: Any) -> bool:
        return bool(self.value >= _number(other))

    __add__, __radd__ = _binary("add", operator.add)
    __sub__, __rsub__ = _binary("sub", operator.sub)
    __mul__, __rmul__ = _binary("mul", operator.mul)
    __truediv__, __rtruediv__ = _binary("truediv", operator.truediv)
    __floordiv__, __rfloordiv__ = _binary("floordiv", operator.floordiv)
    __mod__, __rmod__ = _binary("mod", operator.mod)
    __divmod__, __rdivmod__ = _binary("divmod", divmod)
    __pow__, __rpow__ = _binary("pow", pow)


class CounterView(ReadsAsNumber, View):
    """Counters read like the number that they show now, and take `+=` (and `-=`) as writes.

    The operators in place take whole numbers, as the mutators do, or what shows one. They give the
    counter back and not the delta: where the delta is needed, call the mutator.
    """

    __slots__ = ()

    _instead = "it has no setter: `+=` and `-=` write; for a plain number start from `.value`"

    def increment(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Add to it."""
        raise NotImplementedError

    def __iadd__(self, amount: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `+`
        self.increment(plain(amount))
        return self


class GCounter(CounterView):
    """A counter that only grows. Concurrent increments add up."""

    __slots__ = ()

    _instead = "it only grows, by `+=`; use a PNCounter to go down"

    @property
    def value(self) -> int:
        """The sum of all increments seen. O(replicas)."""
        return _total(self)

    def increment(self, amount: int = 1, *, seen: Seen | None = None) -> Delta:
        """Add `amount` >= 0; 0 takes no dot. O(1)."""
        return _add(self, check_amount(amount, 0), seen)

    def _import(self, value: Any) -> None:
        self.increment(value)


class PNCounter(CounterView):
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

    def __isub__(self, amount: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `-`
        self.decrement(plain(amount))
        return self

    def _import(self, value: Any) -> None:
        self.increment(value)

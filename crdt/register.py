"""Registers: one value, and a rule for concurrent writes.

LWWRegister: the latest speaks - the greatest (stamp, replica, seq). A write kills what its writer
had observed, so stamps decide between truly concurrent writes only; a fast clock cannot resurrect
what somebody has seen and replaced. Values never decide (Shapiro et al. 2011, section 3.2).

MVRegister: all concurrent values are kept, in one order everywhere, until somebody who saw them
writes again.

MaxRegister and MinRegister: the greatest and least value ever written; a write that is not beyond
what is observed takes no dot.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from crdt.codec import Codec
from crdt.errors import InvalidValueError, InvalidValueTypeError
from crdt.kernel import (
    LEAF,
    NOTHING,
    Seen,
    Stored,
    entries_of,
    freeze,
    order_of,
    refuse_unordered,
    thaw,
)
from crdt.view import CodedType, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import TypeVar  # for `default`: type checkers know it, nobody else asks

    from crdt.kernel import Delta, Entry

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")
C = TypeVar("C")


class RegisterView(View):
    """What the registers share: all that they hold is in one row, which `clear` forgets."""

    __slots__ = ()

    _instead = "write the new value with `set(value)`"

    def _stored(self, value: Any) -> Stored:
        try:
            return freeze(value if self._codec is None else self._codec.encode(value))
        except InvalidValueError as error:
            raise self._placed(error) from error.__cause__

    def _read(self, entry: Entry) -> Any:
        value = thaw(entry[2])
        return value if self._codec is None else self._codec.decode(value)

    def clear(self, *, seen: Seen | None = None) -> Delta:
        """Forget what was observed; a concurrent write survives."""
        return self._reset(self._place, seen)


class LWWRegister(RegisterView, Generic[T]):
    """A register in which the latest write wins. `LWWRegister[int]` tells type checkers more."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Codec[C] | type[C]) -> CodedType[LWWRegister[C]]:
        """The type of registers whose values are converted: see `crdt.codec`."""
        return CodedType(cls, Codec.of(values))  # type: ignore[arg-type]  # of another parameter

    @property
    def value(self) -> T | None:
        """The latest value, or None if there is none. O(concurrent writes)."""
        if self._writer.open_batch is not None:
            self._writer.admit()
        row = self._rows.get(LEAF)
        return None if row is None else self._read(self._writer.state.live.latest(row))

    @property
    def is_set(self) -> bool:
        """Whether it holds a value; None is one."""
        if self._writer.open_batch is not None:
            self._writer.admit()
        return LEAF in self._rows

    def set(self, value: T, *, seen: Seen | None = None) -> Delta:
        """Write a value over what was observed (or over what `seen` covers). O(size)."""
        stored = self._stored(value)
        return self._replace(LEAF, self._writer.stamp(), stored, seen)

    def _import(self, value: Any) -> None:
        self.set(value)


class MVRegister(RegisterView, Generic[T]):
    """A register that keeps every concurrent value."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Codec[C] | type[C]) -> CodedType[MVRegister[C]]:
        """The type of registers whose values are converted: see `crdt.codec`."""
        return CodedType(cls, Codec.of(values))  # type: ignore[arg-type]  # of another parameter

    @property
    def values(self) -> tuple[T, ...]:
        """All concurrent values in the order of their bytes, equal ones one by one. O(n)."""
        row = self._container.rows.get(LEAF)
        entries = sorted(entries_of(row), key=lambda entry: order_of(entry[2]))
        return tuple(map(self._read, entries))

    @property
    def value(self) -> tuple[T, ...]:
        """The same as `values`: () if empty, one item unless there is a conflict."""
        return self.values

    @property
    def conflicted(self) -> bool:
        """Whether there is more than one concurrent write."""
        return len(list(entries_of(self._container.rows.get(LEAF)))) > 1

    def set(self, value: T, *, seen: Seen | None = None) -> Delta:
        """Write a value over all that was observed (or that `seen` covers). O(size)."""
        return self._replace(LEAF, 0, self._stored(value), seen)

    def resolve(self, value: T, *, seen: Seen | None = None) -> Delta:
        """Resolve a conflict: `set` by another name, for the reader of the code."""
        return self.set(value, seen=seen)

    def _import(self, value: Any) -> None:
        if type(value) is not tuple:
            raise InvalidValueTypeError("wanted the concurrent values as a tuple, as in `values`")
        for index, each in enumerate(value):
            self.set(each, seen={} if index else None)


_RANKS: dict[type, int] = {int: 0, float: 0, str: 1, bytes: 2, datetime: 3, tuple: 4}


def _rank(stored: Stored) -> tuple[Any, ...]:
    """A key under which stored values of any kind are totally ordered."""
    value = thaw(stored)
    parts = value if type(value) is tuple else (value,)
    keys = tuple((_RANKS[type(part)], part) for part in parts)
    return _RANKS[type(value)], keys, order_of(stored)


class ExtremeView(RegisterView, Generic[T]):
    """What MaxRegister and MinRegister share: everything but the direction."""

    __slots__ = ()

    _beyond: ClassVar[Callable[..., Any]]  # max or min: which of several values speaks

    @property
    def value(self) -> T | None:
        """The greatest (least) value, or None if there is none."""
        row = self._container.rows.get(LEAF)
        best = self._beyond((entry[2] for entry in entries_of(row)), key=_rank, default=None)
        return cast("T | None", thaw(best))

    def set(self, value: T, *, seen: Seen | None = None) -> Delta:
        """Move it to `value`; no dot if that is not beyond what is observed (or `seen`). O(1)."""
        try:
            refuse_unordered(value)
            stored = freeze(value)
        except InvalidValueError as error:
            raise self._placed(error) from error.__cause__
        victim = self._victim(self._container, LEAF, seen)
        held = [type(thaw(entry[2])) for entry in entries_of(self._container.rows.get(LEAF))]
        if held and _RANKS[type(value)] not in map(_RANKS.__getitem__, held):
            raise InvalidValueTypeError(f"holds {held[0].__name__}, not {type(value).__name__}")
        if victim is not None:
            best = self._beyond(_rank(entry[2]) for entry in entries_of(victim[2]))
            new = _rank(stored)
            if new == best or self._beyond(new, best) != new:
                return NOTHING
        return self._replace(LEAF, 0, stored, seen)

    def _import(self, value: Any) -> None:
        if value is not None:
            self.set(value)


class MaxRegister(ExtremeView[T]):
    """The greatest value written; numbers, str, bytes, datetime or tuples, one kind at a time."""

    __slots__ = ()

    _beyond = max


class MinRegister(ExtremeView[T]):
    """The least value written; numbers, str, bytes, datetime or tuples, one kind at a time."""

    __slots__ = ()

    _beyond = min

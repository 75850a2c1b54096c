"""Sets: GSet (grows), ORSet (a concurrent add wins), RWSet (a concurrent remove wins).

The element is the step, so an element that is not there costs nothing. ORSet is the optimized
observed-remove set of Bieniusa et al. 2012 (arXiv:1210.3368), with one change: a remove consumes a
dot like every mutation. Adding what is present takes a new dot as well, otherwise a concurrent
remove would win over the second add.

RWSet writes its removes: an element is in the set if an add is alive and no remove is. A remove
stays as one live dot until a later add or a reset takes it.

Elements are told apart as in JSON-with-types, not as in Python: 1, True and 1.0 are three elements.
Reading follows the built-in set: comparison and algebra with any set, plain or not, give plain
data; iterating works on a snapshot. `|=`, `-=`, `&=` and `^=` write, as one batch: what they take
is checked before the first write, so that they happen whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Self

from crdt.codec import Codec
from crdt.errors import InvalidValueError, InvalidValueTypeError
from crdt.kernel import Seen, Step, context_of, element_of, entries_of, step_of
from crdt.view import CodedType, View, plain

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for `default`: type checkers know it, nobody else asks

    from crdt.kernel import Delta

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")
C = TypeVar("C")


def _elements(steps: Iterable[Step]) -> list[Any]:
    return [step if type(step) is not tuple else element_of(step) for step in steps]


def _plain_set(value: object) -> Iterable[Any]:
    if not isinstance(value, AbstractSet | list | tuple):
        raise InvalidValueTypeError(f"not the elements of a set: {type(value).__name__}")
    return list(value)


def _all(others: Iterable[Iterable[Any]]) -> list[Any]:
    """The elements of some iterables, one after the other."""
    try:
        return [element for other in others for element in other]
    except TypeError as error:
        raise InvalidValueTypeError(f"no iterable of elements: {error}") from error


def _operand(sign: str, other: object) -> list[Any]:
    """The elements of a set beside an operator; as for the built-in set, other iterables are none.

    A list or a text there is a slip more often than a wish, and `update` takes any iterable.
    """
    if not isinstance(other, AbstractSet):
        raise InvalidValueTypeError(f"`{sign}` wants a set, not a {type(other).__name__}")
    return list(other)


def _is_set(other: object) -> bool:
    return isinstance(other, AbstractSet)


class SetView(View, AbstractSet[T]):
    """What the sets share: an element is in the set while its row is, unless a set says otherwise.

    Reading follows the built-in set; what `&`, `|`, `-` and `^` give is plain data, not a replica.
    """

    __slots__ = ()

    @property
    def value(self) -> frozenset[T]:
        """The elements; here those that Python holds equal (1, True) coincide. O(n)."""
        return frozenset(self._read(self._whole.rows))

    def _step(self, element: object) -> Step:
        """The step of an element, or the refusal of what cannot be one."""
        try:
            return step_of(element if self._codec is None else self._codec.encode(element))
        except InvalidValueError as error:
            raise self._placed(error) from error.__cause__

    def _read(self, steps: Iterable[Step]) -> list[Any]:
        elements = _elements(steps)
        return elements if self._codec is None else list(map(self._codec.decode, elements))

    def _find(self, element: object) -> Step | None:
        """The step of an element, or None if nothing like it can be stored."""
        try:
            return self._step(element)
        except InvalidValueError:
            return None

    def add(self, element: T, *, seen: Seen | None = None) -> Delta:
        """Add an element; takes a dot also if it is present. O(1)."""
        try:
            step = step_of(element) if self._codec is None else self._step(element)
        except InvalidValueError as error:
            raise self._placed(error) from error.__cause__
        if seen is None:
            return self._writer.put(self._place, step, 0, None)
        return self._replace(step, 0, None, seen)

    def update(self, *others: Iterable[Any], seen: Seen | None = None) -> Delta:
        """Add every element of some iterables, as one batch; a bad one refuses all. O(their size).

        Like `add`, it takes a dot also for an element that is present.
        """
        return self._change(_all(others), (), seen)

    def _change(
        self, added: Iterable[Any], removed: Iterable[Any], seen: Seen | None = None
    ) -> Delta:
        """Remove, then add, as one batch. All is checked before the first write."""
        seen = None if seen is None else context_of(seen)
        added, removed = list(added), list(removed)
        for element in (*added, *removed):
            self._step(element)
        with self._kernel.batch() as batch:
            for element in removed:
                self._drop(element, seen)
            for element in added:
                self.add(element, seen=seen)
        return batch.delta

    def _drop(self, element: T, seen: Seen | None) -> None:
        """Remove an element, in a set that can."""
        raise NotImplementedError

    def _import(self, value: Any) -> None:
        self._change(_plain_set(value), ())

    def __ior__(self, other: AbstractSet[Any]) -> Self:
        self._change(_operand("|=", other), ())
        return self

    def __contains__(self, element: object) -> bool:
        if self._writer.open_batch is not None:
            self._writer.admit()
        return self._find(element) in self._rows

    def __iter__(self) -> Iterator[T]:
        return iter(self._read(list(self._whole.rows)))

    def __len__(self) -> int:
        if self._writer.open_batch is not None:
            self._writer.admit()
        return len(self._rows)

    def __le__(self, other: AbstractSet[Any]) -> bool:
        return bool(self.value <= plain(other))

    def __lt__(self, other: AbstractSet[Any]) -> bool:
        return bool(self.value < plain(other))

    def __ge__(self, other: AbstractSet[Any]) -> bool:
        return bool(self.value >= plain(other))

    def __gt__(self, other: AbstractSet[Any]) -> bool:
        return bool(self.value > plain(other))

    def __and__(self, other: AbstractSet[Any]) -> set[Any]:
        return set(self) & frozenset(other) if _is_set(other) else NotImplemented

    def __or__(self, other: AbstractSet[Any]) -> set[Any]:
        return set(self) | frozenset(other) if _is_set(other) else NotImplemented

    def __sub__(self, other: AbstractSet[Any]) -> set[Any]:
        return set(self) - frozenset(other) if _is_set(other) else NotImplemented

    def __xor__(self, other: AbstractSet[Any]) -> set[Any]:
        return set(self) ^ frozenset(other) if _is_set(other) else NotImplemented

    def __rsub__(self, other: AbstractSet[Any]) -> set[Any]:
        return set(other) - self.value if _is_set(other) else NotImplemented

    def __rand__(self, other: AbstractSet[Any]) -> set[Any]:
        return self & other

    def __ror__(self, other: AbstractSet[Any]) -> set[Any]:
        return self | other

    def __rxor__(self, other: AbstractSet[Any]) -> set[Any]:
        return self ^ other

    def issubset(self, other: Iterable[Any]) -> bool:
        """Whether another holds all of it. O(n)."""
        return self.value.issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Whether it holds all of another. O(n)."""
        return self.value.issuperset(other)

    def union(self, *others: Iterable[Any]) -> set[Any]:
        """Its elements and those of others, as a plain set. O(n)."""
        return set(self).union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        """Its elements that all others hold, as a plain set. O(n)."""
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        """Its elements that no other holds, as a plain set. O(n)."""
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        """What one of the two holds and the other does not, as a plain set. O(n)."""
        return set(self).symmetric_difference(other)


class GSet(SetView[T]):
    """A set that only grows."""

    __slots__ = ()

    @classmethod
    def of(cls, elements: Codec[C] | type[C]) -> CodedType[GSet[C]]:
        """The type of sets whose elements are converted: see `crdt.codec`."""
        return CodedType(cls, Codec.of(elements))  # type: ignore[arg-type]  # of another parameter

    _instead = "it only grows, by `|=`; use an ORSet to remove"


class RemovableView(SetView[T]):
    """What the two sets share that can remove: `discard`, `pop`, and the operators in place."""

    __slots__ = ()

    _instead = "`|=`, `-=`, `&=` and `^=` write, with a set beside them"

    def remove(self, element: T, *, seen: Seen | None = None) -> Delta:
        """Remove an element."""
        raise NotImplementedError

    def discard(self, element: T, *, seen: Seen | None = None) -> Delta:
        """`remove` by the name that the built-in set has for "if it is there". O(1)."""
        return self.remove(element, seen=seen)

    def pop(self) -> T:
        """Remove an element and return it; KeyError if there is none. O(n).

        Others may take the same one concurrently: to share out work, let one commit decide.
        """
        for element in self:
            self.remove(element)
            return element
        raise KeyError("pop from an empty set")

    def difference_update(self, *others: Iterable[Any], seen: Seen | None = None) -> Delta:
        """Remove every element of some iterables, as one batch; a bad one refuses all. O(size)."""
        return self._change((), _all(others), seen)

    def intersection_update(self, *others: Iterable[Any], seen: Seen | None = None) -> Delta:
        """Remove what some iterable does not hold, as one batch. O(n + their size)."""
        kept = [set(map(self._find, _all([other]))) for other in others]
        gone = [each for each in self if not all(self._step(each) in steps for steps in kept)]
        return self._change((), gone, seen)

    def symmetric_difference_update(
        self, other: Iterable[Any], *, seen: Seen | None = None
    ) -> Delta:
        """Remove what both hold, add what only the other does, as one batch. O(its size)."""
        elements = {self._step(element): element for element in _all([other])}.values()
        held = [element for element in elements if element in self]
        return self._change([each for each in elements if each not in self], held, seen)

    def _drop(self, element: T, seen: Seen | None) -> None:
        self.remove(element, seen=seen)

    def __isub__(self, other: AbstractSet[Any]) -> Self:  # type: ignore[override]  # not `-`
        self.difference_update(_operand("-=", other))
        return self

    def __iand__(self, other: AbstractSet[Any]) -> Self:  # type: ignore[override]  # not `&`
        self.intersection_update(_operand("&=", other))
        return self

    def __ixor__(self, other: AbstractSet[Any]) -> Self:  # type: ignore[override]  # not `^`
        self.symmetric_difference_update(_operand("^=", other))
        return self


class ORSet(RemovableView[T]):
    """A set in which an add wins over a concurrent remove."""

    __slots__ = ()

    @classmethod
    def of(cls, elements: Codec[C] | type[C]) -> CodedType[ORSet[C]]:
        """The type of sets whose elements are converted: see `crdt.codec`."""
        return CodedType(cls, Codec.of(elements))  # type: ignore[arg-type]  # of another parameter

    def remove(self, element: T, *, seen: Seen | None = None) -> Delta:
        """Remove the adds that were observed (or that `seen` covers); nothing if there are none.

        Unlike `set.remove` it does not raise for an absent element: whether somebody else was
        faster is not the caller's fault. O(1).
        """
        return self._writer.write(self._victims([(self._container, self._step(element))], seen))

    def clear(self, *, seen: Seen | None = None) -> Delta:
        """Remove every element observed. O(n)."""
        return self._reset(self._place, seen)


class RWSet(RemovableView[T]):
    """A set in which a remove wins over a concurrent add."""

    __slots__ = ()

    @classmethod
    def of(cls, elements: Codec[C] | type[C]) -> CodedType[RWSet[C]]:
        """The type of sets whose elements are converted: see `crdt.codec`."""
        return CodedType(cls, Codec.of(elements))  # type: ignore[arg-type]  # of another parameter

    @property
    def value(self) -> frozenset[T]:
        """The elements; here those that Python holds equal (1, True) coincide. O(n)."""
        return frozenset(self)

    def add(self, element: T, *, seen: Seen | None = None) -> Delta:
        """Add an element, over every remove that was observed. O(1)."""
        return self._replace(self._step(element), 0, True, seen)

    def remove(self, element: T, *, seen: Seen | None = None) -> Delta:
        """Remove an element, also against concurrent adds. O(1)."""
        return self._replace(self._step(element), 0, False, seen)

    def reset(self, *, seen: Seen | None = None) -> Delta:
        """Forget adds and removes alike, as far as observed: leaves no entry. O(n)."""
        return self._reset(self._place, seen)

    def __contains__(self, element: object) -> bool:
        if self._writer.open_batch is not None:
            self._writer.admit()
        return self._holds(self._find(element))

    def _holds(self, step: Step | None) -> bool:
        row = self._rows.get(step) if step is not None else None
        return row is not None and all(entry[2] for entry in entries_of(row))

    def __iter__(self) -> Iterator[T]:
        return iter(self._read([step for step in self._whole.rows if self._holds(step)]))

    def __len__(self) -> int:
        return sum(map(self._holds, self._whole.rows))

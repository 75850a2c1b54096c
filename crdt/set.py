"""Sets: GSet (grows), ORSet (a concurrent add wins), RWSet (a concurrent remove wins).

The element is the step, so an element that is not there costs nothing. ORSet is the optimized
observed-remove set of Bieniusa et al. 2012 (arXiv:1210.3368), with one change: a remove consumes a
dot like every mutation. Adding what is present takes a new dot as well, otherwise a concurrent
remove would win over the second add.

RWSet writes its removes: an element is in the set if an add is alive and no remove is. A remove
stays as one live dot until a later add or a reset takes it.

Elements are told apart as in JSON-with-types, not as in Python: 1, True and 1.0 are three elements.
Reading follows `collections.abc.Set`; iterating works on a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from crdt.errors import InvalidValueError, InvalidValueTypeError
from crdt.kernel import Step, element_of, entries_of, step_of
from crdt.view import Seen, View

if TYPE_CHECKING:
    from crdt.kernel import Delta


def _elements(steps: Iterable[Step]) -> list[Any]:
    return [step if type(step) is not tuple else element_of(step) for step in steps]


def _find(element: object) -> Step | None:
    """The step of an element, or None if nothing like it can be stored."""
    try:
        return step_of(element)
    except InvalidValueError:
        return None


def _plain_set(value: object) -> Iterable[Any]:
    if not isinstance(value, AbstractSet | list | tuple):
        raise InvalidValueTypeError(f"not the elements of a set: {type(value).__name__}")
    return list(value)


class SetView(View, AbstractSet[Any]):
    """What the sets share: an element is in the set while its row is, unless a set says otherwise.

    Reading follows `collections.abc.Set`; what `&`, `|` and `-` give is plain data, not a replica.
    """

    __slots__ = ()

    @property
    def value(self) -> frozenset[Any]:
        """The elements; here those that Python holds equal (1, True) coincide. O(n)."""
        return frozenset(_elements(self._container.rows))

    def add(self, element: object, *, seen: Seen | None = None) -> Delta:
        """Add an element; takes a dot also if it is present. O(1)."""
        if seen is None:
            return self._writer.put(self._container, step_of(element), 0, None)
        return self._replace(step_of(element), 0, None, seen)

    def _import(self, value: Any) -> None:
        for element in _plain_set(value):
            self.add(element)

    def __contains__(self, element: object) -> bool:
        return _find(element) in self._container.rows

    def __iter__(self) -> Iterator[Any]:
        return iter(_elements(list(self._container.rows)))

    def __len__(self) -> int:
        return len(self._container.rows)

    @classmethod
    def _from_iterable(cls, elements: Iterable[Any]) -> set[Any]:
        return set(elements)


class GSet(SetView):
    """A set that only grows."""

    __slots__ = ()


class ORSet(SetView):
    """A set in which an add wins over a concurrent remove."""

    __slots__ = ()

    def remove(self, element: object, *, seen: Seen | None = None) -> Delta:
        """Remove the adds that were observed (or that `seen` covers); nothing if there are none.

        Unlike `set.remove` it does not raise for an absent element: whether somebody else was
        faster is not the caller's fault. O(1).
        """
        return self._writer.write(self._victims([(self._container, step_of(element))], seen))

    def clear(self, *, seen: Seen | None = None) -> Delta:
        """Remove every element observed. O(n)."""
        return self._reset(self._container, seen)


class RWSet(SetView):
    """A set in which a remove wins over a concurrent add."""

    __slots__ = ()

    @property
    def value(self) -> frozenset[Any]:
        """The elements; here those that Python holds equal (1, True) coincide. O(n)."""
        return frozenset(self)

    def add(self, element: object, *, seen: Seen | None = None) -> Delta:
        """Add an element, over every remove that was observed. O(1)."""
        return self._replace(step_of(element), 0, True, seen)

    def remove(self, element: object, *, seen: Seen | None = None) -> Delta:
        """Remove an element, also against concurrent adds. O(1)."""
        return self._replace(step_of(element), 0, False, seen)

    def reset(self, *, seen: Seen | None = None) -> Delta:
        """Forget adds and removes alike, as far as observed: leaves no entry. O(n)."""
        return self._reset(self._container, seen)

    def __contains__(self, element: object) -> bool:
        return self._holds(_find(element))

    def _holds(self, step: Step | None) -> bool:
        row = self._container.rows.get(step) if step is not None else None
        return row is not None and all(entry[2] for entry in entries_of(row))

    def __iter__(self) -> Iterator[Any]:
        return iter(_elements([step for step in self._container.rows if self._holds(step)]))

    def __len__(self) -> int:
        return sum(map(self._holds, self._container.rows))

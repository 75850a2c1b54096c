"""Maps: LWWMap (values, the latest write per key wins) and ORMap (children that merge).

LWWMap keeps one LWW row per key, the key being the step. A delete leaves no entry: it kills the
puts it observed, so a concurrent put survives whatever its clock says.

ORMap holds other types by (name, type), to any depth. It writes nothing itself: a child is there
while something below its path is alive, and removing it is an observed reset of its subtree - a
concurrent change inside survives, and only that change. Two replicas that create the same child
concurrently have created the same child; the same name with two types is two children.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from crdt.errors import AmbiguousNameError, InvalidValueError, InvalidValueTypeError
from crdt.kernel import TYPES, VALUE_OF, Step, below, element_of, freeze, order_of, step_of, thaw
from crdt.view import Seen, View

if TYPE_CHECKING:
    from crdt.kernel import Container, Delta, DocumentType, Row

Child = TypeVar("Child")


class LWWMap(View, Mapping[Any, Any]):
    """A mapping in which the latest write per key wins."""

    __slots__ = ()

    @property
    def value(self) -> dict[Any, Any]:
        """All items as a fresh dict. O(n).

        Of keys that Python holds equal (1, True) the last in canonical order is shown: the same
        one on every replica.
        """
        rows = self._rows
        if self._container.is_plain():
            items: dict[Any, Any] = dict(rows)  # a copy never grows, so this beats a new dict
            items.update(zip(rows, map(VALUE_OF, rows.values()), strict=True))
            return items
        steps = sorted(rows, key=order_of) if tuple in set(map(type, rows)) else list(rows)
        return {element_of(step): self._read(rows[step]) for step in steps}

    def _read(self, row: Row) -> Any:
        return thaw(self._writer.state.live.latest(row)[2])

    def put(self, key: object, value: object, *, seen: Seen | None = None) -> Delta:
        """Write a key over what was observed of it (or what `seen` covers). O(size)."""
        step = key if type(key) is str and key.isascii() and len(key) < 1024 else step_of(key)
        stored = value if type(value) is int else freeze(value)
        writer = self._writer
        if seen is None:
            return writer.put(self._container, step, writer.stamp(), stored)
        return self._replace(step, writer.stamp(), stored, seen)

    def delete(self, key: object, *, seen: Seen | None = None) -> Delta:
        """Delete what was observed of a key; nothing if it is absent. O(1)."""
        return self._writer.write(self._victims([(self._container, step_of(key))], seen))

    def clear(self, *, seen: Seen | None = None) -> Delta:
        """Delete every key observed. O(n)."""
        return self._reset(self._container, seen)

    def _import(self, value: Any) -> None:
        for key, item in value.items():
            self.put(key, item)

    def __setitem__(self, key: object, value: object) -> None:
        self.put(key, value)

    def __delitem__(self, key: object) -> None:
        if key not in self:
            raise KeyError(key)
        self.delete(key)

    def __getitem__(self, key: object) -> Any:
        row = self._rows[key if type(key) is str else _step(key)]
        if type(row) is not tuple:
            return self._read(row)
        value = row[2]
        return thaw(value) if type(value) is tuple else value

    def __contains__(self, key: object) -> bool:
        try:
            return step_of(key) in self._container.rows
        except InvalidValueError:
            return False

    def __iter__(self) -> Iterator[Any]:
        return iter([element_of(step) for step in list(self._container.rows)])

    def __len__(self) -> int:
        return len(self._container.rows)


def _step(key: object) -> Step:
    try:
        return step_of(key)
    except InvalidValueError as error:
        raise KeyError(key) from error


class ORMap(View, Mapping[tuple[str, type], Any]):
    """A mapping of (name, type) to children that merge.

    `the_map["tags", ORSet].add("x")` creates as it writes; `del the_map["tags", ORSet]` resets what
    was observed. Iterating gives the (name, type) pairs that are alive; `the_map["tags"]` is the
    child of that name if there is exactly one.
    """

    __slots__ = ()

    @property
    def value(self) -> dict[tuple[str, str], Any]:
        """{(name, type name): value of the child}: plain data, to any depth. O(n)."""
        return {(name, kind.__name__): self[name, kind].value for name, kind in self}

    def child(self, name: str, kind: DocumentType[Child]) -> Child:
        """The child of that name and type, alive or not yet; writing to it makes it alive."""
        if not hasattr(kind, "attach"):
            raise InvalidValueTypeError(f"a child is of a type of this package, not {kind!r}")
        if ":" in kind.type_name:
            raise InvalidValueTypeError(f"{kind.type_name} lives at the top level only")
        live = self._writer.state.live
        path = below(self._container.path, name, kind.type_name)
        return kind.attach(self._kernel, live.container(path))

    def _import(self, value: Any) -> None:
        for (name, type_name), item in value.items():
            kind = TYPES.get(type_name)
            if kind is None:
                raise InvalidValueTypeError(f"no type of this package: {type_name!r}")
            self.child(name, cast("DocumentType[View]", kind)).import_value(item)

    def remove(self, name: str, kind: type | None = None, *, seen: Seen | None = None) -> Delta:
        """Reset what was observed under a name (of one type, or of all). O(rows below)."""
        if kind is not None and not isinstance(kind, type):
            raise InvalidValueTypeError(f"a child is of a type of this package, not {kind!r}")
        below = [
            child
            for (known, type_name), child in self._container.children.items()
            if known == name and (kind is None or type_name == kind.__name__)
        ]
        places = [
            (place, step) for child in below for place in child.subtree() for step in place.rows
        ]
        return self._writer.write(self._victims(places, seen))

    def clear(self, *, seen: Seen | None = None) -> Delta:
        """Reset everything observed. O(rows below)."""
        return self._reset(self._container, seen)

    @overload
    def __getitem__(self, key: tuple[str, type[Child]]) -> Child: ...

    @overload
    def __getitem__(self, key: str) -> Any: ...

    def __getitem__(self, key: Any) -> Any:
        if type(key) is tuple and len(key) == 2:
            return self.child(*key)
        kinds = sorted(kind for name, kind in self._container.children if name == key)
        if not kinds:
            raise KeyError(key)
        if len(kinds) > 1:
            raise AmbiguousNameError(key, tuple(kinds))
        return self.child(key, cast("DocumentType[Any]", TYPES[kinds[0]]))

    def __delitem__(self, key: tuple[str, type] | str) -> None:
        if key not in self:
            raise KeyError(key)
        self.remove(*key) if type(key) is tuple else self.remove(str(key))

    def __contains__(self, key: object) -> bool:
        children: dict[tuple[str, str], Container] = self._container.children
        if type(key) is tuple and len(key) == 2 and isinstance(key[1], type):
            return type(key[0]) is str and (key[0], key[1].__name__) in children
        return any(name == key for name, _ in children)

    def __eq__(self, other: object) -> bool:
        """Whether the values are equal: with another ORMap, or with plain data like `value`."""
        if isinstance(other, ORMap):
            return self.value == other.value
        return self.value == other if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # like a dict

    def __iter__(self) -> Iterator[tuple[str, type]]:
        return iter([(name, TYPES[kind]) for name, kind in sorted(self._container.children)])

    def __len__(self) -> int:
        return len(self._container.children)

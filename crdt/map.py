"""Maps: LWWMap (values, the latest write per key wins) and ORMap (children that merge).

LWWMap keeps one LWW row per key, the key being the step. A delete leaves no entry: it kills the
puts it observed, so a concurrent put survives whatever its clock says. It is used like a dict:
assignment, `del`, `update`, `pop`, `|=` write.

ORMap holds other types by (name, type), to any depth. It writes nothing itself: a child is there
while something below its path is alive, and removing it is an observed reset of its subtree - a
concurrent change inside survives, and only that change. Two replicas that create the same child
concurrently have created the same child; the same name with two types is two children.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast, overload

from crdt.codec import Codec
from crdt.errors import (
    AmbiguousNameError,
    InvalidValueError,
    InvalidValueTypeError,
    OperatorRefusedError,
    UnknownChildError,
)
from crdt.kernel import (
    KINDS,
    TYPES,
    VALUE_OF,
    Seen,
    Step,
    Stored,
    below,
    check_document_type,
    context_of,
    element_of,
    freeze,
    order_of,
    shown,
    step_of,
    thaw,
)
from crdt.view import CodedType, View

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for `default`: type checkers know it, nobody else asks

    from crdt.kernel import Container, Delta, DocumentType, Row

    K = TypeVar("K", default=Any)
    V = TypeVar("V", default=Any)
else:
    from typing import TypeVar

    K, V = TypeVar("K"), TypeVar("V")
Child = TypeVar("Child")
C = TypeVar("C")
D = TypeVar("D")


class LWWMap(View, MutableMapping[K, V]):
    """A mapping in which the latest write per key wins. `LWWMap[str, int]` tells types."""

    __slots__ = ()

    @overload
    @classmethod
    def of(cls, values: Codec[C] | type[C]) -> CodedType[LWWMap[Any, C]]: ...

    @overload
    @classmethod
    def of(
        cls, values: Codec[C] | type[C], *, keys: Codec[D] | type[D]
    ) -> CodedType[LWWMap[D, C]]: ...

    @classmethod
    def of(cls, values: Any, *, keys: Any = None) -> CodedType[Any]:
        """The type of maps whose values, and keys, are converted: see `crdt.codec`."""
        return CodedType(cls, Codec.of(values), None if keys is None else Codec.of(keys))

    _instead = "`|=` writes the items of a mapping; a value changes by `m[key] = value`"

    @property
    def value(self) -> dict[K, V]:
        """All items as a fresh dict. O(n).

        Of keys that Python holds equal (1, True) the last in canonical order is shown: the same
        one on every replica.
        """
        rows = self._rows
        if self._codec is None and self._key_codec is None and self._whole.is_plain():
            items: dict[Any, Any] = dict(rows)  # a copy never grows, so this beats a new dict
            items.update(zip(rows, map(VALUE_OF, rows.values()), strict=True))
            return items
        steps = sorted(rows, key=order_of) if tuple in set(map(type, rows)) else list(rows)
        return {self._key_of(step): self._read(rows[step]) for step in steps}

    def _read(self, row: Row) -> Any:
        value = thaw(self._writer.state.live.latest(row)[2])
        return value if self._codec is None else self._codec.decode(value)

    def _key_of(self, step: Step) -> Any:
        key = element_of(step)
        return key if self._key_codec is None else self._key_codec.decode(key)

    def _step(self, key: object) -> Step:
        """The step of a key, or the refusal of what cannot be one."""
        return step_of(key if self._key_codec is None else self._key_codec.encode(key))

    def _encoded(self, key: Any, value: Any) -> tuple[Any, Any]:
        """A key and a value as they are stored."""
        if self._key_codec is not None:
            key = self._key_codec.encode(key)
        return key, value if self._codec is None else self._codec.encode(value)

    def put(self, key: K, value: V, *, seen: Seen | None = None) -> Delta:
        """Write a key over what was observed of it (or what `seen` covers). O(size)."""
        name: Any = key
        stored: Any = value
        if self._codec is not None or self._key_codec is not None:
            name, stored = self._encoded(key, value)
        writer = self._writer
        try:
            plain = type(name) is str and name.isascii() and len(name) < 1024
            step = name if plain else step_of(name)
            if type(stored) is not int:
                stored = freeze(stored)
            if seen is None:
                return writer.put(self._place, step, writer.stamp(), stored)
            return self._replace(step, writer.stamp(), stored, seen)
        except InvalidValueError as error:
            raise self._placed(error, f"[{shown(key)}]") from error.__cause__

    def _frozen(self, key: Any, value: Any) -> tuple[Step, Stored]:
        """A key and a value in stored form, or a refusal that says where."""
        try:
            return step_of(key), freeze(value)
        except InvalidValueError as error:
            raise self._placed(error, f"[{shown(key)}]") from error.__cause__

    def delete(self, key: K, *, seen: Seen | None = None) -> Delta:
        """Delete what was observed of a key; nothing if it is absent. O(1)."""
        return self._writer.write(self._victims([(self._container, self._step(key))], seen))

    def clear(self, *, seen: Seen | None = None) -> Delta:  # type: ignore[override]  # a delta
        """Delete every key observed. O(n)."""
        return self._reset(self._place, seen)

    def update(  # type: ignore[override]  # a delta
        self, other: Any = (), /, *, seen: Seen | None = None, **named: Any
    ) -> Delta:
        """Put all items of a mapping, of pairs, and of keywords, as one batch. O(size).

        Keys and values are checked before the first write: a bad one refuses all.
        """
        seen = None if seen is None else context_of(seen)
        items = [self._encoded(*item) for item in (*_pairs(other), *named.items())]
        frozen = [self._frozen(key, value) for key, value in items]
        with self._kernel.batch() as batch:
            for step, stored in frozen:
                self._replace(step, self._writer.stamp(), stored, seen)
        return batch.delta

    def _import(self, value: Any) -> None:
        self.update(value.items())

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def __or__(self, other: Any) -> dict[K, V]:
        return self.value | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> dict[K, V]:
        return dict(other) | self.value if isinstance(other, Mapping) else NotImplemented

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self.delete(key)

    def __getitem__(self, key: K) -> V:
        if self._writer.open_batch is not None:
            self._writer.admit()
        plain: Any = key
        row = self._rows[
            plain if type(key) is str and self._key_codec is None else self._found(key)
        ]
        if type(row) is not tuple or self._codec is not None:
            return self._read(row)  # type: ignore[no-any-return]  # what the codec says
        value = row[2]
        return thaw(value) if type(value) is tuple else value  # type: ignore[return-value]  # as it is stored

    def _found(self, key: Any) -> Step:
        try:
            return self._step(key)
        except InvalidValueError as error:
            raise KeyError(key) from error

    def __contains__(self, key: object) -> bool:
        if self._writer.open_batch is not None:
            self._writer.admit()
        try:
            return self._step(key) in self._rows
        except InvalidValueError:
            return False

    def __iter__(self) -> Iterator[K]:
        return iter([self._key_of(step) for step in list(self._whole.rows)])

    def __len__(self) -> int:
        if self._writer.open_batch is not None:
            self._writer.admit()
        return len(self._rows)


def _pairs(items: Any) -> list[tuple[Any, Any]]:
    """The items of a mapping, or of an iterable of pairs, as `dict.update` takes them."""
    try:
        return [(key, value) for key, value in getattr(items, "items", lambda: items)()]
    except (TypeError, ValueError) as error:
        raise InvalidValueTypeError(f"no mapping and no pairs: {type(items).__name__}") from error


Address: TypeAlias = "str | tuple[str, type | DocumentType[Any]]"


class ORMap(View, Mapping[Any, Any]):
    """A mapping of (name, type) to children that merge.

    `the_map["tags", ORSet].add("x")` creates as it writes; `del the_map["tags", ORSet]` resets what
    was observed. Iterating gives the (name, type) pairs that are alive.

    A child that is alive is also found by text: `the_map["tags"]` if it is the only one of that
    name, `the_map["tags:ORSet"]` in any case. These are the keys of `value`: the name alone where
    it says enough, with the type where two children share a name (or where the name itself ends
    like one with a type). `typed_value` says the type always.

    Assignment is refused, because it does not say what a child is; `the_map["tags"] |= {"x"}` and
    `the_map["hits"] += 1` are the children's own operators, and write.
    """

    __slots__ = ()

    _instead = "write to a child, as in `the_map[name, ORSet].add(x)`, or use `import_value`"

    @property
    def value(self) -> dict[str, Any]:
        """{name: value of the child}, or {"name:Type": ...} where a name has two. O(n)."""
        names = Counter(name for name, _ in self._whole.children)
        return {
            name if names[name] == 1 and not _typed(name) else f"{name}:{kind.type_name}": child
            for (name, kind), child in self._values("value")
        }

    @property
    def typed_value(self) -> dict[str, Any]:
        """{"name:Type": value of the child}, to any depth; what `import_value` takes. O(n)."""
        return {
            f"{name}:{kind.type_name}": child for (name, kind), child in self._values("typed_value")
        }

    def _values(self, how: str) -> Iterator[tuple[tuple[str, Any], Any]]:
        for name, kind in self:
            child: Any = self.child(name, cast("DocumentType[View]", kind))
            yield (name, kind), getattr(child, how if isinstance(child, ORMap) else "value")

    def child(self, name: str, kind: type[Child] | DocumentType[Child]) -> Child:
        """The child of that name and type, alive or not yet; writing to it makes it alive."""
        type_name = check_document_type(kind)
        if ":" in type_name:
            raise InvalidValueTypeError(f"{type_name} lives at the top level only")
        wanted = cast("DocumentType[Child]", kind)  # a class is one, too
        live = self._writer.state.live
        path = below(self._whole.path, name, type_name)
        return wanted.attach(self._kernel, live.container(path))

    def _import(self, value: Any) -> None:
        for key, item in value.items():
            if (found := self._address(key)) is None:
                raise InvalidValueTypeError(
                    f"{key!r} does not say what type the child has; give 'name:Type', as "
                    "`typed_value` does"
                )
            self.child(found[0], cast("DocumentType[View]", TYPES[found[1]])).import_value(item)

    def _address(self, key: object) -> tuple[str, str] | None:
        """The (name, type name) that a text stands for; None if it is of no child and no type.

        A text that ends with the name of a type is read so first, and as a bare name only if there
        is no such child: so every key of `value` leads to the child that it was made of.
        """
        if type(key) is not str:
            return None
        typed = _typed(key)
        if typed in self._container.children:
            return typed
        kinds = sorted(kind for name, kind in self._whole.children if name == key)
        if len(kinds) > 1:
            raise AmbiguousNameError(key, tuple(kinds))
        return (key, kinds[0]) if kinds else typed

    def remove(
        self, name: str, kind: DocumentType[Any] | type | None = None, *, seen: Seen | None = None
    ) -> Delta:
        """Reset what was observed under a name (of one type, or of all). O(rows below)."""
        if kind is not None and not hasattr(kind, "type_name") and not isinstance(kind, type):
            raise InvalidValueTypeError(f"a child is of a type of this package, not {kind!r}")
        found = [
            child
            for (known, type_name), child in self._whole.children.items()
            if known == name and (kind is None or type_name == getattr(kind, "type_name", None))
        ]
        return self._forget(found, seen)

    def _forget(self, containers: Iterable[Container], seen: Seen | None = None) -> Delta:
        places = [
            (place, step)
            for child in containers
            for place in child.subtree()
            for step in place.rows
        ]
        return self._writer.write(self._victims(places, seen))

    def pop(self, key: Address, *default: Any) -> Any:
        """Reset a child and return the value it had, or the default if it is not alive. O(rows)."""
        if len(default) > 1:
            raise TypeError(f"pop takes one default, not {len(default)}")
        if key not in self:
            if default:
                return default[0]
            raise UnknownChildError(key)
        child = self[key]
        value = child.value
        self._forget([child._container])  # noqa: SLF001  # a view, like this one
        return value

    def clear(self, *, seen: Seen | None = None) -> Delta:
        """Reset everything observed. O(rows below)."""
        return self._reset(self._place, seen)

    @overload
    def __getitem__(self, key: tuple[str, type[Child] | DocumentType[Child]]) -> Child: ...

    @overload
    def __getitem__(self, key: str) -> Any: ...

    def __getitem__(self, key: Any) -> Any:
        if type(key) is tuple and len(key) == 2:
            return self.child(*key)
        found = self._address(key)
        if found not in self._whole.children:
            raise UnknownChildError(key)
        return self.child(found[0], cast("DocumentType[Any]", TYPES[found[1]]))

    def get(self, key: Any, default: Any = None) -> Any:
        """The child, if it is alive; a name that two children share is no absent one."""
        return self[key] if key in self else default  # noqa: SIM401  # this is `get`

    def __setitem__(self, key: Address, value: Any) -> None:
        """Only what an operator in place gives back can be assigned: the child itself."""
        child = self[key] if type(key) is tuple or key in self else None
        if not (isinstance(value, View) and child is not None and child.is_same(value)):
            raise OperatorRefusedError("[...] = ...", self.type_name, _instead_of(key, value))

    def __delitem__(self, key: Address) -> None:
        if key not in self:
            raise UnknownChildError(key)
        self._forget([self[key]._container])  # noqa: SLF001  # a view, like this one

    def __contains__(self, key: object) -> bool:
        children = self._whole.children
        if type(key) is tuple and len(key) == 2:
            return type(key[0]) is str and (key[0], getattr(key[1], "type_name", None)) in children
        return type(key) is str and (
            _typed(key) in children or any(name == key for name, _ in children)
        )

    def __iter__(self) -> Iterator[tuple[str, type]]:
        return iter([(name, TYPES[kind]) for name, kind in sorted(self._whole.children)])

    def __len__(self) -> int:
        return len(self._container.children)


def _typed(text: str) -> tuple[str, str] | None:
    """The (name, type name) of a text like "tags:ORSet"; None if it does not end with a type."""
    name, colon, kind = text.rpartition(":")
    return (name, kind) if colon and kind in KINDS else None


_WRITTEN_AS: dict[type, str] = {
    bool: "EWFlag].enable()` or `{0}LWWRegister].set({1})",
    int: "LWWRegister].set({1})` or `{0}PNCounter].increment({1})",
    set: "ORSet].update({1})",
    frozenset: "ORSet].update({1})",
    dict: "LWWMap].update({1})` or `{0}ORMap].import_value(...)",
}


def _instead_of(key: object, value: object) -> str:
    """What to write in place of an assignment."""
    if type(key) is tuple and len(key) == 2:
        name, shown = key[0], f"{value!r:.40}"
        kind = getattr(key[1], "__name__", "Type")
        return f"call a mutator of `the_map[{name!r}, {kind}]`, or its import_value({shown})"
    if isinstance(value, View):
        kind = value.type_name.partition(":")[0]
        return f"no view takes a child's place: `the_map[{key!r:.40}, {kind}].import_value(...)`"
    place = f"the_map[{key!r:.40}, "
    form = _WRITTEN_AS.get(type(value), "LWWRegister].set({1})")
    written = form.format(place, f"{value!r:.40}")
    return f"say of which type the child is: `{place}{written}`"

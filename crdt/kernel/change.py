"""What a mutation, an apply or a merge changed for a reader.

While a change is made, `Touched` notes what it touches: single rows as they were before, and whole
columns of rows that did not exist, without a look at each. What remains is a `Change`: a promise to
say which values differ. Rows are never changed in place, so before and after are two references,
and the many who never look, such as a replica whose documents nobody watches, pay for no more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crdt.kernel.codec import Step, Stored, element_of
from crdt.kernel.kind import TYPES, kind_of
from crdt.kernel.live import Container, LiveTable, Row, entries_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from crdt.kernel.context import Swept

# A row as it was before a change.
Mark = tuple[Container, Step, Row | None]


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """One document whose value changed; `keys` names what was touched at its top level.

    `type` is the view class. `keys` holds elements of a set, keys of a map, names of an ORMap, and
    is None for types that have none. Elements that Python holds equal (1, True, 1.0) coincide.
    """

    name: str
    type: Any
    keys: frozenset[Any] | None


class Change:
    """What a local mutation, apply or merge changed; falsy when every value stayed as it was."""

    __slots__ = ("_documents", "_noted")

    _noted: _Noted  # until somebody asks for the documents

    def __init__(self, documents: tuple[DocumentChange, ...] = ()) -> None:
        self._documents: tuple[DocumentChange, ...] | None = documents

    @property
    def documents(self) -> tuple[DocumentChange, ...]:
        """The documents whose values differ. O(rows touched), the first time."""
        found = self._documents
        if found is None:
            found = self._documents = tuple(self._noted.documents())
            del self._noted
        return found

    def __bool__(self) -> bool:
        return bool(self.documents)

    def __eq__(self, other: object) -> bool:
        return self.documents == other.documents if isinstance(other, Change) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.documents)

    def __repr__(self) -> str:
        return f"Change({self.documents!r})"


UNCHANGED: Final = Change()


class Touched:
    """The notes of one change: rows before it, and rows that are new, in the order they came."""

    __slots__ = ("gone", "live", "marks", "new", "swept")

    def __init__(self, live: LiveTable, marks: Iterable[Mark] = ()) -> None:
        self.live = live
        self.swept: dict[str, Swept] = {}  # by origin: wide ranges that this change killed
        self.marks: list[Mark] = list(marks)
        self.new: list[tuple[int, Container, Sequence[Step]]] = []  # after how many marks
        self.gone: list[
            tuple[int, Container, dict[Step, Row]]
        ] = []  # at which mark; what was there

    def mark(self, container: Container, step: Step) -> None:
        """Remember a row that is about to change. O(1)."""
        self.marks.append((container, step, container.rows.get(step)))

    def mark_new(self, container: Container, steps: Sequence[Step]) -> None:
        """Remember that none of these rows existed before. O(1)."""
        self.new.append((len(self.marks), container, steps))

    def mark_gone(self, container: Container) -> None:
        """Remember a container that is about to lose all its rows, and has some. At C speed."""
        self.mark(container, next(iter(container.rows)))  # so that the order of notes is plain
        self.gone.append((len(self.marks) - 1, container, dict(container.rows)))

    def before(self) -> list[Mark]:
        """Each row touched, as it was, in the order in which they were. O(rows)."""
        noted, at = list[Mark](), 0
        many = [(at + 1, self._rows(container, rows)) for at, container, rows in self.gone]
        many += [(at, [(where, step, None) for step in steps]) for at, where, steps in self.new]
        for after, marks in sorted(many, key=_place):  # at one place the gone come first
            noted += self.marks[at:after]
            noted += marks
            at = after
        return noted + self.marks[at:]

    @staticmethod
    def _rows(container: Container, rows: dict[Step, Row]) -> list[Mark]:
        return [(container, step, row) for step, row in rows.items()]

    def change(self) -> Change:
        """What changed, when all is done. O(marks), and O(rows) where rows came back."""
        if not self.marks and not self.new:
            return UNCHANGED
        after = [container.rows.get(step) for container, step, _ in self.marks]
        left = [dict(container.rows) if container.rows else {} for _, container, _ in self.gone]
        change = Change()
        change._documents = None  # noqa: SLF001  # a promise of the class above
        change._noted = _Noted(self, after, left)  # noqa: SLF001
        return change


def _place(noted: tuple[int, list[Mark]]) -> int:
    return noted[0]


class _Noted:
    """Finished notes: what a `Change` is worked out from."""

    __slots__ = ("after", "left", "touched")

    def __init__(
        self, touched: Touched, after: list[Row | None], left: list[dict[Step, Row]]
    ) -> None:
        self.touched = touched
        self.after = after
        self.left = left

    def documents(self) -> Iterator[DocumentChange]:
        """By document, with the keys at its top level."""
        keys_of: dict[tuple[str, str], list[Iterable[object]]] = {}
        for container, steps in self._changed_steps():
            if not steps:
                continue
            path = container.path
            keys = keys_of.setdefault((path[0], path[1]), [])
            if len(path) > 2:
                keys.append((path[2],))
            elif kind_of(path).step == "element":
                plain = tuple not in set(map(type, steps))
                keys.append(steps if plain else map(element_of, steps))
        for (name, kind), keys in keys_of.items():
            yield DocumentChange(name, type_of(kind), frozenset().union(*keys) if keys else None)

    def _marks(self) -> Iterator[tuple[int, Mark, Row | None]]:
        """(at which mark, the row before, what it is now) in their order, those of all rows."""
        gone = zip(self.touched.gone, self.left, strict=True)
        whole = next(gone, None)
        for at, (mark, now) in enumerate(zip(self.touched.marks, self.after, strict=True)):
            yield at, mark, now
            if whole is not None and whole[0][0] == at:
                (_, container, rows), left = whole
                for step, row in rows.items():
                    yield at, (container, step, row), left.get(step)
                whole = next(gone, None)

    def _changed_steps(self) -> Iterator[tuple[Container, set[Step]]]:
        """The steps of each container that read differently now."""
        noted: dict[Container, dict[Step, tuple[int, Row | None, Row | None]]] = {}
        for at, (container, step, before), now in self._marks():
            noted.setdefault(container, {}).setdefault(step, (at, before, now))
        new: dict[Container, set[Step]] = {}
        for after, container, steps in self.touched.new:
            marked, unmarked = noted.get(container, {}), set(steps)
            for step in unmarked.intersection(marked):
                at, _, now = marked[step]
                if at >= after:  # it was new, and touched again later
                    marked[step] = at, None, now
            unmarked.difference_update(marked)
            new.setdefault(container, set()).update(unmarked)
        for container in {**noted, **new}:
            changed = new.get(container, set())
            reads = READS[kind_of(container.path).reads]
            for step, (_, before, now) in noted.get(container, {}).items():
                if before is None or now is None:
                    if before is not now:
                        changed.add(step)
                elif reads(self.touched.live, before) != reads(self.touched.live, now):
                    changed.add(step)
            yield container, changed


READS: Final[dict[str, Callable[[LiveTable, Row], Any]]] = {
    "present": lambda _table, _row: True,
    "latest": lambda table, row: _typed(table.latest(row)[2]),
    "values": lambda _table, row: frozenset(_typed(entry[2]) for entry in entries_of(row)),
    "every_value": lambda _table, row: Counter(_typed(entry[2]) for entry in entries_of(row)),
    "all_true": lambda _table, row: all(entry[2] for entry in entries_of(row)),
}


def _typed(value: Stored) -> tuple[type, Stored]:
    return type(value), value  # True, 1 and 1.0 are three values


def type_of(name: str) -> Any:
    """The view class of a type name in a path; of a bound other than 0, its document type."""
    plain, _, parameter = name.partition(":")
    kind: Any = TYPES[plain]
    return kind.at_least(int(parameter)) if parameter not in {"", "0"} else kind

"""The oracle: what a value has to be, from visibility alone.

For every operation it knows the dot and the set of dots its writer had seen. From that it decides:
a write is alive unless some operation that supersedes it had seen it. How the alive writes read as
a value is one line per type. There is no merge in here, no context arithmetic, no entry and no kill
list: plain sets of dots and quadratic loops, so that it cannot share a mistake with the kernel
(Burckhardt et al. 2014, replicated data types by visibility and arbitration).

Values are compared in a form that keeps apart what Python confuses (1, True, 1.0): canonical bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crdt.errors import CRDTError
from crdt.kernel import KINDS, Dot, decode_value, encode_value
from crdt.testing.operation import Operation, Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from crdt.kernel import Path

# Actions that erase everything observed below their path, and those that erase one element.
_ERASE_ALL = frozenset({"clear", "reset", "remove_child"})
_ERASE_ONE = frozenset({"delete"})
# Types of which a mutation may have nothing to say.
_SILENT = frozenset({"BoundedCounter", "MaxRegister", "MinRegister", "ResettableCounter"})


class NoOracleError(CRDTError, LookupError):
    """Nobody said what the value of this type has to be."""

    code = "no_oracle"
    hint = "register(Type, ..., oracle=function of the visible operations)"


class OneOf:
    """What an oracle returns where more than one value is right; equal to each of them.

        def last_write(visible):  # which of two concurrent writes wins is for the clocks to say
            last = [one for one in visible if not any(other.saw(one) for other in visible)]
            return OneOf(*(one.args[0] for one in last)) if last else None

    That all replicas agree on the same of them is what convergence is tested for.
    """

    __slots__ = ("values",)

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        if isinstance(other, OneOf):
            return self.values == other.values
        return any(other == value for value in self.values)

    __hash__ = None  # type: ignore[assignment]  # equal to values that differ from each other

    def __repr__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


def erases(operation: Recorded) -> bool:
    """Whether it writes nothing that could be read."""
    by_type = {("remove", "ORSet"), ("disable", "EWFlag")}
    return (
        operation.action in _ERASE_ALL | _ERASE_ONE
        or (operation.action, operation.path[-1]) in by_type
    )


def supersedes(later: Recorded, earlier: Recorded) -> bool:
    """Whether an operation takes another one back, provided that it saw it."""
    if later.action in _ERASE_ALL:
        return earlier.path[: len(later.path)] == later.path
    if later.path != earlier.path:
        return False
    if later.path[-1].partition(":")[0] in {"GCounter", "PNCounter", "BoundedCounter"}:
        return later.dot.replica == earlier.dot.replica  # a replica's total holds the one before
    return later.key == earlier.key and later.path[-1] != "ResettableCounter"


def _coalesces(operation: Recorded) -> bool:
    """Whether operations of this kind in one batch become one entry."""
    return (operation.path[-1], operation.action, len(operation.args)) == (
        "ResettableCounter",
        "increment",
        1,
    )


class Oracle:
    """Records operations and says what a replica that saw some of them has to show.

    `reading` computes the value of a type of your own from the visible operations.
    """

    def __init__(self, reading: Callable[[list[Recorded]], Any] | None = None) -> None:
        self.operations: list[Recorded] = []
        self.reading = reading

    def record(
        self, dot: Dot, observed: Iterable[Dot], path: Path, operation: Operation, stamp: int = 0
    ) -> None:
        """An operation took this dot; its writer had seen these dots (or chose to count them)."""
        for name, kind in operation.below:
            path = (*path, name, kind)
        if operation.action == "remove_child":
            path = (*path, *operation.args)
        self.operations.append(
            Recorded(dot, frozenset(observed), path, operation.action, operation.args, stamp)
        )

    def may_be_silent(self, observed: Iterable[Dot], path: Path, operation: Operation) -> bool:
        """Whether an operation that took no dot was right not to.

        An erasure is, if all that it observed and would take back is dead - by anything that ever
        happened, since a replica may know that an event is dead before it knows of what. Of what
        writes, only where the type says so: a value not beyond the observed one, an operation id
        that is alive, an amount of 0 or beyond the rights. Adding a present element is not: a
        concurrent remove would win over it.
        """
        self.record(Dot("", 0), observed, path, operation)  # a dot of nobody, which nothing saw
        silent = self.operations.pop()
        if silent.action not in _ERASE_ALL and not erases(silent):
            kind = silent.path[-1].partition(":")[0]
            return kind in _SILENT or silent.args == (0,)
        return not any(
            silent.saw(each)
            and supersedes(silent, each)
            and not erases(each)
            and _is_alive(each, self.operations)
            for each in self.operations
        )

    def forget(self, count: int) -> None:
        """The last operations were rolled back: they never happened."""
        del self.operations[len(self.operations) - count :]

    def close_batch(self, first: int, stamps: Mapping[tuple[str, int], int]) -> None:
        """The operations from index `first` on were one batch: now their stamps are known.

        Increments that a batch coalesces are one event, the last of them: who saw that saw all.
        """
        batch = self.operations[first:]
        for index, each in enumerate(batch):
            dot = each.dot
            for later in batch[index + 1 :] if _coalesces(each) else ():
                if dot in later.observed and supersedes(later, each):
                    break
                if later.path == each.path and _coalesces(later):
                    dot = later.dot
            stamp = stamps.get(each.dot, 0)
            self.operations[first + index] = replace(each, dot=dot, stamp=stamp)

    def value(self, path: Path, known: Iterable[Dot]) -> Any:
        """What the document at this path reads as, in comparable form, for this knowledge."""
        seen = frozenset(known)
        visible = [each for each in self.operations if each.dot in seen]
        if self.reading is not None:
            return self.reading(visible)
        if not self.knows(path):
            raise NoOracleError(f"{path[-1]} was registered without an oracle")
        return self._read(path, visible)

    def knows(self, path: Path) -> bool:
        """Whether there is an oracle for that type."""
        return self.reading is not None or path[-1].partition(":")[0] in KINDS

    def _read(self, path: Path, visible: list[Recorded]) -> Any:
        kind = path[-1].partition(":")[0]
        if kind == "ORMap":
            return self._read_map(path, visible)
        here = [each for each in visible if each.path == path and not erases(each)]
        if kind == "BoundedCounter":
            moved = {"increment": 1, "decrement": -1, "transfer": 0}
            return sum(each.args[0] * moved[each.action] for each in here)
        if kind in {"GCounter", "PNCounter"}:
            return _total(here, [each for each in visible if each.action in _ERASE_ALL])
        alive = [write for write in here if _is_alive(write, visible)]
        if kind == "ResettableCounter":
            over = _remembered(path, visible, self.operations)
            alive = [each for each in alive if len(each.args) == 1 or each.args[1] not in over]
        return _READ[kind](alive)

    def _read_map(self, path: Path, visible: list[Recorded]) -> dict[tuple[str, str], Any]:
        depth = len(path)
        children = {
            each.path[: depth + 2]
            for each in visible
            if len(each.path) > depth and each.path[:depth] == path
        }
        return {
            (child[depth], child[depth + 1]): self._read(child, visible)
            for child in children
            if any(
                each.path[: depth + 2] == child and not erases(each) and _is_alive(each, visible)
                for each in visible
            )
            or any(
                _remembered(path, visible, self.operations)
                for path in {each.path for each in visible if each.path[: depth + 2] == child}
                if path[-1] == "ResettableCounter"
            )
        }


def _is_alive(write: Recorded, visible: list[Recorded]) -> bool:
    """Whether no operation took it back that had seen it."""
    return not any(write.dot in other.observed and supersedes(other, write) for other in visible)


def _remembered(path: Path, visible: list[Recorded], ever: list[Recorded]) -> set[str]:
    """The operation ids that the resets of a counter took, for who sees these operations.

    A reset that took some remembers them, and what the resets before it remembered, in the place of
    these; one that took none changes nothing. A removal of all there is at the path or above, which
    had seen a reset, takes what it remembers. What a reset took is for its writer's past to say,
    of which a reader may lack a part; whatever was seen stands before it in `ever`.
    """
    about = [each for each in ever if path[: len(each.path)] == each.path]
    memories: dict[Dot, set[str]] = {}  # of each reset that took an id

    def replaced(reset: Recorded, among: list[Recorded]) -> bool:
        return any(
            other.saw(reset)
            and supersedes(other, reset)
            and (other.dot in memories or other.action != "reset" or other.path != path)
            for other in among
        )

    def settled(among: list[Recorded]) -> set[str]:
        alive = [each for each in among if each.dot in memories and not replaced(each, among)]
        return set().union(*(memories[each.dot] for each in alive))

    for reset in [each for each in about if each.action == "reset" and each.path == path]:
        before = [each for each in about if reset.saw(each)]
        taken = {
            each.args[1]
            for each in before
            if len(each.args) > 1 and each.action == "increment" and _is_alive(each, before)
        }
        if taken:
            memories[reset.dot] = taken | settled(before)
    return settled([each for each in visible if path[: len(each.path)] == each.path])


def _total(increments: list[Recorded], resets: list[Recorded]) -> int:
    """Totals per replica: each continues the one before, unless a reset came in between."""

    def reset_between(earlier: Recorded, later: Recorded | None) -> bool:
        return any(
            earlier.dot in reset.observed
            and supersedes(reset, earlier)
            and (later is None or reset.dot in later.observed)
            for reset in resets
        )

    value = 0
    for replica in {each.dot.replica for each in increments}:
        total, before = 0, None
        for each in sorted((one for one in increments if one.dot.replica == replica), key=_seq):
            if before is not None and reset_between(before, each):
                total = 0
            total += each.args[0] * (-1 if each.action == "decrement" else 1)
            before = each
        if before is not None and not reset_between(before, None):
            value += total
    return value


def _seq(operation: Recorded) -> int:
    return operation.dot.seq


def _present(alive: list[Recorded]) -> tuple[bytes, ...]:
    return tuple(sorted({each.key for each in alive}))


def _remove_wins(alive: list[Recorded]) -> tuple[bytes, ...]:
    removed = {each.key for each in alive if each.action == "remove"}
    return tuple(sorted({each.key for each in alive} - removed))


def _latest(alive: list[Recorded]) -> bytes | None:
    best = max(alive, key=lambda each: (each.stamp, each.dot.replica, each.dot.seq), default=None)
    return None if best is None else encode_value(best.args[-1])


def _latest_by_key(alive: list[Recorded]) -> tuple[tuple[bytes, bytes | None], ...]:
    keys = sorted({each.key for each in alive})
    return tuple((key, _latest([each for each in alive if each.key == key])) for key in keys)


def _sum_of_operations(alive: list[Recorded]) -> int:
    """Amounts add up; those with one operation id count once."""
    once: dict[str, int] = {each.args[1]: each.args[0] for each in alive if len(each.args) > 1}
    plain: list[int] = [each.args[0] for each in alive if len(each.args) == 1]
    return sum([*plain, *once.values()])


_READ: dict[str, Callable[[list[Recorded]], Any]] = {
    "ResettableCounter": _sum_of_operations,
    "GSet": _present,
    "ORSet": _present,
    "RWSet": _remove_wins,
    "LWWRegister": _latest,
    "MVRegister": lambda alive: tuple(sorted(encode_value(each.args[0]) for each in alive)),
    "MaxRegister": lambda alive: max((each.args[0] for each in alive), default=None),
    "MinRegister": lambda alive: min((each.args[0] for each in alive), default=None),
    "EWFlag": bool,
    "DWFlag": lambda alive: bool(alive) and all(each.action == "enable" for each in alive),
    "LWWMap": _latest_by_key,
}


def shown(view: Any) -> Any:
    """What a view reads as, in the form in which the oracle speaks."""
    kind = type(view).__name__
    if kind == "ORMap":
        return {(name, child.__name__): shown(view[name, child]) for name, child in view}
    if kind in {"GSet", "ORSet", "RWSet"}:
        return tuple(sorted(map(encode_value, view)))
    if kind == "LWWMap":
        return tuple(sorted((encode_value(key), encode_value(view[key])) for key in view))
    if kind == "MVRegister":
        return tuple(sorted(map(encode_value, view.values)))
    if kind == "LWWRegister":
        return encode_value(view.value) if view.is_set else None
    return view.value


def readable(form: Any) -> Any:
    """The comparable form of a value with its canonical bytes decoded, for messages to people."""
    if type(form) is bytes:
        return decode_value(form)
    if type(form) is tuple:
        return tuple(map(readable, form))
    if type(form) is dict:
        return {key: readable(value) for key, value in form.items()}
    return form

"""The table of types: what each one is called, its tag on the wire, and what its entries look like.

A path alternates names and types, `("cart", "ORMap", "tags", "ORSet")`; the last type says how the
entries below are to be read. This table is all that the kernel and the wire know about types; the
rules of a type live in its own module. Adding a type starts with a line here.

An entry has a step (where in the container), a stamp and a value. What is legal differs by kind:

step    "leaf" one row (registers, flags), "origin" one row per writing replica (counters),
        "element" one row per element or key (sets, maps), "event" one row per increment, and
        at `MEMORY` what its resets remember
stamp   "none" always 0, "clock" an HLC stamp
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

from crdt.errors import (
    DecodeError,
    InvalidArgumentError,
    InvalidReplicaError,
    InvalidValueError,
    InvalidValueRangeError,
    InvalidValueTypeError,
)
from crdt.kernel.codec import Step, Stored, decode_value, is_text, normal, step_of
from crdt.kernel.context import check_replica
from crdt.kernel.limits import (
    OP_ID_BYTES,
    OP_IDS_MAX,
    PATH_DEPTH_MAX,
    STAMP_MAX,
    VALUE_BYTES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Path = tuple[str, ...]  # (name, type, name, type, ...)
LEAF: Final = ""  # the step of a container that has a single row
MEMORY: Final = b""  # the step at which resets of a counter leave the op_ids that they took

_NOTHING = frozenset({type(None)})
_INT = frozenset({int})
_INT_OR_MEMORY = frozenset({int, bytes})
_BOOL = frozenset({bool})
_PACKED = frozenset({tuple})
_ANY = frozenset({type(None), bool, int, float, str, bytes, datetime, tuple})
_ORDERED = frozenset({int, float, str, bytes, datetime, tuple})
_ORDERED_PARTS = _ORDERED - {tuple}
_ORDER_HINT = "comparable: int, float, str, bytes, aware datetime, flat tuples of these"
_STEPS = frozenset({str, bytes, int})
_INCREMENTS = frozenset({str, int})  # the steps of what a counter adds up
_FREE = frozenset({"element", "event"})  # kinds whose entries have steps of their own


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table. `reads` says which change of a row is a change of the value."""

    name: str
    room: str  # the module of the package that holds its view class
    tag: int
    step: Literal["leaf", "origin", "element", "event"]
    stamp: Literal["none", "clock"]
    values: frozenset[type]
    reads: Literal["present", "latest", "values", "every_value", "all_true"]
    check: Callable[[Stored], bool] | None = None

    def admit(
        self,
        origin: str,
        steps: Sequence[Step],
        stamps: Sequence[int],
        values: Sequence[Stored],
    ) -> None:
        """`admit_entry` for columns: at once where nothing is unusual, else entry by entry."""
        if self.step == "event":
            usual = _INCREMENTS.issuperset(map(type, steps)) and _INT.issuperset(map(type, values))
        elif self.step in _FREE:
            usual = _STEPS.issuperset(map(type, steps))
        else:
            usual = steps.count(origin if self.step == "origin" else LEAF) == len(steps)
        if not (
            usual
            and min(stamps) >= 0
            and max(stamps) <= (STAMP_MAX if self.stamp == "clock" else 0)
            and self.values.issuperset(map(type, values))
            and (self.check is None or all(map(self.check, values)))
        ):
            for step, stamp, value in zip(steps, stamps, values, strict=True):
                self.admit_entry(origin, step, stamp, value)

    def admit_entry(self, origin: str, step: Step, stamp: int, value: Stored) -> None:
        """Raise DecodeError unless this can be an entry of this kind, written by origin."""
        if self.step in _FREE:
            if type(step) not in _STEPS:
                _check_step(step)
        elif type(step) is not str or step != (origin if self.step == "origin" else LEAF):
            raise DecodeError(f"{self.name}: an entry where no {self.step} step is")
        if stamp and not (self.stamp == "clock" and 0 < stamp <= STAMP_MAX):
            raise DecodeError(f"{self.name}: a stamp out of range")
        if type(value) not in self.values:
            raise DecodeError(f"{self.name}: a value of the wrong type")
        if self.step == "event" and (step == MEMORY or type(value) is bytes):
            _check_memory(step, value)
        if self.check is not None and not self.check(value):
            raise DecodeError(f"{self.name}: a value out of range")


def _check_memory(step: Step, value: Stored) -> None:
    if step != MEMORY or type(value) is not bytes:
        raise DecodeError("op_ids remembered where there are none, or an increment among them")
    if not 0 < len(value) <= OP_IDS_MAX * OP_ID_BYTES or len(value) % OP_ID_BYTES:
        raise DecodeError(f"{len(value)} bytes of op_ids remembered by one reset")


def _check_step(step: Step) -> None:
    if type(step) is tuple:
        try:
            canonical = step_of(decode_value(step[0]))
        except InvalidValueError as error:
            raise DecodeError(f"a step that is not an element: {error}") from error
        if canonical != step:
            raise DecodeError("a step in packed form that has a plainer one")
    elif type(step) not in _STEPS:
        raise DecodeError(f"a step of type {type(step).__name__}")


def normal_column(values: list[Stored]) -> list[Stored]:
    """Decoded values with NaN in its one pattern; the column itself if there are no floats."""
    return list(map(normal, values)) if float in set(map(type, values)) else values


def _natural(value: Stored) -> bool:
    return value >= 0  # type: ignore[operator]  # an int, by the column check before


def _rights(value: Stored) -> bool:
    row = decode_value(value[0]) if type(value) is tuple else None
    if type(row) is not tuple or [type(part) for part in row] != [int, int, dict]:
        return False
    produced, spent, granted = row
    try:
        peers = [check_replica(peer) for peer in granted]
    except InvalidReplicaError:
        return False
    amounts = {int}.issuperset(map(type, granted.values()))
    return min(produced, spent) >= 0 and amounts and len(peers) == len(granted)


def _comparable(value: Stored) -> bool:
    try:
        refuse_unordered(decode_value(value[0]) if type(value) is tuple else value)
    except InvalidValueError:
        return False
    return True


def refuse_unordered(value: object) -> None:
    """Raise InvalidValueError unless a value can be compared with any other that passes. O(parts).

    Numbers, text, bytes, datetimes, and flat tuples of these; among different kinds the order of
    the types decides, so that whatever meets in one register has a greatest and a least.
    """
    if type(value) not in _ORDERED:
        raise InvalidValueTypeError(f"has no order here: {type(value).__name__}", hint=_ORDER_HINT)
    for part in value if type(value) is tuple else (value,):
        if type(part) not in _ORDERED_PARTS:
            raise InvalidValueTypeError(
                f"has no order here: {type(part).__name__} in a tuple", hint=_ORDER_HINT
            )
        if part != part:  # noqa: PLR0124  # the definition of NaN
            raise InvalidValueRangeError("NaN has no order", hint=_ORDER_HINT)


KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("GCounter", "counter", 1, "origin", "none", _INT, "latest", _natural),
        Kind("PNCounter", "counter", 2, "origin", "none", _INT, "latest"),
        Kind(
            "ResettableCounter",
            "resettable_counter",
            3,
            "event",
            "none",
            _INT_OR_MEMORY,
            "every_value",
        ),
        Kind("BoundedCounter", "bounded_counter", 4, "origin", "none", _PACKED, "latest", _rights),
        Kind("GSet", "set", 5, "element", "none", _NOTHING, "present"),
        Kind("RWSet", "set", 6, "element", "none", _BOOL, "all_true"),
        Kind("ORSet", "set", 7, "element", "none", _NOTHING, "present"),
        Kind("LWWRegister", "register", 8, "leaf", "clock", _ANY, "latest"),
        Kind("MVRegister", "register", 9, "leaf", "none", _ANY, "every_value"),
        Kind("MaxRegister", "register", 10, "leaf", "none", _ORDERED, "values", _comparable),
        Kind("MinRegister", "register", 11, "leaf", "none", _ORDERED, "values", _comparable),
        Kind("EWFlag", "flag", 12, "leaf", "none", _NOTHING, "present"),
        Kind("DWFlag", "flag", 13, "leaf", "none", _BOOL, "all_true"),
        Kind("LWWMap", "map", 14, "element", "clock", _ANY, "latest"),
        Kind("ORMap", "map", 15, "element", "none", frozenset(), "present"),
    )
}


class ViewClasses(Mapping[str, type]):
    """View class by type name. Each puts itself in as its module is loaded (crdt.view).

    Who asks for one that nobody has loaded loads it: bytes may name a type of which the process
    has imported nothing but the kernel.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, type] = {}

    def put(self, kind: type) -> None:
        """A view class is there."""
        self._loaded[kind.__name__] = kind

    def __getitem__(self, name: str) -> type:
        if name not in self._loaded:
            if name not in KINDS:
                raise KeyError(name)
            import_module(f"crdt.{KINDS[name].room}")
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


TYPES: Final = ViewClasses()
NAMES: Final = {kind.tag: name for name, kind in KINDS.items()}


def kind_of(path: Path) -> Kind:
    """The kind of the container at a path."""
    name = path[-1]
    return KINDS.get(name) or KINDS[name.partition(":")[0]]


def check_document_type(kind: object) -> str:
    """The type's part of a path, if documents can be of it, or InvalidArgumentError. O(1)."""
    name = getattr(kind, "type_name", None)
    plain = name.partition(":")[0] if type(name) is str else ""
    instance = not isinstance(kind, type) and plain in TYPES and isinstance(kind, TYPES[plain])
    if plain not in KINDS or instance or not hasattr(kind, "attach"):
        raise InvalidArgumentError(
            f"a document is of a type of this package, not {kind!r:.80}",
            hint=f"one of {', '.join(KINDS)}; BoundedCounter.at_least(minimum)",
        )
    return str(name)


def below(path: Path, name: object, type_name: str) -> Path:
    """The path of a document or child of that name, refused if no replica would take it in. O(1).

    Raises:
        InvalidValueError: a name that is not text, too deep, or names that are too long together.
    """
    if type(name) is not str or not is_text(name):
        raise InvalidValueTypeError(
            f"a name is text, not {name!r:.80}", hint="a str without lone surrogates"
        )
    path = (*path, name, type_name)
    wrong = _beyond_limits(path)
    if wrong:
        raise InvalidValueRangeError(wrong)
    return path


def _beyond_limits(path: Sequence[Any]) -> str:
    """What is wrong with the names and the depth of a path; nothing, if it is empty."""
    if len(path) > 2 * PATH_DEPTH_MAX:
        return f"nested {len(path) // 2} levels deep, allowed are {PATH_DEPTH_MAX}"
    if 4 * sum(map(len, path[::2])) > VALUE_BYTES_MAX:
        size = sum(len(name.encode()) for name in path[::2])
        if size > VALUE_BYTES_MAX:
            return f"names of {size} bytes in one path, allowed are {VALUE_BYTES_MAX}"
    return ""


def pack_path(path: Path) -> list[object]:
    """A path for the wire: names as they are, types as their tags (or [tag, parameter])."""
    packed: list[object] = list(path)
    for index in range(1, len(path), 2):
        name, _, parameter = path[index].partition(":")
        tag = KINDS[name].tag
        packed[index] = [tag, int(parameter)] if parameter else tag
    return packed


def unpack_path(packed: object) -> Path:
    """The path that `pack_path` wrote; raises DecodeError for anything else."""
    if type(packed) is not list or not packed or len(packed) % 2:
        raise DecodeError("a path is a list of names and types")
    if len(packed) == 2 and type(packed[0]) is str:
        return packed[0], _type_name(packed[1], nested=False)
    path: list[str] = []
    if len(packed) > 2 * PATH_DEPTH_MAX:
        raise DecodeError(f"a path deeper than {PATH_DEPTH_MAX} levels")
    for name, tag in zip(packed[::2], packed[1::2], strict=True):
        if path and path[-1] != "ORMap":
            raise DecodeError("only an ORMap has children")
        if type(name) is not str:
            raise DecodeError("a name in a path is text")
        path += (name, _type_name(tag, nested=len(packed) > 2))
    wrong = _beyond_limits(path)
    if wrong:
        raise DecodeError(wrong)
    return tuple(path)


def _type_name(tag: object, *, nested: bool) -> str:
    if type(tag) is int and tag in NAMES and tag != 4:
        return NAMES[tag]
    if type(tag) is list and len(tag) == 2 and tag[0] == 4 and type(tag[1]) is int and not nested:
        return f"BoundedCounter:{tag[1]}"
    raise DecodeError(f"no type has the tag {tag!r:.20}")

"""Operations: what a replica may be asked to do, per type, drawn from small universes.

Generators decide whether a test finds anything. Elements come from a universe that starts tiny
(collisions make conflicts) and grows with the history, and it is seeded with values that careless
code confuses: 1, True and 1.0, text and bytes, None and the empty tuple.

A type of your own joins by `register`: its mutators with their weights and argument generators.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.errors import CRDTError
from crdt.kernel import TYPES, encode_value

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from crdt.kernel import Dot, Path

    Reading = Callable[[list["Recorded"]], Any]

_CONFUSABLE = (
    "x",
    1,
    True,
    "y",
    1.0,
    None,
    b"x",
    (),
    "z",
    0,
    False,
    ("x", 1),
    "",
    -0.0,
    0.0,
    2**64,
)
_VALUES: tuple[Any, ...] = (1, "a", None, True, 1.0, [1], {"k": [1]}, (1,), b"a", "b", 2, {})

Draw = "Callable[[random.Random, int], Any]"


class UnknownTypeError(CRDTError, LookupError):
    """A type of which the kit does not know the mutators."""

    code = "unknown_type"
    hint = "register(Type, Choice(weight, mutator, arguments), ...) first"


class Operation(NamedTuple):
    """One mutator call; in an ORMap, `below` names the child it goes to: (name, type) pairs."""

    action: str
    args: tuple[Any, ...] = ()
    below: tuple[tuple[str, str], ...] = ()

    def perform(self, view: Any, **context: Any) -> Any:
        """Call the mutator on a view (or on its child), with `seen=` if given."""
        for name, kind in self.below:
            view = view.child(name, TYPES[kind])
        args = self.args
        if self.action == "remove_child":
            return view.remove(args[0], TYPES[args[1]], **context)
        return getattr(view, self.action)(*args, **context)

    def __str__(self) -> str:
        where = "".join(f"[{name}:{kind}]" for name, kind in self.below)
        return f"{where}.{self.action}({', '.join(map(repr, self.args))})"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation as it happened: `observed` is what it may supersede."""

    dot: Dot
    observed: frozenset[Dot]
    path: Path
    action: str
    args: tuple[Any, ...]
    stamp: int

    def saw(self, other: Recorded) -> bool:
        """Whether the other operation was visible to this one's writer."""
        return other.dot in self.observed

    @property
    def key(self) -> bytes:
        """What it is about: an element or key, or the whole of a register."""
        has_key = self.path[-1] in {"GSet", "ORSet", "RWSet", "LWWMap"} and self.args
        return encode_value(self.args[0]) if has_key else b""


class Choice(NamedTuple):
    """A mutator with its weight; `takes_seen`: whether it accepts a read context."""

    weight: int
    action: str
    arguments: tuple[Callable[[random.Random, int], Any], ...] = ()
    takes_seen: bool = False


def element(dice: random.Random, size: int) -> Any:
    """An element or key of a universe of that size."""
    index = dice.randrange(min(size, len(_CONFUSABLE) + 20))
    return _CONFUSABLE[index] if index < len(_CONFUSABLE) else f"k{index}"


def value(dice: random.Random, size: int) -> Any:
    """A value to store; few of them, so that concurrent equal writes are common."""
    return _VALUES[dice.randrange(min(size + 2, len(_VALUES)))]


def number(dice: random.Random, size: int) -> int:
    """A small amount, rarely a huge one."""
    return dice.choice((1, 1, 2, 5, 10**30 if size > 8 else 3))


def _three(_dice: random.Random, _size: int) -> int:
    return 3  # one amount, so that an operation id always means the same


def _op_id(dice: random.Random, size: int) -> str:
    return f"op{dice.randrange(size)}"


def _peer(dice: random.Random, _size: int) -> str:
    return dice.choice("abc")


def _signed(dice: random.Random, size: int) -> int:
    return number(dice, size) * dice.choice((1, 1, -1))


MENUS: dict[str, tuple[Choice, ...]] = {
    "GCounter": (Choice(1, "increment", (number,)),),
    "PNCounter": (Choice(3, "increment", (_signed,)), Choice(1, "decrement", (number,))),
    "ResettableCounter": (
        Choice(6, "increment", (number,)),
        Choice(3, "increment", (_three, _op_id)),
        Choice(1, "reset", (), takes_seen=True),
    ),
    "BoundedCounter": (
        Choice(3, "increment", (number,)),
        Choice(6, "decrement", (number,)),
        Choice(3, "transfer", (number, _peer)),
    ),
    "GSet": (Choice(1, "add", (element,), takes_seen=True),),
    "ORSet": (
        Choice(10, "add", (element,), takes_seen=True),
        Choice(8, "remove", (element,), takes_seen=True),
        Choice(1, "clear", (), takes_seen=True),
    ),
    "RWSet": (
        Choice(10, "add", (element,), takes_seen=True),
        Choice(8, "remove", (element,), takes_seen=True),
        Choice(1, "reset", (), takes_seen=True),
    ),
    "LWWRegister": (
        Choice(8, "set", (value,), takes_seen=True),
        Choice(1, "clear", (), takes_seen=True),
    ),
    "MVRegister": (
        Choice(8, "set", (value,), takes_seen=True),
        Choice(1, "clear", (), takes_seen=True),
    ),
    "MaxRegister": (
        Choice(8, "set", (_signed,), takes_seen=True),
        Choice(1, "clear", (), takes_seen=True),
    ),
    "MinRegister": (
        Choice(8, "set", (_signed,), takes_seen=True),
        Choice(1, "clear", (), takes_seen=True),
    ),
    "EWFlag": (
        Choice(1, "enable", (), takes_seen=True),
        Choice(1, "disable", (), takes_seen=True),
    ),
    "DWFlag": (
        Choice(4, "enable", (), takes_seen=True),
        Choice(3, "disable", (), takes_seen=True),
        Choice(1, "reset", (), takes_seen=True),
    ),
    "LWWMap": (
        Choice(10, "put", (element, value), takes_seen=True),
        Choice(6, "delete", (element,), takes_seen=True),
        Choice(1, "clear", (), takes_seen=True),
    ),
}
READINGS: dict[str, Reading] = {}  # oracles of types of your own
_HOMES: dict[str, str] = {}  # the modules that registered them
_CHILDREN = ("ORSet", "PNCounter", "LWWRegister", "LWWMap", "EWFlag", "RWSet", "MVRegister")


def register(kind: type | str, *choices: Choice, oracle: Reading | None = None) -> None:
    """Tell the kit about a type of your own: its mutators, and what its value has to be.

    Args:
        kind: the class (or the type name of a view).
        choices: its mutators.
        oracle: visible operations -> value; without one only laws and convergence are tested,
            and a type that brings removed elements back passes both.
    """
    name = name_of(kind)
    if not choices:
        raise UnknownTypeError(f"{name} needs at least one mutator to be tested")
    MENUS[name] = choices
    _HOMES[name] = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001  # of the caller
    if oracle is not None:
        READINGS[name] = oracle


def home_of(kind: Any) -> str:
    """The module whose import registers a type; "" if nobody did."""
    return _HOMES.get(name_of(kind), "")


def is_view(kind: Any) -> bool:
    """Whether a type is a view on a kernel, as those of this library are."""
    return hasattr(kind, "attach") and bool(getattr(kind, "type_name", ""))


def name_of(kind: Any) -> str:
    """The name under which the kit knows a type."""
    if isinstance(kind, str):
        return kind
    return str(kind.type_name) if is_view(kind) else f"{kind.__module__}.{kind.__qualname__}"


def menu_of(kind: Any) -> tuple[Choice, ...]:
    """The mutators that the kit knows of a type; none of one that nobody registered."""
    return MENUS.get(name_of(kind), ())


def reading_of(kind: Any) -> Reading | None:
    """The oracle registered for a type of your own, if there is one."""
    return READINGS.get(name_of(kind))


def draw(type_name: str, dice: random.Random, size: int) -> tuple[Operation, bool]:
    """An operation for a type, and whether it may be given a read context."""
    if type_name == "ORMap":
        return _draw_in_map(dice, size)
    menu = MENUS.get(type_name.partition(":")[0])
    if menu is None:
        raise UnknownTypeError(f"the kit knows no mutators of {type_name}")
    (choice,) = dice.choices(menu, [choice.weight for choice in menu])
    args = tuple(argument(dice, size) for argument in choice.arguments)
    return Operation(choice.action, args), choice.takes_seen


def _draw_in_map(dice: random.Random, size: int) -> tuple[Operation, bool]:
    below: list[tuple[str, str]] = []
    while len(below) < 2 and dice.random() < 0.3:
        below.append((f"m{dice.randrange(2)}", "ORMap"))
    name, kind = f"c{dice.randrange(min(size, 4))}", dice.choice(_CHILDREN)
    roll = dice.random()
    if roll < 0.05:
        return Operation("clear", (), tuple(below)), True
    if roll < 0.2:
        if dice.random() < 0.4:
            name, kind = f"m{dice.randrange(2)}", "ORMap"
        return Operation("remove_child", (name, kind), tuple(below)), True
    inner, takes_seen = draw(kind, dice, min(size, 4))
    return Operation(inner.action, inner.args, (*below, (name, kind))), takes_seen

"""Writes the tables of docs/semantics.md: what every concurrent pair of operations gives.

    python -m tests.crdt.semantics        # rewrites the part of the page between its marks

Each pair is executed: two replicas share a past, each does one operation without hearing of the
other's, they merge in both directions, and what both show is the result.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from crdt import (
    BoundedCounter,
    DWFlag,
    EWFlag,
    GCounter,
    GSet,
    InsufficientRightsError,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MinRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    RWSet,
)

PAGE = Path(__file__).parent.parent.parent / "docs" / "semantics.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


class Case(NamedTuple):
    """A type, its common past, and the operations that meet. {r} is the writing replica."""

    kind: Any
    past: tuple[Callable[[Any], Any], ...]
    operations: dict[str, Callable[[Any], Any]]


def past_of_bounded(view: Any) -> None:
    """Six units: three rights stay with a, two go to b, one to a replica that is gone."""
    view.increment(6)
    view.transfer(2, to="b")
    view.transfer(1, to="lost")


CASES = (
    Case(GCounter, (lambda v: v.increment(5),), {"increment(2)": lambda v: v.increment(2)}),
    Case(
        PNCounter,
        (lambda v: v.increment(5),),
        {"increment(2)": lambda v: v.increment(2), "decrement(1)": lambda v: v.decrement(1)},
    ),
    Case(
        ResettableCounter,
        (lambda v: v.increment(5),),
        {
            "increment(2)": lambda v: v.increment(2),
            'increment(3, op_id="x")': lambda v: v.increment(3, op_id="x"),
            'increment(4, op_id="x")': lambda v: v.increment(4, op_id="x"),
            "reset()": lambda v: v.reset(),
            'increment(3, op_id="x"), reset()': lambda v: (
                v.increment(3, op_id="x"),
                v.reset(),
            ),
        },
    ),
    Case(
        BoundedCounter,
        (past_of_bounded,),
        {
            "increment(1)": lambda v: v.increment(1),
            "decrement(2)": lambda v: v.decrement(2),
            "decrement(3)": lambda v: v.decrement(3),
            'transfer(1, to="c")': lambda v: v.transfer(1, to="c"),
            'adopt("lost")': lambda v: v.adopt("lost"),
        },
    ),
    Case(
        LWWRegister,
        (lambda v: v.set("old"),),
        {"set({r})": lambda v: v.set(v.replica), "clear()": lambda v: v.clear()},
    ),
    Case(
        MVRegister,
        (lambda v: v.set("old"),),
        {"set({r})": lambda v: v.set(v.replica), "clear()": lambda v: v.clear()},
    ),
    Case(
        MaxRegister,
        (lambda v: v.set(5),),
        {
            "set(3)": lambda v: v.set(3),
            "set(7)": lambda v: v.set(7),
            "clear()": lambda v: v.clear(),
        },
    ),
    Case(
        MinRegister,
        (lambda v: v.set(5),),
        {
            "set(3)": lambda v: v.set(3),
            "set(7)": lambda v: v.set(7),
            "clear()": lambda v: v.clear(),
        },
    ),
    Case(
        EWFlag,
        (lambda v: v.enable(),),
        {"enable()": lambda v: v.enable(), "disable()": lambda v: v.disable()},
    ),
    Case(
        DWFlag,
        (lambda v: v.enable(),),
        {
            "enable()": lambda v: v.enable(),
            "disable()": lambda v: v.disable(),
            "reset()": lambda v: v.reset(),
        },
    ),
    Case(
        GSet,
        (lambda v: v.add("x"),),
        {'add("x")': lambda v: v.add("x"), 'add("y")': lambda v: v.add("y")},
    ),
    Case(
        ORSet,
        (lambda v: v.add("x"),),
        {
            'add("x")': lambda v: v.add("x"),
            'add("y")': lambda v: v.add("y"),
            'remove("x")': lambda v: v.remove("x"),
            "clear()": lambda v: v.clear(),
        },
    ),
    Case(
        RWSet,
        (lambda v: v.add("x"),),
        {
            'add("x")': lambda v: v.add("x"),
            'add("y")': lambda v: v.add("y"),
            'remove("x")': lambda v: v.remove("x"),
            "reset()": lambda v: v.reset(),
        },
    ),
    Case(
        LWWMap,
        (lambda v: v.put("k", "old"),),
        {
            'put("k", {r})': lambda v: v.put("k", v.replica),
            'put("l", {r})': lambda v: v.put("l", v.replica),
            'delete("k")': lambda v: v.delete("k"),
            "clear()": lambda v: v.clear(),
        },
    ),
    Case(
        ORMap,
        (
            lambda v: v["s", ORSet].add(1),
            lambda v: v["n", PNCounter].increment(5),
            lambda v: v["m", ORMap]["t", ORSet].add(1),
        ),
        {
            '["s", ORSet].add(2)': lambda v: v["s", ORSet].add(2),
            '["s", ORSet].remove(1)': lambda v: v["s", ORSet].remove(1),
            '["s", LWWRegister].set(9)': lambda v: v["s", LWWRegister].set(9),
            'remove("s")': lambda v: v.remove("s"),
            '["n", PNCounter].increment(2)': lambda v: v["n", PNCounter].increment(2),
            'remove("n")': lambda v: v.remove("n"),
            '["m", ORMap]["t", ORSet].add(2)': lambda v: v["m", ORMap]["t", ORSet].add(2),
            'remove("m")': lambda v: v.remove("m"),
            "clear()": lambda v: v.clear(),
        },
    ),
)


def value_of(view: Any) -> Any:
    """What a view shows; of an ORMap with the types of its children."""
    return view.typed_value if isinstance(view, ORMap) else view.value


def shown(value: Any) -> str:
    """A value as a reader of the page would write it."""
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(repr, value))) + "}" if value else "∅"
    if isinstance(value, dict) and value and all(":" in key for key in value):
        return ", ".join(f"{key} → {shown(child)}" for key, child in sorted(value.items()))
    if value in ({}, ()):
        return "∅"
    return str(value) if isinstance(value, bool | int) or value is None else repr(value)


def outcome(case: Case, here: str, there: str) -> str:
    """What both replicas show after a did `here` and b did `there` concurrently."""
    a, b = case.kind("a"), case.kind("b")
    for step in case.past:
        step(a)
    b.merge(a)
    refused = ""
    for view, operation in ((a, here), (b, there)):
        try:
            case.operations[operation](view)
        except InsufficientRightsError:
            refused = f" (refused to {view.replica})"
    before = a.fork("c")
    a.merge(b)
    b.merge(before)
    if a.canonical_bytes() != b.canonical_bytes() or a.value != b.value:
        raise AssertionError(f"{case.kind.__name__}: {here} ∥ {there} depends on the order")
    return shown(value_of(a)) + refused


def table(case: Case) -> str:
    """The table of one type: both orders of a pair where they differ."""
    start = case.kind("a")
    for step in case.past:
        step(start)
    lines = [
        f"### {case.kind.__name__}",
        "",
        f"Before: `{shown(value_of(start))}`.",
        "",
        "| a does | b does | result |",
        "|---|---|---|",
    ]
    names = list(case.operations)
    for index, here in enumerate(names):
        for there in names[index:]:
            results = {(here, there): outcome(case, here, there)}
            if outcome(case, there, here) != results[here, there]:
                results[there, here] = outcome(case, there, here)
            for (one, other), result in results.items():
                cells = (one.replace("{r}", '"a"'), other.replace("{r}", '"b"'))
                lines.append(f"| `{cells[0]}` | `{cells[1]}` | `{result}` |")
    return "\n".join(lines)


def tables() -> str:
    """All tables, as they stand between the marks of the page."""
    return "\n\n".join(map(table, CASES))


def main() -> None:
    """Rewrite the page."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Why does this document read as it does? Every write that is known of it, and its fate.

The state holds more than the value: concurrent writes that lost are alive until somebody who saw
them writes again, and the kills of recent events name what those events replaced. So the question
"who wrote this, when, and what lost?" is answered from what is there anyway. Of what was replaced
the state keeps no values: they come from the history of what this kernel saw replaced, if it keeps
one (`Kernel.keep_replaced`; agents do). Where that ends, the kept records (`Kernel.drop_records`)
still tell who wrote and who replaced it. How far the history goes back, `recollection` says.

    shown      the value, or a part of it
    lost       alive, concurrent with what is shown, and outranked by it
    replaced   dead: its killer had seen it
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.kernel import (
    OP_ID_BYTES,
    Dot,
    element_of,
    entries_of,
    kind_of,
    milliseconds,
    thaw,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crdt.kernel import Container, Entry, Kernel, LiveTable, Path, Replaced, Row, Step

REPLACED_MAX = 1000
"""Dead writes that one answer names; the rest of them is left out."""


class Explained(NamedTuple):
    """One write. `written_ms` is its stamp's wall clock, None for types without stamps."""

    type: str
    place: str
    """Where inside of the document: names of nested maps, then the key or element; "" for all."""
    value: Any
    """What was written; None for elements of sets, and where `missing` says why it is not known."""
    dot: Dot
    written_ms: int | None
    fate: str
    by: Dot | None
    """The write that outranked or replaced it; None also where that is not known."""
    missing: str = ""
    """Of what was replaced: "forgotten" if its value was here once, "never seen" if it was not."""


class Recollection(NamedTuple):
    """What a kernel knows of what was replaced in the documents of a name."""

    values_kept: int
    ran_out: bool
    """Older values of these documents were here, and are forgotten."""
    overflowed: bool
    """So it may be: documents were forgotten as a whole."""
    begins_late: bool
    """There was a state before this history began, or one came whole: how it came about is not
    known here."""


def recollection(kernel: Kernel, name: str) -> Recollection | None:
    """How far `explain` knows replaced values; None if this kernel keeps none. O(values kept)."""
    kernel.admit()
    replaced = kernel.writer.state.replaced
    if replaced is None:
        return None
    return Recollection(
        sum(type(row[2]) is tuple for row in replaced.rows(name)),
        replaced.ran_out(name),
        replaced.overflowed,
        replaced.begins_late,
    )


def explain(kernel: Kernel, name: str) -> list[Explained]:
    """The writes of all documents of that name, live ones first. O(entries + kept records)."""
    kernel.admit()
    state = kernel.writer.state
    live = state.live
    roots = {path: found for path, found in live.containers.items() if path[0] == name}
    lines = [
        line
        for container in roots.values()
        for step, row in container.rows.items()
        for line in _live(live, container, _place(container.path, step), row)
    ]
    lines.sort(key=lambda line: (line.type, line.place, line.fate != "shown", line.dot))
    seen = _seen(live, state.replaced, name)
    known = {line.dot for line in seen}
    older = (line for line in _recorded(live, name) if line.dot not in known)
    return lines + list(islice(chain(seen, older), REPLACED_MAX))


def _live(live: LiveTable, container: Container, place: str, row: Row) -> Iterator[Explained]:
    entries = list(entries_of(row))
    winner = _winner(live, container, row, entries)
    for entry in entries:
        lost = winner is not None and not _agrees(container, entry, winner)
        yield Explained(
            container.path[-1],
            place,
            _written(container.path, entry),
            live.dot(entry[0]),
            milliseconds(entry[1]) if entry[1] else None,
            "lost" if lost else "shown",
            live.dot(winner[0]) if lost and winner is not None else None,
        )


def _written(path: Path, entry: Entry) -> Any:
    """The value of an entry; of what the reset of a counter remembers, how much it is."""
    if kind_of(path).step == "event" and type(entry[2]) is bytes:
        return f"remembers {len(entry[2]) // OP_ID_BYTES} op_ids"
    return thaw(entry[2])


def _winner(live: LiveTable, container: Container, row: Row, entries: list[Entry]) -> Entry | None:
    """The entry of a row that outranks all others; None if all of them count."""
    if len(entries) < 2:
        return None
    if kind_of(container.path).reads == "latest":
        return live.latest(row)
    if kind_of(container.path).reads == "all_true":
        against = [entry for entry in entries if not entry[2]]
        return min(against, key=live.order) if against else None
    if container.path[-1] in {"MaxRegister", "MinRegister"}:
        choose = max if container.path[-1] == "MaxRegister" else min
        return choose(entries, key=lambda entry: thaw(entry[2]))
    return None


def _agrees(container: Container, entry: Entry, winner: Entry) -> bool:
    """Whether an entry says what the winner says: of several removals none is lost."""
    if entry is winner:
        return True
    return kind_of(container.path).reads == "all_true" and entry[2] == winner[2]


def _seen(live: LiveTable, replaced: Replaced | None, name: str) -> list[Explained]:
    """What the history holds, the last death first."""
    lines: dict[Dot, Explained] = {}
    for path, step, entry, by, _ in reversed(() if replaced is None else replaced.rows(name)):
        value, written_ms, missing = None, None, ""
        if isinstance(entry, int):
            dot, missing = live.dot(entry), _missing(path, "never seen")
        else:
            dot, value = live.dot(entry[0]), _written(path, entry)
            written_ms = milliseconds(entry[1]) if entry[1] else None
        killer = live.dot(by) if by else None
        told = (path[-1], _place(path, step), value, dot, written_ms, "replaced", killer, missing)
        lines.setdefault(dot, Explained(*told))
    return list(lines.values())


def _missing(path: Path, why: str) -> str:
    """Why a value is not there; an element is written without one."""
    return "" if kind_of(path).reads == "present" else why


def _recorded(live: LiveTable, name: str) -> Iterator[Explained]:
    """What only the records tell: it was alive here, so its value is forgotten."""
    for killer, log in zip(live.names, live.logs, strict=True):
        for seq, ranges in log.kills.newest():
            for origin, first, last in ranges:
                if origin not in live.bases:
                    continue
                for dead in range(last, max(first, last - REPLACED_MAX) - 1, -1):
                    found = live.log(origin).find(dead)
                    if found is None or found[0].path[0] != name:
                        continue
                    container, step = found
                    if live.entry(container, step, live.bases[origin] + dead) is None:
                        yield Explained(
                            container.path[-1],
                            _place(container.path, step),
                            None,
                            Dot(origin, dead),
                            None,
                            "replaced",
                            Dot(killer, seq),
                            _missing(container.path, "forgotten"),
                        )


def _place(path: Path, step: Step) -> str:
    inside = list(path[2::2])
    if kind_of(path).step == "element":
        inside.append(str(element_of(step)))
    return "/".join(inside)

"""Why does this document read as it does? Every write that is known of it, and its fate.

The state holds more than the value: concurrent writes that lost are alive until somebody who saw
them writes again, and the kills of recent events name what those events replaced. So the question
"who wrote this, when, and what lost?" is answered from what is there anyway; nothing is recorded
for it. What is older than the kept records (`Kernel.drop_records`) is forgotten, and of what was
replaced the value is gone: only who wrote it and who replaced it are known.

    shown      the value, or a part of it
    lost       alive, concurrent with what is shown, and outranked by it
    replaced   dead: its killer had seen it
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.kernel import OP_ID_BYTES, Dot, element_of, entries_of, kind_of, milliseconds, thaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crdt.kernel import Container, Entry, Kernel, LiveTable, Row

REPLACED_MAX = 1000
"""Dead writes that one answer names; the rest of them is left out."""


class Explained(NamedTuple):
    """One write. `written_ms` is its stamp's wall clock, None for types without stamps."""

    type: str
    place: str
    """Where inside of the document: names of nested maps, then the key or element; "" for all."""
    value: Any
    """What was written; None for elements of sets, and for what was replaced."""
    dot: Dot
    written_ms: int | None
    fate: str
    by: Dot | None
    """The write that outranked or replaced it."""


def explain(kernel: Kernel, name: str) -> list[Explained]:
    """The writes of all documents of that name, live ones first. O(entries + kept records)."""
    kernel.admit()
    live = kernel.writer.state.live
    roots = {path: found for path, found in live.containers.items() if path[0] == name}
    lines = [
        line
        for container in roots.values()
        for step, row in container.rows.items()
        for line in _live(live, container, _place(container, step), row)
    ]
    lines.sort(key=lambda line: (line.type, line.place, line.fate != "shown", line.dot))
    return lines + list(islice(_replaced(live, name), REPLACED_MAX))


def _live(live: LiveTable, container: Container, place: str, row: Row) -> Iterator[Explained]:
    entries = list(entries_of(row))
    winner = _winner(live, container, row, entries)
    for entry in entries:
        lost = winner is not None and not _agrees(container, entry, winner)
        yield Explained(
            container.path[-1],
            place,
            _written(container, entry),
            live.dot(entry[0]),
            milliseconds(entry[1]) if entry[1] else None,
            "lost" if lost else "shown",
            live.dot(winner[0]) if lost and winner is not None else None,
        )


def _written(container: Container, entry: Entry) -> Any:
    """The value of an entry; of what the reset of a counter remembers, how much it is."""
    if kind_of(container.path).step == "event" and type(entry[2]) is bytes:
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


def _replaced(live: LiveTable, name: str) -> Iterator[Explained]:
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
                            _place(container, step),
                            None,
                            Dot(origin, dead),
                            None,
                            "replaced",
                            Dot(killer, seq),
                        )


def _place(container: Container, step: Any) -> str:
    inside = list(container.path[2::2])
    if kind_of(container.path).step == "element":
        inside.append(str(element_of(step)))
    return "/".join(inside)

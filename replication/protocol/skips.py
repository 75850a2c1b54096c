"""Events that operators gave up: the skip of a quarantine, recorded and gossiped like any write.

Theory of operation. A quarantine ends when the event applies after all, or when an operator gives
it up. The latter is a decision for the whole cluster, so it is an event itself, of the agent where
it was made: it adds (origin, first, last) to a grow-only set, and it kills the entries of the event
given up, and whatever that event had killed. So it is journalled, gossiped, merged and handed to
newcomers by the machinery that carries everything else, and states are equal once it is everywhere:

    who had applied the event        loses its entries
    who stands before it             leaves it out (`without`) and goes on with what follows
    who meets it later, in any cut   leaves it out as well

The event is named by the numbers of what it says, never by the range that happened to carry it.
What it had replaced is not restored: an agent that applied it knows nothing of that any more.

A skip takes back what somebody else wrote. So where there are rules it is for agents that no rule
keeps from writing anything (`Rules.may_write`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crdt import Delta, GSet, Run
from replication.protocol.policy import SKIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from crdt import Kernel

GivenUp = dict[str, list[tuple[int, int]]]
"""Origin -> what was given up of it, as ranges of numbers."""


class Held(NamedTuple):
    """The batch before which an origin stands, and why it would not apply."""

    batch: Delta
    why: str

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last number of what it says."""
        (run,) = self.batch.runs
        return (run.rows[0][0], run.rows[-1][0]) if run.rows else (run.first, run.last)


def record(kernel: Kernel, origin: str, held: Held) -> None:
    """Write the decision down, as a view would; the kernel's listeners take part. O(batch).

    Raises:
        BatchOpenError: a local batch is open; nothing changed.
        DoomedFullError: the event removed too much that is unknown here; nothing changed.
    """
    if kernel.before_write is not None:
        kernel.before_write()
    (run,) = held.batch.runs
    mine = kernel.vector
    seq = mine.get(kernel.replica, 0) + 1
    kills = {(origin, *held.span)}
    for row in run.rows:
        kills.update(kill for kill in row[5] if kill[0] != kernel.replica or kill[2] < seq)
    (added,) = GSet(kernel.replica).add((origin, *held.span)).runs[0].rows
    event = (seq, (SKIPPED, GSet.type_name), *added[2:5], tuple(sorted(kills)))
    delta = Delta((Run(kernel.replica, seq, seq, (event,)),))
    delta = Delta.decode(delta.encode())  # whatever peers would refuse is refused here
    change = kernel.replay(delta)
    if kernel.on_delta is not None:
        kernel.on_delta(delta, change)


def given_up(elements: Iterable[object]) -> GivenUp:
    """What the elements of the set name; those that make no sense name nothing. O(elements)."""
    found: GivenUp = {}
    for element in elements:
        match element:
            case (str(origin), int(first), int(last)) if 0 < first <= last:
                found.setdefault(origin, []).append((first, last))
    return found


def without(delta: Delta, gone: GivenUp, mine: Mapping[str, int]) -> Delta:
    """The delta with nothing said at the numbers given up above a vector; itself if none are in it.

    O(runs), and O(events) of the runs that hold some.
    """
    if not any(_met(run, gone, mine) for run in delta.runs):
        return delta
    return Delta(tuple(_thinned(run, _met(run, gone, mine)) for run in delta.runs))


def _met(run: Run, gone: GivenUp, mine: Mapping[str, int]) -> list[tuple[int, int]]:
    least = max(run.first, mine.get(run.origin, 0) + 1)
    return [
        (low, high) for low, high in gone.get(run.origin, ()) if low <= run.last and high >= least
    ]


def _thinned(run: Run, met: Sequence[tuple[int, int]]) -> Run:
    if not met:
        return run
    rows = tuple(row for row in run.rows if not any(low <= row[0] <= high for low, high in met))
    return Run(run.origin, run.first, run.last, rows, run.batches)

"""The log of an origin: its history as far as it can still be told.

The question it answers: "which events of this origin come after seq n?" - in time proportional to
the answer. Three parallel columns (seq, container, step), ascending by seq, name the place of every
entry. A slot is never removed when its entry dies: it is *stale*, readers look the entry up and see
that it is gone, and when half of the slots are stale the columns are rewritten. Events that arrive
out of order wait in `late` and are sorted in at the next rewrite, so that a shuffled history costs
n log n and not n squared.

Kills are different: they are kept because a peer may still need them (`kills`), they are a cache,
and dropping the oldest raises `floor`: below it nobody can be told what was removed.

Invariants: seqs ascend strictly; every live dot of the origin has exactly one slot; every key of
`kills` is above `floor`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crdt.kernel.codec import Step
    from crdt.kernel.context import Range
    from crdt.kernel.live import Container

_SLACK = 64  # stale or late slots that never trigger a rewrite

Slot = tuple[int, "Container", "Step"]


class OriginLog:
    """Where the entries of one origin are. `base` is the origin's part of its dots."""

    __slots__ = (
        "base",
        "batches",
        "containers",
        "floor",
        "kills",
        "kills_sorted",
        "late",
        "ranges_kept",
        "seqs",
        "stale",
        "steps",
    )

    def __init__(self, base: int) -> None:
        self.base = base
        self.seqs: array[int] = array("Q")
        self.containers: list[Container] = []
        self.steps: list[Step] = []
        self.late: dict[int, tuple[Container, Step]] = {}
        self.stale = 0
        self.kills: dict[int, tuple[Range, ...]] = {}
        self.kills_sorted = True
        self.ranges_kept = 0  # in all kills together; what `records_bytes` is computed from
        self.floor = 0
        self.batches: list[tuple[int, int]] = []

    # ------------------------------------------------------------------------------ entries

    def place(self, seq: int, container: Container, step: Step) -> None:
        """Remember where the entry of an event lives. O(1) amortised."""
        seqs = self.seqs
        if not seqs or seq > seqs[-1]:
            seqs.append(seq)
            self.containers.append(container)
            self.steps.append(step)
            return
        self.late[seq] = (container, step)
        if len(self.late) > _SLACK + len(seqs):
            self.rewrite()

    def extend(self, seqs: Iterable[int], containers: list[Container], steps: list[Step]) -> None:
        """`place` for columns that ascend and lie above everything known."""
        self.seqs.extend(seqs)
        self.containers += containers
        self.steps += steps

    def find(self, seq: int) -> tuple[Container, Step] | None:
        """The place of an event's entry, dead or alive, or None. O(log n)."""
        index = bisect_left(self.seqs, seq)
        if index < len(self.seqs) and self.seqs[index] == seq:
            return self.containers[index], self.steps[index]
        return self.late.get(seq)

    def slots(self, first: int, last: int) -> Iterator[Slot]:
        """The slots of first..last, ascending, stale ones included. O(answer) amortised."""
        if len(self.late) > _SLACK:
            self.rewrite()
        return self._slots(first, last)

    def _slots(self, first: int, last: int) -> Iterator[Slot]:
        low, high = bisect_left(self.seqs, first), bisect_right(self.seqs, last)
        inside = zip(
            self.seqs[low:high], self.containers[low:high], self.steps[low:high], strict=True
        )
        if not self.late:
            return inside
        late = [(seq, *place) for seq, place in self.late.items() if first <= seq <= last]
        return iter(sorted([*inside, *late], key=_seq_of)) if late else inside

    def entry_died(self) -> None:
        """Count a stale slot, and rewrite when half of them are. O(1) amortised."""
        self.stale += 1
        self.tidy()

    def tidy(self) -> None:
        """Rewrite if half of the slots are stale. Entries that die together are counted first."""
        if self.stale > _SLACK + (len(self.seqs) + len(self.late)) // 2:
            self.rewrite()

    def rewrite(self) -> None:
        """Sort the late slots in and leave the stale ones out. O(n log n)."""
        alive = [
            slot
            for slot in self._slots(0, 1 << 63)
            if holds(slot[1].rows.get(slot[2]), self.base + slot[0])
        ]
        self.seqs = array("Q", [slot[0] for slot in alive])
        self.containers = [slot[1] for slot in alive]
        self.steps = [slot[2] for slot in alive]
        self.late = {}
        self.stale = 0

    def forget_after(self, seq: int) -> None:
        """Undo every event above seq: their slots and their kills."""
        index = bisect_right(self.seqs, seq)
        del self.seqs[index:], self.containers[index:], self.steps[index:]
        for later in [known for known in self.kills if known > seq]:
            self.ranges_kept -= len(self.kills.pop(later))

    def live_count(self) -> int:
        """How many dots of this origin are live. O(1)."""
        return len(self.seqs) + len(self.late) - self.stale

    # -------------------------------------------------------------------------------- kills

    def record(self, seq: int, kills: tuple[Range, ...]) -> None:
        """Remember what an event killed, unless that part of history is given up already."""
        if seq <= self.floor or seq in self.kills:
            return
        if self.kills_sorted and self.kills and seq < next(reversed(self.kills)):
            self.kills_sorted = False
        self.kills[seq] = kills
        self.ranges_kept += len(kills)

    def kills_between(self, after: int, last: int) -> dict[int, tuple[Range, ...]]:
        """Kills by seq of the events in (after, last], ascending.

        O(answer) at the end of history, which is where peers ask; else one copy of the seqs more.
        """
        if not self.kills_sorted:
            self.kills = dict(sorted(self.kills.items()))
            self.kills_sorted = True
        if not self.kills or last >= next(reversed(self.kills)):
            newest = takewhile(lambda seq: seq > after, reversed(self.kills))
            return {seq: self.kills[seq] for seq in reversed(list(newest))}
        seqs = list(self.kills)
        inside = seqs[bisect_right(seqs, after) : bisect_right(seqs, last)]
        return {seq: self.kills[seq] for seq in inside}

    def drop_records(self, upto: int) -> None:
        """Give up the kills of events up to a seq; raises the floor if there were any."""
        doomed = [seq for seq in self.kills if seq <= upto]
        for seq in doomed:
            self.ranges_kept -= len(self.kills.pop(seq))
        if doomed:
            self.floor = max(self.floor, *doomed)
        self.batches = [batch for batch in self.batches if batch[1] > self.floor]

    # ------------------------------------------------------------------------------ batches

    def mark_batch(self, first: int, last: int) -> None:
        """Remember that these events belong together."""
        batches = self.batches
        if not batches or batches[-1][1] < first:
            batches.append((first, last))
        elif (first, last) not in self.batches_between(first, last):
            insort(batches, (first, last))

    def batches_between(self, first: int, last: int) -> tuple[tuple[int, int], ...]:
        """The batches that lie in first..last."""
        low = bisect_left(self.batches, (first, 0))
        high = bisect_right(self.batches, (last, last))
        return tuple(batch for batch in self.batches[low:high] if batch[1] <= last)

    def batch_around(self, seq: int) -> tuple[int, int] | None:
        """The batch that holds this event and one after it."""
        index = bisect_right(self.batches, (seq, 1 << 63)) - 1
        if index >= 0 and self.batches[index][1] > seq:
            return self.batches[index]
        return None


def _seq_of(slot: Slot) -> int:
    return slot[0]


def holds(present: object, dot: int) -> bool:
    """Whether a row (one entry, or a dict of concurrent ones) holds this dot."""
    if type(present) is tuple:
        return bool(present[0] == dot)
    return present is not None and dot in present  # type: ignore[operator]  # then it is a dict

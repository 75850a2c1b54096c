"""Many deaths at once: whatever is alive in a range of one origin dies.

A kill of a few bytes may name all that somebody ever wrote. So what follows from each death is done
for all of them together where that comes to the same: blocks are marked, encodings forgotten and
slots dropped by range, and a container that loses all its rows is noted and emptied as a whole.
What is left to do for each one is as little as there is:

    rows of a container that all die        copied once, cleared once
    one row, perhaps of many                found by its slot, noted, removed
    slots                                   cut out, if they are a large part of the log; else stale

Nothing depends on which way was taken: the rows, the notes and the counts are the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING

from crdt.kernel.doomed import BLOCK_BITS
from crdt.kernel.limits import SEQ_BITS
from crdt.kernel.live import holds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crdt.kernel.change import Touched
    from crdt.kernel.live import Container, LiveTable, OriginLog, Slot

WHOLE_ROWS = 16
"""A container of fewer is gone through row by row: to look at it as a whole costs as much."""
CUT_SHARE = 8
"""Slots are cut out where they are at least this part of a log: else a thousand narrow ranges would
move all that lies behind them a thousand times."""
_DOT_OF = itemgetter(0)


def kill_range(live: LiveTable, base: int, first: int, last: int, touched: Touched) -> None:
    """Kill what is alive of an origin in first..last. O(slots there), most of them at C speed."""
    log = live.logs[base >> SEQ_BITS]
    if not log.seqs and not log.late:
        return
    log.sort_in()
    low, high = bisect_left(log.seqs, first), bisect_right(log.seqs, last)
    if high - low < WHOLE_ROWS:
        for seq, container, step in list(log.slots(first, last)):
            if holds(container.rows.get(step), base + seq):
                touched.mark(container, step)
                live.kill(container, step, base + seq)
        return
    late = sorted(seq for seq in log.late if first <= seq <= last)
    places = [(seq, *log.late.pop(seq)) for seq in late]
    log.stale -= len(places) - _kill_each(live, base, places, touched)
    died = _kill_slots(live, log, low, high, touched)
    begin, end = log.seqs[low], log.seqs[high - 1]
    live.dirty.update(_blocks(base, late) | _blocks(base, log.seqs[low:high]))
    live.encodings.forget(base + min([begin, *late]), base + max([end, *late]))
    if CUT_SHARE * (high - low) >= len(log.seqs):
        log.stale -= high - low - died
        del log.seqs[low:high], log.containers[low:high], log.steps[low:high]
    else:
        log.stale += died
    log.tidy()


def _blocks(base: int, seqs: Sequence[int]) -> set[int]:
    """The blocks of some ascending seqs; perhaps some between them, where they lie close."""
    if not seqs:
        return set()
    start, low, high = base >> BLOCK_BITS, seqs[0] >> BLOCK_BITS, seqs[-1] >> BLOCK_BITS
    if high - low < len(seqs):
        return set(range(start + low, start + high + 1))
    return {start + (seq >> BLOCK_BITS) for seq in seqs}


def _kill_slots(live: LiveTable, log: OriginLog, low: int, high: int, touched: Touched) -> int:
    """Kill the entries of some slots; how many of them were alive."""
    least, most = log.base + log.seqs[low], log.base + log.seqs[high - 1]
    containers, whole, died = log.containers[low:high], set(), 0
    for container, slots in Counter(containers).items():
        rows = container.rows
        if WHOLE_ROWS <= len(rows) <= slots and {tuple}.issuperset(map(type, rows.values())):
            dots = list(map(_DOT_OF, rows.values()))
            if min(dots) >= least and max(dots) <= most:
                whole.add(container)
                died += len(dots)
                _kill_whole(live, container, touched)
    if whole and len(whole) == len(set(containers)):
        return died
    places = zip(log.seqs[low:high], containers, log.steps[low:high], strict=True)
    return died + _kill_each(live, log.base, places, touched)


def _kill_whole(live: LiveTable, container: Container, touched: Touched) -> None:
    touched.mark_gone(container)
    container.rows.clear()
    container.total = None
    live.retire(container)


def _kill_each(live: LiveTable, base: int, places: Iterable[Slot], touched: Touched) -> int:
    """Take these entries out of their rows, where they are alive; how many were."""
    died, note, retire = 0, touched.marks.append, live.retire
    for seq, container, step in places:
        rows, dot = container.rows, base + seq
        row = rows.get(step)
        if type(row) is tuple and row[0] == dot:  # as `take_out` does; most rows are one entry
            note((container, step, row))
            if container.total is not None:
                container.count(step, row[2], -1)
            del rows[step]
            if not rows:
                retire(container)
        elif holds(row, dot):
            note((container, step, row))
            live.take_out(container, step, dot)
        else:
            continue
        died += 1
    return died

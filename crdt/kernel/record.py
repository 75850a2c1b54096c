"""Removal records: what the events of one origin killed, for peers that have not heard of it yet.

Removing leaves nothing in the state; a peer that lags must be told all the same which dots died, so
each event that killed something is remembered until everybody has it. What a replica removes, it
mostly removes in a pattern: the last value of a register again and again, the elements of a set one
after the other, forwards or backwards. Such events share one record, a *stretch*:

    events  first, first + gap, first + 2 gap, ...       `events` of them
    killed  low, low + step, low + 2 step, ...           each `width` + 1 dots of one origin

Five thousand removals in a row are one stretch of seven numbers. Nothing is lost by it: which event
killed which dot is told exactly, because a history may be cut between any two of them. Events that
killed several ranges, or came out of order, are remembered one by one (`odd`).

Stretches ascend and do not overlap. `slots` counts what takes memory: stretches, and ranges of odd
ones.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from heapq import merge
from typing import TYPE_CHECKING, NamedTuple

from crdt.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crdt.kernel.context import Range


class Stretch(NamedTuple):
    """Events of one pattern: see the module."""

    first: int
    events: int
    gap: int
    origin: str
    low: int
    step: int
    width: int

    @property
    def last(self) -> int:
        """The seq of its last event."""
        return self.first + self.gap * (self.events - 1)

    def kills(self, index: int) -> tuple[Range, ...]:
        """What the event of that index killed."""
        low = self.low + self.step * index
        return ((self.origin, low, low + self.width),)


class Records:
    """What the events of one origin killed, by their seqs."""

    __slots__ = ("_firsts", "_numbers", "_odd", "_odd_ranges", "_origins")

    def __init__(self) -> None:
        self._firsts: array[int] = array("Q")
        self._numbers: array[int] = array("q")  # count, gap, low, step, width of each
        self._origins: list[str] = []
        self._odd: dict[int, tuple[Range, ...]] = {}
        self._odd_ranges = 0

    @property
    def slots(self) -> int:
        """Stretches, and ranges of odd events: what takes memory. O(1)."""
        return len(self._firsts) + self._odd_ranges

    @property
    def ranges(self) -> int:
        """The ranges of all events together. O(stretches)."""
        return sum(self._numbers[::5]) + self._odd_ranges

    @property
    def last(self) -> int:
        """The seq of the last event of a stretch. O(1)."""
        return self._stretch(len(self._firsts) - 1).last if self._firsts else 0

    def stretches(self) -> list[Stretch]:
        """All of them, ascending. O(stretches)."""
        return [self._stretch(index) for index in range(len(self._firsts))]

    def odd(self) -> list[tuple[int, tuple[Range, ...]]]:
        """The events that are in no stretch, ascending. O(n log n)."""
        return sorted(self._odd.items())

    def _stretch(self, index: int) -> Stretch:
        count, gap, low, step, width = self._numbers[5 * index : 5 * index + 5]
        return Stretch(self._firsts[index], count, gap, self._origins[index], low, step, width)

    def add(self, seq: int, kills: tuple[Range, ...]) -> None:
        """Remember what an event killed; nothing if it is remembered already. O(1) at the end."""
        firsts = self._firsts
        if len(kills) == 1:
            origin, low, high = kills[0]
            if not firsts and seq not in self._odd:
                self.append(Stretch(seq, 1, 1, origin, low, 0, high - low))
                return
            if firsts:
                numbers, first = self._numbers, firsts[-1]
                count, gap, its_low, step, width = numbers[-5:]
                if seq > first + gap * (count - 1) and seq not in self._odd:
                    if origin != self._origins[-1] or width != high - low:
                        self.append(Stretch(seq, 1, 1, origin, low, 0, high - low))
                    elif count == 1:
                        numbers[-5], numbers[-4], numbers[-2] = 2, seq - first, low - its_low
                    elif seq == first + gap * count and low == its_low + step * count:
                        numbers[-5] = count + 1
                    else:
                        self.append(Stretch(seq, 1, 1, origin, low, 0, high - low))
                    return
        if seq not in self:
            self._odd[seq] = kills
            self._odd_ranges += len(kills)

    def append(self, stretch: Stretch) -> None:
        """A stretch after all there are. O(1)."""
        first, count, gap, origin, low, step, width = stretch
        known = self._origins
        self._firsts.append(first)
        self._numbers.extend((count, gap, low, step, width))
        known.append(known[-1] if known and known[-1] == origin else origin)  # one object each

    def __contains__(self, seq: int) -> bool:
        if seq in self._odd:
            return True
        index = bisect_right(self._firsts, seq) - 1
        if index < 0:
            return False
        stretch = self._stretch(index)
        return seq <= stretch.last and (seq - stretch.first) % stretch.gap == 0

    def __bool__(self) -> bool:
        return bool(self._firsts or self._odd)

    def between(self, after: int, last: int) -> Iterator[tuple[int, tuple[Range, ...]]]:
        """(seq, kills) of the events in (after, last], ascending. O(answer + log n + odd)."""
        regular = self._between(after, last)
        if not self._odd:
            return regular
        return merge(regular, sorted(item for item in self._odd.items() if after < item[0] <= last))

    def _between(self, after: int, last: int) -> Iterator[tuple[int, tuple[Range, ...]]]:
        start = max(0, bisect_right(self._firsts, after) - 1)
        for index in range(start, bisect_right(self._firsts, last)):
            stretch = self._stretch(index)
            begin = max(0, (after - stretch.first) // stretch.gap + 1)
            end = min(stretch.events, (last - stretch.first) // stretch.gap + 1)
            for each in range(begin, end):
                yield stretch.first + stretch.gap * each, stretch.kills(each)

    def newest(self) -> Iterator[tuple[int, tuple[Range, ...]]]:
        """All events, the last first. O(1) each, after O(odd log odd)."""
        return merge(self._newest(), sorted(self._odd.items(), reverse=True), reverse=True)

    def _newest(self) -> Iterator[tuple[int, tuple[Range, ...]]]:
        for index in range(len(self._firsts) - 1, -1, -1):
            stretch = self._stretch(index)
            for each in range(stretch.events - 1, -1, -1):
                yield stretch.first + stretch.gap * each, stretch.kills(each)

    def oldest_half(self) -> int:
        """The seq up to which half of the slots lie; 0 if there are none. O(n log n)."""
        ends = sorted([*(stretch.last for stretch in self.stretches()), *self._odd])
        return ends[(len(ends) - 1) // 2] if ends else 0

    def drop(self, upto: int) -> int:
        """Forget the events up to a seq; returns the last of them, or 0. O(n)."""
        dropped = max((seq for seq in self._odd if seq <= upto), default=0)
        kept = []
        for stretch in self.stretches():
            gone = min(stretch.events, max(0, (upto - stretch.first) // stretch.gap + 1))
            if gone:
                dropped = max(dropped, stretch.first + stretch.gap * (gone - 1))
            if gone < stretch.events:
                kept.append(
                    stretch._replace(
                        first=stretch.first + stretch.gap * gone,
                        events=stretch.events - gone,
                        low=stretch.low + stretch.step * gone,
                    )
                )
        if dropped:
            self._rebuild(kept, {seq: k for seq, k in self._odd.items() if seq > upto})
        return dropped

    def forget_after(self, seq: int) -> None:
        """Forget the events after a seq: they never happened. O(n) if there are any."""
        if self.last <= seq and not any(later > seq for later in self._odd):
            return
        kept = []
        for stretch in self.stretches()[: bisect_left(self._firsts, seq + 1)]:
            left = min(stretch.events, (seq - stretch.first) // stretch.gap + 1)
            kept.append(stretch._replace(events=left))
        self._rebuild(kept, {known: k for known, k in self._odd.items() if known <= seq})

    def _rebuild(self, stretches: list[Stretch], odd: dict[int, tuple[Range, ...]]) -> None:
        self._firsts, self._numbers, self._origins = array("Q"), array("q"), []
        for stretch in stretches:
            self.append(stretch)
        self._odd, self._odd_ranges = odd, sum(map(len, odd.values()))

    def copy(self) -> Records:
        """An independent copy. O(n)."""
        twin = Records()
        twin._firsts, twin._numbers = self._firsts[:], self._numbers[:]
        twin._origins, twin._odd = list(self._origins), dict(self._odd)
        twin._odd_ranges = self._odd_ranges
        return twin

    def _check(self) -> None:
        """Assert the invariants of this module."""
        ends = 0
        for stretch in self.stretches():
            require(stretch.first > ends and stretch.events > 0, "stretches that overlap")
            ends = stretch.last
        seqs = [seq for seq, _ in self.between(0, ends or 1)]
        require(len(set(seqs)) == len(seqs), "an event remembered twice")
        require(self._odd_ranges == sum(map(len, self._odd.values())), "records miscounted")

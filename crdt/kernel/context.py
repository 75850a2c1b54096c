"""A causal context: which events were seen, gaps included.

It is a version vector plus a cloud: the dots beyond the vector that arrived out of order. As soon
as a gap closes, the vector takes the dots over and the cloud forgets them, so in the normal course
of gossip the cloud is empty (Almeida, Shoker, Baquero 2018, section 5.3; Goncalves et al. 2017).

Invariant: a cloud holds no seq that is <= vector + 1; `_check` asserts it.

Two representations share a cloud because the two ways of being late differ: single events come in
thousands and in any order (a set), ranges come from chunks and leased numbers and may be as wide
as a forger likes (sorted bounds; a range costs the same at any width).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from crdt.errors import require
from crdt.kernel.version_vector import VersionVector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from crdt.kernel.dot import Dot, Range


class Cloud:
    """The seqs of one replica that were seen beyond its vector entry."""

    __slots__ = ("singles", "spans", "top")

    def __init__(self) -> None:
        self.singles: set[int] = set()
        self.top = 0  # the highest seq in here
        self.spans: list[tuple[int, int]] = []  # sorted, disjoint, inclusive

    def __contains__(self, seq: int) -> bool:
        if seq in self.singles:
            return True
        if not self.spans:
            return False
        index = bisect_right(self.spans, (seq, float("inf"))) - 1
        return index >= 0 and self.spans[index][1] >= seq

    def add(self, first: int, last: int) -> None:
        """Take [first, last] in; wide ranges merge with the spans they touch."""
        self.top = max(self.top, last)
        if first == last:
            self.singles.add(first)
            return
        spans = self.spans
        low = bisect_right(spans, (first, -1))
        if low and spans[low - 1][1] >= first - 1:
            low -= 1
            first = spans[low][0]
        high = low
        while high < len(spans) and spans[high][0] <= last + 1:
            last = max(last, spans[high][1])
            high += 1
        spans[low:high] = [(first, last)]

    def drain(self, reached: int, *, leapt: bool) -> int:
        """The end of the contiguous run that starts after `reached`; forgets what lies below.

        `leapt` says that the vector may have passed seqs of this cloud on the way to `reached`.
        """
        singles, spans = self.singles, self.spans
        while True:
            if reached + 1 in singles:
                reached += 1
                singles.discard(reached)
            elif spans and spans[0][0] <= reached + 1:
                reached = max(reached, spans.pop(0)[1])
                leapt = True
            else:
                break
        if leapt:
            self.singles = {seq for seq in singles if seq > reached}
        return reached

    def ranges(self) -> list[tuple[int, int]]:
        """Maximal disjoint ranges in ascending order: equal clouds give equal lists."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted(chain(self.spans, ((seq, seq) for seq in self.singles))):
            if merged and first <= merged[-1][1] + 1:
                if last > merged[-1][1]:
                    merged[-1] = (merged[-1][0], last)
            else:
                merged.append((first, last))
        return merged

    def copy(self) -> Cloud:
        """An independent cloud with the same seqs."""
        twin = Cloud()
        twin.singles = set(self.singles)
        twin.spans = list(self.spans)
        twin.top = self.top
        return twin


class CausalContext:
    """A set of dots, kept as a vector and a cloud per replica.

    Mutable; `copy()` gives a snapshot. Adding a dot or a range is O(1) amortised for the orders
    that gossip produces; membership is O(1) plus O(log spans).
    """

    __slots__ = ("clouds", "seqs")

    def __init__(self, seen: Mapping[str, int] | None = None, ranges: Iterable[Range] = ()) -> None:
        self.seqs: dict[str, int] = dict(VersionVector(seen or {}))
        self.clouds: dict[str, Cloud] = {}
        for replica, first, last in ranges:
            self.add_range(replica, first, last)

    @property
    def vector(self) -> VersionVector:
        """The contiguous part."""
        return VersionVector(self.seqs)

    @property
    def cloud(self) -> tuple[Range, ...]:
        """The rest, as maximal ranges (replica, first, last), sorted."""
        return tuple(
            (replica, first, last)
            for replica in sorted(self.clouds)
            for first, last in self.clouds[replica].ranges()
        )

    def covers(self, replica: str, seq: int) -> bool:
        """Whether that event was seen."""
        if seq <= self.seqs.get(replica, 0):
            return True
        cloud = self.clouds.get(replica)
        return cloud is not None and seq in cloud

    def __contains__(self, dot: Dot) -> bool:
        return self.covers(dot.replica, dot.seq)

    def add(self, dot: Dot) -> None:
        """See one event."""
        self.add_range(dot.replica, dot.seq, dot.seq)

    def add_range(self, replica: str, first: int, last: int) -> None:
        """See the events first..last (inclusive) of a replica."""
        reached = self.seqs.get(replica, 0)
        if last <= reached:
            return
        cloud = self.clouds.get(replica)
        if first > reached + 1:
            if cloud is None:
                cloud = self.clouds[replica] = Cloud()
            if first == last and first in cloud:
                return
            cloud.add(first, last)
            return
        if cloud is not None:
            last = cloud.drain(last, leapt=last > reached + 1)
            if not cloud.singles and not cloud.spans:
                del self.clouds[replica]
        self.seqs[replica] = last

    def take_back(self, replica: str, last: int) -> None:
        """Forget the events of a replica after `last`: a batch that was never published."""
        if last:
            self.seqs[replica] = last
        else:
            self.seqs.pop(replica, None)

    def update(self, other: CausalContext) -> None:
        """Join in place: see all that the other has seen."""
        for replica, first, last in other.ranges():
            self.add_range(replica, first, last)

    def ranges(self) -> Iterator[Range]:
        """Every maximal range, by replica and then ascending."""
        for replica in sorted(self.seqs.keys() | self.clouds.keys()):
            reached = self.seqs.get(replica, 0)
            if reached:
                yield replica, 1, reached
            cloud = self.clouds.get(replica)
            for first, last in cloud.ranges() if cloud is not None else ():
                yield replica, first, last

    def missing(self, replica: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of first..last that were not seen, ascending."""
        first = max(first, self.seqs.get(replica, 0) + 1)
        cloud = self.clouds.get(replica)
        for low, high in cloud.ranges() if cloud is not None and first <= last else ():
            if high < first:
                continue
            if low > last:
                break
            if low > first:
                yield first, low - 1
            first = high + 1
        if first <= last:
            yield first, last

    def last_seq(self, replica: str) -> int:
        """The highest seq seen, in the vector or in the cloud; 0 if none."""
        cloud = self.clouds.get(replica)
        return cloud.top if cloud is not None else self.seqs.get(replica, 0)

    def __le__(self, other: CausalContext) -> bool:
        return all(
            next(other.missing(replica, first, last), None) is None
            for replica, first, last in self.ranges()
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CausalContext):
            return NotImplemented
        return self.seqs == other.seqs and self.cloud == other.cloud

    __hash__ = None  # type: ignore[assignment]  # mutable: equal today, different tomorrow

    def __bool__(self) -> bool:
        return bool(self.seqs or self.clouds)

    def copy(self) -> CausalContext:
        """A snapshot that later events do not change."""
        twin = CausalContext()
        twin.seqs = dict(self.seqs)
        twin.clouds = {replica: cloud.copy() for replica, cloud in self.clouds.items()}
        return twin

    def __repr__(self) -> str:
        cloud = ", ".join(f"{replica}:{first}-{last}" for replica, first, last in self.cloud)
        return f"CausalContext({self.vector!r}, cloud=[{cloud}])"

    def _check(self) -> None:
        """Assert the invariant of this module."""
        for replica, cloud in self.clouds.items():
            reached = self.seqs.get(replica, 0)
            ranges = cloud.ranges()
            require(ranges, f"empty cloud kept for {replica}")
            require(ranges[0][0] > reached + 1, f"cloud of {replica} touches its vector")
            require(all(low[1] < high[0] for low, high in pairwise(cloud.spans)), "spans overlap")
        require(all(seq > 0 for seq in self.seqs.values()), "a zero in the vector")

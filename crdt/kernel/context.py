"""Dots and what was seen of them: the dot, the version vector, the causal context.

Three answers to one question, "which events do we speak of?", each built from the one before:

* A *dot* names one event: (replica id, sequence number). A replica numbers its own events 1, 2,
  3, ... and never uses a number twice; dots are therefore unique without any coordination.
* A *version vector* says, for every replica, how many of its events were seen without a gap:
  `{"a": 3, "b": 1}` is a's events 1..3 and b's event 1, nothing else. Vectors form a lattice under
  the pointwise maximum, which makes "who knows more" a comparison (Fidge 1988, Mattern 1989; the
  digest of Scuttlebutt, van Renesse et al. 2008). Missing replicas count as 0, and zeros are not
  stored, so that equal knowledge is equal vectors.
* A *causal context* says which events were seen, gaps included: a vector plus a cloud of the dots
  beyond it that arrived out of order. As soon as a gap closes, the vector takes the dots over and
  the cloud forgets them, so in the normal course of gossip the cloud is empty (Almeida, Shoker,
  Baquero 2018, sections 5 and 5.3; Goncalves et al. 2017).

Inside one kernel a dot is a single int, `index of the replica << SEQ_BITS | seq`, because a kernel
holds one per live entry: comparing, hashing and storing an int costs a fraction of a tuple. That
form never leaves the kernel; what travels names replicas by their ids.

Invariant: a cloud holds no seq that is <= vector + 1; `_check` asserts it. Two representations
share a cloud because the two ways of being late differ: single events come in thousands and in any
order (a set), ranges come from chunks and leased numbers and may be as wide as a forger likes
(sorted bounds; a range costs the same at any width).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from crdt.errors import InvalidArgumentError, InvalidReplicaError, require
from crdt.kernel.limits import REPLICA_BYTES_MAX
from crdt.kernel.set_hash import counted, hash_of

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, KeysView, ValuesView

Default = TypeVar("Default")

# (origin, first, last), inclusive: a contiguous run of one replica's events.
Range = tuple[str, int, int]


class Dot(NamedTuple):
    """One event: the `seq`-th of `replica`, counted from 1."""

    replica: str
    seq: int

    def __str__(self) -> str:
        return f"{self.replica}:{self.seq}"


def check_replica(replica: object) -> str:
    """The id itself, or InvalidReplicaError: ids are short, non-empty, encodable text."""
    if type(replica) is not str or not replica:
        raise InvalidReplicaError(f"a replica id is a non-empty str, not {replica!r}")
    if len(replica) <= REPLICA_BYTES_MAX and replica.isascii():
        return replica
    try:
        size = len(replica.encode())
    except UnicodeEncodeError as error:
        raise InvalidReplicaError(f"replica id {replica!r} is not valid text") from error
    if size > REPLICA_BYTES_MAX:
        raise InvalidReplicaError(f"a replica id has at most {REPLICA_BYTES_MAX} bytes, not {size}")
    return replica


class _Base:
    """What many vectors have in common; never changed once it is shared."""

    __slots__ = ("events", "seqs", "total")

    def __init__(self, seqs: dict[str, int]) -> None:
        self.seqs = seqs
        self.events = sum(seqs.values())
        self.total: int | None = None  # of the hash

    def total_of_hash(self) -> int:
        if self.total is None:
            self.total = sum(counted(replica, seq) for replica, seq in self.seqs.items())
        return self.total


_NOTHING = _Base({})
_NEWS_LEAST = 64


class VersionVector(Mapping[str, int]):
    """Immutable mapping of replica id to the highest contiguous seq seen (absent means 0).

    `<=` is the lattice order: a <= b when b has seen all that a has. It is partial: two vectors
    may be neither <= nor >=, and then their owners wrote concurrently.

    A vector keeps one entry for every life that ever wrote, and few of them change. So vectors that
    follow from each other share what they have in common, and differ in a few entries, `news`: to
    make the next one, to compare, join or hash them costs O(news) instead of O(replicas). What is
    said below to be O(news) is O(replicas) where two vectors came about separately.
    """

    __slots__ = ("base", "news")

    base: _Base
    news: dict[str, int]

    def __init__(self, seqs: Mapping[str, int] | None = None) -> None:
        if isinstance(seqs, VersionVector):
            self.base, self.news = seqs.base, seqs.news
            return
        kept = {replica: seq for replica, seq in (seqs or {}).items() if seq > 0}
        self.base, self.news = _Base(kept) if kept else _NOTHING, {}

    @classmethod
    def _made(cls, base: _Base, news: dict[str, int]) -> VersionVector:
        """One of these parts; brought together once there is much news. All of it is above 0."""
        made = cls.__new__(cls)
        if len(news) > _NEWS_LEAST + len(base.seqs) // 64:
            joined = _Base({**base.seqs, **news})
            if base.total is not None:
                joined.total = _total(base, news)
            base, news = joined, {}
        made.base, made.news = base, news
        return made

    def __getitem__(self, replica: str) -> int:
        seq = self.news.get(replica)
        return self.base.seqs[replica] if seq is None else seq

    @overload
    def get(self, replica: str, /) -> int | None: ...

    @overload
    def get(self, replica: str, default: int | Default, /) -> int | Default: ...

    def get(self, replica: str, default: Any = None, /) -> Any:
        """The seq of a replica, or the default. O(1)."""
        seq = self.news.get(replica)
        return self.base.seqs.get(replica, default) if seq is None else seq

    def __contains__(self, replica: object) -> bool:
        return replica in self.news or replica in self.base.seqs

    def __iter__(self) -> Iterator[str]:
        yield from self.base.seqs
        for replica in self.news:
            if replica not in self.base.seqs:
                yield replica

    def __len__(self) -> int:
        base = self.base.seqs
        return len(base) + sum(replica not in base for replica in self.news)

    def __bool__(self) -> bool:
        return bool(self.base.seqs or self.news)

    def keys(self) -> KeysView[str]:
        """The replicas of which something was seen. O(replicas)."""
        return self._whole().keys()

    def values(self) -> ValuesView[int]:
        """Their seqs. O(replicas)."""
        return self._whole().values()

    def items(self) -> ItemsView[str, int]:
        """Pairs of replica and seq. O(replicas)."""
        return self._whole().items()

    def _whole(self) -> dict[str, int]:
        return {**self.base.seqs, **self.news} if self.news else self.base.seqs

    # ------------------------------------------------------------------------ what it comes to

    @property
    def events(self) -> int:
        """How many events were seen. O(news)."""
        base = self.base
        return base.events + sum(s - base.seqs.get(r, 0) for r, s in self.news.items())

    @property
    def digest(self) -> bytes:
        """16 bytes that are equal for equal vectors. O(news)."""
        return hash_of(_total(self.base, self.news))

    def digest_without(self, replicas: Iterable[str]) -> bytes:
        """The digest of what is left without some replicas. O(news + those)."""
        gone = sum(counted(replica, self.get(replica, 0)) for replica in set(replicas))
        return hash_of(_total(self.base, self.news) - gone)

    # ---------------------------------------------------------------------------- comparing

    def above(self, other: Mapping[str, int]) -> dict[str, int]:
        """The entries that are greater than the other's. O(news)."""
        return {r: s for r, s in self._differing(other) if s > other.get(r, 0)}

    def changed(self, other: Mapping[str, int]) -> dict[str, int]:
        """The entries that the other has not, or has another seq for. O(news)."""
        return {r: s for r, s in self._differing(other) if s != other.get(r, 0)}

    def _differing(self, other: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """The entries of this one where they may differ."""
        if isinstance(other, VersionVector) and other.base is self.base:
            if other.news is self.news:
                return ()
            base = self.base.seqs
            theirs = ((r, base[r]) for r in other.news if r not in self.news and r in base)
            return chain(self.news.items(), theirs)
        return self._whole().items()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, VersionVector):
            if other.base is self.base:
                return other.news == self.news or (self <= other <= self)
            return self.events == other.events and self._whole() == other._whole()
        return self._whole() == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __le__(self, other: Mapping[str, int]) -> bool:
        get = other.get
        return all(seq <= get(replica, 0) for replica, seq in self._differing(other))

    def __ge__(self, other: Mapping[str, int]) -> bool:
        if isinstance(other, VersionVector):
            return other <= self
        return all(seq <= self.get(replica, 0) for replica, seq in other.items())

    def __lt__(self, other: Mapping[str, int]) -> bool:
        return self <= other and not self >= other

    def __gt__(self, other: Mapping[str, int]) -> bool:
        return self >= other and not self <= other

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    # ------------------------------------------------------------------------------ joining

    def __or__(self, other: Mapping[str, int]) -> VersionVector:
        """The join: what both together have seen. O(news + entries of a plain mapping).

        If one covers the other it is that one.
        """
        if isinstance(other, VersionVector):
            if self <= other:
                return other
            above = other.above(self)
        else:
            above = {r: s for r, s in other.items() if s > self.get(r, 0)}
        return self.replaced(above) if above else self

    def replaced(self, entries: Mapping[str, int]) -> VersionVector:
        """One with other seqs for some replicas. O(news + entries)."""
        if all(seq > 0 for seq in entries.values()):
            return self._made(self.base, {**self.news, **entries})
        return VersionVector({**self._whole(), **entries})

    def __and__(self, other: Mapping[str, int]) -> VersionVector:
        """The meet: what each of the two has seen; over all members, the stable cut. O(news)."""
        return self.replaced({r: other.get(r, 0) for r in self.above(other)})

    def __repr__(self) -> str:
        inner = ", ".join(f"{replica}:{seq}" for replica, seq in sorted(self.items()))
        return f"VersionVector({inner})"


def _total(base: _Base, news: Mapping[str, int]) -> int:
    """The sum behind the hash of a vector."""
    total = base.total_of_hash()
    for replica, seq in news.items():
        total += counted(replica, seq) - counted(replica, base.seqs.get(replica, 0))
    return total


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


class Swept:
    """Ranges of seqs that somebody went through, so that nobody goes through them twice."""

    __slots__ = ("spans",)

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []  # sorted, disjoint, inclusive

    def rest(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of a range that did not come before; now they did. O(log n) amortised."""
        spans = self.spans
        low = bisect_right(spans, (first, -1))
        if low and spans[low - 1][1] >= first:
            low -= 1
        high, begin, parts = low, first, []
        while high < len(spans) and spans[high][0] <= last:
            if begin < spans[high][0]:
                parts.append((begin, spans[high][0] - 1))
            begin = spans[high][1] + 1
            high += 1
        if begin <= last:
            parts.append((begin, last))
        if high > low:
            first, last = min(first, spans[low][0]), max(last, spans[high - 1][1])
        spans[low:high] = [(first, last)]
        return parts


class CausalContext:
    """A set of dots, kept as a vector and a cloud per replica.

    Mutable; `copy()` gives a snapshot. Adding a dot or a range is O(1) amortised for the orders
    that gossip produces; membership is O(1) plus O(log spans).
    """

    __slots__ = ("_shown", "clouds", "news", "seqs")

    def __init__(self, seen: Mapping[str, int] | None = None, ranges: Iterable[Range] = ()) -> None:
        self._shown: VersionVector | None = VersionVector(seen or {})
        self.seqs: dict[str, int] = dict(self._shown)  # whoever sets one sets it in `news`, too
        self.news: dict[str, int] = {}  # entries that rose since the vector was shown last
        self.clouds: dict[str, Cloud] = {}
        for replica, first, last in ranges:
            self.add_range(replica, first, last)

    @property
    def vector(self) -> VersionVector:
        """The contiguous part. O(what changed since it was asked for last)."""
        if self._shown is None:
            self._shown = VersionVector(self.seqs)
        elif self.news:
            self._shown = self._shown.replaced(self.news)
        self.news = {}
        return self._shown

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
        self.seqs[replica] = self.news[replica] = last

    def take_back(self, replica: str, last: int) -> None:
        """Forget the events of a replica after `last`: a batch that was never published."""
        if last:
            self.seqs[replica] = self.news[replica] = last
        else:
            self.seqs.pop(replica, None)
            self.news.pop(replica, None)
            if self._shown is not None and replica in self._shown:
                self._shown = None

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
        twin.seqs, twin.news, twin._shown = dict(self.seqs), dict(self.news), self._shown
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
        require(dict(self.vector) == self.seqs, "the vector that is shown is another one")


# What an agent had seen when it decided: `seen=` of mutations. A vector stands for its events.
Seen = CausalContext | Mapping[str, int]


def check_vector(vector: object) -> Mapping[str, int]:
    """The vector itself: ids and the seqs up to which they were seen. O(origins), for a plain dict.

    Raises:
        InvalidArgumentError: something else.
    """
    if isinstance(vector, VersionVector):
        return vector
    if (
        not isinstance(vector, Mapping)
        or not {str}.issuperset(map(type, vector))
        or not {int}.issuperset(map(type, vector.values()))
    ):
        raise InvalidArgumentError(
            f"a vector maps replica ids to ints, unlike {vector!r:.80}",
            hint="kernel.vector of the peer that asks; {} for one that has seen nothing",
        )
    return vector


def context_of(seen: object) -> CausalContext:
    """The context that a `seen=` stands for, or InvalidArgumentError. O(origins of a vector)."""
    if isinstance(seen, CausalContext):
        return seen
    try:
        return CausalContext(check_vector(seen))
    except InvalidArgumentError:
        raise InvalidArgumentError(
            f"seen= is a context or a vector, not {seen!r:.80}", hint="view.context, as it was read"
        ) from None

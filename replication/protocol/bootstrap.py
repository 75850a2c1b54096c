"""Chunk sets: how a replica joins, or catches up with peers that dropped removal records.

Theory of operation. Deltas answer "what happened after your vector", as long as the answerer still
has the removal records in question. Below its floor - and for a newcomer that lacks a lot - the
whole state is exchanged instead, cut at one moment into chunks (`chunk`), in which "covered by
my context and absent" means removed. The donor keeps a cut for a while, so that the receiver, who
asks for chunks one by one (a few in flight), may go on where it was cut off; every chunk is
journalled when it came. The id of a set is a hash of its content, so an unchanged donor continues
the very same set after a restart. The receiver's vector rises when the set is complete, and not
before; meanwhile it does not donate. What ends a try - a cut, a donor over its bandwidth - ends no
set: the next try with that donor asks for the first chunk that is lacking.

*One cut for all.* Whoever names no set, or one that is gone, is given the latest cut if deltas can
tell what came since, and that is not much: so neither a first request that is repeated, nor many
newcomers at once, nor writes in between make a donor cut what it just cut.

*As many at a time as the link carries.* How long a chunk took, beside how many, says how many come
well within the time that each has; one that is lost halves their number. Chunks that queue up
behind each other would all run out of time together, and all be sent again. The last one under way,
if it is lost, is asked for again: another donor has another cut.

A set of single blocks, by which two that heard the same are made to hold the same (`comparison`),
comes by the same way and meanwhile keeps nobody from donating: the state is whole. A dot that is
another entry here than in the set is noted and stays; raising would mean that the same set were
fetched, and refused, for ever.

A reset of somebody who lacks little is not worth a whole state: another peer may still have the
events. So a replica that is not new asks for chunks only when a later reset, at least one gossip
interval after the first, still finds it lacking the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from crdt import Chunk, Dot, VersionVector
from replication.errors import BusyError, MalformedFrameError
from replication.protocol.messages import ChunkGiven, ChunkWanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crdt import Change, ChunkSet, Kernel
    from replication.config import Config
    from replication.protocol.messages import BlocksWanted

CUTS_MAX = 2
BEGUN_MAX = 2
"""Sets under way that are remembered: as many as a kernel keeps aside."""
CUT_KEPT_S = 120.0
JOINING_S = 10.0
"""So long an agent counts as being given a state, after it said so, asked for or got some of it."""
ATTEMPTS_MAX = 3
"""At a chunk while no other is under way; then the try is over."""


NEARLY_ALL = 10 / 9
"""Who lacks more than nine tenths of something is given all of it."""


def lacks(theirs: VersionVector, mine: Mapping[str, int]) -> int:
    """How many events of one vector are beyond another. O(origins where they differ)."""
    return sum(seq - mine.get(origin, 0) for origin, seq in theirs.above(mine).items())


@dataclass(slots=True)
class Cut:
    """A set that this replica donates: encoded chunks, and until when they are kept.

    `vector` is where it raises to; None for one of blocks, which raises nobody.
    """

    chunks: tuple[bytes, ...]
    until_s: float
    vector: Mapping[str, int] | None


@dataclass(slots=True)
class Donor:
    """Cuts the state and hands out chunks."""

    kernel: Kernel
    config: Config
    _cuts: dict[bytes, Cut] = field(default_factory=dict)

    def keep(self, wanted: ChunkWanted, now_s: float) -> None:
        """The set is still wanted, and none of its chunks may be given now."""
        if wanted.set_id in self._cuts:
            self._cuts[wanted.set_id].until_s = now_s + CUT_KEPT_S

    def give(self, wanted: ChunkWanted, now_s: float) -> ChunkGiven:
        """The chunk asked for; of a new set if the one named is not kept. O(state) for a new cut.

        Raises:
            MalformedFrameError: the set has no chunk of that index.
        """
        for set_id in [s for s, cut in self._cuts.items() if now_s > cut.until_s]:
            del self._cuts[set_id]
        set_id, index = wanted.set_id, wanted.index
        cut = self._cuts.get(set_id)
        if cut is None:
            set_id, cut, index = *self._state(now_s), 0
        if index >= len(cut.chunks):
            raise MalformedFrameError(f"the set has {len(cut.chunks)} chunks, no {index}")
        cut.until_s = now_s + CUT_KEPT_S
        return ChunkGiven(set_id, index, len(cut.chunks), cut.chunks[index])

    def give_blocks(self, wanted: BlocksWanted, now_s: float) -> ChunkGiven:
        """The first chunk of a set of these blocks. O(their entries)."""
        fresh = self.kernel.block_chunks(wanted.blocks, self.config.chunk_bytes)
        set_id, cut = self._keep(fresh, None, now_s)
        return ChunkGiven(set_id, 0, len(cut.chunks), cut.chunks[0])

    def _state(self, now_s: float) -> tuple[bytes, Cut]:
        """The latest cut of the whole state that will do, else a new one."""
        whole = [(set_id, cut) for set_id, cut in self._cuts.items() if cut.vector is not None]
        for set_id, cut in reversed(whole):
            if self._is_near(cut.vector or {}, much=len(whole) >= CUTS_MAX):
                return set_id, cut
        fresh = self.kernel.chunks(self.config.chunk_bytes)
        return self._keep(fresh, fresh.vector, now_s)

    def _is_near(self, vector: Mapping[str, int], *, much: bool) -> bool:
        """Whether deltas lead from a vector to here, and not `much` of them unless that will do.

        It will where another cut would take the place of one that somebody is being given.
        """
        mine = self.kernel.vector
        since = lacks(mine, vector)
        return self.kernel.can_tell(vector) and (much or since <= self.config.chunks_above_events)

    def _keep(
        self, fresh: ChunkSet, vector: Mapping[str, int] | None, now_s: float
    ) -> tuple[bytes, Cut]:
        kind = [s for s, cut in self._cuts.items() if (cut.vector is None) == (vector is None)]
        while len(kind) >= CUTS_MAX:
            oldest = min(kind, key=lambda set_id: self._cuts[set_id].until_s)
            kind.remove(oldest)
            del self._cuts[oldest]
        cut = Cut(tuple(chunk.encode() for chunk in fresh.chunks), now_s + CUT_KEPT_S, vector)
        self._cuts[fresh.id] = cut
        return fresh.id, cut


@dataclass(slots=True)
class Receiver:
    """Asks for a set and joins its chunks; idle most of its life."""

    kernel: Kernel
    config: Config
    address: str = ""
    """Where the donor is; "" when nothing is under way."""
    mending: str = ""
    """The peer whose blocks come; "" when it is a bootstrap."""
    contradicted: set[Dot] = field(default_factory=set)
    """Dots of the chunks that came by now which are other entries here."""
    set_id: bytes = b""
    total: int = 0
    came: set[int] = field(default_factory=set)
    asked: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Chunks under way: when they were asked for, and how many there were then."""
    window: int = 1
    """How many may be under way."""
    failures: int = 0
    """Since a chunk came."""
    _much: bool = False
    """Whether what is under way brings so much that events told meanwhile would come twice."""
    _kept: dict[bytes, set[int]] = field(default_factory=dict)
    """Chunks that earlier tries (of this boot or, by the journal, of the last one) brought."""
    _begun: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Where a donor is -> its set that is not complete yet, and of how many chunks it is."""
    _lacked: dict[str, int] = field(default_factory=dict)
    _lacked_s: float = 0.0
    _busy_s: float = -inf

    @property
    def active(self) -> bool:
        """Whether a set is under way."""
        return bool(self.address)

    @property
    def behind(self) -> bool:
        """Whether a bootstrap is under way: the state is not all that was asked for."""
        return self.active and not self.mending

    def is_joining(self, now_s: float) -> bool:
        """Whether nearly all is being given to this replica, or was until a moment ago."""
        return self._much and (self.behind or now_s - self._busy_s < JOINING_S)

    def mend(self, address: str, peer: str) -> bool:
        """Blocks are asked of a peer; False if another set is under way."""
        if self.active:
            return False
        self.address, self.mending = address, peer
        self.set_id, self.total = b"", 0
        self.came, self.asked, self.contradicted = set(), {0: (inf, 1)}, set()
        return True

    def kept(self, rows: Iterable[bytes]) -> None:
        """Chunks that the journal brought back: they need not be asked for again."""
        for row in rows:
            chunk = Chunk.decode(row)
            self._kept.setdefault(chunk.set_id, set()).add(chunk.index)

    def reset(self, address: str, theirs: Mapping[str, int], now_s: float) -> list[ChunkWanted]:
        """A peer says that we are below its floor; what to ask it for, if it is worth it."""
        mine = self.kernel.vector
        lacking = {o: s for o, s in theirs.items() if s > mine.get(o, 0)}
        if self.active or not lacking:
            return []
        patient = now_s - self._lacked_s >= self.config.gossip_interval_s
        begun = address in self._begun and now_s - self._busy_s < CUT_KEPT_S
        still = any(mine.get(o, 0) < s for o, s in self._lacked.items())
        missing = lacks(VersionVector(theirs), mine)
        much = missing > self.config.chunks_above_events
        newcomer = not mine or (much and NEARLY_ALL * missing > sum(theirs.values()))
        if not newcomer and not begun and not (self._lacked and still and patient):
            if not self._lacked or not still:
                self._lacked, self._lacked_s = lacking, now_s
            return []
        self._lacked = {}
        self.address, self.contradicted = address, set()
        self.set_id, self.total = self._begun.get(address, (b"", 0))
        self.came = self._kept.get(self.set_id, set())
        first = next((i for i in range(self.total) if i not in self.came), 0)
        self.asked = {first: (now_s, 1)}  # the others when it came: the donor may cut a new set
        self._busy_s = now_s
        self._much = much
        return [ChunkWanted(self.set_id, first)]

    def take(self, given: ChunkGiven, now_s: float) -> tuple[Change | None, list[ChunkWanted]]:
        """Join a chunk; the change it made (None: it was known) and what to ask for next.

        Raises:
            MalformedFrameError: it is not the chunk asked for, or not one at all; nothing changed.
        """
        try:
            chunk = Chunk.decode(given.data)
        except Exception as error:
            raise MalformedFrameError(f"not a chunk: {error}") from error
        if (chunk.set_id, chunk.index) != (given.set_id, given.index):
            raise MalformedFrameError("the chunk is not the one that its message says")
        if given.set_id != self.set_id:
            self.set_id, self.total = given.set_id, given.total
            self._begin()
        self._busy_s, self.failures = now_s, 0
        self._adapt(now_s, *self.asked.pop(given.index, (now_s, 1)))
        change = None
        if given.index not in self.came:
            try:
                change = self.kernel.apply_chunk(chunk, self.contradicted)
            except Exception as error:  # foreseen or not: the kernel is what it was
                self._begun.clear()
                self.stop()
                raise MalformedFrameError(f"the chunk cannot be joined: {error}") from error
            self.came.add(given.index)
        if len(self.came) == self.total:
            self._kept.clear()
            self._begun.clear()
            self._much = False
            self.stop()
            return change, []
        return change, self._next(now_s)

    def _adapt(self, now_s: float, asked_s: float, beside: int) -> None:
        """A chunk came: how many come in half of the time that one has? One more at most than now.

        It waited for those that were under way with it, if the link is what is slow.
        """
        each_s = max(now_s - asked_s, 0.0) / beside
        half_s = min(self.config.read_timeout_s, self.config.total_timeout_s / 2) / 2
        most = min(self.config.chunks_in_flight, 2 * self.window)
        self.window = max(1, min(most, int(half_s / each_s) if each_s else most))

    def lost(
        self, address: str, wanted: ChunkWanted | BlocksWanted, now_s: float
    ) -> list[ChunkWanted] | None:
        """A chunk did not come; what to ask for instead, None if the try is over.

        What was asked for in an earlier try is not heard of any more.
        """
        index = wanted.index if isinstance(wanted, ChunkWanted) else 0
        named = not isinstance(wanted, ChunkWanted) or wanted.set_id in {b"", self.set_id}
        if address != self.address or not named or self.asked.pop(index, None) is None:
            return []
        self.window = max(1, self.window // 2)
        if self.asked:
            return []
        self.failures += 1
        if self.mending or self.failures >= ATTEMPTS_MAX:
            self.stop()
            return None
        self.asked[index] = (now_s, 1)
        return [ChunkWanted(self.set_id, index)]

    def _begin(self) -> None:
        """The donor gives a set that is not the one asked for, or the first one."""
        old = self._begun.pop(self.address, (b"", 0))[0]
        if old not in {set_id for set_id, _ in self._begun.values()}:
            self._kept.pop(old, None)
        while len(self._begun) >= BEGUN_MAX:
            self._kept.pop(self._begun.pop(next(iter(self._begun)))[0], None)
        self._begun[self.address] = (self.set_id, self.total)
        # Blocks are looked into anew, though a journal brought them: that may be what is reported.
        self.came = set() if self.mending else self._kept.setdefault(self.set_id, set())
        self.asked = {}

    def _next(self, now_s: float) -> list[ChunkWanted]:
        """Requests for chunks that neither came nor were asked for, as many as may be under way."""
        wanted = []
        for index in range(self.total):
            if len(self.asked) >= self.window:
                break
            if index not in self.came and index not in self.asked:
                self.asked[index] = (now_s, len(self.asked) + 1)
                wanted.append(ChunkWanted(self.set_id, index))
        return wanted

    def stop(self) -> None:
        """An exchange failed, or all is here: a later reset starts again, with what was kept."""
        if self.mending:
            self._begun.pop(self.address, None)
        self.address = self.mending = ""
        self.failures = 0

    def may_donate(self) -> None:
        """Raises BusyError while this replica is itself in pieces."""
        if self.behind:
            raise BusyError("this replica is being bootstrapped itself")

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
from typing import TYPE_CHECKING

from crdt import Chunk, Dot
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


@dataclass(slots=True)
class Cut:
    """A set that this replica donates: encoded chunks, and until when they are kept."""

    chunks: tuple[bytes, ...]
    until_s: float


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
            set_id, cut, index = *self._cut(now_s), 0
        if index >= len(cut.chunks):
            raise MalformedFrameError(f"the set has {len(cut.chunks)} chunks, no {index}")
        cut.until_s = now_s + CUT_KEPT_S
        return ChunkGiven(set_id, index, len(cut.chunks), cut.chunks[index])

    def give_blocks(self, wanted: BlocksWanted, now_s: float) -> ChunkGiven:
        """The first chunk of a set of these blocks. O(their entries)."""
        set_id, cut = self._keep(
            self.kernel.block_chunks(wanted.blocks, self.config.chunk_bytes), now_s
        )
        return ChunkGiven(set_id, 0, len(cut.chunks), cut.chunks[0])

    def _cut(self, now_s: float) -> tuple[bytes, Cut]:
        return self._keep(self.kernel.chunks(self.config.chunk_bytes), now_s)

    def _keep(self, fresh: ChunkSet, now_s: float) -> tuple[bytes, Cut]:
        while len(self._cuts) >= CUTS_MAX:
            del self._cuts[next(iter(self._cuts))]
        cut = Cut(tuple(chunk.encode() for chunk in fresh.chunks), now_s + CUT_KEPT_S)
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
    asked: set[int] = field(default_factory=set)
    _kept: dict[bytes, set[int]] = field(default_factory=dict)
    """Chunks that earlier tries (of this boot or, by the journal, of the last one) brought."""
    _begun: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Where a donor is -> its set that is not complete yet, and of how many chunks it is."""
    _lacked: dict[str, int] = field(default_factory=dict)
    _lacked_s: float = 0.0

    @property
    def active(self) -> bool:
        """Whether a set is under way."""
        return bool(self.address)

    @property
    def behind(self) -> bool:
        """Whether a bootstrap is under way: the state is not all that was asked for."""
        return self.active and not self.mending

    def mend(self, address: str, peer: str) -> bool:
        """Blocks are asked of a peer; False if another set is under way."""
        if self.active:
            return False
        self.address, self.mending = address, peer
        self.set_id, self.total = b"", 0
        self.came, self.asked, self.contradicted = set(), {0}, set()
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
        still = any(mine.get(o, 0) < s for o, s in self._lacked.items())
        if mine and not (self._lacked and still and patient):
            if not self._lacked or not still:
                self._lacked, self._lacked_s = lacking, now_s
            return []
        self._lacked = {}
        self.address, self.contradicted = address, set()
        self.set_id, self.total = self._begun.get(address, (b"", 0))
        self.came = self._kept.get(self.set_id, set())
        first = next((i for i in range(self.total) if i not in self.came), 0)
        self.asked = {first}  # the others when it came: the donor may have to cut a new set
        return [ChunkWanted(self.set_id, first)]

    def take(self, given: ChunkGiven) -> tuple[Change | None, list[ChunkWanted]]:
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
        self.asked.discard(given.index)
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
            self.stop()
            return change, []
        return change, self._next()

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
        self.asked = set()

    def _next(self) -> list[ChunkWanted]:
        """Up to `chunks_in_flight` requests for chunks that neither came nor were asked for."""
        wanted = []
        for index in range(self.total):
            if len(self.asked) >= self.config.chunks_in_flight:
                break
            if index not in self.came and index not in self.asked:
                self.asked.add(index)
                wanted.append(ChunkWanted(self.set_id, index))
        return wanted

    def stop(self) -> None:
        """An exchange failed, or all is here: a later reset starts again, with what was kept."""
        if self.mending:
            self._begun.pop(self.address, None)
        self.address = self.mending = ""

    def may_donate(self) -> None:
        """Raises BusyError while this replica is itself in pieces."""
        if self.behind:
            raise BusyError("this replica is being bootstrapped itself")

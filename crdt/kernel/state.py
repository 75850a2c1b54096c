"""What a kernel is made of: live entries, what was seen, what was applied, what is doomed.

Two contexts that usually are one object. `context` holds the dots whose entry is here or known to
be dead; a join decides by it. `applied` holds the events whose kills were honoured too; it alone is
the digest shown to peers. Applying a delta grows both. A state that came as a set of chunks grows
`applied` only as far as its sender's vector goes without a gap: of events beyond, what they killed
cannot be retold, so they are in `context` alone until they come as deltas.

`chunk_sets` holds the chunks of incomplete sets, which are not part of the state yet.

`doomed` holds dots that were killed before they arrived: their entries are refused when they come.
It is state like any entry, and empties as the dots become covered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdt.errors import require
from crdt.kernel.context import CausalContext, Range
from crdt.kernel.hlc import HLC, check_now
from crdt.kernel.limits import SEQ_BITS, SEQ_MAX
from crdt.kernel.live import BLOCK_BITS, LiveTable, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crdt.kernel.change import Touched
    from crdt.kernel.chunk import Aside

DOOMED_MAX = 1 << 20
REMOVAL_RECORDS_BYTES_MAX = 16 << 20
RECORD_BYTES = 128  # of memory per slot of records (see `record`), measured generously
KNOWN_SETS_MAX = 8  # ids of 16 bytes
CHUNK_SETS_MAX = 2  # incomplete ones kept aside; the oldest is forgotten first
CHUNKS_ASIDE_BYTES_MAX = 1 << 30  # of memory, all of them together: some three million entries


class BlockHashes:
    """Hashes of the live content, block by block (`blocks`), and how far they are up to date."""

    __slots__ = ("of", "reached", "total")

    def __init__(self) -> None:
        self.of: dict[int, bytes] = {}  # dot >> BLOCK_BITS -> hash, of blocks that hold something
        self.reached: dict[str, int] = {}  # the applied vector when it was last hashed up to there
        self.total: bytes | None = None  # over all of them, once asked for


class State:
    """The parts of one kernel. Everything here is plain data with the few rules that bind it."""

    __slots__ = (
        "applied",
        "blocks",
        "chunk_sets",
        "chunks_aside_bytes_max",
        "chunks_forgotten",
        "clock",
        "context",
        "doomed",
        "doomed_max",
        "heard_ms",
        "known_sets",
        "live",
        "now_ms",
        "records",
        "records_max",
        "replica",
    )

    def __init__(self, replica: str, now_ms: Callable[[], int] | None) -> None:
        self.replica = replica
        self.now_ms = now_ms
        self.live = LiveTable()
        self.live.base(replica)
        self.applied = CausalContext()
        self.context = self.applied
        self.blocks = BlockHashes()
        self.doomed: set[int] = set()
        self.doomed_max = DOOMED_MAX
        self.clock = HLC()
        self.heard_ms: int | None = None  # the time at the last join
        self.records = 0  # slots of records, at most; recounted when it passes records_max
        self.records_max = REMOVAL_RECORDS_BYTES_MAX // RECORD_BYTES
        self.chunk_sets: dict[bytes, Aside] = {}  # by their ids, the oldest first
        self.chunks_aside_bytes_max = CHUNKS_ASIDE_BYTES_MAX
        self.chunks_forgotten = 0  # chunks kept aside that made room for others
        self.known_sets: list[bytes] = []  # lately joined or cut: they say nothing new

    # --------------------------------------------------------------------------------- seen

    def apply_range(self, origin: str, first: int, last: int) -> None:
        """These events were applied, kills and all."""
        self.applied.add_range(origin, first, last)
        self.cover_range(origin, first, last)

    def cover_range(self, origin: str, first: int, last: int) -> None:
        """The fate of these dots is known; none of them can be doomed any longer."""
        if self.context is not self.applied:
            self.context.add_range(origin, first, last)
        base = self.live.bases.get(origin)
        if self.doomed and base is not None:
            low, high = base + first, base + last
            if last - first < len(self.doomed):
                come = self.doomed.intersection(range(low, high + 1))
            else:
                come = {dot for dot in self.doomed if low <= dot <= high}
            self.doomed -= come
            self.live.dirty.update(dot >> BLOCK_BITS for dot in come)

    def split_contexts(self) -> None:
        """From now on the context may run ahead of what was applied."""
        if self.context is self.applied:
            self.context = self.applied.copy()

    def unite_contexts(self) -> None:
        """Let the two be one again if they hold the same dots."""
        if self.context is not self.applied and self.context <= self.applied:
            self.context = self.applied

    def know_set(self, set_id: bytes) -> None:
        """Remember a chunk set whose whole content is part of this state, for good."""
        if set_id not in self.known_sets:
            self.known_sets = [set_id, *self.known_sets][:KNOWN_SETS_MAX]

    # --------------------------------------------------------------------------------- kill

    def kill(self, origin: str, first: int, last: int, touched: Touched) -> None:
        """These dots die: now if they are here, on arrival if they are still unknown."""
        live = self.live
        base = live.base(origin)
        if first == last:
            place = live.find(base + first)
            if place is not None:
                touched.mark(*place)
                live.kill(*place, base + first)
            elif not self.context.covers(origin, first):
                self.doom(base + first, base + first)
            return
        for seq, container, step in list(live.log(origin).slots(first, last)):
            if holds(container.rows.get(step), base + seq):
                touched.mark(container, step)
                live.kill(container, step, base + seq)
        for low, high in self.context.missing(origin, first, last):
            self.doom(base + low, base + high)

    def doom(self, low: int, high: int) -> None:
        """Refuse these dots of one origin when they come."""
        self.doomed.update(range(low, high + 1))
        self.live.dirty.update(range(low >> BLOCK_BITS, (high >> BLOCK_BITS) + 1))

    # ------------------------------------------------------------------------------ records

    def record(self, origin: str, seq: int, kills: tuple[Range, ...]) -> None:
        """Keep what an event killed, for peers that have not heard of it yet."""
        self.live.log(origin).record(seq, kills)
        self.records += len(kills)
        if self.records > self.records_max:
            self.evict_records()

    def evict_records(self) -> None:
        """Drop the oldest records of the busiest origins until a quarter of the room is free."""
        while True:
            self.records = sum(log.kills.slots for log in self.live.logs)
            if self.records <= self.records_max * 3 // 4:
                return
            name, log = max(
                zip(self.live.names, self.live.logs, strict=True),
                key=lambda pair: pair[1].kills.slots,
            )
            if not self.drop_records({name: log.kills.oldest_half()}):
                self.records = 0  # what is left dooms unseen dots and stays; look again much later
                return

    def drop_records(self, upto: Mapping[str, int]) -> bool:
        """Drop records of events up to these seqs; those that doom an unseen dot stay."""
        dropped = False
        for origin, last in upto.items():
            if origin not in self.live.bases:
                continue
            log = self.live.log(origin)
            limit = last
            if self.doomed:
                held = [seq for seq, kills in log.kills.between(0, last) if self._dooms(kills)]
                limit = min([last, *(seq - 1 for seq in held)])
            before = log.floor
            log.drop_records(limit)
            dropped = dropped or log.floor > before
        self.records = sum(log.kills.slots for log in self.live.logs)
        return dropped

    def _dooms(self, kills: tuple[Range, ...]) -> bool:
        return any(
            first <= (dot & SEQ_MAX) <= last and self.live.names[dot >> SEQ_BITS] == origin
            for origin, first, last in kills
            for dot in self.doomed
        )

    # --------------------------------------------------------------------------------- time

    def read_clock(self) -> None:
        """Ask for the time once, before anything is taken in; raises ClockError."""
        self.heard_ms = None if self.now_ms is None else check_now(self.now_ms())

    def observe(self, stamp: int) -> bool:
        """Let the clock follow a peer's stamp; False if it is too far ahead."""
        return self.clock.observe(stamp, self.heard_ms)

    def _check(self) -> None:
        """Assert that the parts fit together."""
        self.live._check()  # noqa: SLF001  # the checks of one room call each other
        self.applied._check()  # noqa: SLF001
        self.context._check()  # noqa: SLF001
        require(self.applied <= self.context, "applied, but not seen")
        for dot in self.doomed:
            require(
                not self.context.covers(*self.live.dot(dot)), "doomed, though its fate is known"
            )
            require(self.live.find(dot) is None, "doomed and alive")
        for name, log in zip(self.live.names, self.live.logs, strict=True):
            for seq in log.seqs:
                require(self.context.covers(name, seq), f"an entry of {name}:{seq}, never seen")
        own = self.context.last_seq(self.replica)
        require(own == self.applied.seqs.get(self.replica, 0), "own events with a gap")

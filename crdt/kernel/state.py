"""What a kernel is made of: live entries, what was seen, what was applied, what is doomed.

Two contexts that usually are one object. `context` holds the dots whose entry is here or known to
be dead; a join decides by it. `applied` holds the events whose kills were honoured too; it alone is
the digest shown to peers. Applying a delta grows both. A state that came as a set of chunks grows
`applied` only as far as its sender's vector goes without a gap: of events beyond, what they killed
cannot be retold, so they are in `context` alone until they come as deltas.

`chunk_sets` holds the chunks of incomplete sets, which are not part of the state yet.

`doomed` holds dots that were killed before they arrived: their entries are refused when they come.
It is state like any entry, and empties as the dots become covered. What one owner may doom is
limited (`doomed_share_max`), beside what all may.

A join that raises half way, whatever it raises, leaves no trace: `moment` notes what is needed to
go back, `Moment.go_back` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdt.errors import require
from crdt.kernel.context import CausalContext, Cloud, Range, Swept, VersionVector
from crdt.kernel.doomed import BLOCK_BITS, BLOCKS_MAX, Doomed
from crdt.kernel.hlc import HLC, check_now
from crdt.kernel.kill import kill_range
from crdt.kernel.limits import SEQ_BITS
from crdt.kernel.live import LiveTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from crdt.kernel.change import Touched
    from crdt.kernel.chunk import Aside
    from crdt.kernel.replaced import Replaced

DOOMED_MAX = 1 << 20
WIDE_KILL = 64  # seqs of a range from which on it is noted, so that no change goes through it twice
REMOVAL_RECORDS_BYTES_MAX = 16 << 20
RECORD_BYTES = 128  # of memory per slot of records (see `record`), measured generously
KNOWN_SETS_MAX = 8  # ids of 16 bytes
CHUNK_SETS_MAX = 2  # incomplete ones kept aside; the oldest is forgotten first
CHUNKS_ASIDE_BYTES_MAX = 1 << 30  # of memory, all of them together: some three million entries


class BlockHashes:
    """Hashes of the live content, block by block (`blocks`), and how far they are up to date."""

    __slots__ = ("at", "of", "reached", "total")

    def __init__(self) -> None:
        self.of: dict[int, bytes] = {}  # dot >> BLOCK_BITS -> hash, of blocks that hold something
        self.reached: dict[str, int] = {}  # the applied vector when it was last hashed up to there
        self.at = VersionVector()  # the applied vector when nothing was left to hash
        self.total = 0  # the sum of all of them (`set_hash`)


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
        "doomed_share_max",
        "heard_ms",
        "known_sets",
        "live",
        "now_ms",
        "owner_of",
        "records",
        "records_max",
        "replaced",
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
        self.doomed = Doomed()
        self.doomed_max = DOOMED_MAX
        self.doomed_share_max: int | None = None  # of one owner; None: no less than all
        self.owner_of: Callable[[str], str] = str  # of an origin; by itself each has its own share
        self.clock = HLC()
        self.heard_ms: int | None = None  # the time at the last join
        self.records = 0  # slots of records, at most; recounted when it passes records_max
        self.records_max = REMOVAL_RECORDS_BYTES_MAX // RECORD_BYTES
        self.chunk_sets: dict[bytes, Aside] = {}  # by their ids, the oldest first
        self.chunks_aside_bytes_max = CHUNKS_ASIDE_BYTES_MAX
        self.chunks_forgotten = 0  # chunks kept aside that made room for others
        self.replaced: Replaced | None = None  # what died here, for people who ask
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
            start = base >> BLOCK_BITS
            come = self.doomed.cover(base >> SEQ_BITS, first, last)
            self.live.dirty.update(start + number for number in come)

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

    def kill(self, origin: str, first: int, last: int, touched: Touched, owner: str = "") -> None:
        """These dots die: now if they are here, on arrival if they are still unknown.

        `owner` is on whose account those are.
        """
        live = self.live
        base = live.base(origin)
        if first == last:
            place = live.find(base + first)
            if place is not None:
                touched.mark(*place)
                live.kill(*place, base + first)
            elif not self.context.covers(origin, first):
                self.doom(base, first, first, owner)
            return
        # What this change has killed is dead, or doomed, and stays so: a thousand events that kill
        # the same million dots go through them once.
        parts = [(first, last)]
        if last - first >= WIDE_KILL:
            parts = touched.swept.setdefault(origin, Swept()).rest(first, last)
        for begin, end in parts:
            kill_range(live, base, begin, end, touched)
            for low, high in self.context.missing(origin, begin, end):
                self.doom(base, low, high, owner)

    def doom(self, base: int, first: int, last: int, owner: str = "") -> None:
        """Refuse these dots of one origin when they come."""
        self.doomed.add(base >> SEQ_BITS, first, last, owner)
        start = base >> BLOCK_BITS
        self.live.dirty.update(
            range(start + (first >> BLOCK_BITS), start + (last >> BLOCK_BITS) + 1)
        )

    def room_to_doom(self, owner: str) -> tuple[int, int]:
        """How many more dots, in how many more blocks, may be doomed on an account. O(owners)."""
        dots = self.doomed_max - len(self.doomed)
        blocks = BLOCKS_MAX - self.doomed.blocks
        if self.doomed_share_max is None:
            return dots, blocks
        share = BLOCKS_MAX * self.doomed_share_max // self.doomed_max
        return (
            min(dots, self.doomed_share_max - self.doomed.of[owner]),
            min(blocks, share - self.doomed.blocks_of[owner]),
        )

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
        bases, doomed = self.live.bases, self.doomed
        return any(
            origin in bases and doomed.intersects(bases[origin] >> SEQ_BITS, first, last)
            for origin, first, last in kills
        )

    # -------------------------------------------------------------------------------- undoing

    def moment(self, origins: Iterable[str] | None = None) -> Moment:
        """What it takes to come back here. O(these origins); None stands for all there are."""
        return Moment(self, origins)

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


class Moment:
    """A state as it was before a join that changes the contexts of some origins."""

    __slots__ = ("_clock", "_contexts", "_seen", "_sets", "_state")

    def __init__(self, state: State, origins: Iterable[str] | None) -> None:
        self._state = state
        clock = state.clock
        self._clock = clock.last, clock.skewed, clock.skewed_most_ms
        self._sets = dict(state.chunk_sets), list(state.known_sets)
        self._seen = list[tuple[CausalContext, dict[str, tuple[int, Cloud | None]]]]()
        one = state.context is state.applied
        if origins is None:
            applied = state.applied.copy()
            self._contexts = applied, applied if one else state.context.copy()
        else:
            self._contexts = state.applied, state.context
            names = list(origins)
            for context in self._contexts[:1] if one else self._contexts:
                self._seen.append((context, _known(context, names)))
        state.doomed.remember()

    def over(self) -> None:
        """All went well: nobody comes back."""
        self._state.doomed.forget()

    def go_back(self, touched: Touched) -> None:
        """Undo everything since, whatever broke off; what is only a cache may be smaller. O(n)."""
        state = self._state
        state.doomed.go_back()
        state.applied, state.context = self._contexts
        for context, known in self._seen:
            for origin, (seq, cloud) in known.items():
                context.take_back(origin, seq)
                context.clouds.pop(origin, None)
                if cloud is not None:
                    context.clouds[origin] = cloud
        state.live.go_back(touched.before())
        for origin, log in zip(state.live.names, state.live.logs, strict=True):
            reached = state.context.last_seq(origin)
            log.kills.forget_after(reached)
            log.batches = [batch for batch in log.batches if batch[1] <= reached]
        state.records = sum(log.kills.slots for log in state.live.logs)
        state.chunk_sets, state.known_sets = self._sets
        state.clock.last, state.clock.skewed, state.clock.skewed_most_ms = self._clock


def _known(context: CausalContext, origins: list[str]) -> dict[str, tuple[int, Cloud | None]]:
    """What a context says of some origins, for good."""
    known = {}
    for origin in origins:
        cloud = context.clouds.get(origin)
        known[origin] = context.seqs.get(origin, 0), None if cloud is None else cloud.copy()
    return known

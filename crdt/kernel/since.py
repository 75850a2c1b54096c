"""What does a peer lack? Its vector in, the missing events out.

Per origin the events in (theirs, mine], oldest first, each with what is left of it: the entry if it
is still alive, the kills if it had any. The answer covers exactly the dots it carries (never part
of the data with the whole context), so it may be cut anywhere except inside a batch, and the next
question continues where it ended (Enes et al. 2019; Goncalves et al. 2017).

Whoever is asked by many builds a run once and keeps its bytes (`encodings`). The same question gets
the same answer from there; and who asks for pieces gets an origin's events in several runs, as they
were encoded for somebody else, so that readers who stand at different places share most of them.

The same history tells which documents changed. A mutation stays inside of one document, so one
event of a chain of overwrites and removals whose place is known tells the place of them all; only
a deletion by prefix takes several documents at once, and is asked about each dot that it killed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from crdt.errors import BelowFloorError
from crdt.kernel.delta import RUN_BYTES, Delta, Fields, Run, weight_of
from crdt.kernel.encodings import Piece
from crdt.kernel.kind import LEAF
from crdt.kernel.limits import SEQ_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from crdt.kernel.context import Range
    from crdt.kernel.kind import Path
    from crdt.kernel.live import OriginLog
    from crdt.kernel.state import State

# What stands behind the last record.
_END: Final[tuple[int, tuple[Range, ...]]] = (SEQ_MAX + 1, ())

_Dot = tuple[str, int]

PIECE_WEIGHT_MIN: Final = 8 << 10
"""A piece of less is not worth a part of its own, unless it is the last: its events are told with
those that follow them."""


def delta_since(
    state: State, seen: Mapping[str, int], bytes_max: int | None, *, pieces: bool = False
) -> Delta:
    """The events that a replica with this vector lacks. O(answer + origins that differ).

    With `bytes_max` it ends early, between batches; it holds at least one batch, so asking again
    always makes progress. Own events come first: they include the removals that perhaps nobody else
    has heard of, and a piece covers what they removed without saying so.
    """
    lacking = _histories(state, seen)
    below = _below_floor(lacking, seen)
    if below is not None:
        raise below
    answer = _Answer(state, bytes_max, pieces=pieces)
    for origin, log, last in sorted(lacking, key=lambda each: (each[0] != state.replica, each[0])):
        after = seen.get(origin, 0)
        while after < last:
            end = answer.add(origin, log, after, last)
            if end == after or (end < last and not pieces):
                return Delta(tuple(answer.runs))
            after = end
    return Delta(tuple(answer.runs))


def can_tell(state: State, seen: Mapping[str, int]) -> bool:
    """Whether a replica with this vector can be told by events what it lacks. O(origins lacked)."""
    return _below_floor(_histories(state, seen), seen) is None


def _below_floor(
    lacking: Iterable[tuple[str, OriginLog, int]], seen: Mapping[str, int]
) -> BelowFloorError | None:
    for origin, log, _ in lacking:
        asked = seen.get(origin, 0)
        if asked < log.floor:
            return BelowFloorError(origin, log.floor, asked)
    return None


class _Answer:
    """The runs of an answer so far, and the room that is left for more."""

    __slots__ = ("encodings", "limited", "pieces", "room", "runs", "state")

    def __init__(self, state: State, bytes_max: int | None, *, pieces: bool) -> None:
        self.state = state
        self.encodings = state.live.encodings
        self.limited = bytes_max is not None
        self.room = bytes_max if bytes_max is not None else 1 << 62
        self.pieces = pieces
        self.runs: list[Run] = []

    def add(self, origin: str, log: OriginLog, after: int, last: int) -> int:
        """A run of the events (after, last], or a piece of it; where that ends."""
        if self.limited:
            self.room -= RUN_BYTES + len(origin)
            if self.room < 0 and self.runs:
                return after
        kept = self.encodings.find(log.base + after)
        if kept is not None and self._is_wanted(kept, log, after, last):
            self.encodings.give(kept)
            end = kept.last & SEQ_MAX
            self.runs.append(Run(origin, after + 1, end, None, admitted=True, piece=kept))
            self.room -= kept.weight or 0
            return end
        if self.pieces:
            if kept is not None and self.runs and (kept.weight or 0) > self.room:
                return after  # the next answer begins with it
            upto = self.encodings.next_end(log.base + after, log.base + last, PIECE_WEIGHT_MIN)
            last = upto & SEQ_MAX
        events: Iterable[Fields] = _events(self.state, log, after, last)
        end, weight = last, None
        if self.limited:
            first = not self.runs
            events, end, weight = _fill(events, log, (after, last), self.room, at_least_one=first)
        if end > after:
            batches = log.batches_between(after + 1, end)
            run = Run(origin, after + 1, end, tuple(events), batches, admitted=True)
            run.piece = self._to_keep(log, run, weight, cut=end < last)
            self.runs.append(run)
        self.room -= weight or 0
        return end

    def _is_wanted(self, piece: Piece, log: OriginLog, after: int, last: int) -> bool:
        """Whether a piece of the events behind a seq is what would be built now, or will do."""
        fits = not self.limited or (piece.weight is not None and piece.weight <= self.room)
        if not self.runs and self.limited:
            batch = log.batch_around(after + 1)
            whole = batch is not None and log.base + batch[1] == piece.last
            if piece.room == self.room or (whole and not fits):  # at least one batch is given
                return True
        wanted = piece.last == log.base + last or (
            self.pieces and piece.weight is not None and piece.weight >= PIECE_WEIGHT_MIN
        )
        return fits and wanted

    def _to_keep(self, log: OriginLog, run: Run, weight: int | None, *, cut: bool) -> Piece | None:
        """Where the bytes of a run will be kept; None: nowhere."""
        after = log.base + run.first - 1
        before = self.encodings.find(after) or self.encodings.around(after)
        lighter = before is not None and (before.weight or 0) > (weight or 0)
        if lighter or log.batch_around(run.first - 1) is not None:
            return None
        room = self.room if cut and not self.runs else None
        return self.encodings.keep(Piece(after, log.base + run.last, len(run.rows), weight, room))


def _fill(
    events: Iterable[Fields],
    log: OriginLog,
    span: tuple[int, int],
    room: int,
    *,
    at_least_one: bool,
) -> tuple[list[Fields], int, int]:
    """The events of (after, last] that fit, where they end, and what they weigh.

    Events are taken as they are needed: of a long history only the part that leaves is built.
    """
    after, end = span
    kept: list[Fields] = []
    ends: list[int] = []
    weight = 0
    for event in events:
        if event[0] > end:
            break
        weight += weight_of(event)
        if weight > room and end == span[1]:
            end = _cut_before(log, event[0], after, at_least_one=at_least_one)
        kept.append(event)
        ends.append(weight)
    while kept and kept[-1][0] > end:
        kept.pop()
        ends.pop()
    return kept, end, ends[-1] if ends else 0


def _histories(state: State, seen: Mapping[str, int]) -> list[tuple[str, OriginLog, int]]:
    """Every origin with more than was seen, what is left of it, and how far it was applied.

    By the applied vector, not by the logs: of an origin whose every entry is dead nothing may be
    left to retell, and that is what its events have come to.
    """
    vector, history = state.applied.vector, state.live.history
    return [(origin, history(origin), seq) for origin, seq in vector.above(seen).items()]


def _cut_before(log: OriginLog, seq: int, after: int, *, at_least_one: bool) -> int:
    """Where a run ends that has no room for an event: before its batch, if that is progress."""
    batch = log.batch_around(seq - 1) or log.batch_around(seq) or (seq, seq)
    if batch[0] - 1 > after or not at_least_one:
        return max(batch[0] - 1, after)
    return batch[1]


def _events(state: State, log: OriginLog, after: int, last: int) -> Iterator[Fields]:
    """The events in (after, last] that have something to say, ascending, built one by one."""
    entry_of, base = state.live.entry, log.base
    recorded = log.kills.between(after, last)
    killer, killed = next(recorded, _END)
    for seq, container, step in log.slots(after + 1, last):
        entry = entry_of(container, step, base + seq)
        if entry is None:
            continue
        while killer < seq:
            yield killer, None, LEAF, 0, None, killed
            killer, killed = next(recorded, _END)
        mine: tuple[Range, ...] = ()
        if killer == seq:
            mine = killed
            killer, killed = next(recorded, _END)
        yield seq, container.path, step, entry[1], entry[2], mine
    while killed:
        yield killer, None, LEAF, 0, None, killed
        killer, killed = next(recorded, _END)


def documents_since(state: State, seen: Mapping[str, int]) -> tuple[set[Path], bool]:
    """The documents that changed after a vector, and whether these are all. O(events + kills).

    Events beyond a gap are among them: a vector cannot say that they were seen. The documents are
    not all if removal records are gone, or were never here (a state told that something is dead,
    and not by what), or if what was removed is so long dead that nothing tells where it was.
    """
    places: set[Path] = set()
    killers: dict[_Dot, tuple[Range, ...]] = {}
    complete = True
    for origin in state.context.seqs.keys() | state.context.clouds.keys():
        log, after = state.live.history(origin), seen.get(origin, 0)
        last = max(state.context.last_seq(origin), state.context.seqs.get(origin, 0))
        if after < last:
            complete = complete and after >= log.floor and _is_applied(state, origin, after, last)
            places.update(slot[1].path[:2] for slot in log.slots(after + 1, last))
            for seq, kills in log.kills.between(after, last):
                killers[origin, seq] = kills
    place_of = {dot: _place_of(state, dot, kills) for dot, kills in killers.items()}
    wide = {dot for dot, kills in killers.items() if _is_wide(state, dot, kills)}
    links = _links(killers)
    known = [dot for dot, place in place_of.items() if place is not None and dot not in wide]
    while known:
        dot = known.pop()
        for linked in links.get(dot, ()):
            if place_of[linked] is None and linked not in wide:
                place_of[linked] = place_of[dot]
                known.append(linked)
    places.update(place for place in place_of.values() if place is not None)
    for dot in wide:
        told, all_told = _places_of(state, killers[dot])
        places.update(told)
        complete = complete and all_told
    return places, complete and None not in place_of.values()


def _is_wide(state: State, dot: _Dot, kills: tuple[Range, ...]) -> bool:
    """Whether an event may have touched several documents: many dots killed, nothing written."""
    many = len(kills) > 1 or kills[0][1] < kills[0][2]
    return many and state.live.history(dot[0]).find(dot[1]) is None


def _is_applied(state: State, origin: str, after: int, last: int) -> bool:
    """Whether every event seen in (after, last] was applied, and not only known to be dead."""
    if state.context is state.applied:
        return True
    applied = state.applied
    return all(
        next(applied.missing(origin, max(low, after + 1), high), None) is None
        for _, low, high in _ranges_of(state, origin)
        if high > after and low <= last
    )


def _ranges_of(state: State, origin: str) -> Iterator[Range]:
    reached, cloud = state.context.seqs.get(origin, 0), state.context.clouds.get(origin)
    if reached:
        yield origin, 1, reached
    for low, high in cloud.ranges() if cloud is not None else ():
        yield origin, low, high


def _places_of(state: State, kills: Iterable[Range]) -> tuple[set[Path], bool]:
    """The documents of some dead dots, and whether each dot still has its place."""
    places: set[Path] = set()
    complete = True
    for origin, first, last in kills:
        found = 0
        for _, container, _ in state.live.history(origin).slots(first, last):
            places.add(container.path[:2])
            found += 1
        complete = complete and found == last - first + 1
    return places, complete


def _links(killers: Mapping[_Dot, Iterable[Range]]) -> dict[_Dot, list[_Dot]]:
    """Which of these events killed one another, both ways. O(events + links)."""
    seqs_of: dict[str, list[int]] = {}
    for origin, seq in sorted(killers):
        seqs_of.setdefault(origin, []).append(seq)
    links: dict[_Dot, list[_Dot]] = {}
    for dot, kills in killers.items():
        for origin, first, last in kills:
            seqs = seqs_of.get(origin, [])
            for seq in seqs[bisect_left(seqs, first) : bisect_right(seqs, last)]:
                links.setdefault(dot, []).append((origin, seq))
                links.setdefault((origin, seq), []).append(dot)
    return links


def _place_of(state: State, dot: _Dot, kills: Iterable[Range]) -> Path | None:
    """The document in which an event happened, by its own entry or one that it killed, or None."""
    for origin, first, last in ((dot[0], dot[1], dot[1]), *kills):
        for _, container, _ in state.live.history(origin).slots(first, last):
            return container.path[:2]
    return None

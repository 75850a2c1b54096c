"""One kernel as bytes and back: everything that a restart needs.

A snapshot is a head (both contexts, clock, floors, records, batches, which chunks of incomplete
sets are here) followed by the live entries in the same columns as chunks, in pieces so that no
envelope grows beyond its limit, and by the chunks kept aside, as they are. Reading one gives a
kernel that continues where the other stopped: same answers, same refusals, same future.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crdt.errors import DecodeError, IdentityReusedError
from crdt.kernel.change import Touched
from crdt.kernel.chunk import Aside, Chunk, pack_content, split_span, unpack_content
from crdt.kernel.codec import pack, unpack_body
from crdt.kernel.context import CausalContext, Range
from crdt.kernel.doomed import BLOCK_BITS
from crdt.kernel.envelope import seal, unseal
from crdt.kernel.join import doomed_ranges, join_span, spans_of
from crdt.kernel.limits import SEQ_BITS, SEQ_MAX, STAMP_MAX
from crdt.kernel.record import Records, Stretch
from crdt.kernel.state import CHUNK_SETS_MAX, State
from crdt.kernel.transfer import make_room
from crdt.kernel.wire import Span, names_of, naturals, pack_ranges, parts, pick, unpack_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crdt.kernel.live import OriginLog

PIECE_BYTES = 16 << 20  # of entries per envelope, before compression


def to_bytes(state: State, *, records: bool, only: str) -> bytes:
    """The whole kernel. O(n). Without records they are given up, as under `drop_records`."""
    head = seal("s", pack(_head(state, only, records=records)))
    pieces = [head]
    for span in spans_of(state):
        for part, _ in split_span(span, PIECE_BYTES):
            if part.seqs:
                pieces.append(seal("e", pack(pack_content([part], ()))))
    for came in state.chunk_sets.values():
        pieces += [chunk.encode() for _, chunk in sorted(came.chunks.items())]
    return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


def from_bytes(state: State, data: bytes) -> str:
    """Fill an empty state; returns the type of the one document in it, "" if any may be there.

    Raises:
        DecodeError: not the bytes of a kernel.
        IdentityReusedError: the bytes know events of `state.replica` that they do not hold in full,
            so they cannot be a snapshot of its own life.
    """
    pieces = list(_pieces(data))
    if not pieces:
        raise DecodeError("no snapshot in here")
    head = unpack_body(unseal("s", pieces[0]))
    owners = head.pop() if type(head) is list and len(head) == 10 else []
    head = parts(head, (str, *[list] * 8))
    _, names, applied, context, doomed, clock, logs, sets, only = head
    type_name = _one_type(only)
    origins = names_of(names)
    touched = Touched(state.live)
    state.split_contexts()  # so that the context says what the pieces hold
    aside = sum(len(item) - 1 for item in sets if type(item) is list)
    rest = len(pieces) - aside
    if rest < 1:
        raise DecodeError("chunks are missing")
    for piece in pieces[1:rest]:
        spans, _ = unpack_content(unpack_body(unseal("e", piece)))
        for span in spans:
            _load_span(state, span, touched)
    state.applied = CausalContext({}, unpack_ranges(applied, origins))
    seen = CausalContext({}, unpack_ranges(context, origins))
    if not (state.applied <= seen and state.context <= seen):
        raise DecodeError("a snapshot with entries or effects that it has not seen")
    state.context = state.applied if seen == state.applied else seen
    _load_logs(state, logs, origins)
    _load_sets(state, sets, [Chunk.decode(piece) for piece in pieces[rest:]])
    _load_doomed(state, unpack_ranges(doomed, origins), seen)
    _load_owners(state, owners, origins)
    _load_clock(state, clock)
    own, last = state.applied.seqs.get(state.replica, 0), state.context.last_seq(state.replica)
    if own != last:
        raise IdentityReusedError(state.replica, last, own)
    return type_name


def _head(state: State, only: str, *, records: bool) -> list[Any]:
    names: dict[str, int] = {}
    applied = pack_ranges(tuple(state.applied.ranges()), names)
    context = pack_ranges(tuple(state.context.ranges()), names)
    doomed = pack_ranges(doomed_ranges(state), names)
    clock = [state.clock.last, state.clock.ceiling]
    logs: list[Any] = []
    for origin, log in sorted(zip(state.live.names, state.live.logs, strict=True)):
        kept = log.kills if records else Records()
        floor = log.floor if records else max(log.floor, log.kills.copy().drop(SEQ_MAX))
        stretches = [part for known in kept.stretches() for part in _pack_stretch(known, names)]
        odd = [[seq, pack_ranges(killed, names)] for seq, killed in kept.odd()]
        batches = [bound for batch in log.batches for bound in batch if batch[1] > floor]
        if floor or kept or batches:
            origin_index = names.setdefault(origin, len(names))
            logs.append([origin_index, floor, stretches, odd, batches])
    sets = [[set_id, *sorted(came.chunks)] for set_id, came in state.chunk_sets.items()]
    types = [only] if only else []
    owners = _pack_owners(state, names)
    rest = [owners] if owners else []
    return [state.replica, list(names), applied, context, doomed, clock, logs, sets, types, *rest]


def _pack_owners(state: State, names: dict[str, int]) -> list[Any]:
    """On whose account dots are doomed: [owner, ranges, ...]; on nobody's is left out."""
    ranges: dict[str, list[Range]] = {}
    for index in state.doomed.origins():
        for owner, first, last in state.doomed.owned(index):
            ranges.setdefault(owner, []).append((state.live.names[index], first, last))
    ranges.pop("", None)
    packed = sorted((owner, sorted(owned)) for owner, owned in ranges.items())
    return [part for owner, owned in packed for part in (owner, pack_ranges(tuple(owned), names))]


def _load_doomed(state: State, doomed: tuple[Range, ...], seen: CausalContext) -> None:
    for origin, first, last in doomed:
        room, blocks = state.room_to_doom("")
        if last - first >= room or (last - first) >> BLOCK_BITS >= blocks:
            raise DecodeError("more doomed dots than there may be")
        if [(first, last)] != list(seen.missing(origin, first, last)):
            raise DecodeError("a dot that is doomed and seen")
        state.doom(state.live.base(origin), first, last)


def _load_owners(state: State, owners: Any, names: list[str]) -> None:
    """Put doomed dots on the accounts that they were on."""
    if type(owners) is not list or len(owners) % 2 or not {str}.issuperset(map(type, owners[::2])):
        raise DecodeError("an account without its doomed dots")
    for owner, flat in zip(owners[::2], owners[1::2], strict=True):
        for origin, first, last in unpack_ranges(flat, names):
            index = state.live.bases.get(origin, -1) >> SEQ_BITS
            if state.doomed.ranges(index, first, last) != [(first, last)]:
                raise DecodeError("an account of dots that are not doomed")
            state.doomed.cover(index, first, last)
            state.doomed.add(index, first, last, owner)


def _one_type(types: list[Any]) -> str:
    if len(types) > 1 or not {str}.issuperset(map(type, types)):
        raise DecodeError("a snapshot is of documents of one type, or of any")
    return str(types[0]) if types else ""


def _pieces(data: bytes) -> Iterator[bytes]:
    if type(data) is not bytes:
        raise DecodeError("a snapshot is bytes")
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        piece = data[start + 4 : start + 4 + size]
        if len(piece) != size:
            raise DecodeError("the snapshot is cut")
        yield piece
        start += 4 + size


def _load_span(state: State, span: Span, touched: Touched) -> None:
    if span.first <= state.context.last_seq(span.origin):
        raise DecodeError("two pieces of a snapshot hold the same events")
    join_span(state, span, touched)


def _load_logs(state: State, logs: list[Any], origins: list[str]) -> None:
    for item in logs:
        index, floor, stretches, odd, batches = parts(item, (int, int, list, list, list))
        origin = pick(origins, index)
        log = state.live.log(origin)
        if log.kills or log.floor or log.batches:
            raise DecodeError("the records of one origin in two places")
        (log.floor,) = naturals([floor])
        bounds = naturals(batches)
        if len(bounds) % 2:
            raise DecodeError("batches come in pairs")
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            if not 1 <= first < last:
                raise DecodeError("a batch of fewer than two events")
            log.mark_batch(first, last)
        _load_stretches(log, stretches, origins, seen=state.context.last_seq(origin))
        for record in odd:
            seq, killed = parts(record, (int, list))
            naturals([seq])
            state.record(origin, seq, _known(unpack_ranges(killed, origins)))


def _pack_stretch(stretch: Stretch, names: dict[str, int]) -> list[int]:
    origin = names.setdefault(stretch.origin, len(names))
    return [*stretch[:3], origin, *stretch[4:]]


def _load_stretches(log: OriginLog, packed: list[Any], origins: list[str], seen: int) -> None:
    if len(packed) % 7 or not {int}.issuperset(map(type, packed)):
        raise DecodeError("stretches of records come in sevens")
    free = log.floor + 1
    for start in range(0, len(packed), 7):
        first, count, gap, index, low, step, width = packed[start : start + 7]
        stretch = Stretch(first, count, gap, pick(origins, index), low, step, width)
        if not (free <= first <= SEQ_MAX and 1 <= count <= SEQ_MAX and 1 <= gap <= SEQ_MAX):
            raise DecodeError("a stretch of records out of order")
        ends = low, low + step * (count - 1)
        if (
            stretch.last > seen
            or abs(step) > SEQ_MAX
            or not 1 <= min(ends) <= max(ends) + width <= SEQ_MAX
            or width < 0
        ):
            raise DecodeError("a stretch of records out of range")
        log.records_to_fill().append(stretch)
        free = stretch.last + 1


def _known(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    if not ranges:
        raise DecodeError("a record that kills nothing")
    return ranges


def _load_sets(state: State, sets: list[Any], chunks: list[Chunk]) -> None:
    if len(sets) > CHUNK_SETS_MAX:
        raise DecodeError("more chunk sets than there may be")
    for item in sets:
        if type(item) is not list or not item or type(item[0]) is not bytes:
            raise DecodeError("a chunk set without its id")
        came = {chunk.index: chunk for chunk in chunks if chunk.set_id == item[0]}
        if sorted(came) != naturals(item[1:]) or not came:
            raise DecodeError("a chunk set without its chunks")
        one = next(iter(came.values()))
        if any((c.count, c.vector) != (one.count, one.vector) for c in came.values()):
            raise DecodeError("chunks that contradict each other about their set")
        if len(came) == one.count:
            raise DecodeError("a chunk set that is complete and was not joined")
        _load_set(state, item[0], came)


def _load_set(state: State, set_id: bytes, came: dict[int, Chunk]) -> None:
    """Keep a set aside, unless it alone is more than there may be: then it is forgotten."""
    aside = Aside()
    for chunk in came.values():
        aside.keep(chunk)
        if aside.memory_bytes > state.chunks_aside_bytes_max:
            state.chunks_forgotten += len(came)
            return
    state.chunk_sets[set_id] = aside
    make_room(state, set_id)


def _load_clock(state: State, clock: list[Any]) -> None:
    last, ceiling = parts(naturals(clock, STAMP_MAX), (int, int))
    state.clock.last = max(last, ceiling, state.clock.last)
    state.clock.ceiling = ceiling

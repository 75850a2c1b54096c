"""State transfer: a state leaves in chunks, and chunks come in as a state.

Bootstrap, repair, snapshot and canonical bytes are this one mechanism. `cut` makes a set of chunks;
`take` keeps its chunks aside, in any order and repeated, and joins the set when it is complete.
Earlier is unsound in both directions, because a piece of state is not closed under causality: it
may cover a removal whose victim is in another chunk, or show as dead what a removal in another
chunk has killed, or hold an entry that no peer of the receiver will ever hear of. Should the donor
then disappear, replicas with equal vectors would differ for ever. A whole set is a state like any
other, and joining it is a merge (`join`).

The id of a set is a hash of its content. That lets a receiver finish with one donor what it began
with another, and pass over a set unopened when it has joined or cut the same one before: what it
would say is part of the state already, for states only grow. The hash is checked when a set is
joined, so no set goes by the id of another.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import zip_longest
from typing import TYPE_CHECKING

from crdt.errors import ChunksAsideFullError, DecodeError
from crdt.kernel.change import UNCHANGED, Change, Touched
from crdt.kernel.chunk import (
    ENTRY_BYTES,
    Aside,
    Chunk,
    ChunkSet,
    id_of,
    pack_content,
    pieces_of,
    slices_of,
)
from crdt.kernel.codec import pack
from crdt.kernel.context import CausalContext
from crdt.kernel.envelope import BODY_BYTES_MAX, seal, unseal
from crdt.kernel.join import (
    doomed_ranges,
    join_doomed,
    join_span,
    refuse_doomed,
    refuse_own,
    refuse_spans,
    spans_of,
)
from crdt.kernel.state import CHUNK_SETS_MAX, State

if TYPE_CHECKING:
    from crdt.kernel.context import Dot, Range, VersionVector
    from crdt.kernel.wire import Span


def cut(state: State, bytes_max: int) -> ChunkSet:
    """Cut the state into chunks of about `bytes_max` bytes before compression. O(n)."""
    return cut_spans(spans_of(state), doomed_ranges(state), state.applied.vector, bytes_max)


def cut_spans(
    spans: list[Span], killed: tuple[Range, ...], vector: VersionVector, bytes_max: int
) -> ChunkSet:
    """A set of chunks that says this, and raises whoever joins it to that vector. O(entries)."""
    bytes_max = min(bytes_max, BODY_BYTES_MAX // 2)  # more than about that nobody would take
    bodies: list[bytes] = []
    if ENTRY_BYTES * sum(len(span.seqs) for span in spans) <= bytes_max:
        bodies = [pack(pack_content(spans, killed))]  # to pack them is cheaper than to weigh them
    if not bodies or len(bodies[0]) > bytes_max:
        share = bytes_max // 2 if killed else bytes_max  # of the live entries in each chunk
        parted = zip_longest(pieces_of(spans, share), slices_of(killed, bytes_max - share))
        bodies = [pack(pack_content(piece or [], dead or ())) for piece, dead in parted]
    set_id = id_of([blake2b(body, digest_size=16).digest() for body in bodies], vector)
    chunks = tuple(
        Chunk(set_id, index, len(bodies), vector, seal("e", body))
        for index, body in enumerate(bodies)
    )
    return ChunkSet(set_id, vector, chunks)


def canonical_bytes(state: State) -> bytes:
    """Live entries, context and doomed dots, and nothing else, in one form. O(n)."""
    return pack(pack_content(spans_of(state), doomed_ranges(state)))


def take(state: State, chunk: Chunk, contradicted: set[Dot] | None = None) -> Change:
    """Keep one chunk aside; the last one of a set joins it whole. Atomic. O(chunk), then O(set).

    A refused chunk is not kept; the others of its set are. Chunks that differ from the kept ones in
    what they say about their set begin it anew. Where room is wanting, other sets are forgotten,
    the oldest first: they are not part of the state, and may come again.
    """
    if chunk.set_id in state.known_sets:
        return UNCHANGED
    if chunk.count == 1 and chunk.vector == state.applied.vector and _is_ours(state, chunk):
        _forget_aside(state, chunk.set_id)
        return UNCHANGED
    came = state.chunk_sets.get(chunk.set_id)
    if came is None or (came.any.count, came.any.vector) != (chunk.count, chunk.vector):
        came = Aside()
    complete = len(came.chunks) + (chunk.index not in came.chunks) == chunk.count
    news = _refuse(state, [chunk], contradicted)
    if complete:
        whole = [came.chunks.get(index, chunk) for index in range(chunk.count)]
        news = news if len(whole) == 1 else _refuse(state, whole, contradicted)
        change = _join(state, whole, news)
        if contradicted:  # not all that it says is part of the state: it is looked into again
            state.known_sets.remove(chunk.set_id)
        return change
    size, bytes_max = came.with_chunk(chunk), state.chunks_aside_bytes_max
    if size > bytes_max:
        raise ChunksAsideFullError(chunk.set_id, size, bytes_max)
    came.keep(chunk)
    state.chunk_sets[chunk.set_id] = came
    make_room(state, chunk.set_id)
    return UNCHANGED


def make_room(state: State, newest: bytes) -> None:
    """Forget sets kept aside, the oldest first and the newest never, until they fit. O(sets)."""
    sets = state.chunk_sets
    for key in [key for key in sets if key != newest]:
        together = sum(came.memory_bytes for came in sets.values())
        if len(sets) <= CHUNK_SETS_MAX and together <= state.chunks_aside_bytes_max:
            return
        state.chunks_forgotten += len(sets.pop(key).chunks)


def _is_ours(state: State, chunk: Chunk) -> bool:
    """Whether a set of one chunk is what we would cut. O(n), but less than to open theirs."""
    body = unseal("e", chunk.content)
    digest = blake2b(body, digest_size=16).digest()
    return body == canonical_bytes(state) and id_of([digest], chunk.vector) == chunk.set_id


def _refuse(state: State, chunks: list[Chunk], contradicted: set[Dot] | None) -> list[Span]:
    """Raise what `Kernel.apply_chunk` may raise, else say which spans differ from what is here."""
    contents = [chunk.open() for chunk in chunks]
    ranges = [covered for chunk in chunks for covered in chunk.ranges]
    doomed = [killed for content in contents for killed in content.doomed]
    refuse_own(state, ranges)
    refuse_own(state, doomed)
    refuse_own(state, ((origin, 1, seq) for origin, seq in chunks[0].vector.items()))
    spans = [span for content in contents for span in content.spans]
    news = refuse_spans(state, spans, contradicted)
    refuse_doomed(state, doomed, ranges)
    return news


def _join(state: State, whole: list[Chunk], news: list[Span]) -> Change:
    """Join a complete set: its entries, its doomed dots, and its sender's vector."""
    set_id, vector = whole[0].set_id, whole[0].vector
    covered = CausalContext({}, (known for chunk in whole for known in chunk.ranges))
    if not vector <= covered.seqs:
        raise DecodeError("a set whose vector claims events that it does not cover")
    if id_of([chunk.open().digest for chunk in whole], vector) != set_id:
        state.chunk_sets.pop(set_id, None)
        raise DecodeError("a set that is not the one its id says; its chunks are forgotten")
    touched, before = Touched(state.live), state.moment()
    try:
        state.split_contexts()
        for span in news:
            join_span(state, span, touched)
        for known in covered.ranges():
            state.cover_range(*known)
        for chunk in whole:
            join_doomed(state, chunk.open().doomed, touched)
        _rise(state, vector)
        _forget_aside(state, set_id)
        state.unite_contexts()
    except BaseException:
        before.go_back(touched)
        raise
    before.over()
    if state.replaced is not None:
        state.replaced.joined(touched)
    return touched.change()


def _forget_aside(state: State, set_id: bytes) -> None:
    """A set is part of the state: nothing is kept aside of it, or of sets that say no more."""
    state.know_set(set_id)
    state.chunk_sets.pop(set_id, None)
    for other in [key for key, came in state.chunk_sets.items() if _known(state, came)]:
        del state.chunk_sets[other]


def _known(state: State, came: Aside) -> bool:
    """Whether an incomplete set has become useless: its vector is reached by another way.

    A set without a vector raises nobody; it says which entries are dead (`blocks`).
    """
    return bool(came.any.vector) and came.any.vector <= state.applied.seqs


def _rise(state: State, vector: VersionVector) -> None:
    """All that the sender had applied is here now; how it came about cannot be retold."""
    for origin, seq in vector.items():
        if seq > state.applied.seqs.get(origin, 0):
            log = state.live.log(origin)
            log.drop_records(seq)
            log.floor = max(log.floor, seq)
            state.apply_range(origin, 1, seq)

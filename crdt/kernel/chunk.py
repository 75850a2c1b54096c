"""The state in pieces: bootstrap, repair, snapshot and canonical bytes are one mechanism.

A chunk is a few dot ranges `(replica, first..last)` with the entries alive in them, and its context
is exactly these ranges. Chunks of a set may come in any order and repeated; the receiver keeps them
aside, and joins the set when it is complete. Earlier is unsound in both directions, because a piece
of state is not closed under causality: it may cover a removal whose victim is in another chunk, or
show as dead what a removal in another chunk has killed, or hold an entry that no peer of the
receiver will ever hear of. Should the donor then disappear, replicas with equal vectors would
differ for ever. A whole set is a state like any other, and joining it is a merge (`join`).

The id of a set is a hash of its content: equal states cut alike give equal sets. That lets a
receiver finish with one donor what it began with another, and pass over a set unopened when it has
joined or cut the same one before: what it would say is part of the state already, for states only
grow. The hash is checked when a set is joined, so no set goes by the id of another.

A chunk travels closed, its entries in an envelope of their own, and is opened where it is taken.

Entries travel as columns: seqs as run lengths, paths as indices with run lengths, stamps as
differences; then zlib. That is also why a chunk is cut by seq and not by document: the newest
events of an origin lie together.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, repeat, zip_longest
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.errors import ChunksAsideFullError, DecodeError
from crdt.kernel.change import UNCHANGED, Change, Touched
from crdt.kernel.codec import Stored, pack, unpack_body
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
from crdt.kernel.kind import Path, pack_path, unpack_path
from crdt.kernel.state import CHUNK_SETS_MAX, State
from crdt.kernel.wire import (
    Span,
    names_of,
    pack_ranges,
    pack_span,
    parts,
    unpack_ranges,
    unpack_span,
    unpack_vector,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crdt.kernel.context import Range, VersionVector

CHUNKS_MAX = 1 << 20  # in one set
_ENTRY_BYTES = 12  # of an entry beyond its key and value, before compression
# Of an opened chunk beyond its bytes, per piece of it: measured in CPython, generously.
_ENTRY_MEMORY, _SPAN_MEMORY, _STEP_MEMORY, _RANGE_MEMORY = 320, 1024, 64, 256


class Opened(NamedTuple):
    """What is in a chunk, the hash of it, and the memory that it takes, rather too much."""

    spans: tuple[Span, ...]
    doomed: tuple[Range, ...]
    digest: bytes
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a set: `index` of `count`, the sender's applied vector, and spans of entries."""

    set_id: bytes
    index: int
    count: int
    vector: VersionVector
    content: bytes  # an envelope of kind "e"
    _opened: list[Opened] = field(default_factory=list, init=False, repr=False, compare=False)

    def open(self) -> Opened:
        """Its entries; DecodeError if there are none in it. O(size), the first time."""
        if not self._opened:
            body = unseal("e", self.content)
            content = unpack_body(body)
            spans, doomed = unpack_content(content)
            memory = 2 * len(body) + len(self.content) + _RANGE_MEMORY * len(doomed)
            memory += _SPAN_MEMORY * len(spans) + _STEP_MEMORY * sum(map(len, content[1]))
            memory += _ENTRY_MEMORY * sum(len(span.seqs) for span in spans)
            digest = blake2b(body, digest_size=16).digest()
            self._opened.append(Opened(spans, doomed, digest, memory))
        return self._opened[0]

    @property
    def memory_bytes(self) -> int:
        """What it takes while it is kept aside, open: never less than it does. O(1) once open."""
        return self.open().memory_bytes

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The dots it covers: (origin, first, last), inclusive."""
        return tuple((span.origin, span.first, span.last) for span in self.open().spans)

    def encode(self) -> bytes:
        """Its bytes. O(size). Equal chunks give equal bytes."""
        vector = [part for item in sorted(self.vector.items()) for part in item]
        body = pack([self.set_id, self.index, self.count, vector, self.content])
        return seal("c", body, compress=False)

    @staticmethod
    def decode(data: bytes) -> Chunk:
        """The chunk of such bytes, closed; raises DecodeError for all others. O(origins)."""
        set_id, index, count, flat, content = parts(
            unpack_body(unseal("c", data)), (bytes, int, int, list, bytes)
        )
        if len(set_id) != 16 or not 0 <= index < count <= CHUNKS_MAX:
            raise DecodeError("a chunk that belongs to no set")
        return Chunk(set_id, index, count, unpack_vector(flat), content)


@dataclass(slots=True)
class Aside:
    """The chunks of one incomplete set so far, by index, and the memory that they take."""

    chunks: dict[int, Chunk] = field(default_factory=dict)
    memory_bytes: int = 0

    @property
    def any(self) -> Chunk:
        """One of them: what it says about its set, all say."""
        return next(iter(self.chunks.values()))

    def with_chunk(self, chunk: Chunk) -> int:
        """The memory that they would take with this one."""
        known = self.chunks.get(chunk.index)
        return self.memory_bytes + chunk.memory_bytes - (known.memory_bytes if known else 0)

    def keep(self, chunk: Chunk) -> None:
        """Keep it, in place of one of the same index. O(1)."""
        self.memory_bytes = self.with_chunk(chunk)
        self.chunks[chunk.index] = chunk

    def copy(self) -> Aside:
        """Another one of the same chunks. O(chunks)."""
        return Aside(dict(self.chunks), self.memory_bytes)


def id_of(digests: list[bytes], vector: VersionVector) -> bytes:
    """The id of the set whose chunks have these digests."""
    claim = repr(sorted(vector.items())).encode()
    return blake2b(b"".join(digests) + claim, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class ChunkSet:
    """A state cut at one moment: applying all chunks, in any order, makes a replica know it."""

    id: bytes
    vector: VersionVector
    chunks: tuple[Chunk, ...]


def cut(state: State, bytes_max: int) -> ChunkSet:
    """Cut the state into chunks of about `bytes_max` bytes before compression. O(n)."""
    bytes_max = min(bytes_max, BODY_BYTES_MAX // 2)  # more than about that nobody would take
    spans, vector, killed = spans_of(state), state.applied.vector, doomed_ranges(state)
    bodies: list[bytes] = []
    if _ENTRY_BYTES * sum(len(span.seqs) for span in spans) <= bytes_max:
        bodies = [pack(pack_content(spans, killed))]  # to pack them is cheaper than to weigh them
    if not bodies or len(bodies[0]) > bytes_max:
        share = bytes_max // 2 if killed else bytes_max  # of the live entries in each chunk
        parted = zip_longest(_pieces(spans, share), _slices(killed, bytes_max - share))
        bodies = [pack(pack_content(piece or [], dead or ())) for piece, dead in parted]
    set_id = id_of([blake2b(body, digest_size=16).digest() for body in bodies], vector)
    chunks = tuple(
        Chunk(set_id, index, len(bodies), vector, seal("e", body))
        for index, body in enumerate(bodies)
    )
    return ChunkSet(set_id, vector, chunks)


def _slices(killed: tuple[Range, ...], bytes_max: int) -> list[tuple[Range, ...]]:
    width = max(1, len(killed) * bytes_max // len(pack(pack_ranges(killed, {}))))
    return [killed[start : start + width] for start in range(0, len(killed), width)]


def _pieces(spans: list[Span], bytes_max: int) -> list[list[Span]]:
    pieces: list[list[Span]] = [[]]
    room = bytes_max
    for span in spans:
        for part, size in split_span(span, bytes_max):
            if size > room and pieces[-1]:
                pieces.append([])
                room = bytes_max
            pieces[-1].append(part)
            room -= size
    return pieces


def split_span(span: Span, bytes_max: int) -> Iterator[tuple[Span, int]]:
    """Cut a span between seqs so that each part weighs about bytes_max, its size beside it."""
    head = 16 + len(span.origin)
    sizes = map(add, _sizes(span.steps), _sizes(span.values))
    ends = list(accumulate(map(add, sizes, _overheads(span.paths))))
    first, start, before = span.first, 0, 0
    while ends and head + ends[-1] - before > bytes_max:
        stop = max(start + 1, bisect_right(ends, before + bytes_max - head))
        if stop == len(ends):
            break
        size = head + ends[stop - 1] - before
        yield _part(span, first, span.seqs[stop] - 1, start, stop), size
        first, start, before = span.seqs[stop], stop, ends[stop - 1]
    size = head + (ends[-1] - before if ends else 0)
    yield _part(span, first, span.last, start, len(ends)) if start else span, size


def _part(span: Span, first: int, last: int, start: int, stop: int) -> Span:
    _, _, _, seqs, paths, steps, stamps, values = span
    cut_out = slice(start, stop)
    return Span(
        span.origin,
        first,
        last,
        seqs[cut_out],
        paths[cut_out],
        steps[cut_out],
        stamps[cut_out],
        values[cut_out],
    )


def _overheads(paths: list[Path]) -> Iterable[int]:
    """What each entry weighs beyond its step and value: its path too, where another one begins."""
    if not paths or paths.count(paths[0]) == len(paths):
        return repeat(_ENTRY_BYTES, len(paths))
    sizes = {path: _ENTRY_BYTES + sum(map(_size, path)) for path in set(paths)}
    return [
        _ENTRY_BYTES if path is before else sizes[path]
        for path, before in zip(paths, (None, *paths), strict=False)
    ]


def _size(part: Stored) -> int:
    if isinstance(part, str):
        return len(part) if part.isascii() else len(part.encode())
    if isinstance(part, bytes):
        return len(part)
    if isinstance(part, tuple):
        return len(part[0])
    return part.bit_length() // 8 if isinstance(part, int) else 8


def _sizes(column: list[Any]) -> Iterable[int]:
    types = set(map(type, column))
    if types == {bytes} or (types == {str} and all(map(str.isascii, column))):
        return map(len, column)
    if types == {int}:
        return repeat(max(map(int.bit_length, column)) // 8 + 1, len(column))
    return map(_size, column)


def take(state: State, chunk: Chunk) -> Change:
    """Keep one chunk aside; the last one of a set joins it whole. Atomic. O(chunk), then O(set).

    A refused chunk is not kept; the others of its set are. Chunks that differ from the kept ones in
    what they say about their set begin it anew. Where room is wanting, other sets are forgotten,
    the oldest first: they are no part of the state, and may come again.
    """
    if chunk.set_id in state.known_sets:
        return UNCHANGED
    if chunk.count == 1 and chunk.vector == state.applied.vector and _is_ours(state, chunk):
        _settle(state, chunk.set_id)
        return UNCHANGED
    came = state.chunk_sets.get(chunk.set_id)
    if came is None or (came.any.count, came.any.vector) != (chunk.count, chunk.vector):
        came = Aside()
    complete = len(came.chunks) + (chunk.index not in came.chunks) == chunk.count
    news = _refuse(state, [chunk])
    if complete:
        whole = [came.chunks.get(index, chunk) for index in range(chunk.count)]
        return _join(state, whole, news if len(whole) == 1 else _refuse(state, whole))
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


def _refuse(state: State, chunks: list[Chunk]) -> list[Span]:
    """Raise what `Kernel.apply_chunk` may raise, else say which spans differ from what is here."""
    contents = [chunk.open() for chunk in chunks]
    ranges = [covered for chunk in chunks for covered in chunk.ranges]
    doomed = [killed for content in contents for killed in content.doomed]
    refuse_own(state, ranges)
    refuse_own(state, doomed)
    refuse_own(state, ((origin, 1, seq) for origin, seq in chunks[0].vector.items()))
    news = refuse_spans(state, [span for content in contents for span in content.spans])
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
    touched = Touched(state.live)
    state.split_contexts()
    for span in news:
        join_span(state, span, touched)
    for known in covered.ranges():
        state.cover_range(*known)
    for chunk in whole:
        join_doomed(state, chunk.open().doomed, touched)
    _rise(state, vector)
    _settle(state, set_id)
    state.unite_contexts()
    return touched.change()


def _settle(state: State, set_id: bytes) -> None:
    """A set is part of the state: nothing is kept aside of it, or of sets that say no more."""
    state.know_set(set_id)
    state.chunk_sets.pop(set_id, None)
    for other in [key for key, came in state.chunk_sets.items() if _known(state, came)]:
        del state.chunk_sets[other]


def _known(state: State, came: Aside) -> bool:
    """Whether an incomplete set has become useless: its vector is reached by another way."""
    return came.any.vector <= state.applied.seqs


def _rise(state: State, vector: VersionVector) -> None:
    """All that the sender had applied is here now; how it came about cannot be retold."""
    for origin, seq in vector.items():
        if seq > state.applied.seqs.get(origin, 0):
            log = state.live.log(origin)
            log.drop_records(seq)
            log.floor = max(log.floor, seq)
            state.apply_range(origin, 1, seq)


# --------------------------------------------------------------------------------------- bytes


def canonical_bytes(state: State) -> bytes:
    """Live entries, context and doomed dots, and nothing else, in one form. O(n)."""
    return pack(pack_content(spans_of(state), doomed_ranges(state)))


def pack_content(spans: list[Span], doomed: tuple[Range, ...]) -> list[Any]:
    """Spans and doomed dots as columns over one table of names and one of paths."""
    names: dict[str, int] = {}
    paths: dict[Path, int] = {}
    columns = [pack_span(span, names, paths) for span in spans]
    killed = pack_ranges(doomed, names)
    return [list(names), list(map(pack_path, paths)), columns, killed]


def unpack_content(content: Any) -> tuple[tuple[Span, ...], tuple[Range, ...]]:
    """The spans and doomed dots that `pack_content` wrote, or DecodeError."""
    names, paths, columns, doomed = parts(content, (list, list, list, list))
    origins = names_of(names)
    known = [unpack_path(path) for path in paths]
    spans = tuple(unpack_span(packed, origins, known) for packed in columns)
    return spans, unpack_ranges(doomed, origins)

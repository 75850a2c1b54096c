"""A chunk: one piece of a whole state, packed. What it says, and how it is cut and weighed.

A chunk is a few dot ranges `(replica, first..last)` with the entries alive in them, and its context
is exactly these ranges. The chunks of a set together are a state (`transfer` cuts and joins it);
nothing here knows a state.

A chunk travels closed, its entries in an envelope of their own, and is opened where it is taken.

The id of a set is a hash of its content: equal states cut alike give equal sets.

Entries travel as columns: seqs as run lengths, paths as indices with run lengths, stamps as
differences; then zlib. That is also why a chunk is cut by seq and not by document: the newest
events of an origin lie together.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, repeat
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.errors import DecodeError
from crdt.kernel.codec import Stored, pack, unpack_body
from crdt.kernel.context import VersionVector
from crdt.kernel.envelope import BODY_BYTES_MAX, seal, unseal
from crdt.kernel.kind import Path, pack_path, unpack_path
from crdt.kernel.wire import (
    Span,
    names_of,
    naturals,
    pack_ranges,
    pack_span,
    parts,
    unpack_ranges,
    unpack_span,
    unpack_vector,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crdt.kernel.context import Range

CHUNKS_MAX = 1 << 20  # in one set
ENTRY_BYTES = 12  # of an entry beyond its key and value, before compression
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
    _opened: Opened | None = field(default=None, init=False, repr=False, compare=False)

    def open(self) -> Opened:
        """Its entries; DecodeError if there are none in it. O(size), the first time."""
        opened = self._opened
        if opened is None:
            self._refuse_odd()
            body = unseal("e", self.content)
            content = unpack_body(body)
            spans, doomed = unpack_content(content)
            memory = 2 * len(body) + len(self.content) + _RANGE_MEMORY * len(doomed)
            memory += _SPAN_MEMORY * len(spans) + _STEP_MEMORY * sum(map(len, content[1]))
            memory += _ENTRY_MEMORY * sum(len(span.seqs) for span in spans)
            digest = blake2b(body, digest_size=16).digest()
            opened = Opened(spans, doomed, digest, memory)
            object.__setattr__(self, "_opened", opened)  # frozen to others; worked out once
        return opened

    def _refuse_odd(self) -> None:
        """Raise DecodeError for what no bytes can say, in a chunk made by hand."""
        told = (self.set_id, self.index, self.count, self.content)
        odd = tuple(map(type, told)) != (bytes, int, int, bytes)
        if odd or len(self.set_id) != 16 or not 0 <= self.index < self.count <= CHUNKS_MAX:
            raise DecodeError("a chunk that belongs to no set")
        if not isinstance(self.vector, VersionVector):
            raise DecodeError("a chunk without the vector of its sender")
        naturals(list(self.vector.values()))
        names_of(list(self.vector))

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
        body = unpack_body(unseal("c", data), BODY_BYTES_MAX)
        set_id, index, count, flat, content = parts(body, (bytes, int, int, list, bytes))
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


def slices_of(killed: tuple[Range, ...], bytes_max: int) -> list[tuple[Range, ...]]:
    """Killed dots in parts of about bytes_max each."""
    width = max(1, len(killed) * bytes_max // len(pack(pack_ranges(killed, {}))))
    return [killed[start : start + width] for start in range(0, len(killed), width)]


def pieces_of(spans: list[Span], bytes_max: int) -> list[list[Span]]:
    """Spans in parts of about bytes_max each, cut between seqs where one is too heavy."""
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
        return repeat(ENTRY_BYTES, len(paths))
    sizes = {path: ENTRY_BYTES + sum(map(_size, path)) for path in set(paths)}
    return [
        ENTRY_BYTES if path is before else sizes[path]
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

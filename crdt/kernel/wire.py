"""What messages are made of: checked parts, tables of names, ranges, and columns of entries.

Deltas, chunks and snapshots share these pieces. Everything read here comes from strangers: each
function gives what its name says or raises DecodeError, and believes no number before it has
compared it with what is there.

A span is a piece of one origin's history as columns: seqs as run lengths, paths as indices with run
lengths, stamps as differences, steps and values as they are, so that packing and checking a column
is work for C and not for a loop.
"""

from __future__ import annotations

from itertools import accumulate, chain
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.errors import DecodeError, InvalidReplicaError
from crdt.kernel.context import Range, VersionVector, check_replica
from crdt.kernel.kind import Path, kind_of, normal_column
from crdt.kernel.limits import SEQ_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from crdt.kernel.codec import Step, Stored


class Span(NamedTuple):
    """The live entries of one origin in first..last, as columns ascending by seq."""

    origin: str
    first: int
    last: int
    seqs: list[int]
    paths: list[Path]
    steps: list[Step]
    stamps: list[int]
    values: list[Stored]


def parts(body: Any, types: tuple[type, ...]) -> list[Any]:
    """The items of a list of exactly these types, or DecodeError."""
    if type(body) is not list or tuple(map(type, body)) != types:
        raise DecodeError(f"wanted a list of {', '.join(wanted.__name__ for wanted in types)}")
    return body


def naturals(items: list[Any], last: int = SEQ_MAX) -> list[int]:
    """The list itself if it holds ints of 0..last only, or DecodeError."""
    if not {int}.issuperset(map(type, items)) or (
        items and not (min(items) >= 0 and max(items) <= last)
    ):
        raise DecodeError("a number out of range")
    return items


def names_of(items: list[Any]) -> list[str]:
    """Replica ids, each once."""
    try:
        names = [check_replica(item) for item in items]
    except InvalidReplicaError as error:
        raise DecodeError(str(error)) from error
    if len(names) > 1 and len(set(names)) != len(names):
        raise DecodeError("a replica id named twice")
    return names


def pick(items: list[Any], index: object) -> Any:
    """items[index] for a natural index inside of the list, or DecodeError."""
    if type(index) is not int or not 0 <= index < len(items):
        raise DecodeError("an index outside of its table")
    return items[index]


def pack_ranges(ranges: tuple[Range, ...], names: dict[str, int]) -> list[int]:
    """Ranges as [origin, first, width - 1, ...], origins as indices into `names`."""
    flat: list[int] = []
    for origin, first, last in ranges:
        flat += (names.setdefault(origin, len(names)), first, last - first)
    return flat


def unpack_ranges(flat: Any, names: list[str]) -> tuple[Range, ...]:
    """The ranges that `pack_ranges` wrote, or DecodeError."""
    if type(flat) is not list or len(flat) % 3:
        raise DecodeError("ranges come in threes")
    naturals(flat)
    ranges = []
    for index, first, more in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        if not 1 <= first <= first + more <= SEQ_MAX:
            raise DecodeError("a range out of range")
        ranges.append((pick(names, index), first, first + more))
    return tuple(ranges)


def unpack_vector(flat: list[Any]) -> VersionVector:
    """A vector written as [replica, seq, ...], or DecodeError."""
    if len(flat) % 2:
        raise DecodeError("a vector is pairs of replica and seq")
    seqs = naturals(flat[1::2])
    return VersionVector(dict(zip(names_of(flat[::2]), seqs, strict=True)))


def pack_span(span: Span, names: dict[str, int], paths: dict[Path, int]) -> list[Any]:
    """A span as columns over a table of names and one of paths. O(entries), mostly in C."""
    origin = names.setdefault(span.origin, len(names))
    places = _runs(span.paths, lambda path: paths.setdefault(path, len(paths)))
    stamps: list[int] = []
    if any(span.stamps):
        stamps = [span.stamps[0], *map(sub, span.stamps[1:], span.stamps)]
    values = span.values if any(value is not None for value in span.values) else []
    gaps = _pack_seqs(span)
    return [origin, span.first, span.last - span.first, gaps, places, span.steps, stamps, values]


def unpack_span(packed: Any, names: list[str], known: list[Path]) -> Span:
    """The span that `pack_span` wrote, its entries checked kind by kind, or DecodeError."""
    index, first, more, gaps, places, steps, stamps, values = parts(
        packed, (int, int, int, list, list, list, list, list)
    )
    origin, last, count = pick(names, index), first + more, len(steps)
    if more < 0 or not 1 <= first <= last <= SEQ_MAX:
        raise DecodeError("a span out of range")
    seqs = _unpack_seqs(gaps, first, last, count)
    if len(naturals(places)) % 2 or sum(places[1::2]) != count:
        raise DecodeError("paths that do not fit the entries")
    if not {int}.issuperset(map(type, stamps)):
        raise DecodeError("a stamp that is not a number")
    stamps = list(accumulate(stamps)) if stamps else [0] * count
    values = normal_column(values) if values else [None] * count
    if not len(stamps) == len(values) == count:
        raise DecodeError("columns of different lengths")
    paths: list[Path] = []
    for place, width in zip(places[::2], places[1::2], strict=True):
        paths += [pick(known, place)] * width
    span = Span(origin, first, last, seqs, paths, steps, stamps, values)
    _admit(span, places)
    return span


def _admit(span: Span, places: list[int]) -> None:
    """Check the columns kind by kind; adjacent entries of one path are checked at once."""
    start = 0
    for width in places[1::2]:
        part = slice(start, start + width)
        if width:
            kind = kind_of(span.paths[start])
            kind.admit(span.origin, span.steps[part], span.stamps[part], span.values[part])
        start += width


def _runs(items: list[Path], number: Callable[[Path], int]) -> list[int]:
    """A column as [number, repeats, ...]."""
    if not items:
        return []
    if items.count(items[0]) == len(items):
        return [number(items[0]), len(items)]
    runs: list[int] = []
    last = None
    for item in items:
        if item is last or item == last:
            runs[-1] += 1
        else:
            runs += (number(item), 1)
            last = item
    return runs


def _pack_seqs(span: Span) -> list[int]:
    """Ascending seqs as [gap before, run length - 1, ...]; a dense column is two numbers."""
    seqs = span.seqs
    if not seqs:
        return []
    if seqs[-1] - seqs[0] + 1 == len(seqs):
        return [seqs[0] - span.first, len(seqs) - 1]
    gaps: list[int] = []
    before = span.first - 1
    for seq in seqs:
        if seq == before + 1 and gaps:
            gaps[-1] += 1
        else:
            gaps += (seq - before - 1, 0)
        before = seq
    return gaps


def _unpack_seqs(gaps: list[Any], first: int, last: int, count: int) -> list[int]:
    if len(naturals(gaps)) % 2 or sum(gaps[1::2]) + len(gaps) // 2 != count:
        raise DecodeError("seqs that do not fit the entries")
    pieces = []
    free = first
    for gap, more in zip(gaps[::2], gaps[1::2], strict=True):
        pieces.append(range(free + gap, free + gap + more + 1))
        free += gap + more + 1
    if free > last + 1:
        raise DecodeError("an entry outside of its span")
    return list(chain.from_iterable(pieces))

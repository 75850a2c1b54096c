"""What one replica tells another: events, runs of events, deltas; and what a reader is told.

An event is one dot with what it did: it wrote at most one entry and killed the dots it had
observed. A run is a contiguous piece of one origin's history, and a delta is a few runs:

    a: 7 8 9 | 10          Run("a", 7, 10, events, batches=((7, 9),))
    b:         4           Run("b", 4, 4, events)

A delta covers exactly the dots of its runs and carries their effects completely: an event missing
inside a run had an entry that is dead by now and killed nothing that its receiver could still
hold. So whoever applies a delta may count all its dots as seen - and no other dot, in particular
not the killed ones (Almeida, Shoker, Baquero 2018, section 4; Enes et al. 2019).

Events written together as a batch stay together: `batches` marks them so that no later cut splits
them.

On the wire a delta is rows (it has few entries; columns are for chunks), with replica ids and paths
sent once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from crdt.codec import Step, Stored, normal, pack, seal, unpack_body, unseal
from crdt.dot import SEQ_MAX, Range, check_replica
from crdt.errors import DecodeError, InvalidReplicaError
from crdt.kind import LEAF, Path, kind_of, pack_path, unpack_path

if TYPE_CHECKING:
    from collections.abc import Iterator


class Event(NamedTuple):
    """One dot of a run's origin: the entry it wrote, if any, and the dots it killed."""

    seq: int
    path: Path | None  # None: no entry (a removal, or an entry that is dead by now)
    step: Step
    stamp: int
    value: Stored
    kills: tuple[Range, ...]

    def weight(self) -> int:
        """An upper bound of its encoded size in bytes, without encoding. O(1)."""
        size = 48 + 24 * len(self.kills)
        for part in (self.step, self.value):
            size += 9 if part is None else _size(part)
        return size + (sum(map(len, self.path)) if self.path else 0)


def _size(part: object) -> int:
    if isinstance(part, str):
        return len(part) if part.isascii() else 4 * len(part)
    if isinstance(part, bytes):
        return len(part)
    if isinstance(part, tuple):
        return len(part[0])
    return part.bit_length() // 8 + 9 if isinstance(part, int) else 16


class Run(NamedTuple):
    """The events first..last of one origin; those that have nothing left to say are left out."""

    origin: str
    first: int
    last: int
    events: tuple[Event, ...]
    batches: tuple[tuple[int, int], ...] = ()  # those of more than one event, ascending


class Delta(NamedTuple):
    """A small state to be merged: immutable, complete for its own dots, applicable in any order."""

    runs: tuple[Run, ...] = ()

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The dots it covers: (origin, first, last), inclusive, in the order of the runs."""
        return tuple((run.origin, run.first, run.last) for run in self.runs)

    def __bool__(self) -> bool:
        return bool(self.runs)

    def batches(self) -> Iterator[Delta]:
        """The same events as one delta per batch, per origin in ascending order. O(size)."""
        for run in self.runs:
            yield from _split(run)

    def encode(self) -> bytes:
        """Its bytes. O(size). Equal deltas give equal bytes."""
        names: dict[str, int] = {}
        paths: dict[Path, int] = {}
        runs = [_pack_run(run, names, paths) for run in self.runs]
        return seal("d", pack([list(names), list(map(pack_path, paths)), runs]))

    @staticmethod
    def decode(data: bytes) -> Delta:
        """The delta of such bytes; raises DecodeError for all others. O(size)."""
        body = unpack_body(unseal("d", data))
        names, paths, runs = parts(body, list, list, list)
        tables = _Tables(names_of(names), [unpack_path(path) for path in paths])
        return Delta(tuple(_unpack_run(run, tables) for run in runs))


def _split(run: Run) -> Iterator[Delta]:
    """One delta per batch of a run; seqs that have nothing to say go with what follows them."""
    marks = iter((*run.batches, (run.last + 1, run.last + 1)))
    mark = next(marks)
    first, inside = run.first, []
    for index, event in enumerate(run.events):
        inside.append(event)
        while mark[1] < event.seq:
            mark = next(marks)
        batched = mark[0] <= event.seq
        follower = run.events[index + 1].seq if index + 1 < len(run.events) else None
        if batched and follower is not None and follower <= mark[1]:
            continue
        last = run.last if follower is None else (mark[1] if batched else event.seq)
        yield _piece(run, first, last, inside)
        first, inside = last + 1, []
    if first <= run.last:
        yield _piece(run, first, run.last, inside)


def _piece(run: Run, first: int, last: int, events: list[Event]) -> Delta:
    kept = tuple(mark for mark in run.batches if first <= mark[0] and mark[1] <= last)
    return Delta((Run(run.origin, first, last, tuple(events), kept),))


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """One document whose value changed; `keys` names what was touched at its top level.

    `type` is the view class. `keys` holds elements of a set, keys of a map, names of an ORMap, and
    is None for types that have none. Elements that Python holds equal (1, True, 1.0) coincide.
    """

    name: str
    type: Any
    keys: frozenset[Any] | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a local mutation, apply or merge changed; falsy when every value stayed as it was."""

    documents: tuple[DocumentChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.documents)


# --------------------------------------------------------------------------------------- wire


def parts(body: Any, *types: type) -> list[Any]:
    """The items of a list of exactly these types, or DecodeError."""
    if type(body) is not list or len(body) != len(types):
        raise DecodeError(f"wanted a list of {len(types)}")
    for part, wanted in zip(body, types, strict=True):
        if type(part) is not wanted:
            raise DecodeError(f"wanted {wanted.__name__}, got {type(part).__name__}")
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
    if len(set(names)) != len(names):
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


def _pack_run(run: Run, names: dict[str, int], paths: dict[Path, int]) -> list[Any]:
    origin = names.setdefault(run.origin, len(names))
    base = min((event.stamp for event in run.events if event.stamp), default=0)
    rows: list[Any] = []
    before = run.first
    for seq, path, step, stamp, value, kills in run.events:
        row: list[Any] = [seq - before]
        if path is not None:
            row += (paths.setdefault(path, len(paths)), step, stamp and stamp - base + 1, value)
        if kills:
            row.append(pack_ranges(kills, names))
        rows.append(row)
        before = seq
    marks = [mark for first, last in run.batches for mark in (first - run.first, last - first)]
    return [origin, run.first, run.last - run.first, base, marks, rows]


class _Tables(NamedTuple):
    """What the rows of a delta refer to."""

    names: list[str]
    paths: list[Path]


def _unpack_event(row: list[Any], seq: int, origin: str, base: int, tables: _Tables) -> Event:
    """An event from its row: [gap, kills] or [gap, path, step, stamp, value] and perhaps kills."""
    if len(row) not in {2, 5, 6}:
        raise DecodeError("a row of the wrong shape")
    kills = () if len(row) == 5 else unpack_ranges(row[-1], tables.names)
    if any(killer == origin and high >= seq for killer, _, high in kills):
        raise DecodeError("an event that kills itself or what comes after it")
    if len(row) == 2:
        return Event(seq, None, LEAF, 0, None, kills)
    _, path, step, stamp, value = row[:5]
    if type(stamp) is not int:
        raise DecodeError("a stamp that is no number")
    if type(value) is float:
        value = normal(value)
    return Event(seq, pick(tables.paths, path), step, stamp and stamp + base - 1, value, kills)


def _unpack_run(packed: Any, tables: _Tables) -> Run:
    index, first, more, base, marks, rows = parts(packed, int, int, int, int, list, list)
    origin = pick(tables.names, index)
    last = first + more
    if more < 0 or not 1 <= first <= last <= SEQ_MAX or base < 0:
        raise DecodeError("a run out of range")
    seq, least, events = first, 0, []
    for row in rows:
        if type(row) is not list or not row or type(row[0]) is not int or row[0] < least:
            raise DecodeError("events out of order")
        seq, least = seq + row[0], 1
        events.append(_unpack_event(row, seq, origin, base, tables))
    if seq > last:
        raise DecodeError("an event outside of its run")
    _admit(origin, events)
    return Run(origin, first, last, tuple(events), _unpack_marks(marks, first, last))


def _admit(origin: str, events: list[Event]) -> None:
    """Check the entries of a run, path by path."""
    if len(events) == 1:
        _, path, step, stamp, value, _ = events[0]
        if path is not None:
            kind_of(path).admit(origin, (step,), (stamp,), (value,))
        return
    written: dict[Path, list[Event]] = {}
    for event in events:
        if event.path is not None:
            written.setdefault(event.path, []).append(event)
    for path, entries in written.items():
        _, _, steps, stamps, values, _ = zip(*entries, strict=True)
        kind_of(path).admit(origin, steps, stamps, values)


def _unpack_marks(marks: list[Any], first: int, last: int) -> tuple[tuple[int, int], ...]:
    if not marks:
        return ()
    if len(marks) % 2:
        raise DecodeError("batches come in pairs")
    naturals(marks)
    batches = []
    free = first
    for offset, more in zip(marks[::2], marks[1::2], strict=True):
        low, high = first + offset, first + offset + more
        if low < free or high > last or not more:
            raise DecodeError("a batch out of place")
        batches.append((low, high))
        free = high + 1
    return tuple(batches)

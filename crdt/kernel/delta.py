"""What one replica tells another: events, runs of events, deltas.

An event is one dot with what it did: it wrote at most one entry and killed the dots it had
observed. A run is a contiguous piece of one origin's history, and a delta is a few runs:

    a: 7 8 9 | 10          Run("a", 7, 10, rows, batches=((7, 9),))
    b:         4           Run("b", 4, 4, rows)

A delta covers exactly the dots of its runs and carries their effects completely: an event missing
inside a run had an entry that is dead by now and killed nothing that its receiver could still
hold. So whoever applies a delta may count all its dots as seen - and no other dot, in particular
not the killed ones (Almeida, Shoker, Baquero 2018, section 4; Enes et al. 2019).

Events written together as a batch stay together: `batches` marks them so that no later cut splits
them.

What a delta holds is checked once: bytes when they are decoded, a local mutation when it is made. A
run made by hand is neither; `admitted` takes it as its bytes would be taken.

Inside, an event is a plain tuple of `Fields`: every mutation makes one, few are looked at. `Event`
names the fields for whoever does. For the same reason a delta of a single event is a writer's
promise to say what it did: its run is built when somebody asks.

On the wire a delta is parts, each closed like a chunk: which ranges it covers stands outside, their
events inside, compressed. So a receiver that knows the ranges never opens it, and a sender may put
together what was encoded before (`encodings`). A run of many events is a part of its own, those of
few share one:

    part    [names, ranges, size of the events, events]      events   [paths, runs]

In it a run is rows, with replica ids and paths sent once; one of many events that all wrote an
entry goes as columns, like a chunk.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crdt.errors import BodyTooLargeError, DecodeError
from crdt.kernel.codec import (
    Budget,
    Step,
    Stored,
    listed,
    normal,
    pack,
    parts_in,
    unpack_body,
)
from crdt.kernel.context import Range
from crdt.kernel.envelope import BODY_BYTES_MAX, deflated, inflated, seal, unseal
from crdt.kernel.kind import LEAF, Path, kind_of, pack_path, unpack_path
from crdt.kernel.limits import SEQ_MAX
from crdt.kernel.wire import (
    Span,
    names_of,
    naturals,
    pack_ranges,
    pack_span,
    parts,
    pick,
    unpack_ranges,
    unpack_span,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from crdt.kernel.encodings import Piece

WIDE: Final = 16  # events from which on columns are faster than rows

# The fields of an Event, in its order.
Fields = tuple[int, Path | None, Step, int, Stored, tuple[Range, ...]]


class Event(NamedTuple):
    """One dot of a run's origin: the entry it wrote, if any, and the dots it killed."""

    seq: int
    path: Path | None  # None: no entry (a removal, or an entry that is dead by now)
    step: Step
    stamp: int
    value: Stored
    kills: tuple[Range, ...]


EVENT_BYTES = 48
"""The least that an event weighs, and each level of its path below the document: a container."""
KILL_BYTES = 48
"""What each range of dots weighs that an event killed."""
RUN_BYTES = 160
"""What a run weighs beside its events: an origin, and what is kept of each."""
PART_BYTES = 2
"""What each part of a list, dict or tuple weighs beside its bytes; each of these is 12 parts."""


def weight_of(event: Fields) -> int:
    """An upper bound of an event's encoded size in bytes, without encoding. O(1)."""
    _, path, step, _, value, kills = event
    size = EVENT_BYTES + KILL_BYTES * len(kills)
    for part in (step, value):
        size += 9 if part is None else _size(part)
    if path is None:
        return size
    return size + sum(map(len, path)) + EVENT_BYTES * (len(path) // 2 - 1)


def _size(part: object) -> int:
    if isinstance(part, str):
        return len(part) if part.isascii() else 4 * len(part)
    if isinstance(part, bytes):
        return len(part)
    if isinstance(part, tuple):
        return len(part[0]) + PART_BYTES * parts_in(part[0])
    return part.bit_length() // 8 + 9 if isinstance(part, int) else 16


class Run:
    """The events first..last of one origin; those that have nothing left to say are left out.

    Immutable. `batches` are those of more than one event, ascending. A run that came as columns
    and killed nothing has a `span`, and its rows are made when somebody asks; one that was encoded
    before (`piece`) is opened when somebody asks.
    """

    __slots__ = ("_batches", "_rows", "_span", "admitted", "first", "last", "origin", "piece")

    def __init__(
        self,
        origin: str,
        first: int,
        last: int,
        rows: tuple[Fields, ...] | Span | None = (),
        batches: tuple[tuple[int, int], ...] = (),
        *,
        admitted: bool = False,
        piece: Piece | None = None,
    ) -> None:
        self.origin = origin
        self.first = first
        self.last = last
        self.admitted = admitted  # what it holds was checked
        self.piece = piece  # where its bytes are kept; rows None: what it holds is in there
        self._batches = batches
        self._rows: tuple[Fields, ...] | None = None if isinstance(rows, Span) else rows
        self._span: Span | None = rows if isinstance(rows, Span) else None

    @property
    def rows(self) -> tuple[Fields, ...]:
        """The events as plain tuples. O(1), but for the first time after columns."""
        rows = self._rows
        if rows is None:
            columns: Any = self.span  # there is one of the two
            if columns is not None:
                self._rows = tuple(zip(*columns[3:], repeat(()), strict=False))
            rows = self._rows or ()
        return rows

    @property
    def span(self) -> Span | None:
        """The events as columns, if it came so. O(1), but for the first time after its bytes."""
        if self._rows is None and self._span is None:
            self._open()
        return self._span

    @property
    def batches(self) -> tuple[tuple[int, int], ...]:
        """(first, last) of each. O(1), but for the first time after its bytes."""
        if self._rows is None and self._span is None:
            self._open()
        return self._batches

    def _open(self) -> None:
        piece: Any = self.piece  # there is one of the three
        limits = _Limits(None)
        closed = _closed(unpack_body(piece.data, BODY_BYTES_MAX), limits)
        (run,) = _unpack_part(_opened(closed, limits))
        self._rows, self._span = run._rows, run._span  # noqa: SLF001  # of the class itself
        self._batches = run._batches  # noqa: SLF001

    @property
    def is_wide(self) -> bool:
        """Whether it has many events. O(1)."""
        if self._rows is None and self._span is None:
            return self.piece is not None and self.piece.events > WIDE
        return len(self._rows if self._span is None else self._span.seqs) > WIDE  # type: ignore[arg-type]  # one of the two

    def encoded(self) -> bytes:
        """The part of a delta that it is by itself. O(1) if it was encoded before, else O(size)."""
        piece = self.piece
        if piece is None:
            return _pack_part([self])
        return piece.data or piece.encoded(_pack_part([self]))

    def __eq__(self, other: object) -> bool:
        return self._parts() == other._parts() if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        return f"Run{self._parts()!r}"

    def _parts(self) -> tuple[object, ...]:
        return self.origin, self.first, self.last, self.rows, self.batches

    @property
    def events(self) -> tuple[Event, ...]:
        """The rows with their fields named. O(events)."""
        return tuple(map(Event._make, self.rows))


class Delta:
    """A small state to be merged: immutable, complete for its own dots, applicable in any order."""

    __slots__ = ("_runs", "_written")

    _runs: tuple[Run, ...] | None
    _written: tuple[str, Fields]  # origin and event, until somebody asks for the runs

    def __init__(self, runs: tuple[Run, ...] = ()) -> None:
        self._runs = runs

    @property
    def runs(self) -> tuple[Run, ...]:
        """Pieces of histories, in the order in which they are applied."""
        runs = self._runs
        if runs is None:
            origin, event = self._written
            runs = self._runs = (Run(origin, event[0], event[0], (event,), admitted=True),)
        return runs

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The dots it covers: (origin, first, last), inclusive, in the order of the runs."""
        return tuple([(run.origin, run.first, run.last) for run in self.runs])

    def __bool__(self) -> bool:
        return self._runs != ()

    def __eq__(self, other: object) -> bool:
        return self.runs == other.runs if isinstance(other, Delta) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.runs)

    def __repr__(self) -> str:
        return f"Delta({self.runs!r})"

    def admitted(self) -> Delta:
        """The same delta, known to hold what every replica accepts. O(runs) unless made by hand.

        Raises:
            DecodeError: it would not come back from its bytes.
        """
        if self._runs is None or all(run.admitted for run in self._runs):
            return self
        try:
            data = self.encode()
        except BodyTooLargeError:
            raise
        except Exception as error:  # whatever was put in: it names itself
            raise DecodeError(f"not a delta that could be sent: {error!r:.200}") from error
        return Delta.decode(data)

    def batches(self) -> Iterator[Delta]:
        """The same events as one delta per batch, per origin in ascending order. O(size)."""
        for run in self.runs:
            yield from _split(run)

    def encode(self) -> bytes:
        """Its bytes. O(size). Equal deltas give equal bytes."""
        if self._runs is None or len(self._runs) == 1:
            packed = [self.runs[0].encoded()]
        else:
            grouped = _grouped(self._runs)
            packed = [each[0].encoded() if len(each) == 1 else _pack_part(each) for each in grouped]
        return seal("d", listed(packed), compress=False)

    @staticmethod
    def ranges_in(data: bytes, weight_max: int | None = None) -> tuple[Range, ...]:
        """The ranges of the delta of such bytes, its events unopened. O(bytes), at memory speed.

        Raises:
            DecodeError: these are not the bytes of a delta, or of one that weighs more than that,
                as far as can be seen from here.
        """
        closed = _closed_parts(data, _Limits(weight_max))
        return tuple([known for part in closed for known in part.ranges])

    @staticmethod
    def news_in(data: bytes, vector: Mapping[str, int]) -> bytes:
        """The same bytes without the parts of which everything is known; unopened like the others.

        Raises:
            DecodeError: as `ranges_in`.
        """
        closed = _closed_parts(data, _Limits(None))
        news = [
            part
            for part in closed
            if any(last > vector.get(origin, 0) for origin, _, last in part.ranges)
        ]
        if len(news) == len(closed):
            return data
        return seal("d", pack([list(part[:4]) for part in news]), compress=False)

    @staticmethod
    def decode(data: bytes, weight_max: int | None = None) -> Delta:
        """The delta of such bytes; raises DecodeError for all others. O(size).

        With `weight_max`, also for one that certainly weighs more (as `delta_since` counts bytes):
        how many events, killed ranges and nested containers it has is told before any is built.
        """
        opened = _weighed(data, weight_max)
        return Delta(tuple([run for part in opened for run in _unpack_part(part)]))

    @staticmethod
    def is_within(data: bytes, weight_max: int) -> bool:
        """Whether `decode` takes the bytes of a sound delta at that limit; O(size), none built."""
        try:
            _weighed(data, weight_max)
        except DecodeError:
            return False
        return True


def written(origin: str, event: Fields) -> Delta:
    """The delta of one event, in as little time as a mutation can spare."""
    delta: Delta = _new(Delta)
    delta._runs = None  # noqa: SLF001  # an object of the class above
    delta._written = (origin, event)  # noqa: SLF001
    return delta


_new = object.__new__


def _split(run: Run) -> Iterator[Delta]:
    """One delta per batch of a run; seqs that have nothing to say go with what follows them."""
    marks = iter((*run.batches, (run.last + 1, run.last + 1)))
    mark = next(marks)
    first = run.first
    inside: list[Fields] = []
    for index, event in enumerate(run.rows):
        inside.append(event)
        seq = event[0]
        while mark[1] < seq:
            mark = next(marks)
        batched = mark[0] <= seq
        follower = run.rows[index + 1][0] if index + 1 < len(run.rows) else None
        if batched and follower is not None and follower <= mark[1]:
            continue
        last = run.last if follower is None else (mark[1] if batched else seq)
        yield _piece(run, first, last, inside)
        first, inside = last + 1, []
    if first <= run.last:
        yield _piece(run, first, run.last, inside)


def _piece(run: Run, first: int, last: int, events: list[Fields]) -> Delta:
    kept = tuple(mark for mark in run.batches if first <= mark[0] and mark[1] <= last)
    piece = Run(run.origin, first, last, tuple(events), kept, admitted=run.admitted)
    return Delta((piece,))


# --------------------------------------------------------------------------------------- wire


class _Closed(NamedTuple):
    """A part whose events were not looked at: the items of its list, and the ranges it covers."""

    names: list[str]
    flat: list[int]
    size: int
    content: bytes
    ranges: tuple[Range, ...]


class _Opened(NamedTuple):
    """A part whose events are msgpack no longer, and not checked yet."""

    closed: _Closed
    paths: list[Any]
    runs: list[Any]


def _grouped(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """The runs of each part: a wide one stands alone, neighbours of few events together."""
    few: list[Run] = []
    for run in runs:
        if run.is_wide:
            if few:
                yield few
            yield [run]
            few = []
        else:
            few.append(run)
    if few:
        yield few


def _pack_part(runs: Sequence[Run]) -> bytes:
    names: dict[str, int] = {}
    paths: dict[Path, int] = {}
    flat = pack_ranges(tuple([(run.origin, run.first, run.last) for run in runs]), names)
    packed = [_pack_run(run, names, paths) for run in runs]
    content = pack([list(map(pack_path, paths)), packed])
    if len(content) > BODY_BYTES_MAX:
        raise BodyTooLargeError(len(content), BODY_BYTES_MAX)
    return pack([list(names), flat, len(content), deflated(content)])


class _Limits:
    """What the rest of the bytes of a delta may still hold, so that it weighs no more than that."""

    __slots__ = ("budget", "bytes_max", "names_max", "runs_max")

    def __init__(self, weight_max: int | None) -> None:
        self.bytes_max = BODY_BYTES_MAX if weight_max is None else 2 * weight_max
        self.budget = None if weight_max is None else Budget(weight_max // PART_BYTES)
        self.names_max = SEQ_MAX if weight_max is None else weight_max // KILL_BYTES
        self.runs_max = SEQ_MAX if weight_max is None else weight_max // RUN_BYTES

    def take(self, part: list[Any]) -> list[Any]:
        """Count the names, the ranges and the bytes of a closed part."""
        names, flat, size, _ = part
        self.names_max -= len(names)
        self.runs_max -= len(flat) // 3
        self.bytes_max -= size
        if size < 0 or min(self.names_max, self.runs_max, self.bytes_max) < 0:
            raise DecodeError("announces more names, runs or bytes than may be")
        return part


def _closed_parts(data: bytes, limits: _Limits) -> list[_Closed]:
    """The parts of the bytes of a delta."""
    body = unpack_body(unseal("d", data, limits.bytes_max), BODY_BYTES_MAX, limits.budget)
    if type(body) is not list:
        raise DecodeError("no parts")
    return [_closed(part, limits) for part in body]


def _closed(part: Any, limits: _Limits) -> _Closed:
    names, flat, size, content = limits.take(parts(part, (list, list, int, bytes)))
    return _Closed(names, flat, size, content, unpack_ranges(flat, names_of(names)))


def _opened(part: _Closed, limits: _Limits) -> _Opened:
    body = unpack_body(inflated(part.content, part.size), budget=limits.budget)
    paths, runs = parts(body, (list, list))
    if len(runs) != len(part.ranges):
        raise DecodeError("runs that are not those of its ranges")
    return _Opened(part, paths, runs)


def _weighed(data: bytes, weight_max: int | None) -> list[_Opened]:
    """The parts of the bytes of a delta, if they do not certainly weigh more than that."""
    limits = _Limits(weight_max)
    opened = [_opened(part, limits) for part in _closed_parts(data, limits)]
    weight = sum(_least_weight(part.paths, part.runs) for part in opened)
    if weight_max is not None and weight > weight_max:
        raise DecodeError(f"more events than can weigh {weight_max} bytes")
    return opened


def _unpack_part(part: _Opened) -> list[Run]:
    """The runs of a part, checked."""
    names, flat, _, _, ranges = part.closed
    paths = list(map(unpack_path, part.paths))
    covered = zip(part.runs, flat[::3], ranges, strict=True)
    return [_unpack_run(packed, index, known, names, paths) for packed, index, known in covered]


def _pack_run(run: Run, names: dict[str, int], paths: dict[Path, int]) -> list[Any]:
    """[base, marks, rows], or [columns, marks, kills]: what it covers stands outside."""
    marks = [mark for first, last in run.batches for mark in (first - run.first, last - first)]
    columns = columns_of(run)
    if columns is not None:
        span, kills = columns
        return [pack_span(span, names, paths)[3:], marks, _pack_kills(kills, names)]
    base = min([event[3] for event in run.rows if event[3]], default=0)
    rows: list[Any] = []
    before = run.first
    for seq, path, step, stamp, value, killed in run.rows:
        row: list[Any] = [seq - before]
        if path is not None:
            row += (paths.setdefault(path, len(paths)), step, stamp and stamp - base + 1, value)
        if killed:
            row.append(pack_ranges(killed, names))
        rows.append(row)
        before = seq
    return [base, marks, rows]


def columns_of(run: Run) -> tuple[Span, Sequence[tuple[Range, ...]]] | None:
    """A run of many events that all wrote an entry as columns, and what they killed; else None."""
    if run.span is not None:
        return run.span, ()
    if len(run.rows) <= WIDE:
        return None
    seqs, paths, steps, stamps, values, kills = zip(*run.rows, strict=True)
    if None in paths:
        return None
    columns = map(list, (seqs, paths, steps, stamps, values))
    return Span(run.origin, run.first, run.last, *columns), kills


def _pack_kills(column: Sequence[tuple[Range, ...]], names: dict[str, int]) -> list[Any]:
    """A mostly empty column as [index, ranges, ...]."""
    packed: list[Any] = []
    if any(column):
        for index, kills in enumerate(column):
            if kills:
                packed += (index, pack_ranges(kills, names))
    return packed


def _unpack_run(packed: Any, index: int, known: Range, names: list[str], paths: list[Path]) -> Run:
    """The run of these dots, whose origin has that index among the names."""
    if type(packed) is not list or len(packed) != 3:
        raise DecodeError("a run has three parts")
    if type(packed[0]) is list:
        return _unpack_columns(packed, index, known, names, paths)
    base, marks, rows = parts(packed, (int, list, list))
    origin, first, last = known
    if base < 0:
        raise DecodeError("a stamp out of range")
    seq, least = first, 0
    events: list[Fields] = []
    for row in rows:
        if type(row) is not list or not row or type(row[0]) is not int or row[0] < least:
            raise DecodeError("events out of order")
        seq, least = seq + row[0], 1
        event = _unpack_event(row, seq, base, names, paths)
        if event[5]:
            _refuse_late_kills(origin, seq, event[5])
        events.append(event)
    if seq > last:
        raise DecodeError("an event outside of its run")
    _admit(origin, events)
    batches = _unpack_marks(marks, first, last)
    return Run(origin, first, last, tuple(events), batches, admitted=True)


def _least_weight(paths: list[Any], runs: list[Any]) -> int:
    """What these would weigh at least; their shape is checked when they are unpacked. O(events)."""
    weight = EVENT_BYTES * sum(len(path) // 2 - 1 for path in paths if type(path) is list)
    weight += RUN_BYTES * len(runs)
    for packed in runs:
        if type(packed) is not list or len(packed) != 3:
            continue
        wide = type(packed[0]) is list
        for column in packed[0][2:3] if wide else packed[2:]:
            weight += EVENT_BYTES * len(column) if type(column) is list else 0
        for row in packed[2] if type(packed[2]) is list else ():
            kills = row if wide else row[-1] if type(row) is list and row else None
            weight += KILL_BYTES * (len(kills) // 3) if type(kills) is list else 0
    return weight


def _unpack_columns(
    packed: list[Any], index: int, known: Range, names: list[str], paths: list[Path]
) -> Run:
    """The run of [columns, marks, kills]."""
    columns, marks, sparse = parts(packed, (list, list, list))
    _, first, last = known
    span = unpack_span([index, first, last - first, *columns], names, paths)
    origin, seqs = span.origin, span.seqs
    if len(seqs) <= WIDE or len(sparse) % 2:
        raise DecodeError("columns for a few events, or kills that are not pairs")
    batches = _unpack_marks(marks, first, last)
    if not sparse:
        return Run(origin, first, last, span, batches, admitted=True)
    kills: list[tuple[Range, ...]] = [()] * len(seqs)
    least = 0
    for place, flat in zip(naturals(sparse[::2]), sparse[1::2], strict=True):
        if not least <= place < len(seqs) or not flat:
            raise DecodeError("kills out of order")
        kills[place] = unpack_ranges(flat, names)
        least = place + 1
        _refuse_late_kills(origin, seqs[place], kills[place])
    rows = tuple(zip(*span[3:], kills, strict=True))
    return Run(origin, first, last, rows, batches, admitted=True)


def _unpack_event(
    row: list[Any], seq: int, base: int, names: list[str], paths: list[Path]
) -> Fields:
    """An event from its row: [gap, kills] or [gap, path, step, stamp, value] and perhaps kills."""
    if len(row) not in {2, 5, 6}:
        raise DecodeError("a row of the wrong shape")
    kills = () if len(row) == 5 else unpack_ranges(row[-1], names)
    if len(row) != 5 and not kills:
        raise DecodeError("an empty list of kills")
    if len(row) == 2:
        return seq, None, LEAF, 0, None, kills
    _, path, step, stamp, value = row[:5]
    if type(stamp) is not int:
        raise DecodeError("a stamp that is not a number")
    if type(value) is float:
        value = normal(value)
    return seq, pick(paths, path), step, stamp and stamp + base - 1, value, kills


def _refuse_late_kills(origin: str, seq: int, kills: tuple[Range, ...]) -> None:
    for killer, _, high in kills:
        if killer == origin and high >= seq:
            raise DecodeError("an event that kills itself or what comes after it")


def _admit(origin: str, events: list[Fields]) -> None:
    """Check the entries of a run, path by path."""
    if len(events) == 1:
        _, path, step, stamp, value, _ = events[0]
        if path is not None:
            kind_of(path).admit_entry(origin, step, stamp, value)
        return
    written_at: dict[Path, list[Fields]] = {}
    for event in events:
        if event[1] is not None:
            written_at.setdefault(event[1], []).append(event)
    for path, entries in written_at.items():
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

"""Local mutations: how a view writes, one by one or as a batch.

Every mutation is one event: it consumes the next own dot, kills what its writer had observed,
and writes at most one entry. `put` is the short way for the usual case (one entry replaces what
lives at its step), `write` the general one. Outside of a batch the event leaves at once as a delta
of its own; inside, it waits for the end of the block.

A batch is mutations that leave as one delta, or not at all. Its events take a contiguous run of
dots. Until the outermost block ends nothing has left the kernel, so an exception or a limit may
still undo everything and the dots may be used again. What a batch wrote and overwrote itself does
not travel: the delta carries the entries that are alive at its end, and no kill of a dot that
nobody else has ever seen.

A batch belongs to whoever opened it, if the kernel is told how to see who runs (`current_owner`):
an asyncio task, say, which may be suspended inside of the block. Whatever comes to the state
meanwhile is somebody else, and must neither see half of a batch nor become a part of it. So it asks
first (`admit`), and a batch that is not its own is rolled back before it goes on. The owner learns
of it as soon as possible: its next write inside of the block, or the end of the block, raises.
Views look at `open_batch` first, so that all of this costs nothing while no batch is open.

What is refused is refused before anything changes.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary, ref

from crdt.errors import (
    BatchInterruptedError,
    BatchOpenError,
    BatchTooLargeError,
    InvalidArgumentError,
    SeqsExhaustedError,
    ValueTooLargeError,
)
from crdt.kernel.change import Change, Mark, Touched
from crdt.kernel.codec import Step, Stored, check_int
from crdt.kernel.delta import Delta, Fields, Run, weight_of, written
from crdt.kernel.encodings import Piece
from crdt.kernel.kind import LEAF
from crdt.kernel.limits import INT_MAX, INT_MIN, SEQ_BITS, SEQ_MAX
from crdt.kernel.live import Container, OriginLog, Row, entries_of, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from crdt.kernel.context import CausalContext, Range
    from crdt.kernel.kind import Path
    from crdt.kernel.state import State

WEIGHT_PER_BYTE_MAX = 2
"""Bytes that a batch has may weigh so much, each, where they are unpacked: whoever takes batches
from elsewhere takes twice their limit, and what is refused there is refused here."""

NOTHING = Delta()  # what a mutator returns when nothing had to change, or inside a batch

# A place whose entries a mutation kills, with the row as the writer saw it.
Victim = tuple[Container, Step, Row]

_KILLS_OF = itemgetter(5)  # of an event


class Writer:
    """The writing half of a kernel; `open_batch` is the outermost batch, if there is one."""

    __slots__ = (
        "before_write",
        "bytes_max",
        "current_owner",
        "interrupted",
        "last",
        "log",
        "on_batch",
        "on_delta",
        "open_batch",
        "state",
    )

    def __init__(self, state: State) -> None:
        self.state = state
        self.log: OriginLog
        self.last = 0  # the own seq used last
        self.open_batch: Batch | None = None
        self.on_delta: Callable[[Delta, Change], None] | None = None
        self.before_write: Callable[[], None] | None = None
        self.on_batch: Callable[[], None] | None = None
        self.current_owner: Callable[[], object] | None = None
        self.interrupted: WeakKeyDictionary[object, Batch] | None = None  # not left yet, by owner
        self.bytes_max: int | None = None
        self.resume()

    def resume(self) -> None:
        """Go on from what the state says about this replica's own events."""
        self.log = self.state.live.log(self.state.replica)
        self.last = self.state.context.last_seq(self.state.replica)

    def admit(self) -> None:
        """Let whoever runs now come to the state: roll back a batch that is not theirs.

        Raises what `current_owner` raises at those who may not come at all. O(size of the batch).
        """
        if self.current_owner is None:
            return
        owner, batch = self.current_owner(), self.open_batch
        if batch is not None and owner is not batch.owner:
            batch.interrupt()

    def interrupt(self) -> None:
        """Roll back the open batch, if there is one, whosever it is."""
        if self.open_batch is not None:
            self.open_batch.interrupt()

    def refuse_inside_batch(self) -> None:
        """Raise if a batch is open: what it may undo must reach nobody, nor depend on others."""
        self.admit()
        if self.open_batch is not None:
            raise BatchOpenError(f"a batch is open at {self.state.replica!r}")

    def published(self) -> int:
        """The own seq up to which nothing can be rolled back. O(1)."""
        batch = self.open_batch
        return batch.events[0][0] - 1 if batch is not None and batch.events else self.last

    def stamp(self) -> int:
        """A stamp for a local write; one per batch, so that its entries share it."""
        batch, state = self.open_batch, self.state
        if batch is not None and batch.stamp:
            return batch.stamp
        stamp = state.clock.tick(0 if state.now_ms is None else state.now_ms())
        if batch is not None:
            batch.stamp = stamp
        return stamp

    def put(self, container: Container, step: Step, stamp: int, value: Stored) -> Delta:
        """Write one entry in place of everything alive at its step: what most mutators do. O(1).

        It is `write([(container, step, row)], entry)` without the calls: a local write is what
        users do most, and the calls would be most of its time. So it keeps the invariants of
        `LiveTable` by hand, and a change of `kill`, `insert` or `place` is a change here too:

        * `kill`, then `insert`: the new row replaces the old one whole, so no dict of concurrent
          entries is ever made, and the container never becomes empty on the way, which would retire
          it. It is enlisted where it had no rows (`insert`).
        * `Container.plain` stays true only if the new entry, too, is shown as it is stored; where
          it was false it stays false until somebody looks (`is_plain`).
        * `Container.total` is left alone: of the types that keep one, an increment with an id comes
          this way, and `ResettableCounter` forgets the total before.
        * `OriginLog.place` is an append: an own seq is greater than any in the log of its origin,
          and so never late.
        * `LiveTable.outdate`: the block of what died is marked, what was encoded with it forgotten.
        * `OriginLog.entry_died`: all dead slots are counted before any log is rewritten, and the
          new row is in place by then. A rewrite keeps the slots whose row holds their dot, and
          resets the count; with a slot counted afterwards the count would be wrong.
        """
        if self.open_batch is not None:
            self.admit()
        rows, log, batch = container.rows, self.log, self.open_batch
        present = rows.get(step)
        seq = self.last + 1
        if seq > SEQ_MAX or (type(value) is int and not INT_MIN <= value <= INT_MAX):
            self._refuse(value)
        kills: tuple[Range, ...] = () if present is None else self._kills(present)
        event = (seq, container.path, step, stamp, value, kills)
        if batch is None and (
            self.before_write is not None
            or self.bytes_max is not None
            or self.interrupted is not None
        ):
            self._before_single(event)
        if not rows:
            self.state.live.enlist(container)
        rows[step] = (log.base + seq, stamp, value)
        if type(value) is tuple or type(step) is tuple:
            container.plain = False
        log.seqs.append(seq)
        log.containers.append(container)
        log.steps.append(step)
        if kills:
            live = self.state.live
            if type(present) is tuple:  # as nearly always
                dot = present[0]
                live.outdate(dot)
                origin = live.logs[dot >> SEQ_BITS]
                origin.stale += 1
                origin.tidy()
            else:
                self._count_dead(present)
        if batch is None and (kills or self.on_delta is not None):
            return self._hand_over(event, ((container, step, present),))
        self._count(seq)
        if batch is None:
            return written(self.state.replica, event)
        batch.events.append(event)
        batch.undo.append((container, step, present))
        return NOTHING

    def _count_dead(self, row: Row | None) -> None:
        """A row of several entries was replaced: their blocks are marked, their slots stale."""
        live = self.state.live
        dead = [entry[0] for entry in entries_of(row)]
        for dot in dead:
            live.outdate(dot)
        logs = [live.logs[dot >> SEQ_BITS] for dot in dead]
        for origin in logs:
            origin.stale += 1
        for origin in logs:
            origin.tidy()

    def _kills(self, row: Row) -> tuple[Range, ...]:
        """The dots of a row, as ranges."""
        if type(row) is tuple:
            seq = row[0] & SEQ_MAX
            return ((self.state.live.names[row[0] >> SEQ_BITS], seq, seq),)
        return self.state.live.as_ranges(row)  # type: ignore[arg-type]  # a dict of dots

    def write(
        self,
        victims: Iterable[Victim],
        entry: tuple[Container, Step, int, Stored] | None = None,
    ) -> Delta:
        """Kill rows, whole or in part, and write at most one entry: the general mutation.

        A victim names the row *as the writer saw it*: what joined it later stays. O(victims).
        """
        if self.open_batch is not None:
            self.admit()
        live = self.state.live
        seq = self.last + 1
        victims = list(victims)
        dots = [dead[0] for _, _, row in victims for dead in entries_of(row)]
        if not dots and entry is None:
            return NOTHING
        if seq > SEQ_MAX or (entry is not None and type(entry[3]) is int):
            self._refuse(None if entry is None else entry[3])
        kills = live.as_ranges(dots)
        if entry is None:
            event: Fields = (seq, None, LEAF, 0, None, kills)
        else:
            event = (seq, entry[0].path, *entry[1:], kills)
        if self.open_batch is None:
            self._before_single(event)
        undo = [(container, step, container.rows.get(step)) for container, step, _ in victims]
        for container, step, row in victims:
            for dead in entries_of(row):
                live.kill(container, step, dead[0])
        if entry is not None:
            container, step, stamp, value = entry
            undo.append((container, step, container.rows.get(step)))
            live.insert(container, step, (self.log.base + seq, stamp, value))
            self.log.place(seq, container, step)
        return self._hand_over(event, undo)

    def _refuse(self, value: Stored) -> None:
        """Raise if there is no dot left, or for a number over its limit, such as a total."""
        if self.last >= SEQ_MAX:
            raise SeqsExhaustedError(f"{self.state.replica!r} has used all of its {SEQ_MAX} dots")
        if type(value) is int:
            check_int(value)

    def observed(
        self, places: Iterable[tuple[Container, Step]], seen: CausalContext | None
    ) -> list[Victim]:
        """The rows that a mutation kills at some places: whole, or the part that `seen` covers."""
        live, found = self.state.live, []
        for container, step in places:
            row = container.rows.get(step)
            if row is not None and seen is not None:
                row = {
                    entry[0]: entry for entry in entries_of(row) if seen.covers(*live.dot(entry[0]))
                }
            if row:
                found.append((container, step, row))
        return found

    def _before_single(self, event: Fields) -> None:
        """The ways in which a mutation outside of a batch is refused before it begins."""
        if self.before_write is not None:
            self.before_write()
        if self.interrupted is not None:
            self._refuse_interrupted()
        limit = self.bytes_max
        if limit is not None and weight_of(event) > limit:
            raise ValueTooLargeError(weight_of(event), limit)

    def begin(self, batch: Batch) -> None:
        """Open an outermost batch."""
        if self.before_write is not None:
            self.before_write()
        if self.current_owner is not None:
            batch.owner = self.current_owner()
        if self.interrupted is not None:
            self._refuse_interrupted()
        self.open_batch = batch
        if self.on_batch is not None:
            self.on_batch()

    def _refuse_interrupted(self) -> None:
        """Raise at a writer who is still inside of a batch that was rolled back."""
        if not self.interrupted:  # the last one was left, or will never be resumed
            self.interrupted = None
        elif self.current_owner is not None and self.current_owner() in self.interrupted:
            raise BatchInterruptedError

    def _hand_over(self, event: Fields, undo: Sequence[Mark]) -> Delta:
        """The event happened: count it, remember it, publish it or leave that to the batch."""
        state, batch = self.state, self.open_batch
        self._count(event[0])
        if batch is not None:
            batch.events.append(event)
            batch.undo += undo
            return NOTHING
        if event[5]:
            state.record(state.replica, event[0], event[5])
            if state.replaced is not None:
                state.replaced.wrote(self.log.base, (event,), undo)
        delta = written(state.replica, event)
        if self.on_delta is not None:
            self.publish(delta, undo)
        return delta

    def _count(self, seq: int) -> None:
        """An own event happened: it is seen and applied."""
        state = self.state
        self.last = seq
        applied = state.applied
        applied.seqs[state.replica] = applied.news[state.replica] = seq
        if state.context is not applied:
            state.context.add_range(state.replica, seq, seq)

    def publish(self, delta: Delta, undo: Iterable[Mark]) -> None:
        """Tell the subscriber; a mutation is complete before anybody hears of it."""
        if self.on_delta is not None:
            self.on_delta(delta, Touched(self.state.live, undo).change())

    def void(self, last_seq: int) -> Delta:
        """See `Kernel.void`."""
        self.refuse_inside_batch()
        if type(last_seq) is not int:
            raise InvalidArgumentError(f"a seq is an int, not {last_seq!r:.80}")
        if last_seq > SEQ_MAX:
            raise SeqsExhaustedError(f"there are no dots beyond {SEQ_MAX}")
        if last_seq <= self.last:
            return NOTHING
        first, self.last = self.last + 1, last_seq
        origin = self.state.replica
        self.state.apply_range(origin, first, last_seq)
        delta = Delta((Run(origin, first, last_seq, (), admitted=True),))
        self.publish(delta, ())
        return delta


class Batch:
    """The context manager that `Kernel.batch` returns; `delta` is set when the block is left."""

    __slots__ = (
        "_bytes_max",
        "_writer",
        "delta",
        "events",
        "interrupted",
        "owner",
        "stamp",
        "undo",
    )

    def __init__(self, writer: Writer, bytes_max: int | None) -> None:
        self._writer = writer
        self._bytes_max = bytes_max if bytes_max is not None else writer.bytes_max
        self.events: list[Fields] = []  # the writer appends to both
        self.undo: list[Mark] = []
        self.stamp = 0  # the one stamp of all its entries; 0 until one is needed
        self.delta = Delta()
        self.owner: object = None  # whose it is, where the writer can tell
        self.interrupted = False

    def events_of(self, path: Path) -> Iterator[Fields]:
        """What was written below a path so far, newest first."""
        return (event for event in reversed(self.events) if event[1] == path)

    def __enter__(self) -> Self:
        writer = self._writer
        if writer.open_batch is not None:
            writer.admit()
        if writer.open_batch is not None:
            writer.open_batch.tighten(self._bytes_max)
        else:
            writer.begin(self)
        return self

    def tighten(self, bytes_max: int | None) -> None:
        """A nested batch may bring a smaller limit: it holds for the whole."""
        limits = [limit for limit in (self._bytes_max, bytes_max) if limit is not None]
        self._bytes_max = min(limits, default=None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._writer.open_batch is self and not self._is_owners(error):
            return
        if self.interrupted:
            self._left(error)
            return
        if self._writer.open_batch is not self:
            return
        self._writer.open_batch = None
        if not self.events:
            return
        state = self._writer.state
        if kind is not None:
            self._roll_back(state)
            return
        delta = self._delta(state)
        run = delta.runs[0]
        if self._bytes_max is not None:
            self._weigh(state, delta, self._bytes_max)
        for event in filter(_KILLS_OF, run.rows):
            state.record(state.replica, event[0], event[5])
        for batch in run.batches:
            state.live.log(state.replica).mark_batch(*batch)
        if state.replaced is not None and any(map(_KILLS_OF, self.events)):
            state.replaced.wrote(self._writer.log.base, self.events, self.undo)
        self.delta = delta
        self._writer.publish(delta, self.undo)

    def _weigh(self, state: State, delta: Delta, bytes_max: int) -> None:
        """Roll back and raise if it is too large; else what will be its bytes may be kept."""
        (run,) = delta.runs
        weight = sum(map(weight_of, run.rows))
        if weight > bytes_max:
            data = delta.encode()
            if len(data) > bytes_max or not Delta.is_within(data, WEIGHT_PER_BYTE_MAX * bytes_max):
                self._roll_back(state)
                raise BatchTooLargeError(max(len(data), weight), bytes_max)
        if run.is_wide:
            base = state.live.base(run.origin)
            piece = Piece(base + run.first - 1, base + run.last, len(run.rows), weight)
            run.piece = state.live.encodings.keep(piece)

    def _is_owners(self, error: BaseException | None) -> bool:
        """Whether the end of the block may touch the state; another owner's end interrupts.

        A suspended body may be closed by another task or, by the garbage collector, in any thread,
        where nothing may be touched. Then the batch belongs to nobody from here on, and whoever
        comes next rolls it back.
        """
        try:
            self._writer.admit()
        except Exception:
            self.owner = self
            if error is None:
                raise
            return False
        return True

    def interrupt(self) -> None:
        """Roll everything back, because somebody else needs the state. O(size)."""
        writer = self._writer
        writer.open_batch = None
        self.interrupted = True
        if self.events:
            self._roll_back(writer.state)
        self.events, self.undo = [], []
        if self.owner is self:
            return
        if writer.interrupted is None:
            writer.interrupted = WeakKeyDictionary()
        writer.interrupted[self.owner] = self
        self.owner = ref(self.owner)  # it may be a task that nobody will ever resume: let it go

    def _left(self, error: BaseException | None) -> None:
        """The block of a batch that was rolled back ends: say so, beside an error of its own."""
        owner, interrupted = self.owner, self._writer.interrupted
        if isinstance(owner, ref) and interrupted is not None:
            interrupted.pop(owner(), None)
            if not interrupted:
                self._writer.interrupted = None
        raised = BatchInterruptedError()
        if error is None:
            raise raised
        if not isinstance(error, BatchInterruptedError):
            error.add_note(f"{raised} ({raised.hint})")

    def _delta(self, state: State) -> Delta:
        first, last = self.events[0][0], self.events[-1][0]
        batches = ((first, last),) if last > first else ()
        if not any(map(_KILLS_OF, self.events)):  # so nothing was overwritten or removed either
            return Delta(
                (Run(state.replica, first, last, tuple(self.events), batches, admitted=True),)
            )
        live, base = state.live, state.live.base(state.replica)
        events: list[Fields] = []
        known: Path | None = None
        rows: dict[Step, Row] = {}
        for seq, path, step, stamp, value, kills in self.events:
            foreign = self._foreign_kills(kills, state.replica, first) if kills else ()
            if path is not None and path is not known:
                known, rows = path, live.container(path).rows
            if path is not None and holds(rows.get(step), base + seq):
                events.append((seq, path, step, stamp, value, foreign))
            elif foreign:
                events.append((seq, None, LEAF, 0, None, foreign))
        return Delta((Run(state.replica, first, last, tuple(events), batches, admitted=True),))

    @staticmethod
    def _foreign_kills(kills: tuple[Range, ...], replica: str, first: int) -> tuple[Range, ...]:
        """What an event killed, without the dots of this batch: nobody else will ever see them."""
        return tuple(
            (origin, low, min(high, first - 1) if origin == replica else high)
            for origin, low, high in kills
            if origin != replica or low < first
        )

    def _roll_back(self, state: State) -> None:
        """Put every row back, newest first, and take the dots back."""
        live = state.live
        logs: set[OriginLog] = {live.log(state.replica)}
        first = self.events[0][0]
        for undo in reversed(self.undo):
            live.put_back(*undo)
        live.log(state.replica).forget_after(first - 1)
        for container, step, row in self.undo:
            for entry in entries_of(row):
                log = live.logs[entry[0] >> SEQ_BITS]
                seq = entry[0] & SEQ_MAX
                if log.find(seq) is None and holds(container.rows.get(step), entry[0]):
                    log.place(seq, container, step)
                logs.add(log)
        for log in logs:
            log.rewrite()
        state.applied.take_back(state.replica, first - 1)
        if state.context is not state.applied:
            state.context.take_back(state.replica, first - 1)
        self._writer.last = first - 1

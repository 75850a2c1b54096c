"""A batch: mutations that leave as one delta, or not at all.

Its events take a contiguous run of dots. Until the outermost block ends nothing has left the
kernel, so an exception or a limit may still undo everything and the dots may be used again. What a
batch wrote and overwrote itself does not travel: the delta carries the entries that are alive at
its end, and no kill of a dot that nobody else has ever seen.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Self

from crdt.errors import BatchTooLargeError
from crdt.kernel.context import SEQ_BITS, SEQ_MAX
from crdt.kernel.delta import Delta, Fields, Run, weight_of
from crdt.kernel.kind import LEAF
from crdt.kernel.live import OriginLog, entries_of, holds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from crdt.kernel.change import Mark
    from crdt.kernel.codec import Step
    from crdt.kernel.context import Range
    from crdt.kernel.kind import Path
    from crdt.kernel.live import Row
    from crdt.kernel.state import State
    from crdt.kernel.writer import Writer

_KILLS_OF = itemgetter(5)  # of an event


class Batch:
    """The context manager that `Kernel.batch` returns; `delta` is set when the block is left."""

    __slots__ = ("_bytes_max", "_writer", "delta", "events", "stamp", "undo")

    def __init__(self, writer: Writer, bytes_max: int | None) -> None:
        self._writer = writer
        self._bytes_max = bytes_max if bytes_max is not None else writer.bytes_max
        self.events: list[Fields] = []  # the writer appends to both
        self.undo: list[Mark] = []
        self.stamp = 0  # the one stamp of all its entries; 0 until one is needed
        self.delta = Delta()

    def events_of(self, path: Path) -> Iterator[Fields]:
        """What was written below a path so far, newest first."""
        return (event for event in reversed(self.events) if event[1] == path)

    def __enter__(self) -> Self:
        outer = self._writer.open_batch
        if outer is not None:
            outer.tighten(self._bytes_max)
            return self
        if self._writer.before_write is not None:
            self._writer.before_write()
        self._writer.open_batch = self
        return self

    def tighten(self, bytes_max: int | None) -> None:
        """A nested batch may bring a smaller limit: it holds for the whole."""
        limits = [limit for limit in (self._bytes_max, bytes_max) if limit is not None]
        self._bytes_max = min(limits, default=None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
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
        run, limit = delta.runs[0], self._bytes_max
        if limit is not None and sum(map(weight_of, run.rows)) > limit:
            size = len(delta.encode())
            if size > limit:
                self._roll_back(state)
                raise BatchTooLargeError(size, limit)
        for event in filter(_KILLS_OF, run.rows):
            state.record(state.replica, event[0], event[5])
        for batch in run.batches:
            state.live.log(state.replica).mark_batch(*batch)
        self.delta = delta
        self._writer.publish(delta, self.undo)

    def _delta(self, state: State) -> Delta:
        first, last = self.events[0][0], self.events[-1][0]
        batches = ((first, last),) if last > first else ()
        if not any(map(_KILLS_OF, self.events)):  # so nothing was overwritten or removed either
            return Delta((Run(state.replica, first, last, tuple(self.events), batches),))
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
        return Delta((Run(state.replica, first, last, tuple(events), batches),))

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

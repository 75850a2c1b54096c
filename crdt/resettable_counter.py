"""ResettableCounter: a counter whose reset takes back exactly what it saw.

Every increment is an immutable entry of its own, and the value is their sum; a reset kills those it
observed. So a concurrent increment survives a reset, by its own amount and no more, and two
concurrent resets take nothing twice. The price is a live entry per increment until the next reset;
inside a `batch()` the increments of a counter coalesce into one.

An increment may carry an operation id. The id is the step of its entry, so that doing the same
operation twice - a retry, or two workers with one message - meets in one row, of which the least
(replica, seq) counts. That holds while the increment is alive: repeated after a reset that took it,
it is a new increment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from crdt.counter import CounterView, ReadsAsNumber, check_amount
from crdt.errors import InvalidValueTypeError, OpIdReusedError
from crdt.kernel import NOTHING, SEQ_MAX, Entry, Row, Seen, context_of, entries_of, is_text
from crdt.view import plain

if TYPE_CHECKING:
    from crdt.kernel import Delta, Step


class ResettableCounter(CounterView):
    """A counter of increments, resettable; increments may be made idempotent by an id."""

    __slots__ = ()

    @property
    def value(self) -> int:
        """The sum of the increments that no reset has seen. O(1) while increments come one by one.

        O(live increments) the first time, and after an op_id, a batch rolled back, or a bulk merge.
        """
        if self._writer.open_batch is not None:
            self._writer.admit()
        container = self._place
        if container.total is None:  # to keep it is a write, if to nobody but us
            self._writer.admit()
            rows = container.rows.items()
            container.total = sum([self._counted(step, row) for step, row in rows])
        return container.total

    def increment(
        self, amount: int = 1, op_id: str | None = None, *, seen: Seen | None = None
    ) -> Delta:
        """Add `amount`, of any sign; 0 takes no dot. O(1).

        With an `op_id` that is alive here it does nothing; made on two replicas that did not know
        of each other it counts once all the same. `seen` is accepted as by every mutator; an
        increment takes nothing back.

        Raises:
            OpIdReusedError: the id is alive with another amount.
        """
        check_amount(amount)
        if seen is not None:
            context_of(seen)
        if op_id is not None:
            return self._once(op_id, amount)
        if amount == 0:
            return NOTHING
        writer, container = self._writer, self._container
        step, before = writer.last + 1, self._written_in_batch()
        if before is None:
            return writer.write((), (container, step, 0, amount))
        row = container.rows[before]
        return writer.write([(container, before, row)], (container, step, 0, row[2] + amount))  # type: ignore[operator]  # one own entry, an int

    def reset(self, *, seen: Seen | None = None) -> Delta:
        """Take back every increment observed (or that `seen` covers). O(live increments)."""
        return self._reset(self._place, seen)

    def __isub__(self, amount: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `-`
        self.increment(-check_amount(plain(amount)))
        return self

    def _import(self, value: Any) -> None:
        self.increment(value)

    def _once(self, op_id: str, amount: int) -> Delta:
        if type(op_id) is not str or not is_text(op_id):
            raise InvalidValueTypeError(f"an op_id is text, not {op_id!r}")
        self._writer.admit()
        row = self._rows.get(op_id)
        if row is None:
            self._place.total = None
            return self._writer.put(self._place, op_id, 0, amount)
        known = self._counted(op_id, row)
        if known != amount:
            raise OpIdReusedError(op_id, known, amount)
        return NOTHING

    def _counted(self, step: Step, row: Row) -> int:
        """What a row adds: all its entries if they share a number only, one if they share an id."""
        if type(step) is str:
            least = min(entries_of(row), key=self._dot_order)
            return least[2]  # type: ignore[return-value]  # amounts are ints
        return sum([entry[2] for entry in entries_of(row)])  # type: ignore[misc]  # as above

    def _dot_order(self, entry: Entry) -> tuple[str, int]:
        replica, seq = self._writer.state.live.dot(entry[0])
        return replica, seq & SEQ_MAX

    def _written_in_batch(self) -> Step | None:
        """The step of the increment made last in the open batch; it can take more."""
        batch = self._writer.open_batch
        if batch is None:
            return None
        for seq, _, step, *_ in batch.events_of(self._place.path):
            row = self._rows.get(step)
            if type(step) is int and type(row) is tuple and row[0] == self._writer.log.base + seq:
                return step
        return None

"""ResettableCounter: a counter whose reset takes back exactly what it saw.

Every increment is an immutable entry of its own, and the value is their sum; a reset kills those it
observed. So a concurrent increment survives a reset, by its own amount and no more, and two
concurrent resets take nothing twice. The price is a live entry per increment until the next reset;
inside a `batch()` the increments of a counter coalesce into one.

An increment may carry an operation id. The id is the step of its entry, so that doing the same
operation twice - a retry, or two workers with one message - meets in one row, of which the least
(replica, seq) counts. A reset that takes increments with ids remembers these: it leaves one live
entry, the memory, which holds a hash of each, and those of the memories it observed, which it
replaces. Whatever carries a remembered id adds nothing, wherever and whenever it was written, so
that an operation of which the reset saw one delivery and missed another is over all the same. What
is alive decides, nothing else; so replicas agree in any order of delivery.

A memory holds `OP_IDS_MAX` ids, the newest; the ids of what is older are free again. It is state
like any other: who removes the whole counter (in an ORMap, or by `Kernel.delete`) takes it too.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Self

from crdt.counter import CounterView, ReadsAsNumber, check_amount
from crdt.errors import InvalidValueTypeError, OpIdReusedError
from crdt.kernel import (
    MEMORY,
    NOTHING,
    OP_ID_BYTES,
    OP_IDS_MAX,
    SEQ_MAX,
    Entry,
    Row,
    Seen,
    context_of,
    entries_of,
    is_text,
)
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
            known = self._remembered()
            rows = container.rows.items()
            container.total = sum(
                [self._counted(step, row) for step, row in rows if not _is_over(step, known)]
            )
        return container.total

    def increment(
        self, amount: int = 1, op_id: str | None = None, *, seen: Seen | None = None
    ) -> Delta:
        """Add `amount`, of any sign; 0 takes no dot. O(1).

        With an `op_id` that is alive here, or remembered by a reset, it does nothing; made on two
        replicas that did not know of each other it counts once all the same, and not at all if a
        reset took either. `seen` is accepted as by every mutator; an increment takes nothing back.

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
        """Take back every increment observed (or that `seen` covers). O(live increments).

        The op_ids among them are remembered, with those that resets before it remembered: the
        newest `OP_IDS_MAX`, at 8 bytes each. Without op_ids it leaves nothing.
        """
        self._writer.admit()
        container = self._place
        victims = self._victims([(container, step) for step in container.rows], seen)
        taken = [victim for victim in victims if victim[1] != MEMORY]
        op_ids = [step for _, step, _ in taken if type(step) is str]
        if not op_ids:
            return self._writer.write(taken)
        known = [
            _hashes(entry[2])  # type: ignore[arg-type]  # as its kind has it
            for _, step, row in victims
            if step == MEMORY
            for entry in entries_of(row)
        ]
        memory = _newest(list(map(_hash, op_ids)), known)
        return self._writer.write(victims, (container, MEMORY, 0, b"".join(memory)))

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
            if _is_over(op_id, self._remembered()):
                return NOTHING
            self._place.total = None
            return self._writer.put(self._place, op_id, 0, amount)
        known = self._counted(op_id, row)
        if known != amount:
            raise OpIdReusedError(op_id, known, amount)
        return NOTHING

    def _remembered(self) -> frozenset[bytes]:
        """The hashes of the op_ids that resets took. O(1), or O(ids) of concurrent resets."""
        row = self._rows.get(MEMORY)
        if row is None:
            return frozenset()
        memories = [_set_of(entry[2]) for entry in entries_of(row)]
        return memories[0] if len(memories) == 1 else frozenset().union(*memories)

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


def _hash(op_id: str) -> bytes:
    return blake2b(op_id.encode(), digest_size=OP_ID_BYTES).digest()


def _hashes(memory: bytes) -> list[bytes]:
    """What an entry at `MEMORY` holds, the oldest first."""
    return [memory[at : at + OP_ID_BYTES] for at in range(0, len(memory), OP_ID_BYTES)]


@lru_cache(maxsize=16)  # of about 100 kB at most; asked for by every increment with an id
def _set_of(memory: bytes) -> frozenset[bytes]:
    return frozenset(_hashes(memory))


def _is_over(step: Step, remembered: frozenset[bytes]) -> bool:
    """Whether a row adds nothing: the memory itself, or one whose op_id is remembered."""
    if type(step) is str:
        return bool(remembered) and _hash(step) in remembered
    return step == MEMORY


def _newest(taken: list[bytes], known: list[list[bytes]]) -> list[bytes]:
    """The newest ids of what is taken now and of the memories before, the oldest first.

    What is taken now is newer than what was remembered; memories of concurrent resets share the
    room, each losing its oldest first.
    """
    ranked = chain.from_iterable(zip_longest(*map(reversed, known)))
    newest = dict.fromkeys(chain(reversed(taken), (each for each in ranked if each is not None)))
    return list(newest)[:OP_IDS_MAX][::-1]

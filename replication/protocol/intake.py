"""What may enter the state: the one door for deltas that come from peers.

Theory of operation. A range [first, last] of an origin may be applied only if `first` is at most
our vector + 1; otherwise the vector would claim events that we do not have, so the whole delta is
refused and the sender, who learns our vector from the answer, starts lower. A delta that is known
entirely is counted and dropped without touching the disk.

A delta whose application raises is taken apart batch by batch: what is sound goes in, and the
origin of the first batch that raises is quarantined there. Its vector stops, its later events wait
at their owners, all other origins go on, until an operator skips it (see `skips`).

Before any of this the rules of the cluster are asked: one refused event refuses the whole delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from crdt import Delta
from crdt.errors import BatchOpenError, CRDTError
from replication.errors import BusyError, FrameTooLargeError, MalformedFrameError
from replication.protocol.bodies import ORIGINS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crdt import Change, Kernel
    from replication.protocol.eager import Ranges
    from replication.protocol.rules import Rules


class Outcome(Enum):
    """What became of a delta."""

    NEW = "new"
    KNOWN = "known"
    GAP = "gap"
    CONFLICT = "conflict"
    POISON = "poison"


@dataclass(frozen=True, slots=True)
class Taken:
    """The outcome, the ranges the delta covers, and the deltas to persist with their changes."""

    outcome: Outcome
    ranges: Ranges
    applied: tuple[tuple[bytes, Change], ...] = ()
    why: str = ""
    redundant: int = 0
    """Events that were here already: what the guesses of gossip cost."""


@dataclass(slots=True)
class Intake:
    """Checks and applies; keeps the quarantine. One per replica."""

    kernel: Kernel
    rules: Rules
    quarantine: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """origin -> (first, last, why): the batch that would not apply."""

    def take(self, data: bytes, sender: str) -> Taken:
        """Apply an encoded delta as far as it is sound; O(its size).

        Raises:
            MalformedFrameError: the bytes are no delta; nothing changed.
            ForbiddenError: the rules refuse it; nothing changed.
        """
        try:
            delta = Delta.decode(data)
        except CRDTError as error:
            raise MalformedFrameError(f"no delta: {error}") from error
        ranges: Ranges = tuple(delta.ranges)
        self.rules.check_sender(sender, (origin for origin, _, _ in ranges))
        mine = self.kernel.vector
        me = self.kernel.replica
        if any(origin == me and last > mine.get(me, 0) for origin, _, last in ranges):
            return Taken(Outcome.CONFLICT, ranges)
        if all(last <= mine.get(origin, 0) for origin, _, last in ranges):
            return Taken(Outcome.KNOWN, ranges, redundant=_known(ranges, mine))
        if _gaps(ranges, mine):
            return Taken(Outcome.GAP, ranges)
        strangers = {origin for origin, _, _ in ranges if origin not in mine}
        if len(strangers) + len(mine) > ORIGINS_MAX:
            raise FrameTooLargeError(f"a vector has at most {ORIGINS_MAX} origins")
        self.rules.check_events(delta, self.kernel.documents_at)
        if not any(origin in self.quarantine for origin, _, _ in ranges):
            try:
                known = _known(ranges, mine)
                applied = ((data, self.kernel.apply(delta)),)
                return Taken(Outcome.NEW, ranges, applied, redundant=known)
            except BatchOpenError as error:
                raise BusyError("a local batch is open") from error
            except CRDTError:
                pass  # atomic: nothing changed; find out which batch it was
        return self._piecemeal(delta, ranges)

    def _piecemeal(self, delta: Delta, ranges: Ranges) -> Taken:
        applied: list[tuple[bytes, Change]] = []
        why = ""
        for batch in delta.batches():
            ((origin, first, last),) = batch.ranges
            if origin in self.quarantine:
                continue
            try:
                applied.append((batch.encode(), self.kernel.apply(batch)))
            except CRDTError as error:
                why = f"{origin} {first}-{last}: {error}"
                self.quarantine[origin] = (first, last, str(error))
        outcome = Outcome.POISON if why else Outcome.NEW if applied else Outcome.KNOWN
        return Taken(outcome, ranges, tuple(applied), why)


def _known(ranges: Ranges, mine: Mapping[str, int]) -> int:
    """How many of these events we have."""
    return sum(max(0, min(last, mine.get(o, 0)) - first + 1) for o, first, last in ranges)


def _gaps(ranges: Ranges, mine: Mapping[str, int]) -> bool:
    """Whether some range starts beyond what we, and the ranges below it, cover."""
    reach: dict[str, int] = {}
    for origin, first, last in sorted(ranges):
        stands = reach.get(origin, mine.get(origin, 0))
        if first > stands + 1:
            return True
        reach[origin] = max(stands, last)
    return False

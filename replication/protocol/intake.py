"""What may enter the state: the one door for deltas that come from peers.

Theory of operation. A range [first, last] of an origin may be applied only if `first` is at most
our vector + 1; otherwise the vector would claim events that we do not have, so the whole delta is
refused and the sender, who learns our vector from the answer, starts lower. A delta that is known
entirely is counted and dropped without touching the disk.

A delta whose application raises is taken apart batch by batch: what is sound goes in, and the
origin of the first batch that raises is quarantined there. Its vector stops, its later events wait
at their owners, all other origins go on, until the batch applies - it is tried whenever it comes
again - or an operator gives it up: what was given up is left out on the way in (see `skips`).

Before any of this the rules of the cluster are asked: one refused event refuses the whole delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from crdt import CRDTError, Delta, DoomedFullError, GSet
from replication.errors import BusyError, FrameTooLargeError, MalformedFrameError
from replication.protocol import skips
from replication.protocol.bodies import ORIGINS_MAX
from replication.protocol.rules import SKIPPED
from replication.protocol.skips import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crdt import Change, Kernel
    from replication.protocol.eager import Ranges
    from replication.protocol.rules import Rules


QUARANTINED_MAX = 64
"""Origins in quarantine at once; one more stops all the same, and is held when there is room."""


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


Applied = list[tuple[bytes, "Change"]]
"""Deltas as they are to be persisted, and what they changed."""


@dataclass(slots=True)
class Intake:
    """Checks and applies; keeps the quarantine. One per replica."""

    kernel: Kernel
    rules: Rules
    weight_max: int
    """Bytes that a delta may weigh: building more events than fit would hold the loop."""
    quarantine: dict[str, Held] = field(default_factory=dict)
    """origin -> the batch that would not apply, one per origin and at most `batch_bytes_max`; of
    `QUARANTINED_MAX` origins."""
    _gone: skips.GivenUp = field(default_factory=dict)
    _gone_count: int = 0

    def take(self, data: bytes, sender: str) -> Taken:
        """Apply an encoded delta as far as it is sound; O(its size).

        Raises:
            MalformedFrameError: the bytes are no delta; nothing changed.
            ForbiddenError: the rules refuse it; nothing changed.
            BusyError: a local batch is open, or too many removals wait for what they remove;
                nothing changed.
        """
        try:
            delta = Delta.decode(data, self.weight_max)
        except CRDTError as error:
            raise MalformedFrameError(f"no delta: {error}") from error
        if self.kernel.in_batch:
            raise BusyError("a local batch is open")
        ranges: Ranges = tuple(delta.ranges)
        self.rules.check_sender(sender, (origin for origin, _, _ in ranges))
        mine = self.kernel.vector
        refused = self._refused(ranges, mine)
        if refused is not None:
            redundant = _known(ranges, mine) if refused is Outcome.KNOWN else 0
            return Taken(refused, ranges, redundant=redundant)
        self.rules.check_events(delta, self.kernel.documents_at)
        if self.given_up:
            kept = skips.without(delta, self.given_up, mine)
            delta, data = kept, data if kept is delta else kept.encode()
        if not any(origin in self.quarantine for origin, _, _ in ranges):
            try:
                known = _known(ranges, mine)
                applied = ((data, self.kernel.apply(delta)),)
                return Taken(Outcome.NEW, ranges, applied, redundant=known)
            except DoomedFullError as error:
                raise BusyError(str(error)) from error
            except CRDTError:
                pass  # atomic: nothing changed; find out which batch it was
        return self._piecemeal(delta, ranges)

    def _refused(self, ranges: Ranges, mine: Mapping[str, int]) -> Outcome | None:
        """Why ranges are not even looked into; None if they bring news that follows ours.

        Raises:
            FrameTooLargeError: they bring too many new origins.
        """
        me = self.kernel.replica
        if any(origin == me and last > mine.get(me, 0) for origin, _, last in ranges):
            return Outcome.CONFLICT
        if all(last <= mine.get(origin, 0) for origin, _, last in ranges):
            return Outcome.KNOWN
        if _gaps(ranges, mine):
            return Outcome.GAP
        strangers = {origin for origin, _, _ in ranges if origin not in mine}
        if len(strangers) + len(mine) > ORIGINS_MAX:
            raise FrameTooLargeError(f"a vector has at most {ORIGINS_MAX} origins")
        return None

    @property
    def given_up(self) -> skips.GivenUp:
        """What operators gave up, by origin; O(1) unless there is news."""
        elements = self.kernel.document(SKIPPED, GSet)
        if len(elements) != self._gone_count:  # it only grows
            self._gone, self._gone_count = skips.given_up(elements), len(elements)
        return self._gone

    def release(self) -> Applied:
        """Take in what is left of quarantined batches that were given up, here or elsewhere."""
        applied: Applied = []
        for origin, held in list(self.quarantine.items()):
            mine = self.kernel.vector
            ((_, _, last),) = held.batch.ranges
            left = skips.without(held.batch, self.given_up, mine)
            if mine.get(origin, 0) >= last:  # it came another way, as part of a state
                del self.quarantine[origin]
            elif left is not held.batch:
                del self.quarantine[origin]
                self._try(left, applied)
        return applied

    def _piecemeal(self, delta: Delta, ranges: Ranges) -> Taken:
        applied: Applied = []
        why, stands = "", dict(self.kernel.vector)
        for batch in delta.batches():
            ((origin, first, last),) = batch.ranges
            if first > stands.get(origin, 0) + 1:
                continue  # behind one that did not apply
            before, count = self.quarantine.pop(origin, None), len(applied)
            self._try(batch, applied)
            if len(applied) > count:
                stands[origin] = max(last, stands.get(origin, 0))
            held = self.quarantine.get(origin)
            if held is not None and (before is None or before.span != held.span):
                why = f"{origin} {first}-{last}: {held.why}"
        outcome = Outcome.POISON if why else Outcome.NEW if applied else Outcome.KNOWN
        return Taken(outcome, ranges, tuple(applied), why)

    def _try(self, batch: Delta, applied: Applied) -> None:
        """Apply one batch of one origin, or put it into quarantine."""
        try:
            applied.append((batch.encode(), self.kernel.apply(batch)))
        except DoomedFullError:
            return  # it is sound, and comes again
        except CRDTError as error:
            ((origin, _, _),) = batch.ranges
            if len(self.quarantine) < QUARANTINED_MAX:
                self.quarantine[origin] = Held(batch, str(error))


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

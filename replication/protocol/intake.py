"""What may enter the state: the one door for deltas that come from peers.

Theory of operation. A range [first, last] of an origin may be applied only if `first` is at most
our vector + 1; otherwise the vector would claim events that we do not have, so the whole delta is
refused and the sender, who learns our vector from the answer, starts lower. Ranges are read without
opening a delta; what is known entirely, a delta or a part of one, is counted and dropped unopened.

A delta whose application raises - whatever it raises, for a kernel goes back from anything - is
taken apart batch by batch: what is sound goes in, and the origin of the first batch that raises is
quarantined there. Its vector stops, its later events wait at their owners, all other origins go on,
until the batch applies - it is tried whenever it comes again - or an operator gives it up: what was
given up is left out on the way in.

Before any of this the rules of the cluster are asked: one refused event keeps its range out, and
the others of the delta go on (`AccessPolicy.judged`).

A *skip*, the giving up of a quarantined event, is meant for the whole cluster, so it is an event
itself, of the agent where it was made, recorded and gossiped like any write: it adds (origin,
first, last) to a grow-only set, and it kills the entries of the event given up, and whatever that
event had killed. So it is journalled, gossiped, merged and handed to newcomers by the machinery
that carries everything else, and states are equal once it is everywhere:

    who had applied the event        loses its entries
    who stands before it             leaves it out (`without`) and goes on with what follows
    who meets it later, in any cut   leaves it out as well

The event is named by the numbers of what it says, never by the range that happened to carry it.
What it had replaced is not restored: an agent that applied it knows nothing of that any more.

A skip takes back what somebody else wrote; where there are rules it is for agents that no rule
keeps from writing anything (`AccessPolicy.may_write`).
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from crdt import CRDTError, Delta, DoomedFullError, GSet, Run
from replication.errors import BusyError, ForbiddenError, FrameTooLargeError, MalformedFrameError
from replication.protocol.effects import DELTA, Row
from replication.protocol.policy import SKIPPED, agent_of
from replication.protocol.wire import ORIGINS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from crdt import Change, Kernel
    from replication.protocol.peers import Ranges
    from replication.protocol.policy import AccessPolicy


QUARANTINED_MAX = 64
"""Origins in quarantine at once; one more stops all the same, and is held when there is room."""
QUARANTINED_PER_NAME_MAX = 8
ORIGINS_PER_NAME_MAX = ORIGINS_MAX // 4
"""Lives of one agent, or what else it writes as; events of one more are refused, its own only."""
DOOMED_PER_NAME_MAX = 1 << 18
"""Unseen events that the removals of one agent may wait for; more of these removals wait."""


GivenUp = dict[str, list[tuple[int, int]]]
"""Origin -> what was given up of it, as ranges of numbers."""


class Held(NamedTuple):
    """The batch before which an origin stands, and why it would not apply."""

    batch: Delta
    why: str

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last number of what it says."""
        (run,) = self.batch.runs
        return (run.rows[0][0], run.rows[-1][0]) if run.rows else (run.first, run.last)


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
    applied: tuple[tuple[Row, Change], ...] = ()
    why: str = ""
    redundant: int = 0
    """Events that were here already: what the guesses of gossip cost."""
    barred: Mapping[str, str] = field(default_factory=dict)
    """Origins whose range the rules kept out, and why."""


Applied = list[tuple[Row, "Change"]]
"""Deltas as they are to be persisted, and what they changed."""


@dataclass(slots=True)
class Intake:
    """Checks and applies; keeps the quarantine. One per replica."""

    kernel: Kernel
    policy: AccessPolicy
    weight_max: int
    """Bytes that a delta may weigh: building more events than fit would hold the loop."""
    quarantine: dict[str, Held] = field(default_factory=dict)
    """origin -> the batch that would not apply, one per origin and at most `batch_bytes_max`; of
    `QUARANTINED_MAX` origins."""
    _gone: GivenUp = field(default_factory=dict)
    _gone_count: int = 0

    def __post_init__(self) -> None:
        self.kernel.share_doomed(agent_of, DOOMED_PER_NAME_MAX)

    def take(self, data: bytes, sender: str) -> Taken:
        """Apply an encoded delta as far as it is sound; O(its size), O(bytes) if it is known.

        Raises:
            MalformedFrameError: the bytes are not a delta; nothing changed.
            ForbiddenError: the rules refuse it; nothing changed.
            BusyError: a local batch is open, or too many removals wait for what they remove;
                nothing changed.
        """
        with _what_comes():
            ranges: Ranges = Delta.ranges_in(data, self.weight_max)
        if self.kernel.in_batch:
            raise BusyError("a local batch is open")
        self.policy.check_sender(sender, (origin for origin, _, _ in ranges))
        mine = self.kernel.vector
        refused = self._refused(ranges, mine)
        if refused is not None:
            redundant = _known(ranges, mine) if refused is Outcome.KNOWN else 0
            return Taken(refused, ranges, redundant=redundant)
        with _what_comes():
            data = Delta.news_in(data, mine)
            delta = Delta.decode(data, self.weight_max)
        kept, barred = self.policy.judged(delta, self.kernel.documents_at, self.kernel.places_at)
        if barred and not any(last > mine.get(o, 0) for o, _, last in kept.ranges):
            raise ForbiddenError(next(iter(barred.values())))
        if kept is not delta:
            delta, data = kept, kept.encode()
        if self.given_up:
            kept = without(delta, self.given_up, mine)
            delta, data = kept, data if kept is delta else kept.encode()
        if not any(origin in self.quarantine for origin, _, _ in delta.ranges):
            try:
                known = _known(ranges, mine)
                applied = ((Row(DELTA, data, delta.ranges), self.kernel.apply(delta)),)
                return Taken(Outcome.NEW, ranges, applied, redundant=known, barred=barred)
            except DoomedFullError as error:
                raise BusyError(str(error)) from error
            except Exception:  # noqa: BLE001, S110 - nothing changed: find out which batch it was
                pass
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
        if strangers:
            names = {agent_of(origin) for origin in strangers}
            known = Counter(name for name in map(agent_of, (*mine, *strangers)) if name in names)
            for name, count in known.items():
                if count > ORIGINS_PER_NAME_MAX:
                    raise FrameTooLargeError(
                        f"{name} has {count} origins; one agent has {ORIGINS_PER_NAME_MAX} at most"
                    )
        return None

    @property
    def given_up(self) -> GivenUp:
        """What operators gave up, by origin; O(1) unless there is news."""
        elements = self.kernel.document(SKIPPED, GSet)
        if len(elements) != self._gone_count:  # it only grows
            self._gone, self._gone_count = given_up(elements), len(elements)
        return self._gone

    def release(self) -> Applied:
        """Take in what is left of quarantined batches that were given up, here or elsewhere."""
        applied: Applied = []
        for origin, held in list(self.quarantine.items()):
            mine = self.kernel.vector
            ((_, _, last),) = held.batch.ranges
            left = without(held.batch, self.given_up, mine)
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
            row = Row(DELTA, batch.encode(), batch.ranges)
            applied.append((row, self.kernel.apply(batch)))
        except DoomedFullError:
            return  # it is sound, and comes again
        except Exception as error:  # noqa: BLE001 - foreseen or not: its origin stops before it
            ((origin, _, _),) = batch.ranges
            why = str(error) if isinstance(error, CRDTError) else f"{error!r:.200}"
            held = sum(agent_of(known) == agent_of(origin) for known in self.quarantine)
            if held < QUARANTINED_PER_NAME_MAX and len(self.quarantine) < QUARANTINED_MAX:
                self.quarantine[origin] = Held(batch, why)


@contextmanager
def _what_comes() -> Iterator[None]:
    """Whatever it is that bytes of a peer raise, it is no fault of ours."""
    try:
        yield
    except CRDTError as error:
        raise MalformedFrameError(f"not a delta: {error}") from error
    except Exception as error:
        raise MalformedFrameError(f"not a delta: {type(error).__name__}") from error


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


# ------------------------------------------------------------------------------------------ skips


def record_skip(kernel: Kernel, origin: str, held: Held) -> None:
    """Write the decision down, as a view would; the kernel's listeners take part. O(batch).

    Raises:
        BatchOpenError: a local batch is open; nothing changed.
        DoomedFullError: the event removed too much that is unknown here; nothing changed.
    """
    if kernel.before_write is not None:
        kernel.before_write()
    (run,) = held.batch.runs
    mine = kernel.vector
    seq = mine.get(kernel.replica, 0) + 1
    kills = {(origin, *held.span)}
    for row in run.rows:
        kills.update(kill for kill in row[5] if kill[0] != kernel.replica or kill[2] < seq)
    (added,) = GSet(kernel.replica).add((origin, *held.span)).runs[0].rows
    event = (seq, (SKIPPED, GSet.type_name), *added[2:5], tuple(sorted(kills)))
    delta = Delta((Run(kernel.replica, seq, seq, (event,)),))
    delta = Delta.decode(delta.encode())  # whatever peers would refuse is refused here
    change = kernel.replay(delta)
    if kernel.on_delta is not None:
        kernel.on_delta(delta, change)


def given_up(elements: Iterable[object]) -> GivenUp:
    """What the elements of the set name; those that make no sense name nothing. O(elements)."""
    found: GivenUp = {}
    for element in elements:
        match element:
            case (str(origin), int(first), int(last)) if 0 < first <= last:
                found.setdefault(origin, []).append((first, last))
    return found


def without(delta: Delta, gone: GivenUp, mine: Mapping[str, int]) -> Delta:
    """The delta with nothing said at the numbers given up above a vector; itself if none are in it.

    O(runs), and O(events) of the runs that hold some.
    """
    if not any(_met(run, gone, mine) for run in delta.runs):
        return delta
    return Delta(tuple(_thinned(run, _met(run, gone, mine)) for run in delta.runs))


def _met(run: Run, gone: GivenUp, mine: Mapping[str, int]) -> list[tuple[int, int]]:
    least = max(run.first, mine.get(run.origin, 0) + 1)
    return [
        (low, high) for low, high in gone.get(run.origin, ()) if low <= run.last and high >= least
    ]


def _thinned(run: Run, met: Sequence[tuple[int, int]]) -> Run:
    if not met:
        return run
    rows = tuple(row for row in run.rows if not any(low <= row[0] <= high for low, high in met))
    return Run(run.origin, run.first, run.last, rows, run.batches)

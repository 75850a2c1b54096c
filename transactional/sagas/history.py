"""A saga's history, and the one pure function that says what comes next.

The history is a list of records; everything a coordinator knows stands in it, so any worker can go
on where another one fell.  An attempt is recorded *before* it runs (INTENT, UNDO) and its outcome
together with the next attempt's intent, in one commit::

    start    INTENT a 1
             (a runs)
    commit   DONE a, INTENT b 1
             (b runs, the worker dies)
    resume   INTENT b 2                 b's first attempt is lost: it counts as a crash of b
             (b runs with the same idempotency key, and refuses)
    commit   REFUSED b, UNDO a 1
             (a's compensation runs)
    commit   UNDONE a, COMPENSATED

A record, and what it changes in the history folded (`Progress`):

====================  =============================================================================
INTENT, UNDO          an attempt begins; UNDO also turns the run back.  One without outcome is lost
DONE                  the step's result is known
FAILED, a time        the same step again, not before that time
FAILED, no time       given up: the rows of the next table say what follows
LATER, PAUSED         the same step again; no failure is counted; LATER: it had no effect
REFUSED               turns the run back; this step needs no compensation
DEADLINE, ABANDON     turns the run back; the step under way is compensated like those before it
UNDONE, UNDO_FAILED   of a compensation what DONE and FAILED are of an action
PROBE, UNKNOWN        an attempt of a probe begins, and did not find out; else DONE or REFUSED
SKIP                  a person: forwards the step has this result, backwards it counts as undone
ABANDON, when STUCK   a person: the pivot at which the run is stuck had no effect
RETRY                 a person: what was counted against all steps is forgotten
====================  =============================================================================

`next_action(saga, progress)` is the first row that applies:

==============================================  ===================================================
the last record is COMPLETED or COMPENSATED     Finish
the last record is STUCK or DEAD_LETTER         Stop, until SKIP, RETRY or ABANDON follows
`RECORDS_MAX` records since a person wrote one  Stop DEAD_LETTER
forwards: every step has a result               Finish COMPLETED
forwards: given up, retriable                   Stop STUCK
forwards: given up otherwise                    as if turned back
forwards: lost with `crashes_max` workers       Stop DEAD_LETTER
forwards: called `LATERS_MAX` times             Stop DEAD_LETTER
forwards                                        Run the first step without a result
back: a pivot may have had its effect           Probe it; Stop STUCK if that is given up, or none
back: ... and its probe took workers along      Stop DEAD_LETTER
back: nothing left to undo                      Finish COMPENSATED
back: given up                                  Stop STUCK
back: lost with `crashes_max` workers           Stop DEAD_LETTER
back                                            Undo the last step that is begun and not undone
==============================================  ===================================================

It asks no clock: a time that matters (the end of a back-off) is in the record that brought it
about.

A pivot "may have had its effect" if it has no compensation, some attempt of it ended neither with
LATER nor with a result, and nobody has said that it did not happen.

Invariants: before the pivot is done every failure turns the run back, after it none does (REFUSED,
DEADLINE and ABANDON are not written there; an ABANDON that comes while the pivot runs loses against
its result); once turned back, no action runs again, but for that; a step is undone from its intent
on, unless it was refused, in reverse order of the steps; COMPENSATED stands only where every such
step is undone or was skipped by a person, and where no pivot may have had its effect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from transactional.sagas.saga import Child, Json, StepKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transactional.sagas.saga import Saga, Step

_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

RECORDS_MAX: Final = 2000
"""Longest history since a person wrote to it; a saga that is not done then is dead-lettered."""
RECORDS_BYTES_MAX: Final = 256 << 10
"""The same for their bytes, results not counted.  With 32 results of 16 KiB, an input of 64 KiB and
what is left of earlier attempts (`without_old_attempts`) a run fits into a value of 1 MiB."""
LATERS_MAX: Final = 10_000
"""How often a step is called, since a person wrote, before it is taken for one that never ends."""


class RecordKind(Enum):
    """What a record says."""

    INTENT = "intent"  # an attempt of the action begins
    DONE = "done"  # the action returned `value`
    FAILED = "failed"  # the attempt raised; `value` is when to try again, None: give up
    REFUSED = "refused"  # the action says that it had and will have no effect
    LATER = "later"  # the action wants to be called again at `value`
    PAUSED = "paused"  # the worker stopped in good order in mid-attempt
    DEADLINE = "deadline"  # the saga's deadline passed before the pivot was done
    ABANDON = "abandon"  # a person turned the saga back
    UNDO = "undo"  # an attempt of the compensation begins
    UNDONE = "undone"  # the compensation returned
    UNDO_FAILED = "undo_failed"  # the compensation raised; `value` as for FAILED
    PROBE = "probe"  # an attempt of the probe begins
    UNKNOWN = "unknown"  # the probe raised, or could not tell; `value` as for FAILED
    SKIP = "skip"  # a person says that the step is dealt with; `value` is its result
    RETRY = "retry"  # a person wants a stopped saga to go on; counts start anew
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    STUCK = "stuck"  # a compensation or a retriable step failed for good
    DEAD_LETTER = "dead_letter"  # a step took too many workers with it


FINAL: Final = frozenset({RecordKind.COMPLETED, RecordKind.COMPENSATED})
STOPPED: Final = frozenset({RecordKind.STUCK, RecordKind.DEAD_LETTER})
TURNING: Final = frozenset(
    {RecordKind.REFUSED, RecordKind.DEADLINE, RecordKind.ABANDON, RecordKind.UNDO}
)
SETBACKS: Final = frozenset(
    {
        RecordKind.FAILED,
        RecordKind.LATER,
        RecordKind.PAUSED,
        RecordKind.UNDO_FAILED,
        RecordKind.UNKNOWN,
    }
)
INTENTS: Final = frozenset({RecordKind.INTENT, RecordKind.UNDO, RecordKind.PROBE})
RESULTS: Final = frozenset({RecordKind.DONE, RecordKind.SKIP})
PERSONS: Final = frozenset({RecordKind.SKIP, RecordKind.RETRY, RecordKind.ABANDON})


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a history."""

    kind: RecordKind
    at: datetime
    step: str = ""
    attempt: int = 0
    value: Json = None
    error: str = ""
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The record as JSON text, made once: it is written again with each later record."""
        text = self._text
        if text is None:
            text = _dump(self.to_json())
            object.__setattr__(self, "_text", text)
        return text

    def to_json(self) -> dict[str, Any]:
        """The record in JSON's types."""
        data: dict[str, Any] = {"kind": self.kind.value, "at": self.at.isoformat()}
        if self.step:
            data["step"] = self.step
        if self.attempt:
            data["attempt"] = self.attempt
        if self.value is not None:
            data["value"] = self.value
        if self.error:
            data["error"] = self.error
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """The record that `to_json` wrote."""
        return cls(
            kind=RecordKind(data["kind"]),
            at=datetime.fromisoformat(data["at"]),
            step=data.get("step", ""),
            attempt=data.get("attempt", 0),
            value=data.get("value"),
            error=data.get("error", ""),
        )


# --- what comes next ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Run the step's action; not before a time, if one is given."""

    step: str
    attempt: int
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Undo:
    """Run the step's compensation; not before a time, if one is given."""

    step: str
    attempt: int
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the step's probe how it went; not before a time, if one is given."""

    step: str
    attempt: int
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The saga is over: COMPLETED or COMPENSATED."""

    end: RecordKind


@dataclass(frozen=True, slots=True)
class Stop:
    """The saga waits for a person: STUCK or DEAD_LETTER, because of a step."""

    reason: RecordKind
    step: str = ""


Attempt = Run | Undo | Probe
NextAction = Attempt | Finish | Stop


@dataclass(frozen=True, slots=True)
class Tries:
    """The attempts at one thing (an action, a compensation) as the history tells them."""

    attempts: int = 0  # all of them: numbers the next one
    forgiven: int = 0  # those before a person last intervened
    since: datetime | None = None  # when the first of them began
    failures: int = 0  # those that raised, since a person last intervened
    lost: int = 0  # begun without an outcome, since a person last intervened
    unsure: int = 0  # those that may have had their effect: all but the ones that said LATER
    begun: bool = False  # the last one has no outcome yet
    failed: bool = False  # the last one raised
    not_before: datetime | None = None  # when a failed or postponed one may be repeated

    def begin(self, record: Record) -> Tries:
        """An attempt begins; if the one before it has no outcome, it was lost."""
        return Tries(
            max(self.attempts, record.attempt),
            self.forgiven,
            self.since or record.at,
            self.failures,
            self.lost + self.begun,
            self.unsure + 1,
            begun=True,
        )

    def end(self, record: Record) -> Tries:
        """The attempt ended without a result."""
        failed = record.kind not in (RecordKind.LATER, RecordKind.PAUSED)
        return replace(
            self,
            attempts=max(self.attempts, record.attempt),
            begun=False,
            failed=failed,
            failures=self.failures + failed,
            unsure=self.unsure - (self.begun and record.kind is RecordKind.LATER),
            not_before=datetime.fromisoformat(record.value) if record.value else None,
        )

    def anew(self) -> Tries:
        """A person wants it tried again: what was counted against it is forgotten."""
        return Tries(self.attempts, self.attempts, unsure=self.unsure)


_NEVER: Final = Tries()


@dataclass(slots=True)
class Progress:
    """A history folded: what is done, what is undone, and which way the run goes."""

    results: dict[str, Json] = field(default_factory=dict)
    forward: dict[str, Tries] = field(default_factory=dict)
    back: dict[str, Tries] = field(default_factory=dict)
    probed: dict[str, Tries] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    turned: bool = False
    last: RecordKind | None = None
    error: str = ""
    records: int = 0
    records_bytes: int = 0

    @classmethod
    def of(cls, history: Sequence[Record]) -> Progress:
        """Fold the history; O(records)."""
        return cls().after(history)

    def after(self, records: Sequence[Record]) -> Progress:
        """This and some more records, folded; this one stays as it is.  O(steps + new records)."""
        progress = Progress(
            dict(self.results),
            dict(self.forward),
            dict(self.back),
            dict(self.probed),
            set(self.undone),
            set(self.refused),
            self.turned,
            self.last,
            self.error,
            self.records,
            self.records_bytes,
        )
        for record in records:
            progress._add(record)
        return progress

    def _add(self, record: Record) -> None:
        kind, before = record.kind, self.last
        if kind in PERSONS:
            self.records = self.records_bytes = 0
        else:
            self.records += 1
            self.records_bytes += 0 if kind in RESULTS else len(record.text.encode()) + 1
        self.last = kind
        self.error = record.error or self.error
        if kind is RecordKind.INTENT:
            self.forward[record.step] = self.forward.get(record.step, _NEVER).begin(record)
            self.turned = False
        elif kind is RecordKind.DONE:
            self.results[record.step] = record.value
        elif kind is RecordKind.UNDO:
            self.back[record.step] = self.back.get(record.step, _NEVER).begin(record)
            self.turned = True
        elif kind is RecordKind.PROBE:
            self.probed[record.step] = self.probed.get(record.step, _NEVER).begin(record)
        elif kind in SETBACKS:
            tries = {RecordKind.UNDO_FAILED: self.back, RecordKind.UNKNOWN: self.probed}.get(
                kind, self.forward
            )
            tries[record.step] = tries[record.step].end(record)
        elif kind is RecordKind.ABANDON and before in STOPPED and record.step:
            self.refused.add(record.step)  # a person says that it had no effect
            self.turned = True
        elif kind is RecordKind.RETRY:
            for tries in (self.forward, self.back, self.probed):
                tries.update({step: each.anew() for step, each in tries.items()})
        else:
            self._close(record)
            self.turned = self.turned or kind in TURNING

    def _close(self, record: Record) -> None:
        """Something about the step is final."""
        kind, step = record.kind, record.step
        if kind is RecordKind.SKIP and not self.turned:
            self.results[step] = record.value
        elif kind in (RecordKind.UNDONE, RecordKind.SKIP):
            self.undone.add(step)
        elif kind is RecordKind.REFUSED:
            self.refused.add(step)


def without_old_attempts(history: Sequence[Record]) -> tuple[Record, ...]:
    """A history that ends with a person's word, less what has no part in what comes next.

    What was counted before such a word is not counted any more, so of the attempts at one thing two
    are enough: the last, which gives the next its number, and the last that did not say LATER, for
    it leaves a pivot in doubt.  Stops go but for the last and those that an ABANDON refers to.
    """
    attempts: dict[tuple[bool, bool, str], list[list[int]]] = {}
    kept: set[int] = set()
    stopped: int | None = None
    for number, record in enumerate(history):
        kind = record.kind
        back = kind in (RecordKind.UNDO, RecordKind.UNDO_FAILED)
        asked = kind in (RecordKind.PROBE, RecordKind.UNKNOWN)
        of_step = attempts.setdefault((back, asked, record.step), [])
        if kind in INTENTS:
            of_step.append([number])
        elif kind in SETBACKS and of_step:
            of_step[-1].append(number)
        elif kind in STOPPED:
            stopped = number
        elif kind is not RecordKind.RETRY:
            kept.add(number)
            if kind is RecordKind.ABANDON and number and history[number - 1].kind in STOPPED:
                kept.add(number - 1)
    for of_step in attempts.values():
        unsure = [a for a in of_step if history[a[-1]].kind is not RecordKind.LATER]
        kept.update(*of_step[-1:], *unsure[-1:])
    last_retry = max((n for n, r in enumerate(history) if r.kind is RecordKind.RETRY), default=None)
    kept.update(n for n in (stopped, last_retry) if n is not None)
    return tuple(record for number, record in enumerate(history) if number in kept)


def next_action(saga: Saga, progress: Progress) -> NextAction:
    """What a coordinator does at this point; pure, O(steps).

    An attempt that was begun and has no outcome is taken as lost with its worker.
    """
    if progress.last in FINAL:
        return Finish(progress.last)
    if progress.last in STOPPED:
        return Stop(progress.last)
    if progress.records >= RECORDS_MAX or progress.records_bytes >= RECORDS_BYTES_MAX:
        return Stop(RecordKind.DEAD_LETTER)
    pivot = next((step for step in saga.steps if step.decides), None)
    decided = pivot is not None and pivot.name in progress.results
    if not progress.turned or (decided and not progress.back):
        onward = _onward(saga, progress)
        if onward is not None:
            return onward
    if pivot is not None and in_doubt(pivot, progress):
        return _probe(pivot, progress)
    return _backward(saga, progress)


def in_doubt(step: Step, progress: Progress) -> bool:
    """Whether a pivot that cannot be undone may have had its effect, and nobody has said how."""
    tries = progress.forward.get(step.name, _NEVER)
    answered = (progress.results, progress.refused, progress.undone)
    return step.decides and tries.unsure > 0 and not any(step.name in known for known in answered)


def _probe(pivot: Step, progress: Progress) -> NextAction:
    tries = progress.probed.get(pivot.name, _NEVER)
    if pivot.probe is None or (tries.failed and tries.not_before is None):
        return Stop(RecordKind.STUCK, pivot.name)
    if tries.lost + tries.begun >= pivot.crashes_max:
        return Stop(RecordKind.DEAD_LETTER, pivot.name)
    return Probe(pivot.name, tries.attempts + 1, tries.not_before)


def _onward(saga: Saga, progress: Progress) -> NextAction | None:
    """The next action, or None when the run has to turn back."""
    step = next((s for s in saga.steps if s.name not in progress.results), None)
    if step is None:
        return Finish(RecordKind.COMPLETED)
    tries = progress.forward.get(step.name, _NEVER)
    if tries.failed and tries.not_before is None:
        if step.kind is StepKind.RETRIABLE:
            return Stop(RecordKind.STUCK, step.name)
        return None
    if _poisoned(step, tries) or tries.attempts - tries.forgiven >= LATERS_MAX:
        return Stop(RecordKind.DEAD_LETTER, step.name)
    return Run(step.name, tries.attempts + 1, tries.not_before)


def _backward(saga: Saga, progress: Progress) -> NextAction:
    for step in reversed(saga.steps):
        if (
            step.name not in progress.forward
            or step.name in progress.undone
            or step.name in progress.refused
        ):
            continue
        unfinished_child = isinstance(step.action, Child) and step.name not in progress.results
        if step.compensation is None and not unfinished_child:
            continue
        tries = progress.back.get(step.name, _NEVER)
        if tries.failed and tries.not_before is None:
            return Stop(RecordKind.STUCK, step.name)
        if _poisoned(step, tries):
            return Stop(RecordKind.DEAD_LETTER, step.name)
        return Undo(step.name, tries.attempts + 1, tries.not_before)
    return Finish(RecordKind.COMPENSATED)


def _poisoned(step: Step, tries: Tries) -> bool:
    return not step.waits and tries.lost + tries.begun >= step.crashes_max


def past_pivot(saga: Saga, progress: Progress) -> bool:
    """Whether the decision has fallen: every step that could turn the run back is done."""
    return all(s.kind is StepKind.RETRIABLE or s.name in progress.results for s in saga.steps)

"""Drives one run of a saga: performs what `history.next_action` says and records how it went.

One commit per attempt: it holds the outcome of the attempt that ended and the intent of the one
that begins, so a saga of n steps costs n + 1 commits and no reads.  The commit compares the run's
revision; if that fails, either a person intervened in between (the outcome is added to what
they wrote and decided anew) or another worker owns it, and this driver stops where it stands.

An attempt may be cut off at any instant: by its timeout, by the saga's deadline, by the worker's
end, by a power cut.  In each case its intent is on record, the next attempt gets the same
idempotency key, and if there is no next attempt the compensation runs.  Compensations are shielded
from cancellation: a worker that closes waits for the one that is under way.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from transactional.clock import as_utc
from transactional.errors import (
    ConflictError,
    InvalidRequestError,
    NotNowError,
    OutcomeUnknownError,
    RefusedError,
    UnavailableError,
)
from transactional.retry import DEFAULT_RETRY, Retry, settled_commit
from transactional.sagas.history import (
    Finish,
    Record,
    RecordKind,
    Run,
    Stop,
    Tries,
    Undo,
    next_action,
    past_pivot,
)
from transactional.sagas.run import SagaState, read_run, writes_of
from transactional.sagas.saga import (
    AwaitSignal,
    Child,
    RetryLater,
    Sleep,
    Step,
    StepContext,
    StepKind,
    StepRefused,
)
from transactional.shield import shielded
from transactional.store import next_change
from transactional.values import Revision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from transactional.clock import BusinessClock
    from transactional.sagas.history import NextAction
    from transactional.sagas.run import SagaLayout, SagaRun
    from transactional.sagas.saga import Callback, Json, Saga
    from transactional.store import Store
    from transactional.values import Compare

RESULT_BYTES_MAX: Final = 16 << 10
"""Largest step result as JSON: results travel in every later record of the run."""
ERROR_CHARS_MAX: Final = 500
"""How much of an exception's text is kept."""
CONFLICTS_MAX: Final = 100
"""How often an action that lost a compare is called again within one attempt."""
STORE_AWAY: Final = Retry(base_s=0.05, cap_s=2.0, attempts_max=60, deadline_s=60.0)
"""How long a driver waits for a store that is away, before it leaves the run to recovery."""


class SagaFencedError(NotNowError):
    """Another worker owns the run now: what this one wanted to record was not written."""

    code = "saga_fenced"
    hint = "nothing to do: the other worker goes on with the run"

    def __init__(self, run: SagaRun) -> None:
        super().__init__(f"saga {run.id!r} has another owner")
        self.run = run


class Worker(Protocol):
    """What a driver needs of the worker that it runs in."""

    store: Store
    layout: SagaLayout
    name: str

    @property
    def clock(self) -> BusinessClock:
        """The authority's time."""
        ...

    async def run_child(self, saga: str, run_id: str, given: Json) -> SagaRun:
        """Start the child run, or find it, and return it when it is over."""
        ...


class Driver:
    """One run in the hands of one worker."""

    def __init__(self, worker: Worker, saga: Saga, run: SagaRun) -> None:
        self.run = run
        self._saga = saga
        self._worker = worker
        self._begun: Run | Undo | None = None  # the attempt whose intent this driver recorded

    async def begin(self, compares: Sequence[Compare]) -> None:
        """Make the run ours and record the next intent, if all of `compares` hold.

        Raises:
            ConflictError: they do not.
        """
        run, begun = self._onward(self.run.extended([], self._worker.name))
        writes = writes_of(run, self._worker.layout, signals=self._takes_signals)
        commit = await settled_commit(self._worker.store, compares, writes)
        self._accept(run, begun, commit.revision, commit.time)

    async def drive(self) -> SagaRun:
        """Perform and record until the run is over or stopped.

        Raises:
            SagaFencedError: another worker took it.
            UnavailableError: the store stayed away; the run stands where it was last recorded.
            OutcomeUnknownError: it stayed away after an answer was lost; the last record may stand.
        """
        while not (self.run.over or self.run.stopped):
            if self._begun is None:
                await self._wait_for_next()
                await self._record([])
            elif isinstance(self._begun, Undo):
                await shielded(self._undo(self._begun))
            else:
                await self._record(await self._perform(self._begun))
        return self.run

    # --- recording ------------------------------------------------------------------------------

    async def _record(self, records: Sequence[Record]) -> None:
        """Commit the records and what follows from them, whatever people wrote in between."""
        layout, base = self._worker.layout, self.run
        for _ in range(CONFLICTS_MAX):
            run, begun = self._onward(base.extended(records, self._worker.name))
            compare = Revision(layout.open(run.id), base.revision)
            writes = writes_of(run, layout, signals=self._takes_signals)
            try:
                commit = await settled_commit(
                    self._worker.store, [compare], writes, retry=STORE_AWAY
                )
            except ConflictError as conflict:
                entry = conflict.current.get(layout.open(run.id))
                if entry is None or read_run(entry).owner != self._worker.name:
                    raise SagaFencedError(self.run) from conflict
                base = read_run(entry)
            else:
                self._accept(run, begun, commit.revision, commit.time)
                return
        raise SagaFencedError(self.run)

    def _accept(
        self, run: SagaRun, begun: Run | Undo | None, revision: int, time: datetime
    ) -> None:
        self.run = run.at(revision)
        self._begun = begun
        self._worker.clock.hear(time)

    def _onward(self, run: SagaRun) -> tuple[SagaRun, Run | Undo | None]:
        """Add what follows at once: the deadline, the next intent, or the end."""
        now = self._worker.clock.now()
        deadline = self._deadline_of(run)
        if deadline is not None and now >= deadline:
            passed = Record(RecordKind.DEADLINE, now, error="the saga's deadline passed")
            run = run.extended([passed], run.owner)
        action = next_action(self._saga, run.progress)
        if isinstance(action, Finish):
            return (run if run.over else run.extended([Record(action.end, now)], "")), None
        if isinstance(action, Stop):
            stop = Record(action.reason, now, action.step, error=run.error)
            return (run if run.stopped else run.extended([stop], "")), None
        if action.not_before is not None and action.not_before > now:
            return run, None
        kind = RecordKind.INTENT if isinstance(action, Run) else RecordKind.UNDO
        return run.extended([Record(kind, now, action.step, action.attempt)], run.owner), action

    async def _wait_for_next(self) -> None:
        action: NextAction = next_action(self._saga, self.run.progress)
        if isinstance(action, Run | Undo) and action.not_before is not None:
            deadline = self._deadline_of(self.run)
            until = min(action.not_before, deadline) if deadline else action.not_before
            await self._worker.clock.until(until)

    def _deadline_of(self, run: SagaRun) -> datetime | None:
        """When the run must turn back, if it still can and has not."""
        if self._saga.deadline_s is None or run.progress.turned or run.over or run.stopped:
            return None
        if past_pivot(self._saga, run.progress):
            return None
        return run.started_at + timedelta(seconds=self._saga.deadline_s)

    @property
    def _takes_signals(self) -> bool:
        return any(isinstance(step.action, AwaitSignal) for step in self._saga.steps)

    # --- performing -----------------------------------------------------------------------------

    async def _perform(self, begun: Run) -> list[Record]:
        """One attempt of an action; how it went."""
        step = self._saga.step(begun.step)
        context = self._context(step, begun.attempt, undo=False)

        def ended(kind: RecordKind, value: Json = None, error: object = "") -> list[Record]:
            now = self._worker.clock.now()
            return [Record(kind, now, step.name, begun.attempt, value, _text(error))]

        try:
            async with asyncio.timeout(self._limit_s(step)):
                result = await self._act(step, context)
            return ended(RecordKind.DONE, as_json(result, "result", RESULT_BYTES_MAX))
        except asyncio.CancelledError:
            await shielded(self._record_pause(step, begun))
            raise
        except RetryLater as later:
            at = as_utc(later.at) if later.at else self._worker.clock.now()
            at += timedelta(seconds=later.after_s)
            return ended(RecordKind.LATER, at.isoformat(), later)
        except StepRefused as refusal:
            if step.kind is StepKind.RETRIABLE:  # behind the decision there is no way back
                return ended(RecordKind.FAILED, None, refusal)
            return ended(RecordKind.REFUSED, None, refusal)
        except RefusedError as refusal:
            return ended(RecordKind.FAILED, None, refusal)
        except Exception as failure:  # noqa: BLE001 whatever an action raises is its outcome
            again = self._again(step.retry, self.run.progress.forward[step.name])
            return ended(RecordKind.FAILED, again, failure)

    async def _undo(self, begun: Undo) -> None:
        """One attempt of a compensation, and its record."""
        step = self._saga.step(begun.step)
        context = self._context(step, begun.attempt, undo=True)
        kind, again, error = RecordKind.UNDONE, None, ""
        try:
            async with asyncio.timeout(step.timeout_s):
                if step.compensation is not None:
                    await _called(step.compensation, context)
        except Exception as failure:  # noqa: BLE001 as above; never taken for "compensated"
            kind, error = RecordKind.UNDO_FAILED, _text(failure)
            again = self._again(step.undo_retry, self.run.progress.back[step.name])
        now = self._worker.clock.now()
        await self._record([Record(kind, now, step.name, begun.attempt, again, error)])

    async def _record_pause(self, step: Step, begun: Run) -> None:
        now = self._worker.clock.now()
        base = self.run.extended([Record(RecordKind.PAUSED, now, step.name, begun.attempt)], "")
        compare = Revision(self._worker.layout.open(base.id), base.revision)
        writes = writes_of(base, self._worker.layout, signals=False)
        try:
            await settled_commit(self._worker.store, [compare], writes)
        except (ConflictError, UnavailableError, OutcomeUnknownError):
            return  # then the attempt counts as lost, which is as safe, only less kind

    async def _act(self, step: Step, context: StepContext) -> Json:
        if isinstance(step.action, Sleep):
            since = self.run.progress.forward[step.name].since or self._worker.clock.now()
            await self._worker.clock.until(since + timedelta(seconds=step.action.seconds))
            return None
        if isinstance(step.action, AwaitSignal):
            return await self._signalled(step, step.action)
        if isinstance(step.action, Child):
            run_id = f"{self.run.id}.{step.name}"
            child = await self._worker.run_child(
                step.action.saga, run_id, step.action.input(context)
            )
            if child.state is not SagaState.COMPLETED:
                raise StepRefused(f"child saga {run_id!r} was compensated: {child.error}")
            return child.results
        return await _called(step.action, context)

    async def _signalled(self, step: Step, wanted: AwaitSignal) -> Json:
        key = self._worker.layout.signal(self.run.id, wanted.name)
        since = self.run.progress.forward[step.name].since or self._worker.clock.now()
        left_s = None
        if wanted.timeout_s is not None:
            waited = self._worker.clock.now() - since
            left_s = max(0.0, wanted.timeout_s - waited.total_seconds())
        try:
            async with asyncio.timeout(left_s):
                while True:
                    seen = await self._worker.store.get_many([key])
                    if key in seen.items:
                        return json.loads(seen.items[key].value)
                    await next_change(self._worker.store, key, seen.revision)
        except TimeoutError as error:
            raise StepRefused(f"no signal {wanted.name!r} in {wanted.timeout_s} s") from error

    def _context(self, step: Step, attempt: int, *, undo: bool) -> StepContext:
        run = self.run
        return StepContext(
            saga_id=run.id,
            step=step.name,
            attempt=attempt,
            input=run.input,
            results=run.results,
            result=run.progress.results.get(step.name),
            idempotency_key=f"{run.id}/{step.name}/undo" if undo else f"{run.id}/{step.name}",
            deadline=self._deadline_of(run),
            fence=Revision(self._worker.layout.open(run.id), run.revision),
        )

    def _limit_s(self, step: Step) -> float | None:
        limits = [step.timeout_s] if step.timeout_s is not None and not step.waits else []
        deadline = self._deadline_of(self.run)
        if deadline is not None:
            limits.append(max(0.0, (deadline - self._worker.clock.now()).total_seconds()))
        return min(limits, default=None)

    def _again(self, retry: Retry, tries: Tries) -> str | None:
        """When a failed attempt is repeated; None: not any more."""
        now = self._worker.clock.now()
        since = tries.since or now
        if tries.failures + 1 >= retry.attempts_max:
            return None
        if (now - since).total_seconds() >= retry.deadline_s:
            return None
        return (now + timedelta(seconds=retry.pause_s(tries.failures))).isoformat()


async def _called(callback: Callback, context: StepContext) -> Json:
    """Call it, again at once if it lost a compare: a rival was first, which is not a failure."""
    for attempt in range(CONFLICTS_MAX):
        try:
            result = callback(context)
            return await result if inspect.isawaitable(result) else result
        except ConflictError:
            if attempt == CONFLICTS_MAX - 1:
                raise
            await asyncio.sleep(DEFAULT_RETRY.pause_s(attempt))
    raise AssertionError("unreachable: the last attempt returns or raises")


def as_json(value: Json, what: str, bytes_max: int) -> Json:
    """The value as everyone will read it back: tuples are lists and keys are strings from now on.

    Raises:
        RefusedError: it is not JSON, or too large.
    """
    if value is None:
        return None
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the {what} is not JSON: {error}") from error
    if len(text) > bytes_max:
        raise InvalidRequestError(f"the {what} has {len(text)} bytes, {bytes_max} are allowed")
    return json.loads(text)


def _text(error: object) -> str:
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
    return str(error)[:ERROR_CHARS_MAX]

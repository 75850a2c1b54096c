"""Drives one run of a saga: performs what `history.next_action` says and records how it went.

One commit per attempt: it holds the outcome of the attempt that ended and the intent of the one
that begins, so a saga of n steps costs n + 1 commits and no reads.  The commit compares the run's
revision; if that fails, either a person intervened in between (the outcome is added to what
they wrote and decided anew) or another worker owns it, and this driver stops where it stands.

An attempt may be cut off at any instant: by its timeout, by the saga's deadline, by the worker's
end, by a power cut.  In each case its intent is on record, the next attempt gets the same
idempotency key, and if there is no next attempt the compensation runs.  Compensations are shielded
from cancellation: a worker that closes waits for the one that is under way.

A driver works and does not wait: where a run has to (for a signal, a child, a time more than
`PARK_ABOVE_S` away) it is parked, in a commit that holds only if what it waits for has not come.
Whoever drives it next looks again, and goes on with the same attempt.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import traceback
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

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
    Probe,
    Record,
    RecordKind,
    Run,
    Stop,
    Tries,
    Undo,
    in_doubt,
    next_action,
    past_pivot,
)
from transactional.sagas.run import (
    NOW,
    SagaRun,
    SagaState,
    SagaStateError,
    due_at,
    read_run,
    writes_of,
)
from transactional.sagas.saga import (
    AwaitSignal,
    Child,
    Outcome,
    RetryLater,
    Sleep,
    Step,
    StepContext,
    StepKind,
    StepRefused,
)
from transactional.shield import shielded
from transactional.store import scan_all
from transactional.values import Absent, Delete, DeletePrefix, Put, Revision, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from transactional.clock import BusinessClock
    from transactional.sagas.history import Attempt
    from transactional.sagas.run import SagaLayout
    from transactional.sagas.saga import Json, Saga
    from transactional.store import Store
    from transactional.values import Compare, KeyValue, Write

log = logging.getLogger(__name__)

INPUT_BYTES_MAX: Final = 64 << 10
"""Largest input of a run, as JSON."""
RESULT_BYTES_MAX: Final = 16 << 10
"""Largest step result as JSON, so also value of a signal: they travel in every later record."""
ERROR_CHARS_MAX: Final = 500
"""How much of an exception's text is kept."""
CONFLICTS_MAX: Final = 100
"""How often a record is written anew because a person wrote first."""
CALLS_MAX: Final = 10
"""How often an action that lost a compare is called again at once; after that, a while later."""
PARK_ABOVE_S: Final = 1.0
"""A run that has nothing to do for longer is parked; for less that costs more than it saves."""
TAKEN: Final = b""
"""The value of a signal that a step has taken."""
PATIENCE_S: Final = 5.0
"""How long a worker that closes waits for a record that is being written."""
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

    def newest(self, saga: str) -> Saga:
        """The newest definition of that name."""
        ...

    async def abandon(self, run_id: str) -> SagaRun:
        """Turn a run back."""
        ...


class Driver:
    """One run in the hands of one worker."""

    def __init__(self, worker: Worker, saga: Saga, run: SagaRun) -> None:
        self.run = run
        self._saga = saga
        self._worker = worker
        self._begun: Attempt | None = None  # the attempt whose intent this driver recorded
        self._called_for: Attempt | None = None  # the one in which it has called the step's code

    async def begin(self, compares: Sequence[Compare], *, news: bool = False) -> None:
        """Make the run ours and record the next intent, if all of `compares` hold.

        With `news` somebody may have told the run something, beside it: what this saga will never
        ask for is deleted.

        Raises:
            ConflictError: they do not.
        """
        layout, before = self._worker.layout, self.run if self.run.revision else None
        run, begun = self._onward(self.run.extended([], self._worker.name))
        writes = writes_of(run, layout, before, signals=self._takes_signals or news)
        if before is not None and news:
            if before.due != NOW:
                writes.append(Delete(layout.due(NOW, run.id)))
            if not self._takes_signals and not run.over:
                writes.append(DeletePrefix(layout.signal(run.id)))
        commit = await settled_commit(self._worker.store, compares, writes)
        self._accept(run, begun, commit.revision, commit.time)

    async def drive(self) -> SagaRun:
        """Perform and record until the run is over, stopped or parked.

        Raises:
            SagaFencedError: another worker took it.
            UnavailableError: the store stayed away; the run stands where it was last recorded.
            OutcomeUnknownError: it stayed away after an answer was lost; the last record may stand.
        """
        try:
            while self.run.owner and not (self.run.over or self.run.stopped):
                begun = self._begun
                if begun is None:
                    await self._wait_for_next()
                elif isinstance(begun, Run):
                    step = self._saga.step(begun.step)
                    if step.waits:
                        await self._wait(step, begun)
                    else:
                        ended = await self._perform(begun)
                        await shielded(self._record(ended), patience_s=PATIENCE_S)
                elif isinstance(begun, Probe):
                    await self._probe(begun)
                elif not await self._child_goes_on(begun):
                    await shielded(self._undo(begun))
        except asyncio.CancelledError:
            await shielded(self.let_go())
            raise
        return self.run

    # --- recording ------------------------------------------------------------------------------

    async def _record(
        self,
        records: Sequence[Record],
        compares: Sequence[Compare] = (),
        more: Sequence[Write] = (),
    ) -> None:
        """Commit the records and what follows from them, whatever people wrote in between.

        Nothing is recorded, and the attempt goes on, if one of `compares` does not hold.
        """
        layout = self._worker.layout
        for _ in range(CONFLICTS_MAX):
            base = self.run
            run, begun = self._onward(base.extended(records, self._worker.name))
            writes = writes_of(run, layout, base, signals=self._takes_signals)
            writes += () if run.over else more  # which are about signals, and they go with the run
            if not await self._commit(run, begun, writes, compares):
                continue
            return
        raise SagaFencedError(self.run)

    async def _commit(
        self,
        run: SagaRun,
        begun: Attempt | None,
        writes: Sequence[Write],
        compares: Sequence[Compare],
        retry: Retry = STORE_AWAY,
    ) -> bool:
        """Write the run as it shall be; False if a person wrote first, whom `self.run` then has.

        Also True, with nothing written, if only one of `compares` did not hold.

        Raises:
            SagaFencedError: it has another owner.
        """
        own = Revision(self._worker.layout.open(run.id), self.run.revision)

        async def made() -> bool:
            try:
                commit = await settled_commit(
                    self._worker.store, [own, *compares], writes, retry=retry
                )
            except ConflictError as conflict:
                if own not in conflict.failed:
                    return True
                self._take_in(conflict.current.get(own.key))
                return False
            self._accept(run, begun, commit.revision, commit.time)
            return True

        # Who closes the worker meanwhile must know what came of it, to let go of what there is.
        return await shielded(made(), patience_s=PATIENCE_S)

    def _take_in(self, entry: KeyValue | None) -> None:
        """Go on from what stands in the store, if it is still ours."""
        if entry is None or (run := read_run(entry)).owner != self._worker.name:
            raise SagaFencedError(self.run)
        self.run = run

    async def _park(
        self,
        until: datetime | None,
        compares: Sequence[Compare] = (),
        more: Sequence[Write] = (),
        **changes: Any,
    ) -> None:
        """Leave the run to whoever finds it due, unless one of `compares` does not hold."""
        moments = [moment for moment in (until, self._deadline_of(self.run)) if moment is not None]
        due = due_at(min(moments)) if moments else ""
        run = replace(self.run.extended([], "", due=due), **changes)
        writes = [*writes_of(run, self._worker.layout, self.run), *more]
        if not await self._commit(run, self._begun, writes, compares):
            await self._record([])  # a person has written: decide anew

    async def let_go(self, records: Sequence[Record] = ()) -> None:
        """Leave the run, if it is ours, to the next worker at once."""
        for _ in range(CONFLICTS_MAX):
            if not self.run.owner:
                return
            run = self._unbegun().extended(records, "", due=NOW)
            writes = writes_of(run, self._worker.layout, self.run)
            try:
                if await self._commit(run, None, writes, (), retry=DEFAULT_RETRY):
                    return
            except (SagaFencedError, UnavailableError, OutcomeUnknownError):
                return  # then the attempt counts as lost, which is as safe, only less kind

    def _unbegun(self) -> SagaRun:
        """The run without the intent of an attempt that was not made, so that it is not counted."""
        begun, history = self._begun, self.run.history
        if begun is None or self._saga.step(begun.step).waits or not history:
            return self.run
        if begun is self._called_for and not isinstance(begun, Probe):  # to ask has no effect
            return self.run
        last = history[-1]
        if (last.kind, last.step) != (_INTENTS[type(begun)], begun.step):
            return self.run
        return replace(self.run, history=history[:-1], _folded=None)

    def _accept(self, run: SagaRun, begun: Attempt | None, revision: int, time: datetime) -> None:
        self.run = run.at(revision)
        self._begun = begun
        self._worker.clock.hear(time)

    def _onward(self, run: SagaRun) -> tuple[SagaRun, Attempt | None]:
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
        tries = _tries(run, action)
        if tries.begun and self._saga.step(action.step).waits:  # it had no effect: it goes on
            return run, replace(action, attempt=tries.attempts)
        intent = Record(_INTENTS[type(action)], now, action.step, action.attempt)
        return run.extended([intent], run.owner), action

    async def _wait_for_next(self) -> None:
        """Nothing may be begun before a time: wait if it is near, else park."""
        action = next_action(self._saga, self.run.progress)
        until = None if isinstance(action, Finish | Stop) else action.not_before
        await self._until(until)

    async def _until(self, moment: datetime | None) -> None:
        """Wait for a moment, or for the deadline, in here or parked; then decide anew."""
        deadline = self._deadline_of(self.run)
        moments = [m for m in (moment, deadline) if m is not None]
        until = min(moments) if moments else self._worker.clock.now()
        if (until - self._worker.clock.now()).total_seconds() > PARK_ABOVE_S:
            await self._park(until)
            return
        await self._worker.clock.until(until)
        if self._begun is None or until == deadline:
            await self._record([])

    def _deadline_of(self, run: SagaRun) -> datetime | None:
        """When the run must turn back, if it still can and has not."""
        if self._saga.deadline_s is None or run.progress.turned or run.over or run.stopped:
            return None
        if past_pivot(self._saga, run.progress):
            return None
        if any(in_doubt(step, run.progress) for step in self._saga.steps):
            return None  # it may have been decided
        return run.started_at + timedelta(seconds=self._saga.deadline_s)

    @property
    def _takes_signals(self) -> bool:
        return self._saga.takes_signals

    # --- performing -----------------------------------------------------------------------------

    def _ended(
        self, begun: Attempt, kind: RecordKind, value: Json = None, error: object = ""
    ) -> list[Record]:
        now = self._worker.clock.now()
        return [Record(kind, now, begun.step, begun.attempt, value, _text(error))]

    async def _perform(self, begun: Run) -> list[Record]:
        """One attempt of an action; how it went."""
        step = self._saga.step(begun.step)
        try:
            async with asyncio.timeout(self._limit_s(step)):
                result = await self._called(step, begun)
        except asyncio.CancelledError:
            await shielded(self.let_go(self._ended(begun, RecordKind.PAUSED)))
            raise
        except SagaFencedError:
            raise
        except Exception as failure:  # noqa: BLE001 whatever an action raises is its outcome
            return self._failed(step, begun, failure)
        return self._result(begun, result)

    def _result(self, begun: Run, result: Json) -> list[Record]:
        """The step is done, unless its result is not fit to be one."""
        try:
            return self._ended(begun, RecordKind.DONE, as_json(result, "result", RESULT_BYTES_MAX))
        except RefusedError as unfit:  # the action had its effect all the same
            return self._ended(begun, RecordKind.FAILED, None, unfit)

    def _failed(self, step: Step, begun: Run, failure: Exception) -> list[Record]:
        """What an action's exception says of it; see `saga`."""
        if isinstance(failure, RetryLater):
            at = (failure.at or self._worker.clock.now()) + timedelta(seconds=failure.after_s)
            return self._ended(begun, RecordKind.LATER, at.isoformat(), failure)
        sure = self.run.progress.forward[step.name].unsure <= 1  # no attempt but this is in doubt
        if isinstance(failure, StepRefused) or (
            isinstance(failure, RefusedError) and step.decides and sure
        ):
            if step.kind is StepKind.RETRIABLE:  # behind the decision there is no way back
                return self._ended(begun, RecordKind.FAILED, None, failure)
            return self._ended(begun, RecordKind.REFUSED, None, failure)
        if isinstance(failure, RefusedError):
            return self._ended(begun, RecordKind.FAILED, None, failure)
        self._log(begun, failure)
        again = self._again(step.retry, self.run.progress.forward[step.name])
        return self._ended(begun, RecordKind.FAILED, again, failure)

    def _log(self, begun: Attempt, failure: Exception) -> None:
        what = {Run: "step", Undo: "compensation of step", Probe: "probe of step"}[type(begun)]
        text = "saga %s: attempt %d of %s %r failed"
        log.warning(text, self.run.id, begun.attempt, what, begun.step, exc_info=failure)

    async def _undo(self, begun: Undo) -> None:
        """One attempt of a compensation, and its record."""
        step = self._saga.step(begun.step)
        kind, again, error = RecordKind.UNDONE, None, ""
        try:
            async with asyncio.timeout(step.timeout_s):
                if step.compensation is not None:
                    await self._called(step, begun)
        except SagaFencedError:
            raise
        except Exception as failure:  # noqa: BLE001 as above; never taken for "compensated"
            kind, error = RecordKind.UNDO_FAILED, _text(failure)
            again = self._again(step.undo_retry, self.run.progress.back[step.name])
            self._log(begun, failure)
        await self._record(self._ended(begun, kind, again, error))

    async def _probe(self, begun: Probe) -> None:
        """Ask once how a pivot went, and record the answer."""
        step = self._saga.step(begun.step)
        told, error = None, "the probe could not tell"
        try:
            async with asyncio.timeout(step.timeout_s):
                told = await self._called(step, begun)
            if told is not None and not isinstance(told, Outcome):
                error = f"the probe returned {told!r:.80}, not an Outcome or None"
                told = None
        except SagaFencedError:
            raise
        except Exception as failure:  # noqa: BLE001 then it is not known yet
            self._log(begun, failure)
            error = _text(failure)
        if told is None:
            again = self._again(step.undo_retry, self.run.progress.probed[step.name])
            await self._record(self._ended(begun, RecordKind.UNKNOWN, again, error))
        elif told.happened:
            result = as_json(told.result, "result", RESULT_BYTES_MAX)
            await self._record(self._ended(begun, RecordKind.DONE, result))
        else:
            never = "the probe says that it had no effect"
            await self._record(self._ended(begun, RecordKind.REFUSED, None, never))

    async def _called(self, step: Step, begun: Attempt) -> Any:
        """Call it, again at once if it lost a compare: a rival was first, which is not a failure.

        Raises:
            SagaFencedError: the compare was the run's own, which has another owner by now.
            RetryLater: it lost too many; an action waits its turn, and no attempt is counted.
        """
        callback: Callable[[StepContext], Any] | None = {
            Run: step.action,
            Undo: step.compensation,
            Probe: step.probe,
        }[type(begun)]  # type: ignore[assignment]  # waiting actions do not come here
        assert callback is not None, "next_action begins only what there is"
        self._called_for = begun
        mine = self._worker.layout.open(self.run.id)
        for attempt in range(CALLS_MAX):
            context = self._context(step, begun.attempt, undo=isinstance(begun, Undo))
            try:
                result = callback(context)
                return await result if inspect.isawaitable(result) else result
            except ConflictError as conflict:
                if any(getattr(failed, "key", None) == mine for failed in conflict.failed):
                    self._take_in(await self._worker.store.get(mine))
                await asyncio.sleep(DEFAULT_RETRY.pause_s(attempt))
        raise RetryLater(f"lost {CALLS_MAX} compares", after_s=PARK_ABOVE_S)

    # --- waiting --------------------------------------------------------------------------------

    async def _wait(self, step: Step, begun: Run) -> None:
        """Look whether what the step waits for has come; if not, park the run."""
        try:
            if isinstance(step.action, Sleep):
                await self._sleep(begun, step.action)
            elif isinstance(step.action, AwaitSignal):
                await self._signal(step, begun, step.action)
            elif isinstance(step.action, Child):
                await self._child(step, begun, step.action)
        except (SagaFencedError, UnavailableError, OutcomeUnknownError):
            raise
        except Exception as failure:  # noqa: BLE001 an unknown child, an input that cannot be made
            await self._record(self._failed(step, begun, failure))

    def _since(self, begun: Run) -> datetime:
        return self.run.progress.forward[begun.step].since or self._worker.clock.now()

    async def _sleep(self, begun: Run, action: Sleep) -> None:
        end = self._since(begun) + timedelta(seconds=action.seconds)
        if self._worker.clock.now() >= end:
            await self._record(self._ended(begun, RecordKind.DONE))
        else:
            await self._until(end)

    async def _signal(self, step: Step, begun: Run, wanted: AwaitSignal) -> None:
        prefix = self._worker.layout.signal(self.run.id, wanted.name)
        came = await scan_all(self._worker.store, prefix)
        waiting = [entry for entry in came.items.values() if entry.value != TAKEN]
        if waiting:
            first = min(waiting, key=lambda entry: entry.created_revision)
            done = self._ended(begun, RecordKind.DONE, json.loads(first.value))
            taken = [Revision(first.key, first.revision)], [Put(first.key, TAKEN)]
            await self._record(done, *taken)
            return
        end = None
        if wanted.timeout_s is not None:
            end = self._since(begun) + timedelta(seconds=wanted.timeout_s)
            if self._worker.clock.now() >= end:
                late = StepRefused(f"no signal {wanted.name!r} in {wanted.timeout_s} s")
                await self._record(self._failed(step, begun, late))
                return
        deadline = self._deadline_of(self.run)
        if deadline is not None and self._worker.clock.now() >= deadline:
            await self._record([])
            return
        await self._park(end, [Unchanged(prefix, came.revision)])

    async def _child(self, step: Step, begun: Run, action: Child) -> None:
        child_id = self.run.children.get(step.name)
        if child_id is None:
            await self._bear(step, begun, action)
            return
        child, revision = await self._look(child_id)
        if child is None:
            raise StepRefused(f"child saga {child_id!r} is gone")
        if child.state is SagaState.COMPLETED:
            await self._record(self._result(begun, child.results))
        elif child.over:
            refusal = StepRefused(f"child saga {child_id!r} was compensated: {child.error}")
            await self._record(self._failed(step, begun, refusal))
        else:
            deadline = self._deadline_of(self.run)
            if deadline is not None and self._worker.clock.now() >= deadline:
                await self._record([])
            else:
                await self._park(None, [Revision(self._worker.layout.open(child_id), revision)])

    async def _bear(self, step: Step, begun: Run, action: Child) -> None:
        """Start the child, and wait for it, in one commit."""
        definition = self._worker.newest(action.saga)
        context = self._context(step, begun.attempt, undo=False)
        given = as_json(action.input(context), "input", INPUT_BYTES_MAX)
        number, child_id = 0, f"{self.run.id}.{step.name}"
        while (await self._look(child_id))[0] is not None:
            number += 1
            child_id = f"{self.run.id}.{step.name}~{number}"
        layout, now = self._worker.layout, self._worker.clock.now()
        child = SagaRun(
            child_id, action.saga, definition.version, given, now, due=NOW, parent=self.run.id
        )
        await self._park(
            None,
            [Absent(layout.open(child_id)), Absent(layout.done(child_id))],
            writes_of(child, layout),
            children={**self.run.children, step.name: child_id},
        )

    async def _child_goes_on(self, begun: Undo) -> bool:
        """Turn the child of a step back before the step is undone; whether it is not over yet."""
        child_id = self.run.children.get(begun.step)
        child, revision = await self._look(child_id) if child_id else (None, 0)
        if child is None or child.over:
            return False
        if child.stopped:
            error = f"child saga {child.id!r} is {child.state.value}: {child.error}"
            await self._record(self._ended(begun, RecordKind.UNDO_FAILED, None, error))
            return True
        if not child.progress.turned:
            try:
                await self._worker.abandon(child.id)
            except SagaStateError:  # it cannot turn back any more: its end is waited for
                child, revision = await self._look(child.id)
            else:
                return True  # look again
        if child is not None and not child.over:
            key = self._worker.layout.open(child.id)
            await self._park(None, [Revision(key, revision)])
        return True

    async def _look(self, run_id: str) -> tuple[SagaRun | None, int]:
        """A run as it stands, and the revision of its key."""
        layout = self._worker.layout
        seen = await self._worker.store.get_many([layout.open(run_id), layout.done(run_id)])
        run = next((read_run(entry) for entry in seen.items.values()), None)
        return run, run.revision if run is not None else 0

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


_INTENTS: Final = {Run: RecordKind.INTENT, Undo: RecordKind.UNDO, Probe: RecordKind.PROBE}


def _tries(run: SagaRun, action: Attempt) -> Tries:
    """What was tried of this before."""
    progress = run.progress
    tried = {Run: progress.forward, Undo: progress.back, Probe: progress.probed}[type(action)]
    return tried.get(action.step, Tries())


def as_json(value: Json, what: str, bytes_max: int) -> Json:
    """The value as everyone will read it back: tuples are lists and keys are strings from now on.

    What has a `to_json`, a booking say, is written as that gives it.

    Raises:
        InvalidRequestError: it is not JSON, or has more bytes of UTF-8 than allowed.
    """
    if value is None:
        return None
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_told_by_itself)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the {what} is not JSON: {error}") from error
    if size > bytes_max:
        raise InvalidRequestError(f"the {what} has {size} bytes, {bytes_max} are allowed")
    return json.loads(text)


def _told_by_itself(value: object) -> Json:
    to_json = getattr(value, "to_json", None)
    if to_json is None:
        raise TypeError(f"{type(value).__name__} is not JSON and has no to_json")
    return to_json()


def _text(error: object) -> str:
    """An error in one line, with where it was raised if that was a surprise."""
    if not isinstance(error, BaseException):
        return str(error)[:ERROR_CHARS_MAX]
    text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
    frames = traceback.extract_tb(error.__traceback__)
    if frames and not isinstance(error, RefusedError | RetryLater):
        text += f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})"
    return text

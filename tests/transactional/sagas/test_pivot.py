"""A pivot that may have had its effect is never taken for one that had none."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.sagas.actions import QUICK, Actions, lapse, until, worker
from transactional import (
    Outcome,
    RefusedError,
    Retry,
    RetryLater,
    Saga,
    Sagas,
    SagaState,
    Step,
    StepKind,
    StepRefused,
)


class Till:
    """A card terminal: charges, and answers as it is told to."""

    def __init__(self, *errors: BaseException, pause_s: float = 0.0, probe=None) -> None:
        self.errors = list(errors)
        self.pause_s = pause_s
        self.charged: set[str] = set()
        self.probe = probe

    async def charge(self, step):
        self.charged.add(step.idempotency_key)
        await asyncio.sleep(self.pause_s)
        if self.errors:
            raise self.errors.pop(0)
        return "receipt"

    def saga(self, actions: Actions, **options) -> Saga:
        charge = Step("charge", self.charge, kind=StepKind.PIVOT, retry=QUICK, probe=self.probe)
        ship = actions.step("ship", StepKind.RETRIABLE)
        return Saga("order", [actions.step("reserve"), charge, ship], **options)


async def test_the_deadline_does_not_cut_off_a_pivot_that_runs(store):
    """It passes while the card is charged; the order goes on, because it was decided in time."""
    actions, till = Actions(), Till(pause_s=0.3)
    async with worker(store, till.saga(actions, deadline_s=0.1)) as sagas:
        run = await sagas.execute("order", "o")
    assert run.state is SagaState.COMPLETED
    assert actions.log == ["reserve", "ship"]


async def test_who_is_abandoned_while_the_pivot_runs_is_decided_by_its_result(store):
    """A receipt leads onwards, a definite no leads back."""
    for errors, state in (((), SagaState.COMPLETED), ((StepRefused("no"),), SagaState.COMPENSATED)):
        actions, till = Actions(), Till(*errors, pause_s=0.1)
        async with worker(store, till.saga(actions)) as sagas:
            run_id = f"o {state}"
            await sagas.start("order", run_id)
            await until(lambda till=till: till.charged)
            await sagas.abandon(run_id)
            assert (await sagas.wait(run_id)).state is state


async def test_a_pivot_that_raised_leaves_a_run_stuck_until_somebody_knows(store):
    """Abandoned or not; `skip` says that it happened, `abandon` that it did not."""
    actions = Actions()
    for run_id, verb, end in (
        ("happened", "skip", SagaState.COMPLETED),
        ("never", "abandon", SagaState.COMPENSATED),
    ):
        till = Till(*[OSError("cut")] * 9)
        async with worker(store, till.saga(actions)) as sagas:
            run = await sagas.execute("order", run_id)
            assert run.state is SagaState.STUCK
            assert "-reserve" not in actions.log
            await getattr(sagas, verb)(run_id)
            assert (await sagas.wait(run_id)).state is end


async def test_a_person_turns_back_a_run_whose_pivot_is_in_doubt(store):
    """Abandoned after a failed attempt: stuck, not compensated, for the card may be charged."""
    actions = Actions()
    till = Till(OSError("cut"), pause_s=0.2)
    slow = Retry(base_s=30, cap_s=60, attempts_max=9)
    charge = Step("charge", till.charge, kind=StepKind.PIVOT, retry=slow)
    async with worker(store, Saga("order", [actions.step("reserve"), charge])) as sagas:
        await sagas.start("order", "o")
        await until(lambda: till.charged)
        await sagas.abandon("o")
        run = await sagas.wait("o")
        assert run.state is SagaState.STUCK
        await sagas.skip("o")  # dealt with: the charge was given back by hand
        assert (await sagas.wait("o")).state is SagaState.COMPENSATED
    assert actions.log == ["reserve", "-reserve"]


async def test_a_worker_that_falls_in_the_pivot_does_not_make_it_undone(timed_engine, hand_clock):
    """The deadline has passed when the next worker comes: it asks again, and never compensates."""
    actions, fallen = Actions(), Till(pause_s=60)
    store = await timed_engine.client()
    first = Sagas(store, [fallen.saga(actions, deadline_s=5)], recover_every_s=60)
    await first.__aenter__()
    await first.start("order", "o")
    await until(lambda: fallen.charged)
    for task in [*first._duties, *first._driving.values()]:
        task.cancel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transactional.sagas.driver.Driver.let_go", _dead)
        await asyncio.gather(*first._duties, *first._driving.values(), return_exceptions=True)
    await lapse(store, hand_clock)
    till = Till()
    async with worker(store, till.saga(actions, deadline_s=5), recover_every_s=60) as sagas:
        await sagas.resume_unfinished()
        run = await sagas.wait("o")
    assert run.state is SagaState.COMPLETED
    assert till.charged == fallen.charged


async def _dead(*_):
    """What a worker that was killed writes at its end."""


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (Outcome(happened=True, result="found"), SagaState.COMPLETED),
        (Outcome(happened=False), SagaState.COMPENSATED),
        (None, SagaState.STUCK),
        ("nonsense", SagaState.STUCK),
    ],
    ids=["happened", "never", "cannot tell", "no outcome"],
)
async def test_a_probe_tells_how_a_pivot_went(store, outcome, end):
    """It is asked when the attempts are used up, with the key of the step, until it knows."""
    actions, asked = Actions(), []

    async def probe(step):
        asked.append(step.idempotency_key)
        if len(asked) == 1:
            raise OSError("the till is away")
        return outcome

    till = Till(*[OSError("cut")] * 9)
    charge = Step(
        "charge", till.charge, kind=StepKind.PIVOT, retry=QUICK, undo_retry=QUICK, probe=probe
    )
    async with worker(store, Saga("order", [actions.step("reserve"), charge])) as sagas:
        run = await sagas.execute("order", "o")
    assert run.state is end
    assert set(asked) == till.charged
    if end is SagaState.COMPLETED:
        assert run.results["charge"] == "found"
    assert ("-reserve" in actions.log) is (end is SagaState.COMPENSATED)


async def test_a_definite_no_at_the_pivot_compensates(store):
    """Whatever kind of refusal it is, there is nothing to doubt."""
    for number, refusal in enumerate((StepRefused("no"), RefusedError("the room is taken"))):
        actions, till = Actions(), Till(refusal)
        async with worker(store, till.saga(actions)) as sagas:
            run = await sagas.execute("order", f"o{number}")
        assert run.state is SagaState.COMPENSATED
        assert actions.log == ["reserve", "-reserve"]


async def test_a_pivot_that_only_asked_for_patience_may_still_be_turned_back(store):
    """RetryLater says that nothing happened yet, so the deadline and a person are heard at once."""
    actions, calls = Actions(), []

    async def later(step):
        calls.append(step.attempt)
        raise RetryLater(after_s=3600)

    pivot = Step("charge", later, kind=StepKind.PIVOT)
    saga = Saga("order", [actions.step("reserve"), pivot])
    async with worker(store, saga) as sagas:
        await sagas.start("order", "o")
        await until(lambda: calls)
        await sagas.abandon("o")
        assert (await sagas.wait("o")).state is SagaState.COMPENSATED
    assert actions.log == ["reserve", "-reserve"]


async def test_a_result_that_cannot_be_kept_does_not_undo_the_effect(store):
    """The pivot happened, and what it returned is not JSON: stuck, and it says why."""
    actions = Actions()
    pivot = Step("charge", lambda _: object(), kind=StepKind.PIVOT)
    async with worker(store, Saga("order", [actions.step("reserve"), pivot])) as sagas:
        run = await sagas.execute("order", "o")
    assert run.state is SagaState.STUCK
    assert "not JSON" in run.error

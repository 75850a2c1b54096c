"""Steps that wait: signals, timers, child sagas and deadlines."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.transactional.sagas.actions import Actions, until, worker
from transactional import (
    AwaitSignal,
    Child,
    InvalidRequestError,
    Retry,
    RetryLater,
    Saga,
    Sagas,
    SagaState,
    Sleep,
    Step,
    StepKind,
    StepRefused,
    UnknownSagaError,
)
from transactional.sagas.history import RecordKind


async def test_a_signal_twice_is_a_signal_once(store):
    """[transactional 38] Of signals with one key the first counts, early or late."""
    actions = Actions()
    steps = [Step("one", AwaitSignal("early")), Step("two", AwaitSignal("late")), actions.step("z")]
    async with worker(store, Saga("work", steps)) as sagas:
        await sagas.start("work", "w1")
        answers = await asyncio.gather(*(sagas.signal("w1", "late", n, key="k") for n in range(6)))
        assert sorted(answers) == [False] * 5 + [True]
        assert await sagas.signal("w1", "early", {"by": "ann"}) is True
        run = await sagas.wait("w1")
        assert run.results["one"] == {"by": "ann"}
        assert run.results["two"] == answers.index(True)
        assert await sagas.signal("w1", "early", "too late") is False
        assert (await store.scan("saga/signal/")).items == {}
        with pytest.raises(UnknownSagaError):
            await sagas.signal("w9", "early")


async def test_a_signal_that_does_not_come(store):
    """After its timeout the step is refused and the run turns back."""
    actions = Actions()
    steps = [actions.step("a"), Step("ask", AwaitSignal("go", timeout_s=0.02))]
    async with worker(store, Saga("work", steps)) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert actions.log == ["a", "-a"]


async def test_the_deadline_passes_in_a_hanging_step(store):
    """[transactional 38] The step is cut off; it and all before it are compensated."""
    actions = Actions()

    async def hang(step):
        await asyncio.Event().wait()

    steps = [actions.step("a"), Step("h", hang, actions.action("-h")), actions.step("z")]
    async with worker(store, Saga("work", steps, deadline_s=0.05)) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert actions.log == ["a", "-h", "-a"]
    assert RecordKind.DEADLINE in [record.kind for record in run.history]


async def test_the_deadline_does_not_turn_back_what_is_decided(store):
    """Behind the pivot the deadline has no say; during a back-off it cuts the wait short."""
    actions = Actions()
    actions.fail("r", RetryLater(after_s=0.05))
    steps = [actions.step("p", StepKind.PIVOT), actions.step("r", StepKind.RETRIABLE)]
    slow = Retry(base_s=30, cap_s=30, attempts_max=3, dice=_AlwaysMost())
    actions.fail("q", OSError("down"))
    stalled = Saga("stalled", [actions.step("q", retry=slow)], deadline_s=0.05)
    async with worker(store, Saga("work", steps, deadline_s=0.03), stalled) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.COMPLETED
        assert (await sagas.execute("stalled", "w2")).state is SagaState.COMPENSATED
    assert actions.log[-2:] == ["q", "-q"]


class _AlwaysMost:
    def uniform(self, least: float, most: float) -> float:
        return most


async def test_timers_survive_restarts(store):
    """A sleep goes on where it was: it counts from its first intent, whoever waits it out."""
    actions = Actions()
    saga = Saga("work", [actions.step("a"), Step("nap", Sleep(0.2)), actions.step("z")])
    for _ in range(3):
        async with worker(store, saga) as sagas:
            if await sagas.get("w1") is None:
                await sagas.start("work", "w1")
            await until(lambda sagas=sagas: _asleep(sagas))
    async with worker(store, saga) as sagas:
        await sagas.resume_unfinished()
        run = await sagas.wait("w1")
    assert run.state is SagaState.COMPLETED
    assert actions.log == ["a", "z"]
    first = next(r for r in run.history if r.step == "nap")
    woke = next(r for r in run.history if r.step == "nap" and r.kind is RecordKind.DONE)
    assert woke.at - first.at >= timedelta(seconds=0.2)


async def _asleep(sagas) -> bool:
    await sagas.resume_unfinished()
    run = await sagas.get("w1")
    return run.over or any(r.step == "nap" for r in run.history)


async def test_child_sagas(store):
    """A child that completes gives its results; one that is compensated refuses the step."""
    actions = Actions()
    child = Saga("child", [actions.step("x"), actions.step("y")])
    sub = Child("child", lambda step: {"of": step.saga_id})
    parent = Saga("parent", [actions.step("a"), Step("sub", sub, actions.action("-sub"))])
    async with worker(store, child, parent, runs_max=1) as sagas:
        run = await sagas.execute("parent", "p1")
        assert run.results["sub"] == {"x": "X", "y": "Y"}
        assert (await sagas.get("p1.sub")).input == {"of": "p1"}
        actions.fail("y", StepRefused("no"))
        actions.log.clear()
        run = await sagas.execute("parent", "p2")
        assert run.state is SagaState.COMPENSATED
        assert actions.log == ["a", "x", "y", "-x", "-a"]


async def test_a_client_that_waits_where_nobody_works_says_so(store, caplog):
    """Counterexample: without `async with` the call hung, and not a word was said."""
    saga = Saga("order", [Actions().step("reserve")])
    with caplog.at_level("WARNING", "transactional.sagas"):
        waiting = asyncio.create_task(Sagas(store, [saga]).execute("order", "o"))
        await until(lambda: caplog.records)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert [record.message.partition(" ")[2] for record in caplog.records] == [
        "waits for saga 'o', and no worker drives any"
    ]


def test_a_kind_of_a_step_that_is_none_is_refused_by_name():
    """Counterexample: 'pivot' was "not in list", and nobody knew of which."""
    with pytest.raises(InvalidRequestError, match="kind of 'reserve' is a StepKind, not 'pivot'"):
        Saga("order", [Step("reserve", print, kind="pivot")])

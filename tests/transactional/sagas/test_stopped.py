"""Runs that stop and wait for a person, and what the person can do."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.sagas.actions import QUICK, Actions, reaches, until, worker
from transactional import (
    Saga,
    SagaState,
    SagaStateError,
    Step,
    StepKind,
    StepRefused,
)
from transactional.sagas.history import RecordKind


@pytest.mark.parametrize("way", ["asynchronously", "synchronously"])
async def test_a_compensation_that_raises(store, way):
    """[transactional 34] It is retried, then the saga is stuck: visible, never 'compensated'."""
    actions = Actions()
    actions.fail("c", StepRefused("no"))
    broken = [OSError("printer on fire")] * 3

    def undo(step):
        actions.log.append("-b")
        if way == "synchronously" and broken:
            raise broken.pop()
        return later()

    async def later():
        if broken:
            raise broken.pop()

    steps = [
        actions.step("a"),
        Step("b", actions.action("b"), undo, undo_retry=QUICK),
        actions.step("c"),
    ]
    async with worker(store, Saga("work", steps)) as sagas:
        run = await sagas.execute("work", "w1")
        assert run.state is SagaState.STUCK
        assert actions.log == ["a", "b", "c", "-b", "-b", "-b"]
        assert "printer on fire" in run.error
        assert [r.id async for r in sagas.unfinished()] == ["w1"]
        assert await sagas.resume_unfinished() == ()  # it waits for a person
        broken.append(OSError("still on fire"))
        await sagas.retry("w1")  # its counts start anew
        await until(lambda: reaches(sagas, "w1", SagaState.COMPENSATED))
        assert actions.log[6:] == ["-b", "-b", "-a"]
        with pytest.raises(SagaStateError):
            await sagas.retry("w1")


async def test_a_person_skips_what_cannot_be_undone(store):
    """A skipped compensation is on record as such; the others run."""
    actions = Actions()
    actions.fail("c", StepRefused("no"))
    actions.fail("-b", *[OSError("gone")] * 3)
    async with worker(store, actions.saga()) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.STUCK
        await sagas.skip("w1")
        await until(lambda: reaches(sagas, "w1", SagaState.COMPENSATED))
        run = await sagas.get("w1")
        assert run.compensated_steps == ("a",)
        assert [r.step for r in run.history if r.kind is RecordKind.SKIP] == ["b"]


async def test_behind_the_pivot_there_is_only_forward(store):
    """A retriable step that fails for good is stuck, nothing is undone; a retry completes."""
    actions = Actions()
    steps = [
        actions.step("a"),
        actions.step("p", StepKind.PIVOT),
        actions.step("r", StepKind.RETRIABLE),
    ]
    actions.fail("r", OSError("1"), OSError("2"), OSError("3"), StepRefused("never"))
    async with worker(store, Saga("work", steps)) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.STUCK
        with pytest.raises(SagaStateError):
            await sagas.abandon("w1")
        await sagas.retry("w1")
        await until(lambda: reaches(sagas, "w1", SagaState.STUCK))  # a refusal is stuck as well
        await sagas.retry("w1")
        await until(lambda: reaches(sagas, "w1", SagaState.COMPLETED))
    assert actions.log == ["a", "p", "r", "r", "r", "r", "r"]


async def test_a_person_turns_a_running_saga_back(store):
    """`abandon` while a step runs: its result is kept, then everything is compensated."""
    actions, begun, gate = Actions(), asyncio.Event(), asyncio.Event()

    async def slow(step):
        begun.set()
        await gate.wait()
        return "done"

    saga = Saga(
        "work", [actions.step("a"), Step("s", slow, actions.action("-s")), actions.step("z")]
    )
    async with worker(store, saga) as sagas:
        await sagas.start("work", "w1")
        await begun.wait()
        await sagas.abandon("w1")
        gate.set()
        run = await sagas.wait("w1")
    assert run.state is SagaState.COMPENSATED
    assert run.results["s"] == "done"
    assert actions.log == ["a", "-s", "-a"]

"""One coordinator at a time: takeover, fencing, poison, clean stops, pinned versions."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.sagas.actions import Actions, lapse, reaches, until, worker
from transactional import (
    AwaitSignal,
    ConflictError,
    Put,
    Saga,
    SagaFencedError,
    Sagas,
    SagaState,
    Step,
    StepRefused,
)


async def test_two_coordinators(timed_engine, hand_clock):
    """[transactional 35] Who slept past its lease is fenced: one history, written by one owner."""
    asleep, awake = await timed_engine.client(), await timed_engine.client()
    actions, gate, begun = Actions(), asyncio.Event(), asyncio.Event()

    async def slow(step):
        begun.set()
        await gate.wait()
        return "late"

    sleepy = Saga("work", [actions.step("a"), Step("s", slow), actions.step("z")])
    quick = Saga("work", [actions.step("a"), Step("s", lambda step: "on time"), actions.step("z")])
    async with worker(asleep, sleepy, worker="sleeper") as first:
        await first.start("work", "w1")
        await begun.wait()
        for duty in first._duties:
            duty.cancel()  # it sleeps: no renewal
        async with worker(awake, quick, worker="waker", recover_every_s=60) as second:
            assert await second.resume_unfinished() == ()  # its lease lives
            await lapse(awake, hand_clock)
            assert await second.resume_unfinished() == ("w1",)
            run = await second.wait("w1")
            assert run.state is SagaState.COMPLETED
            assert run.results["s"] == "on time"
            driver = first._driving["w1"]
            gate.set()
            with pytest.raises(SagaFencedError):
                await driver
            assert await first.wait("w1") == run
            assert actions.log == ["a", "z"]
            intents = [r.attempt for r in run.history if r.step == "s" and r.attempt]
            assert intents == [1, 2, 2]


async def test_a_fence_guards_the_steps_own_writes(timed_engine, hand_clock):
    """[transactional 35] With `step.fence` in its compares a late attempt cannot write either."""
    asleep, awake = await timed_engine.client(), await timed_engine.client()
    gate, begun = asyncio.Event(), asyncio.Event()
    refused = []

    def writer(store, name, wait):
        async def write(step):
            begun.set()
            await wait.wait()
            try:
                await store.commit([step.fence], [Put("ledger", name)])
            except ConflictError as conflict:
                refused.append(conflict)
                raise StepRefused("fenced") from conflict

        return write

    now = asyncio.Event()
    now.set()
    one = Saga("work", [Step("s", writer(asleep, b"asleep", gate))])
    other = Saga("work", [Step("s", writer(awake, b"awake", now))])
    async with worker(asleep, one) as first:
        await first.start("work", "w1")
        await begun.wait()
        for duty in first._duties:
            duty.cancel()
        async with worker(awake, other, recover_every_s=60) as second:
            await lapse(awake, hand_clock)
            await second.resume_unfinished()
            assert (await second.wait("w1")).state is SagaState.COMPLETED
            gate.set()
            await until(lambda: refused)
            await until(lambda: not first._driving)
            assert (await awake.get("ledger")).value == b"awake"
            assert (await second.get("w1")).state is SagaState.COMPLETED


async def test_runs_are_pinned_to_their_version(store):
    """[transactional 37] A run finishes on the version that it began with; new ones use the new."""
    actions = Actions()
    old = Saga(
        "work", [Step("ask", AwaitSignal("go")), actions.step("a"), actions.step("b")], version=1
    )
    new = Saga("work", [actions.step("x"), Step("ask", AwaitSignal("go"))], version=2)
    async with worker(store, old) as sagas:
        await sagas.start("work", "w1")
    async with worker(store, new) as sagas:
        assert await sagas.resume_unfinished() == ()  # not ours to finish
    async with worker(store, old, new) as sagas:
        await sagas.start("work", "w2")
        for run_id in ("w1", "w2"):
            await sagas.signal(run_id, "go")
        assert (await sagas.wait("w1")).version == 1
        assert (await sagas.wait("w2")).version == 2
    assert sorted(actions.log) == ["a", "b", "x"]


async def test_poison_is_counted_before_it_runs(timed_engine, hand_clock):
    """[transactional 36] A step that takes its workers with it runs three times, no more."""
    actions = Actions()

    class Killed(BaseException):
        pass

    actions.fail("p", *[Killed()] * 10)
    saga = Saga("work", [actions.step("a"), actions.step("p")])
    store = await timed_engine.client()
    for number in range(4):
        sagas = Sagas(store, [saga], recover_every_s=60)
        await sagas.__aenter__()
        if number == 0:
            await sagas.start("work", "w1")
        else:
            await sagas.resume_unfinished()
        await asyncio.gather(*sagas._driving.values(), return_exceptions=True)
        for duty in sagas._duties:
            duty.cancel()  # the process is gone, and its lease runs out
        await lapse(store, hand_clock)
    assert actions.log == ["a", "p", "p", "p"]
    async with worker(store, saga) as sagas:
        run = await sagas.get("w1")
        assert run.state is SagaState.DEAD_LETTER
        assert run.history[-1].step == "p"
        assert await sagas.resume_unfinished() == ()
        await sagas.abandon("w1")
        await until(lambda: reaches(sagas, "w1", SagaState.COMPENSATED))
    assert actions.log[4:] == ["-p", "-a"]


async def test_a_worker_that_closes_pauses_and_finishes_compensations(store):
    """A clean stop loses no attempt and cuts no compensation off; the next worker goes on."""
    actions = Actions()
    begun, gate, undoing = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang(step):
        begun.set()
        await gate.wait()

    async def undo(step):
        undoing.set()
        await asyncio.sleep(0.02)
        actions.log.append("-b")

    saga = Saga("work", [actions.step("a"), Step("h", hang, crashes_max=1), actions.step("z")])
    back = Saga("back", [Step("b", actions.action("b"), undo), actions.step("c")])
    actions.fail("c", StepRefused("no"))
    async with worker(store, saga, back) as sagas:
        await sagas.start("work", "w1")
        await sagas.start("back", "w2")
        await begun.wait()
        await undoing.wait()
    assert actions.log.count("-b") == 1
    gate.set()
    async with worker(store, saga, back) as sagas:
        await sagas.resume_unfinished()
        assert (await sagas.wait("w1")).state is SagaState.COMPLETED  # the pause was no crash
        assert (await sagas.wait("w2")).state is SagaState.COMPENSATED
    assert actions.log.count("-b") == 1


async def test_a_client_starts_what_workers_drive(store):
    """Outside of `async with` a run is only begun; a worker elsewhere finds and drives it."""
    actions = Actions()
    client = Sagas(store, [actions.saga()])
    run = await client.start("work", "w1")
    assert (run.owner, run.history) == ("", ())
    async with worker(store, actions.saga(), recover_every_s=0.01):
        assert (await client.wait("w1")).state is SagaState.COMPLETED

"""What becomes of a run on every engine: all steps complete or all are compensated, on record."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.sagas.actions import QUICK, Actions, reaches, until, worker
from transactional import (
    Put,
    RefusedError,
    Retry,
    RetryLater,
    Revision,
    Saga,
    SagaExistsError,
    SagaState,
    Step,
    StepKind,
    StepRefused,
    UnknownSagaError,
    create,
)
from transactional.sagas.history import RecordKind


async def test_all_steps_complete(store):
    """Five steps are six commits; results and history are there for everyone."""
    actions = Actions()
    async with worker(store, actions.saga()) as sagas:
        run = await sagas.execute("work", "w1", {"n": 1})
        assert run.state is SagaState.COMPLETED
        assert run.results == {name: name.upper() for name in "abcde"}
        assert actions.log == list("abcde")
        assert await sagas.get("w1") == run
        assert await sagas.execute("work", "w1", {"n": 1}) == run  # starting again is harmless
        assert actions.log == list("abcde")
        with pytest.raises(SagaExistsError):
            await sagas.start("work", "w1", {"n": 2})
        with pytest.raises(UnknownSagaError):
            await sagas.start("play", "w2")
        kinds = [record.kind for record in run.history]
        assert kinds == [RecordKind.INTENT, RecordKind.DONE] * 5 + [RecordKind.COMPLETED]
    async with worker(store, actions.saga()) as sagas:
        start = (await store.get_many([])).revision
        await sagas.execute("work", "w3")
        assert (await store.get_many([])).revision - start == 6


async def test_a_step_that_refuses(store):
    """[transactional 31] Step 3 of 5 says no: 2 and 1 are compensated, once each, in reverse."""
    actions = Actions()
    actions.fail("c", StepRefused("out of stock"))
    async with worker(store, actions.saga()) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert actions.log == ["a", "b", "c", "-b", "-a"]
    assert run.compensated_steps == ("b", "a")
    assert run.error == "StepRefused: out of stock"


async def test_a_step_that_leaves_it_open(store):
    """[transactional 33] An attempt that may have had its effect is undone too, by its own key."""
    actions = Actions()
    actions.fail("c", *[ConnectionError("reset")] * 3)
    async with worker(store, actions.saga()) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert actions.log == ["a", "b", "c", "c", "c", "-c", "-b", "-a"]
    assert actions.keys["c"] == {"w1/c"}  # the same on all three attempts
    assert actions.keys["-c"] == {"w1/c/undo"}


async def test_errors_say_what_they_mean(store):
    """A passing failure is retried; a definite no is not; asking for later is no failure."""
    actions = Actions()
    actions.fail("a", ConnectionError("reset"))
    actions.fail("b", *[RetryLater("not yet", after_s=0.002)] * 10)
    actions.fail("c", RefusedError("no such account"))
    async with worker(store, actions.saga()) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert actions.log == ["a", *"a", *"b" * 11, "c", "-c", "-b", "-a"]


async def test_a_lost_compare_is_no_failure(store):
    """[transactional 39] A step that loses a compare is called again and uses up no attempt."""
    actions = Actions()

    async def count(step):
        found = await store.get("counter")
        number = int(found.value) if found else 0
        await asyncio.sleep(0)  # a rival's chance
        revision = found.revision if found else 0
        await store.commit([Revision("counter", revision)], [Put("counter", b"%d" % (number + 1))])

    saga = Saga("count", [Step("count", count, retry=Retry(attempts_max=1)), actions.step("z")])
    async with worker(store, saga) as sagas:
        runs = await asyncio.gather(*(sagas.execute("count", f"c{n}") for n in range(15)))
    assert {run.state for run in runs} == {SagaState.COMPLETED}
    assert (await store.get("counter")).value == b"15"
    assert all(len(run.history) == 5 for run in runs)


async def test_a_pivot_refuses_or_is_unknown(store):
    """Refused: compensate.  Unknown and not undoable: stuck, for nobody knows the way."""
    actions = Actions()
    actions.fail("p", StepRefused("no"), OSError("1"), OSError("2"), OSError("3"))
    pivot = Step("p", actions.action("p"), kind=StepKind.PIVOT, retry=QUICK)
    async with worker(store, Saga("work", [actions.step("a"), pivot])) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.COMPENSATED
        assert (await sagas.execute("work", "w2")).state is SagaState.STUCK
        await sagas.skip("w2", result="it went through")
        await until(lambda: reaches(sagas, "w2", SagaState.COMPLETED))
        assert (await sagas.get("w2")).results["p"] == "it went through"


async def test_what_is_no_result_is_a_failure(store):
    """A result that is not JSON, or too large, counts as one: the step is undone."""
    actions = Actions()
    for number, result in enumerate([{1, 2}, "x" * 20_000]):
        saga = Saga(
            "work", [actions.step("a"), Step("b", lambda _, r=result: r, actions.action("-b"))]
        )
        async with worker(store, saga) as sagas:
            run = await sagas.execute("work", f"w{number}")
        assert run.state is SagaState.COMPENSATED
    assert actions.log == ["a", "-b", "-a"] * 2


async def test_many_sagas_and_a_key_that_all_want(store):
    """Sixty sagas at once on one worker, each effect exactly once."""
    saga = Saga(
        "make", [Step("make", lambda step: _make(store, step.idempotency_key)), Step("b", _b)]
    )
    async with worker(store, saga, runs_max=20) as sagas:
        runs = await asyncio.gather(*(sagas.execute("make", f"m{n}") for n in range(60)))
    assert {run.state for run in runs} == {SagaState.COMPLETED}
    assert len((await store.scan("made/")).items) == 60


async def _make(store, key) -> None:
    await create(store, f"made/{key}", b"")


def _b(step) -> None:
    """A synchronous action is an action."""

"""Runs that wait cost nobody anything, are woken at once, and pass from worker to worker."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

import pytest

from tests.scale import rounds
from tests.transactional.reservations.times import hours
from tests.transactional.sagas.actions import Actions, until, worker
from transactional import (
    AwaitSignal,
    Child,
    ConflictError,
    InvalidRequestError,
    InvalidTimeError,
    Reservations,
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
from transactional.sagas.driver import INPUT_BYTES_MAX, RESULT_BYTES_MAX
from transactional.sagas.history import RecordKind
from transactional.sagas.saga import STEPS_MAX
from transactional.stores.memory import MemoryStore

_ONCE = Retry(base_s=0, attempts_max=1)
ASK = Saga("ask", [Step("wait", AwaitSignal("go"))])


async def test_each_signal_is_taken_by_one_step(store):
    """Four eyes are four: the second step waits for the second signal, in the order they came."""
    steps = [Step(name, AwaitSignal("approve")) for name in ("ann", "bob", "cyd")]
    async with worker(store, Saga("pay", steps)) as sagas:
        await sagas.start("pay", "p")
        for number in range(3):
            assert (await sagas.get("p")).state is SagaState.RUNNING
            assert await sagas.signal("p", "approve", number) is True
        run = await sagas.wait("p")
    assert run.results == {"ann": 0, "bob": 1, "cyd": 2}


async def test_a_signal_may_come_before_its_run(store):
    """`signal_with_start` begins the run; it and the signal may come from different clients."""
    client = Sagas(store, [ASK])
    with pytest.raises(UnknownSagaError):
        await client.signal("a", "go")
    await client.signal_with_start("ask", "a", None, "go", 7, key="k")
    await client.signal_with_start("ask", "a", None, "go", 7, key="k")
    async with worker(store, ASK) as sagas:
        assert (await sagas.wait("a")).results == {"wait": 7}


async def test_a_taken_signal_is_not_given_again(store):
    """A repeat with its key, after a step took it, is still a repeat."""
    steps = [Step("one", AwaitSignal("go")), Step("two", AwaitSignal("go"))]
    async with worker(store, Saga("two", steps)) as sagas:
        await sagas.start("two", "t")
        assert await sagas.signal("t", "go", 1, key="k") is True
        await until(lambda: _has_result(sagas, "t", "one"))
        assert await sagas.signal("t", "go", 1, key="k") is False
        assert "two" not in (await sagas.get("t")).results
        await sagas.signal("t", "go", 2)
        assert (await sagas.wait("t")).results == {"one": 1, "two": 2}


async def _has_result(sagas, run_id, step):
    return step in (await sagas.get(run_id)).results


@pytest.mark.parametrize(
    "waiting",
    [
        Step("w", AwaitSignal("never")),
        Step("w", Sleep(30 * 86_400)),
        Step("w", lambda _: (_ for _ in ()).throw(RetryLater(after_s=86_400))),
        Step("w", Child("ask")),
    ],
    ids=["signal", "sleep", "later", "child"],
)
async def test_a_run_that_waits_turns_back_at_once(store, waiting):
    """Abandoned, or by its deadline: nobody waits for what will not come."""
    actions = Actions()
    slow = Saga("slow", [actions.step("a"), waiting])
    soon = Saga("soon", [actions.step("b"), waiting], deadline_s=1.5)
    async with worker(store, slow, soon, ASK) as sagas:
        await sagas.start("slow", "s")
        await sagas.start("soon", "d")
        await until(lambda: _parked(sagas, "s"))
        async with asyncio.timeout(20):
            await sagas.abandon("s")
            assert (await sagas.wait("s")).state is SagaState.COMPENSATED
            assert (await sagas.wait("d")).state is SagaState.COMPENSATED
    assert sorted(actions.log) == ["-a", "-b", "a", "b"]


async def _parked(sagas, run_id):
    run = await sagas.get(run_id)
    return run.owner == "" and not run.over


async def test_waiting_runs_take_no_place(store):
    """More runs wait than may be driven at once; a new one runs past them."""
    count = rounds(100_000) // 1000 * 2
    quick = Saga("quick", [Step("a", lambda _: 1)])
    async with worker(store, ASK, quick, runs_max=8) as sagas:
        for first in range(0, count, 50):
            await asyncio.gather(*(sagas.start("ask", f"a{first + n}") for n in range(50)))
        async with asyncio.timeout(20):
            assert (await sagas.execute("quick", "q")).state is SagaState.COMPLETED
            await sagas.signal("a7", "go", 1)
            assert (await sagas.wait("a7")).state is SagaState.COMPLETED


async def test_what_a_client_starts_wakes_a_worker(store):
    """Not at the next look for lost runs, which is a minute away."""
    quick = Saga("quick", [Step("a", lambda _: 1)])
    async with worker(store, quick, recover_every_s=60) as sagas:
        await Sagas(store, [quick]).start("quick", "q")
        async with asyncio.timeout(10):
            assert (await sagas.wait("q")).state is SagaState.COMPLETED


async def test_a_worker_that_closes_hands_over_at_once(store):
    """Its colleague, who looks for lost runs once a minute, goes on with all of them."""
    started, gate = [], asyncio.Event()

    async def act(step):
        started.append(step.saga_id)
        await gate.wait()
        return 1

    slow = Saga("slow", [Step("a", act)])
    async with worker(store, slow, recover_every_s=60, worker="heir") as heir:
        async with worker(store, slow, recover_every_s=60, worker="first", runs_max=5) as first:
            for number in range(5):
                await first.start("slow", f"s{number}")
            await until(lambda: len(started) == 5)
        gate.set()
        async with asyncio.timeout(10):
            for number in range(5):
                assert (await heir.wait(f"s{number}")).state is SagaState.COMPLETED
    assert sorted(started) == sorted(f"s{n}" for n in range(5) for _ in range(2))


async def test_a_parent_that_turns_back_ends_its_child_first(store):
    """By its deadline, while the child waits: the child is compensated, then the parent."""
    actions = Actions()
    child = Saga("child", [actions.step("c"), Step("w", AwaitSignal("never"))])
    parent = Saga("parent", [actions.step("a"), Step("k", Child("child"))], deadline_s=1.2)
    async with worker(store, child, parent) as sagas:
        run = await sagas.execute("parent", "p")
        assert run.state is SagaState.COMPENSATED
        assert (await sagas.get("p.k")).state is SagaState.COMPENSATED
    assert actions.log == ["a", "c", "-c", "-a"]


async def test_a_child_is_told_from_a_run_of_the_same_name(store):
    """Somebody's run has the child's id: the child takes another, and is found again."""
    one = Saga("one", [Step("a", lambda step: step.input)])
    parent = Saga("parent", [Step("k", Child("one", input=lambda _: "child"))])
    async with worker(store, one, parent) as sagas:
        await sagas.execute("one", "p.k", "a stranger's")
        run = await sagas.execute("parent", "p")
        assert run.results["k"] == {"a": "child"}
        assert run.children == {"k": "p.k~1"}
        assert (await sagas.get("p.k")).results == {"a": "a stranger's"}


async def test_a_child_that_is_stuck_makes_a_parent_that_turns_back_say_so(store):
    """The parent cannot be compensated before somebody has seen to the child."""

    def broken(_):
        raise OSError("cut")

    child = Saga("child", [Step("p", broken, kind=StepKind.PIVOT, retry=_ONCE)])
    parent = Saga("parent", [Step("k", Child("child"))], deadline_s=1.2)
    async with worker(store, child, parent) as sagas:
        run = await sagas.execute("parent", "p")
        assert run.state is SagaState.STUCK
        assert "'p.k' is stuck" in run.error
        await sagas.abandon("p.k")  # it never happened
        await sagas.wait("p.k")
        await sagas.retry("p")
        assert (await sagas.wait("p")).state is SagaState.COMPENSATED


async def test_patience_has_no_end_and_can_be_ended_by_hand(store):
    """A step may ask to be called again more often than a history is long."""
    calls = []

    async def poll(_):
        calls.append(1)
        if len(calls) < 1500:
            raise RetryLater
        return "now"

    async with worker(store, Saga("poll", [Step("p", poll)])) as sagas:
        run = await sagas.execute("poll", "r")
    assert run.results == {"p": "now"}
    assert len(run.history) < 10


async def test_a_run_that_is_dead_for_its_length_can_be_ended(store, monkeypatch):
    """Each word of a person gives it room for what follows from it."""
    monkeypatch.setattr("transactional.sagas.history.RECORDS_MAX", 20)
    actions = Actions()
    actions.fail("p", *[OSError("cut")] * 100)
    retry = Retry(base_s=0, attempts_max=100)
    saga = Saga("long", [actions.step("a"), actions.step("p", retry=retry)])
    async with worker(store, saga) as sagas:
        run = await sagas.execute("long", "r")
        assert run.state is SagaState.DEAD_LETTER
        await sagas.abandon("r")
        assert (await sagas.wait("r")).state is SagaState.COMPENSATED


async def test_lost_compares_use_up_no_attempt(store, monkeypatch):
    """However many they are; they are called a while later instead."""
    monkeypatch.setattr("transactional.sagas.driver.PARK_ABOVE_S", 0.01)
    monkeypatch.setattr("transactional.sagas.driver.DEFAULT_RETRY", _ONCE)
    calls = []

    async def contended(_):
        calls.append(1)
        if len(calls) <= 35:
            raise ConflictError((), {}, 0)

    async with worker(store, Saga("c", [Step("c", contended, retry=_ONCE)])) as sagas:
        run = await sagas.execute("c", "r")
    assert run.state is SagaState.COMPLETED
    assert RecordKind.FAILED not in {record.kind for record in run.history}


def test_a_time_without_a_zone_is_refused_where_it_is_written():
    """And so is a pause that is none."""
    with pytest.raises(InvalidTimeError):
        RetryLater(at=datetime(2025, 1, 1))  # noqa: DTZ001 that is the point
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequestError, match="seconds"):
            RetryLater(after_s=wrong)


async def test_a_bug_in_a_step_says_where_it_is(store, caplog):
    """The run's error names file and line, and the log has the whole traceback."""
    bug = Saga("bug", [Step("a", lambda step: step.input["peices"], retry=_ONCE)])
    with caplog.at_level(logging.WARNING, logger="transactional"):
        async with worker(store, bug) as sagas:
            run = await sagas.execute("bug", "r", {"pieces": 1})
    assert "test_handover.py, line" in run.error
    assert "KeyError: 'peices'" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_result_is_counted_in_bytes_of_utf8(store):
    """16 KiB of it, however it would be escaped."""
    big = Saga("big", [Step("a", lambda _: "é" * 8000)])
    bigger = Saga("bigger", [Step("a", lambda _: "é" * 8200)])
    async with worker(store, big, bigger) as sagas:
        assert (await sagas.execute("big", "r")).state is SagaState.COMPLETED
        assert "are allowed" in (await sagas.execute("bigger", "s")).error


async def test_a_run_as_large_as_may_be_is_recorded(store):
    """Thirty-two results of the greatest size, signals among them: all is written and read."""
    text = "x" * (RESULT_BYTES_MAX - 2)
    steps = [Step(f"s{n}", lambda _: text) for n in range(STEPS_MAX - 4)]
    steps += [Step(f"w{n}", AwaitSignal("more")) for n in range(4)]
    async with worker(store, Saga("long", steps)) as sagas:
        await sagas.start("long", "r", "x" * (INPUT_BYTES_MAX - 2))
        with pytest.raises(InvalidRequestError, match="are allowed"):
            await sagas.signal("r", "more", text + "x")
        for _ in range(4):
            await sagas.signal("r", "more", text)
        run = await sagas.wait("r")
    assert run.state is SagaState.COMPLETED
    assert sum(len(result) for result in run.results.values()) == STEPS_MAX * len(text)


async def test_a_long_story_of_failures_stops_and_can_go_on():
    """Before its history is too large to be written down the run stops where a person sees it."""
    store = MemoryStore()
    fail, calls = True, 0

    def act(_):
        nonlocal calls
        calls += 1
        if fail:
            raise ValueError("é" * 400)

    again = Retry(base_s=0, attempts_max=100_000, deadline_s=1e9)
    step = Step("a", act, kind=StepKind.RETRIABLE, retry=again)
    async with worker(store, Saga("s", [step])) as sagas:
        run = await sagas.execute("s", "r")
        assert run.state is SagaState.DEAD_LETTER
        before = calls
        assert before > 200
        await sagas.retry("r")
        assert (await sagas.wait("r")).state is SagaState.DEAD_LETTER
        assert calls > 1.8 * before
        fail = False
        await sagas.retry("r")
        assert (await sagas.wait("r")).state is SagaState.COMPLETED


async def test_results_of_a_child_that_are_too_large_fail_the_step(store):
    """As an action's would: it is visible, and the parent does not hang."""
    child = Saga("child", [Step(f"s{n}", lambda _: "x" * 10_000) for n in range(2)])
    parent = Saga("parent", [Step("part", Child("child"))])
    async with worker(store, child, parent) as sagas:
        run = await sagas.execute("parent", "p")
    assert run.state is SagaState.COMPENSATED
    assert "are allowed" in run.error


@pytest.mark.parametrize("when", ["parked", "driven", "before"])
async def test_a_signal_that_no_step_waits_for_leaves_nothing(store, when):
    """Whenever it comes, when the run is over nothing of it is left in the store."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def act(_):
        begun.set()
        await go.wait()

    steps = [Step("nap", Sleep(1.3)), Step("a", act)] if when == "parked" else [Step("a", act)]
    client = Sagas(store, [Saga("deaf", steps)])
    if when == "before":
        await client.signal_with_start("deaf", "r", None, "go", 1)
    async with worker(store, Saga("deaf", steps)) as sagas:
        await sagas.start("deaf", "r")
        if when == "driven":
            await begun.wait()
        if when != "before":
            assert await sagas.signal("r", "go", 1)
        go.set()
        assert (await sagas.wait("r")).state is SagaState.COMPLETED
        await until(lambda: _nothing_under(store, "saga/signal/", "saga/due/"))


async def _nothing_under(store, *prefixes):
    return not any([(await store.scan(prefix)).items for prefix in prefixes])


async def test_a_hold_passes_through_a_saga(store):
    """A step returns it, a later one confirms it, the compensation releases it: no JSON by hand."""
    rooms = Reservations(store)

    async def hold(step):
        return await rooms.hold(
            "lab", hours(9, 10), holder="ann", ttl_s=60, idempotency_key=step.idempotency_key
        )

    async def release(step):
        if step.result is not None:
            await rooms.release(step.result)

    async def confirm(step):
        return await rooms.confirm(step.results["hold"])

    def refuse(_):
        raise StepRefused("no")

    good = Saga("good", [Step("hold", hold, release), Step("ok", confirm, kind=StepKind.PIVOT)])
    bad = Saga("bad", [Step("hold", hold, release), Step("no", refuse)])
    async with worker(store, good, bad) as sagas:
        assert (await sagas.execute("bad", "b")).state is SagaState.COMPENSATED
        assert await rooms.agenda("lab") == ()
        assert (await sagas.execute("good", "g")).state is SagaState.COMPLETED
    (booking,) = await rooms.agenda("lab")
    assert booking.holder == "ann"

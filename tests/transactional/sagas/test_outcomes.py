"""Sagas on every engine: all steps complete or all are compensated, and history says which."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from transactional import (
    AwaitSignal,
    Child,
    ConflictError,
    InvalidRequestError,
    Put,
    RefusedError,
    Retry,
    RetryLater,
    Revision,
    Saga,
    SagaExistsError,
    SagaFencedError,
    Sagas,
    SagaState,
    SagaStateError,
    Sleep,
    Step,
    StepKind,
    StepRefused,
    UnknownSagaError,
    create,
)
from transactional.sagas.history import RecordKind

QUICK = Retry(base_s=0.001, cap_s=0.002, attempts_max=3)


class Desk:
    """Actions and compensations that write down what they did, and fail when told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.fails: dict[str, list[BaseException]] = {}

    def fail(self, name: str, *errors: BaseException) -> None:
        self.fails[name] = list(errors)

    def action(self, name: str):
        async def act(step):
            self.log.append(name)
            self.keys.setdefault(name, set()).add(step.idempotency_key)
            if self.fails.get(name):
                raise self.fails[name].pop(0)
            return name.upper()

        return act

    def step(self, name: str, kind=StepKind.COMPENSATABLE, **options) -> Step:
        undo = self.action(f"-{name}") if kind is not StepKind.RETRIABLE else None
        options = {"retry": QUICK, "undo_retry": QUICK} | options
        return Step(name, self.action(name), undo, kind, **options)

    def saga(self, names: str = "abcde", **options) -> Saga:
        return Saga("work", [self.step(name) for name in names], **options)


@asynccontextmanager
async def worker(store, *sagas, **options):
    async with Sagas(store, sagas, **options) as made:
        yield made


async def until(condition) -> None:
    """Wait for a condition, which may be awaitable."""
    async with asyncio.timeout(20):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.002)


async def lapse(store, hand_clock) -> None:
    """Let leases run out; on a hand clock an engine looks at it when it next commits."""
    hand_clock.forward(11)
    await store.commit([], [Put("nudge", b"")])


async def test_all_steps_complete(store):
    """Five steps are six commits; results and history are there for everyone."""
    desk = Desk()
    async with worker(store, desk.saga()) as sagas:
        run = await sagas.execute("work", "w1", {"n": 1})
        assert run.state is SagaState.COMPLETED
        assert run.results == {name: name.upper() for name in "abcde"}
        assert desk.log == list("abcde")
        assert await sagas.get("w1") == run
        assert await sagas.execute("work", "w1", {"n": 1}) == run  # starting again is harmless
        assert desk.log == list("abcde")
        with pytest.raises(SagaExistsError):
            await sagas.start("work", "w1", {"n": 2})
        with pytest.raises(UnknownSagaError):
            await sagas.start("play", "w2")
        kinds = [record.kind for record in run.history]
        assert kinds == [RecordKind.INTENT, RecordKind.DONE] * 5 + [RecordKind.COMPLETED]
    async with worker(store, desk.saga()) as sagas:
        start = (await store.get_many([])).revision
        await sagas.execute("work", "w3")
        assert (await store.get_many([])).revision - start == 6


async def test_a_step_that_refuses(store):
    """[transactional 31] Step 3 of 5 says no: 2 and 1 are compensated, once each, in reverse."""
    desk = Desk()
    desk.fail("c", StepRefused("out of stock"))
    async with worker(store, desk.saga()) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert desk.log == ["a", "b", "c", "-b", "-a"]
    assert run.compensated_steps == ("b", "a")
    assert run.error == "StepRefused: out of stock"


async def test_a_step_that_leaves_it_open(store):
    """[transactional 33] An attempt that may have had its effect is undone too, by its own key."""
    desk = Desk()
    desk.fail("c", *[ConnectionError("reset")] * 3)
    async with worker(store, desk.saga()) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert desk.log == ["a", "b", "c", "c", "c", "-c", "-b", "-a"]
    assert desk.keys["c"] == {"w1/c"}  # the same on all three attempts
    assert desk.keys["-c"] == {"w1/c/undo"}


async def test_errors_say_what_they_mean(store):
    """A passing failure is retried; a definite no is not; asking for later is no failure."""
    desk = Desk()
    desk.fail("a", ConnectionError("reset"))
    desk.fail("b", *[RetryLater("not yet", after_s=0.002)] * 10)
    desk.fail("c", RefusedError("no such account"))
    async with worker(store, desk.saga()) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert desk.log == ["a", *"a", *"b" * 11, "c", "-c", "-b", "-a"]


async def test_a_lost_compare_is_no_failure(store):
    """[transactional 39] A step that loses a compare is called again and uses up no attempt."""
    desk = Desk()

    async def count(step):
        found = await store.get("counter")
        number = int(found.value) if found else 0
        await asyncio.sleep(0)  # a rival's chance
        revision = found.revision if found else 0
        await store.commit([Revision("counter", revision)], [Put("counter", b"%d" % (number + 1))])

    saga = Saga("count", [Step("count", count, retry=Retry(attempts_max=1)), desk.step("z")])
    async with worker(store, saga) as sagas:
        runs = await asyncio.gather(*(sagas.execute("count", f"c{n}") for n in range(15)))
    assert {run.state for run in runs} == {SagaState.COMPLETED}
    assert (await store.get("counter")).value == b"15"
    assert all(len(run.history) == 5 for run in runs)


@pytest.mark.parametrize("way", ["asynchronously", "synchronously"])
async def test_a_compensation_that_raises(store, way):
    """[transactional 34] It is retried, then the saga is stuck: visible, never 'compensated'."""
    desk = Desk()
    desk.fail("c", StepRefused("no"))
    broken = [OSError("printer on fire")] * 3

    def undo(step):
        desk.log.append("-b")
        if way == "synchronously" and broken:
            raise broken.pop()
        return later()

    async def later():
        if broken:
            raise broken.pop()

    steps = [desk.step("a"), Step("b", desk.action("b"), undo, undo_retry=QUICK), desk.step("c")]
    async with worker(store, Saga("work", steps)) as sagas:
        run = await sagas.execute("work", "w1")
        assert run.state is SagaState.STUCK
        assert desk.log == ["a", "b", "c", "-b", "-b", "-b"]
        assert "printer on fire" in run.error
        assert [r.id async for r in sagas.unfinished()] == ["w1"]
        assert await sagas.resume_unfinished() == ()  # it waits for a person
        broken.append(OSError("still on fire"))
        await sagas.retry("w1")  # its counts start anew
        await until(lambda: _state(sagas, "w1", SagaState.COMPENSATED))
        assert desk.log[6:] == ["-b", "-b", "-a"]
        with pytest.raises(SagaStateError):
            await sagas.retry("w1")


async def _state(sagas, run_id, state) -> bool:
    await sagas.resume_unfinished()
    return (await sagas.get(run_id)).state is state


async def test_a_person_skips_what_cannot_be_undone(store):
    """A skipped compensation is on record as such; the others run."""
    desk = Desk()
    desk.fail("c", StepRefused("no"))
    desk.fail("-b", *[OSError("gone")] * 3)
    async with worker(store, desk.saga()) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.STUCK
        await sagas.skip("w1")
        await until(lambda: _state(sagas, "w1", SagaState.COMPENSATED))
        run = await sagas.get("w1")
        assert run.compensated_steps == ("a",)
        assert [r.step for r in run.history if r.kind is RecordKind.SKIP] == ["b"]


async def test_behind_the_pivot_there_is_only_forward(store):
    """A retriable step that fails for good is stuck, nothing is undone; a retry completes."""
    desk = Desk()
    steps = [desk.step("a"), desk.step("p", StepKind.PIVOT), desk.step("r", StepKind.RETRIABLE)]
    desk.fail("r", OSError("1"), OSError("2"), OSError("3"), StepRefused("never"))
    async with worker(store, Saga("work", steps)) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.STUCK
        with pytest.raises(SagaStateError):
            await sagas.abandon("w1")
        await sagas.retry("w1")
        await until(lambda: _state(sagas, "w1", SagaState.STUCK))  # a refusal is stuck as well
        await sagas.retry("w1")
        await until(lambda: _state(sagas, "w1", SagaState.COMPLETED))
    assert desk.log == ["a", "p", "r", "r", "r", "r", "r"]


async def test_a_pivot_refuses_or_is_unknown(store):
    """Refused: compensate.  Unknown and not undoable: stuck, for nobody knows the way."""
    desk = Desk()
    desk.fail("p", StepRefused("no"), OSError("1"), OSError("2"), OSError("3"))
    pivot = Step("p", desk.action("p"), kind=StepKind.PIVOT, retry=QUICK)
    async with worker(store, Saga("work", [desk.step("a"), pivot])) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.COMPENSATED
        assert (await sagas.execute("work", "w2")).state is SagaState.STUCK
        await sagas.skip("w2", result="it went through")
        await until(lambda: _state(sagas, "w2", SagaState.COMPLETED))
        assert (await sagas.get("w2")).results["p"] == "it went through"


async def test_two_coordinators(timed_engine, hand_clock):
    """[transactional 35] Who slept past its lease is fenced: one history, written by one owner."""
    asleep, awake = await timed_engine.client(), await timed_engine.client()
    desk, gate, begun = Desk(), asyncio.Event(), asyncio.Event()

    async def slow(step):
        begun.set()
        await gate.wait()
        return "late"

    sleepy = Saga("work", [desk.step("a"), Step("s", slow), desk.step("z")])
    quick = Saga("work", [desk.step("a"), Step("s", lambda step: "on time"), desk.step("z")])
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
            assert desk.log == ["a", "z"]
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
    desk = Desk()
    old = Saga("work", [Step("ask", AwaitSignal("go")), desk.step("a"), desk.step("b")], version=1)
    new = Saga("work", [desk.step("x"), Step("ask", AwaitSignal("go"))], version=2)
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
    assert sorted(desk.log) == ["a", "b", "x"]


async def test_a_signal_twice_is_a_signal_once(store):
    """[transactional 38] The first signal counts, before or while the saga waits for it."""
    desk = Desk()
    steps = [Step("one", AwaitSignal("early")), Step("two", AwaitSignal("late")), desk.step("z")]
    async with worker(store, Saga("work", steps)) as sagas:
        await sagas.start("work", "w1")
        answers = await asyncio.gather(*(sagas.signal("w1", "late", n) for n in range(6)))
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
    desk = Desk()
    steps = [desk.step("a"), Step("ask", AwaitSignal("go", timeout_s=0.02))]
    async with worker(store, Saga("work", steps)) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert desk.log == ["a", "-a"]


async def test_the_deadline_passes_in_a_hanging_step(store):
    """[transactional 38] The step is cut off; it and all before it are compensated."""
    desk = Desk()

    async def hang(step):
        await asyncio.Event().wait()

    steps = [desk.step("a"), Step("h", hang, desk.action("-h")), desk.step("z")]
    async with worker(store, Saga("work", steps, deadline_s=0.05)) as sagas:
        run = await sagas.execute("work", "w1")
    assert run.state is SagaState.COMPENSATED
    assert desk.log == ["a", "-h", "-a"]
    assert RecordKind.DEADLINE in [record.kind for record in run.history]


async def test_the_deadline_does_not_turn_back_what_is_decided(store):
    """Behind the pivot the deadline has no say; during a back-off it cuts the wait short."""
    desk = Desk()
    desk.fail("r", RetryLater(after_s=0.05))
    steps = [desk.step("p", StepKind.PIVOT), desk.step("r", StepKind.RETRIABLE)]
    slow = Retry(base_s=30, cap_s=30, attempts_max=3, dice=_AlwaysMost())
    desk.fail("q", OSError("down"))
    stalled = Saga("stalled", [desk.step("q", retry=slow)], deadline_s=0.05)
    async with worker(store, Saga("work", steps, deadline_s=0.03), stalled) as sagas:
        assert (await sagas.execute("work", "w1")).state is SagaState.COMPLETED
        assert (await sagas.execute("stalled", "w2")).state is SagaState.COMPENSATED
    assert desk.log[-2:] == ["q", "-q"]


class _AlwaysMost:
    def uniform(self, least: float, most: float) -> float:
        return most


async def test_poison_is_counted_before_it_runs(timed_engine, hand_clock):
    """[transactional 36] A step that takes its workers with it runs three times, no more."""
    desk = Desk()

    class Killed(BaseException):
        pass

    desk.fail("p", *[Killed()] * 10)
    saga = Saga("work", [desk.step("a"), desk.step("p")])
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
    assert desk.log == ["a", "p", "p", "p"]
    async with worker(store, saga) as sagas:
        run = await sagas.get("w1")
        assert run.state is SagaState.DEAD_LETTER
        assert run.history[-1].step == "p"
        assert await sagas.resume_unfinished() == ()
        await sagas.abandon("w1")
        await until(lambda: _state(sagas, "w1", SagaState.COMPENSATED))
    assert desk.log[4:] == ["-p", "-a"]


async def test_timers_survive_restarts(store):
    """A sleep goes on where it was: it counts from its first intent, whoever waits it out."""
    desk = Desk()
    saga = Saga("work", [desk.step("a"), Step("nap", Sleep(0.2)), desk.step("z")])
    for _ in range(3):
        async with worker(store, saga) as sagas:
            if await sagas.get("w1") is None:
                await sagas.start("work", "w1")
            await until(lambda sagas=sagas: _asleep(sagas))
    async with worker(store, saga) as sagas:
        await sagas.resume_unfinished()
        run = await sagas.wait("w1")
    assert run.state is SagaState.COMPLETED
    assert desk.log == ["a", "z"]
    first = next(r for r in run.history if r.step == "nap")
    woke = next(r for r in run.history if r.step == "nap" and r.kind is RecordKind.DONE)
    assert woke.at - first.at >= timedelta(seconds=0.2)


async def _asleep(sagas) -> bool:
    await sagas.resume_unfinished()
    run = await sagas.get("w1")
    return run.over or any(r.step == "nap" for r in run.history)


async def test_child_sagas(store):
    """A child that completes gives its results; one that is compensated refuses the step."""
    desk = Desk()
    child = Saga("child", [desk.step("x"), desk.step("y")])
    sub = Child("child", lambda step: {"of": step.saga_id})
    parent = Saga("parent", [desk.step("a"), Step("sub", sub, desk.action("-sub"))])
    async with worker(store, child, parent, runs_max=1) as sagas:
        run = await sagas.execute("parent", "p1")
        assert run.results["sub"] == {"x": "X", "y": "Y"}
        assert (await sagas.get("p1.sub")).input == {"of": "p1"}
        desk.fail("y", StepRefused("no"))
        desk.log.clear()
        run = await sagas.execute("parent", "p2")
        assert run.state is SagaState.COMPENSATED
        assert desk.log == ["a", "x", "y", "-x", "-a"]


async def test_a_worker_that_closes_pauses_and_finishes_compensations(store):
    """A clean stop loses no attempt and cuts no compensation off; the next worker goes on."""
    desk = Desk()
    begun, gate, undoing = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang(step):
        begun.set()
        await gate.wait()

    async def undo(step):
        undoing.set()
        await asyncio.sleep(0.02)
        desk.log.append("-b")

    saga = Saga("work", [desk.step("a"), Step("h", hang, crashes_max=1), desk.step("z")])
    back = Saga("back", [Step("b", desk.action("b"), undo), desk.step("c")])
    desk.fail("c", StepRefused("no"))
    async with worker(store, saga, back) as sagas:
        await sagas.start("work", "w1")
        await sagas.start("back", "w2")
        await begun.wait()
        await undoing.wait()
    assert desk.log.count("-b") == 1
    gate.set()
    async with worker(store, saga, back) as sagas:
        await sagas.resume_unfinished()
        assert (await sagas.wait("w1")).state is SagaState.COMPLETED  # the pause was no crash
        assert (await sagas.wait("w2")).state is SagaState.COMPENSATED
    assert desk.log.count("-b") == 1


async def test_a_person_turns_a_running_saga_back(store):
    """`abandon` while a step runs: its result is kept, then everything is compensated."""
    desk, begun, gate = Desk(), asyncio.Event(), asyncio.Event()

    async def slow(step):
        begun.set()
        await gate.wait()
        return "done"

    saga = Saga("work", [desk.step("a"), Step("s", slow, desk.action("-s")), desk.step("z")])
    async with worker(store, saga) as sagas:
        await sagas.start("work", "w1")
        await begun.wait()
        await sagas.abandon("w1")
        gate.set()
        run = await sagas.wait("w1")
    assert run.state is SagaState.COMPENSATED
    assert run.results["s"] == "done"
    assert desk.log == ["a", "-s", "-a"]


async def test_a_client_starts_what_workers_drive(store):
    """Outside of `async with` a run is only begun; a worker elsewhere finds and drives it."""
    desk = Desk()
    client = Sagas(store, [desk.saga()])
    run = await client.start("work", "w1")
    assert (run.owner, run.history) == ("", ())
    async with worker(store, desk.saga(), recover_every_s=0.01):
        assert (await client.wait("w1")).state is SagaState.COMPLETED


async def test_what_is_no_result_is_a_failure(store):
    """A result that is not JSON, or too large, counts as one: the step is undone."""
    desk = Desk()
    for number, result in enumerate([{1, 2}, "x" * 20_000]):
        saga = Saga("work", [desk.step("a"), Step("b", lambda _, r=result: r, desk.action("-b"))])
        async with worker(store, saga) as sagas:
            run = await sagas.execute("work", f"w{number}")
        assert run.state is SagaState.COMPENSATED
    assert desk.log == ["a", "-b", "-a"] * 2


def test_definitions_that_cannot_work_are_refused():
    """The order of kinds, names and limits are checked where the saga is written."""
    desk = Desk()
    for steps in (
        [],
        [desk.step("a"), desk.step("a")],
        [desk.step("r", StepKind.RETRIABLE), desk.step("a")],
        [desk.step("p", StepKind.PIVOT), desk.step("q", StepKind.PIVOT)],
        [Step("r", desk.action("r"), desk.action("-r"), StepKind.RETRIABLE)],
        [desk.step("a/b")],
        [desk.step(str(n)) for n in range(33)],
    ):
        with pytest.raises(InvalidRequestError):
            Saga("work", steps)


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

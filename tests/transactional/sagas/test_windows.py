"""What may come between two commits of a worker, or while it closes."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.transactional.sagas.actions import QUICK, Actions, until, worker
from transactional import (
    AwaitSignal,
    Put,
    RefusedError,
    Saga,
    Sagas,
    SagaState,
    Step,
    StepKind,
    StepRefused,
    UnavailableError,
)
from transactional.sagas.driver import Driver

ASK = Saga("ask", [Step("wait", AwaitSignal("go"))])


class Slow:
    """A store whose commits that hold a text are made, and answered when the gate is open."""

    def __init__(self, store, text: bytes) -> None:
        self._store = store
        self._text = text
        self.made = asyncio.Event()
        self.gate = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None):
        done = await self._store.commit(compares, writes, otherwise, op_id=op_id)
        if not self.gate.is_set() and any(
            self._text in write.value for write in writes if isinstance(write, Put)
        ):
            self.made.set()
            await self.gate.wait()
        return done


async def test_a_start_that_finds_its_run_swallows_no_news_of_it(store, monkeypatch):
    """A signal comes while the run is begun a second time: it is heard, not a minute later."""
    begin, gate, held = Driver.begin, asyncio.Event(), asyncio.Event()

    async def slow(driver, compares, **options):
        if not driver.run.revision and await sagas.get("a"):
            held.set()
            await gate.wait()
        await begin(driver, compares, **options)

    async with worker(store, ASK, recover_every_s=60) as sagas:
        await sagas.start("ask", "a")
        await until(lambda: not sagas._driving)
        looked = []
        take_due = sagas._take_due

        async def counted():
            found = await take_due()
            looked.append(found)
            return found

        monkeypatch.setattr(sagas, "_take_due", counted)
        monkeypatch.setattr(Driver, "begin", slow)
        again = asyncio.create_task(sagas.start("ask", "a"))
        await held.wait()
        await Sagas(store, [ASK]).signal("a", "go", 1)
        await until(lambda: looked)  # the worker has looked, and passed the run over as its own
        gate.set()
        await again
        async with asyncio.timeout(20):
            assert (await sagas.wait("a")).results == {"wait": 1}


async def test_a_worker_that_closes_in_mid_record_loses_no_result(store):
    """The record is made and its answer on the way: the heir goes on behind it, and at once."""
    actions, slow = Actions(), Slow(store, b'"A"')
    saga = actions.saga("ab")
    async with worker(slow, saga, worker="first") as first:
        await first.start("work", "w")
        await slow.made.wait()
        closing = asyncio.create_task(first.close())
        await asyncio.sleep(0)
        slow.gate.set()
        await closing
        assert actions.log == ["a"]
        run = await first.get("w")
        assert run.owner == ""
        assert (
            run.history[-1].kind.value == "done"
        )  # b was not begun, and so is not counted as lost
        async with worker(store, saga, recover_every_s=60) as heir, asyncio.timeout(20):
            assert (await heir.wait("w")).state is SagaState.COMPLETED
    assert actions.log == ["a", "b"]


async def test_a_worker_that_closes_in_mid_start_leaves_the_run_to_others(store):
    """Its first commit is made and its answer on the way."""
    actions = Actions()
    slow = Slow(store, b'"work"')
    saga = actions.saga("a")
    first = Sagas(slow, [saga], worker="first")
    async with first:
        begun = asyncio.create_task(first.start("work", "w"))
        await slow.made.wait()
        begun.cancel()
        slow_close = asyncio.create_task(first.close())
        await asyncio.sleep(0)
        slow.gate.set()
        await asyncio.gather(begun, slow_close, return_exceptions=True)
    run = await first.get("w")
    assert (run.owner, run.history) == ("", ())  # no attempt was made, so none is counted
    async with worker(store, saga, recover_every_s=60) as heir, asyncio.timeout(20):
        assert (await heir.wait("w")).state is SagaState.COMPLETED


async def test_who_waits_for_a_run_outlives_the_worker_that_drove_it(store):
    """The worker closes; the waiter, who was not cancelled, hears from its heir."""
    gate = asyncio.Event()

    async def act(_):
        await gate.wait()
        return 1

    saga = Saga("slow", [Step("a", act)])
    async with worker(store, saga, worker="first") as first:
        await first.start("slow", "s")
        waiter = asyncio.create_task(first.wait("s"))
        await asyncio.sleep(0.01)
    gate.set()
    async with worker(store, saga), asyncio.timeout(20):
        assert (await waiter).state is SagaState.COMPLETED


async def test_one_run_that_cannot_be_read_holds_up_no_other(store, caplog):
    """Due, or with a worker that is gone: it is named in the log, and passed by."""
    layout = Sagas(store, [ASK]).layout
    for run_id, told in (("bad", layout.due("0" * 20, "bad")), ("aad", layout.owned("x", "aad"))):
        await store.commit([], [Put(layout.open(run_id), b"{}"), Put(told, b"")])
    quick = Saga("quick", [Step("a", lambda _: 1)])
    with caplog.at_level(logging.ERROR, logger="transactional"):
        async with worker(store, quick) as sagas, asyncio.timeout(20):
            await Sagas(store, [quick]).start("quick", "q")
            assert (await sagas.wait("q")).state is SagaState.COMPLETED
            await sagas.resume_unfinished()
            assert not any(task.done() for task in sagas._duties)
    assert "cannot read saga bad" in caplog.text
    assert "cannot read saga aad" in caplog.text


async def test_a_refusal_after_an_attempt_in_doubt_does_not_say_that_nothing_happened(store):
    """The card was charged, the answer lost; "the room is taken" then is by ourselves, perhaps."""
    actions = Actions()
    for answer, state in (
        (RefusedError("the room is taken"), SagaState.STUCK),
        (StepRefused("it never happened"), SagaState.COMPENSATED),
    ):
        errors = [OSError("cut"), answer]

        def charge(_, errors=errors):
            raise errors.pop(0)

        pivot = Step("charge", charge, kind=StepKind.PIVOT, retry=QUICK)
        async with worker(store, Saga("order", [actions.step("reserve"), pivot])) as sagas:
            assert (await sagas.execute("order", f"o {state}")).state is state


async def test_a_lease_without_its_key_is_not_taken_for_one(store):
    """The store goes away between the two: the next renewal begins anew."""
    sagas = Sagas(store, [ASK])
    async with sagas:
        old = sagas._lease
        await store.revoke(old.id)

        class Away:
            def __getattr__(self, name):
                return getattr(store, name)

            async def commit(self, *_, **__):
                raise UnavailableError("away")

        sagas.store = Away()
        with pytest.raises(UnavailableError):
            await sagas._register()
        sagas.store = store
        assert sagas._lease is old
        await sagas._register()
        assert await store.get(sagas.layout.worker(sagas.name)) is not None

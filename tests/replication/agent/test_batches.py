"""A batch of an agent belongs to one task, and is over before anything else runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import sys

import pytest

from crdt import BatchInterruptedError, BatchOpenError, BatchTooLargeError, ORSet
from replication import Agent, AwaitedBatchError, BlockingAgent, Version
from replication.journal.memory import MemoryJournal
from replication.testing import local_agents


async def test_a_plain_function_is_one_batch_and_its_result_comes_back():
    """Whole or not at all; with what it raised, as it was raised."""
    async with local_agents("ada") as (ada,):

        def write(amount: int) -> int:
            ada.counter("n").increment(amount)
            ada.register("last").set(amount)
            return amount

        watch = ada.watch()
        assert ada.batch(functools.partial(write, 3)) == 3
        event = await asyncio.wait_for(anext(watch), 10)
        assert {document.name for document in event.documents} == {"n", "last"}

        def fail() -> None:
            write(4)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            ada.batch(fail)
        assert (ada.counter("n").value, ada.register("last").value) == (3, 3)
        with pytest.raises(BatchTooLargeError):
            ada.batch(lambda: ada.register("last").set(os.urandom(ada.config.batch_bytes_max)))
        assert ada.register("last").value == 3


@pytest.mark.parametrize("how", ["async def", "partial", "coroutine", "task", "generator"])
async def test_a_function_whose_work_goes_on_later_is_refused_and_nothing_of_it_kept(how):
    """What it awaits or yields would be outside of the batch; no coroutine is left unawaited."""
    async with local_agents("ada") as (ada,):
        later: list[asyncio.Task[None]] = []

        async def write() -> None:
            ada.counter("n").increment(1)

        def begun():
            ada.counter("n").increment(1)
            return write()

        def started():
            ada.counter("n").increment(1)
            later.append(asyncio.create_task(asyncio.sleep(0)))
            return later[0]

        def steps():
            ada.counter("n").increment(1)
            yield

        action = {
            "async def": write,
            "partial": functools.partial(write),
            "coroutine": begun,
            "task": started,
            "generator": steps,
        }[how]
        with pytest.raises(AwaitedBatchError, match="not a plain function") as caught:
            ada.batch(action)
        assert isinstance(caught.value, TypeError)
        assert ada.counter("n").value == 0
        assert ada.version().vector == {}
        await asyncio.gather(*later)


async def test_what_another_task_wrote_and_was_told_is_durable_is_not_rolled_back():
    """The other task's write used to join the batch, and to vanish with it."""
    journal = MemoryJournal()
    async with Agent("ada", listen="", journal=journal) as ada:
        inside, done = asyncio.Event(), asyncio.Event()

        async def plans() -> None:
            with ada.batch():
                ada.register("plan").set("draft")
                inside.set()
                await done.wait()
                raise RuntimeError("refused")

        async def works() -> None:
            await inside.wait()
            ada.counter("done").increment(1)
            await ada.durable()
            done.set()

        results = await asyncio.gather(plans(), works(), return_exceptions=True)
        assert isinstance(results[0], RuntimeError)
        assert "rolled back" in results[0].__notes__[0]
        assert results[1] is None
        token = ada.version()
        assert ada.counter("done").value == 1
        assert ada.register("plan").value is None
    async with Agent("ada", listen="", journal=journal) as ada:
        assert ada.counter("done").value == 1
        assert token <= ada.version()


@pytest.mark.parametrize("order", ["ready before", "ready after", "the loop alone"])
async def test_whoever_runs_while_a_block_is_suspended_sees_nothing_of_it(order):
    """A task that was ready before the batch began runs first of all; the agent's loop counts."""
    async with local_agents("ada") as (ada,):
        seen: list[object] = []

        async def looks() -> None:
            seen.append(ada.register("plan").value)

        others = [asyncio.create_task(looks())] if order == "ready before" else []

        async def holds() -> None:
            with ada.batch():
                ada.register("plan").set("draft")
                if order == "ready after":
                    others.append(asyncio.create_task(looks()))
                ada._runtime.call(lambda _: ada._runtime.replica.flush(0.0))
                await asyncio.sleep(0.05)

        with pytest.raises(BatchInterruptedError, match="held over a suspension"):
            await holds()
        await asyncio.gather(*others)
        assert seen == [None] * len(others)
        assert ada.register("plan").value is None
        ada.register("plan").set("later")
        await ada.durable()


async def test_overlapping_blocks_of_two_tasks_do_not_become_one():
    """Neither is kept, whether or not the other one fails: both were held over a suspension."""
    async with local_agents("ada") as (ada,):

        async def one(number: int, pause_s: float, *, fails: bool) -> None:
            with ada.batch():
                ada.register(f"r{number}").set(number)
                await asyncio.sleep(pause_s)
                if fails:
                    raise ValueError(number)

        for fails in ((False, True), (True, False), (False, False)):
            pair = (one(0, 0.01, fails=fails[0]), one(1, 0.02, fails=fails[1]))
            results = await asyncio.gather(*pair, return_exceptions=True)
            wanted = [ValueError if fail else BatchInterruptedError for fail in fails]
            assert [type(result) for result in results] == wanted
            assert [ada.register(f"r{number}").value for number in (0, 1)] == [None, None]


async def test_a_block_that_nobody_came_across_is_not_lucky():
    """It is refused each time, not only under load: an author sees it in the first test."""
    async with local_agents("ada") as (ada,):

        async def holds() -> None:
            with ada.batch():
                ada.counter("n").increment(1)
                await asyncio.sleep(0)

        for _ in range(20):
            with pytest.raises(BatchInterruptedError):
                await holds()
        assert ada.counter("n").value == 0


async def test_an_await_that_does_not_suspend_is_no_harm():
    """A coroutine that runs to its end at once is a plain call with another spelling."""
    async with local_agents("ada") as (ada,):

        async def write() -> None:
            ada.counter("n").increment(1)

        with ada.batch():
            await write()
            await write()
        assert ada.counter("n").value == 2


WAITS = {
    "durable": lambda ada: ada.durable(),
    "replicated": lambda ada: ada.replicated(Version({}), 1),
    "stable": lambda ada: ada.stable(Version({})),
    "seen": lambda ada: ada.seen(Version({"x~1": 1})),
    "read": lambda ada: ada.read("n", ORSet, at_least=Version({"x~1": 1})),
    "watch": lambda ada: anext(ada.watch()),
    "decrement": lambda ada: ada.bounded("seats").decrement(0),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_no_wait_is_begun_inside_of_a_batch(wait):
    """It would be for what follows the batch, and never end; after the error the block goes on."""
    async with local_agents("ada") as (ada,):
        with ada.batch():
            ada.counter("n").increment(1)
            with pytest.raises(BatchOpenError):
                await WAITS[wait](ada)
            ada.counter("n").increment(1)
        assert ada.counter("n").value == 2
        await ada.durable()


@pytest.mark.parametrize("wait", [name for name in WAITS if name != "watch"])
async def test_a_wait_of_another_task_is_not_held_up_by_a_suspended_block(wait):
    """It rolls the block back, like any other use."""
    async with local_agents("ada") as (ada,):
        ada.bounded("seats").increment(5)

        async def holds() -> None:
            with ada.batch():
                ada.counter("n").increment(1)
                await asyncio.Event().wait()

        holder = asyncio.create_task(holds())
        await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await WAITS[wait](ada)
        assert not ada.kernel.in_batch
        assert ada.counter("n").value == 0
        holder.cancel()
        await asyncio.wait([holder])


async def test_a_body_that_is_cancelled_or_never_resumed_leaves_nothing():
    """No half batch, no hold on anybody; and its task is not kept alive."""
    async with local_agents("ada") as (ada,):

        async def holds() -> None:
            with ada.batch():
                ada.counter("n").increment(1)
                await asyncio.get_running_loop().create_future()

        cancelled = asyncio.create_task(holds())
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        body = holds()
        body.send(None)  # by hand, as a task that nobody resumes: its own would warn
        ada.counter("n").increment(1)
        del body
        gc.collect()
        ada.counter("n").increment(1)
        assert ada.counter("n").value <= 2
        await ada.durable()
        again = asyncio.create_task(holds())
        await asyncio.sleep(0)
        ada.counter("m").increment(1)
        await ada.durable()
        assert ada.counter("m").value == 1
        again.cancel()
        await asyncio.wait([again])
        assert not ada.kernel.in_batch


async def test_an_asynchronous_generator_cannot_hold_a_batch_over_its_yields():
    """Its consumer awaits in between, and the agent's loop runs."""
    async with local_agents("ada") as (ada,):

        async def steps():
            with ada.batch():
                for number in range(3):
                    ada.orset("steps").add(number)
                    yield number

        async def consumes() -> None:
            async with contextlib.aclosing(steps()) as each:
                async for _ in each:
                    ada.counter("other").increment(1)
                    await asyncio.sleep(0.01)

        with pytest.raises(BatchInterruptedError):
            await consumes()
        assert set(ada.orset("steps")) == set()


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks: Python 3.12 and later, this is older"
)
async def test_a_task_that_starts_eagerly_inside_of_a_block_is_somebody_else():
    """It runs before anything is suspended, and must not join the batch."""
    async with local_agents("ada") as (ada,):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        async def works() -> None:
            ada.counter("done").increment(1)

        tasks = []

        def holds() -> None:
            with ada.batch():
                ada.register("plan").set("draft")
                tasks.append(asyncio.create_task(works()))

        with pytest.raises(BatchInterruptedError):
            holds()
        await tasks[0]
        assert ada.register("plan").value is None
        assert ada.counter("done").value == 1
        asyncio.get_running_loop().set_task_factory(None)


async def test_the_batch_of_a_callback_is_not_that_of_a_task():
    """A callback runs between tasks, and is whole or not at all like anybody."""
    async with local_agents("ada") as (ada,):
        done = asyncio.Event()

        def calls() -> None:
            with ada.batch():
                ada.counter("n").increment(1)
                ada.counter("m").increment(1)
            done.set()

        async def holds() -> None:
            with ada.batch():
                ada.register("plan").set("draft")
                asyncio.get_running_loop().call_soon(calls)
                await done.wait()

        with pytest.raises(BatchInterruptedError):
            await holds()
        assert (ada.counter("n").value, ada.counter("m").value) == (1, 1)
        assert ada.register("plan").value is None


def test_the_twins_function_is_refused_the_same_way():
    """One rule for both: the twin's batch is the agent's."""
    with BlockingAgent("ada", listen="") as ada:

        async def later() -> None:
            return

        with pytest.raises(AwaitedBatchError):
            ada.batch(lambda agent: (agent.counter("n").increment(1), later())[1])
        assert ada.counter("n").value == 0


def test_another_event_loop_keeps_the_rules():
    """Of uvloop: it runs tasks as asyncio does: the same owner, the same refusals."""
    uvloop = pytest.importorskip("uvloop", reason="the rules of batches on uvloop were NOT tried")

    async def lives() -> None:
        async with Agent("ada") as ada, Agent("bob", peers=[ada.address]) as bob:

            async def holds() -> None:
                with ada.batch():
                    ada.register("plan").set("draft")
                    await asyncio.sleep(0)

            with pytest.raises(BatchInterruptedError):
                await holds()
            ada.batch(lambda: ada.counter("n").increment(1))
            await bob.seen(ada.version(), timeout_s=10)
            assert bob.counter("n").value == 1
            with pytest.raises(Exception, match="another thread"):
                await asyncio.to_thread(ada.counter, "n")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(lives())

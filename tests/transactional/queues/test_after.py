"""Jobs that wait for others."""

from __future__ import annotations

import asyncio
import random

import pytest

import transactional as t
from tests.scale import rounds
from tests.transactional.queues.test_put import claimed
from transactional import DependencyCycleError, JobState, JobStateError, UnknownJobError, WorkQueue


async def states(queue: WorkQueue, *jobs: str) -> list[str]:
    found = [await queue.get(job) for job in jobs]
    return [told.state.value for told in found if told is not None]


async def settled(queue: WorkQueue) -> None:
    """Wait until everybody was told of every end."""
    while (await queue._store.scan(queue._layout.all_told)).items:  # noqa: ASYNC110 of this process
        await asyncio.sleep(0.005)


async def test_a_chain_of_a_thousand_is_done_in_order(store: t.Store) -> None:
    """[agents 3] Each waits for the one before."""
    queue = WorkQueue(store, "q")
    await queue.put("j0")
    length = rounds(1000, 100)
    for n in range(1, length):
        await queue.put(f"j{n}", after=[f"j{n - 1}"])
    order: list[str] = []
    while jobs := await queue.claim("ann", wait_s=0.5):
        order += [job.id for job in jobs]
        await jobs[0].done()
    assert order == [f"j{n}" for n in range(length)]
    await queue.close()


async def test_a_diamond(store: t.Store) -> None:
    """[agents 3] The last waits for both sides."""
    queue = WorkQueue(store, "q")
    await queue.put("top")
    await queue.put("left", after=["top"])
    await queue.put("right", after=["top"])
    told = await queue.put("bottom", after=["left", "right", "left"])
    assert told.missing == ("left", "right")
    (job,) = await queue.claim("ann")
    assert await queue.claim("ann") == []
    await job.done()
    sides = await queue.claim("ann", n=5)
    assert sorted(job.id for job in sides) == ["left", "right"]
    await sides[0].done()
    assert await queue.claim("ann") == []
    await sides[1].done()
    assert await claimed(queue) == ["bottom"]


async def test_more_followers_than_one_commit_can_tell(store: t.Store) -> None:
    """A thousand in soak; here enough for several commits, and each becomes ready once."""
    queue = WorkQueue(store, "q")
    await queue.put("head")
    await asyncio.gather(*(queue.put(f"f{n}", after=["head"]) for n in range(130)))
    (job,) = await queue.claim("ann")
    await job.done()
    assert len(await claimed(queue, 1000)) == 130
    await settled(queue)
    assert not (await store.scan("queue/q/waits/")).items
    await queue.close()


async def test_who_was_not_told_in_time_is_told_by_the_next_claim(store: t.Store) -> None:
    """The process that ended the job died before it told anybody."""
    queue = WorkQueue(store, "q")
    await queue.put("head")
    await asyncio.gather(*(queue.put(f"f{n}", after=["head"]) for n in range(60)))
    (job,) = await queue.claim("ann")
    queue._tell = _nothing  # type: ignore[method-assign]
    await job.done()
    other = WorkQueue(store, "q")
    assert len(await claimed(other, 1000)) == 60
    await queue.close()
    await other.close()


async def _nothing(_: str) -> None:
    """Tell nobody."""


async def test_an_unknown_predecessor_is_refused_unless_expected(store: t.Store) -> None:
    """Expected, it is waited for, whenever it comes."""
    queue = WorkQueue(store, "q")
    with pytest.raises(UnknownJobError):
        await queue.put("b", after=["a"])
    assert await queue.get("b") is None
    assert (await queue.put("b", after=["a"], expected=True)).state is JobState.WAITING
    await queue.put("a")
    assert await claimed(queue) == ["a"]
    await settled(queue)
    assert await claimed(queue) == ["b"]
    await queue.close()


@pytest.mark.parametrize("length", [1, 2, 3, 7])
async def test_a_circle_is_refused_by_whoever_closes_it(store: t.Store, length: int) -> None:
    """[agents 3] Named; what was put before stands."""
    queue = WorkQueue(store, "q")
    for n in range(length - 1):
        await queue.put(f"j{n}", after=[f"j{n + 1}"], expected=True)
    with pytest.raises(DependencyCycleError) as caught:
        await queue.put(f"j{length - 1}", after=["j0"], expected=True)
    assert sorted(set(caught.value.circle)) == [f"j{n}" for n in range(length)]
    assert await queue.get(f"j{length - 1}") is None
    await queue.put(f"j{length - 1}")
    assert (await queue.depths())[JobState.WAITING].count == length - 1


async def test_puts_at_once_cannot_close_a_circle_behind_each_other_s_back(
    store: t.Store,
) -> None:
    """Two puts of two clients, each fine alone: one of them is told."""
    queues = [WorkQueue(store, "q") for _ in range(2)]
    await queues[0].put("a", after=["x"], expected=True)
    await queues[0].put("b", after=["y"], expected=True)
    outcomes = await asyncio.gather(
        queues[0].put("x", after=["b"], expected=True),
        queues[1].put("y", after=["a"], expected=True),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, DependencyCycleError) for outcome in outcomes) == 1


async def test_random_graphs_never_stand_still(store: t.Store) -> None:
    """Put in any order, with later ones expected: what was accepted is all done, in order."""
    for seed in range(3):
        dice = random.Random(seed)
        queue = WorkQueue(store, f"q{seed}")
        after: dict[str, list[str]] = {}
        for n in dice.sample(range(20), 20):
            wanted = [f"j{dice.randrange(20)}" for _ in range(dice.randrange(3))]
            try:
                await queue.put(f"j{n}", after=wanted, expected=True)
            except DependencyCycleError:
                await queue.put(f"j{n}")
                wanted = []
            after[f"j{n}"] = wanted
        order: list[str] = []
        while jobs := await queue.claim("ann", n=dice.randint(1, 3), wait_s=0.3):
            for job in jobs:
                assert set(after[job.id]) <= set(order)
                await job.done()
                order.append(job.id)
        assert sorted(order) == sorted(after), f"seed {seed}"
        await queue.close()


@pytest.mark.parametrize("how", ["fail", "cancel"])
async def test_who_waits_for_a_parked_job_is_parked_and_told_why(store: t.Store, how: str) -> None:
    """[agents 3] All the way down; and so is who comes later."""
    queue = WorkQueue(store, "q")
    await queue.put("a")
    await queue.put("b", after=["a"])
    await queue.put("c", after=["b"])
    if how == "fail":
        (job,) = await queue.claim("ann")
        await job.fail("broken")
    else:
        await queue.cancel("a")
    await settled(queue)
    assert await states(queue, "b", "c") == ["parked", "parked"]
    told = await queue.get("b")
    assert told is not None
    assert told.error.startswith("'a', which it waits for, is ")
    assert (await queue.put("d", after=["c"])).state is JobState.PARKED
    with pytest.raises(JobStateError):
        await queue.requeue("b")
    await queue.requeue("a")
    await queue.requeue("b")
    assert await claimed(queue) == ["a"]
    await settled(queue)
    assert await claimed(queue) == ["b"]
    await queue.close()


async def test_skipping_a_parked_job_lets_its_followers_go_on(store: t.Store) -> None:
    """Those who come after it; those who were parked because of it are requeued by hand."""
    queue = WorkQueue(store, "q")
    await queue.put("a")
    await queue.put("b", after=["a"])
    (job,) = await queue.claim("ann")
    await job.fail("broken")
    await settled(queue)
    assert (await queue.skip("a", {"by": "hand"})).result == {"by": "hand"}
    assert (await queue.requeue("b")).state is JobState.READY
    assert (await queue.put("c", after=["a"])).state is JobState.READY
    assert await claimed(queue) == ["b", "c"]
    await queue.close()


async def test_cancelling_takes_a_job_out_from_wherever_it_is(store: t.Store) -> None:
    """Waiting, ready, claimed; not done."""
    queue = WorkQueue(store, "q")
    for job in ("ready", "busy", "done", "head"):
        await queue.put(job, priority=1 if job != "ready" else 0)
    await queue.put("waiting", after=["head"])
    jobs = {job.id: job for job in await queue.claim("ann", n=3)}
    await jobs["done"].done()
    for job in ("ready", "busy", "waiting"):
        told = await queue.cancel(job, "not needed")
        assert (told.state, told.error) == (JobState.CANCELLED, "not needed")
        assert (await queue.cancel(job)).error == "not needed"
    with pytest.raises(JobStateError):
        await queue.cancel("done")
    with pytest.raises(UnknownJobError):
        await queue.cancel("nothing")
    with pytest.raises(t.ClaimLostError):
        await jobs["busy"].done()
    await jobs["head"].done()
    assert await claimed(queue) == []
    assert (await queue.requeue("waiting")).state is JobState.READY
    assert await claimed(queue) == ["waiting"]
    await queue.close()


async def test_followers_that_wait_for_many_others_are_told_too(store: t.Store) -> None:
    """Each takes forty writes to be parked, so a commit holds two or three of them."""
    queue = WorkQueue(store, "q")
    for n in range(5):
        others = [f"x{n}-{m}" for m in range(39)]
        await queue.put(f"f{n}", after=["p", *others], expected=True)
    await queue.put("p")
    await queue.cancel("p")
    async with asyncio.timeout(10):
        await settled(queue)
    assert await states(queue, *(f"f{n}" for n in range(5))) == ["parked"] * 5
    assert await queue.claim("ann") == []

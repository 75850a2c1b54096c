"""Lanes: how many jobs of one kind run at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.transactional.queues.test_put import claimed, pass_time
from transactional import JobState, WorkQueue

if TYPE_CHECKING:
    from tests.transactional.conftest import HandClock
    from tests.transactional.engines import Engine


async def test_a_lane_of_one_never_runs_two(engine: Engine) -> None:
    """[agents 4] Whoever claims, from however many clients, whatever becomes of the jobs."""
    queues = [WorkQueue(await engine.client(), "q", lanes={"one": 1, "*": 2}) for _ in range(3)]
    dice = random.Random(7)
    lanes = ["one", "two", "three", None]
    for n in range(60):
        await queues[n % 3].put(f"j{n}", lane=lanes[n % 4], priority=dice.randrange(3))
    running: Counter[str] = Counter()
    ended: list[str] = []

    async def work(queue: WorkQueue, name: str) -> None:
        while jobs := await queue.claim(name, wait_s=0.3):
            (job,) = jobs
            lane = job.lane or ""
            running[lane] += 1
            assert running[lane] <= {"one": 1, "": 99}.get(lane, 2)
            await asyncio.sleep(0.002 * dice.random())
            running[lane] -= 1
            if dice.random() < 0.2 and job.attempt < 4:
                await dice.choice([job.retry, job.release])()
            else:
                await job.done()
                ended.append(job.id)

    await asyncio.gather(*(work(queue, f"w{n}") for n in range(3) for queue in queues))
    assert sorted(ended) == sorted(f"j{n}" for n in range(60))
    assert not (await queues[0]._store.scan("queue/q/lane/")).items
    for queue in queues:
        await queue.close()


async def test_a_full_lane_does_not_stand_in_the_way(store: t.Store) -> None:
    """Its jobs come first by priority, and others are claimed past them without a look at them."""
    queue = WorkQueue(store, "q", lanes={"acme": 1})
    for n in range(5):
        await queue.put(f"acme{n}", lane="acme", priority=9)
        await queue.put(f"free{n}")
    (first,) = await queue.claim("ann")
    assert first.id == "acme0"
    (second,) = await queue.claim("ann")
    assert second.id == "free0"
    await first.done()
    (third,) = await queue.claim("ann")
    assert third.id == "acme1"


async def test_a_more_urgent_job_takes_the_place_of_one_that_nobody_has_claimed(
    store: t.Store,
) -> None:
    """Order within a lane is that of the queue; what runs is not stopped."""
    queue = WorkQueue(store, "q", lanes={"acme": 1})
    await queue.put("low", lane="acme")
    await queue.put("high", lane="acme", priority=1)
    await queue.put("highest", lane="acme", priority=2)
    (job,) = await queue.claim("ann")
    assert job.id == "highest"
    await queue.put("urgent", lane="acme", priority=3)
    assert await queue.claim("ann") == []
    await job.done()
    assert await claimed(queue) == ["urgent"]
    assert await claimed(queue) == ["high"]
    assert await claimed(queue) == ["low"]


async def test_the_place_of_a_dead_worker_goes_with_the_job(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """And comes back if the job is parked for it."""
    queue = WorkQueue(timed_store, "q", lanes={"acme": 1}, attempts_max=2)
    await queue.put("a", lane="acme")
    await queue.put("b", lane="acme")
    for attempt in (1, 2):
        (job,) = await queue.claim("ann", lease_s=5)
        assert (job.id, job.attempt) == ("a", attempt)
        assert await queue.claim("ann", lease_s=5) == []
        await pass_time(timed_store, hand_clock, 6)
    (job,) = await queue.claim("ann", lease_s=5)
    assert job.id == "b"


async def test_a_lane_s_place_is_free_after_every_end(store: t.Store) -> None:
    """Done, failed, cancelled while ready, queued or claimed."""
    queue = WorkQueue(store, "q", lanes={"acme": 1})
    for n in range(6):
        await queue.put(f"j{n}", lane="acme")
    (job,) = await queue.claim("ann")
    await job.fail("broken")
    (job,) = await queue.claim("ann")
    await queue.cancel(job.id)  # claimed
    await queue.cancel("j2")  # ready
    await queue.cancel("j4")  # queued
    assert await claimed(queue) == ["j3"]
    assert await claimed(queue) == ["j5"]
    assert not (await store.scan("queue/q/lane/")).items
    assert (await queue.depths())[JobState.READY].count == 0


async def test_what_all_agree_on_lies_in_the_store(engine: Engine) -> None:
    """Who says nothing follows; who says otherwise changes it for all; a raised limit fills up."""
    first = WorkQueue(await engine.client(), "q", lanes={"acme": 1}, attempts_max=2)
    for n in range(5):
        await first.put(f"j{n}", lane="acme")
    other = WorkQueue(await engine.client(), "q")
    (job,) = await other.claim("ann")
    assert await other.claim("ann") == []
    third = WorkQueue(await engine.client(), "q", lanes={"acme": 3})
    await third.put("later")
    await job.done()
    assert len(await first.claim("bob", n=9)) == 4  # three of the lane, and `later`
    config = await WorkQueue(await engine.client(), "q").config()
    assert (dict(config.lanes), config.attempts_max) == ({"acme": 3}, 2)
    for queue in (first, other, third):
        await queue.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"lanes": {"a": 0}},
        {"lanes": {"a": 1.5}},
        {"lanes": {"": 1}},
        {"attempts_max": 0},
        {"attempts_max": True},
        {"keep_ended_s": -1},
        {"keep_ended_s": float("nan")},
        {"keep_ended_s": "x"},
        {"lanes": [1]},
        {"name": ""},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
async def test_rules_that_make_no_sense_are_refused(
    store: t.Store, arguments: dict[str, object]
) -> None:
    """At once, where they are given."""
    with pytest.raises(t.InvalidRequestError):
        WorkQueue(store, **({"name": "q"} | arguments))  # type: ignore[arg-type]


async def test_many_whose_time_has_come_take_the_places_of_others(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """Each takes six writes to be ready, so a commit does not hold all of them."""
    queue = WorkQueue(timed_store, "q", lanes={"*": 1})
    at = await timed_store.now()
    await queue.put("first", not_before=at + timedelta(seconds=1))
    for n in range(21):
        lane = f"l{n}"
        await queue.put(f"late{n}", lane=lane, priority=1, not_before=at + timedelta(seconds=2))
        await queue.put(f"soon{n}", lane=lane)
    await pass_time(timed_store, hand_clock, 3.0)
    names = [job.id for job in await queue.claim("ann", n=30)]
    assert names == [*(f"late{n}" for n in range(21)), "first"]


async def test_a_raised_limit_leaves_room_for_what_comes_with_an_end(store: t.Store) -> None:
    """Whoever leaves makes as many ready as his commit holds, the next does the rest."""
    queue = WorkQueue(store, "q", lanes={"a": 1})
    for n in range(40):
        await queue.put(f"j{n}", lane="a")
    (job,) = await queue.claim("ann")
    queue = WorkQueue(store, "q", lanes={"a": 30})
    job = await queue.resume(job.id, job.token)
    await job.done(writes=[t.Put(f"w/{n}", b"") for n in range(110)])
    jobs = await queue.claim("ann", n=30)
    assert jobs, "the next of the lane"
    await jobs[0].done()
    jobs += await queue.claim("ann", n=30)
    assert len(jobs) > 20

"""What a job costs: store calls and rows, counted; and what sharing the head does to the order."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import transactional as t
from tests.transactional.conftest import HandClock
from transactional import WorkQueue
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.transactional.engines import Engine


class Counting:
    """A store of another process: it counts what it is asked, and answers after a while."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def _asked(self, what: str, answer: Any) -> Any:
        self.calls[what] += 1
        for _ in range(5):
            await asyncio.sleep(0)
        try:
            found = await answer
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
        self.rows += len(getattr(found, "items", ()))
        return found

    async def get(self, key: str) -> Any:
        return await self._asked("get", self._store.get(key))

    async def get_many(self, keys: Sequence[str]) -> Any:
        return await self._asked("get_many", self._store.get_many(keys))

    async def scan(self, prefix: str, **how: Any) -> Any:
        return await self._asked("scan", self._store.scan(prefix, **how))

    async def commit(self, compares: Any, writes: Any, *rest: Any, **how: Any) -> Any:
        return await self._asked("commit", self._store.commit(compares, writes, *rest, **how))


async def work_off(queue: WorkQueue, workers: int) -> int:
    """Claim and end jobs until there is none; how many."""
    done = 0

    async def work(name: str) -> None:
        nonlocal done
        while jobs := await queue.claim(name):
            for job in jobs:
                await job.done()
                done += 1

    await asyncio.gather(*(work(f"w{n}") for n in range(workers)))
    return done


async def costs(jobs: int, processes: int, workers: int) -> tuple[Counter[str], int]:
    """Calls and rows read, of so many processes of so many workers who end so many jobs."""
    base = MemoryStore(clock=HandClock().clock())  # time stands still, so nothing is done for it
    stores = [Counting(base) for _ in range(processes)]
    queues = [WorkQueue(store, "q") for store in stores]
    await asyncio.gather(*(queues[0].put(f"j{n}", n) for n in range(jobs)))
    for store in stores:
        store.calls.clear()
        store.rows = 0
    assert sum(await asyncio.gather(*(work_off(queue, workers) for queue in queues))) == jobs
    for queue in queues:
        await queue.close()
    await base.close()
    return sum((store.calls for store in stores), Counter()), sum(store.rows for store in stores)


async def test_workers_of_one_process_share_all_they_ask() -> None:
    """64 workers: five writes a job, 128 to a commit, and one look for all who claim in it."""
    jobs = 1280
    calls, rows = await costs(jobs, 1, 64)
    assert calls["commit"] <= 1.2 * jobs * 5 / 128
    assert calls.total() <= 0.25 * jobs
    assert rows <= 6 * jobs


async def test_processes_that_meet_look_once_for_many_jobs() -> None:
    """8 processes of 8 workers: half a request a job, of which a commit for four; twelve rows."""
    jobs = 2000
    calls, rows = await costs(jobs, 8, 8)
    assert calls["commit"] <= 0.35 * jobs
    assert calls.total() - calls["commit"] <= 0.5 * jobs
    assert rows <= 24 * jobs  # by how the tasks take turns; without sharing 27 and more


async def test_a_lone_worker_looks_and_commits() -> None:
    """One worker: two commits a job, and three reads for the claim, whatever lies behind it."""
    jobs = 40
    calls, rows = await costs(jobs, 1, 1)
    assert calls["commit"] <= 2.2 * jobs
    assert calls.total() <= 5.5 * jobs
    assert rows <= 4 * jobs


@pytest.mark.parametrize("lane", [None, "full"])
async def test_a_claim_costs_the_same_however_many_wait(lane: str | None) -> None:
    """Ten wait, or a thousand, or as many of a lane that is full: as many calls and rows."""
    asked = []
    for waiting in (10, 1000):
        base = MemoryStore(clock=HandClock().clock())
        store = Counting(base)
        queue = WorkQueue(store, "q", lanes={"full": 1})
        await queue.put("first", lane="full", priority=9)
        held = await queue.claim("bob")
        await asyncio.gather(*(queue.put(f"w{n}", lane=lane, priority=5) for n in range(waiting)))
        await asyncio.gather(*(queue.put(f"j{n}") for n in range(10)))
        store.calls.clear()
        store.rows = 0
        jobs = [job for _ in range(5) for job in await queue.claim("ann")]
        asked.append((store.calls.total(), store.rows))
        assert [job.id for job in jobs] == [f"{'j' if lane else 'w'}{n}" for n in range(5)]
        assert [job.id for job in held] == ["first"]
        await queue.close()
        await base.close()
    assert asked[0] == asked[1]


@asynccontextmanager
async def shared(jobs: int) -> AsyncIterator[tuple[WorkQueue, WorkQueue, WorkQueue, HandClock]]:
    """Two processes that met at the head of a queue of so many jobs, and one that only puts."""
    clock = HandClock()
    store = MemoryStore(clock=clock.clock())
    one, other, third = (WorkQueue(store, "q") for _ in range(3))
    for n in range(jobs):
        await third.put(f"j{n:03d}")
    held: list[t.Job] = []
    for queue in (one, other):
        queue._crowded = True
        held += await queue.claim("ann", lease_s=3600)
    assert len(held) == 2
    clock.forward(1)  # each learns of the other
    yield one, other, third, clock
    assert all(not job.lost.is_set() for job in held)  # they are held till then
    for queue in (one, other, third):
        await queue.close()
    await store.close()


async def busily(queue: WorkQueue) -> list[t.Job]:
    """Claim so many that the process looks ahead, and has more jobs in sight than it claimed."""
    jobs = [job for n in (16, 1) for job in await queue.claim("ann", n=n, lease_s=3600)]
    assert len(jobs) == 17
    assert queue._kept is not None
    assert len(queue._kept.ready) > 8
    return jobs


async def test_who_shares_the_head_sees_what_is_urgent_within_a_second() -> None:
    """It is put by a third one: from the next second on whose it is takes it first."""
    async with shared(200) as (one, other, third, clock):
        held = await busily(one) + await busily(other)
        await third.put("urgent", priority=9)
        at_once = [(await queue.claim("ann", lease_s=3600))[0] for queue in (one, other)]
        assert "urgent" not in {job.id for job in at_once}
        clock.forward(1)
        later = [(await queue.claim("ann", lease_s=3600))[0] for queue in (one, other)]
        assert "urgent" in {job.id for job in later}
        assert len(held) == 34


async def test_who_puts_what_is_urgent_has_it_in_sight() -> None:
    """A process that shares the head does not need a second to see what it put itself."""
    async with shared(200) as (one, _, _, _):
        held = await busily(one)
        for n in range(8):  # by their ids some of them are of its own share
            await one.put(f"urgent{n}", priority=9)
        (job,) = await one.claim("ann", lease_s=3600)
        assert job.id.startswith("urgent")
        assert len(held) == 17


async def test_no_job_waits_long_for_one_who_is_busy() -> None:
    """Half of them fall to one who works on something long: another has them seconds later."""
    async with shared(400) as (_, other, third, clock):
        for n in range(6):
            await third.put(f"urgent{n}", priority=9)
        claimed: list[t.Job] = []
        for _ in range(12):
            clock.forward(1)
            claimed += await other.claim("ann", n=2, lease_s=3600)
        assert {f"urgent{n}" for n in range(6)} <= {job.id for job in claimed}


async def test_nothing_is_missed_by_who_does_not_look() -> None:
    """What is in sight is used up, taken by others, or put later: a claim still finds the rest."""
    async with shared(30) as (one, other, third, _):
        claimed: list[t.Job] = []
        while jobs := await one.claim("ann", n=3, lease_s=3600):
            claimed += jobs
            claimed += await other.claim("bob", n=2, lease_s=3600)
            if len(claimed) < 20:
                await third.put(f"more{len(claimed)}")
        assert len({job.id for job in claimed}) == len(claimed) > 30
        assert (await one.depths())[t.JobState.READY].count == 0


async def test_who_ends_with_jobs_in_hand_is_not_warned(recwarn: pytest.WarningsRecorder) -> None:
    """A program that ends in the middle leaves its jobs to their lease, without a word."""

    async def program() -> None:
        queue = WorkQueue(MemoryStore(), "q")
        await queue.put("a")
        (job,) = await queue.claim("ann")
        assert job.id == "a"

    gc.collect()
    recwarn.clear()  # what tests before this one left
    await asyncio.to_thread(lambda: asyncio.run(program()))
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


async def test_jobs_of_megabytes_are_claimed_and_listed_together(engine: Engine) -> None:
    """Twenty payloads are more than one answer holds: they are asked for in parts."""
    queue = WorkQueue(await engine.client(), "q")
    payload = "x" * (250 << 10)
    for n in range(20):
        await queue.put(f"j{n:02d}", payload)
    assert len([job async for job in queue.jobs("ready")]) == 20
    jobs = await queue.claim("ann", n=20)
    assert [job.id for job in jobs] == [f"j{n:02d}" for n in range(20)]
    assert all(job.payload == payload for job in jobs)
    await queue.close()

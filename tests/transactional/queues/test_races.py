"""Everything at once, by several processes: afterwards each job has one place, and all go on."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.conftest import HandClock
from transactional import JobState, WorkQueue, scan_all
from transactional.queues.job import QueueLayout, decode_record
from transactional.stores.memory import MemoryStore

JOBS = 120
LANES = ("a", "b", None)
LAYOUT = QueueLayout("q")


class Jittery:
    """A store whose answers take their time, so that the calls of its clients meet in any order."""

    def __init__(self, store: MemoryStore, dice: random.Random) -> None:
        self._store = store
        self._dice = dice

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in {"get", "get_many", "scan", "commit", "now", "lease"}:
            return found

        async def late(*arguments: Any, **named: Any) -> Any:
            await self._pause()
            try:
                return await found(*arguments, **named)
            finally:
                await self._pause()

        return late

    async def _pause(self) -> None:
        for _ in range(self._dice.randint(0, 6)):
            await asyncio.sleep(0)


def lane_of(job: str) -> str | None:
    return LANES[int(job[1:]) % 3]


class Process:
    """Puts, claims, ends, and intervenes, at random; what it is refused is as good as done."""

    def __init__(self, store: MemoryStore, clock: HandClock, seed: int, steps: int) -> None:
        self.dice = random.Random(seed)
        self.store = Jittery(store, self.dice)
        self.queue = WorkQueue(self.store, "q")
        self.name = f"w{seed}"
        self.clock = clock
        self.steps = steps
        self.held: list[t.Job] = []
        self.did: Counter[str] = Counter()

    async def run(self) -> None:
        for step in range(self.steps):
            window = step * JOBS // self.steps
            number = min(JOBS - 1, window + self.dice.randint(0, 15))
            with suppress(t.ConflictError, t.RefusedError, t.UnavailableError):
                await self.act(number)
            while len(self.held) > 5:
                self.held.pop(0)  # dropped without a word

    async def act(self, number: int) -> None:
        queue, job = self.queue, f"j{number}"
        acts = {
            "put": 20, "claim": 25, "cancel": 4, "requeue": 7, "skip": 1, "lanes": 3, "time": 3,
            "done": 12, "retry": 5, "fail": 4, "release": 4, "checkpoint": 6,
        }  # fmt: skip
        (act,) = self.dice.choices(list(acts), list(acts.values()))
        match act:
            case "put":
                after = [f"j{number - 1}"] if number % 4 == 1 else []
                await queue.put(job, job, lane=lane_of(job), after=after, expected=True)
            case "claim":
                count, lease_s = self.dice.randint(1, 3), self.dice.choice([5.0, 5000.0])
                self.held += await queue.claim(self.name, n=count, lease_s=lease_s)
            case "cancel" | "requeue" | "skip":
                await getattr(queue, act)(job)
            case "lanes":
                lanes = {"a": self.dice.randint(1, 3), "b": self.dice.randint(1, 2)}
                self.queue = WorkQueue(self.store, "q", lanes=lanes)
            case "time":
                self.clock.forward(self.dice.choice([0.1, 1.0, 7.0, 7200.0]))
                self.clock.wall_us += self.dice.choice([-3600, 0, 0, 3600]) * 1_000_000
                await self.store.commit([], [t.Put("tick", b"")])
            case _ if self.held:
                await self.deal_with(act)
        self.did[act] += 1

    async def deal_with(self, act: str) -> None:
        job = self.held.pop(self.dice.randrange(len(self.held)))
        match act:
            case "done":  # its effect is written with it, or neither is
                ran = f"ran/{job.id}"
                await job.done(writes=[t.Put(ran, b"")], compares=[t.Absent(ran)])
            case "retry":
                await job.retry("again", in_s=self.dice.choice([0, 1.5]))
            case "fail":
                await job.fail("broken")
            case "release":
                await job.release()
            case _:
                await job.checkpoint(self.did.total())
                self.held.append(job)


async def wrong(store: t.Store) -> list[object]:  # a list of what must not be
    """What of the layout's invariants does not hold."""
    items = (await scan_all(store, LAYOUT.prefix)).items
    places = (
        *(LAYOUT.all_ready, LAYOUT.all_queued, LAYOUT.all_waiting),
        *(LAYOUT.all_claimed, LAYOUT.ended("")),
    )
    found: list[object] = []
    lying = Counter(LAYOUT.id_of(key) for key in items if key.startswith(places))
    jobs = {LAYOUT.id_of(key) for key in items if key.startswith(LAYOUT.all_jobs)}
    found += [("places", job, lying[job]) for job in jobs | lying.keys() if lying[job] != 1]
    for lane in ("a", "b"):
        item = items.get(LAYOUT.lane(lane))
        told = set(json.loads(item.value)) if item is not None else set()
        running = {
            LAYOUT.id_of(key)
            for key in items
            if key.startswith((LAYOUT.all_ready, LAYOUT.all_claimed))
        }
        mine = {job for job in running if lane_of(job) == lane}
        queued = any(key.startswith(LAYOUT.all_queued_in(lane)) for key in items)
        if told != mine or (queued and not told):
            found.append(("lane", lane, told, mine, queued))
    for key in items:
        if key.startswith(LAYOUT.all_kept):
            state, job = key.removeprefix(LAYOUT.all_kept).partition("/")[0], LAYOUT.id_of(key)
            ended = items.get(LAYOUT.ended(job))
            if ended is None or decode_record(ended.value).state != state:
                found.append(("kept", key))
        if key.startswith(f"{LAYOUT.prefix}waits/"):
            other, follower = key.removeprefix(f"{LAYOUT.prefix}waits/").split("/")
            waiting = items.get(LAYOUT.waiting(follower))
            waits = waiting is not None and other in decode_record(waiting.value).missing
            if not waits and LAYOUT.told(other) not in items:
                found.append(("waits", key))
    return found


@pytest.mark.parametrize("number", range(rounds(20, 1)))
async def test_all_at_once_leaves_every_job_in_one_place(number: int) -> None:
    """Put, claim, end, cancel, requeue, lanes changed, leases over, the clock moved by hours."""
    seed = seeds(rounds(20, 1))[number]
    clock = HandClock()
    store = MemoryStore(clock=clock.clock())
    processes = [Process(store, clock, seed + n, steps=250) for n in range(4)]
    await asyncio.gather(*(process.run() for process in processes))
    did = sum((process.did for process in processes), Counter())
    assert min(did[act] for act in ("put", "claim", "done", "retry", "requeue", "lanes")) > 2, did
    for process in processes:
        process.held.clear()
        await process.queue.close()
    assert (await wrong(store), seed) == ([], seed)
    await everything_goes_on(WorkQueue(store, "q", lanes={"a": 3, "b": 3}), clock, store)
    assert (await wrong(store), seed) == ([], seed)
    await store.close()


async def everything_goes_on(queue: WorkQueue, clock: HandClock, store: MemoryStore) -> None:
    """All that is not done can be done: nothing is stuck behind a lane, a lease or another job."""
    for n in range(JOBS):
        with suppress(t.RefusedError):
            await queue.put(f"j{n}", f"j{n}", lane=lane_of(f"j{n}"), expected=True)
    idle = 0
    while idle < 3:
        clock.forward(6000)
        await store.commit([], [t.Put("tick", b"")])
        for state in (JobState.PARKED, JobState.CANCELLED):
            async for info in queue.jobs(state):
                with suppress(t.RefusedError):
                    await queue.requeue(info.id)
        idle += 1
        while jobs := await queue.claim("last", n=8, lease_s=86_000):
            idle = 0
            for job in jobs:
                await job.done()
    depths = {state.value: depth.count for state, depth in (await queue.depths()).items()}
    assert depths == {
        "waiting": 0, "ready": 0, "claimed": 0, "done": JOBS, "parked": 0, "cancelled": 0,
    }  # fmt: skip
    await queue.close()

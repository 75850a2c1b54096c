"""Directs a run of the teams demo, and writes down what the store says of it.

    authority and workers start
    the jobs are put                      the team is at work meanwhile
    all the time: SIGKILL to a worker     another takes its place; the next claim takes its jobs
    a job is parked                       a person repairs the goods and requeues it, and who waits
    nothing is left                       the history of the queue is read from the store and judged

What happened is not asked of the workers: the queue's own history, commit by commit, says it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import transactional
from demos.page import page_of_store
from demos.stage import Actor, StageError, Told
from demos.teams.plan import EFFECT, LANES, REPAIRED, Task
from transactional import JobChange, JobState, Put, Store, WorkQueue, scan_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

READY_S_MAX = 30.0
LEASE_S = 1.5
PAGE_S = 0.06
QUEUE = "team"
PUTS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told."""

    folder: Path
    workers: int
    seed: int
    kills: int
    drop: str
    run_s_max: float
    ui: str = ""


@dataclass(slots=True)
class Outcome:
    """What the store says, and what the director did."""

    history: list[JobChange] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    depths: dict[JobState, int] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    went_on: int = 0
    """Claims that found what a dead worker had written down."""
    busy_s: float = 0.0


class Story:
    """One run, from the first process to the last."""

    def __init__(
        self, options: Options, tasks: Sequence[Task], progress: Callable[[int, str], None]
    ) -> None:
        self.outcome = Outcome()
        self._options = options
        self._tasks = tasks
        self._progress = progress
        self._dice = random.Random(options.seed)
        self._authority = Actor("authority", self._heard, obeys=False)
        names = [f"worker {n}" for n in range(1, options.workers + 1)]
        self._workers = {name: Actor(name, self._heard) for name in names}
        self._done: set[str] = set()
        self._begun = time.monotonic()
        self._parked = asyncio.Event()

    def _heard(self, _name: str, told: Told) -> None:
        if told["tell"] == "claimed" and told["found"]:
            self.outcome.went_on += 1
        if told["tell"] == "failed":
            self._parked.set()

    async def play(self) -> Outcome:
        """The whole run; no process is left behind when it returns.

        Raises:
            StageError: a process did not start, or the jobs were not done in time.
        """
        try:
            async with asyncio.timeout(self._options.run_s_max):
                return await self._play()
        except TimeoutError:
            left = len(self._tasks) - len(self._done)
            raise StageError(f"{left} jobs were not done in time") from None
        finally:
            await asyncio.gather(*(worker.stop() for worker in self._workers.values()))
            await self._authority.stop()

    async def _play(self) -> Outcome:
        file = str(self._options.folder / "store.db")
        await self._authority.start(
            "transactional", "serve", file, "--listen", "127.0.0.1:0", greeting="line"
        )
        line = await self._authority.hear("line", timeout_s=READY_S_MAX)
        url = str(line["text"]).split()[2]
        await asyncio.gather(*(self._start(name, url) for name in self._workers))
        async with (
            page_of_store("teams", url, self._options.ui, lambda text: self._progress(0, text)),
            transactional.open(url) as store,
        ):
            queue = WorkQueue(store, QUEUE, lanes=LANES)
            self._begun = time.monotonic()
            duties = [
                asyncio.create_task(self._follow(queue)),
                asyncio.create_task(self._kill_workers(url)),
                asyncio.create_task(self._repair(store, queue)),
            ]
            try:
                await self._put_all(queue)
                await self._until_done()
            finally:
                for duty in duties:
                    duty.cancel()
                await asyncio.gather(*duties, return_exceptions=True)
            await self._look(store, queue)
        return self.outcome

    async def _start(self, name: str, url: str) -> None:
        await self._workers[name].start(
            "demos.teams.worker", "--store", url, "--queue", QUEUE, "--name", name,
            "--lease", str(LEASE_S), "--page", str(PAGE_S), "--drop", self._options.drop,
        )  # fmt: skip
        await self._workers[name].hear("ready", timeout_s=READY_S_MAX)

    async def _put_all(self, queue: WorkQueue) -> None:
        for first in range(0, len(self._tasks), PUTS_AT_ONCE):
            some = self._tasks[first : first + PUTS_AT_ONCE]
            await asyncio.gather(
                *(
                    queue.put(
                        task.id,
                        task.payload,
                        priority=task.priority,
                        after=task.after,
                        lane=task.lane,
                        expected=True,
                    )
                    for task in some
                )
            )

    async def _follow(self, queue: WorkQueue) -> None:
        """Write down every change of every job, in the order of the commits."""
        async for change in queue.watch(after=0):
            if isinstance(change, JobChange):
                self.outcome.history.append(change)
                if change.state is JobState.DONE:
                    self._done.add(change.id)
                    self.outcome.busy_s = time.monotonic() - self._begun
                    self._progress(len(self._done), "")

    async def _until_done(self) -> None:
        while len(self._done) < len(self._tasks):
            await asyncio.sleep(0.02)
            for worker in self._workers.values():
                if worker.failure:
                    raise StageError(worker.failure)

    async def _kill_workers(self, url: str) -> None:
        """Kill one after the other, spread over the run by how much is done."""
        total = len(self._tasks)
        for number in range(self._options.kills):
            due = total * (number + 1) // (self._options.kills + 1)
            while len(self._done) < due:  # noqa: ASYNC110 told by another task
                await asyncio.sleep(0.01)
            name = self._dice.choice(sorted(self._workers))
            await self._workers[name].kill()
            self.outcome.killed += 1
            self._progress(len(self._done), f"SIGKILL to {name}")
            await self._start(name, url)

    async def _repair(self, store: Store, queue: WorkQueue) -> None:
        """Be the person: repair what is broken, and requeue it and who waits for it."""
        await self._parked.wait()
        await store.commit([], [Put(REPAIRED, b"")])
        requeued: set[str] = set()
        while True:
            async for info in queue.jobs(JobState.PARKED):
                try:
                    await queue.requeue(info.id)
                except transactional.NotNowError:
                    continue  # what it waits for is parked, too: that comes first
                requeued.add(info.id)
                self._progress(len(self._done), f"a person requeued {info.id}")
            await asyncio.sleep(0.2)

    async def _look(self, store: Store, queue: WorkQueue) -> None:
        """What is in the store at the end."""
        for key in (await scan_all(store, EFFECT)).items:
            self.outcome.effects[key.removeprefix(EFFECT).partition("/")[0]] += 1
        self.outcome.depths = {
            state: depth.count for state, depth in (await queue.depths()).items()
        }
        async for info in queue.jobs(JobState.DONE):
            self.outcome.attempts[info.id] = len(info.history)

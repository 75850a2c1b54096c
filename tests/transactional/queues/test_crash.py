"""Workers and authorities that die: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.authority import AuthorityProcess
from transactional import JobState, WorkQueue
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 6


class Worker:
    """A process, and all that it said, over all its lives."""

    def __init__(self, url: str, name: str, said: list[list[object]]) -> None:
        self._url = url
        self._name = name
        self._said = said
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.transactional.queues.victim", self._url, self._name,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):
                self._said.append(json.loads(line))

    async def kill(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        self._process.kill()
        await self._process.wait()
        await self._reading


def check(said: list[list[object]], effects: dict[str, int]) -> None:
    """What the workers were told and promised holds together."""
    promised: dict[str, int] = defaultdict(int)
    claims: dict[str, list[tuple[int, int]]] = defaultdict(list)
    done: dict[str, set[int]] = defaultdict(set)
    for what, job, _, *rest in said:
        if what == "claimed":
            claims[str(job)].append((rest[0], rest[1]))  # token, checkpoint that was found
        elif what == "done":
            done[str(job)].add(rest[0])
    for what, job, _, *rest in said:
        if what == "checkpoint":
            token, page = rest
            promised[str(job)] = max(promised[str(job)], page)
            for later, found in claims[str(job)]:
                assert later <= token or found >= page, f"{job}: checkpoint {page} was lost"
    for job, tokens in done.items():
        assert len(tokens) == 1, f"{job} was done under {tokens}"
        assert effects[job] == next(iter(tokens))
    for tokens in claims.values():
        assert len({token for token, _ in tokens}) == len(tokens), "two claims under one token"


@pytest.mark.processes
async def test_kills_of_workers_and_of_the_authority(tmp_path: Path) -> None:
    """[agents 1] Six workers, jobs all the time, random kill -9: each done once.

    What a dead worker was promised is found by the next; effects are written once, by the claim
    that ended the job.
    """
    jobs_per_round, dice = 25, random.Random(seeds(1)[0])
    authority = AuthorityProcess(tmp_path / "store.db")
    await authority.start()
    said: list[list[object]] = []
    workers = [Worker(authority.url, f"w{n}", said) for n in range(WORKERS)]
    await asyncio.gather(*(worker.start() for worker in workers))
    count = 0
    kills = rounds(100, 5)
    for number in range(kills):
        async with t.open(authority.url) as store:
            queue = WorkQueue(store, "q", attempts_max=1000, lanes={"two": 2})
            await asyncio.gather(
                *(
                    queue.put(f"j{count + n}", n, lane=dice.choice([None, None, "two"]))
                    for n in range(jobs_per_round)
                )
            )
            count += jobs_per_round
            await asyncio.sleep(dice.uniform(0.05, 0.5))
        if number % 5 == 4:
            await authority.kill()
            await authority.start()
        else:
            for worker in dice.sample(workers, dice.randint(1, 2)):
                await worker.kill()
                await worker.start()
    async with t.open(authority.url) as store:
        queue = WorkQueue(store, "q")
        await goes_on_to_its_end(queue, count)
        ended = [info async for info in queue.jobs(JobState.DONE)]
        effects = {}
        for key in (await t.scan_all(store, "effect/")).items:
            _, job, token = key.split("/")
            assert job not in effects, f"{job} had its effect twice"
            effects[job] = int(token)
        lanes = (await store.scan("queue/q/lane/")).items
    for worker in workers:
        await worker.kill()
    await authority.stop()
    assert {info.id for info in ended} == {f"j{n}" for n in range(count)} == set(effects)
    assert all(info.checkpointed is None for info in ended)
    assert not lanes
    check(said, effects)


async def goes_on_to_its_end(queue: WorkQueue, count: int) -> None:
    """Return when all are done, however long it takes; fail if nothing is for half a minute."""
    done = -1
    while done < count:
        async with asyncio.timeout(30):
            while (now := (await queue.depths())[JobState.DONE].count) == done:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        done = now


class Mortal:
    """A store in the hands of a process that dies at its n-th commit, before or after it.

    Once it is dead nothing of it goes on: every call of the store stands still for ever.
    """

    def __init__(self, store: MemoryStore, commits: int, *, after: bool) -> None:
        self._store = store
        self._left = commits
        self._after = after
        self.dead = False

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        if name in {"watch", "elapsed_s", "mint_op_id", "epoch", "capabilities"}:
            return found

        async def call(*arguments, **options):
            if self.dead:
                await asyncio.Future()
            return await found(*arguments, **options)

        return call

    async def commit(self, *arguments, **options):
        self._left -= 1
        if self.dead or (self._left == 0 and not self._after):
            self.dead = True
            await asyncio.Future()
        made = await self._store.commit(*arguments, **options)
        if self._left == 0:
            self.dead = True
            await asyncio.Future()
        return made


async def life(store: object, *, lives: list[str]) -> None:
    """Put a small graph of jobs and work on it to the end."""
    queue = WorkQueue(store, "q", lanes={"one": 1})  # type: ignore[arg-type]
    await queue.put("a", lane="one")
    await queue.put("b", lane="one", after=["a"])
    await queue.put("c", after=["a", "b"])
    await queue.put("d", lane="one", priority=1)
    while jobs := await queue.claim(f"life {len(lives)}", wait_s=0.05):
        (job,) = jobs
        if job.attempt == 1 and job.id == "d":
            await job.retry("once more")
            continue
        await job.checkpoint(job.attempt)
        await job.done(writes=[t.Put(f"effect/{job.id}", str(len(lives)).encode())])
    await queue.close()


@pytest.mark.parametrize("after", [False, True])
async def test_death_at_every_commit(after: bool) -> None:
    """Before or after it: the next life finds everything, and each job is done once."""
    for commits in range(1, 40):
        store = MemoryStore()
        lives: list[str] = []
        mortal = Mortal(store, commits, after=after)
        first = asyncio.ensure_future(life(mortal, lives=lives))
        while not first.done() and not mortal.dead:  # noqa: ASYNC110 until it ends or is dead
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        lives.append("dead")
        for lease in [*store._leases._ttl_s]:
            await store.revoke(lease)  # it ends with its holder
        await life(store, lives=lives)
        queue = WorkQueue(store, "q")
        ended = sorted([info.id async for info in queue.jobs("done")])
        assert ended == ["a", "b", "c", "d"], f"commit {commits}, after={after}"
        assert not (await store.scan("queue/q/lane/")).items
        assert not (await store.scan("queue/q/waits/")).items
        await store.close()
        if not mortal.dead:
            return
    pytest.fail("it should have run out of commits")

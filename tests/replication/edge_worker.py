"""One process whose agent is treated badly, life after life; it logs what it was promised.

Prints one JSON line at the end: lives, what was acknowledged, and whatever went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from typing import Any

from crdt import BatchInterruptedError
from replication import Agent, ForkedError, ReplicationError, Version, WrongThreadError

NOWHERE = Version({"nowhere~1": 1})
WAIT_S = 60


class Life:
    """One life of the agent, and what its users do to it."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker, self.number, self.dice = worker, number, worker.dice
        self.agent = Agent(**worker.options)
        self.waiters: list[asyncio.Task[object]] = []
        self.ending = self.dice.choice(["close", "cancelled", "other loop", "gather"])

    async def run(self) -> None:
        await self.agent.start()
        done = self.agent.orset("done")
        self.worker.check(set(done))
        self.worker.let_child_go()
        self.waiters = [
            asyncio.create_task(self.agent.seen(NOWHERE)),
            asyncio.create_task(self.agent.replicated(self.agent.version(), n=50)),
            asyncio.create_task(anext(self.agent.watch("nothing"), None)),
        ]
        for waiter in self.waiters:  # how they end is looked at where they are counted
            waiter.add_done_callback(lambda task: task.cancelled() or task.exception())
        users = [self.writes(), self.writes(), self.holds(), self.holds(), self.calls()]
        if self.dice.random() < 0.3:
            users.append(self.forks())
        if self.ending == "gather":
            users.append(self.fails())
        self.dice.shuffle(users)
        with contextlib.suppress(KeyError):
            await asyncio.gather(*users)
        if self.ending == "other loop":
            return  # as `asyncio.run` ends it: everything is cancelled, nothing is closed
        if self.ending != "close":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)
        await self.agent.close()
        await self.none_waits()

    async def none_waits(self) -> None:
        left = (await asyncio.wait(self.waiters, timeout=WAIT_S))[1]
        self.worker.wrong += [f"life {self.number}: {task} waits" for task in left]

    async def writes(self) -> None:
        """Plain writes and batches, each acknowledged before it is logged."""
        for _ in range(self.dice.randrange(1, 6)):
            names = self.worker.names(self.dice.randrange(1, 4))
            done = self.agent.orset("done")

            def write(names: list[str] = names, done: Any = done) -> None:
                for name in names:
                    done.add(name)

            try:
                self.agent.batch(write) if len(names) > 1 else write()
                await self.agent.durable()
            except ReplicationError:
                return  # its agent ends
            self.worker.acknowledged += names
            self.worker.counts["acknowledged"] += len(names)

    async def holds(self) -> None:
        """A batch over a suspension: it fails in its own way, or is refused; never kept."""
        names = self.worker.names(2)
        self.worker.ghosts += names
        fails = self.dice.random() < 0.5
        try:
            with self.agent.batch():
                self.agent.orset("done").add(names[0])
                await asyncio.sleep(self.dice.choice([0, 0, 0.001, 0.01]))
                if fails:
                    raise KeyError(names[0])
                self.agent.orset("done").add(names[1])
        except (BatchInterruptedError, KeyError, ReplicationError, asyncio.CancelledError) as error:
            self.worker.counts[type(error).__name__] += 1
        else:
            self.worker.wrong.append(f"life {self.number}: a batch was held over a suspension")

    async def calls(self) -> None:
        """Worker threads that write: each is refused."""
        done, names = self.agent.orset("done"), self.worker.names(20)
        self.worker.ghosts += names

        def thread() -> None:
            for name in names:
                try:
                    done.add(name)
                except WrongThreadError:
                    self.worker.counts["WrongThreadError"] += 1
                except ReplicationError:
                    return
                else:
                    self.worker.wrong.append(f"life {self.number}: a thread wrote {name}")

        await asyncio.to_thread(thread)

    async def forks(self) -> None:
        """A child that lives on into the next life, when the journal has to open again."""
        (name,) = self.worker.names(1)
        self.worker.ghosts.append(name)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self.agent.orset("done").add(name)
            except ForkedError:
                code = 0
            finally:
                if code:
                    os._exit(code)
                signal.pause()
        self.worker.children.append(child)

    async def fails(self) -> None:
        await asyncio.sleep(self.dice.choice([0, 0.001, 0.01]))
        raise KeyError("one of them fails")


class Worker:
    """All lives, and the log over them."""

    def __init__(self, options: dict[str, Any], seed: str) -> None:
        self.options, self.dice = options, random.Random(seed)
        self.acknowledged: list[str] = []
        self.ghosts: list[str] = []
        self.wrong: list[str] = []
        self.children: list[int] = []
        self.counts: Counter[str] = Counter()
        self.made = 0

    def names(self, count: int) -> list[str]:
        self.made += count
        return [f"{self.options['name']}{self.made - each}" for each in range(count)]

    def check(self, done: set[str]) -> None:
        """Everything acknowledged is there, and nothing that was rolled back or refused."""
        lost, risen = set(self.acknowledged) - done, set(self.ghosts) & done
        self.wrong += [f"lost {name}" for name in lost] + [f"risen {name}" for name in risen]

    def let_child_go(self) -> None:
        """The children of the life before: this one has opened the journal while they lived."""
        for child in self.children:
            ended, code = os.waitpid(child, os.WNOHANG)
            if ended:
                self.wrong.append(f"a child ended with {code}")
                continue
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self.counts["child"] += 1
        self.children = []

    def live(self, number: int) -> None:
        life = Life(self, number)
        self.counts[life.ending] += 1
        try:
            asyncio.run(life.run())
            if life.ending == "other loop":
                asyncio.run(life.agent.close())
                self.wrong += [f"{task} waits" for task in life.waiters if not task.done()]
        except BaseException as error:
            self.wrong.append(f"life {number}, {life.ending}: {error!r}")


def main() -> None:
    given = json.loads(sys.argv[1])
    worker = Worker(given["options"], given["seed"])
    for number in range(given["lives"]):
        worker.live(number)
        if worker.wrong:
            break
    worker.let_child_go()
    told = {
        "wrong": worker.wrong,
        "acknowledged": worker.acknowledged,
        "ghosts": worker.ghosts,
        "counts": worker.counts,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

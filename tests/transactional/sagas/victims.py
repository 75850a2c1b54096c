"""Saga workers that kill themselves with SIGKILL at one chosen record boundary each.

Run as a program it reads cases as JSON lines `[name, refuse, commits, after]`.  For each it forks a
worker on a SQLite store of its own, which runs one saga and is killed right before or right after
its commit number `commits`; the exit of each is printed as a line.  The parent opens no store and
has no thread, so a fork is a whole process of its own that costs milliseconds.

The effects lie outside of the store: a directory in which a service that knows its idempotency keys
makes one file for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import transactional
from tests.transactional.sagas.order_saga import QUICK, STEPS
from transactional import Saga, Sagas, Step, StepContext, StepKind, StepRefused

LEASE_TTL_S = 0.2


def outside(ledger: Path, key: str) -> str:
    """Have an effect outside, once by its key."""
    try:
        (ledger / key.replace("/", ":")).touch(exist_ok=False)
    except FileExistsError:
        return "again"
    return "first"


def outside_saga(ledger: Path, *, refuse: str = "") -> Saga:
    """The five steps of `order_saga`, with their effects in the ledger."""

    async def act(step: StepContext) -> str:
        if step.step == refuse:
            raise StepRefused("out of stock")
        return outside(ledger, step.idempotency_key)

    async def undo(step: StepContext) -> str:
        return outside(ledger, step.idempotency_key)

    kinds = [StepKind.COMPENSATABLE] * 3 + [StepKind.PIVOT, StepKind.RETRIABLE]
    steps = [
        Step(name, act, undo if kind is StepKind.COMPENSATABLE else None, kind, QUICK)
        for name, kind in zip(STEPS, kinds, strict=True)
    ]
    return Saga("order", steps)


class Doomed:
    """A store whose process is killed at its n-th commit, before or after it is made."""

    def __init__(self, store, commits: int, *, after: bool) -> None:
        self._store = store
        self._after = after
        self._commits = commits
        self.made = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None):
        self.made += 1
        doomed = self.made == self._commits
        if doomed and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        made = await self._store.commit(compares, writes, otherwise, op_id=op_id)
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return made


async def live(store, ledger: Path, refuse: str, commits: int, *, after: bool) -> int:
    """Run one saga; how many commits it took, if it lived to tell."""
    doomed = Doomed(store, commits, after=after)
    saga = outside_saga(ledger, refuse=refuse)
    async with Sagas(doomed, [saga], lease_ttl_s=LEASE_TTL_S, recover_every_s=60) as sagas:
        await sagas.execute("order", "run")
    return doomed.made


async def victim(directory: Path, refuse: str, commits: int, *, after: bool) -> None:
    async with transactional.open(f"sqlite:{directory / 'store.db'}") as store:
        await live(store, directory / "ledger", refuse, commits, after=after)


def main(root: Path) -> None:
    for line in sys.stdin:
        name, refuse, commits, after = json.loads(line)
        directory = root / name
        (directory / "ledger").mkdir(parents=True)
        child = os.fork()
        if not child:
            asyncio.run(victim(directory, refuse, commits, after=after))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps([name, os.waitstatus_to_exitcode(status)]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

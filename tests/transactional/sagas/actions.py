"""Steps that write down what they did, and workers for the sagas made of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from transactional import (
    Put,
    Retry,
    Saga,
    Sagas,
    Step,
    StepKind,
)

QUICK = Retry(base_s=0.001, cap_s=0.002, attempts_max=3)


class Actions:
    """Actions and compensations that write down what they did, and fail when told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.fails: dict[str, list[BaseException]] = {}

    def fail(self, name: str, *errors: BaseException) -> None:
        self.fails[name] = list(errors)

    def action(self, name: str):
        async def act(step):
            self.log.append(name)
            self.keys.setdefault(name, set()).add(step.idempotency_key)
            if self.fails.get(name):
                raise self.fails[name].pop(0)
            return name.upper()

        return act

    def step(self, name: str, kind=StepKind.COMPENSATABLE, **options) -> Step:
        undo = self.action(f"-{name}") if kind is not StepKind.RETRIABLE else None
        options = {"retry": QUICK, "undo_retry": QUICK} | options
        return Step(name, self.action(name), undo, kind, **options)

    def saga(self, names: str = "abcde", **options) -> Saga:
        return Saga("work", [self.step(name) for name in names], **options)


@asynccontextmanager
async def worker(store, *sagas, **options):
    async with Sagas(store, sagas, **options) as made:
        yield made


async def until(condition) -> None:
    """Wait for a condition, which may be awaitable."""
    async with asyncio.timeout(60):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.002)


async def lapse(store, hand_clock) -> None:
    """Let leases run out; on a hand clock an engine looks at it when it next commits."""
    hand_clock.forward(11)
    await store.commit([], [Put("nudge", b"")])


async def reaches(sagas, run_id, state) -> bool:
    await sagas.resume_unfinished()
    return (await sagas.get(run_id)).state is state

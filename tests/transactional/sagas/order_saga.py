"""The saga that the crash tests run: five steps whose effects are keys in the store.

Run as a program it is the victim: a worker process that begins runs until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import transactional
from transactional import (
    ConflictError,
    Put,
    Retry,
    Saga,
    Sagas,
    Step,
    StepContext,
    StepKind,
    StepRefused,
    Store,
    create,
)

QUICK = Retry(base_s=0.001, cap_s=0.002, attempts_max=3)
STEPS = ("reserve", "charge", "label", "ship", "notify")


def order_saga(store: Store, *, refuse: str = "", pause_s: float = 0.0) -> Saga:
    """Five steps, the fourth is the pivot; `refuse` names one that says no."""

    async def act(step: StepContext) -> str:
        await asyncio.sleep(pause_s)
        if step.step == refuse:
            raise StepRefused("out of stock")
        try:  # an outside service that knows its idempotency keys
            await create(store, f"effect/{step.idempotency_key}", b"done")
        except ConflictError:
            return "again"
        return "first"

    async def undo(step: StepContext) -> None:
        await asyncio.sleep(pause_s)
        await store.commit([], [Put(f"effect/{step.idempotency_key}", b"undone")])

    kinds = [StepKind.COMPENSATABLE] * 3 + [StepKind.PIVOT, StepKind.RETRIABLE]
    return Saga(
        f"order{refuse and '-without-' + refuse}",
        [
            Step(
                name,
                act,
                undo if kind is StepKind.COMPENSATABLE else None,
                kind,
                QUICK,
                crashes_max=100,
            )
            for name, kind in zip(STEPS, kinds, strict=True)
        ],
    )


async def effects(store: Store, run_id: str) -> tuple[set[str], set[str]]:
    """Which steps of the run had their effect, and which were undone."""
    page = await store.scan(f"effect/{run_id}/")
    names = [key.removeprefix(f"effect/{run_id}/") for key in page.items]
    undone = {name.removesuffix("/undo") for name in names if name.endswith("/undo")}
    return {name for name in names if not name.endswith("/undo")}, undone


async def main(url: str, prefix: str) -> None:
    async with transactional.open(url) as store:
        sagas = [order_saga(store, pause_s=0.002), order_saga(store, refuse="label", pause_s=0.002)]
        async with Sagas(store, sagas, worker="victim", lease_ttl_s=0.5) as worker:
            for number in range(10_000):
                name = sagas[number % 2].name
                await worker.start(name, f"{prefix}-{number}", {"number": number})
                print(number, flush=True)
                await asyncio.sleep(0.003)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))

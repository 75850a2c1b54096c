"""A saga that waits in every way and decides in every way, and the worker that is killed with it.

Its effects lie outside of the store, in a directory (the ledger): a service that knows its
idempotency keys makes one file for each, and one for all writes down every call.

Run as a program it is a victim: it begins one run for each of `ENDS`, tells all of them to go on,
and works until it is killed, on the runs of those that were killed before it, too.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import transactional
from tests.transactional.sagas.order_saga import QUICK
from transactional import (
    AwaitSignal,
    Child,
    Outcome,
    RetryLater,
    Saga,
    Sagas,
    SagaState,
    Sleep,
    Step,
    StepContext,
    StepKind,
    StepRefused,
)

ENDS = {
    "good": SagaState.COMPLETED,
    "the child refuses": SagaState.COMPENSATED,
    "the pivot refuses": SagaState.COMPENSATED,
    "charged, then cut": SagaState.COMPLETED,
    "cut, not charged": SagaState.COMPENSATED,
    "charged, and nobody knows": SagaState.STUCK,
}
"""What is given to a run, and how it ends whoever falls on the way."""
LEASE_TTL_S = 1.0
SLEEP_S = 1.1


def place(ledger: Path, key: str) -> Path:
    """The file of an effect."""
    return ledger / key.replace("/", ":")


def effect(ledger: Path, step: StepContext) -> str:
    """Have the step's effect, once by its key, and write down the call."""
    key = step.idempotency_key
    line = f"{step.saga_id}\t{step.step}\t{key}\n".encode()
    calls = os.open(ledger / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(calls, line)
    os.close(calls)
    place(ledger, key).touch()
    return key


def patient_sagas(ledger: Path) -> list[Saga]:
    """The saga and its child."""

    async def act(step: StepContext) -> str:
        return effect(ledger, step)

    async def later(step: StepContext) -> str:
        if step.attempt < 3:
            raise RetryLater(after_s=0.02)
        return effect(ledger, step)

    async def check(step: StepContext) -> None:
        if step.input == "the child refuses":
            raise StepRefused("too heavy")

    async def charge(step: StepContext) -> str:
        if step.input == "the pivot refuses":
            raise StepRefused("expired")
        if step.input == "cut, not charged":
            raise OSError("cut before")
        receipt = effect(ledger, step)
        if step.input != "good":
            raise OSError("cut after")
        return receipt

    async def probe(step: StepContext) -> Outcome | None:
        if step.input == "charged, and nobody knows":
            return None
        return Outcome(place(ledger, step.idempotency_key).exists(), step.idempotency_key)

    part = Saga("part", [Step("pack", act, act, retry=QUICK), Step("check", check)])
    steps = [
        Step("reserve", act, act, retry=QUICK),
        Step("later", later, act, retry=QUICK),
        Step("nap", Sleep(SLEEP_S)),
        Step("word", AwaitSignal("go")),
        Step("part", Child("part"), act),
        Step("charge", charge, None, StepKind.PIVOT, QUICK, QUICK, probe=probe, crashes_max=20),
        Step("ship", act, None, StepKind.RETRIABLE, QUICK),
    ]
    return [Saga("patient", steps), part]


async def main(url: str, ledger: Path, prefix: str) -> None:
    async with (
        transactional.open(url) as store,
        Sagas(
            store,
            patient_sagas(ledger),
            worker="victim",
            lease_ttl_s=LEASE_TTL_S,
            recover_every_s=0.2,
        ) as worker,
    ):
        print("ready", flush=True)
        for number, given in enumerate(ENDS):
            run_id = f"{prefix}-{number}"
            await worker.signal_with_start("patient", run_id, given, "go", run_id, key="go")
        await asyncio.sleep(60)  # until it is killed


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))

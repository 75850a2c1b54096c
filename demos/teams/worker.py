"""One worker of the team, a process of its own: `python -m demos.teams.worker`.

It claims what comes next, walks through three pages, writes down each, and ends the job with its
effect in one commit. What it finds written down by somebody who died it does not do again.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

import transactional
from demos.stage import commands, tell
from demos.teams.plan import EFFECT, PAGES, REPAIRED
from transactional import ClaimLostError, Job, Put, TransactionalError, WorkQueue


async def _work(options: argparse.Namespace) -> None:
    async with transactional.open(options.store) as store:
        queue = WorkQueue(store, options.queue)
        tell("ready")
        async for job in queue.claims(options.name, lease_s=options.lease):
            with suppress(ClaimLostError):
                await _handle(store, job, options)


async def _handle(store: transactional.Store, job: Job, options: argparse.Namespace) -> None:
    found = job.checkpointed or 0
    tell("claimed", job=job.id, attempt=job.attempt, found=found)
    for page in range(found + 1, PAGES + 1):
        await asyncio.sleep(options.page)
        await job.checkpoint(page)
    trouble = job.payload["trouble"]
    if trouble == "sticks" and job.attempt == 1:
        await job.retry("the label sticks", in_s=options.page)
    elif trouble == "broken" and await store.get(REPAIRED) is None:
        await job.fail("the goods are broken")
        tell("failed", job=job.id)
    else:
        effect = Put(f"{EFFECT}{job.id}/{job.token}", options.name.encode())
        dropped = job.id == options.drop
        await job.done(options.name, writes=[] if dropped else [effect])


async def _until_told(options: argparse.Namespace) -> None:
    work = asyncio.ensure_future(_persist(options))
    async for _ in commands():
        pass
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def _persist(options: argparse.Namespace) -> None:
    while True:
        try:
            await _work(options)
        except TransactionalError as error:
            tell("trouble", text=str(error))
            await asyncio.sleep(0.1)


def main() -> None:
    """Read the arguments and work until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--page", type=float, required=True)
    parser.add_argument("--drop", default="")
    asyncio.run(_until_told(parser.parse_args()))


if __name__ == "__main__":
    main()

"""A worker that lives until it is killed: `python -m tests.transactional.queues.victim URL NAME`.

It writes on standard output, a line each, what it was told and what it was promised; a line is out
before the next act begins, so what is read from a dead worker's pipe was true.
"""

from __future__ import annotations

import asyncio
import json
import sys

import transactional as t

LEASE_S = 1.0
PAGES = 3


def say(*words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def work(url: str, name: str) -> None:
    while True:
        try:
            async with t.open(url) as store:
                queue = t.WorkQueue(store, "q")
                async for job in queue.claims(name, lease_s=LEASE_S):
                    await handle(job, name)
        except t.TransactionalError as error:
            say("trouble", name, str(error))
            await asyncio.sleep(0.05)


async def handle(job: t.Job, name: str) -> None:
    token = job.claim.token
    say("claimed", job.id, name, token, job.checkpointed or 0)
    try:
        for page in range((job.checkpointed or 0) + 1, PAGES + 1):
            await asyncio.sleep(0.003)
            await job.checkpoint(page)
            say("checkpoint", job.id, name, token, page)
        effect = t.Put(f"effect/{job.id}/{token}", name.encode())
        await job.done(name, writes=[effect])
        say("done", job.id, name, token)
    except t.ClaimLostError:
        say("lost", job.id, name, token)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2]))

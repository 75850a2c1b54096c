"""Real processes that are killed and come back: what is left of their former lives."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path

from tests.ports import free_ports
from tests.replication.processes import Worker, start, team
from tests.scale import rounds, seeds

WAIT_S = 120


async def settled(workers: dict[str, Worker]) -> None:
    """Wait until the members of everybody are exactly the others that live, and lack nothing."""
    until_s = time.monotonic() + WAIT_S
    while True:
        ids = {name: (await w.do("state"))["id"] for name, w in workers.items()}
        living = {n: {i: "ALIVE" for m, i in ids.items() if m != n} for n in workers}
        peers = {name: await w.do("peers") for name, w in workers.items()}
        seen = {name: each["members"] for name, each in peers.items()}
        if seen == living and not any(sum(each["lag"].values()) for each in peers.values()):
            return
        assert time.monotonic() < until_s, f"not {living}: {peers}"
        await asyncio.sleep(0.1)


def clone(journal: Path, copy: Path) -> Path:
    """All files of a journal, as they are."""
    for suffix in ("", "-wal", ".lock"):
        if Path(f"{journal}{suffix}").exists():
            shutil.copyfile(f"{journal}{suffix}", f"{copy}{suffix}")
    return copy


async def test_killed_and_started_on_other_ports_an_agent_leaves_nothing_behind(tmp_path):
    """150 rounds under soak: members are the living, `lag()` is 0, `stable` completes.

    In between the files of who was killed are copied, with lock and log, and the copy runs beside
    the original for a while: it closes nobody's life, and what it held and wrote is kept.
    """
    seed = seeds(1)[0]
    dice = random.Random(seed)
    print(f"replay: CONVOCA_SEED={seed} pytest {__file__}")
    written: set[str] = set()
    async with team(tmp_path, ["ada", "bob", "cyd"]) as workers:
        peers = [workers["ada"].address]

        async def add(name: str, value: str) -> None:
            await workers[name].do("add", value=value)
            if dice.random() < 0.6:
                await workers[name].do("durable")
                written.add(value)

        async def started(name: str, journal: Path) -> Worker:
            (port,) = free_ports(1)
            return await start(name, journal=str(journal), listen=f"127.0.0.1:{port}", peers=peers)

        await settled(workers)
        for life in range(rounds(150, 8)):
            name = dice.choice(["bob", "cyd"])
            await add(name, f"{name}-{life}")
            await workers[name].kill()
            copied = life % 10 == 4
            if copied:
                copy = clone(tmp_path / name, tmp_path / f"{name}-{life}")
            workers[name] = await started(name, tmp_path / name)
            if copied:
                workers["copy"] = await started(name, copy)
                await add("copy", f"copy-{life}")
                await add(name, f"beside-{life}")
                await settled(workers)
                gone = workers.pop("copy")
                gone.process.stdin.close()
                await gone.process.wait()
            elif dice.random() < 0.2:
                await settled(workers)
        await settled(workers)
        for worker in workers.values():
            await worker.do("stable")
            assert written <= set((await worker.do("state"))["set"])

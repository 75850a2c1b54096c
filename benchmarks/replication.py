"""Replication in figures: visibility, bulk, joining, bandwidth, rounds, and what others send.

Run `python benchmarks/replication.py`; it prints a table with the goal beside each figure and
writes benchmarks/results/replication.{md,svg}. Real agents run in processes of their own over
loopback, each with a SQLite journal on disk; rounds and bytes are counted in the simulation
(`benchmarks/gossip.py`), where they do not depend on the machine. About five minutes on two cores.

`python benchmarks/replication.py visibility 10 20` prints the rows of so many processes alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import gossip  # noqa: E402
from benchmarks.chart import lines  # noqa: E402
from crdt import LWWMap  # noqa: E402
from replication import Agent, Config, Version  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
WRITES = 100
WRITES_PER_S = 20
WAITS = 20
BULK_ENTRIES = 100_000
BATCH = 1_000
JOIN_ENTRIES = 100_000
TABLE: list[tuple[str, str, str]] = []


def row(what: str, figure: str, goal: str = "") -> None:
    TABLE.append((what, figure, goal))
    print(f"{what:<74}{figure:>22}   {goal}", flush=True)


# ------------------------------------------------------------------------------ real processes


async def follower(name: str, seed: str, journal: str) -> None:
    """Reports on stdout when it sees what the parent announces on stdin."""
    async with Agent(name, peers=[seed], journal=journal) as agent:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        seen: dict[str, float] = {}
        bulk = asyncio.Event()

        async def look() -> None:
            async for event in agent.watch():
                now = time.time()
                for document in event.documents:
                    seen.setdefault(document.name, now)
                    if document.name == "bulk/end":
                        bulk.set()

        task = asyncio.create_task(look())
        print("ready", flush=True)
        while line := (await reader.readline()).decode().strip():
            if line == "bulk":
                await bulk.wait()
                print(seen["bulk/end"], flush=True)
            elif line == "report":
                print(json.dumps(seen), flush=True)
        task.cancel()


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """A process of this script that answers on stdout; it printed its first line."""
    return await asyncio.create_subprocess_exec(
        *[sys.executable, __file__, *arguments],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )


async def stop(process: asyncio.subprocess.Process) -> None:
    process.stdin.close()
    await process.wait()


async def team(writer: Agent, count: int, directory: str) -> list[asyncio.subprocess.Process]:
    """`count` followers in processes of their own, once they and the writer know each other."""
    workers = [
        await start("follower", f"f{number}", writer.address, f"{directory}/f{number}.db")
        for number in range(count)
    ]
    for worker in workers:
        await worker.stdout.readline()
    while len(writer.members()) < count:  # noqa: ASYNC110 - members have no event
        await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    return workers


async def visibility(agents: int, directory: str) -> None:
    """From the mutator's return in one process to the subscriber's wake-up in each other."""
    async with Agent("writer", journal=f"{directory}/writer.db") as writer:
        workers = await team(writer, agents - 1, directory)
        written = {}
        for number in range(WRITES):
            name = f"visible/{number}"
            written[name] = time.time()
            writer.register(name).set(number)
            await asyncio.sleep(1 / WRITES_PER_S)
        await writer.replicated(writer.version(), agents - 1, 30)
        waited: list[float] = []
        for number in range(WAITS):
            await asyncio.sleep(0.2)
            began = time.perf_counter()
            writer.register("waited").set(number)
            await writer.replicated(writer.version(), agents - 1, 30)
            waited.append(time.perf_counter() - began)
        await asyncio.sleep(0.5)
        delays: list[float] = []
        for worker in workers:
            worker.stdin.write(b"report\n")
            seen = json.loads(await worker.stdout.readline())
            delays += [seen[name] - at for name, at in written.items()]
        for worker in workers:
            await stop(worker)
    delays.sort()
    middle, high = delays[len(delays) // 2], delays[-(len(delays) // 100) - 1]
    row(
        f"write -> visible on all others, {agents} processes, 20 writes/s: p50 / p99",
        f"{1e3 * middle:.1f} / {1e3 * high:.1f} ms",
        "p50 <= 30 ms" if agents == 5 else "",
    )
    waited.sort()
    row(
        f"write -> known to be on the disks of all others, {agents} processes: p50 / max",
        f"{1e3 * waited[len(waited) // 2]:.0f} / {1e3 * waited[-1]:.0f} ms",
    )


async def bulk(directory: str) -> None:
    async with Agent("writer", journal=f"{directory}/writer.db") as writer:
        workers = await team(writer, 4, directory)
        table = writer.document("bulk", LWWMap)
        before = writer.bytes_sent
        started = time.time()
        for batch in range(BULK_ENTRIES // BATCH):
            with writer.batch():
                for number in range(BATCH):
                    table.put(f"agent-{batch * BATCH + number:06d}", number)
            await asyncio.sleep(0)
        writer.register("bulk/end").set(1)
        ends = []
        for worker in workers:
            worker.stdin.write(b"bulk\n")
            ends.append(float(await worker.stdout.readline()))
        elapsed = max(ends) - started
        sent = (writer.bytes_sent - before) / BULK_ENTRIES / 4
        for worker in workers:
            await stop(worker)
    row(
        f"bulk: entries/s replicated to each of 4 peers ({os.cpu_count()} cores, 5 processes)",
        f"{BULK_ENTRIES / elapsed:,.0f}",
        ">= 20 000",
    )
    row("bulk: bytes sent per entry and peer", f"{sent:.1f}")


async def donor(journal: str) -> None:
    """Holds the entries; on each line of stdin changes 1 000 of them, tells how many bytes."""
    config = Config(batch_bytes_max=2**19, delta_bytes_max=2**20)
    async with Agent("donor", journal=journal, config=config) as agent:
        for batch in range(JOIN_ENTRIES // BATCH):
            with agent.batch():
                for number in range(BATCH):
                    agent.register(f"k/{batch * BATCH + number:06d}").set(number)
            await asyncio.sleep(0)
        await agent.durable()
        print(json.dumps([agent.address, agent.version().encode()]), flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while await reader.readline():
            seen = dict(agent.kernel.vector)
            for number in range(1000):
                agent.register(f"k/{number * 97:06d}").set(-number)
            await agent.durable()
            size = len(agent.kernel.delta_since(seen).encode())
            print(json.dumps([size, agent.version().encode()]), flush=True)


async def joining(directory: str) -> None:
    process = await start("donor", f"{directory}/donor.db")
    address, token = json.loads(await process.stdout.readline())
    started = time.perf_counter()
    async with Agent("joiner", peers=[address], journal=f"{directory}/joiner.db") as joiner:
        await joiner.seen(Version.decode(token), 60)
        took = time.perf_counter() - started
        row(f"join to {JOIN_ENTRIES:,} entries, two processes", f"{took:.2f} s", "<= 3 s")
        joiner.block("donor")
        process.stdin.write(b"change\n")
        size, token = json.loads(await process.stdout.readline())
        await asyncio.sleep(2)
        received = joiner.bytes_received
        started = time.perf_counter()
        joiner.unblock("donor")
        await joiner.seen(Version.decode(token), 60)
        took = time.perf_counter() - started
        ratio = (joiner.bytes_received - received) / size
        row("catch up 1 000 changes in them", f"{1e3 * took:.0f} ms", "<= 100 ms")
        row("  bytes received / encoded bytes of the changes", f"{ratio:.2f}", "<= 2")
    await stop(process)


# ------------------------------------------------------------------------------ simulation


def bandwidth() -> None:
    rate, parts = gossip.idle()
    row("idle: bytes sent per agent and second, N=50", f"{rate:.0f}", "<= 307 (0.3 KiB)")
    for part, size in parts.items():
        row(f"  {part}", f"{size:.1f}")
    ratio, rate, parts = gossip.busy()
    row("busy, N=5: bytes of entries received / their encoded size", f"{ratio:.2f}", "<= 1.5")
    row("busy, N=5, 20 writes/s in all: bytes sent per agent and second", f"{rate:.0f}")
    for part, size in parts.items():
        row(f"  {part}", f"{size:.1f}")


def rounds() -> str:
    """The rows of rounds, and their curve."""
    samples = {10: 100, 50: 100, 100: 60, 300: 20, 1000: 20}
    curves: dict[str, list[float]] = {}
    for title, loss in (("no loss", 0.0), ("half of the frames lost", 0.5)):
        for fanout in (2,) if not loss else (3,):
            means: list[float] = []
            highs: list[float] = []
            for size in gossip.SIZES if not loss else gossip.SIZES[:-1]:  # 1 000: minutes more
                counted = gossip.rounds_to_all(size, samples[size], fanout, loss)
                mean, high = gossip.summary(counted)
                goal = gossip.GOALS.get(size) if not loss else None
                if loss and size == 100:
                    goal = gossip.GOAL_LOSSY
                row(
                    f"rounds to all, {title}, fanout {fanout}, N={size}: mean / p99",
                    f"{mean:.2f} / {high}",
                    f"<= {goal[0]} / {goal[1]}" if goal else "",
                )
                if loss and size == 100:
                    best = gossip.summary(gossip.one_attempt(size, 400, fanout, loss))
                    row(
                        "  the same, computed, if each partner is tried once at most",
                        f"{best[0]:.2f} / {best[1]}",
                    )
                means.append(mean)
                highs.append(float(high))
            curves[f"{title}: mean"] = means
            curves[f"{title}: p99"] = highs
    return lines(
        "Rounds of push-pull until everybody has a write",
        "replicas",
        "rounds",
        list(map(float, gossip.SIZES)),
        curves,
        log_x=True,
    )


def others() -> None:
    entries = 100_000
    for changes, ours, merkle, full in gossip.beside(entries, (1, 100, 1000)):
        row(
            f"{changes} changes in {entries:,}: bytes of ours / Merkle / full state",
            f"{ours:,} / {merkle:,} / {full:,}",
        )


def report(picture: str) -> None:
    table = "\n".join(f"| {what} | {figure} | {goal} |" for what, figure, goal in TABLE)
    text = f"""# Replication

`python benchmarks/replication.py`, {platform.python_implementation()} {platform.python_version()},
{os.cpu_count()} cores, loopback, journals on disk. Timed figures are of that machine and of what
else it did; rounds and bytes are counted in the simulation and depend on the seed alone.

| | figure | goal |
|---|---|---|
{table}

A Merkle exchange compares trees of 16 children per node and 65 536 leaves, level by level, then
sends the leaves that differ; a full-state exchange sends the state, compressed. Both are computed,
ours is the encoded delta and both vectors.

![rounds to convergence](replication.svg)
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "replication.md").write_text(text, encoding="utf-8")
    (RESULTS / "replication.svg").write_text(picture, encoding="utf-8")


async def seen_by(sizes: Iterable[int]) -> None:
    for agents in sizes:
        with tempfile.TemporaryDirectory() as directory:
            await visibility(agents, directory)


async def real() -> None:
    await seen_by((2, 5, 10, 20))
    with tempfile.TemporaryDirectory() as directory:
        await bulk(directory)
        await joining(directory)


if __name__ == "__main__":
    if sys.argv[1:2] == ["follower"]:
        asyncio.run(follower(*sys.argv[2:5]))
    elif sys.argv[1:2] == ["donor"]:
        asyncio.run(donor(sys.argv[2]))
    elif sys.argv[1:2] == ["visibility"]:
        asyncio.run(seen_by(map(int, sys.argv[2:])))
    else:
        asyncio.run(real())
        bandwidth()
        others()
        report(rounds())

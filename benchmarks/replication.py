"""Replication in figures: visibility, bulk, convergence rounds, idle bytes, joining.

Run `python benchmarks/replication.py`; it prints a table with the goal beside each figure. Real
agents run in processes of their own over loopback, each with a SQLite journal on disk; rounds and
idle bytes are counted in the simulation, where they do not depend on the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crdt import LWWMap, LWWRegister
from replication import Agent, Config, Faults, Simulation

AGENTS = 5
WRITES = 200
WRITES_PER_S = 20
BULK_ENTRIES = 40_000
BATCH = 1_000
JOIN_ENTRIES = 100_000


def row(what: str, figure: str, goal: str) -> None:
    print(f"{what:<66}{figure:>24}   {goal}", flush=True)


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


async def processes(directory: str) -> None:
    async with Agent("writer", journal=f"{directory}/writer.db") as writer:
        workers = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                "follower",
                f"f{number}",
                writer.address,
                f"{directory}/f{number}.db",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**24,
            )
            for number in range(AGENTS - 1)
        ]
        for worker in workers:
            await worker.stdout.readline()
        while len(writer.members()) < AGENTS - 1:  # noqa: ASYNC110 - members have no event
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        written = {}
        for number in range(WRITES):
            name = f"visible/{number}"
            written[name] = time.time()
            writer.register(name).set(number)
            await asyncio.sleep(1 / WRITES_PER_S)
        await asyncio.sleep(1)
        delays: list[float] = []
        for worker in workers:
            worker.stdin.write(b"report\n")
            seen = json.loads(await worker.stdout.readline())
            delays += [seen[name] - at for name, at in written.items() if name in seen]
        delays.sort()
        lost = WRITES * (AGENTS - 1) - len(delays)
        middle, high = delays[len(delays) // 2], delays[-(len(delays) // 100)]
        figure = f"{1e3 * middle:.1f} / {1e3 * high:.1f} ms"
        row("write -> visible on 4 others, 20 writes/s: p50 / p99", figure, "p50 <= 30 ms")
        assert not lost
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
        row(
            f"bulk: keys of a map, /s to each of 4 peers ({os.cpu_count()} cores, 5 processes)",
            f"{BULK_ENTRIES / elapsed:,.0f}",
            ">= 20 000",
        )
        sent = (writer.bytes_sent - before) / BULK_ENTRIES / (AGENTS - 1)
        row("bulk: bytes sent per key and peer", f"{sent:.1f}", "")
        for worker in workers:
            worker.stdin.close()
            await worker.wait()


async def joining() -> None:
    quiet = Config(batch_bytes_max=1024 * 1024)
    async with Agent("donor", config=quiet) as donor:
        for batch in range(JOIN_ENTRIES // BATCH):
            with donor.batch():
                for number in range(BATCH):
                    donor.register(f"k/{batch * BATCH + number:06d}").set(number)
            await asyncio.sleep(0)
        await donor.durable()
        started = time.perf_counter()
        async with Agent("joiner", peers=[donor.address]) as joiner:
            await joiner.seen(donor.version(), 60)
            row(
                f"join to {JOIN_ENTRIES:,} entries (both ends in one process)",
                f"{time.perf_counter() - started:.2f} s",
                "<= 3 s",
            )
            joiner.block("donor")
            changes = []
            donor.kernel.on_delta, listener = (
                lambda delta, change: (changes.append(delta), listener(delta, change)),
                donor.kernel.on_delta,
            )
            for number in range(1000):
                donor.register(f"k/{number * 97:06d}").set(-number)
            await donor.durable()
            await asyncio.sleep(3)
            size = sum(len(delta.encode()) for delta in changes)
            received = joiner.bytes_received
            started = time.perf_counter()
            joiner.unblock("donor")
            await joiner.seen(donor.version(), 60)
            took = time.perf_counter() - started
            ratio = (joiner.bytes_received - received) / size
            row("catch up 1 000 changes in them", f"{1e3 * took:.0f} ms", "<= 100 ms")
            row("  bytes received / bytes of the changes", f"{ratio:.2f}", "<= 2")


# ------------------------------------------------------------------------------ simulation


def rounds_to_all(size: int, runs: int, fanout: int, loss: float) -> list[int]:
    """Push-pull rounds until everybody has one write; pushes, jitter and probes are off."""
    config = Config(
        gossip_jitter=0.0,
        gossip_interval_max_s=1.0,
        fanout=fanout,
        fanout_above_300=fanout,
        eager_peers_max=0,
        probe_interval_s=1e6,
        digest_full_every=10**9,
    )
    names = [f"n{number}" for number in range(size)]
    sim = Simulation(names, size, Faults(delay_s=(0.001, 0.01), disk_s=(0.0, 0.001)), config)
    replicas = [sim.replica(name) for name in names]
    claims = [replica.members.me.claim() for replica in replicas]
    for replica in replicas:
        replica.members.learn(claims, 0.0)
        for row_ in replica.members.everyone():
            row_.told = 10**6
    sim.run(2.5)
    sim.faults = replace(sim.faults, loss=loss)
    counted = []
    for run in range(runs):
        writer = names[run % size]
        sim[writer].document("x", LWWRegister).set(run)
        seq, origin, taken = sim[writer].vector[sim.replica(writer).id], sim.replica(writer).id, 0
        while any(replica.kernel.vector.get(origin, 0) < seq for replica in replicas):
            sim.run(1.0)
            taken += 1
        counted.append(taken)
    return counted


def simulated() -> None:
    for size, runs, goal in ((10, 100, "2.5 / 3"), (50, 40, "4.0 / 5"), (100, 20, "4.6 / 5")):
        counted = sorted(rounds_to_all(size, runs, 2, 0.0))
        worst = counted[min(len(counted) - 1, int(len(counted) * 0.99))]
        row(
            f"rounds of push-pull to all, fanout 2, N={size}: mean / p99 of {runs}",
            f"{statistics.mean(counted):.2f} / {worst}",
            f"<= {goal}",
        )
    counted = sorted(rounds_to_all(100, 20, 3, 0.5))
    row(
        "rounds to all, fanout 3, N=100, half the frames lost: mean / max of 20",
        f"{statistics.mean(counted):.2f} / {counted[-1]}",
        "<= 5.6 / 7",
    )
    sim = Simulation([f"n{number}" for number in range(50)], 50)
    sim.run(90)
    before = sim.bytes_sent
    sim.run(60)
    row(
        "idle: bytes sent per agent and second, N=50",
        f"{(sim.bytes_sent - before) / 60 / 50:.0f}",
        "<= 307 (0.3 KiB)",
    )
    sim = Simulation([f"n{number}" for number in range(5)], 5)
    sim.run(20)
    dice, before, size = random.Random(5), sim.bytes_sent, 0
    for number in range(500):
        name = f"n{dice.randrange(5)}"
        delta = sim[name].document(f"key/{number:06d}", LWWRegister).set(number)
        size += len(delta.encode())
        sim.run(0.05)
    sim.run(5)
    delivered = sum(sim.replica(f"n{number}").counts["bytes:delta"] for number in range(5))
    row(
        "busy, N=5: bytes of deltas received per agent / bytes of the entries",
        f"{delivered / (size * 4):.2f}",
        "<= 1.5",
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        await processes(directory)
    await joining()
    simulated()


if __name__ == "__main__":
    if sys.argv[1:2] == ["follower"]:
        asyncio.run(follower(*sys.argv[2:5]))
    else:
        asyncio.run(main())

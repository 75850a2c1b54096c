"""Ten minutes of 100 writes/s with a dead peer and a slow consumer: are memory and queues flat?

Run `python benchmarks/steady.py 600`; without a number it takes one minute. Four agents in four
processes, journals on disk: the writer, a healthy follower, one that is killed after a tenth of the
time and never comes back, and one whose process is stopped (SIGSTOP) for nine seconds out of ten. A
subscriber of the writer reads nothing at all. Every second resident memory, queued bytes and
event-loop lag of the writer and of the healthy follower are read; the figure and a table go to
benchmarks/results/steady.{svg,md}.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.chart import lines  # noqa: E402
from replication import Agent  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
WRITES_PER_S = 100
KEYS = 1000
RECORDS_MAX = 10_000
"""Removal records kept, instead of 131 072: the cache is full after 100 s, not after 22 minutes."""
FLAT_MIB = 6.0
"""What RSS may rise from the first to the last fifth after warming up: log, records, allocator."""


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def follower(name: str, seed: str, journal: str) -> None:
    """Lives until stdin closes; prints its queues and loop lag when asked."""
    async with Agent(name, peers=[seed], journal=journal) as agent:
        limit_records(agent)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        print("ready", flush=True)
        while await reader.readline():
            vitals = agent.vitals
            told = {
                "queued": sum(vitals.queued.values()),
                "loop": vitals.heartbeat.recent_s,
                "digest": agent.digest().hex(),
            }
            print(json.dumps(told), flush=True)


def limit_records(agent: Agent) -> None:
    """Let the one cache that fills slowly be full early, so that ten minutes show the rest."""
    agent.kernel._state.records_max = RECORDS_MAX  # noqa: SLF001 - the kernel's own limit


async def start(name: str, seed: str, directory: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, __file__, "follower", name, seed, f"{directory}/{name}.db"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await process.stdout.readline()
    return process


async def ask(process: asyncio.subprocess.Process) -> dict:
    process.stdin.write(b"?\n")
    return json.loads(await process.stdout.readline())


async def measured(seconds: int, directory: str) -> tuple[dict[str, list[float]], bool]:
    series: dict[str, list[float]] = {
        key: [] for key in ("s", "writer MiB", "follower MiB", "queued KiB", "loop lag ms")
    }
    async with Agent("writer", journal=f"{directory}/writer.db") as writer:
        limit_records(writer)
        silent = writer.watch()  # a consumer that never reads: its feed folds
        healthy, doomed, slow = [
            await start(name, writer.address, directory) for name in ("healthy", "doomed", "slow")
        ]
        writing = asyncio.create_task(write(writer))
        started = time.monotonic()
        for second in range(1, seconds + 1):
            if second == seconds // 10:
                doomed.kill()
            if second % 10 == 1:
                slow.send_signal(signal.SIGSTOP)
            elif second % 10 == 0:
                slow.send_signal(signal.SIGCONT)
            await asyncio.sleep(max(0.0, started + second - time.monotonic()))
            told = await ask(healthy)
            vitals = writer.vitals
            series["s"].append(second)
            series["writer MiB"].append(rss_mib(os.getpid()))
            series["follower MiB"].append(rss_mib(healthy.pid))
            series["queued KiB"].append((sum(vitals.queued.values()) + told["queued"]) / 1024)
            series["loop lag ms"].append(1e3 * max(vitals.heartbeat.recent_s, told["loop"]))
        writing.cancel()
        slow.send_signal(signal.SIGCONT)
        equal = await all_equal(writer, [healthy, slow])
        del silent
        for process in (healthy, slow, doomed):
            process.stdin.close()
            await process.wait()
    return series, equal


async def write(agent: Agent) -> None:
    """Registers of a fixed set of keys, over and over, at a fixed rate."""
    started, number = time.monotonic(), 0
    while True:
        agent.register(f"key/{number % KEYS}").set(number)
        number += 1
        await asyncio.sleep(max(0.0, started + number / WRITES_PER_S - time.monotonic()))


async def all_equal(writer: Agent, others: list[asyncio.subprocess.Process]) -> bool:
    for _ in range(300):
        states = {writer.digest().hex(), *[(await ask(other))["digest"] for other in others]}
        if len(states) == 1:
            return True
        await asyncio.sleep(0.1)
    return False


def report(seconds: int, series: dict[str, list[float]], *, equal: bool) -> bool:
    """Write the figure and the table; whether all is flat."""
    fifth = seconds // 5
    rows, flat = [], equal
    for key in ("writer MiB", "follower MiB", "queued KiB", "loop lag ms"):
        values = series[key]
        early = sorted(values[fifth : 2 * fifth])[fifth // 2]
        late = sorted(values[-fifth:])[fifth // 2]
        rows.append(f"| {key} | {early:.1f} | {late:.1f} | {max(values):.1f} |")
        flat = flat and (not key.endswith("MiB") or late - early <= FLAT_MIB)
    text = f"""# {seconds} s of {WRITES_PER_S} writes/s with a dead peer and a slow consumer

`python benchmarks/steady.py {seconds}`. Medians of the second and of the last fifth of the run.

| | early | late | most |
|---|---|---|---|
{chr(10).join(rows)}

Removal records are limited to {RECORDS_MAX:,} instead of 131 072, so that this cache is full within
the first fifth. Flat (late RSS at most {FLAT_MIB:g} MiB above early): {"yes" if flat else "NO"}.
In the end the writer, the healthy and the slow follower were {"equal" if equal else "NOT EQUAL"}.
The killed peer stayed a member all the time.

![memory and queues over time](steady.svg)
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "steady.md").write_text(text, encoding="utf-8")
    curves = {key: values for key, values in series.items() if key not in {"s", "loop lag ms"}}
    picture = lines("memory and queues", "seconds", "MiB / KiB", series["s"], curves)
    (RESULTS / "steady.svg").write_text(picture, encoding="utf-8")
    print(text)
    return flat


async def main(seconds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        series, equal = await measured(seconds, directory)
    if not report(seconds, series, equal=equal):
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["follower"]:
        asyncio.run(follower(*sys.argv[2:5]))
    else:
        asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 60))

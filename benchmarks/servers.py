"""The stores on servers beside their drivers used bare, in one run: `python benchmarks/servers.py`.

PostgreSQL: compare-and-swap from one process and from sixteen, bookings, and how fast a lock
changes hands, beside asyncpg alone doing the same compare-and-swap in a transaction of its own
each, without op_id, history, checksum or order (`UPDATE ... WHERE key = $1 AND revision = $2`, on
as many connections as there are callers, 16 at the most).  A private cluster is started, on this
machine's disk, or where `--directory` says; `synchronous_commit` and `fsync` are on.

    python benchmarks/servers.py [--seconds 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from store import Row, fsync_ms, hand_overs, ours, summary  # noqa: E402

import transactional as t  # noqa: E402
from tests.transactional.postgres import Cluster  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "servers.md"
PROCESSES = 16


async def bare(url: str, callers: int, seconds: float) -> Row:
    """What asyncpg does if nothing is asked of it but the swap."""
    import asyncpg

    pool = await asyncpg.create_pool(url, min_size=1, max_size=min(callers, 16))
    await pool.execute(
        "CREATE TABLE IF NOT EXISTS bare(key text PRIMARY KEY, value bytea, r bigint)"
    )
    took: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    async def call(number: int) -> None:
        key, revision = f"{callers}/{number}", 0
        await pool.execute("INSERT INTO bare VALUES ($1, '', 0) ON CONFLICT DO NOTHING", key)
        while (begun := time.perf_counter()) < end:
            done = await pool.execute(
                "UPDATE bare SET value = $3, r = r + 1 WHERE key = $1 AND r = $2",
                *(key, revision, b'{"state":"x"}'),
            )
            if done != "UPDATE 1":
                raise RuntimeError("somebody else wrote this key")
            revision += 1
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*map(call, range(callers)))
    await pool.close()
    return summary("asyncpg, bare", callers, took, time.perf_counter() - start)


async def one_of_many(url: str, number: int, callers: int, seconds: float, start_at: float) -> None:
    """What each process of sixteen does: it prints how many swaps it made."""
    async with t.open(url) as store:
        await asyncio.sleep(max(0.0, start_at - time.time()))
        took: list[float] = []
        end = time.perf_counter() + seconds

        async def call(caller: int) -> None:
            revision = 0
            while (begun := time.perf_counter()) < end:
                made = await t.compare_and_swap(
                    store, f"many/{start_at}/{number}/{caller}", b"x", expected=revision
                )
                revision = made.revision
                took.append(time.perf_counter() - begun)

        await asyncio.gather(*map(call, range(callers)))
    print(*took)


async def sixteen(url: str, callers: int, seconds: float) -> Row:
    """Sixteen processes at once; they begin together."""
    start_at = time.time() + 8
    command = [sys.executable, __file__, "--one", url, "--seconds", str(seconds)]
    children = [
        await asyncio.create_subprocess_exec(
            *(*command, "--number", str(n), "--callers", str(callers), "--at", str(start_at)),
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        for n in range(PROCESSES)
    ]
    told = await asyncio.gather(*(child.communicate() for child in children))
    took = [float(word) for out, _ in told for word in out.split()]
    what = f"postgresql, {PROCESSES} processes"
    return summary(what, PROCESSES * callers, took, seconds)


async def bookings(url: str, seconds: float) -> tuple[Row, int]:
    """64 agents book random times of 29 rooms; and how many bookings overlap."""
    took: list[float] = []
    names = [f"room{n}" for n in range(29)]
    base = datetime(2026, 1, 1, tzinfo=UTC)
    async with t.open(url) as store:
        rooms = t.Reservations(store)
        start = time.perf_counter()
        end = start + seconds

        async def call(number: int) -> None:
            dice = random.Random(number)
            while (begun := time.perf_counter()) < end:
                first = base + timedelta(minutes=15 * dice.randrange(60 * 96))
                wanted = t.Interval(first, first + timedelta(minutes=15 * dice.randint(1, 8)))
                with contextlib.suppress(t.BookingConflict):
                    await rooms.book(dice.choice(names), wanted, holder=f"agent {number}")
                took.append(time.perf_counter() - begun)

        await asyncio.gather(*map(call, range(64)))
        row = summary("postgresql, booking attempts", 64, took, time.perf_counter() - start)
        overlaps = 0
        for name in names:
            spans = [booking.interval for booking in await rooms.agenda(name)]
            overlaps += sum(a.start < b.end and b.start < a.end for a, b in combinations(spans, 2))
    return row, overlaps


async def measure(directory: Path, seconds: float) -> str:
    """Start the server, measure everything, and return the report."""
    cluster = Cluster(directory / "cluster")
    await asyncio.to_thread(cluster.make)
    await asyncio.to_thread(cluster.start)
    try:
        rows: list[Row] = []
        for callers in (1, 64, 256):
            async with t.open(cluster.url(schema=f"c{callers}")) as store:
                rows.append(await ours("postgresql, one process", [store], callers, seconds))
            rows.append(await bare(cluster.url(), callers, seconds))
        many = cluster.url(schema="many")
        rows += [await sixteen(many, callers, seconds) for callers in (1, 4)]
        row, overlaps = await bookings(cluster.url(schema="rooms"), seconds)
        rows.append(row)
        url = cluster.url(schema="locks")
        async with t.open(url) as one, t.open(url) as other:
            rows.append(await hand_overs("postgresql, lock", [one, other], 8, seconds))
    finally:
        await asyncio.to_thread(cluster.remove)
    return report(rows, overlaps, fsync_ms(directory))


def report(rows: list[Row], overlaps: int, probe: tuple[float, float]) -> str:
    load = os.getloadavg()[0]
    return "\n".join(
        [
            "# Stores on servers",
            "",
            "Made by `python benchmarks/servers.py`; client and server share the machine, and",
            "acknowledged is on the server's disk. Ours with op_id, history and checksum in each",
            "commit. A lock's row counts hand-overs between two clients. Overlaps among the",
            f"bookings: {overlaps}.",
            "",
            f"{platform.system()}, {os.cpu_count()} CPUs (load average {load:.1f}), Python",
            f"{platform.python_version()}; fdatasync p50 {probe[0]:.2f} ms, p99 {probe[1]:.2f} ms.",
            "",
            "| work | callers | per second | p50 ms | p99 ms |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {what} | {n} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |"
                for what, n, rate, p50, p99 in rows
            ),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--directory", type=Path, help="where the server keeps its data")
    for name, kind in (("one", str), ("number", int), ("callers", int), ("at", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        given = (options.one, options.number, options.callers, options.seconds, options.at)
        asyncio.run(one_of_many(*given))
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        Path(name).chmod(0o755)
        text = asyncio.run(measure(Path(name), options.seconds))
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

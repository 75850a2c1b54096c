"""Durable compare-and-swap per second, ours and aiosqlite's, and how fast a lock changes hands.

All on the same disk in the same run.  Ours carries an op_id in every commit.  aiosqlite is used as
its users do for many writers: several connections, WAL, synchronous=FULL, BEGIN IMMEDIATE per
operation, one compare and one write.  The latency of a bare fdatasync stands beside it: it bounds
what one caller alone can reach.  A hand-over is the time from the holder's call of ``release`` to
the next waiter's return from ``acquire``.

    python benchmarks/store.py [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import transactional
from transactional.store import Store, compare_and_swap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESULTS = Path(__file__).parent / "results" / "store.md"
Row = tuple[str, int, float, float, float]


def fsync_ms(directory: Path) -> tuple[float, float]:
    """Return p50 and p99 of fdatasync after a write of 8 KiB."""
    took: list[float] = []
    with (directory / "probe").open("wb", buffering=0) as probe:
        for _ in range(300):
            probe.write(b"x" * 8192)
            start = time.perf_counter()
            os.fdatasync(probe.fileno())
            took.append((time.perf_counter() - start) * 1e3)
    took.sort()
    return took[150], took[297]


def summary(what: str, callers: int, took: list[float], seconds: float) -> Row:
    took.sort()
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    return what, callers, len(took) / seconds, p50 * 1e3, p99 * 1e3


async def ours(what: str, stores: list[Store], callers: int, seconds: float) -> Row:
    """Each caller swaps a key of its own, as fast as it is answered."""
    took: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    async def call(number: int) -> None:
        store, key = stores[number % len(stores)], f"bench/{callers}/{number}"
        found = await store.get(key)
        revision = found.revision if found is not None else 0
        while (begun := time.perf_counter()) < end:
            commit = await compare_and_swap(store, key, b'{"state":"x"}', expected=revision)
            revision = commit.revision
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*map(call, range(callers)))
    return summary(what, callers, took, time.perf_counter() - start)


async def peers(path: Path, callers: int, seconds: float, connections: int = 8) -> Row:
    """The same work on aiosqlite."""
    import aiosqlite

    pool: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
    for _ in range(min(callers, connections)):
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=30)
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS keys(key TEXT PRIMARY KEY, value BLOB, revision INTEGER)"
        )
        pool.put_nowait(connection)
    took: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    async def call(number: int) -> None:
        key, revision = f"bench/{callers}/{number}", 0
        while (begun := time.perf_counter()) < end:
            connection = await pool.get()
            await connection.execute("BEGIN IMMEDIATE")
            cursor = await connection.execute("SELECT revision FROM keys WHERE key = ?", (key,))
            row = await cursor.fetchone()
            if (row[0] if row else 0) != revision:
                raise RuntimeError("somebody else wrote this key")
            revision += 1
            await connection.execute(
                "REPLACE INTO keys VALUES (?, ?, ?)", (key, b'{"state":"x"}', revision)
            )
            await connection.execute("COMMIT")
            pool.put_nowait(connection)
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*map(call, range(callers)))
    row = summary(f"aiosqlite, {pool.qsize()} connections", callers, took, seconds)
    while not pool.empty():
        await pool.get_nowait().close()
    return row


async def hand_overs(what: str, stores: list[Store], waiters: int, seconds: float) -> Row:
    """Waiters queue for one lock all the time; each holder lets go at once."""
    took: list[float] = []
    released = 0.0
    start = time.perf_counter()
    end = start + seconds

    async def use(number: int) -> None:
        nonlocal released
        lock = transactional.Lock(stores[number % len(stores)], "the", owner=str(number))
        while time.perf_counter() < end:
            grant = await lock.acquire(wait_s=60)
            if released:
                took.append(time.perf_counter() - released)
            released = time.perf_counter()
            await grant.release()

    await asyncio.gather(*map(use, range(waiters)))
    return summary(what, waiters, took, time.perf_counter() - start)


@asynccontextmanager
async def authority(path: Path) -> AsyncIterator[str]:
    """Serve a file in a process of its own, which shares the machine with us; yield the address."""
    command = [sys.executable, "-m", "transactional", "serve", str(path), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    line = await process.stdout.readline() if process.stdout is not None else b""
    try:
        yield line.decode().split()[2]
    finally:
        process.terminate()
        await process.wait()


async def measure(seconds: float) -> tuple[list[Row], tuple[float, float]]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        directory = Path(name)
        probe = fsync_ms(directory)
        for callers in (1, 64, 256):
            async with transactional.open(f"sqlite:{directory}/ours{callers}.db") as store:
                rows.append(await ours("convoca, in process", [store], callers, seconds))
            rows.append(await peers(directory / f"peer{callers}.db", callers, seconds))
        async with authority(directory / "http.db") as url:
            for callers in (1, 64, 256):
                async with transactional.open(url) as store:
                    rows.append(await ours("convoca over HTTP", [store], callers, seconds))
            async with transactional.open(url) as one, transactional.open(url) as other:
                rows.append(await hand_overs("lock over HTTP", [one, other], 8, seconds))
        async with transactional.open(f"sqlite:{directory}/lock.db") as store:
            rows.append(await hand_overs("lock, in process", [store], 8, seconds))
    return rows, probe


def report(rows: list[Row], probe: tuple[float, float]) -> str:
    lines = [
        "# Durable compare-and-swap, and locks",
        "",
        "Made by `python benchmarks/store.py`; `synchronous=FULL` everywhere, ours with an op_id",
        "in each commit. Client and server share the machine. A lock's row counts hand-overs, from",
        "`release` called to the next waiter's `acquire` returned; the queue is never empty.",
        "",
        f"{platform.system()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, SQLite",
        f"{sqlite3.sqlite_version}; fdatasync p50 {probe[0]:.2f} ms, p99 {probe[1]:.2f} ms.",
        "",
        "| store | callers | per second | p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {what} | {n} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |"
            for what, n, rate, p50, p99 in rows
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    options = parser.parse_args()
    text = report(*asyncio.run(measure(options.seconds)))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

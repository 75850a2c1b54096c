"""Compare-and-swap, bookings and locks on etcd, beside its gateway called directly.

One member, started here on a disk (``--directory``) or in memory, which shares the machine with the
callers.  ``raw`` posts to the gateway with aiohttp from as many callers: a transaction that
compares the revision of a key and puts it, nothing else: no op_id, no record, no clock, no
checksum.  Ours does what a store promises.

A hand-over is the time from the holder's call of ``release`` to the
next waiter's return from ``acquire``.

    python benchmarks/etcd.py [--seconds 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

import transactional
from benchmarks.store import Row, hand_overs, ours, summary
from transactional import Interval, Reservations

RESULTS = Path(__file__).parent / "results" / "etcd.md"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(directory: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a member; return it and its address."""
    program = shutil.which("etcd")
    if program is None:
        raise SystemExit("etcd is not installed; it comes with: apt-get install etcd-server")
    client, peer = free_port(), free_port()
    here, there = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    member = subprocess.Popen(
        [
            "timeout", "1800", program, "--data-dir", f"{directory}/data", "--name", "one",
            "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", there, "--initial-advertise-peer-urls", there,
            "--initial-cluster", f"one={there}", "--logger", "zap", "--log-level", "fatal",
        ],
    )  # fmt: skip
    return member, f"127.0.0.1:{client}"


async def opened(url: str) -> transactional.Store:
    end = time.monotonic() + 30
    while True:
        try:
            return await transactional.connect(url)
        except transactional.UnavailableError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


async def raw(address: str, callers: int, seconds: float) -> Row:
    """Each caller swaps a key of its own through the gateway."""
    took: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://{address}", connector=connector) as session:

        async def call(number: int) -> None:
            key = b64encode(f"raw/{callers}/{number}".encode()).decode()
            value, revision = b64encode(b'{"state":"x"}').decode(), "0"
            while (begun := time.perf_counter()) < end:
                txn = {
                    "compare": [{"key": key, "target": "MOD", "mod_revision": revision}],
                    "success": [{"request_put": {"key": key, "value": value}}],
                }
                async with session.post("/v3/kv/txn", data=json.dumps(txn)) as response:
                    doc = json.loads(await response.read())
                if not doc.get("succeeded"):
                    raise RuntimeError("somebody else wrote this key")
                revision = doc["header"]["revision"]
                took.append(time.perf_counter() - begun)

        await asyncio.gather(*map(call, range(callers)))
    return summary("raw gateway", callers, took, time.perf_counter() - begin)


async def bookings(stores: list[transactional.Store], callers: int, seconds: float) -> Row:
    """Each caller books a quarter of an hour after the other; ten rooms a client."""
    took: list[float] = []
    rooms = [Reservations(store) for store in stores]
    first = datetime(2030, 1, 1, tzinfo=UTC)
    begin = time.perf_counter()
    end = begin + seconds

    async def call(number: int) -> None:
        slot = 0
        while (begun := time.perf_counter()) < end:
            start_ = first + timedelta(minutes=15 * slot)
            when = Interval(start_, start_ + timedelta(minutes=15))
            await rooms[number % len(rooms)].book(f"room {number}", when, holder="bench")
            slot += 1
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*map(call, range(callers)))
    return summary("bookings", callers, took, time.perf_counter() - begin)


async def measure(address: str, seconds: float) -> tuple[list[Row], str]:
    url = f"etcd://{address}/bench"
    stores = [await opened(url) for _ in range(2)]
    facts = stores[0].advice() if hasattr(stores[0], "advice") else []
    rows: list[Row] = []
    for callers in (1, 64, 256):
        rows.append(await raw(address, callers, seconds))
        rows.append(await ours("convoca", stores[:1], callers, seconds))
    rows.append(await bookings(stores[:1], 64, seconds))
    rows.append(await hand_overs("lock", stores, 8, seconds))
    for store in stores:
        await store.close()
    return rows, "; ".join(facts)


def report(rows: list[Row], facts: str, where: str) -> str:
    lines = [
        "# A store on etcd",
        "",
        "Made by `python benchmarks/etcd.py`; one member, client and server share the machine. The",
        "raw gateway compares and puts one key; ours writes the record of its op_id in the same",
        "transaction, compares the clock, and checks what it reads. A lock's row: hand-overs.",
        "",
        f"{platform.system()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} while it ran,",
        f"Python {platform.python_version()}, data in {where}.",
        "",
        f"> {facts}",
        "",
        "| what | callers | per second | p50 ms | p99 ms |",
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
    parser.add_argument("--directory", help="where etcd keeps its data (default: in memory)")
    options = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108 it is meant
    base = options.directory or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(dir=base) as directory:
        member, address = start(directory)
        try:
            rows, facts = asyncio.run(measure(address, options.seconds))
        finally:
            member.terminate()
            member.wait()
    facts = facts.replace(address, "ADDRESS")
    text = report(rows, facts, "a directory" if options.directory else "memory (fsync is free)")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

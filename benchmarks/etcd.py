"""Compare-and-swap, bookings and locks on etcd, beside its gateway called directly.

Three clusters, one after the other, share the machine with the callers: one member with its data in
memory, where fsync is free, one on a disk (``--directory``), and three on that disk; so what the
disk and the majority cost is seen beside what the gateway costs.

``raw`` posts to the gateway (of the first member) with aiohttp from as many callers: a transaction
that compares the revision of a key and puts it, nothing else: no op_id, no record, no clock, no
checksum.  Ours does what a store promises.  A hand-over is the time from the holder's call of
``release`` to the next waiter's return from ``acquire``.

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
from benchmarks.store import Row, fsync_ms, hand_overs, ours, summary
from transactional import Interval, Reservations
from transactional.store import Advises

RESULTS = Path(__file__).parent / "results" / "etcd.md"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(directory: str, size: int = 1) -> tuple[list[subprocess.Popen[bytes]], str]:
    """Start the members of a cluster; return them and their addresses, with commas between."""
    program = shutil.which("etcd")
    if program is None:
        raise SystemExit("etcd is not installed; it comes with: apt-get install etcd-server")
    clients = [f"127.0.0.1:{free_port()}" for _ in range(size)]
    peers = [f"http://127.0.0.1:{free_port()}" for _ in range(size)]
    cluster = ",".join(f"m{n}={peer}" for n, peer in enumerate(peers))
    members = [
        subprocess.Popen(
            [
                "timeout", "1800", program, "--data-dir", f"{directory}/m{n}", "--name", f"m{n}",
                "--listen-client-urls", f"http://{client}",
                "--advertise-client-urls", f"http://{client}",
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--logger", "zap", "--log-level", "fatal",
            ],
        )
        for n, (client, peer) in enumerate(zip(clients, peers, strict=True))
    ]  # fmt: skip
    return members, ",".join(clients)


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
    first = address.partition(",")[0]
    async with aiohttp.ClientSession(f"http://{first}", connector=connector) as session:

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


async def measure(addresses: str, seconds: float) -> tuple[list[Row], list[str]]:
    url = f"etcd://{addresses}/bench"
    stores = [await opened(url) for _ in range(2)]
    facts = stores[0].advice() if isinstance(stores[0], Advises) else []
    rows: list[Row] = []
    for callers in (1, 64, 256):
        rows.append(await raw(addresses, callers, seconds))
        rows.append(await ours("convoca", stores[:1], callers, seconds))
    rows.append(await bookings(stores[:1], 64, seconds))
    rows.append(await hand_overs("lock", stores, 8, seconds))
    for store in stores:
        await store.close()
    versions = [fact for fact in facts if " is etcd " in fact]
    return rows, [fact.partition(" is ")[2] for fact in versions[:1]]


def report(measured: dict[str, list[Row]], facts: list[str], sync_ms: float) -> str:
    lines = [
        "# A store on etcd",
        "",
        "Made by `python benchmarks/etcd.py`; members and clients share the machine. A raw gateway",
        "compares and puts one key; ours writes the record of its op_id in the same transaction,",
        "compares the clock, and checks what it reads. A lock's row: hand-overs.",
        "",
        f"{platform.system()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} while it ran,",
        f"Python {platform.python_version()}. An fdatasync of the disk takes {sync_ms:.1f} ms.",
        "",
        *(f"> {fact}\n" for fact in facts),
        "| members | what | callers | per second | p50 ms | p99 ms |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {members} | {what} | {n} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |"
            for members, rows in measured.items()
            for what, n, rate, p50, p99 in rows
        ),
        "",
    ]
    return "\n".join(lines)


def run(size: int, base: str | None, seconds: float) -> tuple[list[Row], list[str]]:
    """Measure one cluster with its data in a directory of its own under ``base``."""
    with tempfile.TemporaryDirectory(dir=base) as directory:
        members, addresses = start(directory, size)
        try:
            return asyncio.run(measure(addresses, seconds))
        finally:
            for member in members:
                member.terminate()
            for member in members:
                member.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--directory", default=".", help="where the disk is (default: here)")
    options = parser.parse_args()
    memory = "/dev/shm"  # noqa: S108 it is meant
    disk = options.directory
    with tempfile.TemporaryDirectory(dir=disk) as directory:
        sync_ms, _ = fsync_ms(Path(directory))
    settings = {"one, in memory": (1, memory), "one, on a disk": (1, disk), "three": (3, disk)}
    measured: dict[str, list[Row]] = {}
    facts: list[str] = []
    for name, (size, base) in settings.items():
        measured[name], facts = run(size, base, options.seconds)
    text = report(measured, facts, sync_ms)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

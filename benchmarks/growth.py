"""A store that is written to for months: how large its file gets, and whether it slows down.

Each work runs on a clock that goes faster than ours, so that what is kept for an hour or a week is
let go within the run.  The file is looked at ten times.  Now and then an op_id from within its
floor is resolved: one that was applied must be told so, with its revision, and one that was never
sent must be fenced.

A machine that others use is not the same at the end of an hour as at its start.  So the end is
compared with a start that is made at the end: a second store, new, gets a twentieth of the work,
and then the two are worked on in turns, a piece here and a piece there.  What is told of each is
the time by the clock, the processor's time by thread, and the bytes that were written, log and
file together; of the pieces the median.

    python benchmarks/growth.py [--scale 0.05] [--directory .] [overwrites bookings ...]

At scale 1 each work is done a million times.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import transactional as t
from transactional.stores import sqlite_file
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Some = Callable[[int], Awaitable[None]]

DAY_S = 86_400.0
PIECES = 15


@dataclass
class Fast:
    """A clock that is moved on by each piece of work."""

    now_s: float = 1_700_000_000.0

    def clock(self) -> t.Clock:
        """Return it as the store takes it."""
        return t.Clock(wall_us=lambda: int(self.now_s * 1e6), elapsed_s=lambda: self.now_s)


@dataclass
class Witness:
    """Op_ids of the last 50 minutes and what became of them."""

    store: SQLiteStore
    clock: Fast
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    known: deque[tuple[float, str, int]] = field(default_factory=deque)
    asked: int = 0

    def note(self, op_id: str, revision: int) -> None:
        """Remember what became of it."""
        self.known.append((self.clock.now_s, op_id, revision))
        while self.known[0][0] < self.clock.now_s - 3000:
            self.known.popleft()

    async def ask(self) -> None:
        """Resolve one that was applied and one that was not sent."""
        _, op_id, revision = self.dice.choice(self.known)
        found = await self.store.resolve(op_id)
        if not isinstance(found, t.Applied) or found.commit.revision != revision:
            raise RuntimeError(f"{op_id} was applied at {revision}, and is told as {found}")
        never = self.store.mint_op_id()
        if await self.store.resolve(never) != t.Fenced(never):
            raise RuntimeError(f"{never} was never sent")
        self.asked += 2

    async def put(self, puts: list[t.CommitRequest]) -> None:
        """Commit with op_ids of our own minting, and ask about one."""
        for asked, done in zip(puts, await self.store.commit_all(puts), strict=True):
            if not isinstance(done, t.Commit):
                raise done
            self.note(asked.op_id or "", done.revision)
        await self.ask()


# --- the works -----------------------------------------------------------------------------------


async def overwrites(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """100 keys of 10 kB; ten hours in all, so that a tenth of the records is within the hour."""
    witness, values = Witness(store, clock), [random.Random(n).randbytes(10_000) for n in range(16)]

    async def some(number: int) -> None:
        await witness.put(
            [
                t.CommitRequest(
                    [], [t.Put(f"k/{n % 100}", values[n % 16])], op_id=store.mint_op_id()
                )
                for n in range(number)
            ]
        )
        clock.now_s += 36_000 * number / count

    return some


async def distinct(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """A key that never was, and the one of 1,000 before deleted; ten hours in all."""
    witness, made = Witness(store, clock), 0

    async def some(number: int) -> None:
        nonlocal made
        puts = []
        for _ in range(number):
            made += 1
            writes: list[t.Write] = [t.Put(f"k/{made}/here", b"x" * 40)]
            writes.append(t.Delete(f"k/{made - 1000}/here"))
            puts.append(t.CommitRequest([], writes, op_id=store.mint_op_id()))
        await witness.put(puts)
        clock.now_s += 36_000 * number / count

    return some


async def own_op_ids(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Overwrites of 100 small keys, each with an op_id of the caller's own; seventy days in all."""
    made = 0

    async def some(number: int) -> None:
        nonlocal made
        puts = []
        for _ in range(number):
            made += 1
            puts.append(
                t.CommitRequest([], [t.Put(f"k/{made % 100}", b"x" * 40)], op_id=f"invoice-{made}")
            )
        for done in await store.commit_all(puts):
            if not isinstance(done, t.Commit):
                raise done
        found = await store.resolve(f"invoice-{made}")
        if found == t.Fenced(f"invoice-{made}"):
            raise RuntimeError(f"invoice-{made} was applied, and is told as fenced")
        clock.now_s += 70 * DAY_S * number / count

    return some


async def leases(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """A lease of a minute with a key that nobody renews; ten hours in all."""
    made = iter(range(1 << 60))

    async def one() -> None:
        lease = await store.lease(60.0)
        await store.commit([], [t.Put(f"member/{next(made)}", b"here", lease.id)])

    async def some(number: int) -> None:
        await asyncio.gather(*[one() for _ in range(number)])
        clock.now_s += 36_000 * number / count

    return some


async def locks(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Locks whose names never come back; ten hours in all."""
    made = iter(range(1 << 60))

    async def one() -> None:
        async with t.Lock(store, f"order-{next(made)}", owner="a").held():
            pass

    async def some(number: int) -> None:
        await asyncio.gather(*[one() for _ in range(number)])
        clock.now_s += 36_000 * number / count

    return some


async def bookings(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Book and cancel an hour in one of 50 rooms, with a key; seventy days in all."""
    rooms, start = t.Reservations(store), datetime(2030, 1, 1, tzinfo=UTC)
    made = iter(range(1 << 60))

    async def one() -> None:
        number = next(made)
        begin = start + timedelta(hours=number % 1000)
        slot = t.Interval(begin, begin + timedelta(hours=1))
        booked = await rooms.book(f"r{number % 50}", slot, holder="a", idempotency_key=str(number))
        await rooms.cancel(booked)

    async def some(number: int) -> None:
        await asyncio.gather(*[one() for _ in range(number)])
        clock.now_s += 70 * DAY_S * number / count

    return some


async def _nothing(_: object) -> None:
    return None


async def sagas(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Runs of one step; seventy days in all."""
    worker = t.Sagas(store, [t.Saga("one", [t.Step("only", _nothing)])], lease_ttl_s=3600.0)
    made = iter(range(1 << 60))

    async def some(number: int) -> None:
        async with worker:
            await asyncio.gather(
                *[worker.execute("one", f"run-{next(made)}") for _ in range(number)]
            )
        clock.now_s += 70 * DAY_S * number / count

    return some


async def events(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Appends with an op_id to 100 streams; seventy days in all. The events themselves stay."""
    log, made = t.EventLog(store), iter(range(1 << 60))

    async def one() -> None:
        number = next(made)
        new = [t.NewEvent("moved", {"n": number, "text": "x" * 40})]
        await log.append(f"s{number % 100}", new, op_id=f"op-{number}")

    async def some(number: int) -> None:
        await asyncio.gather(*[one() for _ in range(number)])
        clock.now_s += 70 * DAY_S * number / count

    return some


async def one_stream(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Appends to one stream, whose state is asked for; a snapshot each 100; seventy days in all."""
    log, made = t.EventLog(store), iter(range(1 << 60))
    total = t.Reducer("total", int, lambda state, event: state + event.data, snapshot_every=100)

    async def some(number: int) -> None:
        await asyncio.gather(
            *[log.append("one", [t.NewEvent("added", next(made))]) for _ in range(number)]
        )
        await log.state("one", total)
        clock.now_s += 70 * DAY_S * number / count

    return some


async def jobs(store: SQLiteStore, clock: Fast, count: int) -> Some:
    """Jobs of lanes that never come back, put, claimed and done; seventy days in all."""
    queue, made = t.WorkQueue(store, "q"), iter(range(1 << 60))

    async def some(number: int) -> None:
        names = [f"job-{next(made)}" for _ in range(number)]
        await asyncio.gather(*[queue.put(name, {"n": 1}, lane=name) for name in names])
        left = number
        while left:
            claimed = await queue.claim("w", n=min(left, 32), wait_s=5.0)
            await asyncio.gather(*[job.done("ok") for job in claimed])
            left -= len(claimed)
        clock.now_s += 70 * DAY_S * number / count

    return some


WORKS = {
    work.__name__: work
    for work in (
        overwrites,
        bookings,
        sagas,
        events,
        one_stream,
        jobs,
        distinct,
        own_op_ids,
        leases,
        locks,
    )
}
AT_ONCE = {"overwrites": 256, "distinct": 256, "own_op_ids": 256}
"""How many come together; 64 where it is not said."""


# --- what they cost ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one operation: microseconds by the clock and of the processor, bytes written."""

    wall_us: float
    loop_us: float
    writer_us: float
    readers_us: float
    written: float

    @property
    def processor_us(self) -> float:
        """Of all threads together."""
        return self.loop_us + self.writer_us + self.readers_us

    def __str__(self) -> str:
        return (
            f"{self.wall_us:.0f} us by the clock, {self.processor_us:.0f} of the processor (loop"
            f" {self.loop_us:.0f}, writer {self.writer_us:.0f}, readers {self.readers_us:.0f}),"
            f" {self.written:.0f} bytes written"
        )


def _used() -> dict[str, float]:
    """What was used up to now: seconds by the clock and by thread; bytes."""
    used = {"wall": time.perf_counter(), "loop": 0.0, "writer": 0.0, "readers": 0.0}
    for thread in threading.enumerate():
        who = "loop" if thread is threading.main_thread() else "readers"
        who = "writer" if thread.name == "store-writer" else who
        if thread.ident is not None:
            used[who] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    used["written"] = float(io["wchar"])
    return used


@dataclass
class Growing:
    """One store and what is done to it."""

    name: str
    path: Path
    store: SQLiteStore
    some: Some
    done: int = 0

    @classmethod
    async def begin(cls, name: str, path: Path, count: int) -> Growing:
        """Make the store; `count` operations are as much time as the work says."""
        clock = Fast()
        store = await SQLiteStore.open(path, clock=clock.clock())
        return cls(name, path, store, await WORKS[name](store, clock, count))

    async def work(self, number: int) -> Cost:
        """Do about so many operations; what one costs."""
        before, begun = _used(), self.done
        while self.done < begun + number:
            at_once = AT_ONCE.get(self.name, 64)
            await self.some(at_once)
            self.done += at_once
        used = {name: value - before[name] for name, value in _used().items()}
        each = {name: value / (self.done - begun) for name, value in used.items()}
        wall, loop, writer, readers = (each[n] * 1e6 for n in ("wall", "loop", "writer", "readers"))
        return Cost(wall, loop, writer, readers, each["written"])

    @property
    def size_mb(self) -> float:
        """The file and its log."""
        log = self.path.with_name(self.path.name + "-wal")
        return (self.path.stat().st_size + log.stat().st_size) / 1e6


def _median(costs: list[Cost]) -> Cost:
    columns = zip(
        *[(c.wall_us, c.loop_us, c.writer_us, c.readers_us, c.written) for c in costs], strict=True
    )
    return Cost(*map(statistics.median, columns))


async def run(name: str, count: int, directory: Path) -> None:
    old = await Growing.begin(name, directory / "old.db", count)
    tenths, sizes = [], []
    for _ in range(10):
        tenths.append(await old.work(count // 10))
        sizes.append(old.size_mb)
        print(f"{name}: {old.done} done, {sizes[-1]:.0f} MB; {tenths[-1]}", file=sys.stderr)
    new = await Growing.begin(name, directory / "new.db", count)
    await new.work(count // 20)
    costs: dict[str, list[Cost]] = {"start": [], "end": []}
    for _ in range(PIECES):
        costs["start"].append(await new.work(count // 20 // PIECES))
        costs["end"].append(await old.work(count // 20 // PIECES))
    start, end = _median(costs["start"]), _median(costs["end"])
    await old.store.close()
    await new.store.close()
    print(
        f"{name}: {old.done} in all; as fast at the end as at the start, in turns:"
        f" {start.wall_us / end.wall_us:.2f} by the clock,"
        f" {start.processor_us / end.processor_us:.2f} by the processor"
    )
    print(f"  start: {start}\n  end:   {end}")
    print("  by tenths, /s:", *[f"{1e6 / cost.wall_us:.0f}" for cost in tenths])
    print("  by tenths, us of the processor:", *[f"{cost.processor_us:.0f}" for cost in tenths])
    print("  by tenths, MB of file and log:", *[f"{size:.0f}" for size in sizes])
    for share in sqlite_file.stats(old.path):
        print(f"  {share.what}: {share.rows}, {share.bytes / 1e6:.1f} MB")
    sys.stdout.flush()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("works", nargs="*", help=f"of {', '.join(WORKS)} (default: all)")
    options.add_argument("--scale", type=float, default=0.05, help="of a million (default: 0.05)")
    options.add_argument("--directory", help="where the files are made; else a temporary one")
    given = options.parse_args()
    if unknown := {*given.works} - {*WORKS}:
        options.error(f"{', '.join(unknown)}: no such thing")
    for name in given.works or WORKS:
        with tempfile.TemporaryDirectory(dir=given.directory) as directory:
            asyncio.run(run(name, max(2560, int(1_000_000 * given.scale)), Path(directory)))


if __name__ == "__main__":
    main()

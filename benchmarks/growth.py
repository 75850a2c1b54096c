"""A store that is written to for months: how large its file gets, and whether it slows down.

Each work runs on a clock that goes faster than ours, so that what is kept for an hour or a week is
let go within the run. The file is looked at ten times; the last tenth's speed stands beside the
first's. Now and then an op_id from within its floor is resolved: one that was applied must be told
so, with its revision, and one that was never sent must be fenced.

    python benchmarks/growth.py [--scale 0.05] [overwrites bookings sagas events]

At scale 1 each work is done a million times.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import transactional as t
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DAY_S = 86_400.0


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


async def overwrites(
    store: SQLiteStore, clock: Fast, count: int
) -> Callable[[int], Awaitable[None]]:
    """100 keys of 10 kB; ten hours in all, so that a tenth of the records is within the hour."""
    witness, values = Witness(store, clock), [random.Random(n).randbytes(10_000) for n in range(16)]

    async def some(number: int) -> None:
        puts = [
            t.CommitRequest([], [t.Put(f"k/{n % 100}", values[n % 16])], op_id=store.mint_op_id())
            for n in range(number)
        ]
        for asked, done in zip(puts, await store.commit_all(puts), strict=True):
            if not isinstance(done, t.Commit):
                raise done
            witness.note(asked.op_id or "", done.revision)
        clock.now_s += 36_000 * number / count
        await witness.ask()

    return some


async def bookings(store: SQLiteStore, clock: Fast, count: int) -> Callable[[int], Awaitable[None]]:
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


async def _nothing(_: t.StepContext) -> None:
    return None


async def sagas(store: SQLiteStore, clock: Fast, count: int) -> Callable[[int], Awaitable[None]]:
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


async def events(store: SQLiteStore, clock: Fast, count: int) -> Callable[[int], Awaitable[None]]:
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


WORKS = {"overwrites": overwrites, "bookings": bookings, "sagas": sagas, "events": events}
AT_ONCE = {"overwrites": 256, "bookings": 64, "sagas": 64, "events": 64}


async def run(name: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, clock = Path(directory) / "s.db", Fast()
        store = await SQLiteStore.open(path, clock=clock.clock())
        some = await WORKS[name](store, clock, count)
        log = path.with_name("s.db-wal")
        done, rates, work_us, sizes = 0, [], [], []
        for tenth in range(1, 11):
            begun, cpu, before = time.perf_counter(), time.process_time(), done
            while done < count * tenth // 10:
                await some(AT_ONCE[name])
                done += AT_ONCE[name]
            rates.append((done - before) / (time.perf_counter() - begun))
            work_us.append((time.process_time() - cpu) / (done - before) * 1e6)
            sizes.append((path.stat().st_size + log.stat().st_size) / 1e6)
        await store.close()
        speeds = " ".join(f"{rate:.0f}" for rate in rates)
        grown = " ".join(f"{size:.0f}" for size in sizes)
        worked = " ".join(f"{us:.0f}" for us in work_us)
        print(
            f"{name}: {done} in all; last tenth / first {rates[-1] / rates[0]:.2f},"
            f" by time of the processor {work_us[0] / work_us[-1]:.2f}",
            flush=True,
        )
        print(f"  us of the processor by tenths: {worked}", flush=True)
        print(f"  /s by tenths: {speeds}\n  MB by tenths: {grown}", flush=True)
        print(f"  closed: {path.stat().st_size / 1e6:.0f} MB", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("works", nargs="*", default=list(WORKS), choices=[*WORKS])
    options.add_argument("--scale", type=float, default=0.05, help="of a million (default: 0.05)")
    given = options.parse_args()
    for name in given.works:
        asyncio.run(run(name, max(2560, int(1_000_000 * given.scale))))


if __name__ == "__main__":
    sys.exit(main())

"""What a store does beside many who wait: a lock is handed over, others commit, a day is looked up.

Each is done beside ten and beside ten thousand: tasks that wait for one lock, watches of prefixes
of their own, bookings of one room.  A process has them all, on each engine; behind the authority it
is one client.  Beside the times stand the calls of the store that one hand-over takes, all waiters
together: they are the same on every machine.

    python benchmarks/waiting.py [--many 10000] [--only agenda] [memory sqlite http]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import transactional as t

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ENGINES = ("memory", "sqlite", "http")
FEW = 10
TURNS = 50
HOUR_S = 3600.0


class Counted:
    """A store that counts what is asked of it."""

    def __init__(self, store: t.Store) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in {"get", "get_many", "scan", "commit", "watch", "revoke", "lease", "renew"}:
            self.calls[name] += 1
        return getattr(self._store, name)


@asynccontextmanager
async def opened(engine: str, where: str | None = None) -> AsyncIterator[t.Store]:
    """A store of the engine, new or that of a directory; an authority is a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(where or directory) / "s.db"
        if engine != "http":
            async with t.open("memory:" if engine == "memory" else f"sqlite:{path}") as store:
                yield store
            return
        arguments = ["-m", "transactional", "serve", str(path), "--listen", "127.0.0.1:0"]
        pipe = asyncio.subprocess.PIPE
        serving = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=pipe)
        try:
            assert serving.stdout is not None
            url = (await serving.stdout.readline()).split()[2].decode()
            async with t.open(url) as store:
                yield store
        finally:
            serving.terminate()
            await serving.wait()


def ms(times: Sequence[float]) -> str:
    """The median and the largest, in milliseconds."""
    return f"{statistics.median(times) * 1e3:.2f} ms (most {max(times) * 1e3:.1f})"


async def commits(store: t.Store) -> list[float]:
    """How long commits take that concern nobody."""
    times = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        await store.commit([], [t.Put("nobody", b"")])
        times.append(time.perf_counter() - begun)
    return times


async def locks(engine: str, count: int) -> None:
    """Hand one lock over to `TURNS` of those who wait."""
    async with opened(engine) as bare:
        counted = Counted(bare)
        store = cast("t.Store", counted)
        first = await t.Lock(store, "a", owner="first", ttl_s=HOUR_S).acquire()
        taken: list[float] = []
        enough = asyncio.Event()

        async def wait(number: int) -> None:
            lock = t.Lock(store, "a", owner=str(number), ttl_s=HOUR_S)
            grant = await lock.acquire(wait_s=HOUR_S)
            taken.append(time.perf_counter())
            if len(taken) > TURNS or len(taken) == count:
                enough.set()
            else:
                await grant.release()

        begun = time.perf_counter()
        waiting = [asyncio.create_task(wait(n)) for n in range(count)]
        while (
            counted.calls["commit"] < 2 * count  # each enters, and lines up
            or await _keys(bare, "lock/a/wait/") < count
        ):
            await asyncio.sleep(0.2)
            for failed in [task for task in waiting if task.done()]:
                failed.result()  # nobody else can have the lock by now
        entered_s = time.perf_counter() - begun
        await _settled(counted)
        beside = await commits(bare)
        counted.calls.clear()
        await first.release()
        await enough.wait()
        each = {name: round(n / len(taken), 1) for name, n in sorted(counted.calls.items())}
        gaps = [later - one for one, later in pairwise(taken)]
        print(f"{engine}, {count} wait for a lock: all have entered after {entered_s:.1f} s")
        print(f"  handed over in {ms(gaps)}, calls {each}")
        print(f"  a commit that concerns nobody: {ms(beside)}", flush=True)
        for task in waiting:
            task.cancel()
        if count > FEW:  # each would give its place back, one by one
            await bare.close()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _settled(store: Counted) -> None:
    """Wait until those who came last have found their places."""
    before = Counter({"": 1})
    while store.calls != before:
        before = Counter(store.calls)
        await asyncio.sleep(1.0)


async def _keys(store: t.Store, prefix: str) -> int:
    count, after = 0, None
    while True:
        page = await store.scan(prefix, after=after)
        count += len(page.items)
        if not page.more:
            return count
        after = list(page.items)[-1]


async def watches(engine: str, count: int) -> None:
    """Watch prefixes, of which one is written to."""
    async with opened(engine) as store:
        seen = 0
        begun = 0

        async def watch(number: int) -> None:
            nonlocal seen, begun
            events = store.watch(f"w/{number}/", after=0)
            async for _ in events:
                if begun < count:
                    begun += 1
                else:
                    seen += 1

        waiting = [asyncio.create_task(watch(n)) for n in range(count)]
        await asyncio.gather(*[store.commit([], [t.Put(f"w/{n}/x", b"")]) for n in range(count)])
        while begun < count:  # noqa: ASYNC110 of ten thousand tasks
            await asyncio.sleep(0.05)
        beside = await commits(store)
        times = []
        for number in range(TURNS):
            before, at = seen, time.perf_counter()
            await store.commit([], [t.Put(f"w/{number % count}/x", b"")])
            while seen == before:  # noqa: ASYNC110 as above
                await asyncio.sleep(0)
            times.append(time.perf_counter() - at)
        print(f"{engine}, {count} watches: from a commit to its watcher {ms(times)}")
        print(f"  a commit that concerns nobody: {ms(beside)}", flush=True)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def agenda(engine: str, count: int) -> None:
    """Look up one day of a room that is booked each hour: at first, and then again.

    Of a file it is opened anew in between, so that at first nothing is in memory but what the
    system keeps of the file.
    """
    start = datetime(2025, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as where:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(opened(engine, where))
            await _booked(t.Reservations(store), start, count)
            if engine != "memory":
                await stack.aclose()
                store = await stack.enter_async_context(opened(engine, where))
            counted = Counted(store)
            rooms = t.Reservations(cast("t.Store", counted))
            day = start + timedelta(days=count // 48)
            slot = t.Interval(day, day + timedelta(days=1))
            times, found = [], 0
            for turn in range(TURNS + 1):
                if turn == 1:
                    counted.calls.clear()
                begun = time.perf_counter()
                found = len(await rooms.agenda("turing", slot))
                times.append(time.perf_counter() - begun)
            each = {name: round(n / TURNS, 1) for name, n in sorted(counted.calls.items())}
            least = f"least {min(times) * 1e3:.2f}, at first {times[0] * 1e3:.2f} ms"
            print(f"{engine}, {count} bookings: a day of {found} in {ms(times[1:])}, {least}")
            print(f"  calls {each}", flush=True)


async def _booked(rooms: t.Reservations, start: datetime, count: int) -> None:
    async def book(first: int) -> None:
        for n in range(first, count, 64):
            slot = t.Interval(start + timedelta(hours=n), start + timedelta(hours=n + 1))
            await rooms.book("turing", slot, holder=f"h{n}")

    await asyncio.gather(*[book(n) for n in range(64)])


async def measure(engine: str, many: int, only: str | None) -> None:
    for work, counts in (
        (locks, (FEW, many)),
        (watches, (FEW, many)),
        (agenda, (100, 10 * many)),
    ):
        if only in {None, work.__name__}:
            for count in counts:
                await work(engine, count)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("engines", nargs="*", help=f"of {', '.join(ENGINES)} (default: all)")
    options.add_argument("--many", type=int, default=10_000)
    options.add_argument("--only", choices=("locks", "watches", "agenda"))
    given = options.parse_args()
    if unknown := {*given.engines} - {*ENGINES}:
        options.error(f"{', '.join(unknown)}: no such thing")
    for engine in given.engines or ENGINES:
        asyncio.run(measure(engine, given.many, given.only))


if __name__ == "__main__":
    main()

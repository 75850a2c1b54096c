"""Recipes on SQLite beside their peers, in one run on one machine: `python benchmarks/recipes.py`.

The event log beside `eventsourcing` 9.5, sagas beside `dbos` 3.4, both on SQLite as their makers
configure it, which is as durable as ours: `synchronous=FULL`.  Bookings have no peer.  Writes
`results/recipes.md`.  Needs the extra `[bench]`; a peer that is not installed is left out of the
table and said so.  `--events 200000` makes the replay, which takes most of the time, shorter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sqlite3
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from transactional import (
    BookingConflict,
    EventLog,
    Interval,
    NewEvent,
    Reducer,
    Reservations,
    Saga,
    Sagas,
    SagaState,
    Step,
    connect,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLERS = 64
STEPS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    work: str
    ours: str
    peer: str
    goal: str


async def timed(work: Callable[[int], Awaitable[Any]], callers: int = CALLERS) -> float:
    """Seconds that `callers` concurrent runs of `work(number)` take."""
    start_s = perf_counter()
    await asyncio.gather(*(work(number) for number in range(callers)))
    return perf_counter() - start_s


# --- event log ------------------------------------------------------------------------------------


async def appends(directory: Path, per_caller: int, events: int) -> float:
    """Events per second; each append has `events` of them, each caller its own stream."""
    store = await connect(f"sqlite:{directory / f'append{events}.db'}")
    log = EventLog(store)
    new = [NewEvent("Deposited", {"amount": n, "currency": "EUR"}) for n in range(events)]

    async def write(number: int) -> None:
        for _ in range(per_caller):
            await log.append(f"account-{number}", new)

    took_s = await timed(write)
    assert (await log.head()).position == CALLERS * per_caller * events
    await store.close()
    return CALLERS * per_caller * events / took_s


async def replays(directory: Path, events: int) -> tuple[float, float, float]:
    """Folded events per second of one stream, seconds to replay all cold, longest pause in ms."""
    path = directory / "replay.db"
    store = await connect(f"sqlite:{path}")
    log = EventLog(store)
    new = [NewEvent("Deposited", {"amount": 1, "currency": "EUR"})] * 100
    for first in range(0, events, 6400):
        numbers = range(min(64, (events - first) // 100))
        await asyncio.gather(*(log.append(f"account-{number}", new) for number in numbers))
    await store.close()

    store = await connect(f"sqlite:{path}")
    log = EventLog(store)
    pause_s = 0.0

    async def watch_pauses() -> None:
        nonlocal pause_s
        while True:
            start_s = perf_counter()
            await asyncio.sleep(0)
            pause_s = max(pause_s, perf_counter() - start_s)
            await asyncio.sleep(0.001)

    watcher = asyncio.create_task(watch_pauses())
    start_s, count = perf_counter(), 0
    async for _ in log.read_all():
        count += 1
    replay_s = perf_counter() - start_s
    watcher.cancel()
    total = Reducer("total", lambda: 0, lambda total, event: total + event.data["amount"])
    start_s = perf_counter()
    state = await log.state("account-1", total)
    fold_s = perf_counter() - start_s
    assert state.state == state.version
    await store.close()
    return state.version / fold_s, replay_s * events / count, pause_s * 1e3


def eventsourcing_peer(directory: Path, count: int) -> tuple[float, float]:
    """Events per second appended one by one, and folded, with `eventsourcing` on SQLite."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    class Account(Aggregate):
        def __init__(self) -> None:
            self.balance = 0

        @event("Deposited")
        def deposit(self, amount: int) -> None:
            self.balance += amount

    application = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(directory / "peer.db"),
        }
    )
    account = Account()
    application.save(account)
    start_s = perf_counter()
    for _ in range(count):
        account.deposit(1)
        application.save(account)
    append_s = perf_counter() - start_s
    start_s = perf_counter()
    copy = application.repository.get(account.id)
    fold_s = perf_counter() - start_s
    assert copy.balance == count
    application.close()
    return count / append_s, count / fold_s


# --- sagas ----------------------------------------------------------------------------------------


async def saga_steps(directory: Path, per_caller: int) -> float:
    """Steps per second with 64 sagas of five empty steps at once."""
    store = await connect(f"sqlite:{directory / 'saga.db'}")

    async def nothing(_: Any) -> int:
        return 1

    saga = Saga("order", [Step(f"step{n}", nothing, nothing) for n in range(STEPS)])
    async with Sagas(store, [saga]) as sagas:

        async def run(number: int) -> None:
            for n in range(per_caller):
                done = await sagas.execute("order", f"o{number}-{n}")
                assert done.state is SagaState.COMPLETED

        took_s = await timed(run)
    await store.close()
    return CALLERS * per_caller * STEPS / took_s


async def recovery(directory: Path, count: int) -> float:
    """Seconds to read `count` unfinished sagas and see what each one needs."""
    store = await connect(f"sqlite:{directory / 'recovery.db'}")
    saga = Saga("order", [Step(f"step{n}", print) for n in range(STEPS)])
    client = Sagas(store, [saga])

    async def begin(number: int) -> None:
        for n in range(count // CALLERS + 1):
            await client.start("order", f"o{number}-{n}", {"item": "book"})

    await timed(begin)
    reader = Sagas(store, [saga])
    start_s = perf_counter()
    found = [run async for run in reader.unfinished() if not run.stopped]
    took_s = perf_counter() - start_s
    await store.close()
    return took_s * count / len(found)


async def dbos_peer(directory: Path, per_caller: int) -> float:
    """Steps per second with DBOS on SQLite, 64 workflows of five empty steps at once."""
    from dbos import DBOS

    url = f"sqlite:///{directory / 'dbos.db'}"
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.step()
    async def nothing() -> int:
        return 1

    @DBOS.workflow()
    async def order() -> None:
        for _ in range(STEPS):
            await nothing()

    DBOS.launch()
    await order()

    async def run(_: int) -> None:
        for _ in range(per_caller):
            await order()

    took_s = await timed(run)
    DBOS.destroy()
    return CALLERS * per_caller * STEPS / took_s


# --- bookings -------------------------------------------------------------------------------------


async def bookings(directory: Path, per_caller: int) -> tuple[float, float, int, int]:
    """Attempts per second, share refused, overlaps found afterwards, bookings made."""
    store = await connect(f"sqlite:{directory / 'rooms.db'}")
    rooms = Reservations(store)
    dice = random.Random(1)
    base = datetime(2025, 2, 1, tzinfo=UTC)
    names = [f"room-{n}" for n in range(29)]
    refused = 0

    async def agent(number: int) -> None:
        nonlocal refused
        for _ in range(per_caller):
            start = base + timedelta(days=dice.randrange(20), minutes=5 * dice.randrange(280))
            wanted = Interval(start, start + timedelta(minutes=dice.choice([5, 25, 50])))
            try:
                await rooms.book(dice.choice(names), wanted, holder=f"agent {number}")
            except BookingConflict:
                refused += 1

    took_s = await timed(agent)
    overlaps = made = 0
    for name in names:
        agenda = await rooms.agenda(name)
        made += len(agenda)
        overlaps += sum(a.occupied.overlaps(b.occupied) for a, b in combinations(agenda, 2))
    await store.close()
    attempts = CALLERS * per_caller
    assert made == attempts - refused
    return attempts / took_s, refused / attempts, overlaps, made


# --- the table ------------------------------------------------------------------------------------


def missing(peer: str) -> bool:
    try:
        __import__(peer)
    except ImportError:
        print(f"{peer} is not installed: its column stays empty (pip install '.[bench]')")
        return True
    return False


async def measure(directory: Path, events: int) -> list[Row]:
    peer_append = peer_fold = peer_steps = "not installed"
    if not missing("eventsourcing"):
        append, fold = await asyncio.to_thread(eventsourcing_peer, directory, 2000)
        peer_append, peer_fold = f"{append:,.0f}/s", f"{fold:,.0f}/s"
    single = await appends(directory, 150, 1)
    tens = await appends(directory, 60, 10)
    fold_rate, replay_s, pause_ms = await replays(directory, events)
    steps = await saga_steps(directory, 30)
    recovery_s = await recovery(directory, 10_000)
    if not missing("dbos"):
        # In a loop of its own, for DBOS takes over the loop's executor.
        rate = await asyncio.to_thread(lambda: asyncio.run(dbos_peer(directory, 3)))
        peer_steps = f"{rate:,.0f}/s"
    rate, share, overlaps, made = await bookings(directory, 150)
    replay = f"{replay_s:.1f} s, longest pause {pause_ms:.0f} ms"
    booked = f"{rate:,.0f}/s ({share:.0%} refused), {overlaps} overlaps in {made} bookings"
    return [
        Row("append, 64 writers, 1 event each", f"{single:,.0f} events/s", peer_append, "20 k/s"),
        Row("append, 64 writers, 10 events each", f"{tens:,.0f} events/s", "-", "20 k/s"),
        Row("fold one stream", f"{fold_rate:,.0f}/s", peer_fold, "150 k/s"),
        Row(f"cold replay of {events:,} events", replay, "-", "10 s per 1 M, 50 ms"),
        Row("saga steps, 64 sagas at once", f"{steps:,.0f}/s", peer_steps, "3 k/s"),
        Row("recovery scan of 10,000 unfinished", f"{recovery_s:.2f} s", "-", "2 s"),
        Row("booking attempts, 64 agents, 29 rooms", booked, "-", "6 k/s, 0"),
    ]


def write(rows: list[Row], path: Path) -> None:
    where = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `python benchmarks/recipes.py` on"
        f" {os.cpu_count()} cores, Python {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version} (WAL, synchronous=FULL); client and store share them;"
        f" {os.getloadavg()[1]:.1f} of the load average of five minutes, so compare within a row."
    )
    lines = [
        "# Recipes on SQLite",
        "",
        where,
        "Peers, in the same run: `eventsourcing` 9.5 (append one by one, fold; WAL) and `dbos` 3.4",
        "(64 workflows at once; rollback journal), both with `synchronous=FULL` too.",
        "",
        "| work | convoca | peer | goal |",
        "|---|---|---|---|",
        *(f"| {row.work} | {row.ours} | {row.peer} | {row.goal} |" for row in rows),
        "",
    ]
    path.write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="of the cold replay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows = asyncio.run(measure(Path(directory), options.events))
    write(rows, Path(__file__).parent / "results" / "recipes.md")


if __name__ == "__main__":
    main()

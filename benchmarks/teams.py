"""Work queues on SQLite beside their peers, in one run: `python benchmarks/teams.py`.

`WorkQueue` beside the queues of `dbos` and beside `huey`, all on SQLite with every commit synced.
Writes `results/teams.md`.  Needs the extra `[bench]`; a peer that is not installed is left out of
the table and said so.  `--waiting 100000` makes the long queue shorter, which takes most of the
time to fill.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from transactional import Put, Store, WorkQueue, connect
from transactional.queues.job import Content, QueueLayout, Record, order_of

WORKERS = 64
PROCESSES = 8


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    work: str
    ours: str
    dbos: str
    huey: str
    goal: str


# --- throughput ----------------------------------------------------------------------------------


async def put_all(queue: WorkQueue, count: int) -> float:
    """Seconds to put `count` jobs, 256 at a time."""
    start_s = perf_counter()
    for first in range(0, count, 256):
        last = min(first + 256, count)
        await asyncio.gather(*(queue.put(f"j{n}", {"n": n}) for n in range(first, last)))
    return perf_counter() - start_s


async def work_off(queue: WorkQueue, workers: int) -> int:
    """Claim and end jobs until there is none; how many."""
    done = 0

    async def worker(name: str) -> None:
        nonlocal done
        while jobs := await queue.claim(name):
            for job in jobs:
                await job.done()
                done += 1

    await asyncio.gather(*(worker(f"w{n}") for n in range(workers)))
    return done


async def in_process(directory: Path, count: int) -> tuple[float, float]:
    """Jobs put per second, and claimed and done per second, by 64 workers of one process."""
    store = await connect(f"sqlite:{directory / 'inside.db'}")
    queue = WorkQueue(store, "q")
    put_s = await put_all(queue, count)
    start_s = perf_counter()
    assert await work_off(queue, WORKERS) == count
    took_s = perf_counter() - start_s
    await queue.close()
    await store.close()
    return count / put_s, count / took_s


def serve(file: Path) -> tuple[subprocess.Popen[str], str]:
    """An authority in a process of its own, and its URL."""
    words = [sys.executable, "-m", "transactional", "serve", str(file), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[2]


def run_together(words: list[str]) -> list[str]:
    """Run eight processes at once; what each printed."""
    workers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    return [worker.communicate()[0] for worker in workers]


async def over_http(directory: Path, count: int) -> float:
    """Jobs claimed and done per second by eight processes of eight workers each."""
    process, url = serve(directory / "served.db")
    store = await connect(url)
    queue = WorkQueue(store, "q")
    await put_all(queue, count)
    words = [sys.executable, __file__, "--work", url]
    outs = await asyncio.to_thread(run_together, words)
    spans = [out.split() for out in outs]
    done = sum(int(span[0]) for span in spans)
    assert done == count, spans
    # From when the first one was ready: the start of an interpreter is not what is measured.
    begun_s = min(float(span[1]) for span in spans)
    ended_s = max(float(span[2]) for span in spans)
    await queue.close()
    await store.close()
    process.terminate()
    process.wait()
    return count / (ended_s - begun_s)


async def work(url: str) -> None:
    """Be one of the eight processes: work until nothing is ready, and say how long it took."""
    store = await connect(url)
    queue = WorkQueue(store, "q")
    begun_s = monotonic()
    done = await work_off(queue, 8)
    print(done, begun_s, monotonic())
    await queue.close()
    await store.close()


# --- latency -------------------------------------------------------------------------------------


async def wake(here: Store, there: Store, name: str, rounds: int) -> float:
    """Median milliseconds from the call of a put to the claim of somebody who waits elsewhere."""
    putting, waiting = WorkQueue(here, name), WorkQueue(there, name)
    took_ms: list[float] = []
    for n in range(rounds):
        claim = asyncio.create_task(waiting.claim("ann", wait_s=30))
        await asyncio.sleep(0.02)
        start_s = perf_counter()
        await putting.put(f"j{n}")
        (job,) = await claim
        took_ms.append((perf_counter() - start_s) * 1e3)
        await job.done()
    await putting.close()
    await waiting.close()
    return statistics.median(took_ms)


async def wakes(directory: Path, rounds: int) -> tuple[float, float]:
    """In one process, and over HTTP with clients of their own."""
    store = await connect(f"sqlite:{directory / 'wake.db'}")
    inside = await wake(store, store, "q", rounds)
    await store.close()
    process, url = serve(directory / "wake-served.db")
    here, there = await connect(url), await connect(url)
    outside = await wake(here, there, "q", rounds)
    await here.close()
    await there.close()
    process.terminate()
    process.wait()
    return inside, outside


# --- a long queue --------------------------------------------------------------------------------


async def fill(store: Store, name: str, count: int, lane: str | None) -> None:
    """Lay `count` jobs into the store as `put` would, 60 to a commit and 8 commits at a time."""
    layout, record = QueueLayout(name), Record().encode()

    async def lay(first: int) -> None:
        writes: list[Put] = []
        for n in range(first, min(first + 60, count)):
            content = Content(f"j{n}", {"n": n}, 1, lane, (), 0, order_of(1, 1_000_000 + n, 0))
            place = layout.queued(content) if lane else layout.ready(content)
            writes += [Put(layout.job(content.id), content.encode()), Put(place, record)]
        await store.commit([], writes)

    for first in range(0, count, 480):
        await asyncio.gather(*(lay(n) for n in range(first, min(first + 480, count), 60)))


async def claims(store: Store, name: str, rounds: int) -> float:
    """Median milliseconds of a claim and its end, one after the other."""
    queue = WorkQueue(store, name)
    took_ms: list[float] = []
    for _ in range(rounds):
        start_s = perf_counter()
        (job,) = await queue.claim("ann")
        await job.done()
        took_ms.append((perf_counter() - start_s) * 1e3)
    await queue.close()
    return statistics.median(took_ms)


async def long_queues(directory: Path, waiting: int, rounds: int) -> tuple[float, float, float]:
    """A claim among a thousand, among `waiting`, and behind `waiting` of a lane that is full."""
    store = await connect(f"sqlite:{directory / 'long.db'}")
    await fill(store, "short", 1000, None)
    await fill(store, "long", waiting, None)
    lanes = WorkQueue(store, "lanes", lanes={"full": 1})
    await lanes.put("first", lane="full", priority=5)
    (held,) = await lanes.claim("bob", lease_s=3600)
    await fill(store, "lanes", waiting, "full")
    for n in range(2 * rounds):
        await lanes.put(f"free{n}", priority=-5)
    # Alternated: what else the machine does meets all three.
    found: list[list[float]] = [[], [], []]
    for _ in range(rounds // 10):
        for number, name in enumerate(("short", "long", "lanes")):
            found[number].append(await claims(store, name, 10))
    await held.done()
    await store.close()
    short, long, lane = map(statistics.median, found)
    return short, long, lane


# --- peers ---------------------------------------------------------------------------------------


def dbos_peer(directory: Path, count: int) -> float:
    """Jobs enqueued and run to their end per second, by a queue of 64 at once."""
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{directory / 'dbos.db'}",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.workflow()
    def job(n: int) -> int:
        return n

    DBOS.launch()
    queue = DBOS.register_queue("q", worker_concurrency=WORKERS, polling_interval_sec=0.05)
    queue.enqueue(job, -1).get_result()
    start_s = perf_counter()
    handles = [queue.enqueue(job, n) for n in range(count)]
    for handle in handles:
        handle.get_result()
    took_s = perf_counter() - start_s
    DBOS.destroy()
    return count / took_s


def huey_peer(directory: Path, count: int) -> float:
    """Jobs enqueued and run to their end per second, by eight threads."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(directory / "huey.db"), fsync=True, results=True)

    @huey.task()
    def job(n: int) -> int:
        return n

    start_s = perf_counter()
    for n in range(count):
        job(n)

    def worker() -> None:
        while (task := huey.dequeue()) is not None:
            huey.execute(task)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (perf_counter() - start_s)


# --- the table -----------------------------------------------------------------------------------


def missing(peer: str) -> bool:
    try:
        __import__(peer)
    except ImportError:
        print(f"{peer} is not installed: its column stays empty (pip install '.[bench]')")
        return True
    return False


async def measure(directory: Path, options: argparse.Namespace) -> list[Row]:
    put, done = await in_process(directory, options.jobs)
    both = 1 / (1 / put + 1 / done)
    dbos = huey = "not installed"
    if not missing("dbos"):
        rate = await asyncio.to_thread(dbos_peer, directory, options.jobs // 20)
        dbos = f"{rate:,.0f}/s ({both / rate:.1f}x)"
    if not missing("huey"):
        rate = await asyncio.to_thread(huey_peer, directory, options.jobs // 4)
        huey = f"{rate:,.0f}/s ({both / rate:.1f}x)"
    http = await over_http(directory, options.jobs)
    inside_ms, outside_ms = await wakes(directory, 100)
    short, long, lane = await long_queues(directory, options.waiting, 200)
    many = f"{options.waiting:,}"
    return [
        Row("put, claim and done, 64 workers", f"{both:,.0f} jobs/s", dbos, huey, "10x dbos"),
        Row("put alone, 256 at once", f"{put:,.0f}/s", "-", "-", "-"),
        Row("claim + done, 64 workers in process", f"{done:,.0f} jobs/s", "-", "-", "3 k/s"),
        Row("claim + done over HTTP, 8 processes", f"{http:,.0f} jobs/s", "-", "-", "1.5 k/s"),
        Row("a waiting worker is woken, in process", f"{inside_ms:.1f} ms", "-", "-", "5 ms"),
        Row("a waiting worker is woken, over HTTP", f"{outside_ms:.1f} ms", "-", "-", "15 ms"),
        Row("claim + done alone, 1,000 ready", f"{short:.2f} ms", "-", "-", "-"),
        Row(f"... {many} ready", f"{long:.2f} ms ({long / short:.2f}x)", "-", "-", "1.5x of 1,000"),
        Row(
            f"... behind {many} of a full lane",
            f"{lane:.2f} ms ({lane / short:.2f}x)",
            "-",
            "-",
            "1.5x of 1,000",
        ),
    ]


def write(rows: list[Row], path: Path) -> None:
    where = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `python benchmarks/teams.py` on"
        f" {os.cpu_count()} cores, Python {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version} (WAL, synchronous=FULL); clients and store share them;"
        f" load average of five minutes {os.getloadavg()[1]:.1f}, so compare within a row."
    )
    lines = [
        "# Work queues on SQLite",
        "",
        where,
        "Peers, in the same run: `dbos` (a queue of 64 at once, polled every 50 ms) and `huey`",
        "(eight threads, `fsync=True`, results kept), each from first enqueue to last result.",
        "",
        "| work | convoca | dbos | huey | goal |",
        "|---|---|---|---|---|",
        *(f"| {r.work} | {r.ours} | {r.dbos} | {r.huey} | {r.goal} |" for r in rows),
        "",
    ]
    path.write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=8000, help="of each throughput")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="of the long queue")
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work))
        return
    with tempfile.TemporaryDirectory() as directory:
        rows = asyncio.run(measure(Path(directory), options))
    write(rows, Path(__file__).parent / "results" / "teams.md")


if __name__ == "__main__":
    main()

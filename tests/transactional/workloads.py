"""Concurrent clients that write down what they do: registers, lists, locks, logs, rooms."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import transactional as t
from tests.transactional.linearizability import (
    LockModel,
    Model,
    QueueModel,
    Recorder,
    RegisterModel,
    ReservationModel,
    by_key,
    linearizable,
    list_append_anomaly,
    log_anomaly,
    operations,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CLIENTS = 5
PATIENCE_S = 0.05
"""Pause after a failure; the store may be back then, or is waited for."""


async def record(  # noqa: PLR0917 the parts of one line of the history
    log: Recorder,
    process: int,
    f: str,
    key: str,
    value: Any,
    act: Callable[[], Awaitable[tuple[Any, int | None]]],
) -> int:
    """Run one operation and write it down; return the process id for the next one."""
    log.add(process, "invoke", f, key, value=value)
    try:
        result, revision = await act()
    except t.OutcomeUnknownError as error:
        log.add(process, "info", f, key, op_id=error.op_id)
        process = log.process()
    except t.UnavailableError:
        log.add(process, "fail", f, key, result="unavailable")
    except t.TransactionalError as error:
        log.add(process, "fail", f, key, result=error.code)
        return process
    else:
        log.add(process, "ok", f, key, result=result, revision=revision)
        return process
    await asyncio.sleep(PATIENCE_S)
    await log.back()
    return process


async def settled(store: t.Store, commit: Callable[..., Awaitable[t.Commit]]) -> int:
    """Make a commit, return its revision; if the answer is lost, ask once what became of it."""
    op_id = store.mint_op_id()
    try:
        return (await commit(op_id=op_id)).revision
    except t.OutcomeUnknownError as lost:
        try:
            outcome = await store.resolve(op_id)
        except t.UnavailableError:
            raise lost from None
        if isinstance(outcome, t.Applied):
            return outcome.commit.revision
        raise t.OpIdFencedError(op_id) from lost


async def register_client(store: t.Store, log: Recorder, dice: random.Random, steps: int) -> None:
    process = log.process()
    known: dict[str, int] = {}
    for step in range(steps):
        key, new = f"r/{dice.randrange(3)}", f"{process}.{step}"
        expected = known.get(key, 0)

        async def read(key: str = key) -> tuple[Any, int | None]:
            found = await store.get(key)
            known[key] = found.revision if found else 0
            return (found.value.decode(), found.revision) if found else None, None

        async def change(
            f: str = "", key: str = key, new: bytes = new.encode(), old: int = expected
        ) -> tuple[Any, int | None]:
            writes: list[t.Write] = [t.Delete(key) if f == "delete" else t.Put(key, new)]
            compares = [t.Revision(key, old)] if f == "cas" else []
            done = await settled(store, partial(store.commit, compares, writes))
            known[key] = 0 if f == "delete" else done
            return None, done

        f = dice.choices(["read", "write", "cas", "delete"], [5, 2, 4, 1])[0]
        act = read if f == "read" else partial(change, f)
        value = {"write": new, "cas": (expected, new)}.get(f)
        process = await record(log, process, f, key, value, act)
        await asyncio.sleep(0)


async def append_client(store: t.Store, log: Recorder, dice: random.Random, steps: int) -> None:
    """Each list is a prefix, each element a key: reading it is reading a range."""
    process = log.process()
    for step in range(steps):
        plan = [
            (dice.choice(["append", "r"]), f"l{dice.randrange(3)}", f"{process}.{step}.{n}")
            for n in range(dice.randint(1, 3))
        ]
        plan = [(what, key, element if what == "append" else None) for what, key, element in plan]

        async def run(plan: list[Any] = plan) -> tuple[Any, int | None]:
            async def work(tx: t.Transaction) -> list[Any]:
                seen: list[Any] = []
                for what, key, element in plan:
                    items = await tx.scan(f"{key}/")
                    if what == "append":
                        tx.put(f"{key}/{len(items):06}", element.encode())
                        seen.append((what, key, element))
                    else:
                        seen.append((what, key, [value.decode() for value in items.values()]))
                return seen

            once = t.Retry(attempts_max=1)
            result, commit = await t.transact(store, work, retry=once)
            return result, commit.revision

        process = await record(log, process, "txn", "", plan, run)
        await asyncio.sleep(0)


async def lock_client(store: t.Store, log: Recorder, dice: random.Random, steps: int) -> None:
    process = log.process()
    lock = t.Lock(store, "the", owner=str(process), ttl_s=1.0)
    for _ in range(max(2, steps // 5)):
        process = await use_lock(store, lock, log, process, dice.randint(1, 3))


async def use_lock(store: t.Store, lock: t.Lock, log: Recorder, process: int, writes: int) -> int:
    """Acquire, write under the fence, release."""
    held: list[t.Grant] = []

    async def acquire() -> tuple[Any, int | None]:
        held.append(await lock.acquire(wait_s=6))
        return None, held[0].token

    async def guarded() -> tuple[Any, int | None]:
        commit = await store.commit([*held[0].fence], [t.Put("guarded", b"")])
        return None, commit.revision

    async def release() -> tuple[Any, int | None]:
        await held[0].release()
        return None, None

    process = await record(log, process, "acquire", "the", None, acquire)
    if held:
        for _ in range(writes):
            process = await record(log, process, "guarded", "the", held[0].token, guarded)
        process = await record(log, process, "release", "the", held[0].token, release)
    return process


BASE = datetime(2025, 2, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def interval(first: int, last: int) -> t.Interval:
    return t.Interval(BASE + first * HOUR, BASE + last * HOUR)


async def agenda_of(rooms: t.Reservations, room: str) -> tuple[Any, int | None]:
    """Who has the room, from when to when in hours, and whether that is confirmed."""
    confirmed = t.BookingState.CONFIRMED
    return [
        (
            b.holder,
            (b.interval.start - BASE) // HOUR,
            (b.interval.end - BASE) // HOUR,
            b.state is confirmed,
        )
        for b in await rooms.agenda(room)
    ], None


async def reservation_client(
    store: t.Store, log: Recorder, dice: random.Random, steps: int, rooms_: int = 2
) -> None:
    """Book, hold and confirm, move, cancel, read the agenda; times cross midnight."""
    process, rooms = log.process(), t.Reservations(store)
    mine: list[t.Booking] = []
    for step in range(steps):
        room = f"room{dice.randrange(rooms_)}"
        first = dice.randrange(-4, 20)
        last = first + dice.randint(1, 5)
        f = dice.choices(["agenda", "book", "hold", "old"], [4, 4, 4, 8 if mine else 0])[0]
        if f == "agenda":
            act = partial(agenda_of, rooms, room)
            process = await record(log, process, f, room, None, act)
        elif f == "old":
            process = await use_booking(rooms, mine, log, process, (first, last))
        else:
            holder = f"{process}.{step}"

            async def make(
                f: str = f, room: str = room, span: Any = (first, last), holder: str = holder
            ) -> tuple[Any, int | None]:
                if f == "hold":
                    made = await rooms.hold(room, interval(*span), holder=holder, ttl_s=600)
                else:
                    made = await rooms.book(room, interval(*span), holder=holder)
                mine.append(made)
                return None, made.revision

            process = await record(log, process, f, room, (holder, first, last), make)
        await asyncio.sleep(0)


async def use_booking(
    rooms: t.Reservations, mine: list[t.Booking], log: Recorder, process: int, span: Any
) -> int:
    """Confirm, move or cancel a booking of one's own; what it does is drawn from the times."""
    booking = mine.pop(span[0] % len(mine))
    f = ("confirm", "move", "cancel")[span[1] % 3]

    async def act() -> tuple[Any, int | None]:
        if f == "cancel":
            return await rooms.cancel(booking), None
        confirming = rooms.confirm(booking) if f == "confirm" else None
        now = await (confirming or rooms.move(booking, interval(*span)))
        mine.append(now)
        return None, now.revision

    return await record(log, process, f, booking.resource, (booking.holder, *span), act)


async def queue_client(store: t.Store, log: Recorder, dice: random.Random, steps: int) -> None:
    """Put jobs, claim and end them; now and then lose the lease, and try to end them still."""
    process = log.process()
    name = dice.choice(["q0", "q1"])
    queue = t.WorkQueue(store, name, attempts_max=1_000_000)
    held: list[t.Job] = []
    for step in range(steps):
        if dice.random() < 0.1:
            with suppress(t.TransactionalError):
                await queue.close()  # and go on with what is held
        f = dice.choice(["put", "put", "claim", "claim", "claim", "end", "end", "end"])
        if f == "put":
            job = f"{process}-{step}"
            process = await record(log, process, f, name, job, partial(put_job, queue, job))
        elif f == "claim" or not held:
            claim = partial(claim_job, queue, str(process), held)
            process = await record(log, process, "claim", name, None, claim)
        else:
            job = held.pop(dice.randrange(len(held)))
            how = dice.choice(["done", "done", "retry", "release"])
            value = [job.id, job.claim.token]
            end = partial(end_job, job, how)
            process = await record(log, process, how, name, value, end)
    with suppress(t.TransactionalError):
        await queue.close()


async def put_job(queue: t.WorkQueue, job: str) -> tuple[Any, int | None]:
    return (await queue.put(job)).state.value, None


async def claim_job(queue: t.WorkQueue, worker: str, held: list[t.Job]) -> tuple[Any, int | None]:
    jobs = await queue.claim(worker, lease_s=1.0)
    held += jobs
    return [[job.id, job.claim.token] for job in jobs], None


async def end_job(job: t.Job, how: str) -> tuple[Any, int | None]:
    await {"done": job.done, "retry": job.retry, "release": job.release}[how]()
    return None, None


async def drained(store: t.Store, name: str) -> tuple[Any, int | None]:
    """What is left in a queue at one point in time: ready, claimed or parked.

    Each state is a read of its own, and a job that was dropped with its client's frame goes back in
    the background: between two of the reads it would be missed.  So the look is compared.
    """
    queue, prefix = t.WorkQueue(store, name), f"queue/{name}/"
    while True:
        before = (await store.scan(prefix, limit=1)).revision
        states = ("ready", "claimed", "parked")
        left = sorted([info.id for state in states async for info in queue.jobs(state)])
        with suppress(t.ConflictError):
            await store.commit([t.Unchanged(prefix, before)], [])
            return left, None


class LogClient:
    """What one client of a log does and knows."""

    def __init__(self, events: t.EventLog, dice: random.Random) -> None:
        self.events = events
        self.dice = dice
        self.known: dict[str, int] = {}
        self.tail = 0

    def plan(self, name: str) -> tuple[str, Any]:
        """What to do next: batches of one to five, or a read by version, by position, of a tail."""
        f = self.dice.choices(["append", "read", "read_all", "tail"], [8, 4, 1, 1])[0]
        stream = f"s{self.dice.randrange(3)}"
        if f == "read":
            nearly = max(0, self.known.get(stream, 0) - self.dice.randrange(6))
            return f, (stream, self.dice.choice([0, 0, nearly]))
        if f != "append":
            return f, self.tail if f == "tail" else 0
        streams = dict.fromkeys([stream, *(["s0"] if self.dice.random() < 0.2 else [])])
        sure = [s for s in streams if s in self.known and self.dice.random() < 0.4]
        counts = {s: self.dice.randint(1, 5) for s in streams}
        parts = {s: [f"{name}.{s}.{n}" for n in range(counts[s])] for s in streams}
        return f, {"parts": parts, "expected": {s: self.known[s] for s in sure}}

    async def act(self, name: str, f: str, value: Any) -> tuple[Any, int | None]:
        if f == "append":
            return await self.append(name, value["parts"], value["expected"]), None
        if f == "read":
            stream, after = value
            seen = [event async for event in self.events.read(stream, after=after)]
            self.known[stream] = after + len(seen)
            return [(event.version, event.data) for event in seen], None
        if f == "read_all":
            return await whole_log(self.events), None
        followed: list[Any] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                async for e in self.events.follow(after=self.tail):
                    followed += [(e.position, e.stream, e.version, e.data)]
        self.tail += len(followed)
        return followed, None

    async def append(
        self, name: str, parts: dict[str, list[str]], expected: dict[str, int]
    ) -> dict[str, Any]:
        new = {stream: [t.NewEvent("E", each) for each in data] for stream, data in parts.items()}
        try:
            made = await self.events.append_many(new, expected=expected, op_id=name)
        except t.WrongVersionError as error:
            self.known[error.stream] = error.actual
            return {"refused": [error.stream, error.actual]}
        self.known.update(made.versions)
        first, last = made.first_position, made.last_position
        return {"first": first, "last": last, "versions": dict(made.versions)}


async def log_client(
    store: t.Store,
    log: Recorder,
    dice: random.Random,
    steps: int,
    opened: Callable[[t.Store], t.EventLog] = t.EventLog,
) -> None:
    process, client = log.process(), LogClient(opened(store), dice)
    for step in range(steps):
        name = f"{process}.{step}"
        f, value = client.plan(name)
        act = partial(client.act, name, f, value)
        process = await record(log, process, f, "", value, act)
        await asyncio.sleep(0)


async def whole_log(events: t.EventLog) -> list[Any]:
    return [(e.position, e.stream, e.version, e.data) async for e in events.read_all()]


async def look_back(workload: str, store: t.Store, log: Recorder) -> None:
    """When all is quiet, look once at everything: nothing that was acknowledged is missing."""
    process = log.process()
    looks: list[tuple[str, str, Any, Callable[[], Awaitable[tuple[Any, int | None]]]]] = []
    if workload == "log":
        client = LogClient(t.EventLog(store), random.Random())
        reads: list[tuple[str, Any]] = [("read", (f"s{n}", 0)) for n in range(3)]
        for f, value in [*reads, ("read_all", 0)]:
            looks.append((f, "", value, partial(client.act, "", f, value)))
    if workload == "register":
        for key in (f"r/{n}" for n in range(3)):

            async def read(key: str = key) -> tuple[Any, int | None]:
                found = await store.get(key)
                return (found.value.decode(), found.revision) if found else None, None

            looks.append(("read", key, None, read))
    if workload == "append":
        plan = [("r", f"l{n}", None) for n in range(3)]

        async def read_all() -> tuple[Any, int | None]:
            lists = [(key, (await store.scan(f"{key}/")).items) for _, key, _ in plan]
            return [("r", k, [v.value.decode() for v in items.values()]) for k, items in lists], 0

        looks.append(("txn", "", plan, read_all))
    if workload == "reservation":
        rooms = t.Reservations(store)
        looks += [("agenda", r, None, partial(agenda_of, rooms, r)) for r in ("room0", "room1")]
    if workload == "queue":
        looks += [("left", q, None, partial(drained, store, q)) for q in ("q0", "q1")]
    for f, key, value, act in looks:
        process = await record(log, process, f, key, value, act)


WORKLOADS = {
    "register": register_client,
    "append": append_client,
    "lock": lock_client,
    "reservation": reservation_client,
    "log": log_client,
    "queue": queue_client,
}


def anomaly(workload: str, events: Sequence[dict[str, Any]], *, expires: bool = True) -> str | None:
    """Return what is wrong with a recorded history, None if nothing is."""
    history = operations(events)
    if workload == "append":
        return list_append_anomaly(history)
    if workload == "log":
        return log_anomaly(history)
    models: dict[str, Model] = {
        "register": RegisterModel(),
        "lock": LockModel(expires=expires),
        "reservation": ReservationModel(),
        "queue": QueueModel(),
    }
    model = models[workload]
    wrong = [key for key, part in by_key(history).items() if not linearizable(part, model)]
    return f"not linearizable: {wrong}" if wrong else None


async def run(
    workload: str,
    stores: list[t.Store],
    seed: int,
    *,
    steps: int = 25,
    log: Recorder | None = None,
    client: Callable[..., Awaitable[None]] | None = None,
    settle: Callable[[], Awaitable[None]] | None = None,
) -> Recorder:
    """Run a client of a workload for each store, at least five; return what they saw.

    ``settle`` makes an end of the trouble, before the last look is taken.
    """
    log, dice = log or Recorder(), random.Random(seed)
    client = client or WORKLOADS[workload]
    work = [
        client(stores[number % len(stores)], log, random.Random(dice.random()), steps)
        for number in range(max(CLIENTS, len(stores)))
    ]
    await asyncio.gather(*work)
    if settle is not None:
        await settle()
    await look_back(workload, stores[0], log)
    return log

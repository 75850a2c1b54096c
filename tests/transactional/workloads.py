"""Concurrent clients that write down what they do: register, list append, lock, event log."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import transactional as t
from tests.transactional.linearizability import (
    LockModel,
    Recorder,
    RegisterModel,
    by_key,
    linearizable,
    list_append_anomaly,
    log_anomaly,
    operations,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
    await log.up.wait()
    return process


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

        async def write(key: str = key, new: str = new) -> tuple[Any, int | None]:
            commit = await store.commit([], [t.Put(key, new.encode())])
            known[key] = commit.revision
            return None, commit.revision

        async def cas(key: str = key, new: str = new, old: int = expected) -> tuple[Any, int]:
            commit = await t.compare_and_swap(store, key, new.encode(), expected=old)
            known[key] = commit.revision
            return None, commit.revision

        async def delete(key: str = key) -> tuple[Any, int | None]:
            return None, (await store.commit([], [t.Delete(key)])).revision

        f = dice.choices(["read", "write", "cas", "delete"], [5, 2, 4, 1])[0]
        act = {"read": read, "write": write, "cas": cas, "delete": delete}[f]
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


async def look_back(store: t.Store, log: Recorder) -> None:
    """When all is quiet: the log by position and each stream by version."""
    process, client = log.process(), LogClient(t.EventLog(store), random.Random())
    looks: list[tuple[str, Any]] = [("read", (f"s{n}", 0)) for n in range(3)]
    for f, value in [*looks, ("read_all", 0)]:
        process = await record(log, process, f, "", value, partial(client.act, "", f, value))


WORKLOADS = {
    "register": register_client,
    "append": append_client,
    "lock": lock_client,
    "log": log_client,
}


def anomaly(workload: str, log: Recorder, *, expires: bool = True) -> str | None:
    """Return what is wrong with a recorded history, None if nothing is."""
    history = operations(log.events)
    if workload == "append":
        return list_append_anomaly(history)
    if workload == "log":
        return log_anomaly(history)
    model = RegisterModel() if workload == "register" else LockModel(expires=expires)
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
    if workload == "log":
        await look_back(stores[0], log)
    return log

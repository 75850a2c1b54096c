"""Concurrent clients that write down what they do: register, list append, lock."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import transactional as t
from tests.transactional.linearizability import (
    LockModel,
    Recorder,
    RegisterModel,
    by_key,
    linearizable,
    list_append_anomaly,
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


WORKLOADS = {"register": register_client, "append": append_client, "lock": lock_client}


def anomaly(workload: str, log: Recorder, *, expires: bool = True) -> str | None:
    """Return what is wrong with a recorded history, None if nothing is."""
    history = operations(log.events)
    if workload == "append":
        return list_append_anomaly(history)
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
) -> Recorder:
    """Run five clients of a workload; return what they saw."""
    log, dice = log or Recorder(), random.Random(seed)
    client = WORKLOADS[workload]
    work = [
        client(stores[number % len(stores)], log, random.Random(dice.random()), steps)
        for number in range(CLIENTS)
    ]
    await asyncio.gather(*work)
    return log

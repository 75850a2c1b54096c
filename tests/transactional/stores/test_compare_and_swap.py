"""Compare-and-swap under contention, on every engine: no update is lost, no value comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.counting import count, total

if TYPE_CHECKING:
    from tests.transactional.engines import Engine


async def test_fifty_tasks_add_two_hundred_each_and_none_is_lost(engine: Engine) -> None:
    """[transactional 1] 50 tasks x 200 update(+1) make 10 000; reading and putting loses some."""
    clients = [await engine.client() for _ in range(4)]
    each = rounds(200, 10)

    async def add(store: t.Store) -> None:
        for _ in range(each):
            await t.update(store, "n", lambda value: b"%d" % (count(value) + 1))

    async def add_naively(store: t.Store) -> None:
        for _ in range(each):
            found = await store.get("naive")
            await asyncio.sleep(0)
            value = count(found.value if found else None)
            await store.commit([], [t.Put("naive", b"%d" % (value + 1))])

    await asyncio.gather(*[add(clients[number % 4]) for number in range(50)])
    await asyncio.gather(*[add_naively(clients[number % 4]) for number in range(50)])
    assert await total(clients[0], "n") - await total(clients[0], "naive") == 50 * each
    assert 0 < await total(clients[0], "naive") < 50 * each


async def test_a_value_that_came_back_is_not_the_value_that_was_read(store: t.Store) -> None:
    """[transactional 2] A to B to A, or deleted and made again: the old revision conflicts."""
    first = await store.commit([], [t.Put("a", b"A")])
    await store.commit([], [t.Put("a", b"B")])
    await store.commit([], [t.Put("a", b"A")])
    with pytest.raises(t.ConflictError):
        await t.compare_and_swap(store, "a", b"C", expected=first.revision)
    again = await store.get("a")
    assert again is not None
    await store.commit([], [t.Delete("a")])
    await t.create(store, "a", b"A")
    with pytest.raises(t.ConflictError):
        await t.compare_and_swap(store, "a", b"C", expected=again.revision)


async def test_of_a_hundred_creators_one_wins_and_the_rest_learn_who(engine: Engine) -> None:
    """[transactional 3] 99 creators are told the winner's revision."""
    clients = [await engine.client() for _ in range(4)]

    async def attempt(number: int) -> t.Commit | t.ConflictError:
        try:
            return await t.create(clients[number % 4], "a", b"%d" % number)
        except t.ConflictError as error:
            return error

    results = await asyncio.gather(*[attempt(number) for number in range(100)])
    (winner,) = [result for result in results if isinstance(result, t.Commit)]
    losers = [result for result in results if isinstance(result, t.ConflictError)]
    assert len(losers) == 99
    told = [loser.current["a"] for loser in losers]
    assert {found.revision for found in told if found is not None} == {winner.revision}


async def test_a_transfer_that_is_cut_anywhere_keeps_the_sum(engine: Engine) -> None:
    """[transactional 5] Transfers cancelled at random awaits: every read sees the same sum."""
    store, reader = await engine.client(), await engine.client()
    await store.commit([], [t.Put("account/a", b"500"), t.Put("account/b", b"500")])
    dice = random.Random(seeds(1)[0])
    done = asyncio.Event()

    async def transfer(tx: t.Transaction) -> None:
        a, b = count(await tx.get("account/a")), count(await tx.get("account/b"))
        amount = dice.randint(-20, 20)
        tx.put("account/a", b"%d" % (a - amount))
        tx.put("account/b", b"%d" % (b + amount))

    async def watch_the_sum() -> int:
        reads = 0
        while not done.is_set():
            snapshot = await reader.get_many(["account/a", "account/b"])
            assert sum(count(item.value) for item in snapshot.items.values()) == 1000
            reads += 1
            await asyncio.sleep(0)
        return reads

    watching = asyncio.create_task(watch_the_sum())
    for _ in range(rounds(400, 60)):
        task = asyncio.create_task(t.transact(store, transfer))
        for _ in range(dice.randint(0, 12)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    done.set()
    assert await watching > 0
    assert await total(store, "account/") == 1000


async def test_two_hundred_tasks_on_one_key_finish_in_few_attempts(engine: Engine) -> None:
    """[transactional 6] 200 tasks over 8 clients: all finish, 99 of 100 within 8 attempts."""
    clients = [await engine.client() for _ in range(8)]
    attempts: list[int] = []

    async def add(store: t.Store) -> None:
        tries = 0

        def plus_one(value: bytes | None) -> bytes:
            nonlocal tries
            tries += 1
            return b"%d" % (count(value) + 1)

        await t.update(store, "n", plus_one)
        attempts.append(tries)

    await asyncio.gather(*[add(clients[number % 8]) for number in range(200)])
    assert await total(clients[0], "n") == 200
    assert sorted(attempts)[198] <= 8

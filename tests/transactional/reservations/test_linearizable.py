"""Histories of concurrent bookings are linearizable on every engine; a planted fault is caught."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.authority import AuthorityProcess, Relay
from tests.transactional.linearizability import Operation, Recorder, linearizable, operations
from tests.transactional.trouble import Trouble
from tests.transactional.workloads import record
from transactional.stores.http import HTTPStore

BASE = datetime(2025, 2, 1, 12, tzinfo=UTC)


def interval(first: int, last: int) -> t.Interval:
    return t.Interval(BASE + timedelta(hours=first), BASE + timedelta(hours=last))


def span(booking: t.Booking) -> tuple[int, int]:
    hour = timedelta(hours=1)
    return ((booking.interval.start - BASE) // hour, (booking.interval.end - BASE) // hour)


class ReservationModel:
    """One room.  State: the intervals that are booked, each with its holder, unique per attempt."""

    def initial(self) -> frozenset:
        return frozenset()

    def step(self, state: frozenset, operation: Operation) -> frozenset | None:
        if operation.kind == "fail" and operation.result != "booking_conflict":
            return state
        if operation.f == "agenda":
            known = operation.result is not None
            return None if known and frozenset(operation.result) != state else state
        holder, first, last = operation.value
        if operation.f == "cancel":
            mine = (holder, first, last)
            if operation.result is not None and operation.result != (mine in state):
                return None
            return state - {mine}
        taken = any(
            first < other_last and other_first < last for _, other_first, other_last in state
        )
        if operation.kind == "fail":
            return state if taken else None
        return None if taken else state | {(holder, first, last)}


async def booking_client(store, log: Recorder, dice: random.Random, steps: int) -> None:
    process = log.process()
    rooms = t.Reservations(store)
    mine: list[t.Booking] = []
    for step in range(steps):
        roll = dice.random()
        if roll < 0.2:

            async def agenda():
                seen = await rooms.agenda("room")
                return [(b.holder, *span(b)) for b in seen], None

            process = await record(log, process, "agenda", "room", None, agenda)
        elif roll < 0.5 and mine:
            booking = mine.pop(dice.randrange(len(mine)))
            value = (booking.holder, *span(booking))

            async def cancel(booking=booking):
                return await rooms.cancel(booking), None

            process = await record(log, process, "cancel", "room", value, cancel)
        else:
            first = dice.randrange(-4, 20)  # around midnight
            last = first + dice.randint(1, 5)
            holder = f"{process}.{step}"

            async def book(first=first, last=last, holder=holder):
                made = await rooms.book("room", interval(first, last), holder=holder)
                mine.append(made)
                return None, made.revision

            process = await record(log, process, "book", "room", (holder, first, last), book)
        await asyncio.sleep(0)


async def run(stores, seed: int, steps: int = 20, log: Recorder | None = None) -> bool:
    log, dice = log or Recorder(), random.Random(seed)
    await asyncio.gather(
        *(
            booking_client(stores[n % len(stores)], log, random.Random(dice.random()), steps)
            for n in range(5)
        )
    )
    return linearizable(operations(log.events), ReservationModel())


@pytest.mark.parametrize("seed", seeds(rounds(20)))
async def test_bookings_are_linearizable(engine, seed):
    """Some serial order explains every booking, refusal, cancellation and agenda."""
    print(f"replay: CONVOCA_SEED={seed}")
    assert await run([await engine.client(), await engine.client()], seed)


class Proxy:
    """A store in which something is amiss with commits."""

    def __init__(self, store, dice: random.Random) -> None:
        self._store, self._dice = store, dice

    def __getattr__(self, name):
        return getattr(self._store, name)


class WithoutPrefixes(Proxy):
    """Planted: a range that was read is not compared."""

    async def commit(self, compares, writes, otherwise=(), *, op_id=None):
        kept = [compare for compare in compares if not isinstance(compare, t.Unchanged)]
        await asyncio.sleep(0)
        return await self._store.commit(kept, writes, otherwise, op_id=op_id)


class LosesAnswers(Proxy):
    """Trouble that recipes must bear: now and then an answer is lost, applied or not."""

    async def commit(self, compares, writes, otherwise=(), *, op_id=None):
        op_id = op_id or self._store.mint_op_id()
        if self._dice.random() < 0.1:
            raise t.OutcomeUnknownError(op_id, "lost on the way there")
        made = await self._store.commit(compares, writes, otherwise, op_id=op_id)
        if self._dice.random() < 0.2:
            raise t.OutcomeUnknownError(op_id, "lost on the way back")
        return made


async def test_a_store_that_does_not_compare_ranges_is_caught(store):
    """Overlaps get in and no order explains them."""
    dice = random.Random(1)
    clients = [WithoutPrefixes(store, dice) for _ in range(5)]
    assert not await run(clients, 1)


async def test_lost_answers_do_no_harm(store):
    """Each lost answer is asked for again; no booking is made twice, none is forgotten."""
    seed = seeds(1)[0]
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    assert await run([LosesAnswers(store, dice) for _ in range(3)], seed)


@pytest.mark.processes
@pytest.mark.parametrize("trouble", ["kill", "pause", "drop"])
async def test_bookings_stay_linearizable_in_trouble(trouble, tmp_path):
    """The authority is killed with -9 and restarted, stopped, or loses answers: an order exists."""
    for seed in seeds(rounds(20, 1)):
        print(f"replay: CONVOCA_SEED={seed}")
        authority = AuthorityProcess(tmp_path / f"{seed}.db")
        await authority.start()
        relay = Relay(authority.port)
        await relay.start()
        stores = [await HTTPStore.open(relay.url) for _ in range(2)]
        log = Recorder()
        made = Trouble(authority, relay, log, random.Random(seed))
        troubling = asyncio.create_task(getattr(made, trouble)())
        sound = await run(stores, seed, log=log)
        made.over.set()
        await troubling
        for store in stores:
            await store.close()
        await relay.stop()
        await authority.stop()
        assert any(event["type"] == "ok" for event in log.events), "nothing was tested"
        assert sound

"""Histories of concurrent bookings are linearizable on every engine; a planted fault is caught."""

from __future__ import annotations

import asyncio
import random

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional import workloads
from tests.transactional.workloads import anomaly


async def run(stores, seed: int) -> str | None:
    clients = [stores[n % len(stores)] for n in range(5)]
    log = await workloads.run("reservation", clients, seed, steps=20)
    return anomaly("reservation", log.events)


@pytest.mark.parametrize("seed", seeds(rounds(20)))
async def test_bookings_are_linearizable(engine, seed):
    """Some serial order explains every booking, refusal, cancellation and agenda."""
    print(f"replay: CONVOCA_SEED={seed}")
    assert await run([await engine.client(), await engine.client()], seed) is None


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
    assert await run(clients, 1) is not None


async def test_lost_answers_do_no_harm(store):
    """Each lost answer is asked for again; no booking is made twice, none is forgotten."""
    seed = seeds(1)[0]
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    assert await run([LosesAnswers(store, dice) for _ in range(3)], seed) is None

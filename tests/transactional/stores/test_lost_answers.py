"""Loops around a commit whose answers are lost: each takes effect once."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.counting import count
from transactional.retry import propose

if TYPE_CHECKING:
    from tests.transactional.engines import Engine


class Lossy:
    """A store whose commits are lost on the way there or on the way back, as the dice say."""

    def __init__(self, store: t.Store, dice: random.Random, share: float = 0.3) -> None:
        self._store = store
        self._dice = dice
        self._share = share
        self.lost_before = self.lost_after = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None) -> t.Commit:
        op_id = op_id or self._store.mint_op_id()
        fate = self._dice.random()
        if fate < self._share / 2:
            self.lost_before += 1
            raise t.OutcomeUnknownError(op_id, "lost on the way there")
        commit = await self._store.commit(compares, writes, otherwise, op_id=op_id)
        if fate < self._share:
            self.lost_after += 1
            raise t.OutcomeUnknownError(op_id, "lost on the way back")
        return commit


async def test_update_counts_every_increment_once_though_answers_are_lost(
    engine: Engine,
) -> None:
    """[transactional 7] A third of all answers are lost: update still adds exactly once each."""
    dice = random.Random(seeds(1)[0])
    clients = [Lossy(await engine.client(), dice) for _ in range(4)]
    patient = t.Retry(attempts_max=200)
    returned: list[int] = []

    async def add(store: Lossy) -> None:
        for _ in range(rounds(100, 10)):
            written = await t.update(
                store, "n", lambda value: b"%d" % (count(value) + 1), retry=patient
            )
            returned.append(count(written.value))

    await asyncio.gather(*[add(client) for client in clients])
    assert sorted(returned) == list(range(1, len(returned) + 1))
    assert sum(client.lost_before + client.lost_after for client in clients)


async def test_a_lost_answer_reaches_a_caller_who_does_not_insist(store: t.Store) -> None:
    """[transactional 7] propose without attempts left raises OutcomeUnknownError, resolvable."""
    lossy = Lossy(store, random.Random(0), share=1.0)
    with pytest.raises(t.OutcomeUnknownError) as caught:
        await t.update(lossy, "n", lambda _: b"1", retry=t.Retry(attempts_max=1))
    outcome = await store.resolve(caught.value.op_id)
    assert isinstance(outcome, t.Applied) == (await store.get("n") is not None)


async def test_a_loop_that_meets_only_conflicts_gives_up_within_its_budget(
    store: t.Store,
) -> None:
    """RetriesExhaustedError is a definite conflict and counts the attempts."""
    from transactional.retry import Decision

    await store.commit([], [t.Put("a", b"")])
    made = 0

    async def hopeless(_: t.ConflictError | None) -> Decision[None]:
        nonlocal made
        made += 1
        return Decision(None, [t.Absent("a")], [t.Put("a", b"")])

    retry = t.Retry(base_s=0.0001, cap_s=0.001, attempts_max=5)
    with pytest.raises(t.RetriesExhaustedError) as caught:
        await propose(store, hopeless, retry=retry)
    assert caught.value.attempts == made == 5

"""What a recipe is told about a commit is true, whatever was lost on the way."""

from __future__ import annotations

import pytest

from transactional import (
    OutcomeUnknownError,
    Put,
    Retry,
    Revision,
    Saga,
    Sagas,
    SagaState,
    Step,
    StepRefused,
    UnavailableError,
)
from transactional.retry import settled_commit
from transactional.stores.memory import MemoryStore

SOON = Retry(base_s=0.001, cap_s=0.002, attempts_max=3)


class Dying:
    """A store whose commit number `at` is applied and its answer lost; it is away for `away`."""

    def __init__(self, store: MemoryStore, at: int, away: int) -> None:
        self.store = store
        self._at = at
        self._away = away
        self._commits = 0

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None):
        self._commits += 1
        if self._at < self._commits <= self._at + self._away:
            raise UnavailableError("connection refused")
        commit = await self.store.commit(compares, writes, otherwise, op_id=op_id)
        if self._commits == self._at:
            raise OutcomeUnknownError(op_id, "the reply was lost")
        return commit


async def test_a_lost_answer_is_not_forgotten_when_the_store_goes_away():
    """An authority dies: the reply is lost, then connections are refused.

    The second failure is definite, the operation is not: it was told as "nothing was written" once,
    about a key that was there.
    """
    store = Dying(MemoryStore(), at=1, away=100)
    with pytest.raises(OutcomeUnknownError):
        await settled_commit(store, [], [Put("k", b"v")], retry=SOON)
    assert (await store.get("k")).value == b"v"
    back = Dying(MemoryStore(), at=1, away=2)
    assert (await settled_commit(back, [Revision("k", 0)], [Put("k", b"v")])).revision == 1


async def test_a_store_that_is_away_all_the_time_has_written_nothing():
    """Without a lost answer the refusal is definite."""
    store = Dying(MemoryStore(), at=0, away=100)
    with pytest.raises(UnavailableError):
        await settled_commit(store, [], [Put("k", b"v")], retry=SOON)
    assert await store.get("k") is None


@pytest.mark.parametrize("at", range(1, 8))
async def test_a_saga_records_each_outcome_once(at):
    """The driver's record was applied and its answer lost; then the store was away for a moment.

    The driver once met its own record as a conflict, took it for a person's word and recorded the
    outcome a second time: a step was compensated twice.
    """
    store, undone = Dying(MemoryStore(), at=at, away=1), []

    def refuse(_):
        raise StepRefused("sold out")

    def undo(step):
        undone.append(step.step)

    saga = Saga(
        "o", [Step("a", lambda _: 1, undo), Step("b", lambda _: 1, undo), Step("c", refuse)]
    )
    async with Sagas(store, [saga]) as sagas:
        run = await sagas.execute("o", "1")
    assert run.state is SagaState.COMPENSATED
    assert run.compensated_steps == ("b", "a")
    assert undone == ["b", "a"]
    kinds = [(record.kind, record.step) for record in run.history]
    assert len(kinds) == len(set(kinds))

"""An op_id names one operation: repeats, resolve and fences, on every engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds
from tests.transactional.counting import total
from transactional.store import mint_op_id

if TYPE_CHECKING:
    from tests.transactional.engines import Engine


async def test_a_repeat_returns_the_first_result_and_changes_nothing(store: t.Store) -> None:
    """[transactional 7] Blind repeat with the op_id: same commit, no second effect."""
    first = await store.commit([t.Absent("a")], [t.Put("a", b"1")], op_id="order-17")
    await store.commit([], [t.Put("a", b"2")])
    repeat = await store.commit([t.Absent("a")], [t.Put("a", b"1")], op_id="order-17")
    assert repeat == first
    assert repeat.replayed
    found = await store.get("a")
    assert found is not None
    assert found.value == b"2"


async def test_resolve_says_applied_of_what_was_applied(store: t.Store) -> None:
    """[transactional 7] resolve returns the commit, for minted and for callers' own op_ids."""
    for op_id in (store.mint_op_id(), "order-17"):
        commit = await store.commit([], [t.Put("a", b"1")], op_id=op_id)
        outcome = await store.resolve(op_id)
        assert isinstance(outcome, t.Applied)
        assert outcome.commit == commit


async def test_resolve_fences_off_what_was_not_applied(store: t.Store) -> None:
    """[transactional 7] After resolve said Fenced, a late arrival of the commit is refused."""
    for op_id in (store.mint_op_id(), "order-18"):
        assert await store.resolve(op_id) == t.Fenced(op_id)
        assert await store.resolve(op_id) == t.Fenced(op_id)
        with pytest.raises(t.OpIdFencedError):
            await store.commit([], [t.Put("late", b"")], op_id=op_id)
    assert await store.get("late") is None


async def test_one_op_id_twice_at_once_has_one_effect(engine: Engine) -> None:
    """[transactional 8] Two clients send the same commit at once: one effect, one result."""
    one, other = await engine.client(), await engine.client()
    for number in range(rounds(200, 20)):
        before = await total(one, "n")

        async def add(store: t.Store, before: int = before, name: str = f"op-{number}") -> t.Commit:
            return await store.commit([], [t.Put("n", b"%d" % (before + 1))], op_id=name)

        commits = await asyncio.gather(*[add(store) for store in (one, other, one, other)])
        assert len({commit.revision for commit in commits}) == 1
        assert sum(not commit.replayed for commit in commits) == 1


async def test_one_op_id_for_two_contents_is_refused(store: t.Store) -> None:
    """The same op_id with another content is OperationIdReusedError; the first stands."""
    await store.commit([], [t.Put("a", b"1")], op_id="x")
    with pytest.raises(t.OperationIdReusedError):
        await store.commit([], [t.Put("a", b"2")], op_id="x")
    with pytest.raises(t.OperationIdReusedError):
        await store.commit([], [t.Put("a", b"1"), t.Delete("b")], op_id="x")
    found = await store.get("a")
    assert found is not None
    assert found.value == b"1"


async def test_a_conflict_does_not_use_up_the_op_id(store: t.Store) -> None:
    """A refused commit left no record: the same op_id may carry the next attempt."""
    await store.commit([], [t.Put("a", b"1")])
    with pytest.raises(t.ConflictError):
        await store.commit([t.Absent("a")], [t.Put("a", b"2")], op_id="x")
    await store.commit([], [t.Put("a", b"3")], op_id="x")


async def test_an_op_id_of_another_life_is_refused(store: t.Store) -> None:
    """A minted op_id carries the epoch; one of another epoch wrote nothing and says so."""
    foreign = mint_op_id("0123abcd", 0)
    with pytest.raises(t.EpochMismatchError):
        await store.commit([], [t.Put("a", b"")], op_id=foreign)
    with pytest.raises(t.EpochMismatchError):
        await store.resolve(foreign)


async def test_one_bad_operation_among_sixty_four_harms_only_itself(store: t.Store) -> None:
    """[transactional 9] 63 good commits and one that cannot be: 63 are written."""
    await store.commit([], [t.Put("used", b"")], op_id="used")

    async def write(number: int) -> t.Commit:
        if number == 31:
            return await store.commit([], [t.Put("bad", b"other")], op_id="used")
        return await store.commit([], [t.Put(f"good/{number:02}", b"")])

    results = await asyncio.gather(*map(write, range(64)), return_exceptions=True)
    assert sum(isinstance(result, t.Commit) for result in results) == 63
    assert isinstance(results[31], t.OperationIdReusedError)
    assert len((await store.scan("good/")).items) == 63
    assert await store.get("bad") is None


async def test_an_op_id_of_a_revision_to_come_was_minted_by_nobody(store: t.Store) -> None:
    """Its record would be kept and looked for by the wrong revision; it is refused, fenced or not.

    Such an op_id was applied again after a restart, and so was one that had been fenced.
    """
    revision = (await store.commit([], [t.Put("a", b"")])).revision
    forged = f"op:{store.epoch}:{revision + 1_000_000}:{'0' * 16}"
    with pytest.raises(t.InvalidRequestError):
        await store.commit([], [t.Put("a", b"x")], op_id=forged)
    with pytest.raises(t.InvalidRequestError):
        await store.resolve(forged)
    present = f"op:{store.epoch}:{revision}:{'0' * 16}"
    assert not (await store.commit([], [t.Put("a", b"x")], op_id=present)).replayed

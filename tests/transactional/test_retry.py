"""The loops around commit: what they say about the state is true, however unlucky they were."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import transactional as t
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Try = tuple[Any, ...]


class Scripted:
    """A store whose commits follow a script, one coroutine function per commit."""

    def __init__(self) -> None:
        self.real = MemoryStore()
        self.script: list[Callable[[Try], Awaitable[t.Commit]]] = []
        self.sent: list[Try] = []
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def get(self, key: str) -> t.KeyValue | None:
        if self.away:
            raise t.UnavailableError("away")
        return await self.real.get(key)

    async def resolve(self, op_id: str) -> t.Applied | t.Fenced:
        if self.away:
            raise t.UnavailableError("away")
        return await self.real.resolve(op_id)

    async def commit(
        self,
        compares: Sequence[t.Compare],
        writes: Sequence[t.Write],
        otherwise: Sequence[t.Write] = (),
        *,
        op_id: str | None = None,
    ) -> t.Commit:
        assert not otherwise
        self.sent.append((compares, writes, op_id))
        step = self.script.pop(0) if self.script else self.apply
        return await step(self.sent[-1])

    async def apply(self, sent: Try) -> t.Commit:
        return await self.real.commit(sent[0], sent[1], op_id=sent[2])

    async def lose(self, sent: Try) -> t.Commit:
        """It is still on its way."""
        raise t.OutcomeUnknownError(sent[2], "lost")

    async def lose_answer(self, sent: Try) -> t.Commit:
        """It was applied, its answer was lost."""
        await self.apply(sent)
        raise t.OutcomeUnknownError(sent[2], "lost")

    async def after_rival(self, sent: Try) -> t.Commit:
        """Somebody else was faster."""
        await self.real.commit([], [t.Put("k", b"rival")])
        return await self.apply(sent)

    async def after_first_came_late(self, sent: Try) -> t.Commit:
        """The rival's key is gone, and the first commit of all arrives at last."""
        await self.real.commit([], [t.Delete("k")])
        await self.apply(self.sent[0])
        if self.go_away:
            self.away = True
        return await self.apply(sent)

    async def conflict(self, _: Try) -> t.Commit:
        """What a proxy makes of it: the repeat is told that somebody was faster."""
        raise t.ConflictError((t.Absent("k"),), {"k": await self.real.get("k")}, 1)

    go_away = False


async def test_a_doubted_proposal_that_cannot_be_asked_about_is_not_called_unwritten() -> None:
    """A lost, rival, delete, late A applied, B refused, store away: unknown, not unavailable.

    The caller was told "nothing was written" while the store held what he wrote.
    """
    store = Scripted()
    store.go_away = True
    store.script = [store.lose, store.after_rival, store.after_first_came_late]
    with pytest.raises(t.OutcomeUnknownError) as caught:
        await t.update(store, "k", lambda _: b"mine")
    outcome = await store.real.resolve(caught.value.op_id)
    assert isinstance(outcome, t.Applied)
    found = await store.real.get("k")
    assert found is not None
    assert found.value == b"mine"


async def test_a_doubted_proposal_that_came_late_is_the_result() -> None:
    """The same story with a store that can be asked: update returns what A wrote."""
    store = Scripted()
    store.script = [store.lose, store.after_rival, store.after_first_came_late]
    written = await t.update(store, "k", lambda old: b"after " + old if old else b"mine")
    assert written == await store.real.get("k")
    assert written.value == b"mine"


async def test_what_the_function_raises_means_that_nothing_is_written_later_either() -> None:
    """A lost, a rival, fn raises: A is fenced off before the error goes out, a late A is refused.

    The key is deleted again meanwhile, so nothing but the fence stands in the way of A.
    """
    store = Scripted()
    store.script = [store.lose, store.after_rival]

    def once(old: bytes | None) -> bytes:
        if old is not None:
            raise ValueError("taken")
        return b"mine"

    with pytest.raises(ValueError, match="taken"):
        await t.update(store, "k", once)
    await store.real.commit([], [t.Delete("k")])
    with pytest.raises(t.OpIdFencedError):
        await store.apply(store.sent[0])
    assert await store.real.get("k") is None


async def test_what_was_applied_is_the_result_though_the_function_raises() -> None:
    """A applied with its answer lost, a conflict all the same, fn raises: A's result counts."""
    store = Scripted()
    store.script = [store.lose_answer, store.conflict]
    reads = 0

    def once(_: bytes | None) -> bytes:
        nonlocal reads
        reads += 1
        if reads > 1:
            raise ValueError("again")
        return b"mine"

    written = await t.update(store, "k", once)
    assert written.value == b"mine"
    assert written.revision == 1


async def test_a_read_that_fails_for_good_does_not_hide_a_doubt() -> None:
    """A lost, a conflict, then the store is away: unknown, because A may yet arrive."""
    store = Scripted()

    async def conflict_then_away(sent: Try) -> t.Commit:
        await store.real.commit([], [t.Put("k", b"rival")])
        store.away = True
        return await store.apply(sent)

    store.script = [store.lose, conflict_then_away]
    with pytest.raises(t.OutcomeUnknownError):
        await t.update(store, "k", lambda _: b"mine", retry=t.Retry(attempts_max=4))


async def test_the_deadline_counts_from_the_call_and_not_from_the_turn() -> None:
    """Tasks that queue for one key while the store is away are told in time, all of them."""
    store = Scripted()
    store.away = True
    patience = t.Retry(deadline_s=0.2)
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    async def attempt() -> float:
        with pytest.raises(t.UnavailableError):
            await t.update(store, "k", lambda _: b"", retry=patience)
        return loop.time() - start_s

    took_s = await asyncio.gather(*[attempt() for _ in range(40)])
    assert max(took_s) < 6.0  # one after the other it would be 40 times 0.2 s
    store.away = False
    assert (await t.update(store, "k", lambda _: b"1")).value == b"1"  # the turn is free again


async def test_an_update_with_an_op_id_has_its_effect_once(store):
    """Repeated at once and later, after others have written: one increment."""

    def increment(old):
        return str(int(old or b"0") + 1).encode()

    await asyncio.gather(*(t.update(store, "n", increment, op_id="step-1") for _ in range(5)))
    assert (await store.get("n")).value == b"1"
    await t.update(store, "n", increment)
    assert (await t.update(store, "n", increment, op_id="step-1")).value == b"2"

    def refuse(_):
        raise ValueError("a repeat does not ask")

    assert (await t.update(store, "n", refuse, op_id="step-1")).value == b"2"
    await store.commit([], [t.Delete("n")])
    with pytest.raises(t.NotFoundError):
        await t.update(store, "n", increment, op_id="step-1")


async def test_a_transaction_with_an_op_id_has_its_effect_once(store):
    """A repeat is told the first commit, and its function is not called."""
    calls = []

    async def move(transaction):
        calls.append(1)
        old = await transaction.get("a")
        transaction.put("a", (old.value if old else b"") + b"x")
        return "moved"

    result, first = await t.transact(store, move, op_id="step-2")
    assert result == "moved"
    assert await t.transact(store, move, op_id="step-2") == (None, first)
    assert (await store.get("a")).value == b"x"
    assert calls == [1]

"""The register recipe: a value, its revision, who and when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import transactional as t
from transactional.register import UNSET, Register

if TYPE_CHECKING:
    from tests.transactional.engines import Engine


async def test_a_register_knows_who_set_it_and_when(store: t.Store) -> None:
    """Get returns what set returned; the time lies between two readings of the store's clock."""
    register = Register(store, "order/17", by="ann")
    assert await register.get() == UNSET
    before = await store.now()
    written = await register.set({"state": "paid"}, expected=0)
    assert await register.get() == written
    assert written.modified_by == "ann"
    assert written.modified_at is not None
    assert before < written.modified_at < await store.now()


async def test_a_register_is_set_only_from_the_expected_revision(store: t.Store) -> None:
    """Expected is the compare-and-swap token; without it the last one wins."""
    register = Register(store, "a", by="ann")
    first = await register.set(1)
    await register.set(2, expected=first.revision)
    with pytest.raises(t.ConflictError):
        await register.set(3, expected=first.revision)
    await register.set(4)
    assert (await register.get()).value == 4


async def test_updates_of_many_agents_are_all_counted(engine: Engine) -> None:
    """Update is atomic over clients; each sees who was before."""
    clients = [await engine.client() for _ in range(3)]

    async def add(number: int) -> None:
        register = Register(clients[number % 3], "n", by=str(number))
        await register.update(lambda value: (value or 0) + 1)

    await asyncio.gather(*map(add, range(20)))
    assert (await Register(clients[0], "n", by="").get()).value == 20


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes", object()])
async def test_a_value_that_is_not_json_is_refused(store: t.Store, value: object) -> None:
    """Only JSON goes in; nothing is written."""
    register = Register(store, "a", by="ann")
    with pytest.raises(t.InvalidRequestError):
        await register.set(value)
    assert await register.get() == UNSET


async def test_a_key_of_somebody_else_is_no_register(store: t.Store) -> None:
    """Bytes that are no register raise instead of being misread."""
    await store.commit([], [t.Put("a", b"[1]")])
    with pytest.raises(t.InvalidRequestError):
        await Register(store, "a", by="ann").get()


async def test_the_any_of_the_front_door_sets_whatever_is_there(store: t.Store) -> None:
    """The exported ANY was the event log's alone: given to a register, it was a raw TypeError."""
    register = t.Register(store, "k", by="me")
    first = await register.set(1, expected=t.ANY)
    second = await register.set(2, expected=t.ANY)
    assert (await register.get()).value == 2
    assert 0 < first.revision < second.revision
    with pytest.raises(t.InvalidRequestError):
        await register.set(3, expected=t.STREAM_EXISTS)
    assert (await register.get()).value == 2

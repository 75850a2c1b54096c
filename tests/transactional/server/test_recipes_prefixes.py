"""docs/http-api.md tells the prefixes of each recipe: with them it works, with one less not."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

import transactional as t
from tests.transactional.sagas.actions import Actions, worker
from tests.transactional.server.test_clients import serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transactional.store import Store

pytestmark = pytest.mark.processes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "http-api.md"
NAME = "team/room 1"
WORDS = {"KEY": "config/x", "NAMESPACE": "ours", "NAME": quote(NAME, safe="")}
START = datetime(2030, 1, 1, 9, tzinfo=UTC)


async def register(store: Store) -> None:
    ours = t.Register(store, WORDS["KEY"], by="ann")
    await ours.set(1)
    await ours.update(lambda value: value + 1)
    assert (await ours.get()).value == 2


async def lock(store: Store) -> None:
    for wait_s in (0, 5):
        async with t.Lock(store, NAME, owner="ann").held(wait_s=wait_s) as grant:
            await store.commit([*grant.fence], [])
    shared = t.Lock(store, NAME, owner="ann", shared=True)
    async with shared.held(), shared.held():
        pass


async def log(store: Store) -> None:
    ours = t.EventLog(store, namespace=WORDS["NAMESPACE"])
    await ours.append("orders/1", [t.NewEvent("Made", 1), t.NewEvent("Paid", 2)], op_id="first")
    await ours.append("orders/1", [t.NewEvent("Sent", 3)])
    async for delivery in ours.subscribe("mailer"):
        await delivery.commit(events={"mails": [t.NewEvent("Mail", len(delivery.events))]})
        break
    await ours.erase("orders/1", versions=[1])
    assert not await ours.verify()


async def audit(store: Store) -> None:
    ours = t.EventLog(store, namespace=WORDS["NAMESPACE"])
    assert [event.version async for event in ours.read("orders/1")] == [1]
    assert len([event async for event in ours.read_all()]) == 1
    assert not await ours.verify(noted=await ours.head())
    with pytest.raises(t.ForbiddenError):
        await ours.append("orders/1", [t.NewEvent("Forged", 0)])


async def sagas(store: Store) -> None:
    actions = Actions()
    actions.fail("c", t.StepRefused("no"))
    async with worker(store, actions.saga(), namespace=WORDS["NAMESPACE"]) as ours:
        run = await ours.execute("work", "w1")
        assert run.state is t.SagaState.COMPENSATED
        assert [done.id async for done in ours.finished()] == ["w1"]


async def reservations(store: Store) -> None:
    ours = t.Reservations(store, namespace=WORDS["NAMESPACE"])
    interval = t.Interval(START, START + timedelta(hours=1))
    await ours.define(NAME, t.Resource(capacity=2))
    hold = await ours.hold(NAME, interval, holder="ann", ttl_s=30, idempotency_key="once")
    booking = await ours.confirm(hold)
    assert [found.id for found in await ours.agenda(NAME)] == [booking.id]
    await ours.cancel(booking)


async def work_queue(store: Store) -> None:
    ours = t.WorkQueue(store, NAME, lanes={"*": 1})
    await ours.put("first", lane="one")
    await ours.put("second", lane="one", after=["first"])
    (job,) = await ours.claim("ann")
    await job.checkpoint(1)
    await job.retry("again")
    for wanted in ("first", "second"):
        (job,) = await ours.claim("ann", wait_s=10)
        assert job.id == wanted
        await job.done()
    assert len([done.id async for done in ours.jobs("done")]) == 2
    await ours.close()


RECIPES: dict[str, Callable[[Store], Awaitable[None]]] = {
    "Register(store, KEY)": register,
    "Lock(store, NAME)": lock,
    "EventLog(store, namespace=NAMESPACE)": log,
    "EventLog": audit,
    "Sagas(store, namespace=NAMESPACE)": sagas,
    "Reservations(store, namespace=NAMESPACE)": reservations,
    "WorkQueue(store, NAME)": work_queue,
}


def prefixes(cell: str) -> list[str]:
    found = re.findall(r"`([^`]+)`", cell)
    return [re.sub("|".join(WORDS), lambda word: WORDS[word[0]], prefix) for prefix in found]


def table() -> dict[str, tuple[list[str], list[str]]]:
    """What the page says: recipe -> prefixes to read and to write."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.match(r"`([^`]+)`", cells[0])
        if len(cells) == 3 and name and name[1] in RECIPES:
            rows[name[1]] = (prefixes(cells[1]), prefixes(cells[2]))
    return rows


def test_the_page_has_a_row_for_every_recipe() -> None:
    """And each is tried below."""
    assert table().keys() == RECIPES.keys()


@pytest.mark.parametrize("recipe", RECIPES)
async def test_a_recipe_needs_the_prefixes_of_its_row(tmp_path: Path, recipe: str) -> None:
    """All that it does works with them; with one of them less something is refused."""
    reads, writes = table()[recipe]
    roles = {"whole": (reads, writes), "log": (["ours/"], ["ours/"])}
    roles |= {f"no-read-{n}": (reads[:n] + reads[n + 1 :], writes) for n in range(len(reads))}
    roles |= {f"no-write-{n}": (reads, writes[:n] + writes[n + 1 :]) for n in range(len(writes))}
    async with serve(tmp_path, roles, {role: role for role in roles}) as served:
        if recipe == "EventLog":
            writer = t.EventLog(await served.client("log"), namespace="ours")
            await writer.append("orders/1", [t.NewEvent("Made", 1)])
        await RECIPES[recipe](await served.client("whole"))
        for role in roles.keys() - {"whole", "log"}:
            with pytest.raises(t.TransactionalError) as caught:
                await RECIPES[recipe](await served.client(role))
            assert isinstance(caught.value, t.ForbiddenError), role

"""What recipes keep for repeats goes when nobody can repeat any more, and not before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds
from transactional import sweeper
from transactional.store import scan_pages
from transactional.stores.memory import MemoryStore
from transactional.stores.sqlite import SQLiteStore
from transactional.sweeper import EVERY, PAGE_KEYS

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400.0
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, hand_clock):
    if request.param == "memory":
        opened = MemoryStore(clock=hand_clock.clock())
    else:
        opened = await SQLiteStore.open(tmp_path / "s.db", clock=hand_clock.clock())
    yield opened
    await opened.close()


def slot(day: float = 0.0, hours: float = 1.0) -> t.Interval:
    start = NOON + timedelta(days=day)
    return t.Interval(start, start + timedelta(hours=hours))


async def keys(store: t.Store, prefix: str = "") -> list[str]:
    return [entry.key async for entry in scan_pages(store, prefix) if "/swept" not in entry.key]


# --- reservations --------------------------------------------------------------------------------


async def test_ended_lists_more_than_a_hundred_thousand(hand_clock) -> None:
    """Counterexample: from 100,001 ends on, `ended` raised for ever."""
    from transactional.reservations.booking import encode

    store = MemoryStore(clock=hand_clock.clock())
    rooms = t.Reservations(store)
    one = await rooms.hold("r", slot(), holder="a", ttl_s=60)
    await rooms.release(one)
    (end,) = await rooms.ended("r")
    for first in range(0, 100_100, 100):
        names = [f"reservation/of/r/ended/{first + n:08}" for n in range(100)]
        await store.commit([], [t.Put(name, encode(end)) for name in names])
    assert len(await rooms.ended("r")) == 100_101
    await store.close()


async def test_short_bookings_leave_a_week_of_traces(hand_clock) -> None:
    """One an hour for months: what lies in the store is what 7 days brought, twice at most."""
    store = MemoryStore(clock=hand_clock.clock())
    rooms = t.Reservations(store)
    for number in range(rounds(20_000, 2000)):
        made = await rooms.book("r", slot(), holder="a", idempotency_key=f"request-{number}")
        assert await rooms.cancel(made)
        hand_clock.forward(3600)
    kept = 2 * 7 * 24
    assert kept - 2 <= len(await keys(store)) < kept * 2 + 2 * PAGE_KEYS
    await rooms.compact()
    assert len(await keys(store)) <= kept
    await store.close()


async def test_an_end_is_known_for_a_week_however_old_its_booking(store, hand_clock) -> None:
    """Booked half a year ago and moved twice: found while it lives, and a week after its end."""
    rooms = t.Reservations(store)
    made = await rooms.book("r", slot(), holder="a", idempotency_key="k")
    moved = await rooms.move(made, slot(3))
    moved = await rooms.move(moved, slot(5), resource="s")
    for _ in range(6):
        hand_clock.forward(29 * DAY)
        await rooms.compact()
    found = await rooms.get(made.id)
    assert found is not None
    assert (found.resource, found.interval) == ("s", slot(5))
    again = await rooms.book("r", slot(), holder="a", idempotency_key="k")
    assert again.id == made.id
    assert await rooms.cancel(made)
    hand_clock.forward(6.9 * DAY)
    await rooms.compact()
    ended = await rooms.get(made.id)
    assert ended is not None
    assert ended.state is t.BookingState.CANCELLED
    with pytest.raises(t.BookingEndedError):
        await rooms.book("r", slot(), holder="a", idempotency_key="k")
    hand_clock.forward(0.2 * DAY)
    for _ in range(4):  # one link of the chain in each round
        await rooms.compact()
    assert await rooms.get(made.id) is None
    assert await keys(store) == []
    new = await rooms.book("r", slot(), holder="a", idempotency_key="k")
    assert new.revision > made.revision


async def test_a_hold_that_lapsed_long_ago_goes_with_all_its_copies(store, hand_clock) -> None:
    """Nobody took its time; a confirmed booking of the same day stays for good."""
    rooms = t.Reservations(store)
    await rooms.hold("r", slot(hours=70), holder="a", ttl_s=60)
    stays = await rooms.book("s", slot(hours=70), holder="b")
    hand_clock.forward(6 * DAY)
    await rooms.compact()
    assert [b.state for b in await rooms.ended("r")] == [t.BookingState.EXPIRED]
    hand_clock.forward(2 * DAY)
    await rooms.compact()
    assert await rooms.ended("r") == ()
    await rooms.compact()
    left = await keys(store)
    assert len([key for key in left if "/of/s/day/" in key]) == 4
    assert len(left) == 5
    assert await rooms.get(stays.id) is not None


async def test_an_old_trace_costs_few_reads(hand_clock) -> None:
    """For each booking that goes: the keys of two pages, and one look for its end."""
    store = MemoryStore(clock=hand_clock.clock())
    rooms = t.Reservations(store)
    keys_read, real = 0, MemoryStore.get_many

    async def counted(names, **options):
        nonlocal keys_read
        keys_read += len(names)
        return await real(store, names, **options)

    for number in range(4 * EVERY):
        made = await rooms.book("r", slot(), holder="a", idempotency_key=f"request-{number}")
        assert await rooms.cancel(made)
    hand_clock.forward(8 * DAY)
    store.get_many = counted
    assert await rooms._sweepers[1].sweep() == 0  # the ends go first
    assert keys_read == 4 * EVERY
    assert await rooms._sweepers[0].sweep() == 4 * EVERY
    assert keys_read == 4 * EVERY
    assert await rooms._sweepers[1].sweep() == 4 * EVERY
    assert keys_read == 4 * EVERY * (1 + 3)  # of what seems to be gone, both places once more
    assert await keys(store) == []
    await store.close()


async def test_a_booking_that_moves_while_its_record_is_judged_keeps_it(hand_clock) -> None:
    """It lay where it was made when its end was looked for, and elsewhere when its place was."""
    store = MemoryStore(clock=hand_clock.clock())
    rooms = t.Reservations(store)
    made = await rooms.book("r", slot(), holder="a", idempotency_key="k")
    hand_clock.forward(8 * DAY)
    real, looks = MemoryStore.get_many, 0

    async def moved_in_between(names, **options):
        nonlocal looks
        found = await real(store, names, **options)
        looks += 1
        if looks == 1:
            store.get_many = lambda names, **options: real(store, names, **options)
            await rooms.move(made, slot(3))
        return found

    store.get_many = moved_in_between
    assert await rooms._sweepers[1].sweep() == 0
    assert looks == 1
    found = await rooms.get(made.id)
    assert found is not None
    assert found.interval == slot(3)
    await store.close()


# --- sagas ---------------------------------------------------------------------------------------


async def nothing(step: t.StepContext) -> None:
    return None


ONE = t.Saga("one", [t.Step("only", nothing)])


async def test_runs_that_are_over_go_after_a_week(store, hand_clock) -> None:
    """Until then a repeat is a repeat; after that the id is free."""
    async with t.Sagas(store, [ONE]) as sagas:
        await sagas.execute("one", "a", {"n": 1})
    client = t.Sagas(store, [ONE])
    hand_clock.forward(6.9 * DAY)
    assert await client.compact() == 0
    with pytest.raises(t.SagaExistsError):
        await client.start("one", "a", {"n": 2})
    hand_clock.forward(0.2 * DAY)
    assert await client.compact() == 1
    assert [run async for run in client.finished()] == []
    await client.start("one", "a", {"n": 2})


async def test_the_child_of_a_run_that_goes_on_stays(store, hand_clock) -> None:
    """Its parent may not have looked yet, and must not begin it a second time."""
    async with t.Sagas(store, [ONE]) as sagas:
        await sagas.execute("one", "child")
    done = await store.get("saga/done/child")
    assert done is not None
    import json

    run = {**json.loads(done.value), "parent": "parent"}
    await store.commit([], [t.Put(done.key, json.dumps(run).encode())])
    client = t.Sagas(store, [ONE])
    await client.start("one", "parent")
    hand_clock.forward(30 * DAY)
    assert await client.compact() == 0
    assert await client.get("child") is not None
    await store.commit([], [t.Delete("saga/open/parent")])
    assert await client.compact() == 1


# --- the event log -------------------------------------------------------------------------------


async def test_op_ids_of_the_log_go_in_passing(store, hand_clock) -> None:
    """An append every hour with an op_id of its own; the log itself stays, and is sound."""
    log = t.EventLog(store)
    count = rounds(5000, 600)
    for number in range(count):
        await log.append("s", [t.NewEvent("e", {"n": number})], op_id=f"op-{number}")
        hand_clock.forward(3600)
    kept = 7 * 24
    assert len(await keys(store, "log/op/")) < kept * 2 + PAGE_KEYS
    await log.compact()
    assert len(await keys(store, "log/op/")) <= kept
    again = await log.append("s", [t.NewEvent("e", {"n": count - 1})], op_id=f"op-{count - 1}")
    assert (again.last_position, await log.version("s")) == (count, count)
    assert await log.verify() == ()


# --- how it is done ------------------------------------------------------------------------------


async def test_a_key_of_unknown_age_is_dated_first(tmp_path: Path, hand_clock) -> None:
    """As a converted file has them: kept for another retention, with its value."""
    store = await SQLiteStore.open(tmp_path / "s.db", clock=hand_clock.clock())
    log = t.EventLog(store)
    await log.append("s", [t.NewEvent("e", {})], op_id="op")
    before = await store.get("log/op/op")
    assert before is not None

    def undated(state) -> None:
        from transactional.stores import sqlite_schema as schema

        state._keys.clear()
        row = (before.revision, before.key, before.value, before.created_revision, None, "", 0)
        state._count(
            "keys",
            (0, schema.row_checksum(*row), 0),
            (0, schema.row_checksum(*row[:5], before.by, before.time_us), 0),
        )
        state._db.execute(
            "UPDATE keys SET by = '', time_us = 0, checksum = ? WHERE key = ?",
            (schema.row_checksum(*row), before.key),
        )

    await store._writer.ask(undated)
    assert await log.compact() == 0
    dated = await store.get("log/op/op")
    assert dated is not None
    assert dated.value == before.value
    assert dated.time is not None
    hand_clock.forward(8 * DAY)
    assert await log.compact() == 1
    await store.close()


async def test_rounds_are_continued_by_others(hand_clock) -> None:
    """The cursor lies in the store: two processes that take turns get through all pages."""
    store = MemoryStore(clock=hand_clock.clock())
    log = t.EventLog(store)
    for number in range(3 * PAGE_KEYS):
        await store.commit([], [t.Put(f"log/op/{number:06}", b"{}")])
    hand_clock.forward(8 * DAY)
    for _ in range(4):  # each process lives for one page
        log = t.EventLog(store)
        for _ in range(EVERY):
            await log._sweeper.pass_by()
    assert await keys(store, "log/op/") == []
    await store.close()


async def test_programs_that_make_one_call_each_sweep_as_well(hand_clock, monkeypatch) -> None:
    """A command for each booking: one in `EVERY` looks at a page, wherever each begins to count."""
    store = MemoryStore(clock=hand_clock.clock())
    rooms = t.Reservations(store)
    for number in range(EVERY - 1):
        assert await rooms.cancel(await rooms.book("r", slot(number), holder="a"))
    hand_clock.forward(8 * DAY)
    begun = iter(range(EVERY))
    monkeypatch.setattr(sweeper, "first_count", lambda: next(begun) | 1)
    for number in range(EVERY // 2):  # each has two sweepers, and ends go first
        left = await keys(store)
        assert sum("/ended/" in key for key in left) == EVERY - 1, number
        await t.Reservations(store).book("s", slot(number), holder="a")
    assert not any("/ended/" in key for key in await keys(store))
    await store.close()


async def test_a_sweep_that_fails_is_nobodys_trouble(hand_clock) -> None:
    """The store is away when it is time to look: the caller has his answer, the next one looks."""
    store = MemoryStore(clock=hand_clock.clock())
    rooms = t.Reservations(store)
    away = True

    async def scan(*arguments, **named):
        if away and named.get("limit") == PAGE_KEYS:
            raise t.UnavailableError("away")
        return await MemoryStore.scan(store, *arguments, **named)

    store.scan = scan
    for number in range(EVERY):
        await rooms.book("r", slot(number), holder="a")
    away = False
    await rooms.compact()
    await store.close()


@pytest.mark.parametrize("retention_s", [0, 7 * DAY - 1, float("nan")])
async def test_a_retention_below_that_of_op_ids_is_refused(retention_s: float) -> None:
    """A repeat within the week must meet what it repeats."""
    store = MemoryStore()
    for make in (t.Reservations, t.EventLog):
        with pytest.raises(t.InvalidRequestError):
            make(store, retention_s=retention_s)
    with pytest.raises(t.InvalidRequestError):
        t.Sagas(store, [], retention_s=retention_s)
    await store.close()

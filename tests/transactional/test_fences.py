"""A lock's fence guards what is written through the recipes, and any compare does."""

from __future__ import annotations

import pytest

from tests.transactional.reservations.times import hours
from transactional import (
    Absent,
    AwaitSignal,
    BookingState,
    ConflictError,
    EventLog,
    Lock,
    NewEvent,
    Put,
    Register,
    Reservations,
    Saga,
    Sagas,
    SagaState,
    Step,
    Wanted,
)


async def lost_and_held(store):
    """The fence of somebody who lost the lock, and that of the holder now."""
    first = await Lock(store, "room", owner="ann").acquire()
    lost = first.fence
    await first.release()
    second = await Lock(store, "room", owner="bob").acquire()
    return lost, second.fence


async def test_a_register_is_set_under_a_fence(store):
    """The former holder's set and update are refused, once and for good; the holder's count."""
    lost, held = await lost_and_held(store)
    register = Register(store, "status", by="ann")
    calls = []
    with pytest.raises(ConflictError):
        await register.set("late", fence=lost)
    with pytest.raises(ConflictError):
        await register.update(lambda old: calls.append(old) or "late", fence=lost)
    assert calls == [None]  # deciding anew would not help
    assert (await register.get()).revision == 0
    await register.set(1, fence=held)
    assert (await register.update(lambda old: old + 1, fence=held)).value == 2


async def test_a_booking_is_made_and_changed_under_a_fence(store):
    """Every mutation of the reservations takes one, and is refused whole by a lost one."""
    lost, held = await lost_and_held(store)
    rooms = Reservations(store)
    nine = Wanted("lab", hours(9, 10))
    for ask in (
        lambda fence: rooms.hold("lab", hours(9, 10), holder="ann", ttl_s=60, fence=fence),
        lambda fence: rooms.book("lab", hours(9, 10), holder="ann", fence=fence),
        lambda fence: rooms.hold_many([nine], holder="ann", ttl_s=60, fence=fence),
        lambda fence: rooms.book_many([nine], holder="ann", fence=fence),
        lambda fence: rooms.book_many([nine], holder="ann", atomic=False, fence=fence),
    ):
        with pytest.raises(ConflictError):
            await ask(lost)
    assert await rooms.agenda("lab") == ()

    hold = await rooms.hold("lab", hours(9, 10), holder="ann", ttl_s=60, fence=held)
    for change in (
        rooms.confirm,
        rooms.release,
        rooms.cancel,
        lambda booking, fence: rooms.extend(booking, ttl_s=90, fence=fence),
        lambda booking, fence: rooms.move(booking, hours(11, 12), fence=fence),
    ):
        with pytest.raises(ConflictError):
            await change(hold, fence=lost)
    assert await rooms.get(hold.id) == hold
    moved = await rooms.move(hold, hours(11, 12), fence=held)
    assert (await rooms.confirm(moved, fence=held)).state is BookingState.CONFIRMED


async def test_a_guarded_booking_costs_its_neighbours_nothing(store):
    """One whose compare fails waits with others in one queue: they are booked, it is refused."""
    import asyncio

    rooms = Reservations(store)
    await store.commit([], [Put("closed", b"")])
    answers = await asyncio.gather(
        *(
            rooms.book(
                f"room {n}",
                hours(9, 10),
                holder="ann",
                compares=[Absent("closed")] if n == 3 else [],
            )
            for n in range(6)
        ),
        return_exceptions=True,
    )
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, ConflictError)]
    assert refused == [3]
    assert all(isinstance(a, ConflictError) or a.holder == "ann" for a in answers)


async def test_an_append_is_guarded_by_a_fence(store):
    """To one stream and to several; the events of the former holder are not there."""
    lost, held = await lost_and_held(store)
    log = EventLog(store)
    with pytest.raises(ConflictError):
        await log.append("s", [NewEvent("late", 1)], fence=lost)
    with pytest.raises(ConflictError):
        await log.append_many({"s": [NewEvent("late", 1)]}, fence=lost)
    await log.append("s", [NewEvent("good", 1)], fence=held)
    assert [event.type async for event in log.read("s")] == ["good"]


async def test_a_saga_is_started_and_spoken_to_under_a_fence(store):
    """Begin, signal, abandon: by the holder of the lock, not by who lost it."""
    lost, held = await lost_and_held(store)
    ask = Saga("ask", [Step("wait", AwaitSignal("go")), Step("again", AwaitSignal("go"))])
    client = Sagas(store, [ask])
    with pytest.raises(ConflictError):
        await client.start("ask", "r", fence=lost)
    await client.start("ask", "r", fence=held)
    with pytest.raises(ConflictError):
        await client.signal("r", "go", fence=lost)
    assert await client.signal("r", "go", fence=held) is True
    with pytest.raises(ConflictError):
        await client.abandon("r", fence=lost)
    async with Sagas(store, [ask]) as sagas:
        with pytest.raises(ConflictError):
            await sagas.start("ask", "other", fence=lost)
        await sagas.abandon("r", fence=held)
        assert (await sagas.wait("r")).state is SagaState.COMPENSATED

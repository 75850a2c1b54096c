"""What a repeat, an id and a series mean: a caller may trust what is returned."""

from __future__ import annotations

import pytest

from tests.transactional.reservations.times import hours
from transactional import (
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    InvalidRequestError,
    OperationIdReusedError,
    Reservations,
    Wanted,
)


async def test_a_hold_repeated_after_its_time_says_that_it_lapsed(clocked_store, hand_clock):
    """What lies in the store is an old hold; returning it would let its caller go on in vain."""
    rooms = Reservations(clocked_store)
    ask = {"holder": "ann", "ttl_s": 60, "idempotency_key": "cart"}
    held = await rooms.hold("lab", hours(9, 10), **ask)
    assert await rooms.hold("lab", hours(9, 10), **ask) == held
    hand_clock.forward(61)
    with pytest.raises(HoldExpired) as over:
        await rooms.hold("lab", hours(9, 10), **ask)
    assert over.value.taken_by is None
    await rooms.book("lab", hours(9, 10), holder="bob")
    with pytest.raises(HoldExpired) as stolen:
        await rooms.hold("lab", hours(9, 10), **ask)
    assert stolen.value.taken_by == "bob"


async def test_a_hold_and_a_booking_share_no_key(store):
    """'Booked' is never said of a hold: the key is refused, before and after it was confirmed."""
    rooms = Reservations(store)
    held = await rooms.hold("lab", hours(9, 10), holder="ann", ttl_s=60, idempotency_key="k")
    for _ in range(2):
        with pytest.raises(OperationIdReusedError):
            await rooms.book("lab", hours(9, 10), holder="ann", idempotency_key="k")
        await rooms.confirm(held)
    await rooms.book("lab", hours(11, 12), holder="ann", idempotency_key="b")
    with pytest.raises(OperationIdReusedError):
        await rooms.hold("lab", hours(11, 12), holder="ann", ttl_s=60, idempotency_key="b")


async def test_a_booking_that_was_given_back_is_not_returned_as_booked(store):
    """Alone it is raised; among parts that are decided apart it stands in the answer."""
    rooms = Reservations(store)
    ask = {"holder": "ann", "idempotency_key": "k"}
    await rooms.cancel(await rooms.book("lab", hours(9, 10), **ask))
    with pytest.raises(BookingEndedError, match="cancelled"):
        await rooms.book("lab", hours(9, 10), **ask)

    parts = [Wanted("lab", hours(9, 10)), Wanted("lab", hours(11, 12)), Wanted("lab", hours(9, 10))]
    apart = {"holder": "bob", "atomic": False, "idempotency_key": "many"}
    first = await rooms.book_many(parts, **apart)
    assert isinstance(first[2], BookingConflict)
    await rooms.cancel(first[0])
    again = await rooms.book_many(parts[:2], **apart)
    assert isinstance(again[0], BookingEndedError)
    assert again[1] == first[1]


async def test_a_repeat_follows_what_was_moved(store):
    """It is live, only elsewhere: the repeat returns it from there."""
    rooms = Reservations(store)
    ask = {"holder": "ann", "idempotency_key": "k"}
    moved = await rooms.move(await rooms.book("lab", hours(9, 10), **ask), hours(14, 15))
    assert await rooms.book("lab", hours(9, 10), **ask) == moved


async def test_an_id_leads_to_a_booking_wherever_it_is(clocked_store, hand_clock):
    """Held, confirmed, moved to another room, given back, lapsed: `get` says how it stands."""
    rooms, other = Reservations(clocked_store), Reservations(clocked_store)
    held = await rooms.hold("lab", hours(9, 10), holder="ann", ttl_s=60)
    assert await other.get(held.id) == held
    made = await other.confirm(await other.get(held.id))
    assert await rooms.get(held.id) == made
    moved = await rooms.move(made, hours(14, 15), resource="attic")
    assert await other.get(held.id) == moved
    await other.cancel(await other.get(held.id))
    assert (await rooms.get(held.id)).state is BookingState.CANCELLED

    late = await rooms.hold("lab", hours(9, 10), holder="ann", ttl_s=60)
    hand_clock.forward(61)
    with pytest.raises(HoldExpired):
        await other.confirm(await other.get(late.id))
    await rooms.book("lab", hours(9, 10), holder="bob")
    assert (await other.get(late.id)).state is BookingState.EXPIRED
    assert await rooms.get("nobody's") is None
    assert await rooms.get("nobody.7") is None


async def test_each_part_of_a_request_has_an_id_of_its_own(store):
    """With a key and without, whoever has chosen the ids."""
    for new_id in ({}, {"new_id": iter(["a.b", "c", "d.0", "e"]).__next__}):
        rooms = Reservations(store, namespace=f"space {len(new_id)}", **new_id)
        parts = [Wanted("lab", hours(n, n + 1)) for n in range(3)]
        made = await rooms.book_many(parts, holder="ann")
        made += await rooms.book_many(
            [Wanted("attic", part.interval) for part in parts], holder="ann", idempotency_key="k"
        )
        made += (await rooms.book("lab", hours(20, 21), holder="ann"),)
        made += (await rooms.book("attic", hours(20, 21), holder="ann"),)
        assert len({booking.id for booking in made}) == len(made)
        assert [await rooms.get(booking.id) for booking in made] == list(made)


async def test_a_series_is_held_and_confirmed_as_a_whole(clocked_store, hand_clock):
    """All in one commit, or none: one part that is taken or too late refuses the rest."""
    rooms = Reservations(clocked_store)
    weekly = [Wanted("lab", hours(9, 10, day)) for day in (1, 8, 15)]
    holds = await rooms.hold_many(weekly, holder="ann", ttl_s=60, idempotency_key="k")
    assert await rooms.hold_many(weekly, holder="ann", ttl_s=60, idempotency_key="k") == holds
    with pytest.raises(BookingConflict):
        await rooms.hold_many([*weekly[:0], Wanted("lab", hours(9, 11, 15))], holder="b", ttl_s=60)
    made = await rooms.confirm_many(holds)
    assert {booking.revision for booking in made} == {made[0].revision}
    assert all(booking.state is BookingState.CONFIRMED for booking in made)
    assert await rooms.confirm_many(holds) == made

    late = await rooms.hold_many(
        [Wanted("attic", w.interval) for w in weekly], holder="ann", ttl_s=60
    )
    await rooms.extend(late[0], ttl_s=600)
    hand_clock.forward(61)
    with pytest.raises(HoldExpired):
        await rooms.confirm_many(late)
    assert (await rooms.get(late[0].id)).state is BookingState.HELD


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_request_takes_as_many_days_as_a_commit_holds(store, key):
    """126 days of resources, however they are asked for; one more is refused before anything."""
    rooms = Reservations(store)
    allowed = store.capabilities.max_operations - 2
    parts = [Wanted(f"room {n}", hours(9, 10)) for n in range(allowed + 1)]
    with pytest.raises(InvalidRequestError, match=f"take {allowed + 1} days .* holds {allowed}"):
        await rooms.book_many(parts, holder="ann", idempotency_key=key)
    assert (await store.scan("")).items == {}
    made = await rooms.book_many(parts[:-1], holder="ann", idempotency_key=key)
    assert len(made) == allowed


async def test_the_days_that_buffers_add_are_counted_too(store):
    """A room that is cleaned past midnight takes two days; the refusal comes before the commit."""
    rooms = Reservations(store)
    from datetime import timedelta

    from transactional import Resource

    names = [f"room {n}" for n in range(70)]
    for name in names:
        await rooms.define(name, Resource(after=timedelta(hours=2)))
    parts = [Wanted(name, hours(22, 23.5)) for name in names]
    with pytest.raises(InvalidRequestError, match="take 140 days"):
        await rooms.book_many(parts, holder="ann")
    assert await rooms.agenda("room 0") == ()


async def test_new_rules_count_for_every_booking_after_them(store):
    """Two processes: what one defines, the other's next booking obeys, whatever it remembers."""
    from transactional import Resource

    mine, theirs = Reservations(store), Reservations(store)
    await mine.book("lab", hours(9, 10), holder="ann")
    await mine.book("attic", hours(9, 10), holder="ann")
    await theirs.define("lab", Resource(capacity=2))
    assert await mine.book("lab", hours(9, 10), holder="bob")
    await theirs.define("attic", Resource(capacity=1))
    with pytest.raises(BookingConflict):
        await mine.book("attic", hours(9, 10), holder="bob")

"""No two bookings share an instant: on every engine, whatever the intervals and the rules."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from tests.scale import seeds
from tests.transactional.reservations.times import assert_disjoint, at, hours
from transactional import (
    BookingConflict,
    Interval,
    InvalidTimeError,
    Reservations,
    Resource,
    Wanted,
)


@pytest.mark.parametrize("seed", seeds(3))
async def test_a_hundred_agents_on_unequal_intervals(store, seed):
    """[transactional 40] However the intervals overlap, what is booked is pairwise disjoint."""
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    rooms = [Reservations(store) for _ in range(4)]  # four processes' worth of caches and queues
    refusals = []

    async def agent(number: int) -> None:
        start = dice.uniform(6, 30)
        wanted = hours(start, start + dice.choice([0.25, 0.5, 1, 3, 7]))
        try:
            await rooms[number % 4].book("turing", wanted, holder=f"agent {number}")
        except BookingConflict as conflict:
            refusals.append(conflict)

    await asyncio.gather(*(agent(number) for number in range(100)))
    agenda = await rooms[0].agenda("turing")
    assert len(agenda) + len(refusals) == 100
    assert len(agenda) > 2
    assert_disjoint(agenda)
    booked = {booking.id for booking in agenda}
    for refusal in refusals:
        assert refusal.booking_id in booked
        assert any(b.occupied.overlaps(refusal.wanted) for b in refusal.blockers)


async def test_touching_intervals_midnight_and_three_days(store):
    """[transactional 41] Ends may touch, nothing may be empty, and long bookings are found."""
    rooms = Reservations(store)
    await rooms.book("turing", hours(9, 10), holder="ann")
    await rooms.book("turing", hours(10, 11), holder="bob")
    await rooms.book("turing", hours(8, 9), holder="cid")
    with pytest.raises(InvalidTimeError):
        hours(9, 9)
    with pytest.raises(InvalidTimeError):
        Interval(at(9).replace(tzinfo=None), at(10))
    late = await rooms.book("turing", hours(23, 25), holder="dee")
    long = await rooms.book("turing", hours(12, 12 + 72, day=3), holder="eve")
    for wanted, blocker in (
        (hours(0.5, 1.5, day=2), late),
        (hours(23.5, 23.6), late),
        (hours(3, 4, day=4), long),
        (hours(11, 12.5, day=6), long),
    ):
        with pytest.raises(BookingConflict) as refused:
            await rooms.book("turing", wanted, holder="zoe")
        assert refused.value.booking_id == blocker.id
    await rooms.book("turing", hours(12, 13, day=6), holder="fay")
    assert long in await rooms.agenda("turing", hours(5, 6, day=5))
    assert late in await rooms.agenda("turing", hours(0, 12, day=2))
    assert_disjoint(await rooms.agenda("turing"))


async def test_two_rooms_each_in_opposite_order(store):
    """[transactional 42] Of two who want both rooms atomically one gets both, one gets neither."""
    for number in range(10):
        day = number + 1
        ann, bob = Reservations(store), Reservations(store)
        wanted = [Wanted("r1", hours(9, 10, day)), Wanted("r2", hours(9, 10, day))]
        answers = await asyncio.gather(
            ann.book_many(wanted, holder="ann"),
            bob.book_many(wanted[::-1], holder="bob"),
            return_exceptions=True,
        )
        lost = [answer for answer in answers if isinstance(answer, BookingConflict)]
        won = [answer for answer in answers if isinstance(answer, tuple)]
        assert len(lost) == len(won) == 1
        booked = [
            booking
            for room in ("r1", "r2")
            for booking in await ann.agenda(room, hours(0, 24, day))
        ]
        assert {booking.holder for booking in booked} == {won[0][0].holder}
        assert len(booked) == 2


async def test_book_many_one_by_one_tells_each_answer(store):
    """Without `atomic` each part is decided on its own."""
    rooms = Reservations(store)
    await rooms.book("r2", hours(9, 10), holder="ann")
    wanted = [Wanted(room, hours(9, 10)) for room in ("r1", "r2", "r3")]
    answers = await rooms.book_many(wanted, holder="bob", atomic=False)
    assert [isinstance(answer, BookingConflict) for answer in answers] == [False, True, False]
    with pytest.raises(BookingConflict):
        await rooms.book_many([Wanted("r4", hours(9, 10))] * 2, holder="cid")
    assert await rooms.agenda("r4") == ()


@pytest.mark.parametrize("seed", seeds(2))
async def test_never_more_than_the_capacity(store, seed):
    """[transactional 45] Three may overlap; at no instant there are four."""
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    refusals = []
    rooms = [Reservations(store) for _ in range(3)]
    await rooms[0].define("lab", Resource(capacity=3))

    async def agent(number: int) -> None:
        start = dice.uniform(8, 14)
        wanted = hours(start, start + dice.uniform(0.5, 4))
        try:
            await rooms[number % 3].book("lab", wanted, holder=f"agent {number}")
        except BookingConflict as conflict:
            refusals.append(conflict)

    await asyncio.gather(*(agent(number) for number in range(60)))
    assert refusals
    assert {len(refusal.blockers) for refusal in refusals} == {3}
    agenda = await rooms[0].agenda("lab")
    counts = [sum(b.interval.contains(one.interval.start) for b in agenda) for one in agenda]
    assert max(counts) == 3


async def test_buffers_keep_their_distance(store):
    """Set-up and cleaning are part of what a booking occupies, and of what is free."""
    rooms = Reservations(store)
    quarter, half = timedelta(minutes=15), timedelta(minutes=30)
    await rooms.define("kitchen", Resource(before=quarter, after=half))
    await rooms.book("kitchen", hours(9, 10), holder="ann")
    with pytest.raises(BookingConflict) as refused:
        await rooms.book("kitchen", hours(10.5, 11), holder="bob")
    assert refused.value.free[0] == hours(10.75, 11.25)
    assert await rooms.book("kitchen", refused.value.free[0], holder="bob")
    assert await rooms.rules("kitchen") == Resource(before=quarter, after=half)


async def test_rules_that_change_are_seen_by_those_who_cached_them(store):
    """A decision on outdated rules fails in the commit and is made anew."""
    old, new = Reservations(store), Reservations(store)
    await old.book("lab", hours(9, 10), holder="ann")  # caches capacity 1
    await new.define("lab", Resource(capacity=2))
    await old.book("lab", hours(11, 12), holder="bob")  # the commit tells it of the new rules
    await old.book("lab", hours(9, 10), holder="cid")
    with pytest.raises(BookingConflict):
        await old.book("lab", hours(9, 10), holder="dee")


async def test_free_looks_over_the_following_days(store):
    """A conflict names free time of the next days when the wanted day is full."""
    rooms = Reservations(store)
    await rooms.book("turing", hours(0, 24), holder="ann")
    with pytest.raises(BookingConflict) as refused:
        await rooms.book("turing", hours(20, 22), holder="bob")
    assert refused.value.free[0] == hours(0, 2, day=2)
    assert await rooms.free("turing", hours(0, 24), timedelta(hours=1)) == ()


async def test_names_are_quoted(store):
    """Slashes, spaces and non-ASCII in a resource's name stay inside its own keys."""
    rooms = Reservations(store)
    await rooms.book("a", hours(9, 10), holder="ann")
    await rooms.book("a/day/2025-02-01/x", hours(9, 10), holder="ann")
    await rooms.book("Büro 1/ß", hours(9, 10), holder="ann")
    assert len(await rooms.agenda("a")) == 1
    assert len(await rooms.agenda("Büro 1/ß")) == 1

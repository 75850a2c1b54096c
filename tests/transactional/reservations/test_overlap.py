"""Reservations on every engine: disjoint whatever happens, and refusals that say enough."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest

from tests.scale import rounds, seeds
from transactional import (
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    Interval,
    InvalidTimeError,
    OperationIdReusedError,
    Reservations,
    Resource,
    Wanted,
)


def at(hour: float, day: int = 1) -> datetime:
    """An instant of February 2025, UTC."""
    return datetime(2025, 2, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)


def hours(first: float, last: float, day: int = 1) -> Interval:
    return Interval(at(first, day), at(last, day))


def assert_disjoint(bookings) -> None:
    for one, other in combinations(bookings, 2):
        assert not one.occupied.overlaps(other.occupied), (one, other)


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


async def assert_one_owner(owner, thief, hold, answers) -> None:
    """Whoever was told that the time is theirs has it, and nobody else."""
    won = [answer for answer in answers if not isinstance(answer, Exception)]
    if not won:  # each looked at the clock at a bad moment; now the time is free
        assert isinstance(answers[0], HoldExpired)
        won = [await thief.book(hold.resource, hold.interval, holder="thief")]
    assert len(won) == 1, answers
    if won[0].holder == "thief":
        with pytest.raises(HoldExpired) as late:
            await owner.current(hold)
        assert late.value.taken_by == "thief"
    else:
        assert (await owner.current(hold)).state is BookingState.CONFIRMED
    around = hold.interval.widened(timedelta(0), timedelta(hours=1))
    agenda = await owner.agenda(hold.resource, around)
    assert [booking.holder for booking in agenda] == [won[0].holder, "neighbour"]


async def test_confirm_races_expiry(timed_store, hand_clock):
    """[transactional 43] Owner or thief, exactly one; a neighbour's booking is never touched.

    Twenty rooms race at once, so that confirming and stealing meet in all orders and groups.
    """
    dice = random.Random(seeds(1)[0])
    owner, thief = Reservations(timed_store), Reservations(timed_store)
    names = [f"room {number}" for number in range(20)]
    for day in range(1, rounds(10_000) // len(names) + 1):
        wanted = hours(9, 10, day)
        next_door = [Wanted(name, hours(10, 11, day)) for name in names]
        await owner.book_many(next_door, holder="neighbour")
        ttls = [dice.choice([5, 10, 20]) for _ in names]
        holds = await asyncio.gather(
            *(
                owner.hold(name, wanted, holder="owner", ttl_s=ttl_s)
                for name, ttl_s in zip(names, ttls, strict=True)
            )
        )
        hand_clock.forward(dice.choice([0.0, 4.999, 5.0, 9.0, 9.999, 10.0, 10.5]))

        async def time_passes() -> None:
            await asyncio.sleep(0)
            hand_clock.forward(dice.choice([0.0, 0.5, 10.0]))

        racers = [owner.confirm(hold) for hold in holds]
        racers += [thief.book(name, wanted, holder="thief") for name in names]
        order = list(range(len(racers)))
        dice.shuffle(order)
        ran = await asyncio.gather(
            *(racers[n] for n in order), time_passes(), return_exceptions=True
        )
        answers = dict(zip(order, ran, strict=False))

        await asyncio.gather(
            *(
                assert_one_owner(owner, thief, hold, (answers[n], answers[n + len(names)]))
                for n, hold in enumerate(holds)
            )
        )


async def test_confirm_after_the_time_was_sold_again(timed_store, hand_clock):
    """[transactional 44] `HoldExpired` names the new owner; a late release has no effect."""
    rooms = Reservations(timed_store)
    hold = await rooms.hold("turing", hours(9, 10), holder="ann", ttl_s=30)
    with pytest.raises(BookingConflict) as refused:
        await rooms.hold("turing", hours(9.5, 11), holder="bob", ttl_s=30)
    assert refused.value.holder == "ann"
    assert refused.value.until == at(10)
    assert refused.value.expires_at == refused.value.retry_at == hold.expires_at
    assert refused.value.free[0] == hours(10, 11.5)
    hand_clock.forward(31)
    with pytest.raises(HoldExpired) as alone:
        await rooms.confirm(hold)
    assert alone.value.taken_by is None
    new = await rooms.book("turing", hours(9.5, 11), holder="bob")
    with pytest.raises(HoldExpired) as late:
        await rooms.confirm(hold)
    assert late.value.taken_by == "bob"
    with pytest.raises(HoldExpired):
        await rooms.extend(hold, ttl_s=5)
    with pytest.raises(HoldExpired):
        await rooms.move(hold, hours(12, 13))
    assert await rooms.release(hold) is False
    assert await rooms.cancel(hold) is False
    assert await rooms.agenda("turing") == (new,)
    (gone,) = await rooms.ended("turing")
    assert (gone.id, gone.state, gone.taken_by) == (hold.id, BookingState.EXPIRED, "bob")


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


async def test_move_over_itself_and_away(store):
    """[transactional 47] A booking may overlap its old time; a refused move leaves it in place."""
    rooms = Reservations(store)
    first = await rooms.book("turing", hours(9, 11), holder="ann")
    shifted = await rooms.move(first, hours(10, 12))
    assert (shifted.id, shifted.interval) == (first.id, hours(10, 12))
    assert await rooms.agenda("turing") == (shifted,)
    wall = await rooms.book("turing", hours(12, 13), holder="bob")
    with pytest.raises(BookingConflict):
        await rooms.move(shifted, hours(11, 12.5))
    assert await rooms.agenda("turing") == (shifted, wall)
    far = await rooms.move(first, hours(9, 60, day=5))  # with the old token, over three days
    assert await rooms.agenda("turing") == (wall, far)
    other = await rooms.move(far, hours(9, 10), resource="hopper")
    assert await rooms.agenda("turing") == (wall,)
    assert (
        await rooms.current(first)
        == other
        == await rooms.move(shifted, hours(9, 10), resource="hopper")
    )
    assert await rooms.cancel(first) is True
    with pytest.raises(BookingEndedError):
        await rooms.move(far, hours(15, 16))
    assert await rooms.agenda("hopper") == ()


async def test_a_hold_lives_and_ends(store):
    """Hold, extend, confirm, cancel; each repeated call has no further effect."""
    rooms = Reservations(store)
    hold = await rooms.hold("turing", hours(9, 10), holder="ann", ttl_s=60, note="retro")
    assert (hold.state, hold.note) == (BookingState.HELD, "retro")
    longer = await rooms.extend(hold, ttl_s=600)
    assert longer.expires_at > hold.expires_at
    booking = await rooms.confirm(hold)  # the token of before the extension will do
    assert booking.state is BookingState.CONFIRMED
    assert await rooms.confirm(hold) == await rooms.confirm(booking) == booking
    assert await rooms.release(hold) is False  # it is no hold any more
    assert await rooms.cancel(booking) is True
    assert await rooms.cancel(booking) is False
    with pytest.raises(BookingEndedError):
        await rooms.confirm(hold)
    again = await rooms.hold("turing", hours(9, 10), holder="bob", ttl_s=60)
    assert await rooms.release(again) is True
    states = [b.state for b in await rooms.ended("turing")]
    assert sorted(s.value for s in states) == ["cancelled", "released"]


async def test_an_idempotency_key_makes_one_booking(store):
    """A repeat returns the first booking as it stands; another content is refused."""
    rooms = Reservations(store)
    ask = {"holder": "ann", "ttl_s": 60, "idempotency_key": "saga-1/hold"}
    answers = await asyncio.gather(
        *(Reservations(store).hold("turing", hours(9, 10), **ask) for _ in range(8))
    )
    assert len({answer.id for answer in answers}) == 1
    booking = await rooms.confirm(answers[0])
    assert await rooms.hold("turing", hours(9, 10), **ask) == booking
    for other in (hours(9, 11), hours(15, 16)):
        with pytest.raises(OperationIdReusedError):
            await rooms.hold("turing", other, **ask)
    await rooms.cancel(booking)
    repeat = await rooms.hold("turing", hours(9, 10), **ask)
    assert repeat.state is BookingState.CANCELLED
    assert await rooms.agenda("turing") == ()


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


async def test_move_back_with_an_outdated_token(store):
    """A counterexample of the state machine: the token says that it is there already; it is not."""
    rooms = Reservations(store)
    token = await rooms.book("turing", hours(9, 10), holder="ann")
    await rooms.move(token, hours(15, 16))
    back = await rooms.move(token, hours(9, 10))
    assert await rooms.agenda("turing") == (back,)
    assert back.interval == hours(9, 10)


async def test_moving_what_has_ended_says_so(store):
    """A counterexample too: the new time was taken, but the booking had been cancelled before."""
    rooms = Reservations(store)
    token = await rooms.book("turing", hours(9, 10), holder="ann")
    await rooms.book("turing", hours(15, 16), holder="bob")
    await rooms.cancel(token)
    with pytest.raises(BookingEndedError):
        await rooms.move(token, hours(15, 16))

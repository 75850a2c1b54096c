"""The life of a booking: held, confirmed, expired, released, cancelled; repeats are harmless."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from tests.scale import rounds, seeds
from tests.transactional.reservations.times import at, hours
from transactional import (
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    OperationIdReusedError,
    Reservations,
    Wanted,
)


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


async def test_confirm_races_expiry(clocked_store, hand_clock):
    """[transactional 43] Owner or thief, exactly one; a neighbour's booking is never touched.

    Twenty rooms race at once, so that confirming and stealing meet in all orders and groups.
    """
    dice = random.Random(seeds(1)[0])
    owner, thief = Reservations(clocked_store), Reservations(clocked_store)
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


async def test_confirm_after_the_time_was_sold_again(clocked_store, hand_clock):
    """[transactional 44] `HoldExpired` names the new owner; a late release has no effect."""
    rooms = Reservations(clocked_store)
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
    """A repeat returns the first booking while it stands; another content is refused."""
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
    with pytest.raises(BookingEndedError, match="cancelled"):
        await rooms.hold("turing", hours(9, 10), **ask)
    assert await rooms.agenda("turing") == ()


class Reading:
    """A store that counts the keys it gives out in scans."""

    def __init__(self, store) -> None:
        self._store = store
        self.keys = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def scan(self, prefix, **options):
        page = await self._store.scan(prefix, **options)
        self.keys += len(page.items)
        return page


async def test_the_agenda_of_a_day_reads_that_day(store):
    """Whatever is booked on other days; over midnight two days are read, at one revision."""
    reading = Reading(store)
    rooms = Reservations(reading)
    for day in range(1, 21):
        parts = [Wanted("lab", hours(9, 10, day)), Wanted("lab", hours(23, 25, day))]
        await rooms.book_many(parts, holder=f"ann {day}")
    reading.keys = 0
    found = await rooms.agenda("lab", hours(8, 20, 5))
    assert [booking.holder for booking in found] == ["ann 5"]
    assert reading.keys == 3  # of the night before, of the morning, and of the night to come
    reading.keys = 0
    found = await rooms.agenda("lab", hours(22, 26, 5))
    assert [booking.interval for booking in found] == [hours(23, 25, 5)]
    assert reading.keys == 6
    assert len(await rooms.agenda("lab", hours(0, 20 * 24, 1))) == 40

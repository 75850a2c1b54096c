"""Moving a booking: one commit, its own time is not in its way, old tokens find it."""

from __future__ import annotations

import pytest

from tests.transactional.reservations.times import hours
from transactional import (
    BookingConflict,
    BookingEndedError,
    Reservations,
)


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

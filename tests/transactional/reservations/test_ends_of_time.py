"""Bookings at the ends of time, and questions that no store should walk for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from transactional import (
    BookingConflict,
    Interval,
    InvalidTimeError,
    Reservations,
    Resource,
)

HOUR = timedelta(hours=1)
FIRST = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, 1, tzinfo=UTC))
LAST = Interval(datetime(9999, 12, 31, 22, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC))


@pytest.mark.parametrize("when", [FIRST, LAST], ids=["first", "last"])
async def test_the_first_and_the_last_hour_can_be_booked_and_refused(store, when):
    """The week in which a refusal looks for free time ends with time itself."""
    rooms = Reservations(store)
    await rooms.book("turing", when, holder="ann")
    with pytest.raises(BookingConflict):
        await rooms.book("turing", when, holder="bob")
    assert await rooms.free("turing", when, HOUR / 2) == ()


@pytest.mark.parametrize("when", [FIRST, LAST], ids=["first", "last"])
async def test_a_buffer_beyond_all_years_is_a_typed_refusal(store, when):
    """What is kept free around a booking has to exist."""
    rooms = Reservations(store)
    await rooms.define("turing", Resource(1, 2 * HOUR, 2 * HOUR))
    with pytest.raises(InvalidTimeError, match="beyond all years"):
        await rooms.book("turing", when, holder="ann")
    with pytest.raises(InvalidTimeError, match="beyond all years"):
        await rooms.free("turing", when, HOUR)


async def test_all_of_time_is_refused_before_it_is_walked(store):
    """Neither a booking nor a window of all the days there are is taken apart into days."""
    rooms = Reservations(store)
    always = Interval(FIRST.start, LAST.end)
    with pytest.raises(InvalidTimeError, match="longer than"):
        await rooms.book("turing", always, holder="ann")
    with pytest.raises(InvalidTimeError, match="a window of more than"):
        await rooms.free("turing", always, HOUR)
    for length in (timedelta(0), -HOUR):
        with pytest.raises(InvalidTimeError, match="positive length"):
            await rooms.free("turing", FIRST, length)

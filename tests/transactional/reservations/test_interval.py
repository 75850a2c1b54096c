"""Half-open stretches of time: what touches, what overlaps, and where there is room."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.transactional.reservations.times import at, hours
from transactional import Interval, InvalidTimeError
from transactional.reservations.interval import day_of, free_slots, fullest_instant, gaps

HOUR = timedelta(hours=1)


def test_an_end_does_not_belong_to_it():
    """Back to back is not overlapping, one shared instant is; it is the same both ways."""
    nine = hours(9, 10)
    for other, overlap in (
        (hours(10, 11), False),
        (hours(8, 9), False),
        (hours(9.99, 11), True),
        (hours(8, 12), True),
        (hours(9.25, 9.5), True),
        (nine, True),
    ):
        assert nine.overlaps(other) is other.overlaps(nine) is overlap
    assert nine.contains(at(9))
    assert not nine.contains(at(10))


def test_two_equal_wall_clock_times_are_two_instants():
    """In the hour that a zone repeats in autumn, an interval from 02:30 to 02:30 lasts an hour."""
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2025, 10, 26, 2, 30, tzinfo=berlin)
    assert Interval(first, first.replace(fold=1)).duration == HOUR
    with pytest.raises(InvalidTimeError):
        Interval(first.replace(fold=1), first)
    with pytest.raises(InvalidTimeError):
        Interval(first.replace(tzinfo=None), first)


def test_the_days_it_touches():
    """An end at midnight does not touch the new day."""
    assert hours(9, 10).days() == (date(2025, 2, 1),)
    assert hours(9, 24).days() == (date(2025, 2, 1),)
    assert hours(9, 24.1).days() == (date(2025, 2, 1), date(2025, 2, 2))
    assert hours(0, 72).days() == tuple(date(2025, 2, day) for day in (1, 2, 3))
    assert day_of(date(2025, 2, 1)) == hours(0, 24)
    assert hours(9, 10).widened(HOUR, 2 * HOUR) == hours(8, 12)


def test_the_fullest_instant_is_the_first_of_its_kind():
    """Counted where something starts; what only touches the window does not count."""
    taken = [hours(8, 11), hours(9, 12), hours(10, 13), hours(14, 15)]
    assert fullest_instant(taken, hours(7, 20)) == (3, at(10))
    assert fullest_instant(taken, hours(11, 20)) == (2, at(11))
    assert fullest_instant(taken, hours(13, 14)) == (0, at(13))


def test_gaps_and_slots():
    """What is free under a capacity, and the earliest slot of a length in each gap."""
    taken = [hours(9, 10), hours(9.5, 11), hours(12, 13)]
    assert list(gaps(taken, hours(8, 14))) == [hours(8, 9), hours(11, 12), hours(13, 14)]
    assert list(gaps(taken, hours(8, 14), capacity=2)) == [hours(8, 9.5), hours(10, 14)]
    assert list(gaps([hours(8, 9), hours(9, 10)], hours(8, 10))) == []
    assert free_slots(taken, hours(8, 14), HOUR, count=2) == (hours(8, 9), hours(11, 12))
    assert free_slots(taken, hours(8, 14), 2 * HOUR, count=2) == ()

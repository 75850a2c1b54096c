"""Instants and intervals of February 2025, and what must hold of a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations

from transactional import (
    Interval,
)


def at(hour: float, day: int = 1) -> datetime:
    """An instant of February 2025, UTC."""
    return datetime(2025, 2, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)


def hours(first: float, last: float, day: int = 1) -> Interval:
    return Interval(at(first, day), at(last, day))


def assert_disjoint(bookings) -> None:
    for one, other in combinations(bookings, 2):
        assert not one.occupied.overlaps(other.occupied), (one, other)

"""A booking's record and keys, without a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.transactional.reservations.times import at, hours
from transactional import (
    Booking,
    BookingConflict,
    BookingState,
    InvalidTimeError,
    KeyValue,
    Resource,
)
from transactional.reservations.booking import (
    DAYS_MAX,
    ReservationLayout,
    decode,
    decode_rules,
    encode,
    encode_rules,
    encode_with_place,
)

LAYOUT = ReservationLayout()
HOLD = Booking(
    "id",
    "Büro 1/ß",
    hours(9, 10),
    "ann",
    BookingState.HELD,
    expires_at=at(1),
    note="retro",
    before=timedelta(minutes=5),
    after=timedelta(minutes=10),
    taken_by="bob",
)


def test_a_booking_survives_its_bytes():
    """With the resource in the key or in the value, as JSON too."""
    alone, placed = encode(HOLD), encode_with_place(HOLD)
    found = decode(KeyValue("k", alone, 9, 9), HOLD.resource)
    assert found == replace(HOLD, revision=9)
    assert decode(KeyValue("k", placed, 9, 9)) == replace(HOLD, revision=9)
    assert Booking.from_json(HOLD.to_json()) == HOLD
    assert encode(replace(HOLD)) == alone


def test_it_is_filed_under_each_day_that_it_occupies():
    """Buffers reach into the neighbouring days; the first copy carries the token."""
    late = replace(HOLD, interval=hours(23, 23.95))
    keys = LAYOUT.copies(late)
    assert [key.split("/")[-2] for key in keys] == ["2025-02-01", "2025-02-02"]
    assert all(key.startswith(LAYOUT.live(HOLD.resource)) for key in keys)
    assert not LAYOUT.live("a/day").startswith(LAYOUT.live("a"))
    with pytest.raises(InvalidTimeError):
        LAYOUT.copies(replace(HOLD, interval=hours(0, 24 * DAYS_MAX)))
    with pytest.raises(InvalidTimeError):
        LAYOUT.live("")


def test_when_it_is_live_and_when_it_has_lapsed():
    """A hold lapses at `expires_at`; a booking without one never does."""
    assert [s for s in BookingState if replace(HOLD, state=s).live] == [
        BookingState.HELD,
        BookingState.CONFIRMED,
    ]
    assert not HOLD.lapsed(at(0.999))
    assert HOLD.lapsed(at(1))
    assert not replace(HOLD, expires_at=None).lapsed(at(99))


def test_rules_are_checked_and_survive_their_bytes():
    """Capacity is at least one, buffers are not negative."""
    rules = Resource(3, timedelta(minutes=1), timedelta(seconds=0.5))
    assert decode_rules(encode_rules(rules)) == rules
    for wrong in ({"capacity": 0}, {"before": timedelta(-1)}, {"after": timedelta(-1)}):
        with pytest.raises(InvalidTimeError):
            Resource(**wrong)


def test_a_conflict_says_when_to_come_again():
    """At the first expiry among the blockers; never, if all are confirmed."""
    later = replace(HOLD, expires_at=at(2))
    sure = replace(HOLD, state=BookingState.CONFIRMED, expires_at=None)
    conflict = BookingConflict("r", hours(9, 10), (later, HOLD, sure), (hours(11, 12),))
    assert conflict.retry_at == at(1)
    assert conflict.details()["free"] == str(hours(11, 12))
    assert BookingConflict("r", hours(9, 10), (sure,), ()).retry_at is None

"""A draft schedule decides without a store: who fits, who is in the way, and on what it rests."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.transactional.reservations.times import at, hours
from transactional import (
    Booking,
    BookingState,
    Delete,
    InvalidRequestError,
    Put,
    Resource,
    Unchanged,
)
from transactional.reservations.booking import ReservationLayout
from transactional.reservations.schedule import (
    CommitFull,
    DayBucket,
    DraftSchedule,
    NoCapacity,
    span,
)

LAYOUT = ReservationLayout()
DAYS = [at(12, day).date() for day in (1, 2, 3)]
NOW = at(0)


def booking(name, first, last, *, expires_at=None) -> Booking:
    state = BookingState.HELD if expires_at else BookingState.CONFIRMED
    return Booking(name, "lab", hours(first, last), f"holder of {name}", state, expires_at)


def draft_schedule(*there: Booking, capacity: int = 1) -> DraftSchedule:
    """Three days of one room, read at revision 40, on which `there` are booked."""
    buckets = {}
    for day in DAYS:
        prefix = LAYOUT.day("lab", day)
        mine = {b.id: span(b) for b in there if day in b.occupied.days()}
        buckets[prefix] = DayBucket(prefix, 40, mine)
    rules = {"lab": Resource(capacity=capacity)}
    return DraftSchedule(LAYOUT, buckets, rules, rules_at=7, remembered=False)


def test_what_fits_is_written_once_for_each_day():
    """Its writes are its copies; its compares are the days that were looked at, and the rules."""
    drafted = draft_schedule(booking("old", 9, 10))
    drafted.enter([booking("new", 23, 25)], NOW)
    keys = [f"{LAYOUT.day('lab', day)}new" for day in DAYS[:2]]
    assert list(drafted.writes) == keys
    assert all(isinstance(write, Put) for write in drafted.writes.values())
    assert drafted.compares() == [
        *(Unchanged(LAYOUT.day("lab", day), 40) for day in DAYS[:2]),
        Unchanged(LAYOUT.all_rules, 7),
    ]


def test_each_is_judged_against_those_before_it():
    """The first of two rivals is entered, the second is told who is there."""
    drafted = draft_schedule()
    drafted.enter([booking("a", 9, 10)], NOW)
    drafted.enter([booking("b", 10, 11)], NOW)
    with pytest.raises(NoCapacity) as refused:
        drafted.enter([booking("c", 9.5, 10.5)], NOW)
    assert [b.id for b in refused.value.blockers] == ["a"]
    assert set(drafted.entered) == {"a", "b"}


def test_all_of_one_request_or_none():
    """Two drafts that are in each other's way leave no trace."""
    drafted = draft_schedule()
    with pytest.raises(NoCapacity):
        drafted.enter([booking("a", 9, 10), booking("b", 9, 10)], NOW)
    assert drafted.writes == {}
    assert drafted.entered == {}
    assert drafted.compares()  # the refusal rests on the days as well


def test_capacity_counts_instants():
    """Two may overlap at any instant; a third may not, wherever it starts."""
    drafted = draft_schedule(booking("a", 9, 11), booking("b", 10, 12), capacity=2)
    drafted.enter([booking("c", 11, 12)], NOW)
    with pytest.raises(NoCapacity) as refused:
        drafted.enter([booking("d", 9.5, 10.5)], NOW)
    assert {b.id for b in refused.value.blockers} == {"a", "b"}


def test_a_lapsed_hold_is_ended_by_whoever_needs_its_time():
    """Before its expiry it blocks; from then on its end is in the same writes."""
    hold = booking("hold", 9, 10, expires_at=at(1))
    with pytest.raises(NoCapacity):
        draft_schedule(hold).enter([booking("new", 9, 10)], at(0.999))
    drafted = draft_schedule(hold)
    drafted.enter([booking("new", 9, 10)], at(1))
    assert isinstance(drafted.writes[LAYOUT.copies(hold)[0]], Delete)
    ended = drafted.writes[LAYOUT.ended("lab", "hold")]
    assert b'"expired"' in ended.value
    assert b'"holder of new"' in ended.value


def test_a_booking_that_moves_is_not_in_its_own_way():
    """`instead_of` leaves at the same time."""
    old = booking("a", 9, 10)
    drafted = draft_schedule(old, booking("b", 11, 12))
    drafted.enter([booking("a", 9.5, 10.5)], NOW, instead_of=old)
    assert set(drafted.spans(LAYOUT.day("lab", DAYS[0]))) == {"a", "b"}


def test_a_commit_has_its_limits():
    """What would make the commit too large is postponed; what no commit can hold is refused."""
    drafted = draft_schedule()
    with pytest.raises(InvalidRequestError, match=r"3 days of resources together .* holds 2"):
        drafted.enter([booking("a", 0, 72)], NOW, room=3)
    drafted.enter([booking("a", 0, 72)], NOW, room=4)
    with pytest.raises(CommitFull):
        drafted.enter([booking("b", 80, 81)], NOW, room=4)
    with pytest.raises(CommitFull):
        drafted.enter([booking("a", 0, 1)], NOW)  # the same id again


def test_what_was_committed_is_known_as_of_that_commit():
    """Buckets and writes together are the buckets as of the commit's revision."""
    drafted = draft_schedule(booking("old", 9, 10))
    drafted.enter([booking("new", 10, 11)], NOW)
    (bucket,) = drafted.committed(57)
    assert (bucket.prefix, bucket.revision) == (LAYOUT.day("lab", DAYS[0]), 57)
    assert set(bucket.spans) == {"old", "new"}
    assert drafted.entered["new"].revision == 57
    assert bucket.spans["new"][2] == drafted.entered["new"]


def test_buffers_belong_to_the_booking():
    """The rules' buffers are added to a draft, and what is occupied must be free."""
    drafted = draft_schedule(booking("a", 9, 10))
    half = timedelta(minutes=30)
    drafted.rules = {"lab": Resource(before=half, after=half)}
    with pytest.raises(NoCapacity):
        drafted.enter([drafted.under_rules(booking("b", 10.25, 11))], NOW)
    drafted.enter([drafted.under_rules(booking("c", 10.5, 11))], NOW)

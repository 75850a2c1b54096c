"""The table of deadlines by itself: what is due, what is next, and that nothing comes back."""

from __future__ import annotations

from transactional.stores.leases import Leases


def test_a_lease_lives_until_its_deadline_is_reached() -> None:
    """Just before it is alive, at it it is due; whoever ends it does so once."""
    leases = Leases()
    leases.start("a", 10.0, 100.0)
    assert leases.due(109.999) == []
    assert leases.due(110.0) == ["a"]
    assert leases.end("a")
    assert not leases.end("a")
    assert "a" not in leases
    assert leases.ttl_s("a") is None


def test_a_renewal_leaves_no_earlier_deadline_behind() -> None:
    """The stale entry of the heap is neither due nor the next deadline."""
    leases = Leases()
    leases.start("a", 10.0, 0.0)
    leases.start("a", 10.0, 5.0)
    assert leases.next_deadline_s() == 15.0
    assert leases.due(14.0) == []
    assert leases.due(15.0) == ["a"]


def test_what_is_due_is_named_once_and_in_order() -> None:
    """Several at once come by their deadlines, each one once though it was renewed in place."""
    leases = Leases()
    leases.start("late", 3.0, 0.0)
    leases.start("soon", 1.0, 0.0)
    leases.start("soon", 1.0, 0.0)
    assert leases.due(3.0) == ["soon", "late"]
    assert leases.due(3.0) == []


def test_an_ended_lease_is_no_deadline_any_more() -> None:
    """The next deadline is that of a living lease; without one there is none."""
    leases = Leases()
    leases.start("a", 1.0, 0.0)
    leases.start("b", 2.0, 0.0)
    leases.end("a")
    assert leases.next_deadline_s() == 2.0
    leases.end("b")
    assert leases.next_deadline_s() is None
    assert len(leases) == 0

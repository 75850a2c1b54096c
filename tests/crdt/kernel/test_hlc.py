"""The hybrid clock: strictly monotone, close to the wall, never dragged far."""

from crdt import HLC
from crdt.kernel.hlc import milliseconds, pack


def test_a_clock_started_at_its_ceiling_never_goes_back():
    """[crdt 16] The ceiling is reserved ahead; a restart begins above everything issued."""
    hlc = HLC()
    ceiling = hlc.reserve()
    issued = [hlc.tick(5) for _ in range(1_000)]
    assert ceiling is not None
    assert max(issued) < ceiling
    assert hlc.reserve() is None
    assert HLC(ceiling).tick(0) > max(issued)
    hlc.observe(pack(2_000))
    assert hlc.reserve() == pack(3_000)
    assert repr(HLC(pack(7, 3))) == "HLC(7 ms + 3)"


def test_no_stamp_is_given_twice():
    """Within a millisecond, over its end, when time stands still, goes back, or equals a peer's."""
    hlc = HLC()
    times = [7, 7, 7, 8, 8, 3, 9, 9]
    issued = [hlc.tick(now) for now in times]
    hlc.observe(pack(20), now_ms=20)
    issued += [hlc.tick(20), hlc.tick(20), hlc.tick(), hlc.tick()]
    assert issued == sorted(set(issued))


def test_a_clock_follows_just_as_far_as_it_is_allowed_to():
    """A peer that is ahead by the whole allowance is followed, and by a millisecond more is not."""
    hlc = HLC(skew_ms_max=250)
    assert hlc.observe(pack(1_250, 9), now_ms=1_000)
    assert hlc.tick(1_000) > pack(1_250, 9)
    before = hlc.last
    assert not hlc.observe(pack(1_251), now_ms=1_000)
    assert (hlc.last, hlc.skewed, hlc.skewed_most_ms) == (before, 1, 251)


def test_a_stamp_too_far_ahead_is_counted_and_not_followed():
    """The clock follows a peer up to its allowance; beyond it, it goes on by itself."""
    hlc = HLC()
    hlc.tick(1_000)
    assert hlc.observe(pack(1_500), 1_000)
    assert milliseconds(hlc.last) == 1_500
    assert not hlc.observe(pack(10_000_000), 1_000)
    assert hlc.skewed == 1
    assert milliseconds(hlc.tick(1_000)) == 1_500

"""The bandwidth cap as arithmetic; what it does to a cluster is in `tests/simulation`."""

from __future__ import annotations

from replication.protocol.token_bucket import TokenBucket


def test_the_bucket_fills_at_its_rate_up_to_a_second_and_may_owe_one_frame():
    """Room is what has flowed in; a frame that was larger is waited for afterwards."""
    bucket = TokenBucket(1000)
    assert bucket.room(50.0) == 1000  # full at first
    bucket.spend(1500)
    assert bucket.room(50.0) == 0
    assert bucket.room(50.59) == 0  # a tenth of a second's worth is the least
    assert 50.6 < bucket.ready_s() <= 50.611
    assert bucket.room(bucket.ready_s()) >= 100
    assert bucket.room(51.0) == 500
    assert bucket.room(99.0) == 1000  # not more than a second's worth
    assert bucket.room(98.0) == 1000  # a clock that goes back gives nothing


def test_without_a_rate_everything_may_go():
    """0 is no limit, and nothing is computed."""
    bucket = TokenBucket(0)
    bucket.spend(1 << 40)
    assert bucket.room(0.0) > 1 << 40

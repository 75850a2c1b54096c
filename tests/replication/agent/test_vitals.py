"""The instruments of an agent: durations in buckets, late loops, convergence, arrivals."""

from __future__ import annotations

import math

import pytest

from replication.agent.vitals import (
    ARRIVALS_MAX,
    BUCKETS_S,
    CONVERGING_MAX,
    LOOK_AFTER_S,
    LOOK_BACK_S,
    LOOK_EVERY_S,
    Heartbeat,
    Histogram,
    Vitals,
)


class Clock:
    """Seconds that pass when a test says so; on the wall, it is a million seconds later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int((self.now_s + 1_000_000) * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock) -> Vitals:
    return Vitals(clock, clock.wall_ms)


def test_a_duration_is_counted_in_the_first_bucket_that_holds_it():
    """A bound belongs to its own bucket; beyond the last one there is a bucket for all others."""
    histogram = Histogram()
    for duration_s in (0.0, BUCKETS_S[0], BUCKETS_S[1], BUCKETS_S[-1] + 1):
        histogram.add(duration_s)
    assert histogram.counts == [2, 1, *[0] * (len(BUCKETS_S) - 2), 1]
    assert histogram.total_s == pytest.approx(sum((BUCKETS_S[0], BUCKETS_S[1], 101.0)))


def test_the_worst_lateness_is_forgotten_after_a_while(clock):
    """The recent one falls to the next worst that is young enough, and then to nothing."""
    heartbeat = Heartbeat(clock)
    for now_s, late_s in ((0.0, 2.0), (1.0, 0.5), (2.0, 0.1)):
        clock.now_s = now_s
        heartbeat.late(late_s)
    assert heartbeat.recent_s == 2.0
    clock.now_s = LOOK_BACK_S + 0.5
    assert heartbeat.recent_s == 0.5
    clock.now_s = LOOK_BACK_S + 1.5
    assert heartbeat.recent_s == 0.1
    clock.now_s = LOOK_BACK_S + 2.5
    assert (heartbeat.recent_s, heartbeat.worst_s) == (0.0, 2.0)


def test_a_timer_that_rings_early_is_not_late(clock):
    """Clocks have a grain; a lateness is never below zero."""
    heartbeat = Heartbeat(clock)
    heartbeat.late(-0.001)
    assert heartbeat.worst_s == 0.0


def test_convergence_is_counted_commit_by_commit_in_their_order(clock, vitals):
    """The oldest commit that a member lacks holds up those after it, and says since when."""
    for seq in (1, 2, 3):
        clock.now_s = float(seq)
        vitals.committed("ada~1", {"ada~1": seq - 1}, {"ada~1": seq})
    clock.now_s = 5.0
    vitals.spread(lambda vector: vector["ada~1"] <= 2)
    assert sum(vitals.convergence.counts) == 2
    assert vitals.convergence.total_s == (5 - 1) + (5 - 2)
    assert vitals.converging_s == 5 - 3
    assert vitals.lag_s("ada~1", 2) == 2.0
    assert vitals.lag_s("ada~1", 3) == 0.0
    vitals.spread(lambda _: True)
    assert vitals.converging_s == 0.0


def test_commits_that_nobody_confirms_are_bounded(vitals):
    """With a member gone for days the oldest are given up, uncounted."""
    for seq in range(1, CONVERGING_MAX + 10):
        vitals.committed("ada~1", {"ada~1": seq - 1}, {"ada~1": seq})
    vitals.spread(lambda _: True)
    assert sum(vitals.convergence.counts) == CONVERGING_MAX


def test_events_of_others_are_not_convergence_and_have_an_arrival(clock, vitals):
    """An event arrived with the first commit whose vector covers it."""
    clock.now_s = 1.0
    vitals.committed("ada~1", {}, {"bob~1": 5})
    clock.now_s = 2.0
    vitals.committed("ada~1", {"bob~1": 5}, {"bob~1": 7})
    assert vitals.converging_s == 0.0
    assert vitals.arrived_ms("bob~1", 6) == vitals.arrived_ms("bob~1", 7) == 1_000_002_000
    assert vitals.arrived_ms("bob~1", 5) == 1_000_001_000
    assert vitals.arrived_ms("bob~1", 8) is None
    assert vitals.arrived_ms("cyd~1", 1) is None


def test_an_arrival_of_long_ago_is_unknown_and_not_guessed(vitals):
    """When the oldest arrivals are dropped, the oldest that is left may stand for older events."""
    for seq in range(1, ARRIVALS_MAX + 2):
        vitals.committed("ada~1", {"bob~1": seq - 1}, {"bob~1": seq})
    assert vitals.arrived_ms("bob~1", 1) is None
    assert vitals.arrived_ms("bob~1", ARRIVALS_MAX + 1) is not None


def test_own_writes_are_asked_for_soon_and_then_at_a_pace(clock, vitals):
    """Soon after the first, and every some seconds while there is one that is not everywhere."""
    assert vitals.look_s == math.inf
    vitals.committed("ada~1", {}, {"ada~1": 1})
    assert vitals.look_s == LOOK_AFTER_S
    clock.now_s = LOOK_AFTER_S
    assert vitals.looked() == {"ada~1": 1}
    assert vitals.look_s == LOOK_AFTER_S + LOOK_EVERY_S
    vitals.spread(lambda _: True)
    assert vitals.look_s == math.inf
    clock.now_s = 2.0
    vitals.committed("ada~1", {"ada~1": 1}, {"ada~1": 2})
    assert vitals.look_s == LOOK_AFTER_S + LOOK_EVERY_S, "not sooner than it would have been"
    vitals.spread(lambda _: False)
    assert vitals.look_s < math.inf

"""When a round is due, with whom, and who takes the place of a partner that is silent."""

from __future__ import annotations

import random
from dataclasses import replace

from replication import Config
from replication.protocol.exchanges import Opened
from replication.protocol.gossip_scheduler import REPLACED_AFTER, WIDESPREAD_ROUNDS, GossipScheduler
from replication.protocol.membership import Membership
from replication.protocol.messages import MemberClaim, Push, Status, Sync

PURE = Config(gossip_jitter=0.0, gossip_interval_max_s=1.0, eager_peers_max=0)
"""Gossip alone, at a steady pace."""


def table(size: int) -> Membership:
    members = Membership("me~1", "h:0", 65536, PURE, 0.0)
    claims = [MemberClaim(f"n{n}~1", f"h:{n}", 1, Status.ALIVE) for n in range(1, size)]
    members.learn(claims, 0.0)
    return members


def concluded(replica: str, request: Sync | Push) -> Opened:
    return Opened("h:1", replica, request, 1, 15.0, {})


SYNC = Sync(digest=None)


def test_partners_that_did_not_answer_are_replaced_once_by_others():
    """Half an interval later, by members that were not asked in this round; never a second time."""
    members = table(10)
    schedule = GossipScheduler(replace(PURE, fanout=3), random.Random(1), (), 0.0, {})
    first, _ = schedule.begin({}, members, 0.0)
    schedule.answered(concluded(first[0].replica, SYNC))
    assert schedule.wake_s == REPLACED_AFTER
    assert schedule.begin({}, members, REPLACED_AFTER - 0.01) == ([], [])
    second, _ = schedule.begin({}, members, REPLACED_AFTER)
    assert len(second) == 2
    assert not {m.replica for m in first} & {m.replica for m in second}
    assert schedule.begin({}, members, 0.9) == ([], [])
    assert schedule.wake_s == 1.0


def test_a_round_that_was_answered_costs_nothing_more():
    """No frame, and not even a tick; that a push was answered says nothing of the round."""
    members = table(10)
    schedule = GossipScheduler(PURE, random.Random(1), (), 0.0, {})
    partners, _ = schedule.begin({}, members, 0.0)
    for member in partners:
        schedule.answered(concluded(member.replica, Push(b"")))
    assert schedule.wake_s == REPLACED_AFTER
    for member in partners:
        schedule.answered(concluded(member.replica, SYNC))
    assert schedule.wake_s == 1.0
    assert schedule.begin({}, members, REPLACED_AFTER) == ([], [])


def test_what_is_widespread_is_eight_to_sixteen_rounds_old():
    """Never younger, or news would be left out; never much older, or old news would be told."""
    schedule = GossipScheduler(PURE, random.Random(1), (), 0.0, {"me~1": 5})
    for second in range(5 * WIDESPREAD_ROUNDS):
        schedule.begin({"me~1": 5 + second}, table(3), float(second))
        age = 5 + second - schedule.widespread["me~1"]
        assert age <= 2 * WIDESPREAD_ROUNDS
        assert age >= WIDESPREAD_ROUNDS or schedule.widespread == {"me~1": 5}


def test_rounds_without_news_come_ever_more_rarely_and_news_bring_them_back():
    """1, 2, 4, 8 seconds and no more; a write is not kept waiting for the long interval."""
    members, config = table(10), replace(PURE, gossip_interval_max_s=8.0)
    schedule = GossipScheduler(config, random.Random(1), (), 0.0, {})
    pauses, now_s = [], 0.0
    for _ in range(6):
        schedule.begin({"me~1": 1}, members, now_s)
        pauses.append(schedule.due_s - now_s)
        now_s = schedule.due_s
    assert pauses == [1, 2, 4, 8, 8, 8]
    schedule.news(now_s - 7.5)
    assert schedule.due_s == now_s - 6.5
    schedule.begin({"me~1": 2}, members, schedule.due_s)
    assert schedule.interval_s == 1


def test_who_is_alone_asks_seeds_and_the_dead_in_every_round():
    """Both halves of a partition believe the other half dead: somebody has to try."""
    members = table(2)
    members.learn([MemberClaim("n1~1", "h:1", 1, Status.DEAD)], 0.0)
    schedule = GossipScheduler(PURE, random.Random(1), ("s:1", "s:2"), 0.0, {})
    for second in range(20):
        partners, strangers = schedule.begin({}, members, float(second))
        assert [m.replica for m in partners] == ["n1~1"]
        assert strangers == ["s:1", "s:2"]
    schedule.forget("s:1")  # that was ourselves
    assert schedule.begin({}, members, 99.0)[1] == ["s:2"]


def test_who_has_company_tries_the_dead_and_a_seed_now_and_then():
    """One in ten rounds: dead is not gone, and costs next to nothing."""
    members = table(12)
    members.learn([MemberClaim("n1~1", "h:1", 1, Status.DEAD)], 0.0)
    schedule = GossipScheduler(PURE, random.Random(1), ("s:1",), 0.0, {})
    rounds = [schedule.begin({}, members, float(second)) for second in range(1000)]
    dead = sum("n1~1" in {m.replica for m in partners} for partners, _ in rounds)
    asked = sum(bool(strangers) for _, strangers in rounds)
    assert 70 <= dead <= 130
    assert 70 <= asked <= 130

"""When a round is due, with whom, and who takes the place of a partner that is silent."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain

from replication import Config
from replication.protocol.exchanges import Opened
from replication.protocol.gossip_scheduler import REPLACED_AFTER, WIDESPREAD_ROUNDS, GossipScheduler
from replication.protocol.membership import Membership
from replication.protocol.messages import MemberClaim, Probe, Push, Status, Sync

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


def a_round(
    schedule: GossipScheduler, members: Membership, vector: dict, now_s: float
) -> list[str]:
    """One in which every partner answers; the seeds that were asked."""
    partners, strangers = schedule.begin(vector, members, now_s)
    for member in partners:
        schedule.answered(concluded(member.replica, SYNC))
    return strangers


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
        a_round(schedule, members, {"me~1": 1}, now_s)
        pauses.append(schedule.due_s - now_s)
        now_s = schedule.due_s
    assert pauses == [1, 2, 4, 8, 8, 8]
    schedule.news(now_s - 7.5)
    assert schedule.due_s == now_s - 6.5
    schedule.begin({"me~1": 2}, members, schedule.due_s)
    assert schedule.interval_s == 1


def test_a_round_with_a_silent_partner_is_not_idle():
    """Whatever it lacks should not wait for the long interval once it can be reached again."""
    members, config = table(10), replace(PURE, gossip_interval_max_s=8.0)
    schedule = GossipScheduler(config, random.Random(1), (), 0.0, {})
    now_s, pauses = 0.0, []
    for answers in (True, True, True, False, False, True, True, True):
        if answers:
            a_round(schedule, members, {}, now_s)
        else:
            schedule.begin({}, members, now_s)
            schedule.begin({}, members, now_s + REPLACED_AFTER)
        pauses.append(schedule.due_s - now_s)
        now_s = schedule.due_s
    assert pauses == [2, 4, 8, 1, 1, 1, 2, 4]


def away(members: Membership, *numbers: int) -> Membership:
    members.learn([MemberClaim(f"n{n}~1", f"h:{n}", 1, Status.DEAD) for n in numbers], 0.0)
    return members


def tried_by(schedule: GossipScheduler, members: Membership, seconds: int) -> list[list[str]]:
    """Addresses tried in each of so many intervals."""
    return [[address for address, _ in schedule.tries(members, float(s))] for s in range(seconds)]


def test_who_is_alone_asks_its_seeds_every_round_and_tries_the_dead_every_interval():
    """Both halves of a partition believe the other half dead: somebody has to try."""
    members = away(table(2), 1)
    schedule = GossipScheduler(PURE, random.Random(1), ("s:1", "s:2"), 0.0, {})
    for second in range(20):
        assert schedule.begin({}, members, float(second)) == ([], ["s:1", "s:2"])
        assert schedule.tries(members, float(second)) == [("h:1", "n1~1")]
        assert schedule.tries(members, second + 0.5) == []
        assert schedule.wake_s == second + 1.0
    schedule.forget("s:1")  # that was ourselves
    assert schedule.begin({}, members, 99.0)[1] == ["s:2"]


def test_a_side_makes_so_many_tries_together_whatever_its_size():
    """Four an interval by all agents of it; each member in its turn, nobody twice before."""
    members = away(table(41), *range(1, 21))
    schedule = GossipScheduler(PURE, random.Random(1), (), 0.0, {})
    tried = list(chain.from_iterable(tried_by(schedule, members, 2100)))
    assert 350 <= len(tried) <= 450, "one of 21 agents, in 2100 intervals"
    assert all(len(set(tried[i : i + 20])) == 20 for i in range(0, len(tried) - 20, 20))


def test_many_who_are_away_are_tried_within_a_turn_by_their_few():
    """A hundred ports of earlier lives hide those of a partition: each gets its turn soon."""
    members = away(table(104), *range(1, 101))
    schedule = GossipScheduler(PURE, random.Random(1), (), 0.0, {})
    tried = tried_by(schedule, members, 40)
    assert all(len(them) in (3, 4) for them in tried)
    assert set(chain.from_iterable(tried[:33])) == {f"h:{n}" for n in range(1, 101)}


def test_a_seed_where_nobody_is_known_is_tried_like_the_dead_until_somebody_answers_there():
    """Two clusters that never met find each other; a seed that is an alias is left alone."""
    members = table(4)
    schedule = GossipScheduler(PURE, random.Random(1), ("localhost:1",), 0.0, {})
    assert a_round(schedule, members, {}, 0.0) == []
    assert tried_by(schedule, members, 3) == [["localhost:1"]] * 3
    answered = replace(concluded("", Probe()), address="localhost:1")
    schedule.answered(answered, "n1~1")
    assert tried_by(schedule, members, 9) == [[]] * 9
    assert schedule.wake_s == 1.0, "nobody is away: nothing to wake up for"
    assert "localhost:1" in chain.from_iterable(tried_by(schedule, away(members, 1), 3))


def test_a_heal_is_followed_by_tries_and_rounds_at_full_pace():
    """What ended for one has ended for others: the next try is due at once."""
    members, config = away(table(6), 1, 2), replace(PURE, gossip_interval_max_s=8.0)
    schedule = GossipScheduler(config, random.Random(1), (), 0.0, {})
    for _ in range(6):
        a_round(schedule, members, {}, schedule.due_s)
    now_s = schedule.due_s - 7.5
    schedule.tries(members, now_s)
    schedule.healed(now_s)
    assert schedule.wake_s == now_s
    schedule.tries(members, now_s)
    assert now_s < schedule.wake_s <= now_s + 1
    assert schedule.due_s == now_s + 1

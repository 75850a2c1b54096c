"""What is known and believed of a peer, what that makes us push, and who acknowledged what."""

from __future__ import annotations

import random

import pytest

from replication.config import Config
from replication.protocol.membership import Membership
from replication.protocol.messages import MemberClaim, Status
from replication.protocol.peers import (
    WITHHELD_MAX,
    Acknowledgements,
    Behind,
    Peer,
    Peers,
    Reached,
)

CONFIG = Config()
BOB, EVE = "bob~1", "eve~1"


@pytest.fixture
def members() -> Membership:
    made = Membership("ada~1", "h:1", 65536, CONFIG, 0.0)
    made.learn([MemberClaim(name, f"h:{name}", 1, Status.ALIVE) for name in (BOB, EVE)], 0.0)
    return made


@pytest.fixture
def peers() -> Peers:
    return Peers(CONFIG, random.Random(1))


# ------------------------------------------------------------------------------ one peer


def test_what_a_peer_reports_is_known_and_what_was_pushed_is_believed():
    """A guess may run ahead; a report never goes back, and an exact one corrects the guess."""
    peer = Peer()
    peer.reported({"ada~1": 3})
    peer.raise_belief((("ada~1", 4, 9), ("eve~1", 2, 5)))  # eve's 1 is lacking: it cannot apply
    assert (peer.known, peer.believed) == ({"ada~1": 3}, {"ada~1": 9})
    peer.reported({"ada~1": 2})
    assert (peer.known, peer.believed) == ({"ada~1": 3}, {"ada~1": 9})
    peer.reported({"ada~1": 4}, exact=True)
    assert (peer.known, peer.believed) == ({"ada~1": 4}, {"ada~1": 4})


def test_a_comparison_is_as_old_as_the_vector_that_was_shown():
    """What came since the frame was sealed was not compared, however equal the hashes were."""
    peer = Peer()
    assert not peer.compared_since({})  # we never met
    peer.compared({"ada~1": 3}, shown={"ada~1": 3})
    assert peer.compared_since({"ada~1": 3})
    assert not peer.compared_since({"ada~1": 4})
    assert (peer.known, peer.introduced) == ({"ada~1": 3}, True)


def test_pushes_are_withheld_a_few_times_and_again_after_chunks_were_asked_for():
    """A newcomer will ask for chunks; one that cannot reach us is pushed to in the end."""
    peer = Peer()
    assert [peer.withhold() for _ in range(WITHHELD_MAX + 2)] == [True] * WITHHELD_MAX + [False] * 2
    peer.asked_for_chunks()
    assert peer.withhold()


# ------------------------------------------------------------------------------ pushes


def test_writes_during_a_push_are_one_push_afterwards(peers, members):
    """One in flight per peer; an outbox is a set of origins, so what waits coalesces."""
    live = members.live()
    peers.spread(["ada~1"], live)
    first = peers.plan(live, {"ada~1": 1}, 9)
    assert [(p.peer.replica, p.since) for p in first] == [(BOB, {"ada~1": 0}), (EVE, {"ada~1": 0})]
    for _ in range(3):
        peers.spread(["ada~1"], live)
        assert not peers.due()
        assert peers.plan(live, {"ada~1": 4}, 9) == []
    peers.pushed(BOB, {"ada~1": 1}, {"ada~1": 4}, ())
    (second,) = peers.plan(live, {"ada~1": 4}, 9)
    assert (second.peer.replica, second.since) == (BOB, {"ada~1": 1})


def test_a_refusal_is_answered_by_a_push_from_where_the_peer_stands_but_only_once(peers, members):
    """It saw a gap: its vector corrects our belief. The same vector again says nothing new."""
    live, applied = members.live(), {"ada~1": 9}
    bob = peers.peer(BOB)
    bob.raise_belief((("ada~1", 1, 8),))
    peers.spread(["ada~1"], live[:1])
    (plan,) = peers.plan(live, applied, 9)
    assert plan.since == {"ada~1": 8}
    peers.pushed(BOB, {"ada~1": 5}, applied, plan.told)
    (again,) = peers.plan(live, applied, 9)
    assert (again.since, again.told) == ({"ada~1": 5}, plan.told)
    peers.pushed(BOB, {"ada~1": 5}, applied, again.told)
    assert not peers.due()


def test_a_push_that_failed_is_left_to_gossip(peers, members):
    """Nothing is repeated; the next write may be pushed."""
    peers.spread(["ada~1"], members.live())
    peers.plan(members.live(), {"ada~1": 1}, 9)
    peers.push_failed(BOB)
    assert not peers.due()
    peers.spread(["ada~1"], members.live())
    assert peers.due()


def test_news_go_to_few_and_to_nobody_who_was_told(peers, members):
    """A receiver forwards what was new to it once, and only to others."""
    told = [peers.hash_of(BOB)]
    peers.spread(["ada~1"], members.live(), told)
    (plan,) = peers.plan(members.live(), {"ada~1": 1}, 9)
    assert plan.peer.replica == EVE
    assert set(plan.told) == {peers.hash_of(BOB), peers.hash_of(EVE)}


def test_a_delta_credits_its_sender_and_those_that_it_names(peers, members):
    """Else every sync would repeat what somebody else pushed a moment ago."""
    peers.credit((("ada~1", 1, 3),), BOB, members.live(), [peers.hash_of(EVE)])
    assert peers.peer(BOB).believed == peers.peer(EVE).believed == {"ada~1": 3}
    assert peers.peer(EVE).known == {}


# ------------------------------------------------------------------------------ acknowledgements


def test_only_what_members_reported_themselves_is_acknowledged(peers, members):
    """Beliefs do not count, and the dead do: dead is not gone."""
    acknowledgements, mine = Acknowledgements(members, peers), {"ada~1": 5, "eve~1": 2}
    peers.peer(BOB).reported({"ada~1": 5, "eve~1": 1})
    peers.peer(EVE).raise_belief((("ada~1", 1, 5),))
    assert acknowledgements.reached({"ada~1": 5}) == Reached(on_disk=1, in_memory=0)
    assert acknowledgements.lag(mine) == {BOB: 1, EVE: 7}
    assert acknowledgements.stable(mine) == {}
    members.learn([MemberClaim(EVE, "h", 1, Status.DEAD)], 1.0)
    assert acknowledgements.stable(mine) == {}
    members.learn([MemberClaim(EVE, "h", 1, Status.LEFT)], 2.0)
    assert acknowledgements.stable(mine) == {"ada~1": 5, "eve~1": 1}


def test_a_peer_without_a_journal_is_no_disk():
    """It says so of itself; until it said anything, nothing is believed of it."""
    members = Membership("ada~1", "h:1", 65536, CONFIG, 0.0)
    peers = Peers(CONFIG, random.Random(1))
    acknowledgements = Acknowledgements(members, peers)
    claims = [
        MemberClaim(BOB, "h:b", 1, Status.ALIVE),
        MemberClaim(EVE, "h:e", 1, Status.ALIVE, journalled=False),
    ]
    members.learn(claims, 0.0)
    members.heard("cyd~1", 0.0)
    for replica in (BOB, EVE, "cyd~1"):
        peers.peer(replica).reported({"ada~1": 5})
    assert acknowledgements.reached({"ada~1": 5}) == Reached(on_disk=1, in_memory=2)
    members.learn([MemberClaim("cyd~1", "h:c", 2, Status.ALIVE)], 1.0)
    assert acknowledgements.reached({"ada~1": 5}) == Reached(on_disk=2, in_memory=1)
    assert acknowledgements.reached({"ada~1": 6}).members == 0


def test_a_lag_begins_when_the_first_event_that_is_lacking_was_heard_of():
    """Reaching that event ends it, though more is lacking by then."""
    behind = Behind()
    behind.heard({"bob~1": 5}, {"bob~1": 3}, 10.0)
    behind.heard({"bob~1": 9}, {"bob~1": 3}, 20.0)
    assert behind.lag({"bob~1": 3}, 30.0) == {"bob~1": (6, 20.0)}
    behind.heard({"bob~1": 9}, {"bob~1": 5}, 30.0)
    assert behind.lag({"bob~1": 5}, 31.0) == {"bob~1": (4, 1.0)}
    assert behind.lag({"bob~1": 9}, 32.0) == {}

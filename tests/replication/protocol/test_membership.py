"""Who believes what of whom: the order of claims, refutation, suspicion, local health."""

from __future__ import annotations

import pytest

from replication.config import Config
from replication.protocol.membership import Membership
from replication.protocol.messages import MemberClaim, Status

CONFIG = Config()


def table() -> Membership:
    members = Membership("ada~1", "h:1", 65536, CONFIG, 0.0)
    members.learn([claim("bob~1", 10), claim("eve~1", 10)], 0.0)
    return members


def claim(replica: str, incarnation: int, status: Status = Status.ALIVE) -> MemberClaim:
    return MemberClaim(replica, f"h:{replica}", incarnation, status)


@pytest.mark.parametrize(
    ("incarnation", "status", "becomes"),
    [
        (10, Status.SUSPECT, Status.SUSPECT),
        (9, Status.DEAD, Status.ALIVE),
        (11, Status.ALIVE, Status.ALIVE),
        (10, Status.LEFT, Status.LEFT),
        (9, Status.RETIRED, Status.RETIRED),
    ],
)
def test_the_higher_incarnation_wins_and_at_equal_ones_the_graver_status(
    incarnation, status, becomes
):
    """SWIM's order of claims; retiring needs no incarnation, it is an operator's word."""
    members = table()
    members.learn([claim("bob~1", incarnation, status)], 1.0)
    assert members.get("bob~1").status is becomes


def test_whoever_left_returns_with_a_higher_incarnation_but_the_retired_stay_away():
    """Leaving ends with the next start; retiring is final for that id."""
    members = table()
    members.learn([claim("bob~1", 10, Status.LEFT), claim("eve~1", 10, Status.RETIRED)], 1.0)
    members.learn([claim("bob~1", 11), claim("eve~1", 99)], 2.0)
    assert [m.replica for m in members.live()] == ["bob~1"]


def test_a_member_that_hears_itself_suspected_says_otherwise_louder():
    """Refutation: own incarnation above the claim, told again from the start."""
    members = table()
    members.learn([MemberClaim("ada~1", "h:1", 65540, Status.SUSPECT)], 1.0)
    assert members.me.incarnation == 65541
    assert members.me.claim() in members.gossip()


def test_a_suspicion_becomes_dead_after_its_time_and_dead_is_not_gone():
    """4 x max(1, log10 N) seconds; the dead stay in the address book and count for `stable`."""
    members = table()
    members.suspect("bob~1", 10.0)
    assert members.expire(13.9) == []
    assert [m.replica for m in members.expire(14.0)] == ["bob~1"]
    assert [m.replica for m in members.live()] == ["eve~1"]
    assert "bob~1" in {c.replica for c in members.address_book()}
    assert len(members.current()) == 2


def test_an_old_incarnation_at_the_same_address_has_left():
    """The id that is heard at an address holds it; the agent's earlier id does not linger."""
    members = table()
    members.learn([MemberClaim("bob~2", "h:bob~1", 10, Status.ALIVE)], 1.0)
    members.heard("bob~2", 1.0)
    assert [m.replica for m in members.live()] == ["eve~1", "bob~2"]


def test_members_that_left_are_forgotten_after_an_hour_and_the_retired_are_not():
    """Short-lived agents do not fill the table; what an operator declared is kept."""
    members = table()
    members.learn([claim("bob~1", 10, Status.LEFT), claim("eve~1", 10, Status.RETIRED)], 1.0)
    assert members.forget_gone(3600.0) == []
    assert members.forget_gone(3601.0) == ["bob~1"]
    assert [m.replica for m in members.everyone()] == ["eve~1"]


def test_a_flood_of_members_is_bounded():
    """[replication 25] (membership flood) unknown members beyond `members_max` are ignored."""
    members = Membership("ada~1", "h:1", 1, Config(members_max=100), 0.0)
    members.learn((claim(f"m{n}~1", 1) for n in range(5000)), 0.0)
    assert len(members) == 100


def test_gossip_tells_news_first_and_falls_silent_when_all_is_told():
    """Least told first, each about 3 log2 N times; an idle cluster pays nothing for membership."""
    members = table()
    told = [members.gossip() for _ in range(20)]
    assert {c.replica for c in told[0]} == {"ada~1", "bob~1", "eve~1"}
    assert told[-1] == ()
    members.suspect("bob~1", 5.0)
    assert [c.replica for c in members.gossip()] == ["bob~1"]


def test_who_was_known_at_our_own_address_is_not_dialled_there():
    """Counterexample: a dead member's port was taken over, and its heir asked itself for ever."""
    members = Membership("dan~1", "h:1", 65536, CONFIG, 0.0)
    there = [
        MemberClaim("cyd~1", "h:1", 1, Status.DEAD),
        MemberClaim("eve~1", "localhost:1", 1, Status.ALIVE),
    ]
    members.learn([*there, MemberClaim("bob~1", "h:2", 1, Status.ALIVE)], 0.0)
    assert members.dead() == []
    assert {m.name for m in members.live()} == {"eve", "bob"}
    members.came_back("localhost:1")
    assert {m.name for m in members.live()} == {"bob"}
    assert {claim.replica for claim in members.address_book()} == {"bob~1"}
    assert {m.name for m in members.current()} == {"cyd", "eve", "bob"}, "dead is not gone"
    members.learn([MemberClaim("cyd~1", "h:3", 2, Status.ALIVE)], 1.0)  # it moved, and says so
    assert {m.name for m in members.live()} == {"cyd", "bob"}

"""Who believes what of whom: the order of claims, refutation, suspicion, local health."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication.config import Config
from replication.protocol.membership import ROWS_PER_LEAF_MAX, Membership
from replication.protocol.messages import MemberClaim, Status
from replication.protocol.policy import AccessPolicy

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
        (9, Status.LEFT, Status.ALIVE),
        (10, Status.RETIRED, Status.RETIRED),
        (9, Status.RETIRED, Status.ALIVE),
    ],
)
def test_the_higher_incarnation_wins_and_at_equal_ones_the_graver_status(
    incarnation, status, becomes
):
    """SWIM's order of claims, whatever they say: a verdict is about the life that it knew."""
    members = table()
    members.learn([claim("bob~1", incarnation, status)], 1.0)
    assert members.get("bob~1").status is becomes


def test_whoever_left_or_was_retired_returns_with_a_higher_incarnation():
    """Leaving ends with the next start, and an operator's order with the word of who lives."""
    members = table()
    members.learn([claim("bob~1", 10, Status.LEFT), claim("eve~1", 10, Status.RETIRED)], 1.0)
    members.learn([claim("bob~1", 11), claim("eve~1", 99)], 2.0)
    assert [m.replica for m in members.live()] == ["bob~1", "eve~1"]


@pytest.mark.parametrize("status", [Status.SUSPECT, Status.DEAD, Status.LEFT, Status.RETIRED])
def test_whatever_is_said_of_the_living_is_refuted(status):
    """Counterexample: a wrong LEFT was final, and cut a living agent off for good."""
    bob, ada = Membership("bob~1", "h:bob~1", 10, CONFIG, 0.0), table()
    lie = claim("bob~1", 10, status)
    ada.learn([lie], 1.0, "eve~1")
    assert bob.learn([lie], 1.0, "ada~1") == [bob.me]
    ada.learn([bob.me.claim()], 2.0, "eve~1")  # by way of others
    assert ada.get("bob~1").status is Status.ALIVE
    assert "bob~1" in {m.replica for m in ada.live()}


def test_a_frame_of_who_is_said_to_have_left_says_otherwise_unless_it_was_late():
    """Its own goodbye is believed for that boot; hearsay is not, against the member itself."""
    members = table()
    members.learn([claim("bob~1", 10, Status.LEFT)], 1.0, "eve~1", b"boot-eve")
    members.heard("bob~1", 2.0, boot=b"boot-one")
    assert members.get("bob~1").status is Status.ALIVE
    members.learn([claim("bob~1", 11, Status.LEFT)], 3.0, "bob~1", b"boot-one")
    members.heard("bob~1", 3.1, boot=b"boot-one")
    assert members.get("bob~1").status is Status.LEFT
    members.heard("bob~1", 9.0, boot=b"boot-two")
    assert members.get("bob~1").status is Status.ALIVE


def test_who_came_back_by_a_late_frame_has_left_again_when_it_is_silent():
    """Else a frame that overtook a goodbye would make a dead member that `stable` waits for."""
    members = table()
    members.learn([claim("bob~1", 10, Status.LEFT)], 1.0, "eve~1")
    members.heard("bob~1", 1.1)
    members.suspect("bob~1", 2.0)
    assert members.expire(10.0) == []
    assert members.get("bob~1").status is Status.LEFT
    assert {m.replica for m in members.current()} == {"eve~1"}


def test_two_agents_that_crash_at_once_do_not_declare_each_others_new_lives_over():
    """Counterexample: a late frame of the former life took the address back, and LEFT was final."""
    ada = Membership("ada~2", "h:ada", 65536, CONFIG, 0.0)
    ada.learn([MemberClaim("bob~2", "h:bob", 65536, Status.ALIVE)], 1.0, "bob~2")
    ada.heard("bob~2", 1.0)
    ada.learn([MemberClaim("bob~1", "h:bob", 1, Status.ALIVE)], 1.1, "bob~1")
    ada.heard("bob~1", 1.1)
    assert ada.get("bob~2").status is Status.ALIVE
    assert ada.answered("bob~2", "h:bob", 1.2) == ["bob~1"]
    assert [m.replica for m in ada.current()] == ["bob~2"]


def leaves() -> Membership:
    """The table of a hub, where `hub`s speak for others, and `leaf` and `boss` for themselves."""
    policy = AccessPolicy(relays={"hub", "hub2"})
    members = Membership("hub~1", "h:hub", 1, CONFIG, 0.0, policy=policy)
    members.learn([claim("boss~1", 10)], 0.0, "hub2~1")
    return members


@pytest.mark.parametrize("status", list(Status))
def test_what_a_leaf_says_of_others_is_dropped(status):
    """Neither a verdict nor an address of somebody else, nor members that it invented."""
    hub = leaves()
    before = replace(hub.get("boss~1"))
    told = [MemberClaim("boss~1", "h:trap", 99, status), claim("ghost~1", 5), claim("leaf~2", 5)]
    hub.learn(hub.believed("leaf~1", told), 1.0, "leaf~1")
    assert hub.get("boss~1") == before
    assert [m.replica for m in hub.everyone()] == ["boss~1"]


def test_a_leaf_speaks_for_itself_and_a_relay_for_everybody():
    """Its own row, and the end of an earlier id of its own."""
    hub = leaves()
    hub.heard("leaf~1", 1.0)
    told = [claim("leaf~2", 7), claim("leaf~1", 7, Status.LEFT)]
    hub.learn(hub.believed("leaf~2", told), 2.0, "leaf~2", b"boot")
    assert {(m.replica, m.status) for m in hub.everyone()} == {
        ("boss~1", Status.ALIVE),
        ("leaf~1", Status.LEFT),
        ("leaf~2", Status.ALIVE),
    }
    hub.learn(hub.believed("hub2~1", [claim("boss~1", 11, Status.DEAD)]), 3.0, "hub2~1")
    assert hub.get("boss~1").status is Status.DEAD


def test_a_leaf_fills_its_own_share_of_the_table_and_nobody_elses():
    """Ids of one leaf are bounded, whether it claims them or speaks under them."""
    policy, config = AccessPolicy(relays={"hub"}), Config(members_max=100)
    hub = Membership("hub~1", "h:hub", 1, config, 0.0, policy=policy)
    for number in range(5000):
        hub.heard(f"leaf~{number}", float(number))
    assert len(hub) == ROWS_PER_LEAF_MAX + 1
    assert hub.heard("boss~1", 5000.0) is not None


def test_an_address_is_a_hint_until_its_owner_answered_there():
    """A new address has to be proved anew; an answer of somebody else proves nothing for it."""
    members = table()
    assert members.is_hint("bob~1", "h:bob~1")
    members.answered("eve~1", "h:bob~1", 1.0)
    assert members.is_hint("bob~1", "h:bob~1")
    members.answered("bob~1", "h:bob~1", 1.0)
    assert not members.is_hint("bob~1", "h:bob~1")
    members.learn([MemberClaim("bob~1", "h:new", 11, Status.ALIVE)], 2.0, "eve~1")
    assert members.is_hint("bob~1", "h:new")
    members.learn([MemberClaim("bob~1", "h:new", 11, Status.ALIVE)], 2.0, "bob~1")
    assert not members.is_hint("bob~1", "h:new"), "a relay's own word, first hand"
    hub = leaves()
    hub.learn([claim("leaf~1", 1)], 1.0, "leaf~1")
    assert hub.is_hint("leaf~1", "h:leaf~1")


def test_a_closed_life_is_no_member_and_claims_do_not_make_it_one():
    """What its successor recorded stands, until the record is void."""
    members = table()
    assert members.close("bob~1")
    members.learn([claim("bob~1", 99)], 1.0, "eve~1")
    assert members.heard("bob~1", 1.0) is None
    assert [m.replica for m in members.everyone()] == ["eve~1"]
    members.reopen("bob~1")
    members.heard("bob~1", 2.0)
    assert members.get("bob~1").status is Status.ALIVE


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
    """The id that answers at an address holds it; the agent's earlier id does not linger."""
    members = table()
    members.learn([MemberClaim("bob~2", "h:bob~1", 10, Status.ALIVE)], 1.0)
    members.heard("bob~2", 1.0)
    assert members.answered("bob~2", "h:bob~1", 1.0) == ["bob~1"]
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

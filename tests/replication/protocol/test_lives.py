"""Former lives are closed by a record of their heir: what makes it void, who may write it."""

from __future__ import annotations

import pytest

from crdt import Delta, GSet, Kernel, ORSet
from replication.config import Config
from replication.protocol.lives import Lives, ends, record_end
from replication.protocol.membership import Membership
from replication.protocol.messages import MemberClaim, Status
from replication.protocol.policy import LIVES, AccessPolicy

LATE_S = 15.0


def wrote(replica: str, count: int) -> Kernel:
    kernel = Kernel(replica)
    for number in range(count):
        kernel.document("set", ORSet).add(number)
    return kernel


def heir(former: Kernel, replica: str = "bob~2") -> Kernel:
    """Who goes on where `former` stood, and recorded that."""
    kernel = Kernel(replica)
    kernel.merge(former)
    record_end(kernel, former.replica)
    return kernel


class Ada:
    """A replica's view: its kernel, its table, its records."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel or Kernel("ada~1")
        self.members = Membership(self.kernel.replica, "h:1", 1, Config(), 0.0)
        self.members.learn([MemberClaim("bob~1", "h:bob", 1, Status.ALIVE)], 0.0)
        self.lives = Lives(self.kernel, self.members, LATE_S)

    def learn(self, other: Kernel, now_s: float = 1.0) -> tuple[list[str], list[str]]:
        delta = other.delta_since(self.kernel.vector)
        self.kernel.apply(delta)
        return self.lives.look({origin for origin, _, _ in delta.ranges}, now_s)

    def listed(self) -> set[str]:
        return {member.replica for member in self.members.everyone()}


def test_the_record_of_an_heir_closes_a_life_and_leaves_nothing_of_it():
    """No member, no claim brings it back, and its late frames do not either."""
    ada = Ada()
    assert ada.learn(heir(wrote("bob~1", 3))) == (["bob~1"], [])
    assert ada.listed() == set()
    ada.members.learn([MemberClaim("bob~1", "h:bob", 9, Status.ALIVE)], 2.0, "eve~1")
    assert not ada.lives.spoke("bob~1", 1.0 + LATE_S)
    assert ada.listed() == set()


def test_an_event_beyond_its_end_makes_a_record_void_whichever_comes_first():
    """A rolled back disk, or a machine copied as a whole: its heir did not know all of it."""
    rolled_back, more = wrote("bob~1", 2), wrote("bob~1", 3)
    ada = Ada()
    assert ada.learn(heir(rolled_back)) == (["bob~1"], [])
    assert ada.learn(more) == ([], ["bob~1"])
    ada.members.heard("bob~1", 2.0)
    assert ada.listed() == {"bob~1"}
    other = Ada()
    other.learn(more)
    assert other.learn(heir(rolled_back)) == ([], [])
    assert other.listed() == {"bob~1"}


def test_a_life_that_speaks_after_its_last_frames_can_be_on_their_way_is_not_over():
    """It may be read-only, and unable to write what would say so by itself."""
    ada = Ada()
    ada.learn(heir(wrote("bob~1", 3)), now_s=1.0)
    assert ada.lives.spoke("bob~1", 1.1 + LATE_S)
    ada.members.heard("bob~1", 1.1 + LATE_S)
    assert ada.listed() == {"bob~1"}
    assert not ada.lives.spoke("bob~1", 99.0), "once is enough"


def test_who_hears_its_own_end_writes_what_makes_that_void_for_everybody():
    """One event, once; at whoever took it for over, it is a member again."""
    bob = Ada(wrote("bob~1", 3))
    twin = heir(wrote("bob~1", 3))
    bob.learn(twin)
    assert bob.lives.refute()
    assert bob.kernel.vector["bob~1"] == 4
    assert bob.lives.refute()
    assert bob.kernel.vector["bob~1"] == 4
    ada = Ada()
    assert ada.learn(twin) == (["bob~1"], [])
    assert ada.learn(bob.kernel) == ([], ["bob~1"])


def test_a_record_that_knows_more_of_us_than_we_do_asks_for_a_new_id():
    """This journal lost events: to write under their numbers would be to use them twice."""
    bob = Ada(wrote("bob~1", 1))
    ahead = Kernel("bob~2")
    ahead.apply(wrote("bob~1", 2).delta_since({"bob~1": 1}))
    ahead.document(LIVES, GSet).add(("bob~1", 2, "bob~2"))
    bob.kernel.apply(ahead.delta_since({"bob~1": 2}))
    bob.lives.look(None, 1.0)
    assert not bob.lives.refute()
    assert bob.kernel.vector["bob~1"] == 1


@pytest.mark.parametrize(
    "element",
    [
        ("bob~1", 9, "eve~1"),  # of another name
        ("bob~1", 9, "bob~2"),  # in the name of an heir that did not write it
        ("eve~1", 9, "eve~1"),  # of itself
        ("bob~1", "nine", "eve~1"),
        "bob~1",
        7,
    ],
)
def test_nobody_closes_a_life_of_another_name(element):
    """The origin of the event has to be the heir, and the heir of the same name."""
    eve = Kernel("eve~1")
    eve.document(LIVES, GSet).add(element)
    assert list(ends(eve)) == []


def test_a_forger_who_was_first_does_not_keep_an_heir_from_being_heard():
    """Counterexample: the same element from two origins is one row."""
    eve, bob = Kernel("eve~1"), heir(wrote("bob~1", 3))
    eve.document(LIVES, GSet).add(("bob~1", 3, "bob~2"))
    ada = Ada()
    ada.learn(eve)
    assert ada.listed() == {"bob~1"}
    assert ada.learn(bob) == (["bob~1"], [])


def test_an_agent_that_may_write_next_to_nothing_may_still_say_that_its_life_is_over():
    """It adds; to kill what others recorded is not its to do."""
    policy = AccessPolicy(writers={"": {"ada"}})
    bob = heir(wrote("bob~1", 0))
    told = bob.delta_since({})
    assert policy.judged(told, lambda _: set(), lambda _: ()) == (told, {})
    kill = Delta.decode(Kernel("bob~3").document("set", ORSet).add(1).encode())
    _, refused = policy.judged(kill, lambda _: set(), lambda _: ())
    assert "not its own" in refused["bob~3"]
    assert not policy.may_write("bob", LIVES)

"""A frame is for one receiver, in one boot of it, for a while: who repeats it gains nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from crdt import ORSet
from replication import AccessPolicy, Config, Simulation
from replication.errors import ReplayedFrameError, StaleFrameError
from replication.protocol.digest import full
from replication.protocol.freshness import CHALLENGE_S, NOBODY, Freshness
from replication.protocol.keyring import Keyring
from replication.protocol.messages import Ack, Leave, MemberClaim, Push, Refused, Status, Sync
from replication.protocol.wire import UNKNOWN, Asker, Wire
from tests.replication.stranger import Stranger

SECRET = b"the secret of a cluster"
RULES = AccessPolicy(relays={"ada", "boss"})


def wire(boot: bytes, keys: Keyring | None = None) -> Wire:
    ring = keys or Keyring((SECRET,))
    return Wire(cluster="c", namespace="n", keys=ring, boot=boot, config=Config())


def test_a_challenge_holds_for_two_periods_and_in_one_boot_only():
    """It is given out for one period and holds for the next; time may leap, and starts anywhere."""
    ada, again = Freshness(b"one boot"), Freshness(b"the next boot")
    for freshness in (ada, again):
        freshness.rotate(1e9)
    first = ada.current
    assert len(first) == 8
    assert ada.holds(first)
    assert not again.holds(first)
    assert not ada.holds(NOBODY)
    ada.rotate(1e9 + CHALLENGE_S)
    assert ada.current != first
    assert ada.holds(first)
    ada.rotate(1e9 + 2 * CHALLENGE_S)
    assert not ada.holds(first)
    second = ada.current
    ada.rotate(1e9 + 9 * CHALLENGE_S)
    assert not ada.holds(second), "what leapt over a period leapt over its challenge"


def test_a_frame_opens_at_its_receiver_and_nowhere_else():
    """Not at another agent, not at the next boot of the same, not when it is old; there once."""
    ada, bob, eve = wire(b"ada-0001"), wire(b"bob-0001"), wire(b"eve-0001")
    restarted = wire(b"bob-0002")
    frames = [ada.seal("ada~1", Ack({}), challenge=bob.freshness.current) for _ in range(2)]
    assert bob.open(frames[0]).message == Ack({})
    with pytest.raises(ReplayedFrameError):
        bob.open(frames[0])
    for other in (eve, restarted, ada):
        with pytest.raises(StaleFrameError):
            other.open(frames[1])
    bob.freshness.rotate(2 * CHALLENGE_S)
    with pytest.raises(StaleFrameError):
        bob.open(frames[1])


def test_what_is_stale_is_remembered_nowhere():
    """Else whoever repeats old frames would push the windows of today's out."""
    bob = wire(b"bob-0001")
    for number in range(200):
        frame = wire(number.to_bytes(8, "big")).seal("ada~1", Ack({}), challenge=b"a former")
        with pytest.raises(StaleFrameError):
            bob.open(frame)
    assert not bob._windows


def test_a_frame_for_a_leaf_is_bound_like_any_other():
    """Own keys and the secret alike, while keys are rotated as well."""
    old, new, hub_key = b"the old own key", b"the new own key", b"what hubs hold"
    leaf = wire(b"leaf-001", Keyring(own=(new, old)))
    hub = wire(b"hub-0001", Keyring((hub_key,), principals={"leaf": (old, new)}))
    for sender, receiver, name in ((hub, leaf, "leaf"), (leaf, hub, "")):
        challenge = receiver.freshness.current
        assert receiver.open(sender.seal("x~1", Ack({}), name=name, challenge=challenge))
        with pytest.raises(StaleFrameError):
            receiver.open(sender.seal("x~1", Ack({}), name=name, challenge=b"another."))


@pytest.fixture
def sim() -> Simulation:
    made = Simulation(["ada", "bob"], 4)
    made.run(10)
    return made


def recorded(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bytes]]:
    """(who, to whom, frame) of all that travels from now on."""
    heard: list[tuple[str, str, bytes]] = []
    travel = Simulation._travel

    def tapped(self: Simulation, frame: bytes, one: str, other: str) -> object:
        heard.append((one, other, frame))
        return travel(self, frame, one, other)

    monkeypatch.setattr(Simulation, "_travel", tapped)
    return heard


def restarted(sim: Simulation, name: str) -> None:
    """A clean stop, and a start: the same id in its next boot."""
    journal, before = sim.agents[name].journal, sim.replica(name).id
    sim.run(1)
    sim.crash(name)
    journal.open()
    journal._written = True
    journal.close()
    sim.start(name)
    assert sim.replica(name).id == before


def incarnations(sim: Simulation) -> int:
    return sum(sim.replica(name).counts["re-incarnated"] for name in sim.up())


def again(sim: Simulation) -> int:
    return sum(sim.replica(name).counts["exchange:again"] for name in sim.up())


def test_a_pair_spends_one_round_trip_at_first_contact_and_none_while_it_talks():
    """Counted: 100 seconds of gossip, probes and pushes of two, across no rotation."""
    sim = Simulation(["ada", "bob"], 4)
    sim.run(2)
    assert 1 <= again(sim) <= 2, "one each at most"
    met = again(sim)
    for number in range(100):
        sim["ada"].document("set", ORSet).add(number)
        sim.run(1)
    assert again(sim) == met
    assert sim.equal()


def test_whoever_was_silent_for_longer_than_challenges_hold_spends_one_more():
    """Cut off for three periods: each of the two asks once in vain, and all is as before."""
    sim = Simulation(["ada", "bob"], 4)
    sim.run(5)
    sim.cut("ada", "bob")
    sim.run(3 * CHALLENGE_S)
    before = again(sim)
    sim["ada"].document("set", ORSet).add("news")
    sim.heal()
    assert sim.settle(20)
    sim.run(20)
    assert 1 <= again(sim) - before <= 2


def test_what_was_large_is_not_said_to_somebody_of_whom_no_challenge_is_known(monkeypatch):
    """A bare probe knocks: the request, of any size, travels once."""
    sim = Simulation(["ada"], 4)
    for number in range(500):
        sim["ada"].document("set", ORSet).add(f"{number:0100}")
    heard = recorded(sim, monkeypatch)
    sim.add("bob")
    assert sim.settle(20)
    first = next(frame for one, _, frame in heard if one == "bob")
    assert len(first) < 150
    assert sum(len(frame) for _, _, frame in heard if len(frame) > 1000) < 100_000


def test_frames_of_a_former_boot_cost_nobody_an_identity(sim, monkeypatch):
    """Counterexample: repeated to a hub that restarted, they made the running boot the clone.

    Everything that bob said in two boots is repeated to ada and to bob himself, before and after
    ada restarts, while bob goes on in his third.
    """
    heard = recorded(sim, monkeypatch)
    goodbye = sim.replica("bob").leave(sim.now_s)
    frames = [send.frame for send in goodbye.send if send.address]
    for number in range(3):
        sim["bob"].document("set", ORSet).add(number)
        sim.run(5)
        restarted(sim, "bob")
    restarted(sim, "ada")
    frames += [frame for _, _, frame in heard]
    told = Counter()
    for name in ("ada", "bob"):
        for frame in frames:
            effects = sim.replica(name).receive(frame, sim.now_s, 10**6)
            told.update(send.status for send in effects.send if not send.address)
    assert set(told) <= {401, 421}
    assert told[401] > 50
    sim.run(30)
    sim["bob"].document("set", ORSet).add("still bob")
    assert sim.settle(30)
    assert incarnations(sim) == 0
    assert not sim.replica("ada").counts["refused-by-peer:identity_conflict"]


def test_a_frame_that_was_held_back_over_a_restart_is_refused_and_the_later_boot_goes_on(sim):
    """Fresh it is still; but boots are ordered, so it is known to be of the former one."""
    bob, challenge = sim.replica("bob"), sim.replica("ada")._wire.freshness.current
    held = bob._wire.seal(bob.id, Sync(full({bob.id: 1})), challenge=challenge)
    restarted(sim, "bob")
    sim.run(20)
    (refused,) = sim.replica("ada").receive(held, sim.now_s, 10**6).send
    assert refused.status == 409
    sim["bob"].document("set", ORSet).add("news")
    assert sim.settle(20)
    assert incarnations(sim) == 0


def test_an_answer_answers_one_question(sim):
    """Counterexample: any refusal that was recorded once, of any number, was believed again."""
    ada, bob = sim.replica("ada"), sim.replica("bob")
    conflict = Refused(409, "identity_conflict", "recorded")
    given = ada._wire.freshness.current
    member, before = ada.members.live()[0], Counter(ada.counts)
    for wrong in (UNKNOWN, Asker(1, "", given), Asker(10**6, "", given), Asker(0, "", b"former..")):
        ada.gossip.greet(member, {}, sim.now_s)
        number = ada.exchanges.last
        ada.answered(number, bob._wire.answer(bob.id, conflict, wrong), sim.now_s)
    assert ada.counts["re-incarnated"] == 0
    assert ada.counts["refused:stale"] - before["refused:stale"] == 1
    assert ada.counts["refused-by-peer:unread"] == 1
    assert ada.counts["refused:malformed"] - before["refused:malformed"] == 2
    ada.gossip.greet(member, {}, sim.now_s)
    opened = ada.exchanges._open[ada.exchanges.last]
    right = bob._wire.answer(bob.id, conflict, Asker(opened.number, "", given))
    ada.answered(ada.exchanges.last, right, sim.now_s)
    assert ada.counts["re-incarnated"] == 1


def test_an_answer_proves_the_key_that_its_question_was_sealed_with():
    """Counterexample: a leaf on the way read what was asked of a relay, and answered for itself.

    That the address is the leaf's now, it said; the question, sealed for the relay, it could not
    have opened.
    """
    sim = Simulation(["ada", "boss"], 7, rules=RULES)
    sim.run(10)
    ada, boss = sim.replica("ada"), sim.replica("boss")
    key = b"the leaf's own key"
    ada._wire._keys.principals["leaf"] = (key,)
    ada._wire._keys.__post_init__()
    ada.gossip.greet(ada.members.live()[0], {}, sim.now_s)
    number = ada.exchanges.last
    heard = ada.exchanges._open[number].number
    leaf = Wire(
        cluster="simulated", namespace="default", keys=Keyring(own=(key,)), boot=b"the leaf",
        config=Config(), rules=RULES.digest,
    )  # fmt: skip
    asker = Asker(heard, "leaf", ada._wire.freshness.current)
    ada.answered(number, leaf.answer("leaf~01", Ack({}), asker), sim.now_s)
    assert ada.counts["refused:forbidden"] == 1
    assert ada.members.get(boss.id).proved
    assert ada.members.get("leaf~01") is None


def test_a_refusal_as_stale_opens_an_exchange_again_once(sim):
    """Whoever always refuses is given up, and has made nobody talk to him for ever."""
    ada, bob = sim.replica("ada"), sim.replica("bob")
    member = ada.members.live()[0]
    ada.gossip.greet(member, {}, sim.now_s)
    stale, sent = Refused(401, StaleFrameError.code, ""), 0
    while ada.exchanges.last in ada.exchanges._open:
        number = ada.exchanges.last
        asker = Asker(ada.exchanges._open[number].number, "", ada._wire.freshness.current)
        ada.answered(number, bob._wire.answer(bob.id, stale, asker), sim.now_s)
        sent += 1
    assert sent == 2


@pytest.mark.parametrize("sender", ["leaf~01", "boss~01"])
def test_a_leafs_word_about_our_own_events_is_counted_and_nothing_follows(sender):
    """Counterexample: each vector of a leaf with events that we never made cost an incarnation."""
    sim = Simulation(["ada"], 7, rules=RULES)
    sim.run(2)
    ada, before = sim.replica("ada"), sim.replica("ada").id
    stranger = Stranger(sim, sender)
    for _ in range(5):
        stranger.ask("ada", Sync(full({before: 10**12})))
    assert (ada.id == before) == (sender == "leaf~01")
    assert ada.counts["re-incarnation:leaf"] == 5 * (sender == "leaf~01")


@pytest.mark.parametrize("name", ["leaf", "boss"])
def test_a_leafs_refusal_says_nothing_of_our_identity(name):
    """Counterexample: a leaf that a hub asked answered that the hub's id was somebody else's."""
    sim = Simulation(["ada", name], 7, rules=RULES)
    sim.run(10)
    ada, other = sim.replica("ada"), sim.replica(name)
    ada.gossip.greet(ada.members.live()[0], {}, sim.now_s)
    number = ada.exchanges.last
    asker = Asker(ada.exchanges._open[number].number, "", ada._wire.freshness.current)
    conflict = Refused(409, "identity_conflict", "a lie")
    ada.answered(number, other._wire.answer(other.id, conflict, asker), sim.now_s)
    assert ada.counts["re-incarnated"] == (name == "boss")


def test_whoever_holds_our_lost_events_keeps_its_own_id(sim):
    """Counterexample: a disk was rolled back, and the peer that brought the rest had to move."""
    sim["ada"].document("set", ORSet).add("kept")
    assert sim.settle(10)
    old = sim.agents["ada"].journal.copy(continuous=True)
    sim["ada"].document("set", ORSet).add("lost by the disk")
    assert sim.settle(10)
    bob = sim.replica("bob").id
    sim.crash("ada")
    old.open()
    old._written = True
    old.close()
    sim.agents["ada"].journal = old
    sim.start("ada")
    assert sim.settle(30)
    assert sim.replica("bob").id == bob
    assert set(sim["ada"].document("set", ORSet)) == {"kept", "lost by the disk"}
    pushed = sim["bob"].delta_since({}).encode()
    answer = Stranger(sim).ask("bob", Push(pushed))
    assert isinstance(answer, Ack)


def test_a_goodbye_of_a_former_boot_parts_nobody(sim):
    """Held back, and delivered when its sender is back."""
    bob, challenge = sim.replica("bob"), sim.replica("ada")._wire.freshness.current
    claim = MemberClaim(bob.id, "bob", bob.members.me.incarnation, Status.LEFT)
    held = bob._wire.seal(bob.id, Leave((claim,)), challenge=challenge)
    restarted(sim, "bob")
    sim.run(5)
    sim.replica("ada").receive(held, sim.now_s, 10**6)
    assert sim.replica("ada").members.get(bob.id).status is Status.ALIVE


def test_a_request_without_a_seal_of_ours_learns_no_challenge(sim):
    """A knock of a stranger is answered with nothing at all."""
    stranger = wire(b"stranger", Keyring((b"another secret",)))
    (answer,) = sim.replica("ada").receive(stranger.seal("eve~1", Ack({})), sim.now_s, 1).send
    assert (answer.status, answer.frame) == (401, b"")

"""Whom to probe, how long to wait, and for whom else: the detector and its prober."""

from __future__ import annotations

import random

import pytest

from replication.config import Config
from replication.protocol.exchanges import Exchanges
from replication.protocol.failure_detector import FailureDetector, Prober, Relay
from replication.protocol.keyring import Keyring
from replication.protocol.membership import Membership
from replication.protocol.messages import MemberClaim, Probe, Probed, Push, Status
from replication.protocol.peers import Peers
from replication.protocol.policy import AccessPolicy
from replication.protocol.wire import Asker, Wire

CONFIG = Config()


def table() -> Membership:
    members = Membership("ada~1", "h:1", 65536, CONFIG, 0.0)
    members.learn([claim("bob~1", 10), claim("eve~1", 10)], 0.0)
    return members


def claim(replica: str, incarnation: int, status: Status = Status.ALIVE) -> MemberClaim:
    return MemberClaim(replica, f"h:{replica}", incarnation, status)


def test_every_member_is_probed_once_per_turn():
    """Shuffled round robin: the time to first detection is bounded."""
    members = table()
    detector = FailureDetector(CONFIG, random.Random(1))
    probed = []
    for second in range(4):
        probed.append(detector.begin(members.live(), float(second)).replica)
        detector.heard(probed[-1])
    assert sorted(probed[:2]) == sorted(probed[2:]) == ["bob~1", "eve~1"]


def test_silence_asks_helpers_first_and_only_then_accuses():
    """Direct timeout -> indirect probes -> end of the interval -> suspicion."""
    members = table()
    detector = FailureDetector(CONFIG, random.Random(1))
    target = detector.begin(members.live(), 0.0)
    assert detector.helpers(members.live(), 0.4) == []
    helpers = detector.helpers(members.live(), 0.5)
    assert target.replica not in {m.replica for m in helpers}
    assert detector.helpers(members.live(), 0.6) == []
    assert detector.verdict(0.9) is None
    assert detector.verdict(1.0) == target.replica


def test_a_blocked_loop_accuses_nobody():
    """[replication 26] (the detector's part) after 2 s away waits start anew, health stretches."""
    members = table()
    detector = FailureDetector(CONFIG, random.Random(1))
    detector.begin(members.live(), 0.0)
    detector.stalled(2.0)
    assert detector.verdict(2.5) is None
    assert detector.timeout_s() == 2 * CONFIG.probe_timeout_s
    detector.heard(detector.probing.replica)
    assert detector.timeout_s() == CONFIG.probe_timeout_s


def prober() -> Prober:
    """Of ada, who knows bob and eve."""
    members, dice = table(), random.Random(1)
    wire = Wire(cluster="c", namespace="n", keys=Keyring(), boot=b"boot-one", config=CONFIG)
    exchanges = Exchanges(CONFIG, wire, members)
    return Prober(FailureDetector(CONFIG, dice), members, exchanges, Peers(CONFIG, dice))


def test_a_probe_without_answer_goes_to_helpers_and_ends_in_dead():
    """Every stage as frames: direct, indirect, suspicion, and `dead` when nobody refutes it."""
    ada = prober()
    assert ada.step({}, 0.0) == []
    ((_, direct),) = ada.exchanges._open.items()
    (silent,) = {direct.replica} & {"bob~1", "eve~1"}
    (other,) = {"bob~1", "eve~1"} - {silent}
    assert (type(direct.request), direct.request.target) == (Probe, "")
    ada.step({}, 0.5)
    helper = ada.exchanges._open[2]
    assert (helper.replica, helper.request) == (other, Probe(silent))
    ada.step({}, 1.0)
    assert ada.members.get(silent).status is Status.SUSPECT
    ada.met(other, (), 4.9)
    assert ada.step({}, 5.0) == [silent]


@pytest.mark.parametrize("relays", [None, {"bob", "ada"}], ids=["a relay", "a leaf"])
def test_a_hint_to_a_relay_is_asked_with_our_address_and_to_a_leaf_with_nothing(relays):
    """Counterexample: answers came too late to be taken, and nobody ever proved anybody."""
    ada = prober()
    ada.members.policy = AccessPolicy(relays=relays)
    said = () if relays else (ada.members.me.claim(),)
    sent = ada.members.me.sent
    ada.call("h:eve~1", "eve~1", {}, 0.0)
    assert ada.relay("eve~1", Relay(7, Asker(70)), {}, 0.0) is None
    assert not ada.exchanges.open("h:eve~1", "eve~1", Push(b"x"), {}, 0.0), "it waits"
    ada.exchanges.ask_proof("eve~1", 10.0)
    requests = [opened.request for opened in ada.exchanges._open.values()]
    assert len(requests) >= 3
    assert set(requests) == {Probe(members=said)}
    assert ada.members.me.sent == sent, "a bare probe counts no claim as told"
    ada.exchanges.open("h:eve~1", "eve~1", Probe("bob~1"), {}, 20.0)
    asked = ada.exchanges._open[ada.exchanges.last].request
    assert asked == (Probe() if relays else Probe("bob~1"))
    eve = Membership("eve~1", "h:eve~1", 1, CONFIG, 0.0, policy=ada.members.policy)
    eve.learn(said, 1.0, "ada~1")
    assert bool(said) == any(m.proved for m in eve.everyone())


@pytest.mark.parametrize("answer", [Probed(), None], ids=["answered", "no answer"])
def test_a_peer_that_asks_for_a_probe_waits_until_it_is_over(answer):
    """The answer names the exchange of the peer; it says whether the target was reached."""
    ada, waiting = prober(), Relay(7, Asker(70))
    assert ada.relay("bob~1", waiting, {}, 0.0) is None
    number = ada.exchanges.last
    opened = ada.exchanges.take(number)
    assert ada.concluded(number, opened, answer=answer) == (waiting, Probed(answer is not None))
    assert ada.concluded(number, opened, answer=answer) is None


def test_a_probe_of_somebody_unknown_is_answered_at_once():
    """Nobody waits for a member that cannot be reached from here."""
    assert prober().relay("mal~1", Relay(7, Asker(70)), {}, 0.0) == Probed(reached=False)


def test_what_is_known_of_a_peer_goes_with_the_id_that_it_replaced():
    """A re-incarnated agent is another peer: what the old id had says nothing of the new one."""
    ada = prober()
    ada.peers.peer("bob~1").reported({"ada~1": 5})
    ada.met("bob~2", [MemberClaim("bob~2", "h:bob~1", 10, Status.ALIVE)], 1.0)
    ada.answered("bob~2", "h:bob~1", 1.0)
    assert "bob~1" not in ada.peers.peers

"""How fast news spreads where frames get lost: what a greeting brings, and who is replaced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crdt import LWWRegister
from replication import Config, Faults, Simulation
from replication.protocol.gossip_scheduler import WIDESPREAD_ROUNDS
from tests.scale import rounds

PURE = Config(gossip_jitter=0.0, gossip_interval_max_s=1.0, eager_peers_max=0)
"""Gossip alone, at a steady pace."""

CUT = replace(PURE, read_timeout_s=0.5)
"""Exchanges with somebody who is cut off are given up before the next round."""


def acquainted(size: int, seed: int, config: Config) -> Simulation:
    """A cluster whose members know each other's addresses, and never exchanged vectors."""
    sim = Simulation((f"n{number}" for number in range(size)), seed, config=config)
    claims = [sim.replica(name).members.me.claim() for name in sim.up()]
    for name in sim.up():
        members = sim.replica(name).members
        members.learn(claims, 0.0)
        for row in members.everyone():
            row.proved = True
    return sim


# ------------------------------------------------------------------------------ greetings


def greeted(sim: Simulation) -> int:
    """Bytes of state in the greeting of n0 to n1, which never met; n1 takes it, nothing comes back.

    n0's answers, pushes and further frames are lost: one frame has to be enough.
    """
    ada, bob = sim.replica("n0"), sim.replica("n1")
    row = ada.members.get(bob.id)
    ada.gossip.greet(row, ada.scheduler.widespread, sim.now_s)
    ((send,),) = [ada.flush(sim.now_s).send]
    bob.receive(send.frame, sim.now_s, 1)
    return bob.counts["bytes:delta"]


def test_one_frame_brings_news_to_a_peer_that_was_never_met():
    """Counterexample: the first exchange compared vectors only; news took three frames more."""
    sim = acquainted(2, 1, CUT)
    sim.cut("n0", "n1")
    sim.run(3 * WIDESPREAD_ROUNDS + 0.7)
    sim["n0"].document("x", LWWRegister).set("news")
    greeted(sim)
    assert sim["n1"].document("x", LWWRegister).value == "news"


def test_settled_events_are_not_told_to_a_peer_that_was_never_met():
    """Nearly everybody has them; whoever has not says so in the answer."""
    sim = acquainted(2, 2, CUT)
    sim.cut("n0", "n1")
    sim["n0"].document("x", LWWRegister).set("settled")
    sim.run(3 * WIDESPREAD_ROUNDS + 0.7)
    assert greeted(sim) == 0


def test_news_too_much_for_a_greeting_are_left_to_the_answer():
    """A cut of them would begin with the oldest: those that everybody has."""
    sim = acquainted(2, 3, replace(CUT, greeting_bytes_target=1000))
    sim.cut("n0", "n1")
    for number in range(100):
        sim["n0"].document(f"x/{number}", LWWRegister).set(number)
    sim.run(0.7)
    assert greeted(sim) == 0
    sim.heal()
    assert sim.settle(10)


def test_a_newcomer_is_not_told_scraps_of_a_large_state():
    """It would ask for the history behind them instead of chunks."""
    sim = acquainted(2, 4, replace(CUT, chunks_above_events=10))
    sim.cut("n0", "n1")
    for number in range(11):
        sim["n0"].document(f"x/{number}", LWWRegister).set(number)
    sim.run(0.7)
    assert greeted(sim) == 0


def test_a_push_that_was_lost_does_not_keep_greetings_empty():
    """Counterexample: until the lost push had timed out, 5 s, no greeting brought its events."""
    sim = acquainted(2, 5, replace(PURE, eager_peers_max=1))
    sim["n1"].document("y", LWWRegister).set("known")
    sim.run(3.1)
    sim.cut("n0", "n1")
    sim["n0"].document("x", LWWRegister).set("news")
    sim.run(0.1)
    assert sim.replica("n0").peers.peer(sim.replica("n1").id).pushing
    assert greeted(sim) == 0, "that is what the push is bringing"
    sim.run(0.5)
    assert greeted(sim) > 0
    assert sim["n1"].document("x", LWWRegister).value == "news"


# ------------------------------------------------------------------------------ both together


@pytest.mark.parametrize("seed", range(rounds(20, 2)))
def test_half_of_all_frames_lost_costs_one_round_or_two(seed):
    """30 agents that never met, fanout 3: everybody has a write after 4 rounds, 5 at most.

    One attempt per partner cannot do that: three of four exchanges stay without an answer.
    """
    sim = acquainted(30, seed, replace(PURE, fanout=3, probe_interval_s=1e6))
    sim.run(2.5)
    sim.faults = Faults(loss=0.5)
    taken = []
    for name in sim.up()[:20]:
        sim[name].document(name, LWWRegister).set(1)
    origins = {sim.replica(name).id for name in sim.up()[:20]}
    while origins and len(taken) < 20:
        sim.run(1.0)
        spread = {o for o in origins if all(o in sim[name].vector for name in sim.up())}
        taken.append(len(spread))
        origins -= spread
    mean = sum(turn * count for turn, count in enumerate(taken, 1)) / 20
    assert mean <= 4.0, taken
    assert len(taken) <= 5, taken

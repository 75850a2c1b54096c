"""A large state over slow links: cut once, sent once, and nothing told twice."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from crdt import Kernel, LWWMap
from replication import Config, Simulation
from replication.protocol.messages import ChunkGiven, Push, Sync, Synced
from replication.protocol.policy import agent_of
from replication.protocol.wire import Wire
from tests.simulation.clusters import met

NAMES = ["ada", "bob", "cyd"]
RATE = 32 * 1024
EVENTS = 5_000
CONFIG = Config(chunk_bytes=64 * 1024, chunks_above_events=1000)


@pytest.fixture
def cuts(monkeypatch):
    """Who cut its state, and how often."""
    counts: Counter[str] = Counter()
    sound = Kernel.chunks

    def chunks(kernel: Kernel, bytes_max: int):
        counts[agent_of(kernel.replica)] += 1
        return sound(kernel, bytes_max)

    monkeypatch.setattr(Kernel, "chunks", chunks)
    return counts


@pytest.fixture
def told(monkeypatch):
    """Bytes of chunks, and of deltas, that were sealed by the three who have everything."""
    counts: Counter[str] = Counter()
    sound = Wire.seal

    def seal(wire: Wire, replica: str, message, **options):
        outward = agent_of(replica) in NAMES and agent_of(options.get("to") or "ada") not in NAMES
        if outward and isinstance(message, Push | Sync | Synced):
            counts["delta"] += len(message.delta)
        if isinstance(message, ChunkGiven):
            counts["chunk"] += len(message.data)
        return sound(wire, replica, message, **options)

    monkeypatch.setattr(Wire, "seal", seal)
    return counts


def large(seed: int) -> Simulation:
    """Three that have much, and have met."""
    sim, dice = Simulation(NAMES, seed, config=CONFIG), random.Random(seed)
    for batch in range(EVENTS // 500):
        with sim["ada"].batch():
            for number in range(500):
                table = sim["ada"].document("table", LWWMap)
                table.put(f"{batch * 500 + number:06d}", dice.randbytes(60))
        sim.run(0.05)
    assert sim.settle(30)
    return met(sim)


def join(sim: Simulation, names: list[str], limit_s: float, writes: int) -> float:
    """Let agents join, each over slow links, while the others write; how long it takes."""
    for name in names:
        for other in NAMES:
            sim.throttle(name, other, RATE)
        sim.add(name)
    begin_s, number = sim.now_s, 0
    while any(len(sim[name].document("table", LWWMap)) < EVENTS for name in names):
        for _ in range(writes):
            number += 1
            sim[sim.dice.choice(NAMES)].document("late", LWWMap).put(f"{number:05d}", number)
        sim.run(0.1)
        assert sim.now_s - begin_s < limit_s
    return sim.now_s - begin_s


@pytest.mark.parametrize(("newcomers", "writes"), [(1, 0), (1, 2), (4, 2)])
def test_a_join_over_slow_links_takes_what_the_links_take(newcomers, writes, cuts, told):
    """Each newcomer gets the state once, of one cut, at the speed of its link.

    Counterexample: all eight chunks timed out together, 13 cuts were made, and what the chunks were
    bringing came from everybody in deltas, too: four newcomers took five times as long, and
    ninety times the bytes of the state.
    """
    sim = large(5)
    cuts.clear()
    state = sum(len(chunk.content) for chunk in sim["bob"].chunks(CONFIG.chunk_bytes).chunks)
    cuts.clear()
    took_s = join(sim, [f"new{number}" for number in range(newcomers)], 60, writes)
    assert took_s < 1.3 * state / RATE + 3
    assert sum(cuts.values()) == 1
    assert told["chunk"] < 1.1 * newcomers * state
    assert told["delta"] < 0.05 * newcomers * state
    for number in range(newcomers):
        counts = sim.replica(f"new{number}").counts
        assert counts["redundant"] < 0.05 * EVENTS
        assert counts["chunk:new"] == len(sim["bob"].chunks(CONFIG.chunk_bytes).chunks) or writes
    assert sim.settle(60)


def test_chunks_that_are_lost_are_asked_for_again_and_no_others(cuts, told):
    """A link that fails for a while: the same set goes on, of the same donor."""
    sim = large(6)
    sim.add("new")
    new = sim.replica("new")
    while new.counts["chunk:new"] < 2:
        sim.run(0.001)
    donor = next(name for name in cuts if cuts[name])
    sim.cut("new", donor)
    sim.run(8)
    sim.heal()
    assert sim.settle(60)
    assert sum(cuts.values()) <= 2  # the second is this test's own, if any
    state = sum(len(chunk.content) for chunk in sim["bob"].chunks(CONFIG.chunk_bytes).chunks)
    assert told["chunk"] < 2.5 * state


def test_a_peer_that_joins_hears_what_came_meanwhile_when_it_has_joined():
    """News that were held back are told by the next exchange: nothing is lost by holding back."""
    sim = large(7)
    join(sim, ["new"], 60, 1)
    sim["cyd"].document("late", LWWMap).put("last", "word")
    assert sim.settle(30)
    assert sim["new"].document("late", LWWMap)["last"] == "word"

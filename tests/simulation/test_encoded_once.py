"""A writer encodes once what all its peers get, and a receiver opens only what it lacks."""

from __future__ import annotations

from collections import Counter

import pytest

from crdt import Delta, LWWMap, ORSet
from crdt.kernel import delta as deltas
from crdt.kernel import since
from replication import AccessPolicy, Faults, Simulation
from replication.protocol.intake import Intake, Outcome
from replication.protocol.policy import agent_of
from tests.simulation.clusters import FIVE, met

BATCHES, BATCH = 40, 500


@pytest.fixture
def built(monkeypatch):
    """Agent -> how many events it worked out for peers, one by one."""
    counts: Counter[str] = Counter()
    sound = since._events

    def events(state, *rest):
        for event in sound(state, *rest):
            counts[agent_of(state.replica)] += 1
            yield event

    monkeypatch.setattr(since, "_events", events)
    return counts


def write(sim: Simulation, name: str, step_s: float) -> None:
    """Many batches of new keys, and a while after each."""
    table = sim[name].document("table", LWWMap)
    for batch in range(BATCHES):
        with sim[name].batch():
            for number in range(BATCH):
                table.put(f"{batch * BATCH + number:06d}", number)
        sim.run(step_s)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_writer_encodes_a_batch_once_for_its_journal_and_all_its_peers(built, loss):
    """Four followers, each at its own pace: nine times as many events as were written were built.

    What was lost is told again, not encoded again, as long as its encoding is kept.
    """
    sim = met(Simulation(FIVE, 3, Faults(delay_s=(0.001, 0.2))))
    sim.faults = Faults(delay_s=(0.001, 0.2), loss=loss)
    write(sim, "ada", 0.01)
    assert sim.settle(60)
    assert built["ada"] <= 0.25 * BATCHES * BATCH
    stats = sim["ada"].stats()
    assert BATCHES <= stats["encodings_made"] <= 1.25 * BATCHES
    assert stats["encodings_given"] > BATCHES
    assert stats["encodings_bytes"] <= 4 << 20


def test_single_writes_that_gather_behind_slow_pushes_are_built_a_few_times(built):
    """They leave in pieces that others take over: hardly more than one of four followers costs."""
    sim = met(Simulation(FIVE, 4, Faults(delay_s=(0.05, 0.1))))
    for number in range(20_000):
        sim["ada"].document("table", LWWMap).put(f"{number:06d}", number)
        if number % 50 == 0:
            sim.run(0.001)
    assert sim.settle(60)
    assert built["ada"] <= 1.7 * 20_000


def test_what_is_overwritten_while_it_waits_is_not_told():
    """A kept encoding is forgotten with what it says: peers are not sent what is dead by then."""
    sim = met(Simulation(FIVE, 5))
    for name in FIVE[1:]:
        sim.cut("ada", name)
    write(sim, "ada", 0.0)
    told = sim["ada"].delta_since({}, pieces=True).encode()
    sim["ada"].document("table", LWWMap).clear()
    assert len(sim["ada"].delta_since({}, pieces=True).encode()) < len(told) / 10
    sim.heal()
    assert sim.settle(60)
    assert all(len(sim[name].document("table", LWWMap)) == 0 for name in FIVE)


def test_a_leaf_shares_no_encoding_of_what_others_wrote():
    """What it may bring is its own, whoever asked for what before: rules choose ranges, not bytes.

    Its kernel has the others' events encoded; its frames never hold one.
    """
    policy = AccessPolicy(relays=["ada", "bob"])
    sim = met(Simulation(FIVE, 6, rules=policy))
    write(sim, "ada", 0.01)
    assert sim.settle(60)
    cyd = sim.replica("cyd")
    cyd.kernel.delta_since({}, pieces=True).encode()
    cyd.kernel.document("own", ORSet).add("x")
    data = cyd.gossip._encoded({}, 1 << 20, sim.now_s)
    assert {agent_of(origin) for origin, _, _ in Delta.ranges_in(data)} == {"cyd"}


def test_a_known_delta_is_counted_and_never_opened(monkeypatch):
    """Nor is a known part of one that brings news: it is left out before the rest is decoded."""
    sim = met(Simulation(["ada", "bob"], 7))
    write(sim, "ada", 0.01)
    assert sim.settle(60)
    ada, bob = sim["ada"], sim["bob"]
    known = ada.delta_since({}, pieces=True).encode()
    (origin,) = [origin for origin in ada.vector if agent_of(origin) == "ada"]
    intake = Intake(bob, AccessPolicy(), 1 << 24)
    opened, sound = [], deltas._opened
    monkeypatch.setattr(
        deltas, "_opened", lambda part, limits: opened.append(part.ranges) or sound(part, limits)
    )
    taken = intake.take(known, origin)
    assert (taken.outcome, taken.redundant) == (Outcome.KNOWN, BATCHES * BATCH)
    assert opened == []
    news = Delta((*ada.delta_since({}, pieces=True).runs[-3:], *more(ada))).encode()
    opened.clear()
    taken = intake.take(news, origin)
    assert taken.outcome is Outcome.NEW
    assert opened == [((origin, BATCHES * BATCH + 1, (BATCHES + 1) * BATCH),)]
    assert [len(Delta.decode(row.data).runs) for row, _ in taken.applied] == [1]


def more(kernel) -> tuple[deltas.Run, ...]:
    """One more batch, as runs."""
    before = kernel.vector
    with kernel.batch():
        for number in range(BATCH):
            kernel.document("more", LWWMap).put(number, number)
    return kernel.delta_since(before).runs

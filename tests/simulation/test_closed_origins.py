"""Incarnations that are closed for good stay in every vector, and cost next to nothing there."""

from __future__ import annotations

import sys

from crdt import Kernel, ORSet, PNCounter, VersionVector
from replication import Config, Simulation
from replication.journal.base import Entry
from replication.journal.memory import MemoryJournal
from replication.protocol.digest import FROZEN_LEAST
from replication.protocol.effects import DELTA, Row
from tests.simulation.clusters import met

CLOSED = 200


def history(closed: int) -> MemoryJournal:
    """The disk of ada after so many crashes, each of which left an incarnation behind."""
    rows, vector = [], {}
    for number in range(closed):
        kernel = Kernel(f"ada~{number:016x}")
        rows.append(Row(DELTA, kernel.document("set", ORSet).add(number).encode()))
        vector[kernel.replica] = 1
    journal = MemoryJournal()
    journal.open()
    journal.append(Entry(rows, vector, "ada~ffffffffffffffff", lease=0))
    journal.close()
    return journal


def cluster(closed: int) -> Simulation:
    sim = Simulation([], 61)
    sim._seeds = ["ada"]
    sim.add("ada", journal=history(closed))
    for name in ("bob", "cyd"):
        sim.add(name)
    met(sim)
    assert sim.settle(60)
    return sim


def bytes_of_a_while(sim: Simulation) -> int:
    """Three minutes: an idle half, and one in which somebody writes every other second."""
    before = sim.bytes_sent
    sim.run(90)
    for number in range(45):
        name = ("ada", "bob", "cyd")[number % 3]
        sim[name].document("set", ORSet).add(f"new {number}")
        sim.run(2)
    assert sim.settle(30)
    return sim.bytes_sent - before


def test_hundreds_of_closed_incarnations_hardly_cost_bandwidth():
    """They travel whole when two meet; later as one hash. Within a tenth of a cluster without."""
    few, many = bytes_of_a_while(cluster(0)), bytes_of_a_while(cluster(CLOSED))
    assert many <= 1.1 * few, f"{many} bytes against {few}"


def test_agents_restarted_many_times_still_converge():
    """Crash after crash with writes between, under the defaults: equal, nothing lost."""
    sim = met(Simulation(["ada", "bob", "cyd"], 62, config=Config(digest_full_every=2)))
    for life in range(2 * FROZEN_LEAST):
        name = ("bob", "cyd")[life % 2]
        sim[name].document("set", ORSet).add(life)
        sim.run(0.5)
        sim.crash(name)
        sim["ada"].document("set", ORSet).add(f"ada {life}")
        sim.run(1)
        sim.start(name)
        sim.run(1.5)
    assert sim.settle(60)
    assert len(sim["ada"].vector) > 2 * FROZEN_LEAST
    wanted = {*range(2 * FROZEN_LEAST), *(f"ada {life}" for life in range(2 * FROZEN_LEAST))}
    assert sim["bob"].document("set", ORSet).value == wanted


def steps_of_writes(closed: int, monkeypatch) -> tuple[int, int]:
    """Calls and resumed generators of twelve writes, and how often a whole long vector is read."""
    sim = cluster(closed)
    for number in range(3 * 40):  # past the first snapshots, which tell all there is
        sim[("ada", "bob", "cyd")[number % 3]].document("n", PNCounter).increment(1)
        sim.run(0.3)
    steps, whole = 0, 0
    read = VersionVector._whole

    def counted(vector: VersionVector) -> dict[str, int]:
        nonlocal whole
        whole += len(vector) > closed > 0
        return read(vector)

    def step(frame: object, event: str, arg: object) -> None:
        nonlocal steps
        steps += event == "call"

    monkeypatch.setattr(VersionVector, "_whole", counted)
    for number in range(12):
        sim[("ada", "bob", "cyd")[number % 3]].document("n", PNCounter).increment(1)
        sys.setprofile(step)
        try:
            sim.run(0.3)
        finally:
            sys.setprofile(None)
    return steps, whole


def test_a_write_costs_the_same_beside_a_thousand_former_lives(monkeypatch):
    """Counterexample: each write copied, compared and hashed the whole vector, in every agent."""
    without, _ = steps_of_writes(0, monkeypatch)
    beside, whole = steps_of_writes(1000, monkeypatch)
    assert whole <= 2, "of a shared vector only the news are looked at"
    assert beside <= 1.2 * without + 1000, f"{beside} steps against {without}"

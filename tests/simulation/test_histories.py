"""Random histories of whole replicas, through frames and journals, against the oracle."""

from __future__ import annotations

import random

import pytest

from replication import Faults, Simulation
from tests.scale import rounds, seeds
from tests.simulation.visibility import Oracle

BATCHES = 10
"""So that pytest-xdist can spread them."""


def history(seed: int, replicas: int = 5, operations: int = 100) -> Oracle:
    """One history: operations, faults of every kind, then a healed network and time to settle."""
    dice = random.Random(seed)
    names = [f"r{n}" for n in range(replicas)]
    faults = Faults(
        loss=dice.choice([0, 0.1, 0.5]),
        duplicate=dice.choice([0, 0.2]),
        damage=dice.choice([0, 0.1]),
        slow=dice.choice([0, 0.1]),
        disk_s=dice.choice([(0.0, 0.005), (0.0, 0.2)]),
    )
    sim = Simulation(names, seed, faults)
    oracle = Oracle(sim)
    for _ in range(operations):
        name = dice.choice(sim.up())
        kind = dice.choice(["add", "add", "remove", "increment", "set"])
        oracle.perform(name, kind, dice.randrange(4) if kind in {"add", "remove"} else 1 + seed % 7)
        trouble = dice.random()
        if trouble < 0.04:
            sim.cut(*dice.sample(names, 2), one_way=dice.random() < 0.5)
        elif trouble < 0.06:
            side = dice.sample(names, 2)
            sim.partition(side, [n for n in names if n not in side])
        elif trouble < 0.08:
            sim.heal()
        elif trouble < 0.11 and len(sim.up()) > 2:
            oracle.crash(dice.choice(sim.up()))
        elif trouble < 0.16 and len(sim.up()) < replicas:
            sim.start(dice.choice([n for n in names if n not in sim.up()]))
        sim.run(dice.random() * 0.15)
    sim.heal()
    sim.faults = Faults()
    for name in names:
        if name not in sim.up():
            sim.start(name)
    assert sim.settle(90), "replicas differ after a healed minute and a half"
    return oracle


@pytest.mark.parametrize("batch", range(BATCHES))
def test_five_replicas_a_hundred_operations_never_diverge(batch):
    """Loss, duplicates, damage, reorder, partitions (one-way too), crashes: equal, and right.

    Equal in canonical bytes and vector, equal to what visibility implies, nothing acknowledged
    lost, no dot used twice (asserted by the simulation). Soak: 10 000 histories.
    """
    for seed in seeds(rounds(10_000, 500))[batch::BATCHES]:
        print(f"replay: CONVOCA_SEED={seed} pytest {__file__} -k 'never_diverge and 0'")
        oracle = history(seed)
        for name in oracle.sim.up():
            vector = oracle.sim[name].vector
            for origin, seq in oracle.sim.acknowledged.items():
                assert vector.get(origin, 0) >= seq, f"{name} lost acknowledged events of {origin}"
            oracle.check(name)


def test_a_seed_replays_the_very_same_run():
    """Time and dice are arguments: two runs of one seed end with equal bytes and equal traffic."""
    ends = []
    for _ in range(2):
        sim = history(12345).sim
        ends.append((sim.now_s, sim.bytes_sent, sim["r0"].canonical_bytes()))
    assert ends[0] == ends[1]

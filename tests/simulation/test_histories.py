"""Random histories of whole replicas, frames and journals included, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest

import crdt
from crdt import ORSet
from crdt.kernel.kind import KINDS
from crdt.testing import HistoryError, assert_right
from replication.journal.memory import MemoryJournal
from replication.testing import ClusterHistory, cluster_history, shrink_cluster
from tests.scale import rounds, seeds

TYPES = [getattr(crdt, name) for name in sorted(KINDS)]
BATCHES = 10
"""So that pytest-xdist can spread them."""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_five_replicas_a_hundred_operations_never_diverge(batch):
    """Loss, duplicates, damage, reorder, partitions (one-way too), crashes, backups, clones.

    They end equal in canonical bytes and vector, and on what visibility implies; nothing that was
    acknowledged is lost, no dot used twice (asserted by the simulation). Each history is about the
    next type. Soak: 10 000 histories.
    """
    for number, seed in enumerate(seeds(rounds(10_000, 500))[batch::BATCHES]):
        kind = TYPES[(number * BATCHES + batch) % len(TYPES)]
        print(f"replay: assert_right(cluster_history({kind.__name__}, seed={seed}))")
        assert_right(cluster_history(kind, seed))


def test_a_seed_replays_the_very_same_run():
    """Time and dice are arguments: two runs of one seed end with equal bytes and equal traffic."""
    ends = []
    for _ in range(2):
        run = cluster_history(ORSet, 12345)
        run.heal()
        ends.append((run.sim.now_s, run.sim.bytes_sent, run.sim["a"].canonical_bytes()))
    assert ends[0] == ends[1]


def test_histories_do_what_they_are_named_for():
    """Every kind of step happens, disks included; what happened is drawn."""
    runs = [cluster_history(ORSet, seed, operations=60) for seed in range(6)]
    happened = {each.step.kind for run in runs for each in run.trace}
    assert happened >= {"write", "deliver", "cut", "isolate", "mend", "crash", "start"}
    assert happened >= {"backup", "restore", "clone"}
    assert any(agent.name != address for run in runs for address, agent in run.sim.agents.items())


def test_a_disk_that_forgets_is_caught_shrunk_and_drawn(monkeypatch):
    """A journal that acknowledges and keeps no rows: a crash shows it, in a few steps."""
    sound = MemoryJournal.append

    def forget(self, entry):
        sound(self, entry)
        self._state = replace(self._state, rows=())

    monkeypatch.setattr(MemoryJournal, "append", forget)
    run = next(
        run
        for run in (cluster_history(ORSet, seed, replicas=3, operations=30) for seed in range(20))
        if run.complaint()
    )
    small = shrink_cluster(run, attempts_max=150)
    assert len(small.steps) <= 15
    again = ClusterHistory(ORSet, small, run.seed)
    with pytest.raises(HistoryError, match=r"(?s)●.*(crashes|disk)"):
        assert_right(again)
    monkeypatch.setattr(MemoryJournal, "append", sound)
    assert_right(ClusterHistory(ORSet, small, run.seed))

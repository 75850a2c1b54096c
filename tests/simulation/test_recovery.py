"""Scenarios of rejoining: chunk sets, floors, restored backups, clones, poison."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from crdt import Delta, LWWMap, LWWRegister, ORSet, PNCounter
from crdt.errors import CRDTError
from replication import Config, Faults, Simulation
from tests.scale import SOAK, rounds
from tests.simulation.clusters import FIVE, add, elements, met

if TYPE_CHECKING:
    from replication.journal.memory import MemoryJournal
    from replication.protocol.effects import Send

SMALL = Config(
    chunk_bytes=150, delta_bytes_target=1024, batch_bytes_max=1024, chunks_above_events=50
)


def filled(seed: int, count: int, config: Config = SMALL) -> Simulation:
    """One agent, ada: `count` registers, some overwritten, and a set that lost an element."""
    sim = Simulation(["ada"], seed, config=config)
    for number in range(count):
        sim["ada"].document(f"k/{number % (count - 7)}", LWWRegister).set(number)
    add(sim, "ada", "gone")
    sim["ada"].document("set", ORSet).remove("gone")
    sim.run(1)
    return sim


@pytest.mark.parametrize("cut_after", range(8))
def test_a_join_cut_at_every_chunk_resumes(cut_after):
    """[replication 15] (small) cut after k chunks, healed: what came is not asked for again."""
    sim = filled(15, 120)
    sim.add("bob")
    bob = sim.replica("bob")
    while bob.counts["chunk:new"] < cut_after:
        sim.run(0.01)
    came = bob.counts["chunk:new"]
    sim.cut("bob", "ada")
    sim.run(20)
    assert bob.counts["chunk:new"] <= came + SMALL.chunks_in_flight
    sim.heal()
    before = bob.counts["chunk:new"]
    assert sim.settle(60)
    total = len(sim["ada"].chunks(SMALL.chunk_bytes).chunks)
    assert before <= bob.counts["chunk:new"] == total, "every chunk was joined once"


def test_a_large_join_cut_at_every_single_chunk():
    """[replication 15] 100 000 entries (or a twentieth), cut after each chunk: never from zero."""
    config = Config(chunk_bytes=32 * 1024, chunks_in_flight=1, chunks_above_events=1000)
    sim = Simulation(["ada"], 150, config=config)
    table = sim["ada"].document("table", LWWMap)
    batches = 100 if SOAK else 5
    for batch in range(batches):
        with sim["ada"].batch():
            for number in range(1000):
                table.put(f"agent-{batch:03d}{number:03d}", number)
    sim.run(1)
    total = len(sim["ada"].chunks(config.chunk_bytes).chunks)
    assert total >= batches // 2
    sim.add("bob")
    bob, cuts = sim.replica("bob"), 0
    while not sim.equal():
        before = bob.counts["chunk:new"]
        while bob.counts["chunk:new"] == before and not sim.equal():
            sim.run(0.005)
        sim.cut("bob", "ada")
        sim.cut("ada", "bob")
        sim.run(sim.config.read_timeout_s + 0.1)
        sim.heal()
        cuts += 1
        assert cuts <= total + 1
    assert bob.counts["chunk:new"] == total


@pytest.mark.parametrize("cut_after", [1, 3, 6])
def test_a_join_cut_for_good_ends_equal_by_vectors_only(cut_after):
    """[replication 15] (cut for good) the donor's cut is gone; gossip by deltas alone finishes."""
    sim = filled(16, 120)
    sim.add("bob")
    bob = sim.replica("bob")
    while bob.counts["chunk:new"] < cut_after:
        sim.run(0.01)
    sim.cut("bob", "ada")
    sim.run(4 * sim.config.read_timeout_s)
    assert not bob.gossip.receiver.active
    sim.replica("ada").gossip.config = Config()  # from now on it answers with deltas
    sim.heal()
    came = bob.counts["chunk:new"]
    assert sim.settle(60)
    assert bob.counts["chunk:new"] == came
    assert "gone" not in elements(sim, "bob")


def test_a_crash_within_a_bootstrap_keeps_what_came():
    """Chunks are journalled as they come; after the restart only the others are asked for."""
    sim = filled(17, 120)
    sim.add("bob")
    while sim.replica("bob").counts["chunk:new"] < 4:
        sim.run(0.01)
    sim.run(0.02)
    sim.crash("bob")
    sim.start("bob")
    assert sim.settle(60)
    total = len(sim["ada"].chunks(SMALL.chunk_bytes).chunks)
    assert sim.replica("bob").counts["chunk:new"] < total


@pytest.mark.parametrize("seed", range(rounds(100, 6)))
def test_joining_through_a_bad_network_while_everybody_writes(seed):
    """Chunks, deltas and local writes at once, with loss and crashes: equal, nothing comes back."""
    sim = filled(seed, 100)
    sim.faults = Faults(loss=0.3, duplicate=0.2, slow=0.1)
    sim.add("bob")
    sim.add("cyd")
    dice = random.Random(seed)
    for number in range(60):
        name = dice.choice(sim.up())
        add(sim, name, number)
        if dice.random() < 0.3 and elements(sim, name):
            sim[name].document("set", ORSet).remove(dice.choice(sorted(elements(sim, name))))
        sim.run(dice.random() * 0.3)
        if dice.random() < 0.05 and len(sim.up()) == 3:
            sim.crash("bob")
        elif "bob" not in sim.up():
            sim.start("bob")
    if "bob" not in sim.up():
        sim.start("bob")
    sim.faults = Faults()
    assert sim.settle(120)
    assert elements(sim, "ada") == elements(sim, "cyd")


def test_a_peer_below_a_floor_returns_without_zombies():
    """[replication 21] records dropped meanwhile: full exchange; its concurrent adds survive."""
    sim = met(Simulation(["ada", "bob", "cyd"], 21))
    for element in ("x", "y", "z"):
        add(sim, "ada", element)
    assert sim.settle(10)
    sim.cut("ada", "cyd")
    sim.cut("bob", "cyd")
    sim["ada"].document("set", ORSet).remove("x")
    sim["bob"].document("set", ORSet).remove("y")
    add(sim, "cyd", "new")
    add(sim, "cyd", "y")  # concurrent with its removal: it stays
    sim.run(10)
    sim["ada"].drop_records()
    sim["bob"].drop_records()
    sim.heal()
    assert sim.settle(60)
    assert elements(sim, "cyd") == {"y", "z", "new"}
    assert sim.replica("cyd").counts["chunk:new"] > 0


def stopped(journal: MemoryJournal) -> MemoryJournal:
    """The disk of an agent that stopped cleanly: it holds nothing that would arouse suspicion."""
    journal.open()
    journal._written = True
    journal.close()
    return journal


def test_a_disk_rolled_back_to_a_running_moment_is_somebody_new():
    """Counterexample: rolled back within one lease, the unused numbers were voided, and never met.

    The lease lies beyond the own events, so the agent takes a new incarnation before it writes, and
    its peers give back what the disk has lost.
    """
    sim = met(Simulation(["ada", "bob"], 13))
    add(sim, "ada", "before")
    assert sim.settle(10)
    backup = sim.agents["ada"].journal.copy(continuous=True)
    for number in range(3):
        add(sim, "ada", f"lost {number}")
    assert sim.settle(10)
    sim.crash("ada")
    sim.agents["ada"].journal = backup
    sim.start("ada")
    add(sim, "ada", "new")
    assert sim.settle(30)
    assert elements(sim, "ada") == {"before", "lost 0", "lost 1", "lost 2", "new"}


def test_a_restored_backup_is_recognised_by_its_peers():
    """[replication 7] an old disk that does not know it is one: new incarnation, no write lost."""
    sim = met(Simulation(["ada", "bob"], 7))
    add(sim, "ada", "before")
    assert sim.settle(10)
    backup = stopped(sim.agents["ada"].journal.copy(continuous=True))
    for number in range(40):
        add(sim, "ada", number)
    assert sim.settle(10)
    old = sim.replica("ada").id
    sim.crash("ada")
    sim.agents["ada"].journal = backup
    sim.start("ada")
    assert sim.replica("ada").id == old
    assert sim.settle(30)
    assert sim.replica("ada").id != old
    assert elements(sim, "ada") == {"before", *range(40)}
    add(sim, "ada", "after")
    assert sim.settle(30)
    assert "after" in elements(sim, "bob")


def test_a_restored_backup_alone_starts_as_somebody_new():
    """[replication 8] every peer unreachable: the journal itself knows, before any write."""
    sim = met(Simulation(["ada", "bob"], 8))
    add(sim, "ada", "before")
    assert sim.settle(10)
    old = sim.replica("ada").id
    backup = sim.agents["ada"].journal.copy()
    add(sim, "ada", "lost here, known to bob")
    assert sim.settle(10)
    sim.crash("ada")
    sim.cut("ada", "bob")
    sim.agents["ada"].journal = backup
    sim.start("ada")
    assert sim.replica("ada").id != old
    add(sim, "ada", "after")
    sim.run(10)
    sim.heal()
    assert sim.settle(60)
    assert elements(sim, "ada") == {"before", "lost here, known to bob", "after"}


@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "asks only"])
@pytest.mark.parametrize("peers", [["ada"], FIVE], ids=len)
def test_two_hosts_with_one_identity_both_take_a_new_one(peers, dialled, monkeypatch):
    """[replication 10] a cloned disk: 409 on the wire, both re-incarnate, nothing is lost.

    Whether the clone can be asked, while the first goes on writing; or only asks, at equal vectors,
    so that nothing but the refusal tells it.
    """
    statuses = []
    answer = Simulation._answer

    def seen_on_the_wire(sim: Simulation, target: str, send: Send) -> None:
        statuses.append(send.status)
        answer(sim, target, send)

    sim = Simulation(peers, 10)
    add(sim, "ada", "shared")
    sim.run(10)
    old = sim.replica("ada").id
    monkeypatch.setattr(Simulation, "_answer", seen_on_the_wire)
    clone = stopped(sim.agents["ada"].journal.copy(continuous=True))
    sim.add("twin", journal=clone, name="ada")
    assert sim.replica("twin").id == old
    everything = {"shared", "from ada", "from twin"}
    if dialled:
        add(sim, "ada", "while the twin starts")
        everything.add("while the twin starts")
    else:
        for name in peers:
            sim.cut(name, "twin", one_way=True)
    sim.run(30)
    assert statuses.count(409) >= 1
    ids = {sim.replica("ada").id, sim.replica("twin").id}
    assert len(ids) == 2
    assert old not in ids
    add(sim, "ada", "from ada")
    add(sim, "twin", "from twin")
    assert sim.settle(60)
    assert all(elements(sim, name) == everything for name in sim.up())
    statuses.clear()
    sim.run(60)
    assert set(statuses) == {200}


def test_a_poisonous_event_stops_its_origin_and_nobody_else(monkeypatch):
    """[replication 24] merge raises: quarantined, reported; others' events go on."""
    sim = met(Simulation(["ada", "bob", "cyd"], 24))
    kernel, poisoned = sim["cyd"], sim.replica("ada").id
    sound = type(kernel).apply

    def apply(self, delta: Delta):
        if self is kernel and any(
            origin == poisoned and first <= 2 <= last for origin, first, last in delta.ranges
        ):
            raise CRDTError("cannot be joined")
        return sound(self, delta)

    monkeypatch.setattr(type(kernel), "apply", apply)
    for element in ("one", "poison", "three"):
        add(sim, "ada", element)
        add(sim, "bob", f"bob {element}")
        sim.run(1)
    sim.run(20)
    assert elements(sim, "cyd") == {"one", "bob one", "bob poison", "bob three"}
    assert sim["cyd"].vector[poisoned] == 1
    assert list(sim.replica("cyd").gossip.intake.quarantine) == [poisoned]
    assert elements(sim, "bob") == elements(sim, "ada")


def test_removal_records_that_everybody_has_are_forgotten_first():
    """Causally stable ones go early, unstable ones stay: nobody who is away needs chunks."""
    config = Config(removal_records_bytes_stable=0)
    sim = met(Simulation(["ada", "bob", "cyd"], 23, config=config))
    for number in range(20):
        add(sim, "ada", f"x{number}")
    assert sim.settle(10)
    for number in range(10):
        sim["ada"].document("set", ORSet).remove(f"x{number}")
    assert sim.settle(10)
    sim.run(30)
    assert {name: sim[name].stats()["records"] for name in sim.up()} == {
        "ada": 0,
        "bob": 0,
        "cyd": 0,
    }
    sim.partition(["ada", "bob"], ["cyd"])
    for number in range(10, 15):
        sim["ada"].document("set", ORSet).remove(f"x{number}")
    sim.run(120)
    assert sim["ada"].stats()["records"] == sim["bob"].stats()["records"] == 5
    sim.heal()
    assert sim.settle(60)
    assert elements(sim, "cyd") == {f"x{number}" for number in range(15, 20)}
    assert sim.replica("cyd").counts["chunk:new"] == 0
    sim.run(60)
    assert sim["ada"].stats()["records"] == 0


def test_an_heir_of_a_dead_members_address_does_not_ask_itself():
    """Counterexample: `peer-refused ... myself`, 1,984 times in one storm of restarts.

    Ports are used again: by another agent, and by one that comes back under a new id.
    """
    sim = Simulation(("ada", "bob", "cyd"), seed=3)
    sim.run(5)
    for life in range(4):
        sim.crash("cyd")
        sim.run(20)
        del sim.agents["cyd"]
        sim.add("cyd", name=("dan", "cyd", "eve", "dan")[life])
        sim["cyd"].document("n", PNCounter).increment(1)
        sim.run(30)
    asked = [sim.replica(name).counts["refused:myself"] for name in sim.up()]
    assert asked == [0, 0, 0]
    assert sim.settle(30)

"""Equal vectors that do not stand for equal states: seen, mended where that is possible, reported.

States are set apart here by handing events to machines directly: a removal as if it had removed
nothing, one number told twice. Everything after that is gossip.
"""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import permutations

import pytest

from crdt import Delta, Kernel, LWWRegister, ORSet
from replication.config import Config
from replication.protocol import DELTA, AccessPolicy, Row, comparison
from replication.testing import Faults, Simulation
from tests.crdt.kernel.block_schedules import without_kills
from tests.scale import rounds

QUIET_S = 20.0  # of virtual time: idle rounds are up to 8 s apart


def counted(sim: Simulation, kind: str) -> dict[str, int]:
    return {name: sim.replica(name).counts[kind] for name in sim.up()}


def differences(sim: Simulation) -> dict[str, set[str]]:
    """Who reports whom, by names."""
    return {
        name: {p.partition("~")[0] for p in sim.replica(name).gossip.comparison.differences()}
        for name in sim.up()
    }


def asked(sim: Simulation, name: str, kind: str) -> int:
    """Frames of a kind that an agent sent, as bytes."""
    return sim.replica(name)._wire.bytes_by_kind["sent", kind]


def plant(sim: Simulation, name: str, delta: Delta) -> None:
    """An agent takes a delta in and journals it, unseen by the checks at its door."""
    machine = sim.replica(name)
    row = Row(DELTA, delta.encode(), delta.ranges)
    machine._pending.merge(row, machine.kernel.apply(delta))
    machine.on_write()


def apart(seed: int, names=("ada", "bob", "eve"), faults: Faults | None = None) -> Simulation:
    """A cluster that holds the same 1 500 entries, but for one that eve keeps though it is dead."""
    sim = Simulation(names, seed, faults)
    for number in range(1500):
        sim["ada"].document("s", ORSet).add(number)
    assert sim.settle(60)
    sim.cut("ada", "eve")
    sim.cut("bob", "eve")
    plant(sim, "eve", without_kills(sim["ada"].document("s", ORSet).remove(7)))
    sim.settle(10)
    sim.heal()
    assert dict(sim["eve"].vector) == dict(sim["ada"].vector)
    assert sim["eve"].digest() != sim["ada"].digest()
    return sim


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_lost_removal_is_learned_from_the_blocks_that_differ(loss):
    """Eve asks for hashes and for one block of two, and the dead element is gone everywhere."""
    sim = apart(1, faults=Faults(loss=loss))
    sim.run(QUIET_S if not loss else 240)
    assert sim.equal()
    assert 7 not in sim["eve"].document("s", ORSet)
    assert 8 in sim["eve"].document("s", ORSet)
    assert counted(sim, "state:mended")["eve"] == 1
    assert not any(differences(sim).values())
    assert sim.replica("eve")._wire.bytes_by_kind["received", "chunkgiven"] < 20_000


def test_what_was_mended_is_on_disk():
    """The block is journalled like any chunk: after a crash the dead element stays dead."""
    sim = apart(2)
    sim.run(QUIET_S)
    assert sim.equal()
    sim.partition(["ada"], ["bob"], ["eve"])
    sim.crash("eve")
    sim.start("eve")
    assert 7 not in sim["eve"].document("s", ORSet)


def test_one_number_told_twice_is_reported_at_both_and_asked_for_once():
    """[security] A leaf that tells two hubs two things: both count it, name the dot, and stop."""
    sim = Simulation(["ada", "bob"], 3)
    sim["ada"].document("s", ORSet).add("x")
    assert sim.settle(10)
    for name, value in (("ada", "pay 1"), ("bob", "pay 1000")):
        plant(sim, name, Kernel("leaf~01").document("order", LWWRegister).set(value))
    sim.run(QUIET_S)
    assert dict(sim["ada"].vector) == dict(sim["bob"].vector)
    assert not sim.equal()
    for name, other in (("ada", "bob"), ("bob", "ada")):
        found = sim.replica(name).gossip.comparison.differences()
        assert [f.contradicted for f in found.values()] == [("leaf~01:1",)]
        assert differences(sim)[name] == {other}
    assert counted(sim, "state:conflict") == {"ada": 1, "bob": 1}
    before = [asked(sim, name, "hasheswanted") for name in sim.up()]
    assert all(before)
    sim.run(600)
    assert [asked(sim, name, "hasheswanted") for name in sim.up()] == before
    assert sim["ada"].document("order", LWWRegister).value == "pay 1"


def test_a_conflict_is_reported_again_after_a_restart():
    """The journal holds the set that named it, and a set once joined was passed over unopened.

    So it was, in a cluster of random faults: after a crash both saw that states differ, and neither
    said any longer in which dot.
    """
    sim = Simulation(["ada", "bob"], 11)
    for name, value in (("ada", "pay 1"), ("bob", "pay 1000")):
        plant(sim, name, Kernel("leaf~01").document("order", LWWRegister).set(value))
    sim.run(QUIET_S)
    for name in ("ada", "bob"):
        sim.crash(name)
        sim.run(3)
        sim.start(name)
        sim.run(QUIET_S)
    sim.run(60)
    for name in ("ada", "bob"):
        (found,) = sim.replica(name).differences().values()
        assert found.contradicted == ("leaf~01:1",)


def test_with_writes_going_on_a_standing_conflict_is_looked_into_once_in_a_while():
    """Each write makes another pair of digests; who mended nothing is left alone for a minute."""
    sim = Simulation(["ada", "bob"], 4)
    for name, value in (("ada", "pay 1"), ("bob", "pay 1000")):
        plant(sim, name, Kernel("leaf~01").document("order", LWWRegister).set(value))
    one = 0
    for number in range(60):
        sim["ada"].document("s", ORSet).add(number)
        sim.run(10)
        one = one or asked(sim, "ada", "hasheswanted")
    assert one
    assert asked(sim, "ada", "hasheswanted") <= one * (600 / comparison.AGAIN_AFTER_S + 1)
    assert counted(sim, "state:conflict")["ada"] == 1


def test_a_conflict_does_not_keep_a_joining_replica_from_the_rest():
    """Below a floor a set that holds a contradicted dot is joined all the same, and reported."""
    sim = Simulation(["ada", "bob"], 5, config=Config(chunks_above_events=100))
    sim.cut("ada", "bob")
    for number in range(200):
        sim["ada"].document("s", ORSet).add(number)
    for name, value in (("ada", "pay 1"), ("bob", "pay 1000")):
        plant(sim, name, Kernel("leaf~01").document("order", LWWRegister).set(value))
    sim["ada"].document("s", ORSet).remove(3)
    sim["ada"].drop_records()
    sim.run(5)
    sim.heal()
    sim.run(60)
    assert dict(sim["ada"].vector) == dict(sim["bob"].vector)
    assert len(sim["bob"].document("s", ORSet)) == 199
    assert counted(sim, "state:conflict")["bob"] == 1


def test_many_blocks_are_compared_page_by_page(monkeypatch):
    """A page holds so many hashes; what differs on later ones is found as well."""
    monkeypatch.setattr(comparison, "HASHES_PER_PAGE", 2)
    sim = Simulation(["ada", "bob"], 6)
    ada = sim["ada"]
    for number in range(9):
        ada.document("s", ORSet).add(number)
        ada.void(ada.vector[ada.replica] + 1024)
    assert sim.settle(10)
    token = ada.vector
    for number in (0, 5, 8):
        ada.document("s", ORSet).remove(number)
    plant(sim, "bob", without_kills(ada.delta_since(token)))
    sim.run(QUIET_S)
    assert sim.equal()
    assert sim["bob"].document("s", ORSet) == {1, 2, 3, 4, 6, 7}


def test_what_is_beyond_mending_does_not_hide_what_is_not(monkeypatch):
    """More contradicted blocks than one set holds, all before a lost removal: it is mended."""
    monkeypatch.setattr(comparison, "BLOCKS_WANTED_MAX", 2)
    sim = Simulation(["ada", "bob"], 10)
    for name, value in (("ada", "pay 1"), ("bob", "pay 1000")):
        for liar in "ABCDE":
            plant(sim, name, Kernel(f"{liar}~1").document("order", LWWRegister).set(value))
    for number in range(3):
        sim["ada"].document("s", ORSet).add(number)
    assert sim.settle(10) or dict(sim["ada"].vector) == dict(sim["bob"].vector)
    plant(sim, "bob", without_kills(sim["ada"].document("s", ORSet).remove(1)))
    sim.run(200)
    assert sim["bob"].document("s", ORSet) == {0, 2}
    before = [asked(sim, name, "hasheswanted") for name in sim.up()]
    sim.run(600)
    assert [asked(sim, name, "hasheswanted") for name in sim.up()] == before
    (found,) = sim.replica("bob").differences().values()
    assert found.contradicted == tuple(f"{liar}~1:1" for liar in "ABCDE")


def test_a_busy_replica_hashes_nothing_and_an_idle_one_a_few_blocks_at_a_time():
    """Hashing waits for a quiet interval, and takes so many blocks per tick."""
    sim = Simulation(["ada"], 7)
    ada, machine = sim["ada"], sim.replica("ada")
    for number in range(12):
        for inside in range(512):
            ada.document("s", ORSet).add((number, inside))
        sim.run(0.5)
        assert not ada.state_digest
        assert not ada.block_hashes()
    looks = []
    for _ in range(200):
        before = len(ada.block_hashes())
        sim.run(0.01)
        looks.append(len(ada.block_hashes()) - before)
    assert ada.state_digest
    assert max(looks) <= comparison.BLOCKS_PER_TICK
    assert len(ada.block_hashes()) == 7
    assert machine.gossip.comparison.due_s == float("inf")


def test_what_a_rolled_back_batch_marked_is_hashed_again():
    """It leaves no news behind, and the digest comes back all the same."""
    sim = Simulation(["ada"], 9)
    ada = sim["ada"]
    ada.document("s", ORSet).add("x")
    sim.run(5)
    digest = ada.state_digest
    assert digest
    with suppress(LookupError), ada.batch():
        ada.document("s", ORSet).remove("x")
        raise LookupError
    assert not ada.state_digest
    sim.run(2)
    assert ada.state_digest == digest


def test_a_leaf_is_not_believed_about_others_and_its_difference_is_reported():
    """Chunks come from relays only; that a leaf differs is seen all the same."""
    sim = Simulation(["hub", "leaf"], 8, rules=AccessPolicy(relays=["hub"]))
    for number in range(10):
        sim["hub"].document("s", ORSet).add(number)
    assert sim.settle(30)
    token = sim["leaf"].vector
    sim["leaf"].document("s", ORSet).remove(4)
    plant(sim, "hub", without_kills(sim["leaf"].delta_since(token)))
    sim.run(60)
    assert 4 in sim["hub"].document("s", ORSet)
    assert 4 not in sim["leaf"].document("s", ORSet)
    assert differences(sim) == {"hub": {"leaf"}, "leaf": {"hub"}}


def test_random_clusters_that_are_set_apart_end_equal():
    """Removals lost at several replicas, in all directions, under loss: all are mended."""
    for seed in range(rounds(40, 2)):
        dice = random.Random(seed)
        sim = Simulation("abcd", seed, Faults(loss=0.2))
        for number in range(40):
            sim[dice.choice("abcd")].document("s", ORSet).add(number)
        assert sim.settle(90)
        sim.partition("a", "b", "c", "d")
        token = sim["a"].vector
        for number in dice.sample(range(40), 16):
            sim[dice.choice("abcd")].document("s", ORSet).remove(number)
        told = {name: sim[name].delta_since(token) for name in "abcd"}
        for name, other in permutations("abcd", 2):
            delta = told[name]
            plant(sim, other, without_kills(delta) if dice.random() < 0.5 else delta)
        assert len({sim[name].vector for name in "abcd"}) == 1
        assert not sim.equal()
        sim.heal()
        sim.run(400)
        assert sim.equal(), seed

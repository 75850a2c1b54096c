"""What becomes of an agent's former lives: closed by their heirs, and by nobody else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from crdt import BoundedCounter
from replication import Faults, Simulation
from replication.protocol.lives import ends
from replication.protocol.messages import Status
from tests.scale import rounds
from tests.simulation.clusters import add, elements, met

if TYPE_CHECKING:
    from replication.journal.memory import MemoryJournal


def listed(sim: Simulation, at: str) -> set[str]:
    return {member.replica for member in sim.replica(at).members.everyone()}


def living(sim: Simulation, but: str = "") -> set[str]:
    return {sim.replica(name).id for name in sim.up() if name != but}


def move(sim: Simulation, place: str, to: str) -> None:
    """Whoever ran at a place crashes, and is started elsewhere on the same journal."""
    agent = sim.agents[place]
    sim.crash(place)
    sim.add(to, journal=agent.journal, name=agent.name)


def quiet(sim: Simulation, seconds: float = 30) -> None:
    """Everything is equal, and everybody was heard."""
    assert sim.settle(60)
    sim.run(seconds)
    assert sim.settle(60)


def test_crashes_that_return_elsewhere_leave_nothing_behind():
    """After 20 crashes with other addresses: members are the living, `lag` 0, `stable` complete."""
    sim = met(Simulation(["ada", "bob", "cyd"], 71))
    places = {"bob": "bob", "cyd": "cyd"}
    for life in range(20):
        name = ("bob", "cyd")[life % 2]
        add(sim, places[name], life)
        sim.run(0.5)
        move(sim, places[name], f"{name}-{life}")
        places[name] = f"{name}-{life}"
        sim.run(2)
    quiet(sim)
    assert elements(sim, "ada") == set(range(20))
    for name in sim.up():
        replica = sim.replica(name)
        assert listed(sim, name) == living(sim, but=name)
        assert set(replica.acknowledgements.lag(replica.kernel.vector).values()) == {0}
        assert replica.acknowledgements.stable(replica.kernel.vector) == dict(replica.kernel.vector)
    assert len(sim["ada"].vector) > 20, "their events are there"


def test_who_was_away_learns_of_the_end_of_a_life_from_the_state():
    """Not by a rumour that is over by then: ada was down for all of it, and has bob in her book."""
    sim = met(Simulation(["ada", "bob", "cyd"], 72))
    sim.crash("ada")
    move(sim, "bob", "bob-2")
    sim.run(20)
    sim.start("ada")
    quiet(sim)
    assert listed(sim, "ada") == living(sim, but="ada")


@pytest.mark.parametrize("continuous", [False, True], ids=["copy", "cloned disk"])
def test_a_clone_closes_nobodys_life(continuous):
    """A copy of the file of a running agent is started: that ends neither its life nor another."""
    sim = met(Simulation(["ada", "bob", "cyd"], 73))
    add(sim, "bob", "before")
    sim.run(1)
    before = sim.replica("bob").id
    sim.add("twin", journal=sim.agents["bob"].journal.copy(continuous=continuous), name="bob")
    add(sim, "twin", "twin")
    add(sim, "bob", "bob")
    quiet(sim)
    assert list(ends(sim["ada"])) == []
    assert sim.replica("bob").id == before
    assert listed(sim, "ada") == living(sim, but="ada")
    assert elements(sim, "ada") == {"before", "twin", "bob"}


def test_a_machine_copied_as_a_whole_is_answered_by_the_life_that_it_declares_over():
    """Lock, file and all: the copy believes in its descent. The living writes: that is void."""
    sim = met(Simulation(["ada", "bob", "cyd"], 74))
    sim.copied_whole = True
    add(sim, "bob", "before")
    sim.run(1)
    bob = sim.replica("bob").id
    sim.add("twin", journal=sim.agents["bob"].journal.copy(machine=True), name="bob")
    sim.run(5)
    assert [former for former, _ in ends(sim["ada"])] == [bob]
    quiet(sim)
    for name in ("ada", "cyd", "twin"):
        assert bob in listed(sim, name)
        assert not sim.replica(name).members.closed
    assert sim.replica("bob").id == bob


def test_a_machine_rolled_back_as_a_whole_does_not_close_what_it_forgot():
    """It descends from an earlier moment; what its peers hold beyond that is nobody's to deny."""
    sim = met(Simulation(["ada", "bob", "cyd"], 75))
    sim.copied_whole = True
    add(sim, "bob", "old")
    sim.run(1)
    earlier = sim.agents["bob"].journal.copy(machine=True)
    add(sim, "bob", "new")
    assert sim.settle(10)
    bob = sim.replica("bob").id
    sim.crash("bob")
    sim.agents["bob"].journal = earlier
    sim.start("bob")
    quiet(sim)
    assert elements(sim, "bob") == {"old", "new"}
    assert bob in listed(sim, "ada")
    assert sim.replica("ada").members.get(bob).status is not Status.ALIVE


def test_late_frames_of_a_closed_life_do_not_make_it_a_member():
    """A slow network brings what was sent before the crash long after the heir was met."""
    sim = met(Simulation(["ada", "bob", "cyd"], 76))
    sim.faults = Faults(delay_s=(2.0, 4.0))
    for number in range(5):
        add(sim, "bob", number)
        sim.run(0.3)
    move(sim, "bob", "bob-2")
    sim.faults = Faults()
    quiet(sim, 60)
    assert listed(sim, "ada") == living(sim, but="ada")


def test_the_rights_of_a_crashed_life_go_to_its_heir_once():
    """BoundedCounter: what was left of them, by the same succession; a copy inherits nothing."""
    stock = BoundedCounter.at_least(0)
    sim = met(Simulation(["ada", "bob"], 77))
    sim["bob"].document("stock", stock).increment(10)
    sim["bob"].document("stock", stock).decrement(3)
    sim["bob"].document("other", BoundedCounter.at_least(5)).increment(1)
    sim.run(1)
    copy = sim.agents["bob"].journal.copy()
    for life in range(3):
        move(sim, sim.up()[-1], f"bob-{life}")
        assert sim[f"bob-{life}"].document("stock", stock).rights() == 7
        sim.run(1)
    sim.add("twin", journal=copy, name="bob")
    assert sim["twin"].document("stock", stock).rights() == 0
    quiet(sim)
    counter = sim["ada"].document("stock", stock)
    assert counter.value == 7
    assert sum(counter.rights(sim.replica(name).id) for name in sim.up()) == 7


@pytest.mark.parametrize("seed", range(rounds(60, 3)))
def test_crashes_clones_and_restores_lose_nothing_and_close_no_life_wrongly(seed):
    """At random; the simulation checks each record as it is made, and each step what follows.

    In the end nothing acknowledged is lost, and everybody who lives is a member everywhere.
    """
    dice = random.Random(seed)
    names = ["ada", "bob", "cyd", "dan"]
    sim = met(Simulation(names, seed, Faults(loss=0.1, duplicate=0.2, slow=0.02)))
    wanted: set[str] = set()
    kept: list[tuple[str, MemoryJournal]] = []
    for step in range(25):
        place = dice.choice(sim.up())
        agent = sim.agents[place]
        what = dice.choice(["write", "write", "move", "keep", "clone", "restore", "cut"])
        if what == "write":
            add(sim, place, f"{step}")
            sim.run(0.1)
            wanted.add(f"{step}")
        elif what == "move" and place != "ada":
            move(sim, place, f"{agent.name}-{step}")
        elif what == "keep":
            kept.append((agent.name, agent.journal.copy(continuous=dice.random() < 0.5)))
        elif what == "clone" and len(sim.up()) < 8:
            clone = agent.journal.copy(continuous=dice.random() < 0.5)
            sim.add(f"{agent.name}-{step}", journal=clone, name=agent.name)
        elif what == "restore" and kept:
            name, journal = kept.pop(dice.randrange(len(kept)))
            over = [p for p in sim.up() if sim.agents[p].name == name and p != "ada"]
            if over:
                assert sim.settle(60)  # what only the lost disk had would be lost with it
                sim.crash(over[0])
            sim.add(f"{name}-{step}", journal=journal, name=name)
        elif what == "cut":
            sim.partition(sim.up()[::2], sim.up()[1::2])
            sim.run(dice.uniform(1, 10))
            sim.heal()
        sim.run(dice.uniform(0.1, 4))
    sim.faults = Faults()
    quiet(sim, 60)
    for name in sim.up():
        assert wanted <= elements(sim, name)
        assert living(sim, but=name) <= listed(sim, name)

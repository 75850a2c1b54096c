"""[replication 24] An event that cannot be applied is given up: recorded, gossiped, kept to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crdt import CRDTError, Delta, DoomedFullError, GSet, Kernel, LWWRegister, ORSet, Run
from replication import AccessPolicy, Config, Simulation
from replication.errors import BusyError
from replication.protocol.intake import QUARANTINED_MAX, Intake, Outcome, given_up, without
from replication.protocol.policy import SKIPPED, agent_of
from tests.simulation.test_scenarios import met

if TYPE_CHECKING:
    from crdt import Change


def poison(monkeypatch, names: set[str], origin: str, *seqs: int) -> None:
    """Agents of these names cannot apply what these events say."""
    sound = Kernel.apply

    def apply(self: Kernel, delta: Delta) -> Change:
        told = {row[0] for run in delta.runs if run.origin == origin for row in run.rows}
        if agent_of(self.replica) in names and not told.isdisjoint(seqs):
            raise CRDTError("cannot be joined")
        return sound(self, delta)

    monkeypatch.setattr(Kernel, "apply", apply)


def add(sim: Simulation, name: str, *elements: str) -> None:
    for element in elements:
        sim[name].document("set", ORSet).add(element)


def elements(sim: Simulation, name: str) -> set[str]:
    return set(sim[name].document("set", ORSet))


def quarantined(sim: Simulation, name: str) -> set[str]:
    return set(sim.replica(name).gossip.intake.quarantine)


def all_show(sim: Simulation, expected: set[str]) -> bool:
    return sim.settle(60) and all(elements(sim, name) == expected for name in sim.up())


def test_a_skip_ends_in_equal_state_also_where_the_event_was_applied(monkeypatch):
    """One decision at bob: cyd goes on as well, and ada and dan take back what they had."""
    sim = met(Simulation(["ada", "bob", "cyd", "dan"], 241))
    origin = sim.replica("ada").id
    poison(monkeypatch, {"bob", "cyd"}, origin, 2)
    add(sim, "ada", "one", "poison", "three")
    sim.run(10)
    assert quarantined(sim, "bob") == quarantined(sim, "cyd") == {origin}
    assert elements(sim, "dan") == {"one", "poison", "three"}
    sim.replica("bob").skip(origin)
    assert all_show(sim, {"one", "three"})
    assert not quarantined(sim, "bob") | quarantined(sim, "cyd")
    add(sim, "ada", "poison")  # the same words, in another event
    assert all_show(sim, {"one", "poison", "three"})


def test_a_skip_holds_in_a_range_of_any_cut(monkeypatch):
    """Who was away meets the event between others, after the decision, and does not stop there."""
    sim = met(Simulation(["ada", "bob", "cyd"], 242))
    origin = sim.replica("ada").id
    poison(monkeypatch, {"bob", "cyd"}, origin, 2)
    sim.partition(["ada", "bob"], ["cyd"])
    add(sim, "ada", "one", "poison")
    sim.run(5)
    sim.replica("bob").skip(origin)
    add(sim, "ada", "three", "four")
    sim.run(5)
    sim.heal()
    assert all_show(sim, {"one", "three", "four"})
    assert "delta:poison" not in sim.replica("cyd").counts


def test_a_skip_survives_crashes_and_reaches_newcomers(monkeypatch):
    """The decision is on every disk; who joins later, by deltas or chunks, stops nowhere."""
    sim = met(Simulation(["ada", "bob", "cyd"], 243))
    origin = sim.replica("ada").id
    poison(monkeypatch, {"bob", "cyd", "dan", "eve"}, origin, 2)
    add(sim, "ada", "one", "poison", "three")
    sim.run(5)
    sim.replica("bob").skip(origin)
    sim.run(0.1)
    for name in ("bob", "cyd"):
        sim.crash(name)
        sim.start(name)
    assert all_show(sim, {"one", "three"})
    sim.add("dan")
    sim.config = Config(chunks_above_events=1)
    sim.add("eve")
    assert all_show(sim, {"one", "three"})
    assert {origin: [(2, 2)]} == given_up(sim["eve"].document(SKIPPED, GSet))


def test_a_batch_is_given_up_as_a_whole_with_what_it_replaced(monkeypatch):
    """Where it was applied the old value is gone, so it goes everywhere."""
    sim = met(Simulation(["ada", "bob", "cyd"], 244))
    origin = sim.replica("ada").id
    poison(monkeypatch, {"bob"}, origin, 3)
    sim["ada"].document("status", LWWRegister).set("old")
    assert sim.settle(10)
    with sim["ada"].batch():
        sim["ada"].document("status", LWWRegister).set("new")
        add(sim, "ada", "poison")
    add(sim, "ada", "after")
    sim.run(5)
    assert sim["bob"].document("status", LWWRegister).value == "old"
    assert sim.replica("bob").gossip.intake.quarantine[origin].span == (2, 3)
    sim.replica("bob").skip(origin)
    assert all_show(sim, {"after"})
    assert {sim[name].document("status", LWWRegister).value for name in sim.up()} == {None}


def test_a_quarantine_ends_by_itself_when_the_event_applies(monkeypatch):
    """It is tried whenever it comes again, and told of once."""
    sim = met(Simulation(["ada", "bob"], 245))
    origin = sim.replica("ada").id
    with monkeypatch.context() as patch:
        poison(patch, {"bob"}, origin, 2)
        add(sim, "ada", "one", "late", "three")
        sim.run(30)
        assert quarantined(sim, "bob") == {origin}
        assert sim.replica("bob").counts["delta:poison"] == 1
    assert all_show(sim, {"one", "late", "three"})
    assert not quarantined(sim, "bob")


def test_only_who_may_write_everything_takes_back_what_others_wrote():
    """A forged skip of an agent that some rule binds is refused at every merge."""
    rules = AccessPolicy(writers={"prices/": ["ada"]})
    assert rules.may_write("ada", SKIPPED)
    assert not rules.may_write("eve", SKIPPED)
    sim = met(Simulation(["ada", "bob", "eve"], 246, rules=rules))
    sim["ada"].document("prices/tea", LWWRegister).set(3)
    assert sim.settle(10)
    origin = sim.replica("ada").id
    sim["eve"].document(SKIPPED, GSet).add((origin, 2, 99))
    sim["ada"].document("prices/tea", LWWRegister).set(4)
    sim.run(20)
    assert sim["bob"].document("prices/tea", LWWRegister).value == 4
    assert not sim["bob"].document(SKIPPED, GSet)


def test_removals_that_wait_for_what_they_remove_are_no_poison(monkeypatch):
    """DoomedFullError: refused for now, the origin is not stopped."""
    writer, kernel = Kernel("ada~1"), Kernel("bob~1")
    added = writer.document("set", ORSet).add("x")
    intake = Intake(kernel, AccessPolicy(), 1 << 20)

    def full(_: Kernel, __: Delta) -> Change:
        raise DoomedFullError(frozenset({"cyd~1"}), 0)

    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "apply", full)
        with pytest.raises(BusyError):
            intake.take(added.encode(), "ada~1")
    assert intake.take(added.encode(), "ada~1").outcome is Outcome.NEW


def test_what_was_given_up_is_left_out_and_nothing_else():
    """By number, above what is here already; a delta without such events stays the same object."""
    kernel = Kernel("ada~1")
    for number in range(4):
        kernel.document("set", ORSet).add(number)
    delta = kernel.delta_since({})
    gone = given_up([("ada~1", 2, 3), ("bob~1", 1, 9), "junk", ("ada~1", 0, 1), ("ada~1", 4)])
    assert gone == {"ada~1": [(2, 3)], "bob~1": [(1, 9)]}
    left = without(delta, gone, {})
    assert left.ranges == delta.ranges
    assert [row[0] for run in left.runs for row in run.rows] == [1, 4]
    assert without(delta, gone, {"ada~1": 3}) is delta
    assert without(Delta((Run("cyd~1", 1, 9),)), gone, {}).runs[0].origin == "cyd~1"


def test_a_quarantine_holds_so_many_origins_and_the_next_when_there_is_room(monkeypatch):
    """Every new origin with a batch that no one can apply used to be held, without an end."""

    def apply(kernel: Kernel, delta: Delta) -> Change:
        raise CRDTError("cannot be joined")

    monkeypatch.setattr(Kernel, "apply", apply)
    intake = Intake(Kernel("ada~1"), AccessPolicy(), Config().delta_bytes_max)
    for number in range(QUARANTINED_MAX):
        data = Kernel(f"eve~{number}").document("set", ORSet).add(number).encode()
        assert intake.take(data, "bob~1").outcome is Outcome.POISON
    last = Kernel("eve~last").document("set", ORSet).add("last").encode()
    assert intake.take(last, "bob~1").applied == ()
    assert (len(intake.quarantine), "eve~last" in intake.quarantine) == (QUARANTINED_MAX, False)
    del intake.quarantine["eve~0"]
    assert intake.take(last, "bob~1").outcome is Outcome.POISON
    assert "eve~last" in intake.quarantine

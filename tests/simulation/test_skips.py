"""[replication 24] An event that cannot be applied is given up: recorded, gossiped, kept to."""

from __future__ import annotations

from crdt import GSet, LWWRegister, ORSet
from replication import AccessPolicy, Config, Simulation
from replication.protocol.intake import given_up
from replication.protocol.policy import SKIPPED
from tests.simulation.clusters import met, poison


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

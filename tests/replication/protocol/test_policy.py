"""Roles, prefixes and principals: checked at every merge, whoever brings it and however."""

from __future__ import annotations

import random

import pytest

from crdt import Delta, Event, LWWRegister, ORSet, PNCounter, Run
from replication import AccessPolicy, Agent, ConfigError, ForbiddenWriteError, Simulation
from replication.errors import (
    ForbiddenError,
    HistoryConflictError,
    RulesDifferError,
)
from replication.protocol.messages import Ack, ChunkWanted, Push, Refused
from replication.protocol.policy import agent_of
from tests.replication.stranger import Stranger

SECRET = "a secret of this test"
RULES = AccessPolicy(
    relays={"ada", "bob"}, writers={"prices/": {"ada"}, "prices/open/": {"ada", "leaf"}}
)


def simulated(*names: str, seed: int = 25) -> Simulation:
    sim = Simulation(names, seed, rules=RULES)
    sim.run(10)
    return sim


def pushed(sim: Simulation, sender: str, delta: Delta, target: str = "ada") -> object:
    """What the target answers to a push of a sender that follows no protocol."""
    before = dict(sim[target].vector), sim[target].canonical_bytes()
    stranger = Stranger(sim, sender)
    answer = stranger.ask(target, Push(delta.encode()))
    if isinstance(answer, Refused):
        assert (dict(sim[target].vector), sim[target].canonical_bytes()) == before
    return answer


def wrote(origin: str, seq: int, name: str, *kills: tuple[str, int, int]) -> Delta:
    """One event of an origin: a register written, and dots killed."""
    event = Event(seq, (name, "LWWRegister"), "", 1, 7, kills)
    return Delta((Run(origin, seq, seq, (event,)),))


@pytest.fixture
def sim() -> Simulation:
    return simulated("ada", "bob")


def test_a_leaf_may_not_bring_what_others_wrote(sim):
    """[replication 25] (foreign origin from a leaf) 403, nothing changed; its own is welcome."""
    refused = pushed(sim, "leaf~01", wrote("other~01", 1, "note"))
    assert (refused.status, refused.code) == (403, ForbiddenError.code)
    assert pushed(sim, "leaf~01", wrote("leaf~01", 1, "note")) == Ack({"leaf~01": 1})
    assert pushed(sim, "leaf~02", wrote("leaf~01", 1, "note")) == Ack({"leaf~01": 1})


def test_a_relay_may_bring_what_anybody_wrote(sim):
    """The very delta that a leaf is refused for."""
    assert pushed(sim, "bob~99", wrote("other~01", 1, "note")) == Ack({"other~01": 1})


def test_nobody_brings_events_of_mine_that_i_never_wrote(sim):
    """[replication 25] (own origin from a stranger) 409, whatever its role; the state stands."""
    mine = sim.replica("ada").id
    refused = pushed(sim, "bob~99", wrote(mine, 1, "note"))
    assert (refused.status, refused.code) == (409, HistoryConflictError.code)


def test_a_future_seq_leaves_the_vector_where_it_is(sim):
    """[replication 25] (forged future seq) a gap: answered with where we stand, nothing taken."""
    before = sim["ada"].canonical_bytes()
    answer = pushed(sim, "leaf~01", wrote("leaf~01", 10**9, "note"))
    assert answer == Ack({"leaf~01": 0})
    assert sim["ada"].canonical_bytes() == before
    assert sim.replica("ada").counts["delta:gap"] == 1


@pytest.mark.parametrize("sender", ["leaf~01", "bob~99"], ids=["from itself", "through a relay"])
def test_a_document_is_written_by_those_named_for_its_prefix(sim, sender):
    """Checked by the origin of the event, at the merge; the longest prefix speaks."""
    refused = pushed(sim, sender, wrote("leaf~01", 1, "prices/widget"))
    assert (refused.status, refused.code) == (403, ForbiddenError.code)
    assert pushed(sim, sender, wrote("leaf~01", 1, "prices/open/x")) == Ack({"leaf~01": 1})


def test_a_range_that_holds_one_refused_event_is_refused_whole(sim):
    """The vector stays before it, so that it cannot slip in with what follows."""
    events = tuple(
        Event(seq, (name, "LWWRegister"), "", 1, 7, ())
        for seq, name in enumerate(("note", "prices/widget", "note/2"), start=1)
    )
    refused = pushed(sim, "leaf~01", Delta((Run("leaf~01", 1, 3, events),)))
    assert refused.status == 403
    assert "leaf~01" not in sim["ada"].vector


def test_a_removal_is_judged_by_the_document_that_it_touches(sim):
    """A kill names dots: of what is not its to write it is void; for unknown ones it waits."""
    sim["ada"].document("prices/widget", LWWRegister).set(5)
    sim["ada"].document("note", LWWRegister).set(5)
    ada = sim.replica("ada").id
    unknown = Event(1, None, "", 0, None, (("cyd~01", 1, 1),))
    assert pushed(sim, "leaf~01", Delta((Run("leaf~01", 1, 1, (unknown,)),))).status == 403
    brought = (*wrote("cyd~01", 1, "x").runs, Run("leaf~01", 1, 1, (unknown,)))
    assert pushed(sim, "bob~99", Delta(brought)) == Ack({"cyd~01": 1, "leaf~01": 1})
    allowed = Event(2, None, "", 0, None, ((ada, 1, 2),))
    answer = pushed(sim, "leaf~01", Delta((Run("leaf~01", 2, 2, (allowed,)),)))
    assert answer == Ack({"leaf~01": 2})
    assert sim["ada"].document("note", LWWRegister).value is None
    assert sim["ada"].document("prices/widget", LWWRegister).value == 5


def test_a_removal_that_one_hub_could_not_judge_stops_nobody():
    """Counterexample: what ada knew to be dead, bob held alive: he refused the event she had taken.

    From then on he refused whatever she brought, and the removals of honest leaves that had seen
    what the liar wrote. Now it is void at both, and they end equal.
    """
    rules = AccessPolicy(relays={"ada", "bob"}, writers={"prices/": {"ada", "bob"}})
    sim = Simulation(["ada", "bob"], 5, rules=rules)
    sim.run(5)
    sim["ada"].document("prices/widget", LWWRegister).set(5)
    assert sim.settle(30)
    ada = sim.replica("ada").id
    sim.partition(["ada"], ["bob"])
    sim["ada"].document("prices/widget", LWWRegister).set(6)  # here the first price is dead
    lie = Run("mal~01", 1, 1, (Event(1, ("note", "ORSet"), "x", 0, None, ((ada, 1, 1),)),))
    Stranger(sim, "mal~01").ask("ada", Push(Delta((lie,)).encode()))
    honest = Run("leaf~01", 1, 1, (Event(1, None, "", 0, None, (("mal~01", 1, 1),)),))
    Stranger(sim, "leaf~01").ask("ada", Push(Delta((honest,)).encode()))
    told = Stranger(sim, "mal~01").ask("bob", Push(Delta((lie,)).encode()))
    assert told == Ack({"mal~01": 1})
    assert sim["bob"].document("prices/widget", LWWRegister).value == 5
    sim.heal()
    assert sim.settle(60)
    for name in ("ada", "bob"):
        assert sim[name].document("prices/widget", LWWRegister).value == 6
        assert dict(sim[name].vector) | {"mal~01": 1, "leaf~01": 1} == dict(sim[name].vector)
        assert not list(sim[name].document("note", ORSet))


def test_a_refused_range_keeps_out_its_own_origin_and_no_other(sim):
    """A relay that brings it with others is not refused for it; it is counted and named."""
    runs = (*wrote("leaf~01", 1, "prices/widget").runs, *wrote("cyd~01", 1, "note").runs)
    late = Event(1, None, "", 0, None, (("leaf~01", 1, 1),))  # of what was not let in
    runs = (*runs, Run("dan~01", 1, 1, (late,)))
    answer = pushed(sim, "bob~99", Delta(runs))
    assert answer == Ack({"leaf~01": 0, "cyd~01": 1, "dan~01": 0})
    assert sim.replica("ada").counts["refused:forbidden"] == 2
    assert sim["ada"].document("prices/widget", LWWRegister).value is None


def test_a_leaf_gives_no_chunks(sim):
    """It does not speak for others."""
    sim.add("leaf")
    sim.run(5)
    answer = Stranger(sim, "cyd~01").ask("leaf", ChunkWanted())
    assert (answer.status, answer.code) == (403, ForbiddenError.code)


def test_agents_of_different_rules_exchange_nothing():
    """The digest stands in every frame: 403 by name, no state, no membership."""
    sim = Simulation(["ada"], 1, rules=RULES)
    sim.rules = AccessPolicy(relays={"ada"})
    sim.add("eve")
    sim["ada"].document("note", LWWRegister).set(1)
    sim.run(10)
    assert sim.replica("ada").counts[f"refused:{RulesDifferError.code}"] > 0
    assert sim.replica("ada").members.everyone() == []
    assert dict(sim["eve"].vector) == {}


@pytest.mark.parametrize("seed", range(3))
def test_leaves_and_relays_converge_whoever_is_cut_off(seed):
    """Random writes and cuts among two relays and three leaves, one of them behind a NAT: equal.

    A leaf's events reach the others through relays only. A removal of what a relay has not seen yet
    is refused for the moment, and taken once it has.
    """
    dice = random.Random(seed)
    sim = simulated("ada", "bob", "leaf", "twig", seed=seed)
    sim.add("nat", hub="bob")
    sim.run(5)
    for number in range(60):
        name = dice.choice(sim.up())
        tags = sim[name].document("tags", ORSet)
        tags.add(number)
        if dice.random() < 0.3:
            tags.remove(dice.choice(sorted(tags)))
        if dice.random() < 0.2:
            sim.cut(*dice.sample(sim.up(), 2))
        if dice.random() < 0.2:
            sim.heal()
        sim.run(dice.random())
    sim.heal()
    assert sim.settle(60)
    assert len({frozenset(sim[name].document("tags", ORSet)) for name in sim.up()}) == 1


# ------------------------------------------------------------------------------ agents


async def test_a_document_that_is_not_mine_to_write_can_only_be_read():
    """Refused at the write, before it could stop this agent's origin at all its peers."""
    async with Agent("leaf", rules=RULES) as leaf:
        price = leaf.register("prices/widget")
        with pytest.raises(ForbiddenWriteError, match="leaf"):
            price.set(1)
        with pytest.raises(ForbiddenWriteError):
            leaf.map("prices/all").child("n", PNCounter).increment(1)
        assert price.value is None
        leaf.register("prices/open/x").set(2)
        assert leaf.version().vector == {leaf.id: 1}


async def test_an_agent_with_its_own_key_speaks_for_itself_and_nobody_else(until):
    """It knows neither the secret nor others' keys; its hub takes its name from its key."""
    rules = AccessPolicy(relays={"hub"})
    hub = Agent("hub", secret=SECRET, principals={"leaf": "leaf's own key"}, rules=rules)
    async with hub:
        options = {"listen": "", "hubs": [hub.address], "key": "leaf's own key", "rules": rules}
        async with Agent("leaf", **options) as leaf:
            leaf.counter("n").increment(1)
            await hub.seen(leaf.version(), timeout_s=10)
            hub.counter("n").increment(10)
            await leaf.seen(hub.version(), timeout_s=10)
            assert leaf.counter("n").value == 11
        async with Agent("other", **options) as other:
            other.counter("n").increment(100)
            await until(lambda: hub.counts().get("refused:forbidden", 0) > 0)
            assert hub.counter("n").value == 11
            assert {m.name for m in hub.members()} == {"leaf"}
    with pytest.raises(ConfigError, match="own key"):
        Agent("leaf", key="leaf's own key", secret=SECRET)


@pytest.mark.parametrize(
    "rules",
    [
        AccessPolicy(),
        AccessPolicy(writers={"admin/": {"boss"}}),
        AccessPolicy(certified=True),
        AccessPolicy(relays={"hub", "leaf"}),
    ],
    ids=["none", "writers alone", "certificates alone", "the leaf relays"],
)
def test_rules_that_let_a_leaf_speak_for_others_are_refused_at_the_start(rules):
    """Counterexample: without `relays` an own-key leaf wrote in the name of its boss."""
    for hub in ({"secret": SECRET, "principals": {"leaf": "leaf's own key"}},):
        with pytest.raises(ConfigError, match="own key"):
            Agent("hub", rules=rules, **hub)
    if rules.relays is None:
        with pytest.raises(ConfigError, match="own key"):
            Agent("leaf", key="leaf's own key", rules=rules)
    Agent(
        "hub", rules=AccessPolicy(relays={"hub"}), secret=SECRET, principals={"leaf": "a key 123"}
    )


def test_an_id_names_its_agent():
    """The name before the incarnation; it is what rules and keys speak of."""
    assert agent_of("leaf~01") == "leaf"

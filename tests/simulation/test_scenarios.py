"""The numbered scenarios that virtual time can show."""

from __future__ import annotations

import random

import pytest

from crdt import ORSet, PNCounter
from replication import Config, Faults, Simulation
from replication.protocol.messages import Status
from tests.scale import SOAK, rounds
from tests.simulation.clusters import FIVE, add, elements, met


def time_to_equal(faults: Faults, seed: int) -> float:
    sim = met(Simulation(FIVE, seed))
    sim.faults = faults
    dice, before_s = random.Random(seed), sim.now_s
    writes = 3000 if SOAK else 300
    for _ in range(writes):
        sim[dice.choice(FIVE)].document("n", PNCounter).increment(1)
        sim.run(0.1)
    written_s = sim.now_s
    assert sim.settle(120, every_s=0.05)
    assert sim["ada"].document("n", PNCounter).value == writes
    assert written_s - before_s > 29
    return sim.now_s - written_s


def test_ten_duplicates_reorder_and_half_the_frames_lost():
    """[replication 1] no double count; equal at most five intervals after the last write.

    Without loss they are equal at once, by pushes, so a factor of that time would say nothing.
    Half of all requests and half of all answers are lost: one exchange in four succeeds.
    """
    hard = Faults(loss=0.5, duplicate=9, slow=0.2)
    took_s = [time_to_equal(hard, seed) for seed in range(rounds(15, 3))]
    assert max(took_s) <= 5 * Config().gossip_interval_s, took_s
    assert time_to_equal(Faults(), 0) <= 0.1


@pytest.mark.parametrize(("secret", "code"), [(b"a secret", "unauthenticated"), (b"", "damaged")])
def test_damaged_frames_are_counted_and_change_nothing(secret, code):
    """[replication 2] every frame cut or flipped: nothing is merged, refusals are counted."""
    sim = met(Simulation(["ada", "bob"], 2, secret=secret))
    sim.faults = Faults(damage=1.0)
    add(sim, "ada", "x")
    sim.run(20)
    assert elements(sim, "bob") == set()
    assert sim.replica("bob").counts[f"refused:{code}"] > 0
    sim.faults = Faults()
    assert sim.settle(20)
    assert elements(sim, "bob") == {"x"}


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_damages_frames_invents_nothing_without_a_secret(seed):
    """Counterexample: a flipped bit made a member nobody was, a seq nobody wrote, a new life."""
    sim = met(Simulation(FIVE, seed, secret=b""))
    sim.faults = Faults(damage=0.4)
    for number in range(200):
        add(sim, sim.dice.choice(FIVE), number)
        sim.run(0.1)
    sim.faults = Faults()
    assert sim.settle(60)
    lives = {sim.replica(name).id for name in FIVE}
    assert {origin.partition("~")[0] for origin in sim["ada"].vector} == set(FIVE)
    for name in FIVE:
        replica = sim.replica(name)
        assert elements(sim, name) == set(range(200))
        assert {member.replica for member in replica.members.everyone()} <= lives
        assert not replica.counts["re-incarnated"]
        refused = {code for code, count in replica.counts.items() if code.startswith("refused:")}
        assert refused - {"refused:stale"} == {"refused:damaged"}, "stale: at a first contact"


def test_a_gap_is_refused_and_asked_for():
    """[replication 3] 5 then 7: the vector stays at 5, the answer says so, and 6-7 come at once."""
    sim = met(Simulation(["ada", "bob"], 3))
    for number in range(5):
        add(sim, "ada", number)
    assert sim.settle(10)
    sim.run(2)  # so that ada was told where bob stands
    ada, bob = sim.replica("ada"), sim.replica("bob")
    sim.cut("ada", "bob")
    add(sim, "ada", 5)
    sim.run(0.05)  # the push is lost
    ada.peers.peer(bob.id).raise_belief(((ada.id, 6, 6),))  # a wrong guess: 6 was lost
    ada.peers.peer(bob.id).pushing = False
    sim.heal()
    before_s = sim.now_s
    add(sim, "ada", 6)
    while bob.counts["delta:gap"] == 0 and sim.now_s - before_s < 5:
        sim.run(0.001)
    assert bob.counts["delta:gap"] == 1
    assert sim["bob"].vector[ada.id] == 5
    while sim["bob"].vector[ada.id] != 7 and sim.now_s - before_s < 5:
        sim.run(0.001)
    assert sim.now_s - before_s < 0.2, "the answer was enough, no round of gossip was needed"
    assert elements(sim, "bob") == set(range(7))


def test_a_partition_of_ten_minutes_with_writes_on_both_sides():
    """[replication 4] both sides stay available; equal at most ten intervals after the heal."""
    sim = met(Simulation(FIVE, 4))
    sim.partition(FIVE[:2], FIVE[2:])
    dice = random.Random(4)
    for number in range(60):
        add(sim, dice.choice(FIVE[:2]), ("left", number))
        add(sim, dice.choice(FIVE[2:]), ("right", number))
        sim.run(10)
    assert elements(sim, "ada") == {("left", n) for n in range(60)}
    assert elements(sim, "eve") == {("right", n) for n in range(60)}
    sim.heal()
    assert sim.settle(10 * sim.config.gossip_interval_s)
    assert len(elements(sim, "ada")) == 120


def test_a_one_way_partition_still_syncs_both_ways():
    """[replication 5] over the direction that works; nobody flaps between alive and dead."""
    sim = met(Simulation(["ada", "bob"], 5))
    sim.cut("ada", "bob", one_way=True)
    flaps, last = 0, Status.ALIVE
    for number in range(60):
        add(sim, "ada", ("a", number))
        add(sim, "bob", ("b", number))
        sim.run(1)
        (row,) = sim.replica("bob").members.everyone()
        flaps += row.status is not last
        last = row.status
    sim.run(10)
    assert elements(sim, "ada") == elements(sim, "bob")
    assert len(elements(sim, "ada")) == 120
    assert flaps == 0


def test_a_bridge_carries_what_it_learned():
    """[replication 6] A-B-C: C gets A's events through B, and A gets C's."""
    sim = met(Simulation(["ada", "bob", "cyd"], 6))
    sim.cut("ada", "cyd")
    add(sim, "ada", "a")
    add(sim, "cyd", "c")
    sim.run(10)
    assert elements(sim, "ada") == elements(sim, "cyd") == {"a", "c"}


def test_a_bridge_carries_what_it_learned_by_sync():
    """[replication 6] (sync) A cannot ask B, so B has nothing but answers; C gets A's events.

    And D, which only asks C, gets them at third hand.
    """
    sim = met(Simulation(["ada", "bob", "cyd", "dan"], 6))
    sim.cut("ada", "cyd")
    sim.cut("ada", "dan")
    sim.cut("bob", "dan")
    sim.cut("ada", "bob", one_way=True)
    before = [sim.replica(name).exchanges.wire.bytes_by_kind for name in sim.up()]
    pushed = [dict(counts) for counts in before]
    add(sim, "ada", "a")
    sim["ada"].document("set", ORSet).remove("a")
    add(sim, "ada", "b")
    sim.run(30)
    assert [elements(sim, name) for name in sim.up()] == [{"b"}] * 4
    bob = sim.replica("bob").exchanges.wire.bytes_by_kind
    assert bob["received", "push"] == pushed[1].get(("received", "push"), 0)


@pytest.mark.parametrize("skew_ms", [86_400_000, -3_600_000], ids=["+1 day", "-1 hour"])
def test_a_wrong_wall_clock_changes_no_timer_and_wins_no_later_write(skew_ms):
    """[replication 11] timers go on, the next writer who saw it wins over it, nothing regresses."""
    from crdt import LWWRegister

    sim = met(Simulation(["ada", "bob"], 11))
    sim.add("cyd", skew_ms=skew_ms)
    sim.run(5)
    sim["cyd"].document("r", LWWRegister).set("from another time")
    assert sim.settle(10)
    sim["ada"].document("r", LWWRegister).set("now")
    assert sim.settle(10)
    assert [sim[n].document("r", LWWRegister).value for n in sim.up()] == ["now"] * 3
    sim.crash("cyd")
    sim.start("cyd")
    sim["cyd"].document("r", LWWRegister).set("later")
    assert sim.settle(20)
    assert sim["ada"].document("r", LWWRegister).value == "later"


def test_the_whole_cluster_restarts_at_once():
    """[replication 20] found again from the address books, though the seed stays away for long.

    A minute after it is back, too, the traffic is what it was before.
    """
    sim = met(Simulation(FIVE, 20))
    add(sim, "bob", "before")
    assert sim.settle(10)
    sim.run(30)
    baseline = traffic(sim)
    for name in FIVE:
        sim.crash(name)
    for name in FIVE[1:]:
        sim.start(name)
    add(sim, "eve", "after")
    assert sim.settle(60)
    assert elements(sim, "bob") == {"before", "after"}
    sim.start("ada")
    assert sim.settle(60)
    assert_calm(sim, baseline)


def traffic(sim: Simulation, seconds: float = 60) -> int:
    """Bytes that all agents send in so many seconds."""
    before = sim.bytes_sent
    sim.run(seconds)
    return sim.bytes_sent - before


def assert_calm(sim: Simulation, baseline: int) -> None:
    """A minute after now, the cluster sends no more than it did before anything happened."""
    sim.run(60)
    assert traffic(sim) <= 1.1 * baseline


def test_a_rolling_restart_is_hardly_noticed():
    """[replication 20] (rolling) one after the other is down for 5 s, the seed, too, under writes.

    The others take writes meanwhile and never lose each other; all are equal soon after the last
    one is back, and a minute later the traffic is what it was before.
    """
    sim = met(Simulation(FIVE, 200))
    wrote = {("before", name) for name in FIVE}
    for name in FIVE:
        add(sim, name, ("before", name))
    sim.run(30)
    baseline = traffic(sim)
    for name in FIVE:
        sim.crash(name)
        for second in range(5):
            for other in sim.up():
                add(sim, other, (name, other, second))
                wrote.add((name, other, second))
            sim.run(1)
        sim.start(name)
        sim.run(5)
        assert all(len(sim.replica(other).members.live()) == 4 for other in FIVE)
    assert sim.settle(5)
    assert elements(sim, "ada") == wrote
    assert_calm(sim, baseline)


def test_a_remove_that_overtakes_its_add_suppresses_it():
    """[replication 22] the remove arrives first, through another peer; the add stays dead."""
    sim = met(Simulation(["ada", "bob", "cyd"], 22))
    sim.cut("ada", "cyd")
    add(sim, "ada", "x")
    sim.run(0.5)
    assert "x" in elements(sim, "bob")
    sim.cut("bob", "cyd")
    sim["bob"].document("set", ORSet).remove("x")
    removal = sim["bob"].delta_since({**sim["bob"].vector, sim.replica("bob").id: 0})
    sim["cyd"].apply(removal)
    sim.heal()
    assert sim.settle(30)
    assert elements(sim, "cyd") == set()


def test_equal_but_for_a_remove_is_not_equal():
    """[replication 23] the removal has a dot of its own, so the next exchange sees it."""
    sim = met(Simulation(["ada", "bob"], 23))
    add(sim, "ada", "x")
    assert sim.settle(10)
    sim.cut("ada", "bob")
    sim["bob"].document("set", ORSet).remove("x")
    sim.run(3)
    sim.heal()
    assert sim.settle(20)
    assert elements(sim, "ada") == set()


@pytest.mark.parametrize("probing", [True, False], ids=["a probe is out", "none is"])
@pytest.mark.parametrize("seed", range(3))
def test_a_loop_that_was_blocked_accuses_nobody(seed, probing):
    """[replication 26] an event loop away for 2 s finds its probe unanswered, and suspects nobody.

    Its own waits stretch by local health until a probe succeeds; whoever doubts it is refuted.
    """
    sim = met(Simulation(FIVE, 26 + seed))
    ada = sim.replica("ada")
    detector, check, waits = ada.prober.detector, ada.check, []

    def after_every_step() -> None:
        check()
        waits.append(detector.timeout_s())
        assert {m.status for m in ada.members.everyone()} == {Status.ALIVE}

    ada.check = after_every_step
    while (detector.probing is not None) != probing:
        sim.run(0.001)
    sim.stall("ada", 2.0)
    for _ in range(100):
        sim.run(0.1)
        others = [row for name in FIVE for row in sim.replica(name).members.everyone()]
        assert all(row.status < Status.DEAD for row in others)
    assert max(waits) >= 2 * sim.config.probe_timeout_s
    sim.run(20)
    assert waits[-1] == sim.config.probe_timeout_s
    assert {row.status for row in others} == {Status.ALIVE}

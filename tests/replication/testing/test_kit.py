"""The kit for users' own tests, and TLS, which a user has to be able to try out."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from crdt import LWWRegister, ORSet
from crdt.kernel.hlc import milliseconds
from replication import (
    ClosedError,
    Config,
    ConfigError,
    Faults,
    NotYetError,
    UnknownPeerError,
)
from replication.protocol import Status
from replication.testing import equal, in_virtual_time, local_agents

pytest_plugins = ["pytester"]
OPENSSL = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]


async def test_local_agents_run_without_a_socket():
    """Whole agents in one loop: a write at one is a value at the others."""
    async with local_agents("ada", "bob", "cyd") as (ada, bob, cyd):
        bob.counter("n").increment(2)
        cyd.orset("tags").add("x")
        await bob.seen(cyd.version(), timeout_s=10)
        await equal(ada, bob, cyd)
        assert ada.counter("n").value == 2


async def test_agents_that_do_not_become_equal_are_reported():
    """A cut that nobody heals ends in a typed error, not in a hanging test."""
    async with local_agents("ada", "bob", config=Config(gossip_interval_s=0.1)) as (ada, bob):
        ada.block("bob")
        ada.counter("n").increment(1)
        with pytest.raises(NotYetError):
            await equal(ada, bob, timeout_s=0.3)


def test_clusters_live_in_the_virtual_time_of_their_test(cluster, virtual_clock):
    """Fixtures without an import: two clusters and a clocked type, one clock, no waiting."""
    here, there = cluster("ada", "bob", seed=1), cluster("cyd", "dan", faults=Faults(loss=0.3))
    here["ada"].document("tags", ORSet).add("x")
    virtual_clock.advance(20)
    assert "x" in here["bob"].document("tags", ORSet)
    assert here.now_s == there.now_s == 20
    register = LWWRegister("eve", clock=virtual_clock)
    register.set("then")
    assert milliseconds(register.kernel.clock.last) == virtual_clock()
    there["dan"].document("tags", ORSet).add("y")
    there.crash("cyd")  # what a test leaves behind is healed, and asserted equal, after it


def test_a_cluster_that_a_test_leaves_different_fails_it(pytester):
    """Agents that can never meet again: the fixture says so when the test is over."""
    pytester.makepyfile(
        """
        from crdt import ORSet

        def test_it(cluster):
            sim = cluster("ada", "bob")
            sim["ada"].document("tags", ORSet).add("x")
            sim.heal = lambda: None
            sim.cut("ada", "bob")
        """
    )
    loop = "asyncio_default_fixture_loop_scope=function"
    pytester.runpytest("-p", "no:cacheprovider", "-o", loop).assert_outcomes(passed=1, errors=1)


# ------------------------------------------------------------------------------------ agents


async def test_a_team_of_real_agents_is_partitioned_healed_killed_and_started(agents):
    """What code for agents meets in production, in the loop of the test, without a port."""
    async with agents("ada", "bob", "cyd", config=Config(gossip_interval_s=0.05)) as team:
        ada, bob, cyd = team
        assert (team["bob"], len(team)) == (bob, 3)
        ada.counter("n").increment(1)
        await team.equal()
        team.partition(["ada"], ["bob", "cyd"])
        bob.counter("n").increment(5)
        await cyd.seen(bob.version(), timeout_s=10)
        with pytest.raises(NotYetError):
            await ada.seen(bob.version(), timeout_s=0.2)
        team.heal()
        await team.equal()
        assert ada.counter("n").value == 6


async def test_a_killed_agent_keeps_what_was_durable_and_nothing_else(agents):
    """No goodbye; its own id goes on only if its journal allows that; what was on disk is there."""
    async with agents("ada", "bob") as team:
        ada, bob = team
        await team.equal()
        team.partition("ada", "bob")
        bob.orset("s").add("durable")
        await bob.durable(timeout_s=10)
        bob.orset("s").add("lost")  # not committed: the loop has had no turn
        await team.kill("bob")
        assert [agent.name for agent in team] == ["ada"]
        with pytest.raises(ClosedError):
            team["bob"]
        with pytest.raises(ClosedError):
            bob.orset("s").add("late")
        assert all(member.status is not Status.LEFT for member in ada.members())
        team.heal()
        again = await team.start("bob")
        assert await team.start("bob") is again
        assert again.orset("s") == {"durable"}
        await team.equal()
        assert ada.orset("s") == {"durable"}


def test_ten_minutes_of_partition_pass_in_virtual_time(agents):
    """Suspicion, verdicts and recovery as ever; the clock moves when there is nothing to do."""
    begun = time.monotonic()
    events = []

    async def story():
        loop = asyncio.get_running_loop()
        async with agents("ada", "bob") as team:
            ada, bob = team
            await team.equal()
            team.partition("ada", "bob")
            ada.counter("n").increment(5)
            before = loop.time()
            await asyncio.sleep(600)
            assert loop.time() - before >= 600
            assert bob.counter("n").value == 0
            assert [member.status for member in ada.members()] == [Status.DEAD]
            with pytest.raises(NotYetError):
                await ada.replicated(ada.version(), 1, timeout_s=60)
            team.heal()
            await team.equal(timeout_s=60)
            assert bob.counter("n").value == 5
            events.append(await asyncio.to_thread(time.sleep, 0.01))
        return "told"

    assert agents.run(story()) == "told"
    assert time.monotonic() - begun < 600, "nobody waited"


def test_work_in_a_thread_holds_the_virtual_clock():
    """A timer does not overtake what a thread is doing; a slow disk costs no virtual time."""

    async def story():
        loop, gate = asyncio.get_running_loop(), threading.Event()
        order = []
        loop.call_later(0.5, gate.set)  # nothing else would let the thread go on: it is not awaited
        work = asyncio.ensure_future(asyncio.to_thread(lambda: order.append("work")))
        before = loop.time()
        await work
        assert loop.time() - before < 0.1
        async with asyncio.timeout(3600):
            await asyncio.sleep(3599)
        order.append("timer")
        assert gate.is_set()
        return order

    assert in_virtual_time(story()) == ["work", "timer"]


def test_a_slow_disk_holds_the_virtual_clock():
    """Counterexample: a commit was overtaken by the next timers, about once in six runs."""

    async def story():
        loop = asyncio.get_running_loop()
        async with local_agents("ada") as (ada,):
            journal = ada._runtime._journal
            append = journal.append

            def slowly(entry):
                time.sleep(0.02)
                append(entry)

            journal.append = slowly
            before = loop.time()
            ada.counter("n").increment(1)
            await ada.durable(ada.version())
            return loop.time() - before

    assert in_virtual_time(story()) < 0.01


async def test_what_a_team_cannot_do_is_refused(agents):
    """Misspelt names, a group that is no group, a name twice: typed, and nothing changed."""
    with pytest.raises(ConfigError):
        agents("ada", "ada")
    async with agents("ada", "bob") as team:
        for wrong in (["ada"], [["ada", "bob"]], ["ada", ["ada", "bob"]]):
            with pytest.raises(ConfigError):
                team.partition(*wrong)
        with pytest.raises(UnknownPeerError, match="bo"):
            team.partition("ada", "bo")
        with pytest.raises(UnknownPeerError):
            await team.kill("bo")
        with pytest.raises(UnknownPeerError):
            team["bo"]
        team["ada"].counter("n").increment(1)
        await team["bob"].seen(team["ada"].version(), timeout_s=10)


async def test_a_team_that_is_awaited_is_closed_after_the_test(agents):
    """Without a block: the fixture heals, settles and closes it when the test is over."""
    ada, bob = team = await agents("ada", "bob")
    team.partition("ada", "bob")
    ada.counter("n").increment(1)
    assert bob.counter("n").value == 0


def test_agents_that_a_test_leaves_different_fail_it(pytester):
    """A cut that no heal ends: told by the block, by `run`, and by the fixture at its end."""
    pytester.makepyfile(
        """
        import pytest

        async def differ(team):
            ada, bob = team
            await team.equal()
            ada.block("bob")
            bob.block("ada")
            ada.counter("n").increment(1)

        def test_block(agents):
            async def story():
                async with agents("ada", "bob") as team:
                    await differ(team)
            with pytest.raises(AssertionError, match="differ"):
                agents.run(story())

        def test_run(agents):
            async def story():
                await differ(await agents("ada", "bob"))
            with pytest.raises(AssertionError, match="differ"):
                agents.run(story())
        """
    )
    loop = "asyncio_default_fixture_loop_scope=function"
    pytester.runpytest("-p", "no:cacheprovider", "-o", loop).assert_outcomes(passed=2)


@pytest.mark.processes
def test_a_test_run_that_uses_no_fixture_of_ours_loads_nothing_of_ours(pytester):
    """Every pytest run of a machine imports the plugins: the doors, and nothing behind them."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            ours = {"crdt", "replication", "transactional"}
            loaded = {name for name in sys.modules if name.partition(".")[0] in ours}
            assert loaded <= {
                "crdt", "crdt.testing", "crdt.testing.pytest_plugin",
                "replication", "replication.testing", "replication.testing.pytest_plugin",
            }
            assert not {"aiohttp", "msgpack", "hypothesis"} & set(sys.modules)

        def test_with(agents):
            assert "replication.testing.agents" in sys.modules
        """
    )
    loop = "asyncio_default_fixture_loop_scope=function"
    others = ("cacheprovider", "hypothesispytest", "schemathesis")
    options = [each for name in others for each in ("-p", f"no:{name}")]
    pytester.runpytest_subprocess(*options, "-o", loop).assert_outcomes(passed=2)

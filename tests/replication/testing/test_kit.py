"""The kit for users' own tests, and TLS, which a user has to be able to try out."""

from __future__ import annotations

import pytest

from crdt import LWWRegister, ORSet
from crdt.kernel.hlc import milliseconds
from replication import Config, Faults, NotYetError
from replication.testing import equal, local_agents

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

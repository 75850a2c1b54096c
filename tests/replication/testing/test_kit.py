"""The kit for users' own tests, and TLS, which a user has to be able to try out."""

from __future__ import annotations

import ssl
import subprocess

import pytest

from crdt import LWWRegister, ORSet
from crdt.kernel.hlc import milliseconds
from replication import AccessPolicy, Agent, Config, Faults, NotYetError
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


def contexts(tmp_path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server's and client's, of a fresh certificate that names its holder and trusts itself."""
    key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*OPENSSL, "-keyout", str(key), "-out", str(certificate), *subject],
        check=True,
        capture_output=True,
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(certificate))
    client.load_cert_chain(certificate, key)
    return server, client


@pytest.mark.processes
async def test_agents_talk_over_mutual_tls(tmp_path):
    """Contexts of the standard library; who has no certificate of ours is not listened to."""
    server, client = contexts(tmp_path, "all")
    anonymous = ssl.create_default_context(cafile=str(tmp_path / "all.pem"))
    async with (
        Agent("ada", server_tls=server, client_tls=client) as ada,
        Agent("bob", server_tls=server, client_tls=client, peers=[ada.address]) as bob,
        Agent("nat", listen="", client_tls=client, hubs=[ada.address]) as nat,
        Agent("eve", server_tls=server, client_tls=anonymous, peers=[ada.address]) as eve,
    ):
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)
        await nat.seen(ada.version(), timeout_s=10)
        await equal(ada, bob, nat)
        with pytest.raises(NotYetError):
            await eve.seen(ada.version(), timeout_s=1)
        assert {member.name for member in ada.members()} == {"bob", "nat"}


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


@pytest.mark.processes
async def test_a_certificate_speaks_for_the_agent_that_it_names(tmp_path):
    """`AccessPolicy.certified`: a principal is the certificate's name, by POST and WebSocket."""
    rules = AccessPolicy(certified=True, relays={"hub"})
    server, client = contexts(tmp_path, "leaf")
    away = {"listen": "", "client_tls": client, "rules": rules}
    async with Agent("hub", server_tls=server, rules=rules) as hub:
        async with Agent("leaf", hubs=[hub.address], **away) as leaf:
            leaf.counter("n").increment(1)
            await hub.seen(leaf.version(), timeout_s=10)
            hub.counter("n").increment(1)
            await leaf.seen(hub.version(), timeout_s=10)
        async with Agent("hob", hubs=[hub.address], **away) as hob:
            hob.counter("n").increment(100)
            with pytest.raises(NotYetError):
                await hub.seen(hob.version(), timeout_s=1)
            assert hub.counts()["refused:forbidden"] > 0
            assert {m.name for m in hub.members()} == {"leaf"}

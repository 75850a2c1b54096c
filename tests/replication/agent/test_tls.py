"""Agents over TLS, which a user has to be able to try out."""

from __future__ import annotations

import ssl

import pytest

from replication import AccessPolicy, Agent, NotYetError
from replication.testing import equal


@pytest.mark.processes
async def test_agents_talk_over_mutual_tls(tmp_path, tls_contexts):
    """Contexts of the standard library; who has no certificate of ours is not listened to."""
    server, client = tls_contexts("all")
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


@pytest.mark.processes
async def test_a_certificate_speaks_for_the_agent_that_it_names(tmp_path, tls_contexts, until):
    """`AccessPolicy.certified`: a principal is the certificate's name, by POST and WebSocket."""
    rules = AccessPolicy(certified=True, relays={"hub"})
    server, client = meet(tmp_path, tls_contexts, "hub", "leaf")
    away = {"listen": "", "client_tls": client, "rules": rules}
    async with Agent("hub", server_tls=server, rules=rules) as hub:
        async with Agent("leaf", hubs=[hub.address], **away) as leaf:
            leaf.counter("n").increment(1)
            await hub.seen(leaf.version(), timeout_s=10)
            hub.counter("n").increment(1)
            await leaf.seen(hub.version(), timeout_s=10)
        async with Agent("hob", hubs=[hub.address], **away) as hob:
            hob.counter("n").increment(100)
            await until(lambda: hub.counts().get("refused:forbidden"))
            with pytest.raises(NotYetError):
                await hub.seen(hob.version(), timeout_s=1)
            assert {m.name for m in hub.members()} == {"leaf"}


def meet(tmp_path, tls_contexts, one, other):
    """The server's context of one, and the client's of the other, which trust each other."""
    server, client = tls_contexts(one)[0], tls_contexts(other)[1]
    server.load_verify_locations(tmp_path / f"{other}.pem")
    client.load_verify_locations(tmp_path / f"{one}.pem")
    return server, client


@pytest.mark.processes
@pytest.mark.parametrize("way", ["peers", "hubs"])
async def test_an_answer_is_believed_of_whoever_its_certificate_names(
    tmp_path, tls_contexts, way, until
):
    """Counterexample: certificates were asked of questions alone; any of them answered as hub."""
    rules = AccessPolicy(certified=True, relays={"hub"})
    server, client = meet(tmp_path, tls_contexts, "mallory", "leaf")
    async with (
        Agent("hub", server_tls=server, rules=rules) as impostor,
        Agent(
            "leaf", listen="", client_tls=client, rules=rules, **{way: [impostor.address]}
        ) as leaf,
    ):
        impostor.counter("n").increment(100)
        await until(lambda: leaf.counts().get("refused:forbidden"))
        with pytest.raises(NotYetError):
            await leaf.seen(impostor.version(), timeout_s=1)
        assert leaf.counter("n").value == 0
        assert leaf.members() == []

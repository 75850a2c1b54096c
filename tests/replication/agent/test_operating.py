"""What operators decide: whom an agent talks to, who is gone for good, what is given up."""

from __future__ import annotations

import pytest

from replication import (
    Agent,
    JournalFailedError,
    MemberAliveError,
    NotYetError,
    UnknownPeerError,
)
from replication.journal.memory import MemoryJournal
from replication.protocol.messages import Status
from replication.testing import local_agents
from replication.transport.memory import Switchboard
from tests.simulation.clusters import poison

SECRET = "a secret of this test"


async def test_an_operator_skips_at_one_agent_and_all_go_on(monkeypatch, tmp_path, until, say):
    """[replication 24] `skip ORIGIN` is durable when it returns, and outlives a restart."""
    async with Agent("ada", journal=MemoryJournal()) as ada:
        peers = [ada.address]
        journal = tmp_path / "bob.db"
        async with Agent("bob", peers=peers, journal=journal) as bob:
            poison(monkeypatch, {"bob", "cyd"}, ada.id, 2)
            for element in ("one", "poison", "three"):
                ada.orset("set").add(element)
                await ada.durable()
            await until(lambda: ada.id in bob.quarantine())
            assert "2-2: cannot be joined" in bob.quarantine()[ada.id]
            assert set(bob.orset("set")) == {"one"}
            with pytest.raises(UnknownPeerError):
                bob.skip(bob.id)
            code, _, err = await say("skip", "nobody", "--peer", bob.address)
            assert (code, "not in quarantine" in err) == (1, True)
            code, out, _ = await say("skip", ada.id, "--peer", bob.address)
            assert (code, out) == (0, "")
            assert bob.quarantine() == {}
            await until(lambda: set(ada.orset("set")) == {"one", "three"})
        async with (
            Agent("bob", peers=peers, journal=journal) as bob,
            Agent("cyd", peers=peers) as cyd,
        ):
            ada.orset("set").add("four")
            await until(lambda: len({a.digest() for a in (ada, bob, cyd)}) == 1)
            assert set(cyd.orset("set")) == {"one", "three", "four"}
            assert cyd.quarantine() == {}


async def test_a_read_only_agent_skips_nothing(monkeypatch, until):
    """A decision that cannot be recorded is refused, and the origin stays where it was."""
    board, journal = Switchboard(), MemoryJournal()
    ada = Agent("ada", transport=board.transport("ada:1"))
    bob = Agent("bob", transport=board.transport("bob:1"), peers=["ada:1"], journal=journal)
    async with ada, bob:
        poison(monkeypatch, {"bob"}, ada.id, 1)
        ada.orset("set").add("poison")
        await until(lambda: ada.id in bob.quarantine())
        journal.fail = "no space left on device"
        bob.orset("set").add("unsaved")
        await until(lambda: bob.read_only)
        with pytest.raises(JournalFailedError):
            bob.skip(ada.id)
        assert ada.id in bob.quarantine()
        journal.fail = ""
        await until(lambda: not bob.read_only)
        bob.skip(ada.id)
        await until(lambda: set(ada.orset("set")) == set(bob.orset("set")) == {"unsaved"})


async def test_a_retired_member_is_not_waited_for_and_refutes_it_if_it_lives(until):
    """`stable` counts dead members until they are retired; one that lives all the same says so."""
    async with Agent("ada", secret=SECRET) as ada:
        async with Agent("bob", secret=SECRET, peers=[ada.address]) as bob:
            await until(lambda: len(ada.members()) == 1 and len(bob.members()) == 1)
            before = bob.id
            ada.block("bob")
            ada.counter("n").increment(1)
            with pytest.raises(NotYetError):
                await ada.stable(ada.version(), timeout_s=0.3)
            ada.retire("bob")
            assert await ada.stable(ada.version(), timeout_s=5) == 0
            ada.unblock("bob")
            await until(lambda: bob.counter("n").value == 1)
            await until(lambda: ada.members()[0].status is Status.ALIVE)
            assert await ada.stable(ada.version(), timeout_s=5) == 1
            assert bob.id == before
            with pytest.raises(MemberAliveError):
                ada.retire("bob")
        with pytest.raises(UnknownPeerError):
            ada.retire("nobody")


async def test_a_blocked_peer_is_cut_off_both_ways(until):
    """Fault injection: nothing passes in either direction until `unblock`."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
    ):
        await until(lambda: ada.members() and bob.members())
        ada.block("bob")
        ada.counter("n").increment(1)
        bob.counter("n").increment(10)
        bob_token = bob.version()
        with pytest.raises(NotYetError):
            await ada.seen(bob_token, timeout_s=1.5)
        assert bob.counter("n").value == 10
        ada.unblock("bob")
        await ada.seen(bob_token, timeout_s=10)
        await until(lambda: bob.counter("n").value == 11)
        with pytest.raises(UnknownPeerError):
            ada.unblock("bob")


async def test_only_who_is_known_can_be_cut_off_and_any_name_heals():
    """Counterexample: a misspelt name cut nobody off in silence; a heal by id was refused."""
    async with local_agents("ada", "bob") as (ada, bob):
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)
        for wrong in ("adda", "bob", bob.id, "", None, "127.0.0.1:9"):
            with pytest.raises(UnknownPeerError, match="not a known member") as refused:
                bob.block(wrong)
            assert refused.value.hint == "known: ada"
        assert bob.blocked() == []
        names = ("ada", ada.id, ada.address)
        for cut in names:
            for heal in names:
                bob.block(cut)
                assert bob.blocked() == [cut]
                bob.unblock(heal)
                assert bob.blocked() == []
        for name in names:
            bob.block(name)
        with pytest.raises(UnknownPeerError) as refused:
            bob.unblock("bobb")
        assert ada.id in refused.value.hint
        bob.unblock("ada")
        assert bob.blocked() == []


async def test_an_address_to_find_the_cluster_by_can_be_cut_off_before_it_is_met():
    """Its agent is not a member yet; healed by the same address, it becomes one."""
    board = Switchboard()
    bob = Agent("bob", transport=board.transport("b:1"), peers=["a:1"])
    async with bob:
        bob.block("a:1")
        async with Agent("ada", transport=board.transport("a:1")) as ada:
            ada.counter("n").increment(1)
            with pytest.raises(NotYetError):
                await bob.seen(ada.version(), timeout_s=0.3)
            bob.unblock("a:1")
            await bob.seen(ada.version(), timeout_s=10)

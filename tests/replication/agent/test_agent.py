"""The agent as its author meets it: reads, writes, tokens, watching, and every early error."""

from __future__ import annotations

import copy
import pickle

import pytest

from crdt import BatchTooLargeError, ORSet
from replication import (
    Agent,
    ClosedError,
    ConfigError,
    DocumentNameError,
    JournalHeldError,
    JournalUnreadableError,
    ListenError,
    ReplicationError,
    SecretRequiredError,
    UncopyableAgentError,
    UnknownDocumentTypeError,
)
from replication.journal.memory import MemoryJournal
from replication.transport.memory import Switchboard

SECRET = "a secret of this test"


async def test_a_write_is_seen_here_at_once_and_there_soon(until):
    """No peer is asked for a write; a token says when another agent has it."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
    ):
        ada.counter("stock").increment(5)
        assert ada.counter("stock").value == 5
        ada.register("status").set("paid")
        ada.orset("tags").add("gift")
        await bob.seen(ada.version(), timeout_s=10)
        assert bob.counter("stock").value == 5
        assert bob.register("status").value == "paid"
        assert set(bob.orset("tags")) == {"gift"}
        await until(lambda: ada.digest() == bob.digest())


async def test_an_agent_needs_no_peer_and_no_network():
    """Alone, not listening, with a peer that does not exist: everything local works."""
    async with Agent("ada", journal=MemoryJournal(), listen="", peers=["127.0.0.1:9"]) as ada:
        ada.counter("n").increment(1)
        await ada.durable(timeout_s=5)
        assert ada.members() == []
        assert ada.id.startswith("ada~")


async def test_an_agent_comes_back_from_its_journal_under_the_same_id(tmp_path):
    """State, identity and the address book survive a clean stop."""
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        ada.orset("tags").add("x")
        before = ada.id
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        assert ada.id == before
        assert set(ada.orset("tags")) == {"x"}


async def test_many_agents_in_one_process(until):
    """Agents on a switchboard of one event loop, for users' own tests: no socket at all."""
    board = Switchboard()
    agents = [
        Agent(f"a{n}", transport=board.transport(f"host:{n}"), peers=["host:0"]) for n in range(12)
    ]
    for agent in agents:
        await agent.start()
    for agent in agents:
        agent.counter("n").increment(1)
    await until(lambda: all(agent.counter("n").value == 12 for agent in agents), 30)
    for agent in agents:
        await agent.close()


async def test_the_same_secret_is_needed_to_take_part(until):
    """[replication 17] (agents) a wrong secret learns no member and changes no state."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret="quite another one", peers=[ada.address]) as bob,
    ):
        bob.counter("n").increment(1)
        await until(lambda: ada.counts().get("refused:unauthenticated", 0) > 0)
        await until(lambda: bob.counts().get("refused-by-peer:unauthenticated", 0) > 0)
        assert ada.members() == []
        assert bob.members() == []
        assert ada.counter("n").value == 0


# ------------------------------------------------------------------------------ early errors


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": ""}, ConfigError),
        ({"name": "a b"}, ConfigError),
        ({"name": "ada", "listen": "0.0.0.0:0"}, SecretRequiredError),
        ({"name": "ada", "listen": "nowhere"}, ConfigError),
        ({"name": "ada", "peers": ["nowhere"]}, ConfigError),
        ({"name": "ada", "secret": "short"}, ConfigError),
        ({"name": None}, ConfigError),
        ({"name": 7}, ConfigError),
        ({"name": "ada", "peers": "127.0.0.1:7001"}, ConfigError),
        ({"name": "ada", "hubs": "127.0.0.1:7001"}, ConfigError),
        ({"name": "ada", "peers": b"127.0.0.1:7001"}, ConfigError),
        ({"name": "ada", "peers": None}, ConfigError),
        ({"name": "ada", "peers": [("127.0.0.1", 7001)]}, ConfigError),
        ({"name": "ada", "listen": None}, ConfigError),
        ({"name": "ada", "listen": "127.0.0.1:\u00b2"}, ConfigError),
        ({"name": "ada", "listen": "127.0.0.1:0/{name}"}, ConfigError),
        ({"name": "ada", "listen": "::1:7001"}, ConfigError),
        ({"name": "ada", "peers": ["fe80::1:7001"]}, ConfigError),
        ({"name": "ada", "address": 7}, ConfigError),
        ({"name": "ada", "cluster": ""}, ConfigError),
        ({"name": "ada", "namespace": None}, ConfigError),
        ({"name": "ada", "config": {"fanout": 2}}, ConfigError),
        ({"name": "ada", "rules": []}, ConfigError),
        ({"name": "ada", "seed": "1"}, ConfigError),
        ({"name": "ada", "journal": ":memory:"}, ConfigError),
        ({"name": "ada", "journal": ""}, ConfigError),
        ({"name": "ada", "journal": b"ada.db"}, ConfigError),
        ({"name": "ada", "journal": 7}, ConfigError),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_starts(options, error):
    """Typed, one line, with a hint."""
    with pytest.raises(error) as refused:
        Agent(**options)
    assert refused.value.hint
    assert "\n" not in str(refused.value)


async def test_early_errors_name_what_is_wrong_in_one_line(tmp_path):
    """Busy port, unreadable journal, held journal, unknown document type, not running."""
    (tmp_path / "text.db").write_text("this is not a journal" * 100)
    caught: list[ReplicationError] = []
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        for other, error in [
            (Agent("bob", listen=ada.address), ListenError),
            (Agent("bob", journal=tmp_path / "text.db"), JournalUnreadableError),
            (Agent("ada", journal=tmp_path / "ada.db"), JournalHeldError),
        ]:
            with pytest.raises(error) as refused:
                await other.start()
            caught.append(refused.value)
        with pytest.raises(UnknownDocumentTypeError) as refused:
            ada.document("x", dict)
        caught.append(refused.value)
    with pytest.raises(ClosedError) as closed:
        ada.counter("n").increment(1)
    caught.append(closed.value)
    assert all(error.hint and "\n" not in str(error) for error in caught)
    with pytest.raises(ClosedError):
        Agent("ada").document("x", ORSet)


async def test_a_single_write_too_large_to_travel_is_refused_at_the_write():
    """What peers would refuse for ever, and a restart could not read, never enters the state."""
    async with Agent("ada", journal=MemoryJournal()) as ada:
        with pytest.raises(BatchTooLargeError, match="this value takes") as refused:
            ada.register("blob").set("a" * (1 << 20))  # however well it compresses
        assert refused.value.code == "value_too_large"
        assert "batch" not in f"{refused.value} {refused.value.hint}"
        assert ada.register("blob").value is None
        ada.register("blob").set("small")
        await ada.durable(timeout_s=10)


@pytest.mark.parametrize("name", [None, 7, b"n", "\ud800"])
async def test_what_is_no_name_of_a_document_is_called_so(name):
    """Counterexample: the type was blamed. Nothing was created."""
    async with Agent("ada") as ada:
        with pytest.raises(DocumentNameError) as refused:
            ada.counter(name)
        assert "type" not in str(refused.value)
        assert not list(ada.kernel.documents())


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_an_agent_cannot_be_copied(way):
    """It would write under the identity of the first; alone, and inside of what holds it."""
    async with Agent("ada") as ada:
        for holder in (ada, [ada], {"agent": ada}):
            if way is copy.copy and holder is not ada:
                continue
            with pytest.raises(UncopyableAgentError, match="'ada' cannot be copied") as refused:
                way(holder)
            assert "of its own" in refused.value.hint


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"listen": "0.0.0.0:0", "secret": SECRET}, ConfigError),
        ({"listen": "", "address": "203.0.113.5:80"}, SecretRequiredError),
    ],
)
def test_how_an_agent_is_reached_is_settled_before_it_starts(arguments, error):
    """Every address is no address to dial; a public one needs a secret, mounted or not."""
    with pytest.raises(error):
        Agent("ada", **arguments)

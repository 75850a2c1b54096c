"""The agent as its author meets it: reads, writes, tokens, watching, and every early error."""

from __future__ import annotations

import asyncio
import time

import pytest

from crdt import BatchTooLargeError, ORSet
from replication import (
    Agent,
    ClosedError,
    Config,
    ConfigError,
    JournalFailedError,
    JournalHeldError,
    JournalUnreadableError,
    ListenError,
    NotYetError,
    ReplicationError,
    SecretRequiredError,
    UnknownDocumentTypeError,
    UnknownPeerError,
    Version,
)
from replication.journal.memory import MemoryJournal
from replication.transport.memory import Switchboard

SECRET = "a secret of this test"


async def until(condition, limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - a condition of the outside has no event
            await asyncio.sleep(0.005)


async def test_a_write_is_seen_here_at_once_and_there_soon():
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
    async with Agent("ada", listen="", peers=["127.0.0.1:9"]) as ada:
        ada.counter("n").increment(1)
        await ada.durable(timeout_s=5)
        assert ada.members() == []
        assert ada.id.startswith("ada~")


async def test_tokens_say_what_is_durable_replicated_and_stable():
    """durable: this disk; replicated: n others' disks; a timeout is not a rollback and says so."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
    ):
        await until(lambda: len(ada.members()) == 1)
        ada.counter("n").increment(1)
        token = ada.version()
        await ada.durable(token)
        assert await ada.replicated(token, n=1, timeout_s=10) == 1
        assert await ada.stable(token, timeout_s=10) == 1
        assert set(ada.lag().values()) == {0}
        with pytest.raises(NotYetError, match="the write stands") as waited:
            await ada.replicated(token, n=2, timeout_s=0.05)
        assert (waited.value.reached, waited.value.wanted) == (1, 2)
        assert Version.decode(token.encode()) <= bob.version()


async def test_an_agent_comes_back_from_its_journal_under_the_same_id(tmp_path):
    """State, identity and the address book survive a clean stop."""
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        ada.orset("tags").add("x")
        before = ada.id
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        assert ada.id == before
        assert set(ada.orset("tags")) == {"x"}


async def test_a_batch_is_one_change_to_its_watchers():
    """watch: whole batches, only the prefix, local and remote told apart."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
    ):
        local, remote = aiter(ada.watch("order/")), aiter(bob.watch("order/"))
        first, second = asyncio.ensure_future(anext(local)), asyncio.ensure_future(anext(remote))
        await asyncio.sleep(0)
        ada.counter("elsewhere").increment(1)
        with ada.batch():
            ada.register("order/42/status").set("paid")
            ada.orset("order/42/tags").add("gift")
        here = await asyncio.wait_for(first, 10)
        there = await asyncio.wait_for(second, 10)
        names = {"order/42/status", "order/42/tags"}
        assert {d.name for d in here.documents} == {d.name for d in there.documents} == names
        assert (here.cause, there.cause) == ("local", "remote")
        await local.aclose()
        await remote.aclose()


async def test_watching_ends_when_the_agent_closes():
    """A watcher is not left hanging."""
    agent = await Agent("ada").start()
    feed = aiter(agent.watch())
    waiting = asyncio.ensure_future(anext(feed, None))
    await asyncio.sleep(0)
    await agent.close()
    assert await asyncio.wait_for(waiting, 5) is None


async def test_a_retired_member_is_not_waited_for_and_returns_as_somebody_new():
    """`stable` counts dead members until they are retired; a retired one re-incarnates."""
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
            await until(lambda: bob.id != before)
            await until(lambda: bob.counter("n").value == 1)
        with pytest.raises(UnknownPeerError):
            ada.retire("nobody")


async def test_a_blocked_peer_is_cut_off_both_ways():
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


async def test_a_failing_disk_makes_the_agent_read_only_until_it_works_again():
    """[replication 18] typed error, nothing changed, durable state still spreads, recovery.

    What was not saved when the disk failed is visible here, sent to nobody, and saved by a retry.
    """
    journal, board = MemoryJournal(), Switchboard()
    config = Config(journal_retry_s=0.05)
    async with (
        Agent("ada", journal=journal, transport=board.transport("ada:1"), config=config) as ada,
        Agent("bob", transport=board.transport("bob:1"), peers=["ada:1"], config=config) as bob,
    ):
        ada.orset("tags").add("durable")
        await bob.seen(ada.version(), timeout_s=10)
        journal.fail = "no space left on device"
        ada.counter("n").increment(1)
        with pytest.raises(JournalFailedError, match="no space"):
            await ada.durable(timeout_s=5)
        with pytest.raises(JournalFailedError):
            ada.counter("n").increment(1)
        assert ada.counter("n").value == 1
        late = Agent("cyd", transport=board.transport("cyd:1"), peers=["ada:1"], config=config)
        bob.block("cyd")  # so that cyd can only ask ada
        async with late as cyd:
            await until(lambda: set(cyd.orset("tags")) == {"durable"})
            assert cyd.counter("n").value == 0
        assert bob.counter("n").value == 0
        journal.fail = ""
        await until(lambda: not ada.read_only)
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)
        assert bob.counter("n").value == 2


async def test_a_fault_in_one_step_does_not_end_the_agent(monkeypatch, caplog):
    """A step that raises is logged and counted; its exchange runs out, everything else goes on."""
    board, config = Switchboard(), Config(journal_retry_s=0.05)
    async with (
        Agent("ada", transport=board.transport("ada:1"), config=config) as ada,
        Agent("bob", transport=board.transport("bob:1"), peers=["ada:1"], config=config) as bob,
    ):
        await bob.seen(ada.version(), timeout_s=10)
        replica = ada._runtime.replica
        sound = replica.tick

        def faulty(now_s: float):
            monkeypatch.setattr(replica, "tick", sound)
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(replica, "tick", faulty)
        await until(lambda: ada.counts().get("step:raised") == 1)
        bob.counter("n").increment(1)
        await ada.seen(bob.version(), timeout_s=10)
        assert "a fault of ours" in caplog.text


async def test_many_agents_in_one_process():
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


# ------------------------------------------------------------------------------ early errors


async def test_the_same_secret_is_needed_to_take_part():
    """[replication 17] (agents) a wrong secret learns no member and changes no state."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret="quite another one", peers=[ada.address]) as bob,
    ):
        bob.counter("n").increment(1)
        await until(lambda: ada.counts().get("refused:unauthenticated", 0) > 0)
        assert ada.members() == []
        assert bob.members() == []
        assert ada.counter("n").value == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": ""}, ConfigError),
        ({"name": "a b"}, ConfigError),
        ({"name": "ada", "listen": "0.0.0.0:0"}, SecretRequiredError),
        ({"name": "ada", "listen": "nowhere"}, ConfigError),
        ({"name": "ada", "peers": ["nowhere"]}, ConfigError),
        ({"name": "ada", "secret": "short"}, ConfigError),
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


class FailingJournal(MemoryJournal):
    """A disk that can be told to fail, slowly enough that writes come in between."""

    fails = False
    failed = 0

    def append(self, entry) -> None:
        if self.fails:
            time.sleep(0.05)
            self.failed += 1
            raise JournalFailedError("no space left on the disk of this test")
        super().append(entry)


async def test_writes_made_during_a_commit_that_fails_are_kept():
    """A failed commit drops its frames; the effects of that held the rows of later writes.

    They were thrown away: `durable` returned for writes that no row held, and the journal was
    unreadable at the next start.
    """
    board, journal = Switchboard(), FailingJournal()
    ada = Agent("ada", journal=journal, transport=board.transport("a:1"), peers=["b:1"])
    bob = Agent("bob", transport=board.transport("b:1"), peers=["a:1"])
    async with ada, bob:
        names = ada.orset("names")
        names.add("before")
        await ada.replicated(ada.version(), 1, timeout_s=10)
        journal.fails = True
        names.add("first")
        await asyncio.sleep(0.02)  # its commit is under way
        names.add("second")
        await until(lambda: journal.failed > 0)
        journal.fails = False
        await until(lambda: not ada.read_only)
        names.add("third")
        await ada.durable(timeout_s=10)
    again = Agent("ada", journal=journal, transport=board.transport("a:1"))
    async with again:
        assert set(again.orset("names")) == {"before", "first", "second", "third"}


async def test_half_of_a_documents_own_batch_is_seen_by_nobody():
    """An author who waits inside `document.batch()` and then fails must not have told anybody."""
    board = Switchboard()
    ada = Agent("ada", transport=board.transport("a:1"), peers=["b:1"])
    bob = Agent("bob", transport=board.transport("b:1"), peers=["a:1"])
    async with ada, bob:
        names = ada.orset("names")
        names.add("before")
        await ada.replicated(ada.version(), 1, timeout_s=10)

        async def half_a_batch() -> None:
            with names.batch():
                names.add("half")
                await asyncio.sleep(0.3)
                raise KeyError("rolled back")

        with pytest.raises(KeyError):
            await half_a_batch()
        names.add("after")
        await ada.replicated(ada.version(), 1, timeout_s=10)
        assert set(bob.orset("names")) == {"before", "after"}
        await until(lambda: ada.digest() == bob.digest())


async def test_a_single_write_too_large_to_travel_is_refused_at_the_write():
    """What peers would refuse for ever, and a restart could not read, never enters the state."""
    async with Agent("ada") as ada:
        with pytest.raises(BatchTooLargeError):
            ada.register("blob").set("a" * (1 << 20))  # however well it compresses
        assert ada.register("blob").value is None
        ada.register("blob").set("small")
        await ada.durable(timeout_s=10)


async def test_a_watch_holds_from_its_call_on_and_survives_a_timeout():
    """Changes before the first step are seen; giving up one wait does not end the subscription."""
    async with Agent("ada") as ada:
        watch = ada.watch("n")
        ada.counter("n").increment(1)
        assert (await asyncio.wait_for(anext(watch), 10)).documents
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.01)
        ada.counter("n").increment(1)
        assert (await asyncio.wait_for(anext(watch), 10)).documents
        await watch.aclose()
        assert [event async for event in watch] == []


async def test_a_cancelled_close_is_carried_through(tmp_path):
    """Whoever closes may be cancelled; the journal is let go of all the same."""
    ada = await Agent("ada", journal=tmp_path / "ada.db").start()
    closing = asyncio.create_task(ada.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await ada.close()
    async with Agent("ada", journal=tmp_path / "ada.db"):
        pass


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

"""What a caller can wait for: events durable here, elsewhere, everywhere, or seen here."""

from __future__ import annotations

import asyncio
import math

import pytest

from crdt import ORSet, PNCounter, ResettableCounter
from replication import (
    Agent,
    ClosedError,
    ConfigError,
    NoJournalError,
    NotYetError,
    Reached,
    Version,
)
from replication.journal.memory import MemoryJournal
from replication.protocol import Status
from replication.testing import in_virtual_time, local_agents
from replication.transport import Switchboard

SECRET = "a secret of this test"


async def test_a_read_at_least_shows_what_the_token_names():
    """Read-your-writes at any agent: ada's token makes bob wait until bob has it."""
    async with local_agents("ada", "bob") as (ada, bob):
        for number in range(1, 21):
            ada.counter("n").increment(1)
            counter = await bob.read("n", PNCounter, at_least=ada.version(), timeout_s=10)
            assert counter.value >= number
        bob.counter("n").increment(1)  # and back
        assert (await ada.read("n", PNCounter, at_least=bob.version(), timeout_s=10)).value == 21


async def test_a_read_at_least_says_when_it_cannot_be_had():
    """Cut off, the old state is not passed off as the new; after the heal the same token works."""
    async with local_agents("ada", "bob") as (ada, bob):
        await bob.seen(ada.version(), timeout_s=10)
        bob.block("ada")
        ada.orset("tags").add("x")
        token = Version.decode(ada.version().encode())  # as it travels between programs
        with pytest.raises(NotYetError) as late:
            await bob.read("tags", ORSet, at_least=token, timeout_s=0.05)
        assert late.value.missing == {ada.id: 1}
        assert f"1 of {ada.id}" in str(late.value)
        assert not set(bob.orset("tags"))
        bob.unblock("ada")
        assert set(await bob.read("tags", ORSet, at_least=token, timeout_s=10)) == {"x"}


async def test_increments_of_one_commit_stay_apart():
    """[crdt 14] a read context taken between two of them resets the first and leaves the second."""
    async with local_agents("ada") as (ada,):
        total = ada.document("sum", ResettableCounter)
        total.increment(1)
        seen = total.context
        total.increment(2)
        await ada.durable()
        total.reset(seen=seen)
        assert total.value == 2


async def test_tokens_say_what_is_durable_replicated_and_stable(until):
    """durable: this disk; replicated: n others' disks; a timeout is not a rollback and says so."""
    async with (
        Agent("ada", journal=MemoryJournal(), secret=SECRET) as ada,
        Agent("bob", journal=MemoryJournal(), secret=SECRET, peers=[ada.address]) as bob,
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


async def test_without_a_journal_nothing_is_called_durable():
    """Counterexample: `durable` returned, and after a clean restart everything was gone."""
    async with Agent("ada") as ada:
        ada.counter("n").increment(1)
        for wait in (ada.durable(), ada.durable(ada.version(), 0.01)):
            with pytest.raises(NoJournalError, match="in memory only") as refused:
                await wait
            assert "journal='ada.db'" in refused.value.hint
        assert not ada.journalled
        seats = ada.bounded("seats")
        seats.increment(3)
        with pytest.raises(NoJournalError):
            await seats.decrement(1)
        assert seats.value == 3


async def test_a_peer_without_a_journal_is_no_copy():
    """It says so in its claims, directly or through others; error and `reached` tell of both."""
    async with (
        Agent("ada", journal=MemoryJournal()) as ada,
        Agent("bob", peers=[ada.address]) as bob,
        Agent("cyd", peers=[ada.address], journal=MemoryJournal()) as cyd,
    ):
        ada.counter("n").increment(1)
        token = ada.version()
        assert await ada.replicated(token, 1, timeout_s=10) == 1
        assert await ada.stable(token, timeout_s=10) == 2  # everybody has it, wherever they can
        assert ada.reached(token) == Reached(on_disk=1, in_memory=1)
        with pytest.raises(
            NotYetError, match="1 of 2 others have it on disk, 1 more in memory"
        ) as no:
            await ada.replicated(token, 2, timeout_s=0.05)
        assert (no.value.reached, no.value.in_memory, no.value.wanted) == (1, 1, 2)
        assert {m.name: m.journalled for m in ada.members()} == {"bob": False, "cyd": True}
        await cyd.seen(bob.version(), timeout_s=10)
        assert {m.name: m.journalled for m in cyd.members()} == {"ada": True, "bob": False}


async def test_a_wait_for_more_agents_than_there_are_says_so():
    """The others may be on their way, so it waits; its end names how many are known."""
    async with local_agents("ada", "bob") as (ada, bob):
        await bob.seen(ada.version(), timeout_s=10)
        ada.counter("n").increment(1)
        with pytest.raises(NotYetError, match=r"after 0\.2 s; it knows 1 others in all"):
            await ada.replicated(ada.version(), 5, timeout_s=0.2)


async def test_what_is_no_wait_is_refused_at_once():
    """No token, no number of agents, no number of seconds: a typed error, not one from within."""
    async with local_agents("ada") as (ada,):
        token = ada.version()
        for wrong in (token.encode(), dict(token.vector), "", None):
            for wait in (ada.seen(wrong), ada.replicated(wrong, 0), ada.stable(wrong)):
                with pytest.raises(ConfigError, match="a token is a Version"):
                    await wait
            if wrong is not None:
                with pytest.raises(ConfigError, match="a token is a Version"):
                    ada.watch(after=wrong)
        for count in (-1, 1.5, True, "2", None):
            with pytest.raises(ConfigError, match="number of agents"):
                await ada.replicated(token, count)
        for timeout_s in (-1, float("nan"), "5", True):
            for wait in (
                ada.seen(token, timeout_s),
                ada.durable(token, timeout_s),
                ada.replicated(token, 0, timeout_s),
                ada.stable(token, timeout_s),
            ):
                with pytest.raises(ConfigError, match="number of seconds"):
                    await wait


# ------------------------------------------------------------------------------ asking


def test_everybody_has_said_so_within_a_moment_however_many_there_are():
    """Counterexample: twelve had it on disk after 50 ms, and the writer knew of nine after 5 s."""

    async def story() -> None:
        names = [f"n{number}" for number in range(12)]
        async with local_agents(*names) as team:
            for number, agent in enumerate(team):
                agent.counter("n").increment(1)
                assert await agent.replicated(agent.version(), 11, timeout_s=5) == 11, number

    in_virtual_time(story())


def test_a_look_at_the_lag_makes_the_next_one_true():
    """Counterexample: of what was everywhere, `lag()` showed the most as lacking for minutes."""

    async def story() -> None:
        names = [f"n{number}" for number in range(10)]
        async with local_agents(*names) as team:
            ada = team["n0"]
            ada.counter("n").increment(1)
            await team.equal()
            async with asyncio.timeout(5):
                while any(ada.lag().values()):  # noqa: ASYNC110 - it is the looks that matter
                    await asyncio.sleep(0.06)
            assert len(ada.lag()) == 9

    in_virtual_time(story())


def test_convergence_is_measured_though_nobody_waits_for_it():
    """Counterexample: everywhere after 50 ms, and counted when chance told of it, up to 100 s."""

    async def story() -> tuple[int, float]:
        async with local_agents(*[f"n{number}" for number in range(10)]) as team:
            await asyncio.sleep(5)
            ada = team["n0"]
            ada.counter("n").increment(1)
            await asyncio.sleep(0.5)
            assert ada.vitals.converging_s == 0
            for _ in range(10):
                ada.counter("n").increment(1)
                await asyncio.sleep(0.1)
            await asyncio.sleep(6)
            assert ada.vitals.converging_s == 0
            return sum(ada.vitals.convergence.counts), ada.vitals.convergence.total_s

    count, total_s = in_virtual_time(story())
    assert 2 <= count <= 11, "some writes shared a commit"
    assert total_s <= 0.5 + 10 * 5.0


async def test_unknown_is_not_empty():
    """Counterexample: told of a peer that is not there yet, `stable` returned 0 at once."""
    board = Switchboard()
    ada = Agent("ada", transport=board.transport("h:1"), peers=["h:2"], journal=MemoryJournal())
    bob = Agent("bob", transport=board.transport("h:2"), journal=MemoryJournal())
    async with ada:
        ada.counter("n").increment(1)
        token = ada.version()
        with pytest.raises(NotYetError, match="0 of 1 others") as waited:
            await ada.stable(token, timeout_s=0.05)
        assert "nobody that this agent was told of" in waited.value.hint
        assert "h:2" in waited.value.hint
        async with bob:
            assert await ada.stable(token, timeout_s=10) == 1
        async with asyncio.timeout(5):
            while ada.members()[0].status is not Status.LEFT:  # noqa: ASYNC110 - members have no event
                await asyncio.sleep(0.01)
        assert await ada.stable(token, timeout_s=1) == 0, "who left is known to have left"


async def test_an_address_book_is_somebody_to_wait_for(tmp_path):
    """Restarted without any peers given: who was known counts, met again or not."""
    board = Switchboard()

    def ada() -> Agent:
        return Agent("ada", transport=board.transport("h:1"), journal=tmp_path / "ada.db")

    bob = Agent("bob", transport=board.transport("h:2"), peers=["h:1"], journal=MemoryJournal())
    async with bob:
        async with ada() as first:
            first.counter("n").increment(1)
            await first.replicated(first.version(), 1, timeout_s=10)
        board.unplug("h:2")
        async with ada() as again:
            again.counter("n").increment(1)
            with pytest.raises(NotYetError, match="0 of 1 others"):
                await again.stable(again.version(), timeout_s=0.2)


@pytest.mark.parametrize("end", ["cancelled", "timed out", "closed"])
def test_a_wait_that_ends_early_is_asked_for_no_longer(end):
    """Whoever gives up, in whatever way, leaves nothing behind that goes on asking."""

    async def story() -> None:
        async with local_agents("ada", "bob") as team:
            ada, bob = team
            bob.block("ada")
            ada.counter("n").increment(1)
            waits = ada._running().replica.waits
            task = asyncio.create_task(
                ada.stable(ada.version(), timeout_s=0.05 if end == "timed out" else None)
            )
            await asyncio.sleep(0.02)
            assert waits.wake_s < math.inf
            if end == "cancelled":
                task.cancel()
            if end == "closed":
                await ada.close()
            with pytest.raises((asyncio.CancelledError, NotYetError, ClosedError)):
                await task
            assert not waits._waits
            assert waits.wake_s == math.inf
            bob.unblock("ada")

    in_virtual_time(story())

"""What a caller can wait for: events durable here, elsewhere, everywhere, or seen here."""

from __future__ import annotations

import pytest

from crdt import ORSet, PNCounter, ResettableCounter
from replication import (
    Agent,
    NotYetError,
    Version,
)
from replication.testing import local_agents

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

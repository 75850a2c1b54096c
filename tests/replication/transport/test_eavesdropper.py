"""Whoever hears frames without TLS repeats them: to who got them, to others, after a restart."""

from __future__ import annotations

import asyncio

from replication import Agent, Config
from tests.replication.stranger import posted

SECRET = "a shared secret"
PEER = Config(gossip_interval_s=0.1, gossip_interval_max_s=0.2)


async def repeat(address: str, frames: list[bytes]) -> set[int]:
    """The statuses of the answers."""
    return {(await posted(address, frame))[0] for frame in frames}


async def test_frames_that_are_repeated_are_refused_and_change_nothing(tmp_path):
    """At their receiver, at another agent, and at both after restarts, while their sender goes on.

    Counterexample: a hub that restarted took them, and refused whoever had sent them as a clone.
    """
    heard: list[bytes] = []
    options = {"secret": SECRET, "journal": tmp_path / "hub.db"}
    async with Agent("hub", **options) as hub:
        address = hub.address
        bob = Agent("bob", secret=SECRET, peers=[address], config=PEER, journal=tmp_path / "bob.db")
        exchange = bob._transport.exchange

        async def overheard(to: str, frame: bytes) -> bytes:
            heard.append(frame)
            return await exchange(to, frame)

        bob._transport.exchange = overheard
        async with bob:
            for number in range(20):
                bob.counter("n").increment(1)
                bob.orset("s").add(number)
                bob.orset("s").discard(number - 1)
                await hub.seen(bob.version(), timeout_s=10)
            former = bob.id
        async with Agent(
            "bob", secret=SECRET, peers=[address], config=PEER, journal=tmp_path / "bob.db"
        ) as bob:
            assert bob.id == former
            state = hub.kernel.digest()
            assert await repeat(hub.address, heard) == {401}
            assert hub.kernel.digest() == state
            async with Agent("cyd", secret=SECRET, peers=[address], config=PEER) as cyd:
                await cyd.seen(hub.version(), timeout_s=10)
                assert await repeat(cyd.address, heard) == {401}
                assert (cyd.counter("n").value, set(cyd.orset("s"))) == (20, {19})
            await hub.close()
            async with Agent("hub", listen=address, **options) as again:
                repeated = asyncio.gather(*(repeat(address, heard[n::4]) for n in range(4)))
                bob.counter("n").increment(1)
                await again.seen(bob.version(), timeout_s=20)
                assert await repeated == [{401}] * 4
                assert await repeat(bob.address, heard) <= {401, 421}
                again.counter("n").increment(1)
                await bob.seen(again.version(), timeout_s=20)
                assert (bob.counter("n").value, set(bob.orset("s"))) == (22, {19})
                assert bob.id == former
                assert bob.counts().get("re-incarnated", 0) == 0
                assert {member.name for member in again.members()} == {"bob", "cyd"}
                await again.durable(timeout_s=10)


async def test_what_is_for_one_agent_is_refused_by_another_who_never_heard_it():
    """Taken on its way, before its receiver had it, and carried elsewhere."""
    async with Agent("hub", secret=SECRET) as hub, Agent("eve", secret=SECRET) as eve:
        bob = Agent("bob", secret=SECRET, peers=[hub.address], config=PEER)
        carried: list[int] = []
        exchange = bob._transport.exchange

        async def diverted(to: str, frame: bytes) -> bytes:
            carried.append((await posted(eve.address, frame))[0])
            return await exchange(to, frame)

        bob._transport.exchange = diverted
        async with bob:
            bob.register("x").set("for the hub alone")
            await hub.seen(bob.version(), timeout_s=10)
        assert set(carried) == {401}
        assert eve.members() == []
        assert dict(eve.version().vector) == {}

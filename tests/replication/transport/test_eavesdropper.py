"""Whoever hears frames without TLS repeats them: to who got them, to others, after a restart."""

from __future__ import annotations

import aiohttp

from replication import Agent, Config
from replication.transport.http import MEDIA_TYPE

SECRET = "a shared secret"
PEER = Config(gossip_interval_s=0.1, gossip_interval_max_s=0.2)


async def repeat(address: str, frames: list[bytes]) -> list[int]:
    """The status of each answer."""
    found = []
    async with aiohttp.ClientSession() as session:
        for frame in frames:
            url, headers = f"http://{address}/_replica", {"Content-Type": MEDIA_TYPE}
            async with session.post(url, data=frame, headers=headers) as answer:
                found.append(answer.status)
    return found


async def test_frames_that_are_repeated_are_refused_or_say_what_is_known(tmp_path, until):
    """No count doubles, nothing comes back, no table grows beyond the share of their sender."""
    heard: list[bytes] = []
    async with Agent("hub", secret=SECRET, journal=tmp_path / "hub.db") as hub:
        bob = Agent("bob", secret=SECRET, peers=[hub.address], config=PEER)
        async with bob:
            exchange = bob._transport.exchange

            async def overheard(address: str, frame: bytes) -> bytes:
                heard.append(frame)
                return await exchange(address, frame)

            bob._transport.exchange = overheard
            for number in range(20):
                bob.counter("n").increment(1)
                bob.orset("s").add(number)
                bob.orset("s").discard(number - 1)
                await hub.seen(bob.version(), timeout_s=10)
            state = hub.kernel.digest()
            assert set(await repeat(hub.address, heard)) == {401}
            assert hub.kernel.digest() == state
            async with Agent("cyd", secret=SECRET, peers=[hub.address], config=PEER) as cyd:
                await cyd.seen(hub.version(), timeout_s=10)
                await repeat(cyd.address, heard)
                assert (cyd.counter("n").value, set(cyd.orset("s"))) == (20, {19})
    async with Agent("hub", secret=SECRET, journal=tmp_path / "hub.db") as hub:
        await repeat(hub.address, heard)
        assert (hub.counter("n").value, set(hub.orset("s"))) == (20, {19})
        records = hub._runtime.replica.peers.peers
        assert {replica.partition("~")[0] for replica in records} <= {"bob", "cyd"}
        assert len(records) <= 32
        hub.counter("n").increment(1)
        await hub.durable(timeout_s=10)

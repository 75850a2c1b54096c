"""Kept WebSockets: agents that cannot be dialled, slow consumers, and what a line refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from pathlib import Path

import aiohttp
import pytest

from replication import AccessPolicy, Agent, Config
from replication.journal.memory import MemoryJournal
from replication.protocol.digest import full
from replication.protocol.keyring import Keyring
from replication.protocol.link import ASK, LAST, Link
from replication.protocol.messages import Ack, Probe, Push, Sync
from replication.protocol.wire import Wire
from replication.transport.websocket import PIECE_MAX

SECRET = "a secret of this test"
CALM = Config(gossip_interval_s=8.0, probe_interval_s=30.0)
"""So slow that what comes soon was pushed."""
RESPONSE = b"by hand, 16 byte"


def piece(kind: int, number: int, part: bytes) -> bytes:
    return bytes([kind]) + number.to_bytes(8, "big") + part


async def test_an_agent_behind_a_nat_is_pushed_to_over_its_own_connection(until):
    """It listens nowhere; its hub pushes to it at once, both ways, and on behalf of others."""
    async with (
        Agent("hub", secret=SECRET, config=CALM) as hub,
        Agent("far", secret=SECRET, peers=[hub.address], config=CALM) as far,
        Agent("nat", listen="", hubs=[hub.address], secret=SECRET, config=CALM) as nat,
    ):
        await until(lambda: {m.name for m in hub.members()} == {"far", "nat"})
        await nat.seen(hub.version(), timeout_s=10)
        async with asyncio.timeout(4):  # half a round of gossip
            hub.counter("n").increment(1)
            await nat.seen(hub.version())
            nat.counter("n").increment(10)
            await hub.seen(nat.version())
            far.counter("n").increment(100)
            await nat.seen(far.version())
        assert nat.counter("n").value == 111
        assert await hub.stable(hub.version(), timeout_s=10) == 2
        (row,) = [m for m in hub.members() if m.name == "nat"]
        assert row.address == ""


async def test_a_line_that_was_cut_is_dialled_again():
    """The hub restarts on its port: the agent comes back by itself, and catches up."""
    async with Agent("hub", secret=SECRET) as hub:
        address = hub.address
        nat = await Agent("nat", listen="", hubs=[address], secret=SECRET).start()
        await nat.seen(hub.version(), timeout_s=10)
        hub.counter("n").increment(1)
        await nat.seen(hub.version(), timeout_s=10)
    nat.counter("n").increment(10)
    async with Agent("hub", listen=address, secret=SECRET) as hub:
        await hub.seen(nat.version(), timeout_s=20)
        assert hub.counter("n").value == 11
        hub.counter("n").increment(100)
        await nat.seen(hub.version(), timeout_s=10)
        assert nat.counter("n").value == 111
    await nat.close()


class SlowConsumer:
    """A real socket that speaks WebSocket's handshake, introduces itself, and then never reads."""

    def __init__(self, address: str, challenge: bytes) -> None:
        self.challenge = challenge
        self.host, _, self.port = address.rpartition(":")
        self.wire = Wire(
            cluster="convoca", namespace="default", keys=KEYS, boot=b"slowpoke", config=Config()
        )
        self.socket = socket.socket()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        await loop.sock_connect(self.socket, (self.host, int(self.port)))
        head = (
            "GET /_replica HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await loop.sock_sendall(self.socket, head.encode())
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < 18:
            answer += await loop.sock_recv(self.socket, 1024)
        assert b" 101 " in answer, answer
        nonce = answer.partition(b"\r\n\r\n")[2][2:]
        await self.send(
            RESPONSE + KEYS.proof(f"line {nonce.hex()} {RESPONSE.hex()} dialled").encode()
        )
        await loop.sock_recv(self.socket, 1024)
        await self.ask_for_attention()

    async def send(self, message: bytes) -> None:
        size = len(message)
        length = (
            bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
        )
        data = b"\x82" + length + bytes(4) + message
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def ask_for_attention(self) -> None:
        """A probe: it is alive, as everybody can see, and still reads nothing."""
        challenge = self.challenge
        frame = self.wire.seal("slow~0000000000000001", Probe(), challenge=challenge)
        await self.send(piece(ASK | LAST, self.wire.last_number, frame))


KEYS = Keyring((SECRET.encode(),))


def resident_bytes() -> int:
    """Of this process, as the system counts them."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_a_slow_consumer_is_bounded_coalesced_and_dropped(tmp_path, until):
    """[replication 12] (real socket) what waits for it is bounded, and after `stalled_s` it is cut.

    Others are served meanwhile, at once. Pushes that ran out of time pile up in its outbox until
    that is full. (30 s in production, 1.5 s here; benchmarks/steady.py plots ten minutes.)
    """
    config = Config(
        stalled_s=1.5,
        outbox_bytes_max=1 << 20,
        connect_timeout_s=0.2,
        read_timeout_s=0.2,
        total_timeout_s=0.2,
        gossip_interval_s=0.1,
        gossip_interval_max_s=0.1,
    )
    dice, blob_bytes = random.Random(12), 200_000
    hub = Agent("hub", secret=SECRET, config=config, journal=tmp_path / "hub")
    async with hub, Agent("fast", listen="", hubs=[hub.address], secret=SECRET) as fast:
        slow = SlowConsumer(hub.address, hub._runtime.replica._wire.freshness.current)
        await slow.start()
        transport, replica = hub._transport, hub._runtime.replica
        await until(lambda: any(m.name == "slow" for m in hub.members()))
        row = next(m for m in replica.members.live() if m.name == "slow")
        line = transport._lines.get(row.reach)
        now_s, before = asyncio.get_running_loop().time, resident_bytes()
        most = 0
        started_s = now_s()
        async with asyncio.timeout(120):
            while transport.traffic.stalled == 0:
                hub.register("blob").set(dice.randbytes(blob_bytes))  # the last one counts
                await fast.seen(hub.version(), timeout_s=60)
                most = max(most, line.link.outbox_bytes)
                await slow.ask_for_attention()
        assert now_s() - started_s >= config.stalled_s
        assert blob_bytes <= most <= config.outbox_bytes_max
        assert hub.vitals.queued["outbound"] <= 4 * blob_bytes, "coalesced: few frames wait"
        assert resident_bytes() - before < 32 << 20
        await until(lambda: row.via == "")
        assert transport._lines.get(row.reach) is None
        assert fast.register("blob").value == hub.register("blob").value
        slow.socket.close()


async def test_what_waits_for_a_slow_peer_is_one_diff_however_much_was_written(until):
    """[replication 12] (coalesced) hundreds of writes while one push is out make one push more."""
    async with (
        Agent("hub", journal=MemoryJournal(), secret=SECRET, config=CALM) as hub,
        Agent("nat", listen="", hubs=[hub.address], secret=SECRET, config=CALM) as nat,
    ):
        await until(lambda: hub.members() and nat.members())
        await nat.seen(hub.version(), timeout_s=10)
        replica = hub._runtime.replica
        peer = replica.peers.peer(nat.id)
        peer.pushing = True  # as if one were under way to somebody slow
        opened = hub.counts().get("exchange:opened", 0)
        for number in range(300):
            hub.register("last").set(number)
        await hub.durable(timeout_s=10)
        assert len(peer.dirty) == 1, "an outbox is a set of origins"
        replica.peers.push_failed(nat.id)
        hub.register("last").set(300)
        await nat.seen(hub.version(), timeout_s=4)
        assert hub.counts()["exchange:opened"] - opened <= 3
        assert nat.register("last").value == 300


async def opened_by(
    opened: aiohttp.ClientWebSocketResponse, keys: Keyring, *, recorded: bytes = b""
) -> bytes:
    """Answer the challenge of a hub; what was answered, b"" if the hub hung up then."""
    nonce = await opened.receive_bytes(timeout=10)
    proof = keys.proof(f"line {nonce.hex()} {RESPONSE.hex()} dialled").encode()
    answer = recorded or RESPONSE + proof
    await opened.send_bytes(answer)
    shown = await opened.receive(timeout=10)
    if shown.type is not aiohttp.WSMsgType.BINARY:
        return b""
    assert keys.proves(f"line {nonce.hex()} {RESPONSE.hex()} accepted", shown.data.decode())
    return answer


async def test_a_line_is_opened_to_those_who_know_a_key_now():
    """A page, a wrong key, and the very bytes that opened a line a moment ago are refused."""
    async with Agent("hub", secret=SECRET) as hub, aiohttp.ClientSession() as session:
        url, lines = f"http://{hub.address}/_replica", hub._runtime._transport._lines._lines
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, headers={"Origin": "https://evil.example"})
        assert refused.value.status == 403
        async with session.ws_connect(url) as opened:
            recorded = await opened_by(opened, KEYS)
            assert recorded
            assert len(lines) == 1
            for keys, bytes_ in ((KEYS, recorded), (Keyring((b"another secret",)), b"")):
                async with session.ws_connect(url) as again:
                    assert not await opened_by(again, keys, recorded=bytes_)
            async with session.ws_connect(url) as silent:
                await silent.receive_bytes(timeout=10)
                assert len(lines) == 1  # whoever proves nothing takes no place


async def test_a_line_carries_frames_of_whoever_opened_it_and_of_nobody_else():
    """Counterexample: a frame of another agent over it, and what is for that one came here."""
    leaf_key, rules = "a key of the leaf", AccessPolicy(relays={"hub", "boss"})
    wire = Wire(
        cluster="convoca",
        namespace="default",
        keys=KEYS,
        boot=b"the boss",
        config=CALM,
        rules=rules.digest,
    )
    async with (
        Agent("hub", secret=SECRET, principals={"leaf": leaf_key}, rules=rules) as hub,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{hub.address}/_replica") as opened,
    ):
        assert await opened_by(opened, Keyring(own=(leaf_key.encode(),)))
        challenge = hub._runtime.replica._wire.freshness.current
        overheard = wire.seal("boss~1", Sync(full({})), challenge=challenge)
        await opened.send_bytes(piece(ASK | LAST, 1, overheard))
        came = Link(1 << 20, 1 << 22).receive(await opened.receive_bytes(timeout=10))
        assert wire.open(came.frame).message.code == "forbidden"
        assert all(member.name != "boss" for member in hub.members())


@pytest.mark.parametrize("what", ["oversize", "no piece", "no frame"])
async def test_a_line_ends_with_the_first_thing_that_is_not_ours(what):
    """[replication 16] (WebSocket oversize) closed before it is held; the agent goes on."""
    messages = {
        "oversize": b"\0" * (PIECE_MAX + 2),
        "no piece": b"\x09 not a piece",
        "no frame": piece(ASK | LAST, 1, b"not a frame"),
    }
    async with Agent("hub", secret=SECRET) as hub, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://{hub.address}/_replica") as opened:
            assert await opened_by(opened, KEYS)
            with contextlib.suppress(ConnectionError):
                await opened.send_bytes(messages[what])
            async with asyncio.timeout(10):
                while (await opened.receive()).type is aiohttp.WSMsgType.BINARY:
                    pass  # a refusal, in a frame of its own
            assert opened.closed
        hub.counter("n").increment(1)
        assert hub.members() == []
        async with Agent("bob", secret=SECRET, peers=[hub.address]) as bob:
            await bob.seen(hub.version(), timeout_s=10)


async def test_a_line_of_an_own_key_carries_the_same_frames():
    """The same bytes as in a POST: an Ack to a Push, sealed for its asker."""
    wire = Wire(cluster="convoca", namespace="default", keys=KEYS, boot=b"by hand!", config=CALM)
    async with (
        Agent("hub", secret=SECRET) as hub,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{hub.address}/_replica") as opened,
    ):
        assert await opened_by(opened, KEYS)
        hub.counter("n").increment(1)
        delta = hub.kernel.delta_since({}).encode()
        challenge = hub._runtime.replica._wire.freshness.current
        frame = wire.seal("mal~0000000000000009", Push(delta, ()), challenge=challenge)
        await opened.send_bytes(piece(ASK | LAST, 5, frame))
        link = Link(1 << 20, 1 << 22)
        came = link.receive(await opened.receive_bytes(timeout=10))
        assert came.number == 5
        assert wire.open(came.frame).message == Ack({hub.id: 1})

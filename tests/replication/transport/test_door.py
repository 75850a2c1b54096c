"""Before anybody proves a key: no place is taken, no time is given, and a descriptor is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from replication import Agent, Config
from replication.protocol.digest import full
from replication.protocol.keyring import Keyring
from replication.protocol.messages import Sync
from replication.protocol.wire import Wire
from replication.transport import door as doors
from replication.transport.http import UNAUTHENTICATED
from tests.replication.stranger import posted

SECRET = "a shared secret"
HEAD = b"POST /_replica HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-convoca-frame\r\n"


async def dial(
    address: str, sent: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    return reader, writer


async def last_words(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other end hangs up."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_bodies_that_never_come_take_no_place(until):
    """Counterexample: eight half-sent requests without the secret closed an agent's door."""
    config = Config(inbound_exchanges_max=2)
    async with (
        Agent("hub", secret=SECRET, config=config) as hub,
        Agent("bob", secret=SECRET, peers=[hub.address]) as bob,
    ):
        held = [await dial(hub.address, HEAD + b"Content-Length: 100\r\n\r\n") for _ in range(20)]
        await until(lambda: len(hub._transport._door.connections) >= 20)
        assert not any(hub._transport._inbound.values())
        hub.counter("n").increment(1)
        bob.counter("n").increment(1)
        await bob.seen(hub.version(), timeout_s=10)
        await hub.seen(bob.version(), timeout_s=10)
        for _, writer in held:
            writer.close()


async def test_junk_is_told_that_it_proves_nothing_and_nothing_else():
    """Counterexample: it was told cluster, namespace, id, boot and frame number, under our seal."""
    async with Agent("hub", secret=SECRET, cluster="payroll") as hub:
        other = Keyring((b"another secret",))
        wire = Wire(
            cluster="payroll", namespace="default", keys=other, boot=b"mallory!", config=Config()
        )
        for junk in (b"", b"junk", bytes(16), wire.seal("mal~1", Sync(full({})))):
            assert await posted(hub.address, junk) == (401, UNAUTHENTICATED.encode())
        assert hub._runtime.replica._wire.last_number == 0
        assert not hub.members()


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", HEAD + b"Content-Length: 9\r\n\r\njunk"],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_stranger_has_so_long_and_then_is_cut_off(sent, monkeypatch):
    """However it drips; who proved a key stays."""
    monkeypatch.setattr(doors, "PROVE_S", 1.0)
    config = Config(read_timeout_s=1.0)
    hub = Agent("hub", secret=SECRET, config=config)
    async with hub, Agent("bob", secret=SECRET, peers=[hub.address], config=config) as bob:
        reader, writer = await dial(hub.address, sent)

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        words = await last_words(reader)
        dripping.cancel()
        writer.close()
        assert words == b"" or b" 40" in words.split(b"\r\n")[0]
        bob.counter("n").increment(1)
        await hub.seen(bob.version(), timeout_s=60)


async def test_too_many_strangers_are_told_so_and_who_is_known_goes_on(monkeypatch, until):
    """Per address and in all; a place that is given back is there again."""
    monkeypatch.setattr(doors, "STRANGERS_PER_ADDRESS_MAX", 5)
    async with (
        Agent("hub", secret=SECRET) as hub,
        Agent("bob", secret=SECRET, peers=[hub.address]) as bob,
    ):
        await bob.seen(hub.version(), timeout_s=10)
        door = hub._transport._door
        await until(lambda: door.strangers.total() == 0)
        held = [await dial(hub.address) for _ in range(12)]
        words = await asyncio.gather(*(reader.read(12) for reader, _ in held[-6:]))
        assert words == [b"HTTP/1.1 503"] * 6
        assert door.strangers.total() <= 5
        bob.counter("n").increment(1)  # over the connection that it has
        await hub.seen(bob.version(), timeout_s=10)
        for _, other in held:
            other.close()
        await until(lambda: door.strangers.total() == 0)
        status, _ = await posted(hub.address, b"junk")
        assert status == 401
    assert not door.connections


@pytest.mark.parametrize("turns", range(6))
async def test_who_was_accepted_while_an_agent_stops_is_hung_up_on(turns):
    """However far it came: asyncio alone would forget its socket between two turns of the loop."""
    async with Agent("hub") as hub:
        host, _, port = hub.address.partition(":")
        dialled = socket.create_connection((host, int(port)))
        for _ in range(turns):
            await asyncio.sleep(0)
        door = hub._transport._door
    with dialled, contextlib.suppress(ConnectionError):
        dialled.settimeout(10)
        assert await asyncio.to_thread(dialled.recv, 1) == b""
    assert not door.connections


async def test_who_is_in_the_midst_of_a_handshake_when_an_agent_stops_is_hung_up_on(
    until, tls_contexts
):
    server, _ = tls_contexts("all")
    async with Agent("hub", server_tls=server) as hub:
        reader, writer = await dial(hub.address, b"\x16\x03\x01")
        door = hub._transport._door
        await until(lambda: door.connections)
    assert await last_words(reader) == b""
    writer.close()
    await until(lambda: not door.connections)


async def test_what_is_too_much_is_closed_under_tls_before_a_handshake(
    monkeypatch, until, tls_contexts
):
    """To say 503 would take the handshake; who is known goes on, and who comes later is let in."""
    monkeypatch.setattr(doors, "STRANGERS_PER_ADDRESS_MAX", 5)
    server, client = tls_contexts("all")
    tls = {"server_tls": server, "client_tls": client}
    async with (
        Agent("hub", secret=SECRET, **tls) as hub,
        Agent("bob", secret=SECRET, peers=[hub.address], **tls) as bob,
    ):
        await bob.seen(hub.version(), timeout_s=10)
        door = hub._transport._door
        await until(lambda: door.strangers.total() == 0)
        held = [await dial(hub.address) for _ in range(12)]
        # Those who were let in are five at the most: one of the five may have been bob.
        leaving = [asyncio.create_task(last_words(reader)) for reader, _ in held]
        await until(lambda: sum(task.done() for task in leaving) >= 6)
        assert {task.result() for task in leaving if task.done()} == {b""}
        assert not door.leaving
        assert door.strangers.total() <= 5
        bob.counter("n").increment(1)
        await hub.seen(bob.version(), timeout_s=10)
        for task, (_, writer) in zip(leaving, held, strict=True):
            task.cancel()
            writer.close()
        await until(lambda: door.strangers.total() == 0)
        host, _, port = hub.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=client)
        writer.write(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.read(12)).startswith(b"HTTP/1.1 ")
        writer.close()


async def test_descriptors_are_left_for_the_journal(tmp_path, monkeypatch):
    """With few left nobody new is let in, whoever he is, and a write still becomes durable."""
    async with Agent("hub", secret=SECRET, journal=tmp_path / "hub.db") as hub:
        used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        hub._transport._door._number_max = used + 8
        held = [await dial(hub.address) for _ in range(20)]
        turned_away = asyncio.wait(
            [asyncio.ensure_future(reader.read(12)) for reader, _ in held],
            return_when=asyncio.FIRST_COMPLETED,
        )
        done, waiting = await turned_away
        assert {task.result() for task in done} <= {b"HTTP/1.1 503", b""}
        for task in waiting:
            task.cancel()
        assert len(hub._transport._door.connections) <= 8
        hub.counter("n").increment(1)
        await hub.durable(timeout_s=10)
        for _, writer in held:
            writer.close()


def test_connections_leave_what_the_process_needs(monkeypatch):
    """Fewer descriptors, fewer connections; there is always room for two."""

    async def most(soft: int) -> int:
        monkeypatch.setattr(doors, "descriptors_max", lambda: soft)
        door = doors.Door(asyncio.Protocol, needed=64)
        door.close()
        return door._connections_max

    found = [asyncio.run(most(soft)) for soft in (64, 256, 1024, 1 << 20)]
    assert found == [2, 128, 896, doors.CONNECTIONS_MAX]

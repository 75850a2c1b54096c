"""Transports: one suite for every implementation, then what only sockets can do."""

from __future__ import annotations

import asyncio
import gzip
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from replication import Agent
from replication.addresses import PATH, joined_address, split_address
from replication.config import Config
from replication.errors import ConfigError, ListenError, PeerUnreachableError
from replication.listener import close_listener
from replication.protocol.keyring import Keyring
from replication.transport.circuit import PROBES_MAX
from replication.transport.http import BRIEF_BYTES, MEDIA_TYPE, HttpTransport
from replication.transport.memory import Switchboard

if TYPE_CHECKING:
    from replication.protocol.link import PeerConnection


def has_ipv6() -> bool:
    """Whether a socket can be bound to the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


QUICK = Config(connect_timeout_s=0.6, read_timeout_s=0.6, total_timeout_s=1.0)


def unheard(via: str, up: bool) -> None:
    """Hears of hung up connections."""


async def echo(frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
    return 200, b"echo " + frame


@pytest.fixture(params=["memory", "http"])
async def pair(request):
    if request.param == "memory":
        board = Switchboard()
        made = board.transport("one"), board.transport("two")
    else:
        made = tuple(HttpTransport("127.0.0.1:0", Config()) for _ in range(2))
    yield made
    for transport in made:
        await transport.close()


async def test_an_exchange_carries_a_frame_there_and_an_answer_back(pair):
    """And both ends count the bytes of frames."""
    one, two = pair
    await one.listen(echo, unheard)
    address = await two.listen(echo, unheard)
    assert await one.exchange(address, b"frame") == b"echo frame"
    assert (one.traffic.sent, one.traffic.received) == (5, 10)


async def test_nobody_there_is_unreachable(pair):
    """A typed error, whatever the reason."""
    one, two = pair
    await one.listen(echo, unheard)
    address = await two.listen(echo, unheard)
    await two.close()
    with pytest.raises(PeerUnreachableError):
        await one.exchange(address, b"frame")


async def test_a_taken_address_is_a_listen_error(pair):
    """Busy port: typed, nothing started."""
    one, two = pair
    address = await one.listen(echo, unheard)
    if isinstance(two, HttpTransport):
        two._listen = address
    else:
        two._address = address
    with pytest.raises(ListenError):
        await two.listen(echo, unheard)


async def test_a_refusal_is_an_answer(pair):
    """A peer's frame arrives whatever status it travels with: it says itself what is wrong."""
    one, two = pair

    async def refuse(frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
        return 401, b"refused"

    await one.listen(echo, unheard)
    assert await one.exchange(await two.listen(refuse, unheard), b"frame") == b"refused"


# ------------------------------------------------------------------------------ real sockets


@pytest.fixture
async def server():
    transport = HttpTransport("127.0.0.1:0", Config(body_bytes_max=1024 * 1024 * 4))
    address = await transport.listen(echo, unheard)
    yield f"http://{address}/_replica"
    await transport.close()


OURS = {"Content-Type": MEDIA_TYPE}


async def status_of(session: aiohttp.ClientSession, url: str, body: object) -> int | None:
    try:
        async with session.post(url, data=body, headers=OURS) as response:
            return response.status
    except aiohttp.ClientError:
        return None


async def test_oversized_and_encoded_bodies_are_refused_unread(server):
    """[replication 16] (HTTP) 1 GiB chunked body, forged length, gzip bomb: 413 and 415."""
    bomb = gzip.compress(b"\0" * 100_000_000)

    async def endless():
        for _ in range(1024):
            yield b"x" * 1024 * 1024

    async with aiohttp.ClientSession() as session:
        assert await status_of(session, server, endless()) in {413, None}  # None: hung up on us
        async with session.post(
            server, data=bomb, headers={**OURS, "Content-Encoding": "gzip"}, skip_auto_headers=()
        ) as response:
            assert response.status == 415
        async with session.post(server, data=b"fine", headers=OURS) as response:
            assert await response.read() == b"echo fine"


async def test_a_stranger_may_send_sixteen_kibibytes_and_a_member_more():
    """With a secret, a long body is read only after a proof of knowing it."""
    keys = Keyring((b"a shared secret",))
    member, other = (HttpTransport("127.0.0.1:0", Config(), keys=keys) for _ in range(2))
    await other.listen(echo, unheard)
    address = await member.listen(echo, unheard)
    large = b"x" * 100_000
    large += keys.trailer(large)
    assert len(await other.exchange(address, large)) == len(large) + 5
    url = f"http://{address}/_replica"
    async with aiohttp.ClientSession() as session:
        assert await status_of(session, url, large[-16_384:]) == 401
        sealed = b"x" * 16_368 + keys.trailer(b"x" * 16_368)
        assert await status_of(session, url, sealed) == 200
        assert await status_of(session, url, b"x" * 16_385) in {413, None}
    await member.close()
    await other.close()


async def test_more_exchanges_than_allowed_are_told_to_retry():
    """The ninth at once gets 503 with Retry-After; the eight, and a brief one, are answered."""
    release, full, inside = asyncio.Event(), asyncio.Event(), 0

    async def slow(frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
        nonlocal inside
        inside += 1
        if inside == 8:
            full.set()
        await release.wait()
        return 200, b"done"

    transport = HttpTransport("127.0.0.1:0", Config())
    url = f"http://{await transport.listen(slow, unheard)}/_replica"
    async with aiohttp.ClientSession() as session:

        async def post(size: int = BRIEF_BYTES + 1) -> int:
            async with session.post(url, data=b"x" * size, headers=OURS) as response:
                return response.status

        waiting = [asyncio.create_task(post()) for _ in range(8)]
        await full.wait()
        assert await post() == 503
        brief = asyncio.create_task(post(BRIEF_BYTES))
        while inside < 9:  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.001)
        release.set()
        assert await asyncio.gather(*waiting, brief) == [200] * 9
    await transport.close()


@pytest.mark.parametrize("end", ["cut", "unplug"])
async def test_an_answer_that_is_under_way_does_not_pass_a_cut(end):
    """Counterexample: what was written behind a partition came over it, in an earlier answer."""
    board, asked, go_on = Switchboard(), asyncio.Event(), asyncio.Event()

    async def serve(frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
        asked.set()
        await go_on.wait()
        return await echo(frame, caller)

    await board.transport("there").listen(serve, unheard)
    here = board.transport("here")
    under_way = asyncio.create_task(here.exchange("there", b"a"))
    await asked.wait()
    board.cut("here", "there") if end == "cut" else board.unplug("there")
    go_on.set()
    with pytest.raises(PeerUnreachableError, match="the answer of there is lost"):
        await under_way
    if end == "cut":
        board.heal()
        assert await here.exchange("there", b"b") == b"echo b"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await reader.read()


async def a_byte_at_a_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each comes well within the read timeout; only the total one ends it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b".")
        await asyncio.sleep(0.02)


@pytest.fixture(params=[silent, half_an_answer, a_byte_at_a_time], ids=lambda how: how.__name__)
async def hung(request):
    """The address of a real socket behind which somebody hangs in one way or another."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await request.param(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await close_listener(server)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_hung_peer_costs_its_timeout_and_then_the_circuit_opens(hung):
    """[replication 14] accepts, never ends an answer: timeouts, then a probe per half interval.

    Whatever comes in between is refused at once; others are fine all the time.
    """
    client, well = HttpTransport("", QUICK), HttpTransport("127.0.0.1:0", QUICK)
    await client.listen(echo, unheard)
    client._circuits.pace_s = 3600.0  # no probe is due, however slow this machine is
    fine = await well.listen(echo, unheard)
    for _ in range(3):
        waiting = asyncio.create_task(client.exchange(hung, b"frame"))
        while not waiting.done():
            assert await client.exchange(fine, b"frame") == b"echo frame"
            await asyncio.wait({waiting}, timeout=0.02)
        with pytest.raises(PeerUnreachableError, match="Timeout"):
            await waiting
    with pytest.raises(PeerUnreachableError, match="just tried"):
        await client.exchange(hung, b"frame")
    client._circuits.pace_s = 0.0  # now it is due
    waiting = [asyncio.create_task(client.exchange(hung, b"frame")) for _ in range(PROBES_MAX + 1)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum("just tried" in str(outcome) for outcome in outcomes) == 1
    assert sum("Timeout" in str(outcome) for outcome in outcomes) == PROBES_MAX
    assert await client.exchange(fine, b"frame") == b"echo frame"
    await client.close()
    await well.close()


@pytest.mark.parametrize(
    "address",
    [
        *["", "host", "host:", ":80", "host:99999", "host:x", "host:-1", "host:\u00b2", "host:1_0"],
        *[
            "::1:80",
            "fe80::1:80",
            "[::1:80",
            "::1]:80",
            "[]:80",
            "a b:80",
            "user@h:80",
            "http://h:80",
        ],
        *["h:1/{x}", "h:1/a b", "h:1/a?b=c", "h:1/a#b", "h:1/\n"],
    ],
)
def test_an_address_that_is_none_is_refused(address):
    """Host and port, both."""
    with pytest.raises(ConfigError):
        split_address(address)


def test_an_address_may_carry_a_path():
    """So that many agents share one port."""
    assert split_address("h:1") == ("h", 1, "/_replica")
    assert split_address("h:1/agents/ada") == ("h", 1, "/agents/ada")


def test_an_ipv6_address_stands_in_brackets():
    """Counterexample: `::1:7001` was taken for port 7001 of `::1`, which it need not be."""
    assert split_address("[::1]:7001") == ("::1", 7001, "/_replica")
    assert split_address("[fe80::1%eth0]:1/x") == ("fe80::1%eth0", 1, "/x")
    for host, port, path in (("::1", 7001, PATH), ("h", 1, "/x"), ("127.0.0.1", 2, PATH)):
        assert split_address(joined_address(host, port, path)) == (host, port, path)
    with pytest.raises(ConfigError, match="brackets") as refused:
        split_address("::1:7001")
    assert refused.value.hint == "write [::1]:7001"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_agents_find_each_other_by_ipv6():
    """What one says that it listens at, another can dial."""
    async with (
        Agent("ada", listen="[::1]:0") as ada,
        Agent("bob", listen="[::1]:0", peers=[ada.address]) as bob,
    ):
        assert ada.address.startswith("[::1]:")
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)


async def test_a_web_page_cannot_speak_to_an_agent(server):
    """A browser posts plain text to loopback for any page: refused, as is any Origin."""
    async with aiohttp.ClientSession() as session:
        for headers, status in (
            ({"Content-Type": "text/plain"}, 415),
            ({}, 415),
            ({**OURS, "Origin": "https://evil.example"}, 403),
            (OURS, 200),
        ):
            async with session.post(server, data=b"frame", headers=headers) as response:
                assert response.status == status, headers

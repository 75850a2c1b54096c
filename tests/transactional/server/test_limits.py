"""What one client, or a stranger, can make an authority spend: bytes, time of its loop, sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import random
import socket
import ssl
import sys
import threading
import tracemalloc
from asyncio import events
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.test_papers import make_certificate
from tests.transactional.server.test_clients import serve
from tests.transactional.server.test_http_hostile import raw
from transactional import caller, values, wire
from transactional.caller import Caller, Pool
from transactional.server import Authority, Listen, bodies, door
from transactional.server import server as serving
from transactional.stores.http import HTTPStore
from transactional.stores.memory import MemoryStore
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from transactional.store import Store

pytestmark = pytest.mark.processes


@pytest.fixture(params=["memory", "sqlite"])
async def authority(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Authority]:
    store: Store = MemoryStore()
    if request.param == "sqlite":
        store = await SQLiteStore.open(tmp_path / "s.db")
    authority = Authority(store, Listen(port=0))
    await authority.start()
    yield authority
    await authority.stop()


@contextlib.contextmanager
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thousandth of each limit, so that a test need not fill the memory to try it."""
    with monkeypatch.context() as patch:
        patch.setattr("transactional.rules.READ_BYTES_MAX", 4096)
        patch.setattr("transactional.stores.sqlite.READ_BYTES_MAX", 4096)
        patch.setattr(serving, "ANSWER_BYTES_MAX", 16384)
        yield


# --- bytes ---------------------------------------------------------------------------------------


async def test_a_page_ends_before_it_is_too_large(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan of large values goes on in the next page; get_many of them is refused by type."""
    store = await HTTPStore.open(authority.url)
    for number in range(12):
        await store.commit([], [t.Put(f"big/{number:02}", bytes(1000))])
    await store.commit([], [t.Put("big/99", bytes(5000))])  # more than a page alone
    with small_limits(monkeypatch):
        page = await store.scan("big/")
        assert (len(page.items), page.more) == (4, True)
        whole = await t.scan_all(store, "big/")
        assert len(whole.items) == 13
        assert sum(len(item.value) for item in whole.items.values()) == 17_000
        with pytest.raises(t.AnswerTooLargeError):
            await store.get_many([f"big/{number:02}" for number in range(12)])
        assert len((await store.get_many(["big/01", "big/02"])).items) == 2
    await store.close()


async def test_a_small_batch_does_not_take_a_large_answer(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads share the bytes of one answer; who comes too late is refused, and writes are not."""
    store = await HTTPStore.open(authority.url)
    await store.commit([], [t.Put(f"big/{number}", bytes(1000)) for number in range(8)])
    requests: list[dict[str, Any]] = [{"do": "get", "key": "big/1"}] * 100
    requests += [{"do": "scan", "prefix": "big/"}] * 100
    requests += [{"do": "get_many", "keys": ["big/1", "big/2"]}] * 100
    write = {"type": "put", "key": "w", "value": "x"}
    requests += [{"do": "commit", "op_id": "x", "writes": [write]}]
    with small_limits(monkeypatch):
        async with (
            aiohttp.ClientSession(authority.url) as web,
            web.post("/v1/batch", json={"requests": requests}) as answer,
        ):
            assert answer.status == 200
            body = await answer.read()
    replies = json.loads(body)["replies"]
    codes = [reply.get("error", {}).get("code") for reply in replies]
    assert set(codes[:-1]) == {None, "answer_too_large"}
    assert codes[-1] is None
    assert codes.count(None) <= 17
    assert len(body) < 100_000 + 200 * len(requests)
    assert await store.get("w") is not None
    await store.close()


async def test_what_is_too_large_together_is_asked_for_again_apart(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client batches by itself: nobody is refused because of his neighbours' answers."""
    store = await HTTPStore.open(authority.url)
    await store.commit([], [t.Put(f"big/{number}", bytes(1000)) for number in range(8)])
    everything = (await store.scan("big/")).items
    absent = [t.Absent(key) for key in everything]
    with small_limits(monkeypatch):
        pages = await asyncio.gather(*[store.scan("big/") for _ in range(40)])
        conflicts = await asyncio.gather(
            *[store.commit(absent, [t.Put("w", b"")]) for _ in range(40)], return_exceptions=True
        )
        made = await asyncio.gather(*[store.commit([], [t.Put("w", b"")]) for _ in range(3)])
        with pytest.raises(t.AnswerTooLargeError):  # not because of others
            await store.get_many(list(everything))
    for page in pages:
        keys = list(page.items)
        assert keys
        assert keys == list(everything)[: len(keys)]
        assert page.more == (len(keys) < 8)
    for conflict in conflicts:
        assert isinstance(conflict, t.ConflictError), conflict
        assert set(conflict.current) == set(everything)
    assert len({commit.revision for commit in made}) == 3
    await store.close()


async def test_a_renewal_does_not_wait_behind_commits(tmp_path: Path) -> None:
    """However many commits of the same process are on their way and queued: the lease is kept."""
    go, hanging = asyncio.Event(), 0

    class Slow(MemoryStore):
        async def commit(self, *given: Any, **named: Any) -> t.Commit:
            nonlocal hanging
            hanging += 1
            await go.wait()
            return await super().commit(*given, **named)

    authority = Authority(Slow(), Listen(port=0))
    await authority.start()
    store = await HTTPStore.open(authority.url)
    lease = await store.lease(30)
    commits = [asyncio.create_task(store.commit([], [t.Put(f"k/{n}", b"")])) for n in range(600)]
    while hanging < 64:  # noqa: ASYNC110 both senders are out with a batch each
        await asyncio.sleep(0.01)
    assert await asyncio.wait_for(store.renew(lease.id), 20) == lease
    go.set()
    assert len(await asyncio.gather(*commits)) == 600
    await store.close()
    await authority.stop()


async def test_conflicts_count_as_answers(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of many failing compares would tell the same large values: refused, nothing written."""
    store = await HTTPStore.open(authority.url)
    await store.commit([], [t.Put(f"big/{number}", bytes(1000)) for number in range(8)])
    compares = [{"type": "absent", "key": f"big/{number}"} for number in range(8)]
    write = {"type": "put", "key": "w", "value": "x"}
    commits = [
        {"do": "commit", "op_id": f"x{n}", "compares": compares, "writes": [write]}
        for n in range(40)
    ]
    with small_limits(monkeypatch):
        async with (
            aiohttp.ClientSession(authority.url) as web,
            web.post("/v1/batch", json={"requests": commits}) as answer,
        ):
            replies = (await answer.json())["replies"]
    codes = [reply["error"]["code"] for reply in replies]
    assert (codes.count("conflict"), codes.count("answer_too_large")) == (2, 38)
    assert all(reply["error"]["applied"] is False for reply in replies)
    assert await store.get("w") is None
    await store.close()


async def test_the_history_is_read_in_stretches_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch from the beginning sees every commit once, in order, a few bytes at once."""
    store = await SQLiteStore.open(tmp_path / "s.db")
    for number in range(20):
        await store.commit([], [t.Put(f"k/{n}", bytes(900)) for n in range(number % 4 + 1)])
    await store.close()
    store = await SQLiteStore.open(tmp_path / "s.db")
    with small_limits(monkeypatch):
        read = await store._ranges.ask(lambda pages: pages.history(0, ""))
        assert sum(len(event.changes) for event in read[1]) < 12
        watch = store.watch("", after=0)
        seen = [await asyncio.wait_for(anext(watch), 10) for _ in range(20)]
        await watch.aclose()
    assert [event.revision for event in seen] == list(range(1, 21))
    assert [len(event.changes) for event in seen] == [n % 4 + 1 for n in range(20)]
    await store.close()


async def test_all_that_is_in_flight_is_limited(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies and answers draw on one pool; when it is empty one is told 429, and it fills again."""
    store = await HTTPStore.open(authority.url)
    await store.commit([], [t.Put("big", bytes(100_000))])
    pool = authority._in_flight
    pool.take(pool.bytes_max - 50_000)
    for refused in (store.get("big"), store.commit([], [t.Put("big", bytes(100_000))])):
        with pytest.raises(t.TooManyRequestsError):
            await refused
    assert pool.held == pool.bytes_max - 50_000
    pool.give(pool.held)
    assert len((await store.get("big")).value) == 100_000  # type: ignore[union-attr]
    await store.close()
    assert pool.held == 0


async def test_a_client_has_a_share_of_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client that asks for much does not keep another from its answer."""
    monkeypatch.setattr(serving, "SHARE_BYTES_MAX", 150_000)
    roles = {"all": ([""], [""])}
    async with serve(tmp_path, roles, {"ann": "all", "bob": "all"}) as served:
        ann, bob = await served.client("ann"), await served.client("bob")
        await ann.commit([], [t.Put("big", bytes(90_000))])
        share = Pool(150_000, "of ann")
        served.authority._shares["ann"] = share
        share.take(100_000)
        with pytest.raises(t.TooManyRequestsError):
            await ann.get("big")
        assert await bob.get("big") is not None
        share.give(100_000)
        assert await ann.get("big") is not None


def test_a_caller_gives_back_what_it_held_however_it_ends() -> None:
    """Of several pools none keeps what another refused."""
    pools = [Pool(100, "in all"), Pool(50, "of one")]
    asking = Caller(bytes_max=80, pools=pools)
    asking.read(40)
    with pytest.raises(t.TooManyRequestsError):
        asking.read(20)
    assert [pool.held for pool in pools] == [40, 40]
    with pytest.raises(t.AnswerTooLargeError):
        asking.read(30)
    asking.release()
    asking.release()
    assert [pool.held for pool in pools] == [0, 0]
    assert caller.OWNER.bytes_left is None
    assert values.READ_BYTES_MAX <= caller.ANSWER_BYTES_MAX


# --- time of the loop ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (b"[]", 1),
        (b'{"a":1,"b":[2,3]}', 8),
        (b'"[,:{"', 1),
        (rb'"\",\\","x"', 3),
        (rb'"\\\\\"[[[["', 1),
        (b'["' + b"\\\\" * 70_000 + b'",""]', 4),
        (b'["' + b"x" * 65_533 + b'\\"' + b",,,," * 5 + b'"]', 2),
    ],
    ids=range(7),
)
def test_tokens_are_counted_outside_of_texts(
    monkeypatch: pytest.MonkeyPatch, text: bytes, tokens: int
) -> None:
    """Escapes and the ends of pieces do not mislead the count; it is exact for what is JSON."""
    monkeypatch.setattr(bodies, "TOKENS_MAX", tokens)
    bodies.check_tokens(text)
    monkeypatch.setattr(bodies, "TOKENS_MAX", tokens - 1)
    with pytest.raises(t.InvalidRequestError):
        bodies.check_tokens(text)


LINEAR = (
    (json, "loads"),
    (wire, "encode"),
    (bodies, "check_tokens"),
    (base64, "b64decode"),
    (base64, "b64encode"),
    (hashlib, "blake2b"),
)
"""What goes through a whole body, value or answer in a single call."""
CALLS_PER_TURN_MAX = 5_000
BYTES_PER_TURN_MAX = 3 * values.VALUE_BYTES_MAX  # one value and its text
COMMIT_BYTES_PER_TURN_MAX = 2 * values.COMMIT_BYTES_MAX  # its fingerprint hashes each value


@dataclasses.dataclass
class Turns:
    """The most that one turn of a loop did: calls, and bytes that went through ``LINEAR``."""

    calls: int = 0
    bytes: int = 0


@contextlib.contextmanager
def heaviest_turn() -> Iterator[Turns]:
    """Count the work of this thread in each turn of its loop.

    Counted, not timed: a turn is longer on a busy machine, and beside the garbage of other tests.
    """
    most, now = Turns(), Turns()
    thread = threading.get_ident()
    real_run = events.Handle._run

    def count_call(_frame: object, event: str, _argument: object) -> None:
        now.calls += event in {"call", "c_call"}

    def run(handle: events.Handle) -> None:
        mine = threading.get_ident() == thread
        if mine:
            now.calls = now.bytes = 0
        real_run(handle)
        if mine:
            most.calls, most.bytes = max(most.calls, now.calls), max(most.bytes, now.bytes)

    def weigh(text: object) -> None:
        if threading.get_ident() == thread and isinstance(text, bytes | str):
            now.bytes += len(text)

    def weighed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            for text in args:
                weigh(text)  # before: what is refused has been gone through, too
            result = real(*args, **options)
            weigh(result)
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in LINEAR:
            patch.setattr(module, name, weighed(getattr(module, name)))
        patch.setattr(events.Handle, "_run", run)
        before = sys.getprofile()
        sys.setprofile(count_call)
        try:
            yield most
        finally:
            sys.setprofile(before)


def _deep(text: str) -> bytes:
    return f'{{"requests":{text}}}'.encode()


def _commits(commits: int, puts: int) -> bytes:
    requests = [
        {
            "do": "commit",
            "writes": [
                {"type": "put", "key": f"{n}/{m}", "value": "\x01" * 170_000} for m in range(puts)
            ],
        }
        for n in range(commits)
    ]
    return json.dumps({"requests": requests}).encode()


HEAVY = {
    "lists": _deep("[" + "[]," * 5_000_000 + "0]"),
    "numbers": _deep("[" + "1e9," * 4_000_000 + "0]"),
    "keys": _deep("[{" + ",".join(f'"{n}":0' for n in range(1_200_000)) + "}]"),
    "quotes": _deep('"' * 15_000_000),
    "escapes": _deep('["' + "\\u0000" * 2_500_000 + '"]'),
    "backslashes": _deep("\\" * 15_000_000),
    "nested": _deep("[" * 5_000_000),
    "commits": _commits(15, 1),
    "commit": _commits(1, 15),
}


@pytest.mark.parametrize("kind", HEAVY)
async def test_no_body_holds_the_loop(authority: Authority, kind: str) -> None:
    """16 MiB of any kind, refused or done: no turn of the loop goes through it or calls much."""
    async with aiohttp.ClientSession(authority.url) as web:
        with heaviest_turn() as most:
            async with web.post(
                "/v1/batch",
                data=io.BytesIO(HEAVY[kind]),
                headers={"Content-Type": "application/json"},
            ) as answer:
                doc = await answer.json()
                assert answer.status == (
                    200 if kind in {"commits", "commit", "escapes"} else 400
                ), doc
    assert most.calls <= CALLS_PER_TURN_MAX
    limit = COMMIT_BYTES_PER_TURN_MAX if kind == "commit" else BYTES_PER_TURN_MAX
    assert most.bytes <= limit
    assert len(HEAVY[kind]) > 4_000_000


async def test_no_answer_holds_the_loop(authority: Authority) -> None:
    """16 MiB of values that no text is, asked for by a small batch."""
    store = await HTTPStore.open(authority.url)
    for number in range(15):
        await store.commit([], [t.Put(f"big/{number}", bytes(1 << 20))])
    requests = [{"do": "get", "key": f"big/{number}"} for number in range(15)]
    async with aiohttp.ClientSession(authority.url) as web:
        with heaviest_turn() as most:
            async with web.post("/v1/batch", json={"requests": requests}) as answer:
                body = await answer.read()
    assert len(body) > 15 << 20
    assert most.calls <= CALLS_PER_TURN_MAX
    assert most.bytes <= BYTES_PER_TURN_MAX
    await store.close()


# --- sockets -------------------------------------------------------------------------------------


async def _open(port: int, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    return reader, writer


async def test_strangers_wait_at_the_door_for_a_while_only(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle and half-sent connections beyond their number are told 503, the rest is closed in time.

    A client that was let in before goes on; afterwards the door is free again.
    """
    monkeypatch.setattr(door, "STRANGERS_PER_ADDRESS_MAX", 8)
    monkeypatch.setattr(door, "HEADER_S", 3.0)
    known = await HTTPStore.open(authority.url)
    waiting = [
        await _open(authority.port, b"GET /v1/status HTTP/1.1\r\nX-Slow: " if n % 2 else b"")
        for n in range(8)
    ]
    refused = [await _open(authority.port, b"") for _ in range(4)]
    for reader, _ in refused:
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["applied"] is False
    with pytest.raises(t.UnavailableError):
        await HTTPStore.open(authority.url)
    await known.commit([], [t.Put("a", b"")])
    for reader, _ in waiting:
        with contextlib.suppress(ConnectionError):
            assert not await asyncio.wait_for(reader.read(), 10)
    again = await HTTPStore.open(authority.url)
    for _, writer in waiting + refused:
        writer.close()
    await again.close()
    await known.close()


async def test_who_is_not_let_in_is_closed_and_takes_no_place(tmp_path: Path) -> None:
    """A wrong token ends the connection: the next try begins at the door again."""
    async with serve(tmp_path, {"a": ([""], [""])}, {"ann": "a"}) as served:
        ann = await served.client("ann")
        request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n\r\n"
        for _ in range(3 * door.STRANGERS_PER_ADDRESS_MAX):
            status, doc = await asyncio.wait_for(raw(served.authority, request), 10)
            assert (status, doc["applied"]) == (401, False)
        assert served.authority._busy.total() == 0
        assert await ann.get("a") is None


async def test_who_is_not_let_in_is_on_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From where, and how many: a line a second at most, and no token in it."""
    request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer gu355\r\n\r\n"
    async with serve(tmp_path, {"a": ([""], [""])}, {"ann": "a"}) as served:
        for _ in range(20):
            assert (await raw(served.authority, request))[0] == 401
        served.authority._refusal_told_s = -1.0
        assert (await raw(served.authority, request))[0] == 401
    lines = [record.getMessage() for record in caplog.records if "let in" in record.getMessage()]
    assert lines[0] == "1 requests were not let in, the last from 127.0.0.1"
    assert sum(int(line.split()[0]) for line in lines) == 21
    assert "gu355" not in caplog.text


async def test_who_does_not_read_his_answer_is_cut_off(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes that nobody takes, of a batch and of a watch, are held for a while only."""
    monkeypatch.setattr(serving, "ANSWER_S", 0.3)
    monkeypatch.setattr(serving, "HEARTBEAT_S", 0.05)
    store = await HTTPStore.open(authority.url)
    for number in range(12):
        await store.commit([], [t.Put(f"big/{number}", b"x" * (1 << 20))])
    body = json.dumps({"requests": [{"do": "get", "key": f"big/{n}"} for n in range(12)]}).encode()
    heads = [
        b"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        b"GET /v1/watch?prefix=big/&after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    sockets = []
    for head in heads:
        held = socket.create_connection(("127.0.0.1", authority.port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        held.sendall(head)
        sockets.append(held)
    async with asyncio.timeout(20):
        while not authority._busy.total():  # noqa: ASYNC110 it arrives through a socket
            await asyncio.sleep(0.001)
        while authority._in_flight.held or authority._busy or authority._watches:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for held in sockets:
        held.close()
    assert await store.get("big/0") is not None
    await store.close()


@pytest.mark.parametrize("turns", range(6))
async def test_who_was_accepted_while_an_authority_stops_is_hung_up_on(turns: int) -> None:
    """However far it came: asyncio alone would forget its socket between two turns of the loop."""
    authority = Authority(MemoryStore(), Listen(port=0))
    await authority.start()
    dialled = socket.create_connection(("127.0.0.1", authority.port))
    for _ in range(turns):
        await asyncio.sleep(0)
    await authority.stop()
    with dialled, contextlib.suppress(ConnectionError):
        dialled.settimeout(10)
        assert await asyncio.to_thread(dialled.recv, 1) == b""
    assert authority._door is not None
    assert not authority._door.connections


async def test_who_is_in_the_midst_of_a_handshake_when_an_authority_stops_is_hung_up_on(
    tmp_path: Path,
) -> None:
    make_certificate(tmp_path, "localhost")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    authority = Authority(MemoryStore(), Listen(port=0, tls=served))
    await authority.start()
    assert authority._door is not None
    reader, writer = await _open(authority.port, b"\x16\x03\x01")
    async with asyncio.timeout(20):
        while not authority._door.connections:  # noqa: ASYNC110 it arrives through a socket
            await asyncio.sleep(0.001)
    await authority.stop()
    with contextlib.suppress(ConnectionError):
        assert not await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_a_handshake_that_never_ends_holds_a_place_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under TLS a connection is counted before its handshake, and cut when it takes too long."""
    monkeypatch.setattr(door, "STRANGERS_PER_ADDRESS_MAX", 4)
    monkeypatch.setattr(door, "HEADER_S", 3.0)
    make_certificate(tmp_path, "localhost")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    trusting = ssl.create_default_context(cafile=tmp_path / "tls.pem")
    authority = Authority(MemoryStore(), Listen(port=0, tls=served))
    await authority.start()
    known = await HTTPStore.open(authority.url, tls=trusting)
    waiting = [await _open(authority.port, b"\x16\x03\x01" if n % 2 else b"") for n in range(4)]
    refused, writer = await _open(authority.port, b"")
    with contextlib.suppress(ConnectionError):
        assert not await asyncio.wait_for(refused.read(), 10)
    writer.close()
    with pytest.raises(t.UnavailableError):
        await HTTPStore.open(authority.url, tls=trusting)
    await known.commit([], [t.Put("a", b"")])
    for reader, writer in waiting:
        with contextlib.suppress(ConnectionError):
            assert not await asyncio.wait_for(reader.read(), 10)
        writer.close()
    again = await HTTPStore.open(authority.url, tls=trusting)
    assert authority._door is not None
    assert not authority._door.strangers
    await again.close()
    await known.close()
    await authority.stop()


async def test_a_body_is_not_unpacked(authority: Authority) -> None:
    """Content-Encoding is refused before anything is inflated."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(authority.url, auto_decompress=False) as web,
        web.post("/v1/batch", data=b"\x1f\x8b" + bytes(100), headers=headers) as answer,
    ):
        assert answer.status == 415
        assert (await answer.json())["applied"] is False


# --- all of it together --------------------------------------------------------------------------


def _request(dice: random.Random, token: str) -> bytes:
    """One hostile request: of a stranger, or of a client that may do almost nothing."""
    paths = ["/v1/status", "/v1/batch", "/v1/commit", "/v1/keys/a", "/v1/keys", "/v1/leases"]
    paths += ["/v1/leases/ann.00", "/v1/operations/x", "/v1/watch?prefix=no", "/openapi.json"]
    paths += ["/" + "x" * dice.randrange(9000), "/v1/keys/%ff%00", "/v1/keys?limit=-1", "*", ""]
    method = dice.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "BREW", "\x00", "OPTIONS"])
    bodies_ = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"requests":7}',
        b'{"requests":[1,{"do":"wish"},{"do":"now"}]}',
        b'{"requests":' + b"[" * 3000,
        b'{"writes":[{"type":"put","key":"\\ud800","value":""}]}',
        b'{"compares":[{"type":"lease","lease":"ann.00"}],"writes":[]}',
        b'{"compares":[{"type":"unchanged","prefix":"","since":0}],"writes":[]}',
        b'{"requests":[{"do":"scan","prefix":""},{"do":"get","key":"secret"}]}',
        b'{"ttl_s":1e999}',
        b'{"requests":[{"do":"resolve","op_id":"op:0:1:2"}]}',
        dice.randbytes(dice.randrange(2000)),
    ]
    body = dice.choice(bodies_)
    length = dice.choice([len(body), len(body), len(body), 1 << 40, -1, 5])
    auth = dice.choice([f"Bearer {token}", f"Bearer {token}", "Bearer no", "Basic xx", "\xff"])
    head = [
        f"{method} {dice.choice(paths)} HTTP/1.1",
        f"Host: {dice.choice(['127.0.0.1', 'evil.example', '[', ''])}",
        f"Content-Length: {length}",
        "Content-Type: application/json",
        f"Authorization: {auth}",
        *(["Store-Epoch: other"] if dice.random() < 0.1 else []),
        *(["Origin: http://evil.example"] if dice.random() < 0.1 else []),
        *(["Transfer-Encoding: chunked"] if dice.random() < 0.1 else []),
        *(["Expect: 100-continue"] if dice.random() < 0.05 else []),
        *(['If-Match: "1_0"', "Idempotency-Key: \x7f"] if dice.random() < 0.1 else []),
        "Connection: close",
    ]
    request = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
    if dice.random() < 0.1:
        request = request[: dice.randrange(len(request))]
    return request


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _ask(port: int, request: bytes) -> bytes:
    """Return the answer; half of a request is followed by hanging up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if b"Connection: close\r\n\r\n" not in request:
            await writer.drain()
            return b""
        return await asyncio.wait_for(reader.read(), 30)
    except (ConnectionError, OSError):
        return b""
    finally:
        writer.close()


async def test_hostile_requests_meet_typed_refusals_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """20,000 of a stranger and of a client: no fault, no change, no growth; then restart and write.

    Every answer is one of HTTP itself (400 to what is no request) or has a code and `applied`.
    """
    monkeypatch.setattr(serving, "BODY_S", 0.05)
    monkeypatch.setattr(serving, "LINGER_S", 0.05)
    seed = seeds(1)[0]
    print(f"CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    path = tmp_path / "s.db"
    roles = {"small": (["mine/"], ["mine/"]), "op": ([""], [""])}
    clients = {"mallory": "small", "op": "op"}
    statuses: dict[int, int] = {}
    async with serve(tmp_path, roles, clients, await SQLiteStore.open(path)) as served:
        op = await served.client("op")
        await op.commit([], [t.Put("secret", b"x")])
        before = await t.scan_all(op, "")
        port = served.authority.port

        async def one() -> None:
            request = _request(dice, "token-mallory")
            answer = await _ask(port, request)
            assert b"Traceback" not in answer
            if not answer:
                return  # cut short itself, or HTTP hung up on it
            status = int(answer.split()[1])
            statuses[status] = statuses.get(status, 0) + 1
            _, _, body = answer.partition(b"\r\n\r\n")
            if request.startswith(b"HEAD"):
                return  # the same without its words
            if status == 200 or not body.startswith(b"{"):
                assert status in {200, 400, 100}, answer[:300]
                return
            doc = json.loads(body)
            assert status < 500 or doc["code"] == "unavailable", answer[:300]
            assert doc["applied"] is False
            assert doc["code"]

        async def many(count: int) -> None:
            for _ in range(0, count, 50):
                await asyncio.gather(*[one() for _ in range(50)])

        await many(200)  # imports, caches and pools are warm
        gc.collect()
        files = descriptors()
        with heaviest_turn() as most:
            await many(rounds(20_000))
        tracemalloc.start()  # apart: it makes each turn three times as long
        begun, _ = tracemalloc.get_traced_memory()
        await many(rounds(2_000))
        while served.authority._busy or descriptors() > files + 2:  # noqa: ASYNC110 sockets close
            await asyncio.sleep(0.01)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - begun
        tracemalloc.stop()
        assert {401, 400, 404, 403} <= statuses.keys(), statuses
        assert most.calls <= CALLS_PER_TURN_MAX
        assert most.bytes <= BYTES_PER_TURN_MAX
        assert grown < 4 << 20
        assert served.authority._in_flight.held == 0
        after = await t.scan_all(op, "")
        assert after.items == before.items
    assert "Traceback" not in caplog.text
    async with serve(tmp_path, roles, clients, await SQLiteStore.open(path)) as served:
        op = await served.client("op")
        await op.commit([t.ValueIs("secret", b"x")], [t.Put("secret", b"y")])

"""The authority and its client against bad luck and bad will on the wire."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

import transactional as t
from tests.transactional.conftest import HandClock
from transactional.errors import TooManyRequestsError
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores import http
from transactional.stores.call_queue import Call
from transactional.stores.http import HTTPStore
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.processes


@pytest.fixture
async def authority() -> AsyncIterator[Authority]:
    authority = Authority(MemoryStore(), Listen(port=0))
    await authority.start()
    yield authority
    await authority.stop()


async def raw(authority: Authority, request: bytes) -> tuple[int, dict[str, object]]:
    """Send bytes as they are; return the status and the document of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", authority.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_a_watch_that_was_idle_for_long_survives_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Idle beyond the reconnect limit, then the authority restarts: the watch goes on.

    What counts is how long nobody could be reached; silence before that was heartbeats.
    """
    monkeypatch.setattr(http, "RECONNECT_PAUSE_S", 0.001)
    served = MemoryStore()
    authority = Authority(served, Listen(port=0))
    await authority.start()
    clock = HandClock()
    store = await HTTPStore.open(authority.url, clock=clock.clock())
    events = store.watch("k/", after=0)
    await store.commit([], [t.Put("k/1", b"")])
    assert (await anext(events)).revision == 1
    waiting = asyncio.ensure_future(anext(events))
    for _ in range(10):
        await asyncio.sleep(0)  # it waits on its connection
    clock.forward(http.RECONNECT_S * 10)
    await authority._hang_up()  # as stop(), but the store lives on
    await asyncio.sleep(0.02)  # some attempts are refused meanwhile
    assert not waiting.done()
    again = Authority(served, Listen(port=authority.port))
    await again.start()
    second = await served.commit([], [t.Put("k/2", b"")])
    assert (await asyncio.wait_for(waiting, 20)).revision == second.revision

    waiting = asyncio.ensure_future(anext(events))
    await again.stop()
    while not waiting.done():  # gone for good: it gives up after the limit
        clock.forward(http.RECONNECT_S / 4)
        await asyncio.sleep(0.01)
    with pytest.raises(t.UnavailableError):
        await waiting
    await store.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_page_cannot_fence_an_operation_or_touch_a_lease(
    authority: Authority, origin: str
) -> None:
    """A browser names the page's origin: refused. Content types of forms: refused without it, too.

    A page could fence ``order-17`` by posting nothing to it; the order was refused ever after.
    """
    store = await HTTPStore.open(authority.url)
    lease = await store.lease(60)
    paths = ("/v1/operations/order-17", f"/v1/leases/{lease.id}")
    async with aiohttp.ClientSession(authority.url) as web:
        for path in paths:
            async with web.post(path, data=b"", headers={"Origin": origin}) as refused:
                assert refused.status == 401
            form = {"Content-Type": "text/plain"}
            async with web.post(path, data=b"x", headers=form) as refused:
                assert refused.status == 400
        async with web.get("/v1/status", headers={"Origin": origin}) as refused:
            assert refused.status == 401
        own = {"Origin": authority.url}
        async with web.post(paths[1], headers=own) as renewed:
            assert renewed.status == 200
    commit = await store.commit([], [t.Put("order", b"17")], op_id="order-17")
    assert not commit.replayed
    await store.close()


@pytest.mark.parametrize(
    "header",
    [b"Host: a:b:c", b"Host: [::1", b"Host: \xff", b"Host: 127.0.0.1:x"],
)
async def test_a_host_that_is_none_is_not_let_in(authority: Authority, header: bytes) -> None:
    """Nonsense in the Host header is refused and never a fault."""
    request = b"GET /v1/status HTTP/1.1\r\n" + header + b"\r\nConnection: close\r\n\r\n"
    status, doc = await raw(authority, request)
    assert status in {400, 401}
    assert doc["applied"] is False


async def test_bytes_that_are_no_text_are_no_token() -> None:
    r"""``Authorization: Bearer \xff`` is 401, not a fault before the token was looked at."""
    authority = Authority(MemoryStore(), Listen(port=0, token="s3cret"))
    await authority.start()
    request = (
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert (await raw(authority, request))[0] == 401
    await authority.stop()


async def test_a_fault_in_one_request_of_a_batch_is_its_own_answer(authority: Authority) -> None:
    """A number of 400 digits is refused; an error that nobody foresaw is told as unknown.

    The neighbours are applied and told so, however their neighbour fares.
    """
    batch = [
        {"do": "lease", "ttl_s": 10**400},
        {"do": "commit", "op_id": "x", "writes": [{"type": "put", "key": "a", "value": ""}]},
        {"do": "commit", "op_id": "y", "writes": [{"type": "put", "key": "b", "value": ""}]},
        {"do": "get", "key": "c"},
    ]
    real = authority._store.commit

    async def broken(key: str) -> None:
        raise ZeroDivisionError(key)

    async def sometimes(*arguments: object, **options: object) -> t.Commit:
        if options["op_id"] == "x":
            raise ZeroDivisionError
        return await real(*arguments, **options)  # type: ignore[arg-type]

    authority._store.commit = sometimes  # type: ignore[method-assign]
    authority._store.get = broken  # type: ignore[method-assign,assignment]
    async with (
        aiohttp.ClientSession(authority.url) as web,
        web.post("/v1/batch", json={"requests": batch}) as answer,
    ):
        assert answer.status == 200
        replies = (await answer.json())["replies"]
    errors = [reply.get("error", {}) for reply in replies]
    assert [error.get("code") for error in errors] == [
        "invalid_request",
        "outcome_unknown",
        None,
        "unavailable",
    ]
    assert errors[1]["applied"] is None
    assert errors[1]["details"]["op_id"] == "x"
    assert replies[2]["ok"]["revision"] == 1
    async with (
        aiohttp.ClientSession(authority.url) as web,
        web.get("/v1/keys/c") as answer,
    ):
        assert answer.status == 503
        assert (await answer.json())["applied"] is False


async def test_bodies_that_never_come_do_not_hold_a_place(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Posts that announce a body and send none are told 408; the others get their turn."""
    monkeypatch.setattr("transactional.server.server.BODY_S", 2.0)
    monkeypatch.setattr("transactional.server.server.REQUESTS_MAX", 8)
    head = (
        b"POST /v1/commit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10\r\nConnection: close\r\n\r\n"
    )
    store = await HTTPStore.open(authority.url)
    silent = [asyncio.create_task(raw(authority, head)) for _ in range(8)]
    while authority._busy.total() < 8:  # noqa: ASYNC110 they arrive through sockets
        await asyncio.sleep(0.001)
    with pytest.raises(TooManyRequestsError):
        await store.commit([], [t.Put("a", b"")])
    answers = await asyncio.gather(*silent)
    assert {(status, doc["applied"]) for status, doc in answers} == {(408, False)}
    await store.commit([], [t.Put("a", b"")])
    await store.close()


async def test_an_answer_that_makes_no_sense_concerns_its_own_call_only() -> None:
    """An error of another version, without its data: its caller is told, nobody hangs or dies."""
    calls = [Call("{}", 2, op_id=op_id) for op_id in ("x", None, "y")]
    for call, reply in zip(
        calls, [{"error": {"code": "unavailable"}}, {"no": 1}, {"ok": 1}], strict=True
    ):
        http._answer(call, reply)
    with pytest.raises(t.OutcomeUnknownError):
        await calls[0].future
    with pytest.raises(t.UnavailableError):
        await calls[1].future
    assert await calls[2].future == 1


@pytest.mark.parametrize(
    "path", ["/v1/watch?after=-1", "/v1/watch?after=1_0", "/v1/keys?limit=1_0"]
)
async def test_numbers_are_digits(authority: Authority, path: str) -> None:
    """What only Python reads as a number, and a revision below none, is refused."""
    async with (
        aiohttp.ClientSession(authority.url) as web,
        web.get(path) as answer,
    ):
        assert answer.status == 400
    async with (
        aiohttp.ClientSession(authority.url) as web,
        web.put("/v1/keys/a", data=b"", headers={"If-Match": '"1_0"'}) as answer,
    ):
        assert answer.status == 400


async def test_a_client_whose_close_was_cancelled_is_closed() -> None:
    """Every caller of close returns when the connections are gone."""
    authority = Authority(MemoryStore(), Listen(port=0))
    await authority.start()
    store = await HTTPStore.open(authority.url)
    closing = [asyncio.create_task(store.close()) for _ in range(2)]
    await asyncio.sleep(0)
    closing[0].cancel()
    await asyncio.gather(*closing, return_exceptions=True)
    assert store._post.session.closed
    await authority.stop()

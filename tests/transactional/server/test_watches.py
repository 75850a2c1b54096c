"""All the watches of a process on one connection: each for itself, none at the others' expense."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

import transactional as t
from transactional.server import server, watches
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores import http
from transactional.stores.http import HTTPStore
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.processes


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Authority, HTTPStore, MemoryStore]]:
    engine = MemoryStore()
    authority = Authority(engine, Listen(port=0))
    await authority.start()
    client = await HTTPStore.open(authority.url)
    try:
        yield authority, client, engine
    finally:
        await client.close()
        await authority.stop()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 a condition of another task
            await asyncio.sleep(0.005)


async def following(store: t.Store, prefix: str, count: int) -> list[int]:
    """The revisions of the next events."""
    seen: list[int] = []
    async with aclosing(store.watch(prefix, after=0)) as events:
        async for event in events:
            seen.append(event.revision)
            if len(seen) == count:
                break
    return seen


async def test_all_watches_of_a_client_share_one_connection() -> None:
    """Five hundred of them take one place, and the connection goes some time after the last."""
    async with served() as (authority, client, engine):
        waits = [asyncio.create_task(following(client, f"k{n}/", 1)) for n in range(500)]
        await until(lambda: len(engine._feed._waiters) == 500)
        assert authority._watches.total() == 1
        for n in range(500):
            await engine.commit([], [t.Put(f"k{n}/x", b"")])
        assert [seen for (seen,) in await asyncio.gather(*waits)] == list(range(1, 501))
        await until(lambda: not engine._feed._waiters)  # their ends were told
        assert watches.Watches.taken == 0


async def test_the_connection_goes_when_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that watched once takes no place for ever; when it watches again it has one."""
    monkeypatch.setattr(http, "IDLE_S", 0.05)
    async with served() as (authority, client, engine):
        for n in range(3):
            waiting = asyncio.create_task(following(client, "a", 1 + n))
            await until(lambda: authority._watches.total() == 1)
            await engine.commit([], [t.Put("a", b"")])
            await waiting
            await until(lambda: authority._watches.total() == 0)


async def test_all_watches_of_a_client_go_on_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty watches, three broken connections: each sees each of its commits once, in order."""
    monkeypatch.setattr(http, "RECONNECT_PAUSE_S", 0.001)
    async with served() as (authority, client, engine):
        waits = [asyncio.create_task(following(client, f"k{n}/", 8)) for n in range(50)]
        expected: list[list[int]] = [[] for _ in waits]
        for turn in range(8):
            for n in range(50):
                made = await engine.commit([], [t.Put(f"k{n}/x", b"")])
                expected[n].append(made.revision)
            await asyncio.sleep(0.002 * turn)
            if turn in {1, 3, 6}:
                for connection in list(authority._door.connections.values()):
                    connection.cut()
        assert await asyncio.gather(*waits) == expected


async def test_a_slow_watcher_holds_up_no_other_and_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is taken off the line when so much waits for it, and comes back where it was."""
    monkeypatch.setattr(http, "BEHIND_EVENTS_MAX", 5)
    async with served() as (_, client, engine):
        slow = client.watch("", after=0)
        quick = asyncio.create_task(following(client, "", 100))
        revisions = [(await engine.commit([], [t.Put("a", b"")])).revision for _ in range(100)]
        assert (await anext(slow)).revision == 1
        assert await quick == revisions
        (behind,) = client._line._watches
        assert (behind.number, len(behind._items)) == (None, 4)
        assert [(await anext(slow)).revision for _ in range(99)] == revisions[1:]
        await slow.aclose()


async def test_a_watch_for_which_there_is_no_room_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not after the time for which a lost authority is waited for; the others go on."""
    monkeypatch.setattr(watches, "EACH_MAX", 3)
    async with served() as (authority, client, engine):
        waits = [asyncio.create_task(following(client, "a", 1)) for _ in range(3)]
        await until(lambda: watches.Watches.taken == 3)
        async with asyncio.timeout(5):
            with pytest.raises(t.TooManyRequestsError):
                await following(client, "a", 1)
        await engine.commit([], [t.Put("a", b"")])
        assert await asyncio.gather(*waits) == [[1]] * 3
        monkeypatch.setattr(server, "REQUESTS_MAX", authority._watches.total())
        other = await HTTPStore.open(authority.url)
        async with asyncio.timeout(5):
            with pytest.raises(t.TooManyRequestsError):
                await following(other, "a", 1)
        await other.close()


async def test_a_watch_that_is_refused_says_why_at_once() -> None:
    """A cursor of the future, another life of the store: the authority's own words."""
    async with served() as (_, client, engine):
        async with asyncio.timeout(5):
            with pytest.raises(t.InvalidRequestError):
                async for _ in client.watch("a", after=99):
                    pass
            client._post.epoch = "another"
            await client._line.close()
            client._line = http._WatchLine(client._post, client._clock)
            with pytest.raises(t.EpochMismatchError):
                await following(client, "a", 1)
        await engine.commit([], [])


async def test_watches_end_with_their_store() -> None:
    """Whoever waits is told that it is over, also while no authority is there."""
    async with served() as (authority, client, engine):
        first = asyncio.create_task(following(client, "a", 1))
        await until(lambda: len(engine._feed._waiters) == 1)
        await authority._hang_up()
        second = asyncio.create_task(following(client, "a", 1))
        await asyncio.sleep(0)
        await client.close()
        assert await asyncio.gather(first, second) == [[], []]


@pytest.mark.parametrize(
    "command",
    ["[", "7", "[" * 100_000, '{"add": 7}', '{"add": [[1, 2]]}', '{"add": [["a", "b", null]]}',
     '{"add": [[1, "a", null], [1, "a", null]]}', '{"end": ["a"]}'],
    ids=["half", "number", "deep", "no-list", "short", "name", "twice", "end"],
)  # fmt: skip
async def test_what_is_no_command_ends_the_connection_and_nothing_else(command: str) -> None:
    """The authority says what is wrong, and goes on with everybody else."""
    async with served() as (authority, client, engine):
        waiting = asyncio.create_task(following(client, "a", 1))
        await until(lambda: len(engine._feed._waiters) == 1)
        async with (
            aiohttp.ClientSession(authority.url) as web,
            web.ws_connect("/v1/watches") as socket,
        ):
            await socket.send_str(command)
            async with asyncio.timeout(5):
                while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            assert socket.close_code == aiohttp.WSCloseCode.UNSUPPORTED_DATA
        await engine.commit([], [t.Put("a", b"")])
        assert await waiting == [[1]][0]
        assert watches.Watches.taken <= 1


async def test_the_conversation_is_as_it_is_written_down() -> None:
    """Begun behind a revision or at the present, told, ended: what another language would see."""
    async with (
        served() as (authority, _, engine),
        aiohttp.ClientSession(authority.url) as web,
        web.ws_connect("/v1/watches") as socket,
    ):
        await engine.commit([], [t.Put("b/1", b"")])
        await socket.send_str(json.dumps({"add": [[1, "a/", 0], [2, "b/", None]]}))
        begun = [await socket.receive_json(timeout=5) for _ in range(2)]
        assert sorted(begun, key=lambda doc: doc["watch"]) == [
            {"watch": 1, "at": 0},
            {"watch": 2, "at": 1},
        ]
        await engine.commit([], [t.Put("a/1", b"x")])
        told = await socket.receive_json(timeout=5)
        assert (told["watch"], told["event"]["revision"]) == (1, 2)
        assert told["event"]["changes"][0]["key"] == "a/1"
        await socket.send_str(json.dumps({"end": [1], "add": [[3, "x" * 2000, None]]}))
        refused = await socket.receive_json(timeout=5)
        assert (refused["watch"], refused["error"]["code"]) == (3, "invalid_request")
        await engine.commit([], [t.Put("a/1", b"y"), t.Put("b/1", b"y")])
        assert (await socket.receive_json(timeout=5))["watch"] == 2

"""100 000 hostile frames and 20 000 hostile requests, at the door of an agent and of an authority.

As a stranger, as a leaf and as a client, who know what they know and follow no protocol. Answers
are typed refusals, or what the sender may have; no answer and no log line holds a key, or a trace;
what is remembered is bounded, descriptors come back, and afterwards a restart and a write succeed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

import transactional as t
from replication import Agent, Config
from replication.protocol.keyring import Keyring
from replication.protocol.wire import Wire
from replication.transport.http import MEDIA_TYPE
from tests.replication.stranger import challenge_of
from tests.replication.transport.test_hostile_leaf import KEY, RULES, SECRET, Leaf, descriptors
from tests.scale import rounds, seeds
from tests.transactional.server.test_clients import serve
from tests.transactional.server.test_limits import _request
from transactional.server import server as serving
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TOKEN = "token-mallory"
SECRETS = (SECRET.encode(), KEY.encode(), b"Traceback", b"token-op")
LANES = 8
METHODS = ("GET", "POST", "PUT", "HEAD", "BREW", "OPTIONS")
AGENT_STATUSES = {200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 417, 421, 426, 503}
STORE_STATUSES = {200, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415, 417, 422, 503}
GROWTH_BYTES_MAX = 96 << 20
"""Of the process, over all of it: a leaf's share of what is remembered, and what Python keeps."""


class Mallory:
    """One of the three: what it sends is made of what it knows."""

    def __init__(self, who: str, dice: random.Random, hub: str) -> None:
        self.who, self.dice = who, dice
        self.leaf = Leaf(dice, hub)
        self.recorded = [b"recorded"]
        guessed = {"stranger": b"guessed!", "client": TOKEN.encode()}.get(who, b"guessed!")
        self.forger = Wire(
            cluster="convoca", namespace="default", keys=Keyring((guessed,)), boot=b"mallory!",
            config=Config(), rules=RULES.digest,
        )  # fmt: skip

    def frame(self) -> bytes:
        """Sealed by its key if it has one; else by a guess, or what it heard, whole or damaged."""
        dice = self.dice
        kind = dice.randrange(10)
        if self.who == "leaf" and kind < 8:
            made = self.leaf.frame()
            self.recorded = [*self.recorded[-50:], made]
            return made
        if kind < 3:
            return self.forger.seal(f"hub~{kind}", self.leaf.message(), challenge=dice.randbytes(8))
        if kind < 6:
            return dice.randbytes(dice.choice([0, 1, 16, 200, 3000]))
        frame = bytearray(dice.choice(self.recorded))
        if kind < 9:
            frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
        return bytes(frame)

    def post(self, host: str, path: str) -> bytes:
        """A frame as it travels, once in a while as no agent sends it."""
        frame, dice = self.frame(), self.dice
        more = [f"Authorization: Bearer {TOKEN}"] if self.who == "client" else []
        more += ["Content-Encoding: gzip"] if dice.random() < 0.02 else []
        more += ["Origin: http://evil.example"] if dice.random() < 0.02 else []
        more += [f"X-Convoca-Proof: {dice.randbytes(16).hex()}"] if dice.random() < 0.02 else []
        kind = MEDIA_TYPE if dice.random() < 0.98 else "text/plain"
        if dice.random() < 0.03:
            body = f"{len(frame):x}\r\n".encode() + frame + b"\r\n0\r\n\r\n"
            sized = "Transfer-Encoding: chunked"
        else:
            body, sized = frame, f"Content-Length: {len(frame)}"
        head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", sized, *more]
        return "\r\n".join([*head, "Connection: close"]).encode() + b"\r\n\r\n" + body

    def request(self, host: str) -> bytes:
        """Not a frame, at an agent's door: pages, orders, lines, and what is no request at all."""
        dice = self.dice
        paths = ["/_replica", "/orders", "/challenge?nonce=x", "/challenge?nonce=" + "x" * 999]
        paths += ["/status", "/metrics", "/documents?prefix=", "/changes", "/", "/%00", "*", "//x"]
        paths += ["/" + "x" * dice.randrange(9000), "/documents?" + "a=1&" * 500]
        auth = dice.choice([f"Bearer {TOKEN}", "Bearer " + KEY, "Convoca a:b:c:d:e", "\xff", ""])
        bodies = [b"", b"{", b"[" * 5000, b'{"verb":"set","name":"x","value":NaN}', b'{"verb":7}']
        bodies += [b'{"verb":"set","verb":"get"}', b'{"verb":"' + b"9" * 9000 + b'"}', b"\xff\xfe"]
        bodies += [b'{"verb":"set","name":"\\ud800"}', b"9" * 5000, dice.randbytes(500)]
        body = dice.choice(bodies)
        head = [
            f"{dice.choice(METHODS)} {dice.choice(paths)} HTTP/1.1",
            f"Host: {dice.choice([host, 'evil.example', '[', ''])}",
            f"Content-Length: {dice.choice([len(body)] * 6 + [1 << 40, -1, 'x'])}",
            f"Content-Type: {dice.choice(['application/json', MEDIA_TYPE, 'x'])}",
            f"Authorization: {auth}",
            *(["Origin: http://evil.example"] if dice.random() < 0.2 else []),
            *([f"X-{n}: {n}" for n in range(300)] if dice.random() < 0.03 else []),
            *(["X: " + "y" * 20_000] if dice.random() < 0.03 else []),
            *(["Upgrade: websocket", "Sec-WebSocket-Key: x"] if dice.random() < 0.1 else []),
            *(["Transfer-Encoding: chunked"] if dice.random() < 0.05 else []),
            *(["X\x00: \x1b[2J"] if dice.random() < 0.03 else []),
            "Connection: close",
        ]
        made = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
        return made[: dice.randrange(len(made))] if dice.random() < 0.05 else made


async def asked(address: str, request: bytes) -> bytes:
    """All that comes back; half of a request is followed by hanging up."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        if b"\r\n\r\n" not in request:
            return b""
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


class Stopwatch:
    """CPU time of the longest piece of work that held the loop; printed, never asserted."""

    def __enter__(self) -> Self:
        self.worst_s, self._run = 0.0, asyncio.Handle._run
        run = self._run

        def measured(handle: asyncio.Handle) -> None:
            before = time.thread_time()
            run(handle)
            self.worst_s = max(self.worst_s, time.thread_time() - before)

        asyncio.Handle._run = measured  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.Handle._run = self._run  # type: ignore[method-assign]


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def in_lanes(count: int, one: Callable[[int], Awaitable[None]]) -> None:
    async def lane(number: int) -> None:
        for turn in range(number, count, LANES):
            await one(turn)

    await asyncio.gather(*map(lane, range(LANES)))


@pytest.mark.processes
async def test_hostile_frames_and_requests_at_both_doors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """(100 000 and 20 000 in soak.) Counterexamples are in the rooms; here all come at once."""
    monkeypatch.setattr(serving, "BODY_S", 0.05)
    monkeypatch.setattr(serving, "LINGER_S", 0.05)
    seed = seeds(1)[0]
    print(f"replay: CONVOCA_SEED={seed} pytest {__file__}")
    dice, seen = random.Random(seed), Counter[str]()
    options = {
        "secret": SECRET, "principals": {"leaf": KEY}, "rules": RULES,
        "journal": tmp_path / "hub.db", "config": Config(read_timeout_s=0.2),
    }  # fmt: skip
    roles = {"small": (["mine/"], ["mine/"]), "op": ([""], [""])}
    clients, store = {"mallory": "small", "op": "op"}, tmp_path / "store.db"

    def judge(where: str, answer: bytes, statuses: set[int]) -> None:
        assert not any(secret in answer for secret in SECRETS), answer[:300]
        said = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        status = int(said.split()[1]) if said else 0
        seen[f"{where} {status}"] += 1
        assert status in statuses | {0}, answer[:300]

    hub = Agent("hub", **options)
    async with hub, serve(tmp_path, roles, clients, await SQLiteStore.open(store)) as served:
        hub.register("admin/x").set("mine")
        await hub.durable(timeout_s=20)
        op = await served.client("op")
        await op.commit([], [t.Put("secret", b"x")])
        before_store = (await t.scan_all(op, "")).items
        there, url = hub.address, f"127.0.0.1:{served.authority.port}"
        three = [Mallory(who, dice, hub.id) for who in ("stranger", "leaf", "client")]
        leaf = three[1].leaf
        leaf.challenge = await challenge_of(there, leaf.wire, "leaf~0")

        async def one_frame(turn: int) -> None:
            mallory, at_agent = three[turn % 3], turn % 4 > 0
            path = (
                "/_replica" if at_agent else dice.choice(["/_replica", "/v1/commit", "/v1/batch"])
            )
            answer = await asked(there if at_agent else url, mallory.post(there, path))
            statuses = AGENT_STATUSES if at_agent else STORE_STATUSES
            judge(f"{mallory.who}'s frame", answer, statuses)

        async def one_request(turn: int) -> None:
            mallory, at_agent = three[turn % 3], turn % 4 < 2
            token = {"client": TOKEN, "leaf": KEY}.get(mallory.who, "token-guessed")
            request = mallory.request(there) if at_agent else _request(dice, token)
            answer = await asked(there if at_agent else url, request)
            statuses = AGENT_STATUSES if at_agent else STORE_STATUSES
            judge(f"{mallory.who}'s request", answer, statuses)

        await in_lanes(500, one_frame)  # what is made at first use is there
        await in_lanes(200, one_request)
        gc.collect()
        files, held, started = descriptors(), resident_bytes(), time.monotonic()
        with Stopwatch() as watch:
            await in_lanes(rounds(100_000) - 500, one_frame)
            await in_lanes(rounds(20_000) - 200, one_request)
        while descriptors() > files + 2:  # noqa: ASYNC110 - sockets close
            await asyncio.sleep(0.01)
        gc.collect()
        grown = resident_bytes() - held
        print(
            f"{seen.total()} in {time.monotonic() - started:.0f} s: {dict(sorted(seen.items()))}\n"
            f"longest piece of work on the loop {1e3 * watch.worst_s:.0f} ms of CPU; "
            f"{grown / (1 << 20):+.1f} MiB, descriptors {files} -> {descriptors()}"
        )
        assert grown < GROWTH_BYTES_MAX
        replica = hub._runtime.replica
        assert not replica.counts["fault"]
        assert not replica.counts["step:raised"]
        assert not replica.counts["re-incarnated"]
        assert hub.register("admin/x").value == "mine"
        assert {origin.partition("~")[0] for origin in hub.kernel.vector} <= {"hub", "leaf"}
        assert {member.name for member in hub.members()} <= {"leaf"}
        assert seen["leaf's frame 200"] > 50
        assert (await t.scan_all(op, "")).items == before_store
        hub.counter("n").increment(1)
        await hub.durable(timeout_s=20)
        hub_id = hub.id
    assert not any(secret.decode() in caplog.text for secret in SECRETS)
    assert not any("\x1b" in record.getMessage() for record in caplog.records)
    async with Agent("hub", **options) as again:
        assert again.id == hub_id
        again.counter("n").increment(1)
        await again.durable(timeout_s=20)
        assert again.counter("n").value == 2
    async with serve(tmp_path, roles, clients, await SQLiteStore.open(store)) as served:
        op = await served.client("op")
        await op.commit([t.ValueIs("secret", b"x")], [t.Put("secret", b"y")])

"""100 000 hostile frames against a live agent: typed refusals, nothing changed, no long work."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections import Counter
from typing import Any, Self

import msgpack
import pytest

from replication import Agent, Config
from replication.journal.memory import MemoryJournal
from replication.protocol.digest import full
from replication.protocol.keyring import Keyring
from replication.protocol.messages import Push, Sync
from replication.protocol.wire import VERSION, Wire
from replication.transport.http import MEDIA_TYPE, UNAUTHENTICATED
from tests.replication.stranger import challenge_of
from tests.scale import rounds, seeds

SECRET = "a shared secret"
LANES = 4
REFUSED = 10
"""The kind of a refusal."""
TYPED = {400, 401, 403, 409, 413, 415, 421, 426, 503}
PEER = Config(gossip_interval_s=0.2, gossip_interval_max_s=0.5)


def stranger(secret: str, boot: bytes = b"stranger") -> Wire:
    keys = Keyring((secret.encode(),))
    return Wire(cluster="convoca", namespace="default", keys=keys, boot=boot, config=Config())


def bombs() -> list[tuple[int, int, bytes]]:
    """(version, flags, body): nesting, forged lengths, too many items, zlib that grows."""
    zeros = zlib.compress(b"\0" * 8_000_000, 9)
    return [
        (VERSION, 0, b"\x91" * 10_000),
        (VERSION, 0, b"\xdd\xff\xff\xff\xff" + b"\x01" * 100),
        (VERSION, 0, b"\xc6\xff\xff\xff\xff" + b"\x01" * 100),
        (VERSION, 0, msgpack.packb([b"", [[0] * 1000] * 60])),
        (VERSION, 1, (8_000_000).to_bytes(4, "big") + zeros),
        (VERSION, 1, (1000).to_bytes(4, "big") + zeros),
        (VERSION, 1, (3).to_bytes(4, "big") + b"not zlib"),
        (VERSION, 0, msgpack.packb([{"a~1": -1}, [], b""])),
        (VERSION, 0, msgpack.packb([b"no delta", [1]])),
        (VERSION, 0, b""),
        (99, 0, msgpack.packb([b"", []])),
    ]


class Attacker:
    """Makes frames: mutated and repeated real ones, forged ones, and bombs that authenticate."""

    def __init__(
        self, dice: random.Random, real: list[bytes], names: list[str], challenge: bytes
    ) -> None:
        self.dice, self.real, self.names, self.challenge = dice, real, names, challenge
        self.forger, self.insider = stranger("another secret"), stranger(SECRET, b"insider!")
        self.number = 0
        self.bombs = bombs()

    def frame(self) -> tuple[str, bytes]:
        kind = self.dice.choices(["mutated", "replayed", "forged", "bomb"], [6, 1, 1.5, 1.5])[0]
        return kind, getattr(self, f"_{kind}")()

    def _mutated(self) -> bytes:
        frame = bytearray(self.dice.choice(self.real))
        match self.dice.randrange(4):
            case 0:
                frame[self.dice.randrange(len(frame))] ^= 1 << self.dice.randrange(8)
            case 1:
                del frame[self.dice.randrange(len(frame)) :]
            case 2:
                frame += self.dice.randbytes(self.dice.randint(1, 40))
            case _:
                other = self.dice.choice(self.real)
                cut = self.dice.randrange(1, min(len(frame), len(other)))
                frame[cut:] = other[cut:-1]
        return bytes(frame)

    def _replayed(self) -> bytes:
        return self.dice.choice(self.real)

    def _forged(self) -> bytes:
        message = self.dice.choice([Sync(full({self.dice.choice(self.names): 10**9})), Push(b"x")])
        return self.forger.seal(self.dice.choice(self.names), message)

    def _bomb(self) -> bytes:
        self.number += 1
        version, flags, body = self.dice.choice(self.bombs)
        source = ["insider~1", b"insider!", self.number, 0, self.challenge, b"8 bytes!"]
        kind = self.dice.choice([1, 2, 3, 4, 7, 9, 200])
        frame = msgpack.packb([version, "convoca", kind, flags, source, "default", body])
        return frame + self.insider._keys.trailer(frame)


async def attack(address: str, frames: list[tuple[str, bytes]], seen: Counter) -> None:
    """Send frames one after the other over kept connections; count what comes back."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    opener = stranger(SECRET, b"listens!")
    for kind, frame in frames:
        head = f"POST /_replica HTTP/1.1\r\nHost: {address}\r\nContent-Type: {MEDIA_TYPE}\r\n"
        writer.write(f"{head}Content-Length: {len(frame)}\r\n\r\n".encode() + frame)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(answer.split(" ", 2)[1])
        size = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
        body = await reader.readexactly(size)
        if status == 401 and body == UNAUTHENTICATED.encode():
            pass  # who proves nothing is told nothing
        elif body and status != 413:
            assert opener.look(body).rest[2] == REFUSED
        seen[kind, status] += 1
        if "connection: close" in answer:
            writer.close()
            reader, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    await writer.wait_closed()


class Stopwatch:
    """CPU time of this thread: of every piece of work that holds the loop, and of every frame.

    CPU and not wall time, so that the figures are those of the code on a busy machine, too.
    """

    def __init__(self, agent: Agent) -> None:
        self.worst_piece_s = self.worst_frame_s = 0.0
        self.replica = agent._runtime.replica

    def __enter__(self) -> Self:
        run, receive = asyncio.Handle._run, self.replica.receive
        self.run = run

        def measured_run(handle: asyncio.Handle) -> None:
            before = time.thread_time()
            run(handle)
            self.worst_piece_s = max(self.worst_piece_s, time.thread_time() - before)

        def measured_receive(*arguments: Any) -> Any:
            before = time.thread_time()
            try:
                return receive(*arguments)
            finally:
                self.worst_frame_s = max(self.worst_frame_s, time.thread_time() - before)

        asyncio.Handle._run, self.replica.receive = measured_run, measured_receive
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.Handle._run = self.run
        del self.replica.receive


@pytest.mark.processes
async def test_hostile_frames_are_refused_by_type_and_change_nothing():
    """[replication 16, 17, 25] (100 000 in soak) mutations, replays, forgeries, bombs, live.

    Only typed refusals; state, identity and members stay. The longest piece of work that held the
    loop is printed, and so is the dearest frame, in CPU time.
    """
    seed = seeds(1)[0]
    print(f"replay: CONVOCA_SEED={seed} pytest {__file__}")
    dice, seen = random.Random(seed), Counter()
    async with Agent("ada", journal=MemoryJournal(), secret=SECRET, config=PEER) as ada:
        real: list[bytes] = []
        async with Agent("bob", secret=SECRET, peers=[ada.address], config=PEER) as bob:
            exchange = bob._transport.exchange

            async def recorded(address: str, frame: bytes) -> bytes:
                real.append(frame)
                return await exchange(address, frame)

            bob._transport.exchange = recorded
            number = 0
            while len(real) < 40:
                bob.orset("tags").add(number)
                number += 1
                await bob.replicated(bob.version(), 1, 20)
        ada.register("mine").set("untouched")
        before = ada.digest(), ada.id, [(m.id, m.status) for m in ada.members()]
        challenge = await challenge_of(ada.address, stranger(SECRET), "insider~1")
        attacker = Attacker(dice, real, [ada.id, bob.id], challenge)
        frames = [attacker.frame() for _ in range(rounds(100_000))]
        lanes = [frames[lane::LANES] for lane in range(LANES)]  # in order, or all are replays
        started = time.perf_counter()
        with Stopwatch(ada) as watch:
            await asyncio.gather(*(attack(ada.address, lane, seen) for lane in lanes))
        took_s = time.perf_counter() - started
        after = ada.digest(), ada.id, [(m.id, m.status) for m in ada.members()]
        assert after == before
        refused = {k: n for k, n in ada.counts().items() if k.startswith("refused:")}
        assert not ada.counts().get("step:raised")
    print(f"{seen.total()} frames in {took_s:.1f} s: {refused}")
    piece_ms, frame_ms = 1e3 * watch.worst_piece_s, 1e3 * watch.worst_frame_s
    print(
        f"CPU: longest piece of work on the loop {piece_ms:.1f} ms, dearest frame {frame_ms:.1f} ms"
    )
    assert {status for _, status in seen} <= TYPED
    assert {kind for kind, _ in seen} == {"mutated", "replayed", "forged", "bomb"}

"""100 000 frames of a leaf that follows no protocol: typed answers, bounded tables, a restart."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from crdt import Delta, Run
from replication import AccessPolicy, Agent, Config
from replication.protocol.keyring import Keyring
from replication.protocol.link import ANONYMOUS
from replication.protocol.messages import (
    BlocksWanted,
    ChunkWanted,
    Digest,
    HashesWanted,
    Leave,
    MemberClaim,
    Message,
    Probe,
    Push,
    Refused,
    Status,
    Sync,
    Tier,
)
from replication.protocol.wire import Wire
from tests.scale import rounds, seeds

SECRET, KEY = "a shared secret", "a key of the leaf"
RULES = AccessPolicy(relays={"hub"}, writers={"admin/": {"hub"}})
LANES = 8


class Leaf:
    """Says anything that its key can seal, under any id of its name, in ever new boots."""

    def __init__(self, dice: random.Random, hub: str) -> None:
        self.dice, self.hub, self.seqs = dice, hub, Counter[str]()
        self.keys, self.boots = Keyring(own=(KEY.encode(),)), 0
        self.challenge = b""
        self.wire = self.booted()

    def booted(self) -> Wire:
        self.boots += self.dice.random() < 0.9
        return Wire(
            cluster="convoca", namespace="default", keys=self.keys, rules=RULES.digest,
            boot=self.boots.to_bytes(4, "big") + self.dice.randbytes(4), config=Config(),
        )  # fmt: skip

    def frame(self) -> bytes:
        if self.dice.random() < 0.01:
            self.wire = self.booted()
        name = self.dice.choice(["leaf", "leaf", "leaf", "boss", "hub"])
        challenge = self.challenge if self.dice.random() < 0.98 else self.dice.randbytes(8)
        sender = f"{name}~{self.dice.randrange(40)}"
        return self.wire.seal(sender, self.message(), challenge=challenge)

    def message(self) -> Message:
        dice, origin = self.dice, f"leaf~{self.dice.randrange(40)}"
        vector = {f"x{dice.randrange(10**6)}~1": dice.randrange(1, 2**40) for _ in range(9)}
        claims = (MemberClaim(f"boss~{dice.randrange(99)}", "127.0.0.1:9", 7, Status.RETIRED),)
        digest = Digest(dice.randbytes(16), dice.choice(list(Tier)), vector)
        made: list[Message] = [
            Sync(digest, claims, self.delta(origin)),
            Probe(dice.choice(["", "boss~1", self.hub]), claims),
            Leave(claims),
            dice.choice([ChunkWanted(), HashesWanted(b"x" * 16, ("", -1))]),
            BlocksWanted(b"y" * 16, (("hub~1", 2**30),)),
            Refused(409, f"code {dice.randrange(10**9)}", "text"),
        ]
        push = Push(self.delta(origin), (dice.randrange(2**32),))
        return dice.choice([*made, push, push, push])

    def delta(self, origin: str) -> bytes:
        dice, seq = self.dice, self.seqs[origin] + 1
        path = dice.choice([("note", "ORSet"), ("admin/x", "ORSet"), None])
        kills = tuple(
            (dice.choice([self.hub, origin, "ghost~1"]), first, first + dice.choice([0, 9, 2**19]))
            for first in sorted(dice.sample(range(1, 2**20), dice.randrange(4)))
        )
        last = seq + dice.choice([0, 0, 0, 5])
        self.seqs[origin] = last if dice.random() < 0.7 else seq
        row = (
            (seq, path, dice.randrange(50), 0, None, kills)
            if path
            else (seq, None, "", 0, None, kills)
        )
        try:
            data = bytearray(
                Delta((Run(origin, seq, last, (row,) if kills or path else ()),)).encode()
            )
        except Exception:  # not even we can say that
            return b"x"
        if dice.random() < 0.2:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        return bytes(data)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.processes
async def test_whatever_a_leaf_says_is_answered_by_type_and_a_restart_finds_everything(tmp_path):
    """(100 000 in soak.) What is accepted is its own; what is not changes nothing; no fault."""
    seed = seeds(1)[0]
    print(f"replay: CONVOCA_SEED={seed} pytest {__file__}")
    options = {"secret": SECRET, "principals": {"leaf": KEY}, "rules": RULES}
    hub = Agent("hub", journal=tmp_path / "hub.db", **options)
    async with hub:
        hub.register("admin/x").set("mine")
        hub.orset("note").add("mine")
        await hub.durable(timeout_s=10)
        leaf, seen, before = Leaf(random.Random(seed), hub.id), Counter[str](), descriptors()

        async def lane(count: int) -> None:
            for _ in range(count):
                frame, wire = leaf.frame(), leaf.wire
                status, answer = await hub._runtime.serve(frame, ANONYMOUS)
                opened = wire.open(answer) if answer else None
                leaf.challenge = opened.asker.challenge if opened else leaf.challenge
                told = opened.message if opened else None
                code = told.code if isinstance(told, Refused) else type(told).__name__
                seen[f"{status} {code}"] += 1

        await asyncio.gather(*(lane(rounds(100_000) // LANES) for _ in range(LANES)))
        replica = hub._runtime.replica
        print(dict(seen))
        assert not replica.counts["fault"]
        assert not any(code.startswith("500") for code in seen)
        assert seen["200 Ack"] > 100
        assert hub.register("admin/x").value == "mine"
        assert len(replica.peers.peers) <= 16
        assert len(replica._wire._windows) <= 64
        assert len(replica.members) <= 64
        assert hub.kernel.stats()["doomed"] <= 1 << 18
        assert descriptors() <= before + 4
        assert {o.partition("~")[0] for o in hub.kernel.vector} <= {"hub", "leaf"}
        hub.counter("n").increment(1)
        await hub.durable(timeout_s=10)
        state, hub_id = hub.kernel.digest(), hub.id
    async with Agent("hub", journal=tmp_path / "hub.db", **options) as again:
        assert (again.kernel.digest(), again.id) == (state, hub_id)
        again.counter("n").increment(1)
        await again.durable(timeout_s=10)
        assert again.counter("n").value == 2

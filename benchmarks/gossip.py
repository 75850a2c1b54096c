"""Gossip in figures that do not depend on the machine: rounds, bytes, and what others would send.

Everything is counted in the simulation, on the machine that agents run. Run
`python benchmarks/gossip.py` for these alone; `benchmarks/replication.py` reports them, too.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import statistics
import sys
import zlib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgpack

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from crdt import Kernel, LWWRegister  # noqa: E402
from replication import Config, Faults, Simulation  # noqa: E402
from replication.protocol.wire import Wire  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (10, 50, 100, 300, 1000)
GOALS = {10: (2.5, 3), 50: (4.0, 5), 100: (4.6, 5), 1000: (6.0, 7)}
GOAL_LOSSY = (5.6, 7)


def rounds_to_all(
    size: int, samples: int, fanout: int, loss: float, met_s: float = 2.5
) -> list[int]:
    """Rounds of push-pull until everybody has a write; pushes, jitter and probes are off.

    Several agents write at once, and each write is one sample. `loss` is of frames: half of them
    lost is three of four exchanges without an answer. A round is one interval, in which a silent
    partner is replaced once. Before it begins, everybody gossiped for `met_s`, and if that is more
    than the usual two rounds, wrote once: then all have met.
    """
    config = Config(
        gossip_jitter=0.0,
        gossip_interval_max_s=1.0,
        fanout=fanout,
        fanout_above_300=fanout,
        eager_peers_max=0,
        probe_interval_s=1e6,
        digest_full_every=10**9,
    )
    names = [f"n{number}" for number in range(size)]
    sim = Simulation(names, size, Faults(delay_s=(0.001, 0.01), disk_s=(0.0, 0.001)), config)
    replicas = [sim.replica(name) for name in names]
    claims = [replica.members.me.claim() for replica in replicas]
    for replica in replicas:
        replica.members.learn(claims, 0.0)
        for row in replica.members.everyone():
            row.sent, row.proved = 10**6, True
    for name in names if met_s > 2.5 else ():
        sim[name].document(f"x/{name}", LWWRegister).set(0)
    sim.run(met_s)
    sim.faults = replace(sim.faults, loss=loss)
    counted: list[int] = []
    dice = random.Random(size)
    while len(counted) < samples:
        wanted: dict[str, int] = {}
        for name in dice.sample(names, min(20, size, samples - len(counted))):
            sim[name].document(f"x/{name}", LWWRegister).set(len(counted))
            wanted[sim.replica(name).id] = sim[name].vector[sim.replica(name).id]
        taken = 0
        while wanted:
            sim.run(1.0)
            taken += 1
            vectors = [replica.kernel.vector for replica in replicas]
            for origin, seq in list(wanted.items()):
                if all(vector.get(origin, 0) >= seq for vector in vectors):
                    del wanted[origin]
                    counted.append(taken)
    return counted


def one_attempt(size: int, samples: int, fanout: int, loss: float) -> list[int]:
    """Rounds of a push-pull that cannot be better, as long as each partner is tried once.

    Each frame carries everything, in both directions; frames take 1 to 10 ms and are lost with
    probability `loss`; within a round, what came is passed on by the frames sent after it.
    """
    dice = random.Random(size)
    counted = []
    for _ in range(samples):
        informed, taken = {0}, 0
        while len(informed) < size:
            taken += 1
            frames = []
            for one in range(size):
                others = dice.sample([n for n in range(size) if n != one], fanout)
                knows = one in informed
                frames += [(dice.uniform(0.001, 0.01), one, o, True, knows) for o in others]
            heapq.heapify(frames)
            while frames:
                at_s, one, other, is_request, knows = heapq.heappop(frames)
                if dice.random() < loss:
                    continue
                if knows:
                    informed.add(other)
                if is_request:
                    answer_s = at_s + dice.uniform(0.001, 0.01)
                    heapq.heappush(frames, (answer_s, other, one, False, other in informed))
        counted.append(taken)
    return counted


def summary(counted: list[int]) -> tuple[float, int]:
    """Mean and 99th percentile."""
    ordered = sorted(counted)
    return statistics.mean(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


# ------------------------------------------------------------------------------ bytes by kind


def parts_of(message: Any) -> Iterator[tuple[str, int]]:
    """Which part of a message is what, in bytes before compression."""
    for name, value in ((n, getattr(message, n)) for n in message.__slots__):
        if name in {"delta", "data"}:
            yield "entries", len(value)
        elif name == "digest":
            yield "digest", len(msgpack.packb([value.hash, int(value.tier), dict(value.vector)]))
        elif name == "vector":
            yield "acknowledged", len(msgpack.packb(dict(value)))
        elif name == "members":
            rows = [[c.replica, c.address, c.incarnation, int(c.status)] for c in value]
            yield "members", len(msgpack.packb(rows))
        elif name == "told":
            yield "told", len(msgpack.packb(list(value)))


class Meter:
    """Splits the bytes of all frames that are sealed while it is in place."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.frames = 0

    def __enter__(self) -> Self:
        seal = self._seal = Wire.seal

        def metered(wire: Wire, replica: str, message: Any, **options: Any) -> bytes:
            frame = seal(wire, replica, message, **options)
            inside = dict(parts_of(message))
            probing = type(message).__name__ in {"Probe", "Probed"}
            for part, size in inside.items():
                self.parts[f"probes: {part}" if probing else part] += size
            rest = "probes: envelope" if probing else "envelope and MAC"
            self.parts[rest] += len(frame) - sum(inside.values())
            self.frames += 1
            return frame

        Wire.seal = metered
        return self

    def __exit__(self, *_: object) -> None:
        Wire.seal = self._seal


def idle() -> tuple[float, dict[str, float]]:
    """Bytes that an agent sends per second when nothing happens, N=50; by part."""
    sim = Simulation([f"n{number}" for number in range(50)], 50)
    sim.run(60)
    before = sim.bytes_sent
    with Meter() as meter:
        sim.run(60)
    per = 60 * 50
    return (sim.bytes_sent - before) / per, {k: v / per for k, v in meter.parts.most_common()}


def busy() -> tuple[float, float, dict[str, float]]:
    """N=5, 20 writes/s: bytes of entries received per agent and byte of entry; bytes/s by part."""
    sim = Simulation([f"n{number}" for number in range(5)], 5)
    sim.run(20)
    dice, size = random.Random(5), 0
    before = sim.bytes_sent
    with Meter() as meter:
        for number in range(500):
            name = f"n{dice.randrange(5)}"
            size += len(sim[name].document(f"key/{number:06d}", LWWRegister).set(number).encode())
            sim.run(0.05)
        sent = (sim.bytes_sent - before) / 25 / 5
        parts = {k: v / 25 / 5 for k, v in meter.parts.most_common()}
    sim.run(5)
    delivered = sum(sim.replica(f"n{number}").counts["bytes:delta"] for number in range(5))
    return delivered / (size * 4), sent, parts


# ------------------------------------------------------------------------------ what others send


def beside(entries: int, changes: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(changes, our bytes, bytes of a Merkle exchange, of a full state), both ways, one exchange.

    The Merkle tree has 16 children per node and 65 536 leaves by hash of key, 16-byte hashes: per
    level the children of nodes that differ are sent, then the changed leaves' entries.
    """
    told = []
    for count in changes:
        mine = Kernel("ada~1")
        for number in range(entries):
            mine.document(f"k/{number:06d}", LWWRegister).set(number)
        theirs, seen = mine.fork("bob~1"), dict(mine.vector)
        for number in random.Random(1).sample(range(entries), count):
            mine.document(f"k/{number:06d}", LWWRegister).set(-number)
        delta = mine.delta_since(seen).encode()
        ours = 2 * (16 + len(msgpack.packb(seen))) + packed(delta)
        full = packed(mine.to_bytes())
        told.append((count, ours, merkle(rows(mine), rows(theirs)), full))
    return told


def packed(data: bytes) -> int:
    """As a frame carries it."""
    return min(len(data), len(zlib.compress(data, 1)) + 4)


def rows(kernel: Kernel) -> dict[str, bytes]:
    return {
        name: msgpack.packb([name, kernel.document(name, kind).value])
        for name, kind in kernel.documents()
    }


def merkle(mine: dict[str, bytes], theirs: dict[str, bytes]) -> int:
    """Bytes of comparing two trees level by level and sending the leaves that differ."""
    one, other = tree(mine), tree(theirs)
    sent, differing = 16, [()]
    for level in range(4):
        differing = [node for node in differing if one[level].get(node) != other[level].get(node)]
        sent += len(differing) * 16 * 16
        differing = [(*node, child) for node in differing for child in range(16)]
    leaves = {node for node in differing if one[4].get(node) != other[4].get(node)}
    return sent + sum(len(row) for name, row in mine.items() if place(name) in leaves)


def place(name: str) -> tuple[int, ...]:
    digest = hashlib.blake2b(name.encode(), digest_size=2).digest()
    return digest[0] >> 4, digest[0] & 15, digest[1] >> 4, digest[1] & 15


def tree(entries: dict[str, bytes]) -> list[dict[tuple[int, ...], bytes]]:
    """Level -> node -> hash, the root's level first."""
    leaves: dict[tuple[int, ...], list[bytes]] = defaultdict(list)
    for name, row in sorted(entries.items()):
        leaves[place(name)].append(hashlib.blake2b(row, digest_size=16).digest())
    levels = [{node: hashlib.blake2b(b"".join(of)).digest()[:16] for node, of in leaves.items()}]
    for _ in range(4):
        below: dict[tuple[int, ...], list[bytes]] = defaultdict(list)
        for node, digest in sorted(levels[0].items()):
            below[node[:-1]].append(digest)
        joined = {node: hashlib.blake2b(b"".join(of)).digest()[:16] for node, of in below.items()}
        levels.insert(0, joined)
    return levels


if __name__ == "__main__":
    print("idle", idle())
    print("busy", busy())
    print("beside", beside(20_000, (1, 100, 1000)))
    for nodes in SIZES[:3]:
        print(nodes, summary(rounds_to_all(nodes, 100, 2, 0.0)))
    print(100, "lossy", summary(rounds_to_all(100, 60, 3, 0.5)))
    print(100, "lossy, all met", summary(rounds_to_all(100, 40, 3, 0.5, 60.5)))
    print(100, "lossy, at best by one attempt each", summary(one_attempt(100, 400, 3, 0.5)))

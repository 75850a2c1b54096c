"""The bandwidth cap: state waits its turn, everything small goes on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from crdt import LWWRegister, ORSet
from replication import Config, Faults, Simulation
from replication.protocol.messages import ChunkGiven, Message, Push, Status, Sync, Synced
from replication.protocol.policy import agent_of
from replication.protocol.wire import Wire
from tests.simulation.clusters import met

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 20_000
ENTRY = 500
ENTRIES = 400


class Meter:
    """Notes when which agent seals how many bytes of frames with state in them."""

    def __init__(self) -> None:
        self.sim: Simulation | None = None
        self.sealed: dict[str, list[tuple[float, int]]] = {}

    def note(self, replica: str, message: Message, frame: bytes) -> None:
        state = b""
        if isinstance(message, Push | Sync | Synced):
            state = message.delta
        if isinstance(message, ChunkGiven):
            state = message.data
        if state and self.sim is not None:
            log = self.sealed.setdefault(agent_of(replica), [])
            log.append((self.sim.now_s, len(frame)))

    def check(self, rate: float) -> None:
        """In any T seconds at most rate * (T + 1), and one frame more."""
        assert self.sealed
        for name, log in self.sealed.items():
            largest = max(size for _, size in log)
            for at, (begin_s, _) in enumerate(log):
                total = 0
                for end_s, size in log[at:]:
                    total += size
                    most = rate * (end_s - begin_s + 1) + largest
                    assert total <= most, f"{name} sent {total} in {end_s - begin_s:.2f} s"


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    """A meter on every agent of `meter.sim`."""
    found, sound = Meter(), Wire.seal

    def seal(self: Wire, replica: str, message: Message, **options) -> bytes:
        frame = sound(self, replica, message, **options)
        found.note(replica, message, frame)
        return frame

    monkeypatch.setattr(Wire, "seal", seal)
    return found


def fill(sim: Simulation, name: str) -> None:
    """200 kB that do not compress."""
    dice = random.Random(1)
    for number in range(ENTRIES):
        sim[name].document(f"r/{number}", LWWRegister).set(dice.randbytes(ENTRY))


def test_a_capped_agent_spreads_at_its_rate_and_no_slower(meter):
    """200 kB at 20 kB/s to two peers: never over the promise, nobody suspected, writes go on."""
    sim = met(Simulation(["ada", "bob", "cyd"], 1, config=Config(bandwidth_bytes_per_s=RATE)))
    sim.cut("bob", "cyd")  # so that only ada can speak
    meter.sim = sim
    fill(sim, "ada")
    began_s, slowest_s = sim.now_s, 2 * 1.5 * ENTRIES * ENTRY / RATE
    sim.run(2)
    sim["ada"].document("late", LWWRegister).set("seen at once")
    assert sim["ada"].document("late", LWWRegister).value == "seen at once"
    sim.run(0.1)
    ada = sim.replica("ada")
    assert ada.durable == dict(ada.kernel.vector), "a commit waits for no bandwidth"
    assert sim.settle(slowest_s)
    meter.check(RATE)
    took_s = sim.now_s - began_s
    assert took_s >= 2 * ENTRIES * ENTRY / RATE - 2
    assert {m.status for m in ada.members.everyone()} == {Status.ALIVE}


def test_all_members_keep_to_their_caps_under_loss(meter):
    """Writes everywhere, forwards, repeats and answers: each agent keeps to its own cap."""
    config = Config(bandwidth_bytes_per_s=RATE)
    sim = met(Simulation(["ada", "bob", "cyd", "dan"], 4, config=config))
    meter.sim = sim
    sim.faults = Faults(loss=0.1, duplicate=0.1)
    for name in ("ada", "bob"):
        fill(sim, name)
    sim.run(20)
    sim.faults = Faults()
    assert sim.settle(120)
    meter.check(RATE)


def test_a_cap_below_one_entry_still_delivers(meter):
    """A batch is never cut: it goes, and its debt is waited for."""
    sim = met(Simulation(["ada", "bob"], 2, config=Config(bandwidth_bytes_per_s=100)))
    meter.sim = sim
    for number in range(5):
        sim["ada"].document(f"r/{number}", LWWRegister).set(bytes(ENTRY))
    assert sim.settle(120)
    meter.check(100)


def test_a_newcomer_is_given_its_chunks_at_the_rate(meter):
    """A join by chunks under the cap is slow and complete, through refusals, losses and all."""
    config = Config(bandwidth_bytes_per_s=RATE, chunks_above_events=100, chunk_bytes=8_000)
    sim = Simulation(["ada"], 3, Faults(loss=0.1), config=config)
    meter.sim = sim
    fill(sim, "ada")
    sim.run(1)
    sim.add("bob")
    began_s = sim.now_s
    assert sim.settle(120)
    assert sim.replica("bob").counts["chunk:new"] >= ENTRIES * ENTRY / 8_000
    assert sim.now_s - began_s >= ENTRIES * ENTRY / RATE - 2
    meter.check(RATE)


@pytest.mark.parametrize("writes", [False, True])
def test_a_newcomer_below_the_floor_gets_all_chunks_though_each_takes_seconds(writes):
    """A refused chunk ends a try; the next one began with the first chunk again, for ever."""
    config = Config(bandwidth_bytes_per_s=1_000, chunk_bytes=2_048)
    sim = met(Simulation(["ada", "bob"], 71, config=config))
    elements = [random.Random(number).randbytes(64).hex() for number in range(150)]
    for element in elements:
        sim["ada"].document("set", ORSet).add(element)
    sim["ada"].document("set", ORSet).remove(elements.pop())
    assert sim.settle(120)
    for name in sim.up():
        sim[name].drop_records()
    sim.add("eve")
    for second in range(60):
        if writes:
            sim["ada"].document("status", LWWRegister).set(second)
        sim.run(1)
    assert set(sim["eve"].document("set", ORSet)) == set(elements)
    assert sim.settle(60)

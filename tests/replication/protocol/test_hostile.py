"""Frames that authenticate and mean harm: each counterexample was once accepted."""

from __future__ import annotations

import time

import msgpack
import pytest

from crdt import Delta, GSet, Kernel, LWWRegister, Run
from crdt.errors import DecodeError
from crdt.kernel.envelope import seal
from replication import Agent, Config, Simulation
from replication.errors import FrameTooLargeError, MalformedFrameError
from replication.protocol.keyring import Keyring
from replication.protocol.membership import Membership
from replication.protocol.messages import (
    ORIGINS_ASKED_MAX,
    Ack,
    ChunkGiven,
    Digest,
    MemberClaim,
    PositionsWanted,
    Push,
    Refused,
    Status,
    Sync,
    Tier,
)
from replication.protocol.wire import VERSION, Asker, Envelope, Wire
from tests.replication.stranger import Stranger


@pytest.fixture
def sim() -> Simulation:
    made = Simulation(["ada", "bob"], 99)
    made.run(10)
    return made


def full(vector: dict[str, int]) -> Digest:
    return Digest(b"x" * 16, Tier.FULL, vector)


def test_an_absurd_incarnation_neither_breaks_nor_silences(sim):
    """Counterexample: (me, 2**64-1, SUSPECT) was refuted with 2**64, which no frame can carry."""
    me = sim.replica("ada").id
    claims = tuple(MemberClaim(me, "ada", n, Status.SUSPECT) for n in (2**63 - 1, 2**48 - 1))
    Stranger(sim).ask("ada", Sync(full({}), claims))
    sim.run(30)
    assert sim.replica("ada").members.me.incarnation < 2**48
    assert sim.equal()


def test_claims_of_events_we_never_made_cost_few_incarnations(sim):
    """Counterexample: each Sync that claims {victim: 10**12} gave it one new incarnation."""
    stranger = Stranger(sim)
    for _ in range(200):
        stranger.ask("ada", Sync(full({sim.replica("ada").id: 10**12})))
        sim.run(0.05)
    assert sim.replica("ada").counts["re-incarnated"] <= 5
    assert sim.settle(30)


def test_a_flood_of_made_up_origins_is_refused(sim):
    """Counterexample: 20 000 origins in one push were accepted."""
    stranger, answers = Stranger(sim), []
    for start in range(0, 12_000, 3_000):
        runs = tuple(Run(f"o{n}~1", 1, 1, ()) for n in range(start, start + 3_000))
        answers.append(stranger.ask("ada", Push(Delta(runs).encode())))
    assert isinstance(answers[-1], Refused)
    assert answers[-1].code == FrameTooLargeError.code
    assert len(sim["ada"].vector) <= 10_000


@pytest.mark.parametrize("poisoned", [False, True], ids=["sound", "with a poison"])
def test_many_origins_in_one_push_cost_no_vector_each(sim, monkeypatch, poisoned):
    """Counterexample: 17 KiB of 9 990 origins held the loop for seconds, their square."""
    looks, vector, sound = [0], Kernel.vector, Kernel.apply

    def looked(kernel: Kernel) -> object:
        looks[0] += 1
        return vector.fget(kernel)

    def apply(kernel: Kernel, delta: Delta) -> object:
        if poisoned and ("o7~1", 1, 1) in delta.ranges:
            raise DecodeError("cannot be joined")
        return sound(kernel, delta)

    monkeypatch.setattr(Kernel, "vector", property(looked))
    monkeypatch.setattr(Kernel, "apply", apply)
    runs = tuple(Run(f"o{n}~1", 1, 1, ()) for n in range(500))
    answer = Stranger(sim).ask("ada", Push(Delta(runs).encode()))
    assert len(answer.vector) == 500
    assert sum(answer.vector.values()) == 500 - poisoned
    assert looks[0] < 50


def registers(count: int) -> bytes:
    """A sound delta of one batch, larger than any agent writes one."""
    kernel = Kernel("mal~0000000000000000")
    with kernel.batch():
        for number in range(count):
            kernel.document(f"k/{number}", LWWRegister).set(number)
    return kernel.delta_since({}).encode()


def swollen(count: int) -> bytes:
    """Zeros where runs should be: a few bytes that unpack into many."""
    return seal("d", b"\x93\x90\x90\xdd" + count.to_bytes(4, "big") + b"\0" * count)


@pytest.mark.parametrize(("make", "count"), [(registers, 11_000), (swollen, 3_000_000)])
def test_a_delta_heavier_than_agents_send_is_refused_unbuilt(sim, make, count, monkeypatch):
    """Counterexample: 500 KiB of events held the loop for 7 s, 130 KiB of zeros took 330 MiB."""
    delta = make(count)
    monkeypatch.setattr("crdt.kernel.delta._unpack_run", None)  # nothing may come so far
    before = sim["ada"].vector
    answer = Stranger(sim).ask("ada", Push(delta))
    assert (answer.status, answer.code) == (400, MalformedFrameError.code)
    assert sim["ada"].vector == before


def test_what_an_agent_sends_at_most_is_taken(sim):
    """The limit refuses no batch of `batch_bytes_max`, however small its events, and no delta."""
    kernel = sim["ada"]
    with kernel.batch():
        for number in range(5000):
            kernel.document("s", GSet).add(number)
    for number in range(6_000):
        kernel.document("t", GSet).add(number)
    assert sim.settle(30)
    assert len(sim["bob"].document("t", GSet)) == 6_000


def test_a_chunk_that_nobody_asked_for_is_not_joined(sim):
    """Counterexample: a chunk was taken as the answer to a Sync."""
    ada = sim.replica("ada")
    chunk = sim["bob"].chunks(1000).chunks[0]
    ada.gossip.greet(ada.members.live()[0], {}, sim.now_s)
    number = ada.exchanges.last
    opened = ada.exchanges.take(number)
    given = ChunkGiven(chunk.set_id, 0, 1, chunk.encode())
    envelope = Envelope(opened.replica, b"whatever", Asker(1), opened.number, given)
    with pytest.raises(MalformedFrameError, match="not asked for"):
        ada._conclude(number, opened, envelope, sim.now_s)


def test_four_mebibytes_of_tiny_items_hold_the_loop_for_moments_only():
    """[replication 16] (many items) the count is limited while unpacking: milliseconds, typed."""
    receiver = Wire(cluster="c", namespace="n", keys=Keyring(), boot=b"boot-one", config=Config())
    body = msgpack.packb([b"", [[0] * 40_000] * 100])
    source = ["mal~1", b"boot-two", 1, 0, receiver.freshness.current, b"whatever"]
    frame = msgpack.packb([VERSION, "c", 3, 0, source, "n", body])
    started = time.process_time()
    with pytest.raises(MalformedFrameError):
        receiver.open(frame + Keyring().trailer(frame))
    print(f"{1e3 * (time.process_time() - started):.1f} ms")


def test_members_that_died_make_room_for_the_living():
    """Counterexample: 4 096 rows of the gone made every new agent invisible."""
    members = Membership("ada~1", "h:1", 65536, Config(members_max=10), 0.0)
    for number in range(30):
        claim = MemberClaim(f"m{number}~1", f"h:{number}", 1, Status.DEAD)
        members.learn([claim], float(number))
    members.learn([MemberClaim("new~1", "h:99", 1, Status.ALIVE)], 100.0)
    assert len(members) == 10
    assert [m.replica for m in members.live()] == ["new~1"]


async def test_an_agent_that_is_its_own_peer_under_another_name_stays_itself():
    """Counterexample: `localhost` for 127.0.0.1 gave two new incarnations each second."""
    async with Agent("ada") as probe:
        port = probe.address.rpartition(":")[2]
    config = Config(gossip_interval_s=0.05, gossip_interval_max_s=0.1)
    async with Agent(
        "ada", listen=f"127.0.0.1:{port}", peers=[f"localhost:{port}"], config=config
    ) as ada:
        before = ada.id
        replica = ada._runtime.replica
        driver = ada._runtime
        assert await driver.until(lambda: replica.counts["refused:myself"] > 0, 10)
        assert await driver.until(lambda: not replica.scheduler.seeds, 10)
        assert ada.id == before
        assert ada.members() == []


def test_questions_of_a_stranger_are_bounded_work_and_change_nothing(sim):
    """The most that may be asked, of origins that nobody knows: one look each, and nothing kept."""
    stranger, ada = Stranger(sim), sim.replica("ada")
    before, origins = dict(ada.kernel.vector), len(ada.peers.peers)
    for turn in range(50):
        names = tuple(f"made-up-{turn}-{n}~1" for n in range(ORIGINS_ASKED_MAX))
        answer = stranger.ask("ada", PositionsWanted(names))
        assert isinstance(answer, Ack)
        assert answer.vector == dict.fromkeys(names, 0)
    assert dict(ada.kernel.vector) == before
    assert len(ada.peers.peers) <= origins + 1
    assert not ada.behind.lag(before, sim.now_s)


def test_an_answer_to_a_question_that_nobody_asked_is_refused(sim):
    """An `Ack` is no request; and as an answer it counts for what was asked."""
    answer = Stranger(sim).ask("ada", Ack({"ada~1": 5}))
    assert isinstance(answer, Refused)
    assert answer.code == MalformedFrameError.code

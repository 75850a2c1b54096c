"""Every decoder of what others send: any bytes are taken or refused by type, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import transactional as t
from crdt import CRDTError, Delta, ORSet
from crdt.kernel.chunk import Chunk
from crdt.kernel.codec import decode_value, encode_value
from crdt.kernel.envelope import seal
from replication.errors import ReplicationError
from replication.protocol.keyring import Keyring
from replication.transport.challenge import Challenges, hash_of, target_of
from replication.version import Version
from tests.fuzz.engine import CORPUS, Target, corpus, fuzz, place
from tests.replication.protocol.test_wire import GOLDEN_QUESTION, MESSAGES, said, wire
from tests.scale import SOAK, rounds, seeds
from transactional import rules
from transactional import wire as words
from transactional.errors import TransactionalError
from transactional.server import bodies
from transactional.server.clients import read_clients

COMMIT = {
    "compares": [{"type": "revision", "key": "a", "revision": 1}, {"type": "lease", "lease": "l"}],
    "writes": [{"type": "put", "key": "a", "value": "x"}, {"type": "delete_prefix", "prefix": "b"}],
    "op_id": "op:0:1:0123456789abcdef",
}
ANSWERS = (
    words.dump_event(t.WatchEvent(1, words.utc(1), (t.KeyChange("a", None),))),
    words.dump_error(t.ConflictError((t.Exists("a"),), {"a": None}, 3)),
    words.dump_commit(t.Commit(1, succeeded=True, time=words.utc(1))),
    words.dump_snapshot(t.Snapshot(1, {"a": t.KeyValue("a", b"\xff", 1, 1)})),
)
CLIENTS = b'[roles.a]\nread = ["x/"]\nwrite = []\n[clients.b]\nrole = "a"\nsha256 = ["%s"]\n'
CHALLENGES = Challenges((b"a secret of the cluster",), lambda: 0.0)


def some_delta() -> bytes:
    tags = ORSet("ada~01")
    tags.add("x")
    tags.remove("x")
    tags.add(("y", 1))
    return tags.kernel.delta_since({}).encode()


def open_frame(data: bytes) -> None:
    """As if its sender could seal: the checksum is made to fit, so that what is behind is tried."""
    wire(None, boot=b"boot-two").open(data + Keyring().trailer(data))


def load_request(data: bytes) -> None:
    bodies.check_tokens(data)
    doc = words.document(bodies._parse(data))
    asked = words.load_commit_request(doc)
    rules.check_commit(asked.compares, asked.writes, asked.otherwise, asked.op_id, asked.by)
    rules.fingerprint(asked.compares, asked.writes, asked.otherwise)


def load_answers(data: bytes) -> None:
    doc = words.document(json.loads(data))
    for load in (
        words.load_event,
        words.load_error,
        words.load_commit,
        words.load_snapshot,
        words.load_outcome,
        words.load_lease,
        words.load_capabilities,
    ):
        try:
            load(doc)
        except (TransactionalError, KeyError, TypeError, ValueError, OverflowError):
            continue


def read_list(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clients.toml"
        path.write_bytes(data)
        read_clients(path)


def judge(data: bytes) -> None:
    assert CHALLENGES.judge(data.decode(errors="surrogateescape"), "GET", "/", "h") is None


JSON = (TransactionalError, ValueError, RecursionError)
TARGETS = [
    Target("value", decode_value, (CRDTError,), (encode_value(({"a": [1, 2.5, None]}, b"x")),)),
    Target("delta", Delta.decode, (CRDTError,), (some_delta(),)),
    Target(
        "delta-body", lambda d: Delta.decode(seal("d", d, compress=False)), (CRDTError,), (b"",)
    ),
    Target(
        "chunk-body", lambda d: Chunk.decode(seal("c", d, compress=False)), (CRDTError,), (b"",)
    ),
    Target("version", lambda d: Version.decode(d.decode()), (Exception,), (b"ada~01:1",)),
    Target(
        "frame",
        open_frame,
        (ReplicationError, CRDTError),
        (*(said(wire(None), m, wire(None, boot=b"boot-two"))[:-4] for m in MESSAGES[:14]),),
    ),
    Target("proof", judge, (), (b"Convoca order:1.2.3:%b:0:x" % hash_of(b"").encode(),)),
    Target("request", load_request, JSON, (json.dumps(COMMIT).encode(),)),
    Target("answer", load_answers, JSON, tuple(json.dumps(each).encode() for each in ANSWERS)),
    Target("clients", read_list, (TransactionalError,), (CLIENTS % (b"0" * 64),)),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_was_kept_is_refused_by_type(target: Target) -> None:
    """Every input that ever showed something new, each time."""
    for data in corpus(target):
        place(target, data)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_any_bytes_are_taken_or_refused_by_type(target: Target) -> None:
    """Mutations of what is kept; a soak tries 20,000 for each target, and keeps what is new."""
    seed = seeds(1)[0]
    print(f"CONVOCA_SEED={seed}")
    inputs = rounds(4_000 if target.name == "clients" else 20_000)
    before, after = fuzz(target, seed, inputs, keep=SOAK)
    print(f"{target.name}: {before} -> {after} places")


def test_a_target_finds_more_than_it_began_with() -> None:
    """The engine is no idle one: from nothing but a seed it comes to many places, and fails too."""
    request = next(target for target in TARGETS if target.name == "request")
    blank = Target("blank", request.run, request.refusals, request.seeds)
    before, after = fuzz(blank, 1, 1500, keep=False)
    assert before == 1
    assert after > 8
    broken = Target("blank", lambda data: data.index(b"op_id"), (TransactionalError,), (b"op_id",))
    with pytest.raises(AssertionError, match="ValueError"):
        fuzz(broken, 1, 1000, keep=False)
    for left in (CORPUS.parent.parent.parent / "out" / "corpus" / "blank").iterdir():
        left.unlink()


def test_the_proof_of_a_request_is_for_that_request() -> None:
    """What the fuzzer cannot guess is taken when it is right."""
    from replication.transport.challenge import Asked

    challenge, _ = CHALLENGES.give("n")
    asked = Asked("order", "GET", target_of("/", []), "h", hash_of(b""), insecure=False)
    header = asked.header(b"a secret of the cluster", challenge)
    assert CHALLENGES.judge(header, "GET", target_of("/", []), "h") is not None
    assert bytes.fromhex(GOLDEN_QUESTION)

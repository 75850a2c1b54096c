"""Frames: what opens, what is refused with which status, and that refusing costs nothing."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import msgpack
import pytest

from replication.config import Config
from replication.errors import (
    AuthenticationError,
    DamagedFrameError,
    FrameError,
    FrameTooLargeError,
    MalformedFrameError,
    ReplayedFrameError,
    UnsupportedVersionError,
    WrongClusterError,
)
from replication.protocol.keyring import Keyring
from replication.protocol.messages import (
    ORIGINS_ASKED_MAX,
    Ack,
    BlocksWanted,
    ChunkGiven,
    ChunkWanted,
    Digest,
    HashesGiven,
    HashesWanted,
    Leave,
    MemberClaim,
    Message,
    PositionsWanted,
    Probe,
    Probed,
    Push,
    Refused,
    Status,
    Sync,
    Synced,
    Tier,
)
from replication.protocol.wire import VERSION, Asker, UnknownKindError, Wire, vector_hash

CLAIM = MemberClaim("ada~01", "127.0.0.1:7001", 65536, Status.SUSPECT)
DIGEST = Digest(b"h" * 16, Tier.FULL, {"ada~01": 7, "bob~02": 2**40})
MESSAGES = [
    Sync(DIGEST, (CLAIM,), b"delta"),
    Synced(DIGEST, b"delta", more=True, reset=True, members=(CLAIM,)),
    Push(b"x" * 5000, (1, 2**32 - 1)),
    Ack({"ada~01": 9}),
    Probe("bob~02", (CLAIM,)),
    Probed(reached=False),
    ChunkWanted(b"set", 3),
    ChunkGiven(b"set", 3, 9, b"rows"),
    Leave((CLAIM,)),
    Refused(503, "busy", "later"),
    Sync(Digest(b"h" * 16, state=b"s" * 16)),
    Synced(Digest(b"h" * 16, Tier.CURRENT, {"ada~01": 7}, b"r" * 16, b"s" * 16)),
    Sync(DIGEST, (CLAIM,), b"delta", b"t" * 8),
    HashesWanted(b"h" * 16),
    HashesWanted(b"h" * 16, ("ada~01", 2**30)),
    HashesGiven(),
    HashesGiven(
        b"h" * 16,
        (("ada~01", 0, b"a" * 16), ("ada~01", 3, b"b" * 16), ("bob~02", 0, b"c" * 16)),
        more=True,
    ),
    BlocksWanted(b"h" * 16, (("ada~01", 0), ("bob~02", 2**30))),
    PositionsWanted(("ada~01",)),
    PositionsWanted(tuple(f"ada~{number:016x}" for number in range(ORIGINS_ASKED_MAX))),
]

GOLDEN_QUESTION = (
    "9702a1630e0096a66164617e3031c408626f6f742d6f6e650100c4086f6620626f622773c408b16908231a7fe279"
    "a16ec4109192a66164617e3031a6626f627e30326500ea13"
)


def wire(secret: bytes | None = b"correct horse", boot: bytes = b"boot-one", **options) -> Wire:
    chosen = {"cluster": "c", "namespace": "n", "config": Config()} | options
    return Wire(keys=Keyring((secret,) if secret else ()), boot=boot, **chosen)


def said(sender: Wire, message: Message, to: Wire) -> bytes:
    """The frame of a message for whoever opens with that wire."""
    return sender.seal("ada~01", message, challenge=to.freshness.current)


def by_hand(
    body: bytes, kind: int, *, to: Wire, version: int = VERSION, flags: int = 0, more: tuple = ()
) -> bytes:
    """A frame that no release makes, with the checksum of one that is not protected by a secret."""
    source = ["ada~01", b"boot-two", 1, 0, to.freshness.current, b"whatever"]
    frame = msgpack.packb([version, "c", kind, flags, source, "n", body, *more])
    return frame + Keyring().trailer(frame)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message):
    """What is sealed opens as the same message, with its sender and the frame it answers."""
    receiver, sender = wire(boot=b"boot-two"), wire()
    asker = Asker(41, "", receiver.freshness.current)
    opened = receiver.open(sender.answer("ada~01", message, asker))
    assert opened.message == message
    assert (opened.replica, opened.boot, opened.answers) == ("ada~01", b"boot-one", 41)
    assert opened.asker == Asker(1, "", sender.freshness.current)


@pytest.mark.parametrize(
    "body",
    [
        [b"h", ["ada", 0]],
        [b"h", [["ada", [0, 1], b"a" * 16]], False],
        [b"h", [["ada", [-1], b"a" * 16]], False],
        [b"h", [[7, [1], b"a" * 16]], False],
        [b"h", [["ada", [1], "a" * 16]], False],
        [b"h", 7, False],
    ],
)
def test_hashes_that_do_not_fit_their_blocks_are_refused(body):
    """Numbers without hashes, hashes without numbers, other types: malformed, by name."""
    here = wire(secret=None)
    with pytest.raises(MalformedFrameError):
        here.open(by_hand(msgpack.packb(body), 12, to=here))


@pytest.mark.parametrize("flat", [["a"], ["a", 1, "b"], ["a", -1], [1, "a"], ["a", 0] * 1025, 7])
def test_blocks_that_nobody_could_give_are_refused(flat):
    """Half a pair, no number, more than may be asked for."""
    here = wire(secret=None)
    with pytest.raises(MalformedFrameError):
        here.open(by_hand(msgpack.packb([b"h", flat]), 13, to=here))


@pytest.mark.parametrize(
    "origins",
    [[], 7, ["a"] * (ORIGINS_ASKED_MAX + 1), [7], [b"a"], ["a" * 257], {"a": 1}],
    ids=["none", "no list", "too many", "number", "bytes", "long", "map"],
)
def test_positions_of_no_origins_or_of_too_many_are_not_told(origins):
    """A question is bounded work, whoever asks it."""
    here = wire(secret=None)
    with pytest.raises(MalformedFrameError):
        here.open(by_hand(msgpack.packb([origins]), 14, to=here))


def test_a_question_looks_like_this():
    """The golden vector of kind 14: another release has to ask, and to be asked, the same."""
    sender, asked = wire(secret=None), PositionsWanted(("ada~01", "bob~02"))
    assert sender.seal("ada~01", asked, challenge=b"of bob's").hex() == GOLDEN_QUESTION


def test_a_digest_of_a_table_has_eight_bytes_or_none():
    """As that of a state: what is remembered of a peer is bounded."""
    here = wire(boot=b"boot-two")
    frame = said(wire(), Sync(DIGEST, table=b"t" * 9), here)
    with pytest.raises(MalformedFrameError):
        here.open(frame)


def test_a_digest_of_a_state_has_sixteen_bytes_or_none():
    """What is remembered of a peer is bounded: no megabyte goes by the name of a digest."""
    here = wire(boot=b"boot-two")
    frame = said(wire(), Sync(Digest(b"h" * 16, state=b"s" * 17)), here)
    with pytest.raises(MalformedFrameError):
        here.open(frame)


def test_equal_content_gives_equal_bytes():
    """Two boots that count alike seal the same frame; nothing depends on hash seeds."""
    assert wire().seal("ada~01", MESSAGES[0]) == wire().seal("ada~01", MESSAGES[0])


@pytest.mark.parametrize(
    ("sender", "error", "status"),
    [
        (wire(secret=b"another one"), AuthenticationError, 401),
        (wire(secret=None), AuthenticationError, 401),
        (wire(cluster="other"), WrongClusterError, 421),
        (wire(namespace="other"), WrongClusterError, 421),
    ],
    ids=["wrong secret", "no secret", "wrong cluster", "wrong namespace"],
)
def test_a_frame_from_elsewhere_is_refused_by_name(sender, error, status):
    """[replication 17] (the wire's part) wrong secret 401, wrong cluster or namespace 421."""
    here = wire()
    frame = said(sender, Ack({}), here)
    with pytest.raises(error) as refused:
        here.open(frame)
    assert refused.value.status == status


def test_a_frame_with_a_mac_is_refused_where_no_secret_is_known():
    """A cluster without a secret does not swallow authenticated frames as if they were its own."""
    here = wire(secret=None)
    frame = said(wire(), Ack({}), here)
    with pytest.raises(FrameError):
        here.open(frame)


def test_an_unknown_version_is_answered_with_the_supported_range():
    """[replication 17] (version) 426 names both versions."""
    here = wire(secret=None)
    with pytest.raises(UnsupportedVersionError) as refused:
        here.open(by_hand(b"", 4, to=here, version=9))
    assert refused.value.status == 426
    assert refused.value.supported == (VERSION, VERSION)


def test_a_frame_is_accepted_once():
    """[replication 17] (replay) the same bytes twice, and a number below the window, are 401."""
    sender, receiver = wire(), wire(boot=b"boot-two")
    frames = [said(sender, Ack({}), receiver) for _ in range(1100)]
    receiver.open(frames[50])
    with pytest.raises(ReplayedFrameError):
        receiver.open(frames[50])
    receiver.open(frames[49])  # late, but never seen
    receiver.open(frames[1099])
    with pytest.raises(ReplayedFrameError):
        receiver.open(frames[10])


def test_both_keys_open_while_a_secret_is_rotated():
    """(current, previous): frames sealed with either open; the current one seals."""
    old, new = b"the old secret", b"the new secret"
    rotating = Wire(
        cluster="c", namespace="n", keys=Keyring((new, old)), boot=b"boot-two", config=Config()
    )
    assert rotating.open(said(wire(secret=old), Ack({}), rotating)).message == Ack({})
    other = wire(secret=new)
    assert other.open(said(rotating, Ack({}), other)).message == Ack({})


def test_a_kind_of_a_later_release_is_named_and_skipped():
    """Unknown kinds are an own error, so the machine can count them."""
    here = wire(secret=None)
    with pytest.raises(UnknownKindError):
        here.open(by_hand(b"\x90", 99, to=here))


def test_unknown_trailing_fields_are_ignored():
    """A later release may append fields to a frame and to a body."""
    here, body = wire(secret=None), msgpack.packb([{"ada~01": 3}, "a field of tomorrow"])
    frame = by_hand(body, 4, to=here, more=("more",))
    assert here.open(frame).message == Ack({"ada~01": 3})


def bombs() -> dict[str, bytes]:
    here = wire(secret=None)

    def framed(body: bytes, kind: int = 4, flags: int = 0) -> bytes:
        return by_hand(body, kind, to=here, flags=flags)

    def whole(frame: bytes) -> bytes:
        return frame + Keyring().trailer(frame)

    zeros = zlib.compress(b"\0" * 50_000_000, 9)
    return {
        "nesting": framed(b"\x91" * 100_000),
        "forged array": framed(b"\xdd\xff\xff\xff\xff"),
        "forged map": framed(b"\x91\xdf\xff\xff\xff\xff"),
        "forged bytes": framed(b"\x92\xc6\xff\xff\xff\xff", kind=3),
        "extension": framed(msgpack.packb(msgpack.ExtType(5, b"x"))),
        "zlib, honest size": framed((50_000_000).to_bytes(4, "big") + zeros, flags=1),
        "zlib, forged size": framed((1000).to_bytes(4, "big") + zeros, flags=1),
        "gzip": framed(b"\x1f\x8b" + zeros, flags=1),
        "outer nesting": whole(b"\x91" * 100_000),
        "outer forged": whole(b"\xdd\xff\xff\xff\xff"),
        "source": whole(msgpack.packb([VERSION, "c", 4, 0, ["a", b"boot-two", 1, 0], "n", b""])),
        "negative seq": framed(msgpack.packb([{"ada~01": -1}])),
        "boolean seq": framed(msgpack.packb([{"ada~01": True}])),
        "bytes as name": framed(msgpack.packb([{b"ada": 1}])),
        "empty": whole(b""),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_without_growth(name):
    """[replication 16] (the wire's part) nesting, forged lengths, zlib bombs: typed, no memory."""
    bomb, receiver = bombs()[name], wire(secret=None)
    tracemalloc.start()
    try:
        with pytest.raises((MalformedFrameError, FrameTooLargeError)):
            receiver.open(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000 + 4 * len(bomb)


def test_damaged_frames_give_typed_errors_only():
    """[replication 2] (the wire's part) cut or flipped bytes never open, and never crash."""
    dice = random.Random(20)
    here = wire(boot=b"boot-two")
    frames = [said(wire(), message, here) for message in MESSAGES]
    for _ in range(3000):
        frame = bytearray(dice.choice(frames))
        if dice.random() < 0.5:
            del frame[dice.randrange(len(frame)) :]
        else:
            frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
        with pytest.raises(FrameError):
            wire(boot=b"boot-two").open(bytes(frame))


def test_without_a_secret_damage_is_seen_before_anything_is_decoded(monkeypatch):
    """Counterexample: flipped bits were another message, another vector, another member."""
    dice = random.Random(21)
    opener = wire(secret=None, boot=b"boot-two")
    frames = [said(wire(secret=None), message, opener) for message in MESSAGES]
    monkeypatch.setattr("replication.protocol.wire._unpack", None)  # nothing comes so far
    for _ in range(5000):
        frame = bytearray(dice.choice(frames))
        if dice.random() < 0.3:
            del frame[dice.randrange(len(frame)) :]
        else:
            for _ in range(dice.randint(1, 4)):
                frame[dice.randrange(len(frame))] ^= dice.randint(1, 255)
        if bytes(frame) in frames:
            continue  # the same byte, there and back
        with pytest.raises(DamagedFrameError) as refused:
            opener.open(bytes(frame))
        assert (refused.value.code, refused.value.status) == ("damaged", 400)


def test_a_checksum_proves_nothing_and_the_parser_behind_it_trusts_nobody():
    """Whoever changes a frame changes its checksum: any bytes are a message or an error."""
    dice = random.Random(21)
    opener = wire(secret=None, boot=b"boot-two")
    frames = [said(wire(secret=None), message, opener)[:-4] for message in MESSAGES]
    refused = taken = 0
    for _ in range(5000):
        frame = bytearray(dice.choice(frames))
        for _ in range(dice.randint(1, 4)):
            frame[dice.randrange(len(frame))] = dice.randrange(256)
        try:
            changed = bytes(frame)
            wire(secret=None, boot=b"boot-two").open(changed + Keyring().trailer(changed))
            taken += 1
        except DamagedFrameError:
            raise
        except FrameError:
            refused += 1
    assert refused > 1000
    assert taken > 100


def test_large_bodies_travel_compressed():
    """Above 1 KiB a body is deflated inside its frame, if that makes it smaller."""
    sender, here = wire(), wire(boot=b"boot-two")
    plain, packed = Push(b"ab" * 50_000), said(sender, Push(b"ab" * 50_000), here)
    assert len(packed) < 2000
    assert here.open(packed).message == plain
    noise = Push(random.Random(3).randbytes(5000))
    assert here.open(said(sender, noise, here)).message == noise


def test_the_hash_of_a_vector_ignores_order_and_zeros():
    """Equal vectors hash equal however they were built; an origin at 0 is no origin."""
    assert vector_hash({"a": 1, "b": 2}) == vector_hash({"b": 2, "a": 1, "c": 0})
    assert vector_hash({"a": 1}) != vector_hash({"a": 2})

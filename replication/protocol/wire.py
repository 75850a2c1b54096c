"""Frames: the only room that knows how a message looks as bytes.

Theory of operation. A frame is a msgpack array, positional, with the body as opaque bytes:

    [version, cluster, kind, flags, src, namespace, body]  MAC, or a checksum: see `keyring`
     src = [replica id, boot id, number, answers, to, challenge, rules]

The MAC is compared in constant time *before* anything is decoded. `to` is a challenge of the
receiver and `challenge` one of the sender: see `freshness`. `rules` is the digest of the sender's
rules (absent without any): agents of different rules do not exchange state. `number` counts the
frames of one boot: a sliding window per boot id accepts each number once. `answers` is the number
of the request that this frame answers. Unknown trailing fields are ignored; unknown kinds are an
own error so that the machine can count and skip them.

A frame is opened in two steps, because a refusal has to name whom it answers: `look` says who sent
it and which one it is, and `read` whether it is taken, and what it says.

Parse, don't validate: behind `Wire.open` there is no `Any`. Every shape, type and size is checked
here, field by field; forged lengths allocate nothing because each msgpack limit is set to what the
frame could hold, and a compressed body (flag 1, zlib) declares its size, which is checked before
inflating. Fields are positional, and trailing ones belong to a later release.

The module has three parts: how each message looks as plain lists and back, with the numbered table
of kinds at its end; `Wire`, which seals and opens; and the hashes that travel in messages.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgpack  # type: ignore[import-untyped]  # it ships no types

from crdt import VersionVector
from replication.errors import (
    FrameTooLargeError,
    MalformedFrameError,
    ReplayedFrameError,
    RulesDifferError,
    StaleFrameError,
    UnsupportedVersionError,
    WrongClusterError,
)
from replication.protocol.freshness import CHALLENGE_BYTES, CHALLENGE_S, NOBODY, Freshness
from replication.protocol.messages import (
    INCARNATION_MAX,
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
    carries_state,
)
from replication.protocol.policy import agent_of
from replication.protocol.shares import Shares
from replication.protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replication.config import Config
    from replication.protocol.keyring import Keyring

T = TypeVar("T")

VERSION = 2
COMPRESSED = 1
BOOT_BYTES = 8
OUTER_ITEMS_MAX = 64
BODY_ITEMS_MAX = 50_000
"""Items of all lists and maps of a body together: their number is time on the loop."""
SAMPLE_ABOVE_BYTES = 16 * 1024
SAMPLE_BYTES = 4 * 1024
WINDOW = 1024
BOOTS_MAX = 4096
BOOTS_PER_NAME_MAX = 64
ORIGINS_MAX = 10_000
COUNT_MAX = (1 << 63) - 1
NAME_BYTES_MAX = 256
HASH_BYTES = 16
TABLE_BYTES = 8
BLOCKS_MAX = 1024
"""That one frame may ask for; this release asks for fewer."""


class UnknownKindError(MalformedFrameError):
    """A kind of a later release: counted, skipped, answered with a refusal."""

    code = "unknown_kind"
    hint = "the sender is newer; nothing to do"


@dataclass(frozen=True, slots=True)
class Asker:
    """Whom an answer goes to: the number, the key and the challenge of what it answers.

    `principal` is the name that the key speaks for, "" for a key that speaks for anybody.
    """

    number: int = 0
    principal: str = ""
    challenge: bytes = NOBODY


UNKNOWN = Asker()
"""Whoever sent a frame that says nothing of itself."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a sealed frame says of itself, and what it says else, which nobody read yet."""

    replica: str
    boot: bytes
    asker: Asker
    answers: int
    to: bytes
    rules: object
    rest: tuple[object, object, object, object, object]
    size: int


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened frame: who sent it, in which boot, which frame it answers, and the message."""

    replica: str
    boot: bytes
    asker: Asker
    answers: int
    message: Message


def _shrinks(body: bytes) -> bool:
    """Whether it is worth a try to compress a body; of a long one, by a piece from its middle.

    Deltas and chunks are compressed already, once for all their receivers; to try it again for each
    would cost more than all the rest of a frame.
    """
    if len(body) <= SAMPLE_ABOVE_BYTES:
        return True
    sample = body[len(body) // 2 :][:SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) < 0.9 * len(sample)


class _TooManyError(ValueError):
    """A list or map took the count of items over its limit."""


def _unpack(data: bytes, items_max: int) -> object:
    """One msgpack value of at most `items_max` items, without extensions; typed error otherwise."""
    size, items = len(data), 0

    def counted(container: Any) -> Any:
        nonlocal items
        items += len(container)
        if items > items_max:
            raise _TooManyError
        return container

    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            list_hook=counted,
            object_hook=counted,
            max_bin_len=size,
            max_str_len=size,
            max_array_len=items_max,
            max_map_len=items_max,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedFrameError(f"not msgpack: {type(error).__name__}") from error


# ------------------------------------------------------------------------------ messages as lists


def _members(claims: tuple[MemberClaim, ...]) -> list[list[Any]]:
    return [
        [c.replica, c.address, c.incarnation, int(c.status), c.journalled]
        + ([c.challenge] if c.challenge else [])
        for c in claims
    ]


def _digest(digest: Digest) -> list[Any]:
    rest = [digest.rest, digest.state] if digest.state else [digest.rest] if digest.rest else []
    return [digest.hash, int(digest.tier), dict(digest.vector), *rest]


def _hashes(given: HashesGiven) -> list[Any]:
    """Blocks by origin: [origin, [number, ...], their hashes in one piece]."""
    origins: dict[str, tuple[list[int], list[bytes]]] = {}
    for origin, number, found in given.blocks:
        numbers, hashes = origins.setdefault(origin, ([], []))
        numbers.append(number)
        hashes.append(found)
    rows = [[origin, numbers, b"".join(found)] for origin, (numbers, found) in origins.items()]
    return [given.hash, rows, given.more]


def _need(value: object, kind: type[T]) -> T:
    """The value, which has to be of exactly this type."""
    if type(value) is not kind:
        raise MalformedFrameError(f"a {kind.__name__} was expected, not {type(value).__name__}")
    return value


def _natural(value: object) -> int:
    """A count."""
    number = _need(value, int)
    if not 0 <= number <= COUNT_MAX:
        raise MalformedFrameError("a count is negative or beyond 63 bits")
    return number


def _name(value: object) -> str:
    """An id or an address."""
    text = _need(value, str)
    if len(text) > NAME_BYTES_MAX:
        raise MalformedFrameError(f"a name is longer than {NAME_BYTES_MAX} characters")
    return text


def _parse_vector(value: object) -> dict[str, int]:
    if len(_need(value, dict)) > ORIGINS_MAX:
        raise FrameTooLargeError(f"a vector has at most {ORIGINS_MAX} origins")
    return {_name(k): _natural(v) for k, v in _need(value, dict).items()}


def _parse_members(value: object) -> tuple[MemberClaim, ...]:
    claims = []
    for claim in _need(value, list):
        replica, address, incarnation, status, journalled = _row(claim, 5)
        try:
            known = Status(_natural(status))
        except ValueError:
            continue  # a status of a later release says nothing to this one
        if _natural(incarnation) > INCARNATION_MAX:
            continue  # nobody lives that long; and its subject could not refute it
        number, keeps = _natural(incarnation), _need(journalled, bool)
        given = _need([*_need(claim, list)[5:6], NOBODY][0], bytes)
        if len(given) not in {0, CHALLENGE_BYTES}:
            raise MalformedFrameError(f"a challenge has {CHALLENGE_BYTES} bytes")
        claims.append(MemberClaim(_name(replica), _name(address), number, known, keeps, given))
    return tuple(claims)


def _parse_digest(value: object) -> Digest:
    digest, tier, vector = _row(value, 3)
    if _natural(tier) > max(Tier):
        raise MalformedFrameError(f"unknown digest tier {tier!r}")
    fields = _need(value, list)
    rest = _need(fields[3], bytes) if tier == Tier.CURRENT and len(fields) > 3 else b""
    state = _need(fields[4], bytes) if len(fields) > 4 else b""
    if len(state) not in {0, HASH_BYTES}:
        raise MalformedFrameError("a digest of a state has 16 bytes")
    return Digest(_need(digest, bytes), Tier(tier), _parse_vector(vector), rest, state)


def _row(value: object, length: int) -> list[Any]:
    """The first `length` fields; trailing ones belong to a later release."""
    fields = _need(value, list)
    if len(fields) < length:
        raise MalformedFrameError(f"{length} fields were expected, {len(fields)} came")
    return fields[:length]


def _parse_synced(body: object) -> Synced:
    digest, delta, more, reset, members = _row(body, 5)
    return Synced(
        _parse_digest(digest),
        _need(delta, bytes),
        _need(more, bool),
        _need(reset, bool),
        _parse_members(members),
    )


def _parse_sync(body: object) -> Sync:
    digest, members, delta = _row(body, 3)
    table = _need([*_need(body, list)[3:4], b""][0], bytes)
    if len(table) not in {0, TABLE_BYTES}:
        raise MalformedFrameError(f"a digest of a table has {TABLE_BYTES} bytes")
    return Sync(_parse_digest(digest), _parse_members(members), _need(delta, bytes), table)


def _parse_push(body: object) -> Push:
    delta, told = _row(body, 2)
    return Push(_need(delta, bytes), tuple(_natural(t) for t in _need(told, list)))


def _parse_probe(body: object) -> Probe:
    target, members = _row(body, 2)
    return Probe(_name(target), _parse_members(members))


def _parse_probed(body: object) -> Probed:
    reached, members = _row(body, 2)
    return Probed(_need(reached, bool), _parse_members(members))


def _parse_wanted(body: object) -> ChunkWanted:
    set_id, index = _row(body, 2)
    return ChunkWanted(_need(set_id, bytes), _natural(index))


def _parse_given(body: object) -> ChunkGiven:
    set_id, index, total, data = _row(body, 4)
    return ChunkGiven(_need(set_id, bytes), _natural(index), _natural(total), _need(data, bytes))


def _parse_refused(body: object) -> Refused:
    status, code, text = _row(body, 3)
    return Refused(_natural(status), _name(code), _need(text, str))


def _parse_block(origin: object, number: object) -> tuple[str, int]:
    return _name(origin), _natural(number)


def _parse_hashes_wanted(body: object) -> HashesWanted:
    digest, origin, number = _row(body, 3)
    if _need(number, int) < -1:
        raise MalformedFrameError("a block has no such number")
    return HashesWanted(_need(digest, bytes), (_name(origin), number))


def _parse_hashes(body: object) -> HashesGiven:
    digest, rows, more = _row(body, 3)
    blocks: list[tuple[str, int, bytes]] = []
    for row in _need(rows, list):
        origin, numbers, joined = _row(row, 3)
        if len(_need(joined, bytes)) != HASH_BYTES * len(_need(numbers, list)):
            raise MalformedFrameError("blocks and hashes do not match")
        for index, number in enumerate(numbers):
            found = joined[HASH_BYTES * index : HASH_BYTES * (index + 1)]
            blocks.append((*_parse_block(origin, number), found))
    return HashesGiven(_need(digest, bytes), tuple(blocks), _need(more, bool))


def _parse_blocks_wanted(body: object) -> BlocksWanted:
    digest, flat = _row(body, 2)
    if len(_need(flat, list)) % 2 or len(flat) > 2 * BLOCKS_MAX:
        raise MalformedFrameError(f"blocks come in pairs, {BLOCKS_MAX} at most")
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return BlocksWanted(_need(digest, bytes), tuple(_parse_block(*pair) for pair in pairs))


def _parse_positions_wanted(body: object) -> PositionsWanted:
    (origins,) = _row(body, 1)
    if not 1 <= len(_need(origins, list)) <= ORIGINS_ASKED_MAX:
        raise MalformedFrameError(f"positions of 1 to {ORIGINS_ASKED_MAX} origins are told at once")
    return PositionsWanted(tuple(map(_name, origins)))


# The numbered table of kinds: a number, once given, is never reused.
_TABLE: tuple[tuple[int, type, Callable[[Any], list[Any]], Callable[[object], Message]], ...] = (
    (
        1,
        Sync,
        lambda m: [
            _digest(m.digest),
            _members(m.members),
            m.delta,
            *([m.table] if m.table else []),
        ],
        _parse_sync,
    ),
    (
        2,
        Synced,
        lambda m: [_digest(m.digest), m.delta, m.more, m.reset, _members(m.members)],
        _parse_synced,
    ),
    (3, Push, lambda m: [m.delta, list(m.told)], _parse_push),
    (4, Ack, lambda m: [dict(m.vector)], lambda b: Ack(_parse_vector(_row(b, 1)[0]))),
    (5, Probe, lambda m: [m.target, _members(m.members)], _parse_probe),
    (6, Probed, lambda m: [m.reached, _members(m.members)], _parse_probed),
    (7, ChunkWanted, lambda m: [m.set_id, m.index], _parse_wanted),
    (
        8,
        ChunkGiven,
        lambda m: [m.set_id, m.index, m.total, m.data],
        _parse_given,
    ),
    (9, Leave, lambda m: [_members(m.members)], lambda b: Leave(_parse_members(_row(b, 1)[0]))),
    (10, Refused, lambda m: [m.status, m.code, m.text], _parse_refused),
    (11, HashesWanted, lambda m: [m.hash, *m.after], _parse_hashes_wanted),
    (12, HashesGiven, _hashes, _parse_hashes),
    (
        13,
        BlocksWanted,
        lambda m: [m.hash, [part for block in m.blocks for part in block]],
        _parse_blocks_wanted,
    ),
    (14, PositionsWanted, lambda m: [list(m.origins)], _parse_positions_wanted),
)
_BY_TYPE = {kind: (number, render) for number, kind, render, _ in _TABLE}
_BY_NUMBER = {number: parse for number, _, _, parse in _TABLE}


# ---------------------------------------------------------------------------- sealing and opening


class Wire:
    """Seals and opens the frames of one replica in one boot; pure (the boot id is given).

    Args:
        cluster, namespace: a frame for another one is refused.
        keys: none for loopback.
        boot: 8 bytes that no other boot uses; the greater, the later of two boots of one id.
        config: limits.
        rules: digest of the access policy that this end checks; b"" for none.
        seed: random bytes for the challenges of this boot, by default its id.
    """

    __slots__ = (
        "_boot",
        "_cluster",
        "_config",
        "_keys",
        "_namespace",
        "_number",
        "_rules",
        "_windows",
        "bandwidth",
        "bytes_by_kind",
        "freshness",
    )

    def __init__(
        self,
        *,
        cluster: str,
        namespace: str,
        keys: Keyring,
        boot: bytes,
        config: Config,
        rules: bytes = b"",
        seed: bytes = b"",
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._keys = keys
        self._rules = rules
        self._boot = boot
        self._config = config
        self._number = 0
        self.freshness = Freshness(seed or boot, max(CHALLENGE_S, config.total_timeout_s))
        self.bandwidth = TokenBucket(config.bandwidth_bytes_per_s)
        self.bytes_by_kind: Counter[tuple[str, str]] = Counter()
        """(direction, kind of message) -> bytes of frames, the refused ones left out."""
        # (name, boot id) -> (highest number seen, bitmap of the WINDOW numbers below it)
        self._windows: Shares[tuple[str, bytes], tuple[int, int]] = Shares(
            BOOTS_PER_NAME_MAX, BOOTS_MAX, itemgetter(0)
        )

    @property
    def boot(self) -> bytes:
        """The boot id that this end seals with."""
        return self._boot

    @property
    def last_number(self) -> int:
        """The number of the frame sealed last; an answer refers to it."""
        return self._number

    def seal(
        self,
        replica: str,
        message: Message,
        *,
        answers: int = 0,
        name: str = "",
        challenge: bytes = NOBODY,
    ) -> bytes:
        """The frame of `message`; O(size). Each call takes a fresh number.

        Args:
            replica: the id of the sender.
            message: what to say.
            answers: the number of the request that it answers.
            name: of its receiver, who may have a key of its own.
            challenge: of its receiver; without one it will be refused as stale.
        """
        self._number += 1
        number, render = _BY_TYPE[type(message)]
        body = cast("bytes", msgpack.packb(render(message)))
        flags = 0
        if len(body) > self._config.compress_above_bytes and _shrinks(body):
            packed = len(body).to_bytes(4, "big") + zlib.compress(body, 1)
            if len(packed) < len(body):
                body, flags = packed, COMPRESSED
        given = self.freshness.current
        source: list[object] = [replica, self._boot, self._number, answers, challenge, given]
        if self._rules:
            source.append(self._rules)
        outer = [VERSION, self._cluster, number, flags, source, self._namespace, body]
        frame = cast("bytes", msgpack.packb(outer))
        frame += self._keys.trailer(frame, name)
        self.bytes_by_kind["sent", type(message).__name__.lower()] += len(frame)
        if carries_state(message):
            self.bandwidth.spend(len(frame))
        return frame

    def answer(self, replica: str, message: Message, asker: Asker) -> bytes:
        """The frame of an answer; O(size)."""
        number, name, challenge = asker.number, asker.principal, asker.challenge
        return self.seal(replica, message, answers=number, name=name, challenge=challenge)

    def principal_of(self, name: str) -> str:
        """The principal of an answer of that agent: it has the key that it was asked with."""
        return self._keys.principal_of(name)

    def open(self, frame: bytes) -> Envelope:
        """Both steps.

        Raises:
            FrameError: of the kind that fits; nothing was learned from the frame.
        """
        return self.read(self.look(frame))

    def look(self, frame: bytes) -> Head:
        """Authenticate a frame; who sent it, so that he can be answered whatever becomes of it.

        Raises:
            FrameError: it says nothing of itself.
        """
        if len(frame) > self._config.body_bytes_max:
            raise FrameTooLargeError(f"a frame of {len(frame)} bytes is over the limit")
        signed, principal = self._keys.opened(frame)
        outer = _unpack(signed, OUTER_ITEMS_MAX)
        version = _row(outer, 1)[0]
        if version != VERSION:
            raise UnsupportedVersionError(_natural(version), VERSION, VERSION)
        _, cluster, kind, flags, source, namespace, body = _row(outer, 7)
        replica, boot, number, answers, to, challenge = _row(source, 6)
        if len(_need(boot, bytes)) != BOOT_BYTES:
            raise MalformedFrameError(f"a boot id has {BOOT_BYTES} bytes")
        if len(_need(challenge, bytes)) != CHALLENGE_BYTES:
            raise MalformedFrameError(f"a challenge has {CHALLENGE_BYTES} bytes")
        return Head(
            _name(replica),
            boot,
            Asker(_natural(number), principal, challenge),
            _natural(answers),
            _need(to, bytes),
            [*_need(source, list)[6:7], b""][0],
            (cluster, namespace, kind, flags, body),
            len(frame),
        )

    def read(self, head: Head) -> Envelope:
        """Check and decode what was looked at.

        Raises:
            FrameError: of the kind that fits; nothing was learned from the frame.
        """
        cluster, namespace, kind, flags, body = head.rest
        if (cluster, namespace) != (self._cluster, self._namespace):
            raise WrongClusterError(
                f"the frame is for {str(cluster)[:40]!r}/{str(namespace)[:40]!r}, "
                f"this is {self._cluster!r}/{self._namespace!r}"
            )
        if head.rules != self._rules:
            raise RulesDifferError("the sender checks other rules than this agent does")
        if not self.freshness.holds(head.to):
            raise StaleFrameError("the frame names no challenge that holds here")
        asker = head.asker
        self._admit((asker.principal or agent_of(head.replica), head.boot), asker.number)
        parse = _BY_NUMBER.get(_natural(kind))
        if parse is None:
            raise UnknownKindError(f"kind {kind} is not known here")
        data = self._inflated(_need(body, bytes), _natural(flags))
        message = parse(_unpack(data, BODY_ITEMS_MAX))
        self.bytes_by_kind["received", type(message).__name__.lower()] += head.size
        return Envelope(head.replica, head.boot, asker, head.answers, message)

    def _inflated(self, body: bytes, flags: int) -> bytes:
        if not flags & COMPRESSED:
            return body
        declared = int.from_bytes(body[:4], "big")
        if declared > self._config.body_bytes_max:
            raise FrameTooLargeError(f"the body declares {declared} bytes when inflated")
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(body[4:], max(declared, 1))
        except zlib.error as error:
            raise MalformedFrameError("the body does not inflate") from error
        if len(plain) != declared or not inflater.eof:
            raise MalformedFrameError("the body is not of its declared size")
        return plain

    def _admit(self, boot: tuple[str, bytes], number: int) -> None:
        """RFC 4303's sliding window: each number of a boot once, and none older than WINDOW.

        A name has windows of its own: nobody uses up, or pushes out, the numbers of another's boot.
        """
        highest, seen = self._windows.get(boot, (0, 0))
        if number > highest:
            ahead = number - highest
            seen = ((seen << ahead) | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            highest = number
        else:
            bit = 1 << (highest - number)
            if highest - number >= WINDOW or seen & bit:
                raise ReplayedFrameError(f"frame {number} of this boot was seen before")
            seen |= bit
        self._windows[boot] = (highest, seen)


# ----------------------------------------------------------------------------------------- hashes


def vector_hash(vector: Mapping[str, int]) -> bytes:
    """16 bytes that are equal for equal vectors; O(what changed) for one that follows another."""
    return VersionVector(vector).digest


def told_hash(replica: str) -> int:
    """32 bits that stand for a replica id in `Push.told`; a collision only delays a forward."""
    return int.from_bytes(hashlib.blake2b(replica.encode(), digest_size=4).digest(), "big")

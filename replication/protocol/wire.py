"""Frames: the only room that knows how a message looks as bytes.

Theory of operation. A frame is a msgpack array, positional, with the body as opaque bytes:

    [version, cluster, kind, flags, src, namespace, body]  [MAC, if there are keys: see `keyring`]
     src = [replica id, boot id, number, answers, rules]

The MAC is compared in constant time *before* anything is decoded. `rules` is the digest of the
sender's rules (absent without any): agents of different rules do not exchange state. `number`
counts the frames of one boot: a sliding window per boot id accepts each number once. `answers` is
the number of the request that this frame answers. Unknown trailing fields are ignored; unknown
kinds are an own error so that the machine can count and skip them.

Parse, don't validate: behind `Wire.open` there is no `Any`. Every shape and size is checked here,
forged lengths allocate nothing because each msgpack limit is set to what the frame could hold, and
a compressed body (flag 1, zlib) declares its size, which is checked before inflating.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgpack  # type: ignore[import-untyped]  # it ships no types

from replication.errors import (
    FrameTooLargeError,
    MalformedFrameError,
    ReplayedFrameError,
    RulesDifferError,
    UnsupportedVersionError,
    WrongClusterError,
)
from replication.protocol.bodies import BY_NUMBER, BY_TYPE, name, natural, need, row
from replication.protocol.messages import carries_state
from replication.protocol.token_bucket import Allowance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replication.config import Config
    from replication.protocol.keyring import Keyring
    from replication.protocol.messages import Message

VERSION = 1
COMPRESSED = 1
BOOT_BYTES = 8
OUTER_ITEMS_MAX = 64
BODY_ITEMS_MAX = 50_000
"""Items of all lists and maps of a body together: their number is time on the loop."""
WINDOW = 1024
BOOTS_MAX = 4096


class UnknownKindError(MalformedFrameError):
    """A kind of a later release: counted, skipped, answered with a refusal."""

    code = "unknown-kind"
    hint = "the sender is newer; nothing to do"


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened frame: who sent it, which frame it was, which one it answers, and the message.

    `principal` is the name that its key speaks for, "" for a key that speaks for anybody.
    """

    replica: str
    boot: bytes
    number: int
    answers: int
    message: Message
    principal: str = ""


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


# -------------------------------------------------------------------------- sealing and opening


class Wire:
    """Seals and opens the frames of one replica in one boot; pure (the boot id is given).

    Args:
        cluster, namespace: a frame for another one is refused.
        keys: none for loopback.
        boot: 8 bytes that no other boot uses.
        config: limits.
        rules: digest of the rules that this end checks; b"" for none.
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
        "allowance",
        "bytes_by_kind",
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
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._keys = keys
        self._rules = rules
        self._boot = boot
        self._config = config
        self._number = 0
        self.allowance = Allowance(config.bandwidth_bytes_per_s)
        self.bytes_by_kind: Counter[tuple[str, str]] = Counter()
        """(direction, kind of message) -> bytes of frames, the refused ones left out."""
        # boot id -> (highest number seen, bitmap of the WINDOW numbers below it)
        self._windows: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    @property
    def boot(self) -> bytes:
        """The boot id that this end seals with."""
        return self._boot

    @property
    def last_number(self) -> int:
        """The number of the frame sealed last; an answer refers to it."""
        return self._number

    def seal(self, replica: str, message: Message, *, answers: int = 0, to: str = "") -> bytes:
        """The frame of `message`; O(size). Each call takes a fresh number.

        Args:
            replica: the id of the sender.
            message: what to say.
            answers: the number of the request that it answers.
            to: the name of its receiver, who may have a key of its own.
        """
        self._number += 1
        number, render = BY_TYPE[type(message)]
        body = cast("bytes", msgpack.packb(render(message)))
        flags = 0
        if len(body) > self._config.compress_above_bytes:
            packed = len(body).to_bytes(4, "big") + zlib.compress(body, 1)
            if len(packed) < len(body):
                body, flags = packed, COMPRESSED
        source: list[object] = [replica, self._boot, self._number, answers]
        if self._rules:
            source.append(self._rules)
        outer = [VERSION, self._cluster, number, flags, source, self._namespace, body]
        frame = cast("bytes", msgpack.packb(outer))
        frame += self._keys.trailer(frame, to)
        self.bytes_by_kind["sent", type(message).__name__.lower()] += len(frame)
        if carries_state(message):
            self.allowance.spend(len(frame))
        return frame

    def open(self, frame: bytes) -> Envelope:
        """Authenticate, check, decode.

        Raises:
            FrameError: of the kind that fits; nothing was learned from the frame.
        """
        if len(frame) > self._config.body_bytes_max:
            raise FrameTooLargeError(f"a frame of {len(frame)} bytes is over the limit")
        signed, principal = self._keys.opened(frame)
        outer = _unpack(signed, OUTER_ITEMS_MAX)
        version = row(outer, 1)[0]
        if version != VERSION:
            raise UnsupportedVersionError(natural(version), VERSION, VERSION)
        _, cluster, kind, flags, source, namespace, body = row(outer, 7)
        if (cluster, namespace) != (self._cluster, self._namespace):
            raise WrongClusterError(
                f"the frame is for {str(cluster)[:40]!r}/{str(namespace)[:40]!r}, "
                f"this is {self._cluster!r}/{self._namespace!r}"
            )
        replica, boot, number, answers = row(source, 4)
        if len(need(boot, bytes)) != BOOT_BYTES:
            raise MalformedFrameError("a boot id has 8 bytes")
        self._admit(principal.encode() + boot, natural(number))
        if [self._rules] != [*source[4:5], b""][:1]:
            raise RulesDifferError("the sender checks other rules than this agent does")
        parse = BY_NUMBER.get(natural(kind))
        if parse is None:
            raise UnknownKindError(f"kind {kind} is not known here")
        body = self._inflated(need(body, bytes), natural(flags))
        message = parse(_unpack(body, BODY_ITEMS_MAX))
        self.bytes_by_kind["received", type(message).__name__.lower()] += len(frame)
        return Envelope(name(replica), boot, number, natural(answers), message, principal)

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

    def _admit(self, boot: bytes, number: int) -> None:
        """RFC 4303's sliding window: each number of a boot once, and none older than WINDOW.

        An own key has windows of its own: it cannot use up the numbers of somebody else's boot.
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
        self._windows.move_to_end(boot)
        if len(self._windows) > BOOTS_MAX:
            self._windows.popitem(last=False)


def vector_hash(vector: Mapping[str, int]) -> bytes:
    """16 bytes that are equal for equal vectors; O(origins)."""
    text = msgpack.packb(sorted(item for item in vector.items() if item[1]))
    return hashlib.blake2b(text, digest_size=16).digest()


def told_hash(replica: str) -> int:
    """32 bits that stand for a replica id in `Push.told`; a collision only delays a forward."""
    return int.from_bytes(hashlib.blake2b(replica.encode(), digest_size=4).digest(), "big")

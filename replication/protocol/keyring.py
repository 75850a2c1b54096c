"""Who can prove what: the keys that seal frames, and the name that a key speaks for.

Theory of operation. HMAC-SHA-256 (RFC 2104), truncated to half as its section 5 allows, compared in
constant time. Two kinds of keys:

* the *cluster secret* proves "one of us" and no more: all its holders are one principal;
* an agent's *own key* proves a name. The agent holds nothing else; hubs hold the own keys of the
  agents that they serve, and seal what is for one of these with its key. So a leaf that is taken
  over betrays its own name only, and can neither read out nor speak as the others.

    sealed by the secret       frame . MAC(secret, frame)
    sealed by an own key       frame . id(key) . MAC(key, frame . id(key))
    sealed by nothing          frame . CRC-32(frame)

Without keys a frame carries a checksum, for a network that flips bits or cuts frames short. It
proves nothing: whoever can write a frame can write its checksum.

Each kind may have several keys, the one to seal with first: that is how keys are rotated.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.errors import AuthenticationError, DamagedFrameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAC_BYTES = 16
CHECKSUM_BYTES = 4
KEY_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one agent. Without any, damage to a frame is seen and nothing else (loopback).

    Args:
        cluster: keys of the cluster secret.
        own: own keys of this agent, given instead of the secret.
        principals: agent name -> its own keys, at those who serve it.
    """

    cluster: tuple[bytes, ...] = field(default=(), repr=False)
    own: tuple[bytes, ...] = field(default=(), repr=False)
    principals: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)
    _by_id: dict[bytes, tuple[str, bytes]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, keys in (("", self.own), *self.principals.items()):
            self._by_id.update({_key_id(key): (name, key) for key in keys})

    def __bool__(self) -> bool:
        return bool(self.cluster or self._by_id)

    def trailer(self, frame: bytes, name: str = "") -> bytes:
        """What goes behind `frame` on its way to the agent called `name`; O(size)."""
        own = self.own or self.principals.get(name, ())
        if own:
            key_id = _key_id(own[0])
            return key_id + _mac(own[0], frame + key_id)
        return _mac(self.cluster[0], frame) if self.cluster else _checksum(frame)

    def principal_of(self, name: str) -> str:
        """Whose key frames for that agent, and its answers, are sealed with; "" for anybody's."""
        return name if not self.own and name in self.principals else ""

    def opened(self, frame: bytes) -> tuple[bytes, str]:
        """The frame without its trailer, and the name that the key speaks for ("" for anybody's).

        Raises:
            AuthenticationError: no key of ours sealed it.
            DamagedFrameError: there are no keys, and its checksum does not fit.
        """
        if not self:
            if _checksum(frame[:-CHECKSUM_BYTES]) != frame[-CHECKSUM_BYTES:]:
                raise DamagedFrameError("the checksum of the frame does not fit")
            return frame[:-CHECKSUM_BYTES], ""
        signed, mac = frame[:-MAC_BYTES], frame[-MAC_BYTES:]
        if any(hmac.compare_digest(_mac(key, signed), mac) for key in self.cluster):
            return signed, ""
        name, key = self._by_id.get(signed[-KEY_ID_BYTES:], ("", b""))
        if key and hmac.compare_digest(_mac(key, signed), mac):
            return signed[:-KEY_ID_BYTES], name
        raise AuthenticationError("the frame does not carry a MAC of a key that is known here")

    def sealed(self, frame: bytes) -> bool:
        """Whether a key known here sealed the frame (always, without keys). O(size)."""
        if not self:
            return True
        try:
            self.opened(frame)
        except AuthenticationError:
            return False
        return True

    def proof(self, statement: str, to: str = "") -> str:
        """Shows the knowledge of a key, bound to a statement; "" without keys.

        To an agent with an own key it is that key whose knowledge is shown.

        Whoever repeats one proves that statement again and no other: it may open the door to a
        larger body, never to the state, because the frame in it has to authenticate itself.
        """
        keys = self.own or self.principals.get(to, ()) or self.cluster
        return next(_proofs(statement, keys[:1]), "")

    def proves(self, statement: str, shown: str) -> bool:
        """Whether `shown` is the proof of a key known here (always, without keys). O(keys)."""
        return not self or self.prover(statement, shown) is not None

    def prover(self, statement: str, shown: str) -> str | None:
        """The name whose key `shown` proves, "" for a key of anybody's; None: of none. O(keys)."""
        named = [("", key) for key in self.cluster] + list(self._by_id.values())
        for (name, _), proof in zip(named, _proofs(statement, [k for _, k in named]), strict=True):
            # Bytes of a header that are no text come as surrogates, and prove nothing.
            if hmac.compare_digest(proof.encode(), shown.encode(errors="surrogateescape")):
                return name
        return None


def _proofs(statement: str, keys: Iterable[bytes]) -> Iterator[str]:
    data = b"convoca proof " + statement.encode()
    return (hmac.new(key, data, hashlib.sha256).hexdigest()[:32] for key in keys)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "big")


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()[:MAC_BYTES]


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=KEY_ID_BYTES, person=b"convoca key id").digest()

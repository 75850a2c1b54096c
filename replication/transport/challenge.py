"""How an operator proves that he holds the secret, without showing anything that could be kept.

Theory of operation. A token that is sent with each request can be used by whoever it reaches: an
impostor at the address, or anybody on the way. So none is sent::

    operator                                          agent
      |-- GET /challenge?nonce=A ---------------------->|  B = time . dice . MAC(boot, both)
      |<------- B, MAC(key, "agent", A, B) -------------|  the agent proves itself first
      |-- POST /orders, Convoca scope:B:...:proof ----->|  proof = MAC(key, scope, B, method,
      |<------- what came of it ------------------------|     target, Host, SHA-256(body), ...)

`key` is derived from the cluster secret, one for each *scope*: with the key of `page` one sees
sizes and lags, with that of `order` values, and gives orders. The operator sends nothing to an
agent that cannot prove the same secret. A proof is for one request, word for word, to one host,
once, within `CHALLENGE_S`. HMAC-SHA-256 (RFC 2104) throughout, compared in constant time.

The agent keeps nothing for a challenge that it gives, so strangers cannot fill anything by asking:
B carries its own time and is sealed with a key of this boot. What is kept are challenges that were
*met*, until they are too old to be met again; only who holds the secret can add to them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

CHALLENGE_S = 30.0
"""How long a challenge can be met."""
MET_MAX = 4096
"""Most challenges that were met and are not too old; one more is refused for the moment."""
NONCE_CHARACTERS_MAX = 128
SCHEME = "Convoca "
PAGE, ORDER = "page", "order"
PUBLIC = frozenset({"/status", "/metrics"})
"""Pages that show no values: the page token, or the scope of pages, is enough."""
AGENT = "Convoca-Agent"
"""The header of an answer that says which agent gave it; for those who may see the answer."""


def key_of(secret: bytes, scope: str) -> bytes:
    """The key of one scope; the secret cannot be found from it."""
    return hmac.digest(secret, f"convoca operator {scope}".encode(), "sha256")


def _sealed(key: bytes, *words: str) -> str:
    """Over words that cannot run into each other."""
    return hmac.digest(key, json.dumps(words).encode(), "sha256").hex()


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(
        one.encode(errors="surrogateescape"), other.encode(errors="surrogateescape")
    )


def name_of(secret: bytes) -> str:
    """What a log calls whoever holds the secret; it tells two secrets apart, and no more."""
    return hashlib.sha256(b"convoca operator name" + secret).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a proof is for: this request and no other."""

    scope: str
    method: str
    target: str
    """Path and query, see `target_of`."""
    host: str
    body_hash: str
    insecure: bool
    """The operator said that it may travel in the clear."""

    def proof(self, secret: bytes, challenge: str) -> str:
        """The proof of it."""
        words = (challenge, self.method, self.target, self.host, self.body_hash)
        return _sealed(key_of(secret, self.scope), "request", *words, str(int(self.insecure)))

    def header(self, secret: bytes, challenge: str) -> str:
        """The value of `Authorization`."""
        words = (self.scope, challenge, self.body_hash, str(int(self.insecure)))
        return SCHEME + ":".join((*words, self.proof(secret, challenge)))


def target_of(path: str, query: Iterable[tuple[str, str]]) -> str:
    """What a proof says of a path and its query, however they are quoted on the way."""
    return json.dumps([path, sorted(map(list, query))])


def hash_of(body: bytes) -> str:
    """What a proof says of a body."""
    return hashlib.sha256(body).hexdigest()


def introduction(secret: bytes, nonce: str, challenge: str) -> str:
    """What an agent that gives a challenge shows, so that the operator knows who it is."""
    return _sealed(key_of(secret, PAGE), "agent", nonce, challenge)


def secret_of(
    secrets_: Sequence[bytes], nonce: str, challenge: str, shown: Sequence[str]
) -> bytes | None:
    """Which of the operator's secrets the agent has proven; None if it is an impostor's answer."""
    for secret in secrets_:
        mine = introduction(secret, nonce, challenge)
        if any(_equal(mine, each) for each in shown):
            return secret
    return None


@dataclass(frozen=True, slots=True)
class Proven:
    """A proof that holds: who, and what it says of the request."""

    operator: str
    scope: str
    body_hash: str
    insecure: bool


class Challenges:
    """Gives challenges and judges what meets them. `now_s` is a clock that never goes back."""

    def __init__(self, secrets_: tuple[bytes, ...], now_s: Callable[[], float]) -> None:
        self._secrets = secrets_
        self._now_s = now_s
        self._boot = secrets.token_bytes(32)
        self._met: dict[str, float] = {}

    def give(self, nonce: str) -> tuple[str, list[str]]:
        """A challenge, and for each secret the proof that we hold it. O(1) and nothing is kept."""
        plain = f"{int((self._now_s() + CHALLENGE_S) * 1000):x}.{secrets.token_hex(16)}"
        challenge = f"{plain}.{_sealed(self._boot, plain)}"
        return challenge, [introduction(each, nonce, challenge) for each in self._secrets]

    def judge(self, authorization: str, method: str, target: str, host: str) -> Proven | None:
        """Whose proof a request carries; None if it proves nothing. A proof holds once."""
        words = authorization.removeprefix(SCHEME).split(":")
        if not authorization.startswith(SCHEME) or len(words) != 5:
            return None
        scope, challenge, body_hash, insecure, proof = words
        if scope not in {PAGE, ORDER} or insecure not in {"0", "1"}:
            return None
        if not self._is_ours(challenge) or challenge in self._met:
            return None
        asked = Asked(scope, method, target, host, body_hash, insecure == "1")
        for secret in self._secrets:
            if _equal(asked.proof(secret, challenge), proof):
                if not self._remember(challenge):
                    return None
                return Proven(name_of(secret), scope, body_hash, asked.insecure)
        return None

    def _is_ours(self, challenge: str) -> bool:
        plain, _, seal = challenge.rpartition(".")
        if not _equal(_sealed(self._boot, plain), seal):
            return False
        return self._now_s() * 1000 < int(plain.partition(".")[0], 16)

    def _remember(self, challenge: str) -> bool:
        now_s = self._now_s()
        while self._met and next(iter(self._met.values())) <= now_s:
            del self._met[next(iter(self._met))]
        if len(self._met) >= MET_MAX:
            return False
        self._met[challenge] = now_s + CHALLENGE_S
        return True

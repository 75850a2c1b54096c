"""The hash of a set that follows its changes: adding or removing an element costs one step.

Theory of operation. Each element is hashed on its own, to 2 048 bits, and the sum of these is the
state of the hash (AdHash: Bellare, Micciancio 1997; LtHash: Lewi et al. 2019). So nothing has to be
put in order, and what changes is subtracted and added, however large the rest is. What travels is
a hash of the sum. To find two sets of the same sum is a knapsack: with the generalized birthday
attack (Wagner 2002) and 2^14 elements of an attacker's choice it takes more than 2^128 steps, which
is why the sums are that wide.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b, shake_128
from typing import Final

BYTES: Final = 256
HASH_BYTES: Final = 16
_MODULUS: Final = 1 << (8 * BYTES)


def element(data: bytes) -> int:
    """What an element adds to the sum of its set."""
    return int.from_bytes(shake_128(data).digest(BYTES), "big")


@lru_cache(maxsize=4096)
def counted(name: str, count: int) -> int:
    """What (name, count) adds; nothing for a count of 0. Remembered: most of them stay."""
    return element(b"%d " % count + name.encode()) if count else 0


def hash_of(total: int) -> bytes:
    """16 bytes that are equal for equal sets, given the sum of their elements."""
    return blake2b((total % _MODULUS).to_bytes(BYTES, "big"), digest_size=HASH_BYTES).digest()

"""Session tokens: what an agent had seen at some moment, to be waited for anywhere.

Theory of operation. Because one vector covers all documents of a namespace, a version vector is an
exact name for a state's history: an agent whose vector covers a token has every event the giver had
seen. That gives read-your-writes and monotonic reads across agents for the price of passing a token
along with a message (Terry et al. 1994).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crdt import VersionVector

if TYPE_CHECKING:
    from collections.abc import Mapping


def covers(have: Mapping[str, int], want: Mapping[str, int]) -> bool:
    """Whether `have` includes every event of `want`; O(len(want))."""
    if isinstance(want, VersionVector):
        return want <= have
    return all(have.get(origin, 0) >= seq for origin, seq in want.items())


@dataclass(frozen=True, slots=True)
class Version:
    """A token: a version vector. `<=` asks whether the right side has seen all of the left."""

    vector: Mapping[str, int]

    def __le__(self, other: Version) -> bool:
        return covers(other.vector, self.vector)

    def beyond(self, other: Version) -> dict[str, int]:
        """Origin -> how many of its events this names and `other` does not; O(origins)."""
        have = other.vector
        return {o: s - have.get(o, 0) for o, s in VersionVector(self.vector).above(have).items()}

    def encode(self) -> str:
        """As text, to be sent along with a message; O(origins)."""
        return json.dumps(dict(self.vector), separators=(",", ":"), sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> Version:
        """The token that `encode` wrote.

        Raises:
            ValueError: the text is not a token.
        """
        vector = json.loads(text)
        if not isinstance(vector, dict) or not all(type(seq) is int for seq in vector.values()):
            raise ValueError(f"{text[:40]!r} is not a version token")
        return cls(vector)

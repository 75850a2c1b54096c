"""How far this replica is behind what it was told of, per origin; for people, not for decisions.

Theory of operation. Every digest, answer and acknowledgement names seqs. One that is beyond ours is
remembered with the moment when it was first heard, until our vector reaches it. So the lag of an
origin is a lower bound: events that nobody told of are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Behind:
    """Origins that peers told more of than is here; at most one entry per origin."""

    _told: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """origin -> (seq that is lacked since then, greatest seq told, when first heard)."""

    def heard(self, theirs: Mapping[str, int], mine: Mapping[str, int], now_s: float) -> None:
        """A peer told where it stands; O(len(theirs))."""
        for origin, seq in theirs.items():
            stands = mine.get(origin, 0)
            if seq <= stands:
                continue
            lacked, most, since_s = self._told.get(origin, (seq, seq, now_s))
            if stands >= lacked:  # that was reached: what is lacked now is lacked since now
                lacked, since_s = seq, now_s
            self._told[origin] = (lacked, max(most, seq), since_s)

    def lag(self, mine: Mapping[str, int], now_s: float) -> dict[str, tuple[int, float]]:
        """Origin -> (events lacked, seconds since the oldest of them was told); O(origins)."""
        for origin in [o for o, (_, most, _) in self._told.items() if most <= mine.get(o, 0)]:
            del self._told[origin]
        return {
            origin: (most - mine.get(origin, 0), now_s - since_s)
            for origin, (_, most, since_s) in self._told.items()
        }

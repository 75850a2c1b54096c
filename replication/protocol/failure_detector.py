"""Whom to probe, how long to wait, and when silence becomes suspicion.

Theory of operation. SWIM (Das et al. 2002): one member per interval, in an order that is shuffled
anew after each full turn (so the time to first detection is bounded); without an answer within the
timeout, `indirect_probes` others are asked to try; without one of those by the end of the interval,
the member is suspected. Any authenticated frame from a member counts as its answer.

Lifeguard (Dadgar et al. 2018): a member that is slow itself sees everybody fail. `health` rises
when own probes fail or when others suspect us, falls when probes succeed, and stretches interval
and timeout by `health + 1`: a blocked event loop accuses nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replication.config import Config
    from replication.protocol.membership import Dice, Member


@dataclass(slots=True)
class Probing:
    """A probe under way: of whom, since when, and whether helpers were asked already."""

    replica: str
    started_s: float
    helped: bool = False


@dataclass(slots=True)
class FailureDetector:
    """Decides; sends nothing. Time and dice are arguments."""

    config: Config
    dice: Dice
    health: int = 0
    probing: Probing | None = None
    next_s: float = 0.0
    _turn: list[str] = field(default_factory=list)

    def interval_s(self) -> float:
        """Between two probes, stretched by local health."""
        return self.config.probe_interval_s * (self.health + 1)

    def timeout_s(self) -> float:
        """How long a direct probe may take before helpers are asked."""
        return self.config.probe_timeout_s * (self.health + 1)

    @property
    def wake_s(self) -> float:
        """When there is something to decide."""
        if self.probing is None:
            return self.next_s
        wait_s = self.interval_s() if self.probing.helped else self.timeout_s()
        return self.probing.started_s + wait_s

    def begin(self, live: Sequence[Member], now_s: float) -> Member | None:
        """The member to probe now, if it is time to and there is one; O(1) amortised."""
        if self.probing is not None or now_s < self.next_s:
            return None
        self.next_s = now_s + self.interval_s()
        by_id = {member.replica: member for member in live}
        while by_id:
            if not self._turn:
                self._turn = self.dice.sample(sorted(by_id), len(by_id))
            member = by_id.get(self._turn.pop())
            if member is None:
                continue
            if now_s - member.heard_s < self.config.probe_interval_s:
                return None  # fresh evidence is as good as an answer
            self.probing = Probing(member.replica, now_s)
            return member
        return None

    def heard(self, replica: str) -> None:
        """The member answered, directly, through a helper, or by any frame of its own."""
        if self.probing is not None and self.probing.replica == replica:
            self.probing = None
            self.health = max(0, self.health - 1)

    def helpers(self, live: Sequence[Member], now_s: float) -> list[Member]:
        """Who is to be asked to probe in our place, once, after the direct timeout."""
        probing = self.probing
        if probing is None or probing.helped or now_s - probing.started_s < self.timeout_s():
            return []
        probing.helped = True
        others = sorted((m for m in live if m.replica != probing.replica), key=lambda m: m.replica)
        return self.dice.sample(others, min(self.config.indirect_probes, len(others)))

    def verdict(self, now_s: float) -> str | None:
        """The replica that is to be suspected now: nobody reached it for a whole interval."""
        probing = self.probing
        if probing is None or now_s - probing.started_s < self.interval_s():
            return None
        self.probing = None
        self.health = min(self.config.local_health_max, self.health + 1)
        return probing.replica

    def accused(self) -> None:
        """Others suspect this replica: perhaps it is slow."""
        self.health = min(self.config.local_health_max, self.health + 1)

    def stalled(self, late_s: float) -> None:
        """The loop itself was away for `late_s`: running waits start anew, nobody is accused."""
        if late_s < self.config.probe_timeout_s:
            return
        self.health = min(self.config.local_health_max, self.health + 1)
        if self.probing is not None:
            self.probing.started_s += late_s

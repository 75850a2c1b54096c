"""When to gossip, and with whom.

Theory of operation. A round of push-pull with `fanout` random live peers reaches N replicas in
O(log N) rounds (Karp et al. 2000). A round in which nothing changed doubles the interval up to a
ceiling; news resets it. Jitter keeps agents from marching in step. Because dead is not gone, and
because both halves of a healed partition believe the other half dead, a round tries one dead member
and one seed address with small probability - always, when it has fewer live peers than it wants.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replication.config import Config
    from replication.protocol.membership import Dice, Member, Membership

REVISIT = 0.1
"""Probability per round of trying a dead member, and of trying a seed that is not a live member."""


@dataclass(slots=True)
class Rounds:
    """The schedule of one replica. Time and dice are arguments."""

    config: Config
    dice: Dice
    seeds: tuple[str, ...]
    due_s: float
    interval_s: float = 0.0
    _before: dict[str, int] = field(default_factory=dict)

    def news(self, now_s: float) -> None:
        """Something changed: gossip at full pace again."""
        if self.interval_s > self.config.gossip_interval_s:
            self.hurry(now_s + self.config.gossip_interval_s)

    def hurry(self, due_s: float) -> None:
        """The next round is due at `due_s` at the latest."""
        self.interval_s = self.config.gossip_interval_s
        self.due_s = min(self.due_s, due_s)

    def forget(self, address: str) -> None:
        """This seed turned out to be ourselves, under another name."""
        self.seeds = tuple(seed for seed in self.seeds if seed != address)

    def begin(
        self, vector: Mapping[str, int], members: Membership, now_s: float
    ) -> tuple[list[Member], list[str]]:
        """Who to sync with now (members, and addresses not known as members); empty if not due."""
        if now_s < self.due_s:
            return [], []
        idle = vector == self._before
        self._before = dict(vector)
        pace = self.config.gossip_interval_s
        self.interval_s = (
            min(max(self.interval_s, pace) * 2, self.config.gossip_interval_max_s) if idle else pace
        )
        live = members.live()
        wanted = self.config.fanout if len(live) < 300 else self.config.fanout_above_300
        partners = self.dice.sample(live, min(wanted, len(live)))
        dead = members.dead()
        known = {place for m in live for place in (m.address, m.via)}
        strangers = [seed for seed in self.seeds if seed not in known]
        lonely = len(live) < wanted and bool(dead or strangers)
        if dead and (lonely or self.dice.random() < REVISIT):
            partners += self.dice.sample(dead, 1)
        if live and strangers:
            revisit = lonely or self.dice.random() < REVISIT
            strangers = self.dice.sample(strangers, 1) if revisit else []
        if lonely:
            self.interval_s = pace
        spread = 1 + self.config.gossip_jitter * (2 * self.dice.random() - 1)
        self.due_s = now_s + self.interval_s * spread
        return partners, strangers

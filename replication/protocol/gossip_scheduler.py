"""When to gossip, and with whom.

Theory of operation. A round of push-pull with `fanout` random live peers reaches N replicas in
O(log N) rounds (Karp et al. 2000). A round in which nothing changed doubles the interval up to a
ceiling; news resets it. Jitter keeps agents from marching in step. Because dead is not gone, and
because both halves of a healed partition believe the other half dead, a round tries one dead member
and one seed address with small probability - always, when it has fewer live peers than it wants.

A partner that did not answer within half an interval - its frames were lost, it hangs, it refused
the connection - is replaced by another one, once per round: what an exchange costs on a bad network
is time, and a round has time left. Without loss nothing is replaced and nothing is paid.

After `WIDESPREAD_ROUNDS` rounds a write has reached practically everybody. `widespread` is a vector
at least that old: an exchange with somebody of whom we know nothing fresh brings what came since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.protocol.messages import Sync

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replication.config import Config
    from replication.protocol.exchanges import Opened
    from replication.protocol.membership import Dice, Member, Membership

REVISIT = 0.1
"""Probability per round of trying a dead member, and of trying a seed that is not a live member."""

REPLACED_AFTER = 0.5
"""Share of the interval within which a partner is to answer; far above any round trip."""

WIDESPREAD_ROUNDS = 8
"""A thousand replicas are equal after 6 rounds; a hundred that lose half of all frames, too."""


@dataclass(slots=True)
class GossipScheduler:
    """The schedule of one replica. Time and dice are arguments."""

    config: Config
    dice: Dice
    seeds: tuple[str, ...]
    due_s: float
    widespread: Mapping[str, int]
    """My vector of at least `WIDESPREAD_ROUNDS` rounds ago, at most twice that; or of the start."""
    interval_s: float = 0.0
    _spreading: Mapping[str, int] = field(init=False)
    _count: int = 0
    _before: dict[str, int] = field(default_factory=dict)
    _asked: frozenset[str] = frozenset()
    _silent: set[str] = field(default_factory=set)
    """Partners of this round that did not answer yet."""
    _replace_s: float = math.inf

    def __post_init__(self) -> None:
        self._spreading = self.widespread

    @property
    def wake_s(self) -> float:
        """When `begin` has something to say."""
        return min(self.due_s, self._replace_s) if self._silent else self.due_s

    def answered(self, opened: Opened) -> None:
        """An exchange came to its end: if a partner's, nobody has to take its place."""
        if isinstance(opened.request, Sync):
            self._silent.discard(opened.replica)

    def some(self, members: Sequence[Member], count: int) -> list[Member]:
        """`count` of the members, or all if they are fewer."""
        return self.dice.sample(members, min(count, len(members)))

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
            return self._replacements(members, now_s), []
        idle = vector == self._before
        self._before = dict(vector)
        if self._count % WIDESPREAD_ROUNDS == 0:
            self.widespread, self._spreading = self._spreading, self._before
        self._count += 1
        pace = self.config.gossip_interval_s
        self.interval_s = (
            min(max(self.interval_s, pace) * 2, self.config.gossip_interval_max_s) if idle else pace
        )
        live = members.live()
        wanted = self.config.fanout if len(live) < 300 else self.config.fanout_above_300
        partners = self.some(live, wanted)
        self._asked = frozenset(member.replica for member in partners)
        self._silent = set(self._asked)
        self._replace_s = now_s + REPLACED_AFTER * pace
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

    def _replacements(self, members: Membership, now_s: float) -> list[Member]:
        """Other partners for those that are silent, when they had their time; once per round."""
        if now_s < self._replace_s:
            return []
        self._replace_s = math.inf
        others = [m for m in members.live() if m.replica not in self._asked]
        return self.some(others, len(self._silent))

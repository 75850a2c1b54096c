"""When to gossip, and with whom.

Theory of operation. A round of push-pull with `fanout` random live peers reaches N replicas in
O(log N) rounds (Karp et al. 2000). A round in which nothing changed and everybody answered doubles
the interval up to a ceiling; news resets it, and so does a partner that is silent: whatever it
lacks should not wait for the long interval once it can be reached. Jitter keeps agents from
marching in step.

A partner that did not answer within half an interval - its frames were lost, it hangs, it refused
the connection - is replaced by another one, once per round: what an exchange costs on a bad network
is time, and a round has time left. Without loss nothing is replaced and nothing is paid.

Dead is not gone, and after a partition both sides believe the other one dead. So whoever is out of
reach - dead members, and seeds where nobody is known - is tried at the probe's pace, by a small
frame and in turns. An agent with company leaves most of that to others: all who are connected make
`TRIES` an interval together, more if so many are away that a turn would take over `TURN` intervals.

    answers to a try          what follows
    none                      the next turn, in an order that is shuffled anew
    it lives                  a sync with it, and the next tries, at once: what ended for one has
                              ended for others, too (`healed`); rounds at full pace
    somebody says it lives    rounds at full pace, in which this goes on to the others

After `WIDESPREAD_ROUNDS` rounds a write has reached practically everybody. `widespread` is a vector
at least that old: an exchange with somebody of whom we know nothing fresh brings what came since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crdt import VersionVector
from replication.protocol.messages import Sync

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replication.config import Config
    from replication.protocol.exchanges import Opened
    from replication.protocol.membership import Dice, Member, Membership

TRIES = 4
"""Of those out of reach, per interval: by all members of one side together, and at most by one of
them. If each try meets somebody, one interval in fifty goes by without a meeting (e^-4)."""

TURN = 8
"""Intervals in which a side has tried everybody that is out of its reach, `TRIES` permitting."""

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
    rounds: int = 0
    """How many began."""
    _before: VersionVector = field(default_factory=VersionVector)
    _asked: frozenset[str] = frozenset()
    _silent: set[str] = field(default_factory=set)
    """Partners of this round that did not answer yet."""
    _replace_s: float = math.inf
    _tries_s: float = math.inf
    """When those that are out of reach are tried next; never, if there was none when we looked."""
    _turn: list[str] = field(default_factory=list)
    _aliases: dict[str, str] = field(default_factory=dict)
    """Who answered at a seed: `localhost` and NATs are addresses that nobody calls its own."""

    def __post_init__(self) -> None:
        self._spreading = self.widespread

    @property
    def wake_s(self) -> float:
        """When `begin` or `tries` has something to say."""
        due_s = min(self.due_s, self._tries_s)
        return min(due_s, self._replace_s) if self._silent else due_s

    def answered(self, opened: Opened, replica: str = "") -> None:
        """An exchange came to its end: if a partner's, nobody has to take its place."""
        if isinstance(opened.request, Sync):
            self._silent.discard(opened.replica)
        if opened.address in self.seeds:
            self._aliases[opened.address] = replica

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

    def healed(self, now_s: float) -> None:
        """Somebody who was out of reach answered, or asked: others may be within reach, too."""
        self.news(now_s)
        self._tries_s = now_s

    def forget(self, address: str) -> None:
        """This seed turned out to be ourselves, under another name."""
        self.seeds = tuple(seed for seed in self.seeds if seed != address)

    def begin(
        self, vector: VersionVector, members: Membership, now_s: float
    ) -> tuple[list[Member], list[str]]:
        """Who to sync with now: members, and while there are none, seeds; empty if not due."""
        if now_s < self.due_s:
            return self._replacements(members, now_s), []
        idle = vector == self._before and not self._silent
        self._before = vector
        if self.rounds % WIDESPREAD_ROUNDS == 0:
            self.widespread, self._spreading = self._spreading, self._before
        self.rounds += 1
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
        strangers = [] if live else self._strangers(members)
        if strangers:
            self.interval_s = pace
        spread = 1 + self.config.gossip_jitter * (2 * self.dice.random() - 1)
        self.due_s = now_s + self.interval_s * spread
        return partners, strangers

    def _replacements(self, members: Membership, now_s: float) -> list[Member]:
        """Other partners for those that are silent, when they had their time; once per round."""
        if now_s < self._replace_s:
            return []
        self._replace_s = math.inf
        if self._silent:
            self.hurry(now_s + (1 - REPLACED_AFTER) * self.config.gossip_interval_s)
        others = [m for m in members.live() if m.replica not in self._asked]
        return self.some(others, len(self._silent))

    def tries(self, members: Membership, now_s: float) -> list[tuple[str, str]]:
        """Who is out of reach and to be tried now: (address, replica or "" for a seed); O(members).

        Called in every step of time, it notices that somebody is.
        """
        away = {m.replica: (m.reach, m.replica) for m in members.dead()}
        live = members.live()
        if live:
            away |= {seed: (seed, "") for seed in self._strangers(members)}
        if not away:
            self._tries_s, self._turn = math.inf, []
            return []
        if math.isinf(self._tries_s):
            self._tries_s = now_s
        if now_s < self._tries_s:
            return []
        spread = 1 + self.config.gossip_jitter * (2 * self.dice.random() - 1)
        self._tries_s = now_s + self.config.gossip_interval_s * spread
        share = min(TRIES, max(TRIES, len(away) / TURN) / (len(live) + 1))
        count = int(share) + (self.dice.random() < share % 1)
        tried = []
        for _ in range(min(count, len(away))):
            self._turn = [key for key in self._turn if key in away]
            if not self._turn:
                self._turn = self.dice.sample(sorted(away), len(away))
            tried.append(away[self._turn.pop()])
        return tried

    def _strangers(self, members: Membership) -> list[str]:
        """Seeds at which no live member is known."""
        known = {place for m in members.live() for place in (m.address, m.via, m.replica)}
        return [s for s in self.seeds if s not in known and self._aliases.get(s) not in known]

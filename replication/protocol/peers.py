"""Eager push: which peers are told of new events at once, and what each is believed to know.

Theory of operation. Rumour mongering on top of anti-entropy (Demers et al. 1987; Karp et al. 2000).
Per peer this module keeps a *believed* vector: what the peer told of itself, raised by what we or
others are known to have pushed to it. A push carries, for the origins that are dirty at that peer,
the events above the belief - so writes made while a push is in flight coalesce by themselves, and
an outbox is a set of origins, never a queue of bytes. A belief that was too high costs a refusal
(the receiver sees a gap and answers with its vector) and is corrected by that answer; a lattice
lets us be wrong cheaply. Nothing here is needed for convergence: gossip repairs what is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.protocol.wire import told_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replication.config import Config
    from replication.protocol.membership import Dice, Member

Ranges = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Peer:
    """What is known about one peer's state.

    `known` was told by the peer itself (durable there); `believed` is at least that. `dirty` maps
    an origin to the hashes of the replicas that were told of its news already.
    """

    known: dict[str, int] = field(default_factory=dict)
    believed: dict[str, int] = field(default_factory=dict)
    dirty: dict[str, set[int]] = field(default_factory=dict)
    pushing: bool = False
    shown: dict[str, int] = field(default_factory=dict)
    """My vector as of the last exchange with it: what changed since is the CHANGED digest."""
    exchanges: int = 0
    introduced: bool = False
    withheld: int = 0

    def told(self, vector: Mapping[str, int], *, exact: bool = False) -> bool:
        """The peer told where it stands. `exact` forgets beliefs about the origins told.

        Returns whether this was news.
        """
        news = False
        for origin, seq in vector.items():
            if seq > self.known.get(origin, 0):
                self.known[origin] = seq
                news = True
            if exact or seq > self.believed.get(origin, 0):
                self.believed[origin] = max(seq, self.known.get(origin, 0))
        return news

    def compared_since(self, settled: Mapping[str, int]) -> bool:
        """Whether we compared vectors when mine was at `settled` already; O(origins)."""
        shown = self.shown
        return self.introduced and all(shown.get(origin, 0) >= s for origin, s in settled.items())

    def raise_belief(self, ranges: Ranges) -> None:
        """Somebody pushed these ranges to the peer; if they arrived, it knows them."""
        for origin, first, last in sorted(ranges):
            believed = self.believed.get(origin, 0)
            if first <= believed + 1 and last > believed:
                self.believed[origin] = last


@dataclass(frozen=True, slots=True)
class Planned:
    """A push to make now: events above `since` for its origins, and whom others told."""

    peer: Member
    since: Mapping[str, int]
    told: tuple[int, ...]


class EagerPush:
    """Marks peers dirty and plans pushes; one push per peer is in flight at a time."""

    __slots__ = ("_config", "_dice", "_hashes", "peers")

    def __init__(self, config: Config, dice: Dice) -> None:
        self._config = config
        self._dice = dice
        self.peers: dict[str, Peer] = {}
        self._hashes: dict[str, int] = {}

    def peer(self, replica: str) -> Peer:
        """The record of a peer; created when first heard of."""
        return self.peers.setdefault(replica, Peer())

    def hash_of(self, replica: str) -> int:
        """`told_hash`, remembered."""
        known = self._hashes.get(replica)
        if known is None:
            known = self._hashes[replica] = told_hash(replica)
        return known

    def spread(
        self, origins: Iterable[str], live: Sequence[Member], told: Iterable[int] = ()
    ) -> None:
        """News of `origins`: mark up to `eager_peers_max` peers that were not told yet."""
        already = set(told)
        others = [m for m in live if self.hash_of(m.replica) not in already]
        if len(others) > self._config.eager_peers_max:
            others = self._dice.sample(others, self._config.eager_peers_max)
        if not others:
            return
        already.update(self.hash_of(m.replica) for m in others)
        news = list(origins)
        for member in others:
            dirty = self.peer(member.replica).dirty
            for origin in news:
                dirty.setdefault(origin, set()).update(already)

    def credit(
        self, ranges: Ranges, sender: str, live: Sequence[Member], told: Sequence[int]
    ) -> None:
        """A delta came: its sender has these ranges, and those it says are told probably do, too.

        A wrong guess is corrected by the next digest of that peer; none at all would make every
        sync repeat what somebody else pushed a moment ago.
        """
        self.peer(sender).raise_belief(ranges)
        served = set(told)
        for member in live:
            if served and self.hash_of(member.replica) in served:
                self.peer(member.replica).raise_belief(ranges)

    def due(self) -> bool:
        """Whether some peer may have to be pushed to; O(peers)."""
        return any(peer.dirty and not peer.pushing for peer in self.peers.values())

    def plan(self, live: Sequence[Member], applied: Mapping[str, int], ready: int) -> list[Planned]:
        """Pushes to make now, at most `ready` of them; dirty marks they cover are taken."""
        planned: list[Planned] = []
        for member in live:
            peer = self.peers.get(member.replica)
            if peer is None or peer.pushing or not peer.dirty or len(planned) >= ready:
                continue
            since = {origin: peer.believed.get(origin, 0) for origin in peer.dirty}
            told = sorted(set().union(*peer.dirty.values()))[: self._config.told_max]
            peer.dirty = {}
            if all(seq >= applied.get(origin, 0) for origin, seq in since.items()):
                continue
            peer.pushing = True
            planned.append(Planned(member, since, tuple(told)))
        return planned

    def done(
        self,
        replica: str,
        vector: Mapping[str, int] | None,
        applied: Mapping[str, int],
        told: Sequence[int],
    ) -> None:
        """A push was answered with the peer's vector, or failed (None: gossip will repair it).

        A peer that still stands below us (the push was cut, or it saw a gap) is marked dirty again,
        now with the right belief - but only if it told something new, so that a refusal is not
        repeated for ever.
        """
        peer = self.peer(replica)
        peer.pushing = False
        if vector is None:
            return
        behind = [
            origin
            for origin, stands in vector.items()
            if stands != peer.believed.get(origin, 0) and stands < applied.get(origin, 0)
        ]
        peer.told(vector, exact=True)
        for origin in behind:
            peer.dirty.setdefault(origin, set()).update(told)

    def forget(self, replica: str) -> None:
        """The peer left; O(1)."""
        self.peers.pop(replica, None)
        self._hashes.pop(replica, None)

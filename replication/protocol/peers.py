"""What is known of each peer: what it has, what it was told, and what to push to it next.

Theory of operation. Rumour mongering on top of anti-entropy (Demers et al. 1987; Karp et al. 2000).
Per peer this module keeps two vectors:

    known      what the peer said that it durably has; a lower bound of the truth
    believed   `known`, raised by what we or others are known to have pushed to it; a guess

A push carries, for the origins that are dirty at that peer, the events above the belief - so writes
made while a push is in flight coalesce by themselves, and an outbox is a set of origins, never a
queue of bytes. A belief that was too high costs a refusal (the receiver sees a gap and answers with
its vector) and is corrected by that answer; a lattice lets us be wrong cheaply. Nothing here is
needed for convergence: gossip repairs what is lost.

    a peer's outbox     dirty   pushing
    nothing to tell     {}      False
    to be planned       {o,..}  False    `spread` marked it
    in flight           {}      True     `plan` took the marks; more may come meanwhile
    waits for the ack   {o,..}  True     written while a push is in flight: the next one brings it
                                         `pushed` and `push_failed` lead back to the upper two rows

What a token or an operator asks is counted from `known` alone (`Acknowledgements`), so it may lag
behind the truth and never runs ahead of it; `Behind` is the same for this replica itself. Only this
module changes a `Peer`; others say what happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from crdt import VersionVector
from replication.protocol.policy import agent_of
from replication.protocol.shares import Shares
from replication.protocol.wire import ORIGINS_MAX, told_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replication.config import Config
    from replication.protocol.membership import Dice, Member, Membership

Ranges = tuple[tuple[str, int, int], ...]
"""(origin, first seq, last seq) of contiguous events."""

PEERS_PER_NAME_MAX = 16
"""Records of one agent: of its lives, and of whatever else it calls itself."""
VECTOR_MAX = ORIGINS_MAX
"""Origins of which it is remembered what a peer said; it might have said nothing of others."""

WITHHELD_MAX = 3
"""So often a newcomer is not pushed to, because it is about to ask for chunks itself."""


NOTHING_KNOWN = VersionVector()


@dataclass(slots=True)
class Peer:
    """What is known about one peer's state.

    `known` was said by the peer itself (durable there); `believed` is at least that. `dirty` maps
    an origin to the hashes of the replicas that were told of its news already.
    """

    known: VersionVector = field(default_factory=VersionVector)
    guessed: dict[str, int] = field(default_factory=dict)
    """Where the belief is above `known`; few, since what a peer says ends a guess."""
    dirty: dict[str, set[int]] = field(default_factory=dict)
    pushing: bool = False
    """One push is in flight at a time."""
    brief: bool = False
    """Whether it is dirty only for a push that is small."""
    shown: VersionVector = field(default_factory=VersionVector)
    """My vector as of the last exchange with it: what changed since is the CHANGED digest."""
    introduced: bool = False
    """Whether we ever compared vectors, in this boot."""
    exchanges: int = 0
    joining_until_s: float = -inf
    """Until then it is taken to be given a state by somebody, and is told no events."""
    tables: bytes = b""
    """The digests of its table of members and of mine when it was given the whole of mine."""
    _withheld: int = 0

    @property
    def believed(self) -> VersionVector:
        """What it has as far as we can guess. O(guesses)."""
        above = {o: s for o, s in self.guessed.items() if s > self.known.get(o, 0)}
        return self.known.replaced(above) if above else self.known

    def believes(self, origin: str) -> int:
        """Up to which event of an origin we think it stands."""
        return max(self.known.get(origin, 0), self.guessed.get(origin, 0))

    def reported(self, vector: Mapping[str, int], *, exact: bool = False) -> None:
        """The peer said what it has. `exact` forgets guesses about the origins named."""
        known = self.known | vector
        if len(known) > VECTOR_MAX:
            fresh = [origin for origin in vector if origin not in self.known]
            room = max(0, VECTOR_MAX - len(self.known))
            beyond = set(fresh[room:])
            known = self.known | {o: s for o, s in vector.items() if o not in beyond}
        self.known = known
        self.guessed = {
            origin: seq
            for origin, seq in self.guessed.items()
            if seq > known.get(origin, 0) and not (exact and origin in vector)
        }

    def compared(self, theirs: Mapping[str, int], shown: Mapping[str, int]) -> None:
        """Both ends know each other's vector now: theirs as reported, mine as it was `shown`."""
        self.reported(theirs, exact=True)
        self.shown = VersionVector(shown)
        self.introduced = True

    def compared_since(self, vector: Mapping[str, int]) -> bool:
        """Whether we compared vectors when mine had reached `vector` already."""
        return self.introduced and self.shown >= vector

    def greeted(self) -> int:
        """One more exchange is opened with it; how many there were by now."""
        self.exchanges += 1
        return self.exchanges

    def raise_belief(self, ranges: Ranges) -> None:
        """Somebody pushed these ranges to the peer; if they arrived, it knows them."""
        for origin, first, last in sorted(ranges):
            believed = self.believes(origin)
            if first <= believed + 1 and last > believed:
                self.guessed[origin] = last

    def withhold(self) -> bool:
        """Whether not to push now, since it will ask for chunks - unless it cannot reach us."""
        if self._withheld >= WITHHELD_MAX:
            return False
        self._withheld += 1
        return True

    def asked_for_chunks(self) -> None:
        """It did, so the next pushes may be withheld again."""
        self._withheld = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A push to make now: events above `since` for its origins, and whom others told."""

    peer: Member
    since: Mapping[str, int]
    told: tuple[int, ...]
    brief: bool = False
    """To be made only if it is small."""


class Peers:
    """The peers of one replica; marks them dirty and plans pushes."""

    __slots__ = ("_config", "_dice", "_hashes", "peers")

    def __init__(self, config: Config, dice: Dice) -> None:
        self._config = config
        self._dice = dice
        self.peers: Shares[str, Peer] = Shares(PEERS_PER_NAME_MAX, 2 * config.members_max)
        self._hashes: Shares[str, int] = Shares(PEERS_PER_NAME_MAX, 2 * config.members_max)

    def peer(self, replica: str) -> Peer:
        """The record of a peer; created when first heard of."""
        known = self.peers.get(replica)
        if known is None:
            known = self.peers[replica] = Peer()
        return known

    def known(self, replica: str) -> VersionVector:
        """What a peer said that it has, if it said anything."""
        record = self.peers.get(replica)
        return NOTHING_KNOWN if record is None else record.known

    def hash_of(self, replica: str) -> int:
        """`told_hash`, remembered."""
        known = self._hashes.get(replica)
        if known is None:
            known = self._hashes[replica] = told_hash(replica)
        return known

    def spread(
        self,
        origins: Iterable[str],
        live: Sequence[Member],
        told: Iterable[int] = (),
        *,
        fanout: int = 0,
        final: bool = False,
    ) -> None:
        """News of `origins`: mark some peers that were not told yet.

        Up to `eager_peers_max` of them, or `fanout`, if that is more. They tell others, unless it
        is `final`.
        """
        already = set(told)
        others = [m for m in live if self.hash_of(m.replica) not in already]
        most = max(self._config.eager_peers_max, fanout)
        if len(others) > most:
            others = self._dice.sample(others, most)
        if not others:
            return
        already.update(self.hash_of(m.replica) for m in others)
        if final:
            already.clear()
        news = list(origins)
        for member in others:
            peer = self.peer(member.replica)
            peer.brief = False
            for origin in news:
                peer.dirty.setdefault(origin, set()).update(already)

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
            since = {origin: peer.believes(origin) for origin in peer.dirty}
            told = sorted(set().union(*peer.dirty.values()))[: self._config.told_max]
            peer.dirty = {}
            if all(seq >= applied.get(origin, 0) for origin, seq in since.items()):
                continue
            planned.append(Planned(member, since, tuple(told), peer.brief))
            peer.pushing, peer.brief = True, False
        return planned

    def push_again(self, replica: str, origins: Iterable[str], *, brief: bool) -> None:
        """Whatever was pushed to it was lost, or somebody else's: it lacks these."""
        peer = self.peer(replica)
        peer.pushing = False
        peer.brief = brief and (peer.brief or not peer.dirty)
        for origin in origins:
            peer.dirty.setdefault(origin, set())

    def not_now(self, plan: Planned) -> None:
        """There was no room for a planned push."""
        peer = self.peer(plan.peer.replica)
        peer.pushing, peer.brief = False, plan.brief and not peer.dirty
        for origin in plan.since:
            peer.dirty.setdefault(origin, set()).update(plan.told)

    def opened(self, replica: str, *, sent: bool) -> None:
        """A push was made for a peer: it is in flight, or there was nothing or no way to send."""
        self.peer(replica).pushing = sent

    def pushed(
        self,
        replica: str,
        vector: Mapping[str, int],
        applied: Mapping[str, int],
        told: Sequence[int],
    ) -> None:
        """A push was answered with the peer's vector.

        A peer that still stands below us (the push was cut, or it saw a gap) is marked dirty again,
        now with the right belief - but only if it reported something new, so that a refusal is not
        repeated for ever.
        """
        peer = self.peer(replica)
        peer.pushing = False
        behind = [
            origin
            for origin, stands in vector.items()
            if stands != peer.believes(origin) and stands < applied.get(origin, 0)
        ]
        peer.reported(vector, exact=True)
        peer.brief = peer.brief and not behind
        for origin in behind:
            peer.dirty.setdefault(origin, set()).update(told)

    def push_failed(self, replica: str) -> None:
        """A push was refused or got no answer; gossip will repair it."""
        self.peer(replica).pushing = False

    def forget(self, replica: str) -> None:
        """The peer left; O(1)."""
        self.peers.pop(replica, None)
        self._hashes.pop(replica, None)


@dataclass(frozen=True, slots=True)
class Reached:
    """How many other agents said that they have something, by where.

    Attributes:
        on_disk: agents that keep a journal, and have it there.
        in_memory: agents that keep none: what they have ends with their process.
    """

    on_disk: int
    in_memory: int

    @property
    def members(self) -> int:
        """Both together."""
        return self.on_disk + self.in_memory


@dataclass(frozen=True, slots=True)
class Acknowledgements:
    """Who has what, as said by the members themselves: the arithmetic behind tokens and lag."""

    members: Membership
    peers: Peers

    def lag(self, mine: Mapping[str, int]) -> dict[str, int]:
        """Per current member: events of `mine` not known to be there; O(members x those)."""
        behind, vector = {}, VersionVector(mine)
        for member in self.members.current():
            known = self.peers.known(member.replica)
            lacked = vector.above(known)
            behind[member.replica] = sum(s - known.get(o, 0) for o, s in lacked.items())
        return behind

    def reached(self, wanted: Mapping[str, int]) -> Reached:
        """How many current members said that they have these; O(members x len(wanted))."""
        known = self.peers.known
        there = [m.journalled for m in self.members.current() if known(m.replica) >= wanted]
        return Reached(there.count(True), there.count(False))

    def lacking(self, member: Member, wanted: Mapping[str, int]) -> Iterable[str]:
        """Origins of which a member did not say that it has the events up to these."""
        return VersionVector(wanted).above(self.peers.known(member.replica))

    def stable(self, mine: Mapping[str, int]) -> VersionVector:
        """The events of `mine` that every current member, dead ones included, has durably."""
        vector = VersionVector(mine)
        for member in self.members.current():
            vector &= self.peers.known(member.replica)
        return vector


REPORTED_PER_NAME_MAX = 1024
"""Origins that one agent may report to be ahead of us; then its oldest report is dropped."""


@dataclass(frozen=True, slots=True)
class Report:
    """That some agent has more of an origin than we."""

    lacked: int
    """The seq that is lacked since `since_s`."""
    most: int
    """The greatest seq reported."""
    since_s: float


@dataclass(slots=True)
class Behind:
    """How far this replica is behind what peers reported, per origin; for people, not decisions.

    Every digest, answer and acknowledgement names seqs. One that is beyond ours is remembered with
    the moment when it was first heard, until our vector reaches it. So the lag of an origin is a
    lower bound: events that nobody reported are not counted. Whoever invents events takes the room
    of his own reports only.
    """

    _reports: Shares[tuple[str, str], Report] = field(
        default_factory=lambda: Shares(
            REPORTED_PER_NAME_MAX, 2 * ORIGINS_MAX, lambda key: agent_of(key[0])
        )
    )
    """(reporter, origin) -> what was reported."""

    def heard(
        self, theirs: Mapping[str, int], mine: Mapping[str, int], now_s: float, by: str = ""
    ) -> None:
        """A peer reported what it has; O(len(theirs))."""
        for origin, seq in theirs.items():
            stands = mine.get(origin, 0)
            if seq <= stands:
                continue
            report = self._reports.get((by, origin))
            if report is None or stands >= report.lacked:  # what is lacked now is lacked since now
                most = seq if report is None else max(seq, report.most)
                report = Report(seq, most, now_s)
            elif seq > report.most:
                report = replace(report, most=seq)
            self._reports[by, origin] = report

    def lag(self, mine: Mapping[str, int], now_s: float) -> dict[str, tuple[int, float]]:
        """Origin -> (events lacked, seconds since the oldest was reported); O(reports)."""
        for key in [k for k, report in self._reports.items() if report.most <= mine.get(k[1], 0)]:
            del self._reports[key]
        lag: dict[str, tuple[int, float]] = {}
        for (_, origin), report in self._reports.items():
            events, since_s = lag.get(origin, (0, 0.0))
            lacked = report.most - mine.get(origin, 0)
            lag[origin] = max(events, lacked), max(since_s, now_s - report.since_s)
        return lag

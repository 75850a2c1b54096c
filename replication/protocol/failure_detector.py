"""Whom to probe, how long to wait, and when silence becomes suspicion.

Theory of operation. SWIM (Das et al. 2002): one member per interval, in an order that is shuffled
anew after each full turn (so the time to first detection is bounded); without an answer within the
timeout, `indirect_probes` others are asked to try; without one of those by the end of the interval,
the member is suspected. Any authenticated frame from a member counts as its answer.

Lifeguard (Dadgar et al. 2018): a member that is slow itself sees everybody fail. `health` rises
when own probes fail or when others suspect us, falls when probes succeed, and stretches interval
and timeout by `health + 1`: a blocked event loop accuses nobody.

    a probe, by the time since it began            what the detector says
    an answer, or any frame of the member          `heard`: over, health falls by one
    timeout * (health + 1)                         `helpers`: ask these, once
    interval * (health + 1)                        `verdict`: suspect it, health rises by one
    (the loop was away for a probe timeout)        `stalled`: the wait starts anew, health rises

`FailureDetector` makes these choices and sends nothing; `Prober` carries them out as exchanges. A
probe that a peer asks us to make in its place (`Probe.target`) is answered only when the target
answered us or ran out of time, so the peer's exchange waits in the prober meanwhile. What the
others are told of a verdict, and how a suspicion ends, is `membership`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.protocol.messages import Probe, Probed, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replication.config import Config
    from replication.protocol.exchanges import Exchanges, Opened
    from replication.protocol.membership import Dice, Member, Membership
    from replication.protocol.messages import MemberClaim
    from replication.protocol.peers import Peers
    from replication.protocol.wire import Asker


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


# ----------------------------------------------------------------------------- probes on the wire


@dataclass(frozen=True, slots=True)
class Relay:
    """A peer's exchange that waits for our probe of its target."""

    exchange: int
    asker: Asker


@dataclass(slots=True)
class Prober:
    """One per replica."""

    detector: FailureDetector
    members: Membership
    exchanges: Exchanges
    peers: Peers
    _relays: dict[int, Relay] = field(default_factory=dict)

    def met(
        self,
        replica: str,
        claims: Iterable[MemberClaim],
        now_s: float,
        via: str = "",
        boot: bytes = b"",
        *,
        challenge: bytes = b"",
    ) -> bool:
        """An authenticated frame: its sender lives, and its claims are worth a look.

        Returns whether somebody is said to live who was dead or unknown until now.
        """
        members, incarnation = self.members, self.members.me.incarnation
        learned = members.learn(members.believed(replica, claims), now_s, replica, boot)
        news = any(row.status is Status.ALIVE and row.since_s == now_s for row in learned)
        if members.me.incarnation != incarnation:
            self.detector.accused()
        self.detector.heard(replica)
        members.heard(replica, now_s, via, boot, challenge)
        self.exchanges.ask_proof(replica, now_s)
        return news

    def answered(self, replica: str, address: str, now_s: float) -> Member | None:
        """The frame answered a question that was asked there; its sender, if more waits for it."""
        for left in self.members.answered(replica, address, now_s):
            self.peers.forget(left)
        row = self.members.get(replica)
        if row is None or not (row.proved and row.wanted):
            return None
        row.wanted = False
        return row

    def call(self, address: str, replica: str, vector: Mapping[str, int], now_s: float) -> None:
        """Try somebody who is out of reach; a member is told what it may have to refute."""
        claims = (*self._gossip(replica, address), *self.members.accusation(replica))
        self.exchanges.open(address, replica, Probe(members=claims), vector, now_s)

    def step(self, vector: Mapping[str, int], now_s: float) -> list[str]:
        """Begin, help and judge probes; the ids of members that became `dead`."""
        live = self.members.live()
        target = self.detector.begin(live, now_s)
        if target is not None:
            probe = Probe(members=self._gossip(target.replica, target.reach))
            self.exchanges.open(target.reach, target.replica, probe, vector, now_s)
        helpers = self.detector.helpers(live, now_s)
        if helpers and self.detector.probing is not None:
            probe = Probe(self.detector.probing.replica)
            for helper in helpers:
                self.exchanges.open(helper.reach, helper.replica, probe, vector, now_s)
        suspect = self.detector.verdict(now_s)
        if suspect is not None:
            self.members.suspect(suspect, now_s)
        for replica in self.members.forget_gone(now_s):
            self.peers.forget(replica)
        return [member.replica for member in self.members.expire(now_s)]

    def _gossip(self, replica: str, address: str) -> tuple[MemberClaim, ...]:
        """Claims for a probe; where it leaves as a bare one, none are counted as told."""
        return () if self.members.is_hint(replica, address) else self.members.gossip()

    def relay(
        self, target: str, waiting: Relay, vector: Mapping[str, int], now_s: float
    ) -> Probed | None:
        """Probe `target` for a peer; None while the answer is awaited."""
        row = self.members.get(target)
        if row is None or not row.reach:
            return Probed(reached=False)
        if not self.exchanges.open(row.reach, target, Probe(), vector, now_s):
            return Probed(reached=False)
        self._relays[self.exchanges.last] = waiting
        return None

    def again(self, exchange: int, number: int) -> None:
        """An exchange was opened again, under another number."""
        if exchange in self._relays:
            self._relays[number] = self._relays.pop(exchange)

    def concluded(
        self, exchange: int, opened: Opened, *, answer: Probed | None, sender: str = ""
    ) -> tuple[Relay, Probed] | None:
        """A probe of ours was answered, by `sender`, or failed; what to tell a peer that waits.

        Somebody else at that address is no answer.
        """
        if answer is not None and opened.replica not in {"", sender or opened.replica}:
            answer = None
        if answer is not None and answer.reached and isinstance(opened.request, Probe):
            self.detector.heard(opened.request.target or opened.replica)
        waiting = self._relays.pop(exchange, None)
        return None if waiting is None else (waiting, Probed(reached=answer is not None))

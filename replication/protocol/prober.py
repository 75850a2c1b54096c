"""Probes on the wire: the failure detector's decisions as exchanges, and helping others probe.

Theory of operation. `FailureDetector` decides whom to doubt; this module carries that out. A probe
that a peer asks us to make in its place (`Probe.target`) is answered only when the target answered
us or ran out of time, so the peer's exchange waits here (`_relays`) meanwhile. Any authenticated
frame of a member is evidence that it lives, whatever it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.protocol.effects import Notice
from replication.protocol.messages import Probe, Probed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replication.protocol.exchanges import Exchanges, Opened
    from replication.protocol.failure_detector import FailureDetector
    from replication.protocol.membership import Membership
    from replication.protocol.messages import MemberClaim
    from replication.protocol.peers import EagerPush


@dataclass(frozen=True, slots=True)
class Relay:
    """A peer's exchange that waits for our probe of its target."""

    exchange: int
    number: int
    principal: str


@dataclass(slots=True)
class Prober:
    """One per replica."""

    detector: FailureDetector
    members: Membership
    exchanges: Exchanges
    eager: EagerPush
    _relays: dict[int, Relay] = field(default_factory=dict)

    def met(self, replica: str, claims: Iterable[MemberClaim], now_s: float, via: str = "") -> None:
        """An authenticated frame: its sender lives, and its claims are worth a look."""
        incarnation = self.members.me.incarnation
        self.members.learn(claims, now_s)
        if self.members.me.incarnation != incarnation:
            self.detector.accused()
        self.detector.heard(replica)
        replaced = self.members.heard(replica, now_s, via)
        if replaced is not None:
            self.eager.forget(replaced.replica)

    def step(self, vector: Mapping[str, int], now_s: float) -> list[Notice]:
        """Begin, help and judge probes; the members that became `dead`, as notices."""
        live = self.members.live()
        target = self.detector.begin(live, now_s)
        if target is not None:
            probe = Probe(members=self.members.gossip())
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
            self.eager.forget(replica)
        expired = self.members.expire(now_s)
        return [Notice("dead", (("member", member.replica),)) for member in expired]

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

    def concluded(
        self, exchange: int, opened: Opened, *, answer: Probed | None
    ) -> tuple[Relay, Probed] | None:
        """A probe of ours was answered or failed; what to tell a peer that waits for it."""
        if answer is not None and answer.reached and isinstance(opened.request, Probe):
            self.detector.heard(opened.request.target or opened.replica)
        waiting = self._relays.pop(exchange, None)
        return None if waiting is None else (waiting, Probed(reached=answer is not None))

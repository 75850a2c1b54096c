"""Exchanges that this replica opened: sealed, numbered, limited in count and in time.

Theory of operation. Every request has one answer or none. An exchange is open from the moment its
frame is handed out until the shell brings the answer (`take`), reports a failure, or `expired` says
that its time is up; whichever comes first wins and the others find nothing. Peers that are blocked,
addresses of our own, and exchanges over the limit are given up before a byte is sealed.

A peer's address is a hint until it answered there. Whatever is to be said to it waits, and a bare
probe goes there instead: to a stranger it tells nothing but that we are here. Where a relay is said
to be, it says where here is, too, so that the peer may dial us: that proves both addresses although
the answer to the probe comes too late to be taken.

A peer that hangs must not use up the limit for everybody else: rounds that somebody hurries would
each open one more exchange with it. So `SYNCS_MAX` of them may wait for one peer; pushes and probes
to it are one at a time anyway, and chunks have a limit of their own.

A request names a challenge of its receiver, learned from the frames of that one (`freshness`) or
from whoever told of it. Where none is known a bare probe knocks in its place; a refusal that brings
a challenge opens the exchange again, once. What is said then is what was to be said at first.

Questions and small pushes cost next to nothing, and somebody may wait for those to all the others
(`waits`): they take nobody's place and have a limit of their own, `BRIEF_MAX`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crdt import VersionVector
from replication.protocol.effects import Send
from replication.protocol.freshness import NOBODY
from replication.protocol.messages import Probe, Sync, is_brief
from replication.protocol.policy import agent_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from replication.config import Config
    from replication.protocol.membership import Membership
    from replication.protocol.messages import Message
    from replication.protocol.wire import Wire

SYNCS_MAX = 4
BRIEF_MAX = 512
PROOF_AGAIN_S = 0.1
PROOFS_MAX = 3
"""A question for a proof may get lost: it is asked again, and so many may be unanswered."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An exchange under way: what was asked of whom, and my vector at that moment."""

    address: str
    replica: str
    request: Message
    number: int
    deadline_s: float
    shown: VersionVector
    again: bool = False
    """Whether it was refused as stale once, and opened again."""


@dataclass(slots=True)
class Exchanges:
    """The table of open exchanges, and the frames that wait to be handed out."""

    config: Config
    wire: Wire
    members: Membership
    blocked: set[str] = field(default_factory=set)
    """Names, ids or addresses that this replica neither sends to nor listens to."""
    _sends: list[Send] = field(default_factory=list)
    _open: dict[int, Opened] = field(default_factory=dict)
    last: int = 0
    """The number of the exchange opened last."""
    brief: int = 0
    """How many of the open ones are."""
    _seeds: dict[str, bytes] = field(default_factory=dict)
    """Challenges of whoever answered where we asked without knowing who is there."""

    def __len__(self) -> int:
        return len(self._open)

    def is_blocked(self, replica: str, address: str = "") -> bool:
        """Whether an operator or a test cut this replica off from that peer."""
        if not self.blocked:
            return False
        row = self.members.get(replica)
        names = {replica, replica.partition("~")[0], address, row.address if row else ""}
        return not self.blocked.isdisjoint(names - {""})

    def ready(self, *, brief: bool = False) -> int:
        """How many more may be opened now; of brief ones, or of others."""
        if brief:
            return max(0, BRIEF_MAX - self.brief)
        return max(0, self.config.outbound_exchanges_max - len(self._open) + self.brief)

    def open(
        self,
        address: str,
        replica: str,
        request: Message,
        shown: Mapping[str, int],
        now_s: float,
    ) -> bool:
        """Seal and queue a request; False if it may not be sent now."""
        brief = is_brief(request)
        if not self.ready(brief=brief):
            return False
        if self.is_blocked(replica, address) or self.members.is_own(address):
            return False
        if self.members.is_hint(replica, address):
            if type(request) is not Probe:
                self._ask_proof(address, replica, now_s)
                return False
            if not (request.target and self.members.policy.may_relay(agent_of(replica))):
                request = self.members.bare_probe(replica)
        if type(request) is Sync and self.waiting(address, Sync, now_s) >= SYNCS_MAX:
            return False
        self._seal(address, replica, request, shown, now_s)
        return True

    def ask_proof(self, replica: str, now_s: float) -> None:
        """Ask somebody who spoke to us whether it can be dialled where it says, if it is time to.

        Whom a connection reaches, or who answered there before, is not asked.
        """
        row = self.members.get(replica)
        if row is None or not row.address or row.via or row.proved:
            return
        if now_s - row.asked_s >= self.config.probe_interval_s:
            row.asked_s = now_s
            self.open(row.address, replica, Probe(), {}, now_s)

    def _ask_proof(self, address: str, replica: str, now_s: float) -> None:
        """Something is to be said to it; at once, and as often as that is so."""
        row = self.members.get(replica)
        assert row is not None
        row.wanted = True
        lost = self.waiting(address, Probe, now_s - PROOF_AGAIN_S)
        if self.waiting(address, Probe, now_s) == lost <= PROOFS_MAX:
            row.asked_s = now_s
            self._seal(address, replica, self.members.bare_probe(replica), {}, now_s)

    def _seal(
        self,
        address: str,
        replica: str,
        request: Message,
        shown: Mapping[str, int],
        now_s: float,
    ) -> None:
        deadline_s = now_s + self.config.total_timeout_s
        opened = Opened(address, replica, request, 0, deadline_s, VersionVector(shown))
        row = self.members.get(replica)
        self._send(opened, self._seeds.get(address, NOBODY) if row is None else row.challenge)

    def _send(self, opened: Opened, challenge: bytes) -> None:
        """Seal a request, or knock."""
        said = opened.request if challenge else Probe()
        me, name = self.members.me.replica, agent_of(opened.replica)
        frame = self.wire.seal(me, said, name=name, challenge=challenge)
        self.last += 1
        self.brief += is_brief(opened.request)
        self._open[self.last] = replace(opened, number=self.wire.last_number)
        self._sends.append(Send(opened.address, frame, self.last))

    def met(self, opened: Opened, replica: str, challenge: bytes) -> None:
        """An answer of that replica carried its challenge."""
        if not opened.replica:
            self._seeds[opened.address] = challenge
        row = self.members.get(replica)
        if row is not None:
            row.challenge = challenge

    def again(self, opened: Opened, challenge: bytes) -> bool:
        """Say what was refused as stale once more; False if that was done before."""
        if opened.again:
            return False
        self._send(replace(opened, again=True), challenge)
        return True

    def handed_out(self) -> list[Send]:
        """The frames sealed since the last call; from now on the shell has them."""
        sends, self._sends = self._sends, []
        return sends

    def waiting(self, address: str, kind: type[Message], before_s: float) -> int:
        """How many of a kind, opened until then, wait for an answer from there; O(open ones)."""
        until_s = before_s + self.config.total_timeout_s
        return sum(
            o.address == address and type(o.request) is kind and o.deadline_s <= until_s
            for o in self._open.values()
        )

    def under_way(self, address: str, kind: type[Message]) -> list[Opened]:
        """Those of a kind that wait for an answer from there; O(open ones)."""
        return [o for o in self._open.values() if o.address == address and type(o.request) is kind]

    def since_s(self, opened: Opened, now_s: float) -> float:
        """How long ago it was opened."""
        return now_s - opened.deadline_s + self.config.total_timeout_s

    def take(self, exchange: int) -> Opened | None:
        """Close an exchange; None if it was closed before."""
        opened = self._open.pop(exchange, None)
        if opened is not None:
            self.brief -= is_brief(opened.request)
        return opened

    def expired(self, now_s: float) -> Iterator[tuple[int, Opened]]:
        """Close and yield those whose time is up."""
        for exchange in [n for n, o in self._open.items() if now_s >= o.deadline_s]:
            opened = self.take(exchange)
            if opened is not None:
                yield exchange, opened

    def next_s(self, default_s: float) -> float:
        """When the next one runs out of time, if that is before `default_s`."""
        return min((o.deadline_s for o in self._open.values()), default=default_s)

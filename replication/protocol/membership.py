"""Who is in the cluster, as far as this replica knows.

Theory of operation. SWIM's dissemination component (Das, Gupta, Motivala 2002, section 4): claims
about members travel piggybacked on other messages, the ones sent least often first, each about
`3 log2 N` times. A claim carries the SWIM incarnation of its subject; only the subject raises it.
Order of claims about one member: higher incarnation wins, at equal incarnation the graver status
(`Status` is numbered so). A member that hears itself suspected refutes with a higher incarnation.

    status     becomes      when
    ALIVE      SUSPECT      probes, direct and indirect, went unanswered, or the only connection to
                            it ended; or so it is claimed
    SUSPECT    DEAD         `suspicion_s` went by, or so it is claimed
    SUSPECT    ALIVE        a frame of its own came (others are not told of this), or it refuted
    DEAD       ALIVE        the claim with a higher incarnation
    any of     LEFT         it said so, or its agent goes on under another id at the same address
    the above
    LEFT       ALIVE        a claim of a higher incarnation: it started again
    LEFT       forgotten    `LEFT_KEPT_S` went by
    any        RETIRED      an operator said so; nothing leads out of it

Verdicts steer traffic only: **dead is not gone**. A dead member is still tried now and then, keeps
its place in the address book, and comes back with one refutation. Leaving is explicit; whoever left
returns by starting again, with a higher incarnation. Retiring is an operator's word and final for
that replica id; the same agent may only return under a new one.

An address of our own is nobody else's: who was known there is gone from it (another agent took its
port, or this one had another id), so it keeps its row and its verdict, and is not dialled there. An
agent also has addresses that it does not know (`localhost`, a NAT): a frame that came back to its
sender tells.

Two replica ids at one address: the id that was heard there last (directly, authenticated) holds the
address, the other is marked as left: it was re-incarnated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from replication.protocol.messages import INCARNATION_MAX, MemberClaim, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replication.config import Config

T = TypeVar("T")

LEFT_KEPT_S = 3600.0
"""A member that left is remembered for this long, lest an old claim brings it back."""


OWN_ADDRESSES_MAX = 64
"""Addresses of our own that are remembered; one beyond them is asked, and refused, each time."""


class Dice(Protocol):
    """The part of `random.Random` that the protocol uses; a seed makes a run repeatable."""

    def random(self) -> float:
        """A float in [0, 1)."""

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits."""

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """`k` members of the population, without repetition."""


@dataclass(slots=True)
class Member:
    """One row of the table. `since_s` is when its status became what it is."""

    replica: str
    address: str
    incarnation: int
    status: Status
    since_s: float
    heard_s: float = -math.inf
    sent: int = 0
    """How many frames carried this claim; news begin anew."""
    journalled: bool = False
    """Whether it said that it keeps a journal; unknown is no."""
    via: str = ""
    """Where it can be asked while it stays connected here; never told to others."""

    @property
    def name(self) -> str:
        """The name that the agent was given, without its incarnation."""
        return self.replica.partition("~")[0]

    @property
    def reach(self) -> str:
        """Where to send requests: over its own connection, else at its address; "" for nowhere."""
        return self.via or self.address

    def claim(self) -> MemberClaim:
        """The row as it travels."""
        return MemberClaim(
            self.replica, self.address, self.incarnation, self.status, self.journalled
        )


class Membership:
    """The table of members, this replica included. All methods are O(members) or better."""

    __slots__ = ("_config", "_own_addresses", "_rows", "me", "retired")

    def __init__(
        self,
        replica: str,
        address: str,
        incarnation: int,
        config: Config,
        now_s: float,
        *,
        journalled: bool = True,
    ) -> None:
        self._config = config
        self.me = Member(
            replica, address, incarnation, Status.ALIVE, now_s, now_s, journalled=journalled
        )
        self._own_addresses = {address} - {""}
        self.retired = False
        """Somebody declared this id gone for good: it needs a new one."""
        self._rows: dict[str, Member] = {replica: self.me}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, replica: str) -> Member | None:
        """The row of a replica id."""
        return self._rows.get(replica)

    def everyone(self) -> list[Member]:
        """All rows but mine, whatever their status."""
        return [m for m in self._rows.values() if m is not self.me]

    def writing(self) -> set[str]:
        """The ids under which we and all current members write; O(members)."""
        return {self.me.replica, *(member.replica for member in self.current())}

    def current(self) -> list[Member]:
        """Members that count, dead or not: those that neither left nor were retired."""
        return [m for m in self.everyone() if m.status < Status.LEFT]

    def live(self) -> list[Member]:
        """Members that traffic goes to: alive or suspected, and within reach."""
        return [m for m in self.everyone() if m.status <= Status.SUSPECT and self._dialled(m)]

    def dead(self) -> list[Member]:
        """Members believed dead that are within reach: tried now and then."""
        return [m for m in self.everyone() if m.status is Status.DEAD and self._dialled(m)]

    def _dialled(self, member: Member) -> bool:
        return bool(member.reach) and member.reach not in self._own_addresses

    def is_own(self, address: str) -> bool:
        """Whether whoever asks there asks this very agent."""
        return address in self._own_addresses

    def came_back(self, address: str) -> None:
        """A frame that was sent to `address` came to its own sender."""
        if len(self._own_addresses) < OWN_ADDRESSES_MAX:
            self._own_addresses.add(address)

    def find(self, who: str) -> list[Member]:
        """Members by replica id, address or name."""
        return [m for m in self.everyone() if who and who in (m.replica, m.address, m.name)]

    def count(self) -> int:
        """Current members, this one included."""
        return len(self.current()) + 1

    # -------------------------------------------------------------------------- learning

    def learn(self, claims: Iterable[MemberClaim], now_s: float) -> list[Member]:
        """Take claims that are news; returns the rows that changed. Unknown ones are added."""
        return [row for claim in claims if (row := self._learn_one(claim, now_s)) is not None]

    def _learn_one(self, claim: MemberClaim, now_s: float) -> Member | None:
        row = self._rows.get(claim.replica)
        if row is self.me:
            return self._refute(claim)
        if row is None:
            if not self._has_room(now_s):
                return None
            row = Member(
                claim.replica,
                claim.address,
                claim.incarnation,
                claim.status,
                now_s,
                journalled=claim.journalled,
            )
            if row.name == self.me.name and row.address == self.me.address:
                row.status = Status.LEFT  # an earlier incarnation of this agent
            self._rows[claim.replica] = row
            return row
        news = (claim.incarnation, claim.status) > (row.incarnation, row.status)
        retired = Status.RETIRED in (claim.status, row.status)
        if (retired and row.status is Status.RETIRED) or not (news or retired):
            return None
        if claim.status is not row.status:
            row.since_s = now_s
        row.incarnation = max(claim.incarnation, row.incarnation)
        row.status = claim.status
        row.address = claim.address or row.address
        row.journalled = claim.journalled
        row.sent = 0
        return row

    def _has_room(self, now_s: float) -> bool:
        """Whether one more fits; the row that is gone or dead for longest makes room."""
        if len(self._rows) < self._config.members_max:
            return True
        gone = [m for m in self.everyone() if m.status in (Status.LEFT, Status.DEAD)]
        if not gone:
            return False
        oldest = min(gone, key=lambda m: (m.status is Status.DEAD, m.since_s))
        if now_s <= oldest.since_s:
            return False
        del self._rows[oldest.replica]
        return True

    def _refute(self, claim: MemberClaim) -> Member | None:
        """Somebody speaks of me. Suspected or dead: I say otherwise, louder."""
        grave = claim.status in (Status.SUSPECT, Status.DEAD)
        moved = claim.address != self.me.address and claim.incarnation > self.me.incarnation
        if claim.status is Status.RETIRED:
            self.retired = True
        loud_enough = claim.incarnation < INCARNATION_MAX
        if not loud_enough or not (moved or (grave and claim.incarnation >= self.me.incarnation)):
            return None
        self.me.incarnation = claim.incarnation + 1
        self.me.sent = 0
        return self.me

    def heard(self, replica: str, now_s: float, via: str = "") -> Member | None:
        """Direct, authenticated evidence that `replica` runs, and can be asked `via` there.

        Returns the member that lost its address to this one: it was re-incarnated.
        """
        row = self._rows.get(replica)
        if row is None:
            if not self._has_room(now_s):
                return None
            row = Member(replica, "", 0, Status.ALIVE, now_s)
            self._rows[replica] = row
        row.heard_s = now_s
        row.via = via or row.via
        if row.status in (Status.SUSPECT, Status.DEAD):
            # What I saw myself steers my traffic; the others wait for the member's own refutation.
            row.status, row.since_s = Status.ALIVE, now_s
        for other in self.current():
            same_agent = other.name == row.name and other.address == row.address
            if other is not row and same_agent:
                other.status, other.since_s, other.sent = Status.LEFT, now_s, 0
                return other
        return None

    def hung_up(self, via: str, now_s: float) -> None:
        """A connection ended. Whom nothing else reaches is suspected: nobody could probe it."""
        for row in self.everyone():
            if row.via == via:
                row.via = ""
                if not row.address:
                    self.suspect(row.replica, now_s)

    # -------------------------------------------------------------------------- verdicts

    def suspect(self, replica: str, now_s: float) -> None:
        """A probe, direct and indirect, went unanswered."""
        row = self._rows.get(replica)
        if row is not None and row.status is Status.ALIVE:
            row.status, row.since_s, row.sent = Status.SUSPECT, now_s, 0

    def suspicion_s(self) -> float:
        """How long a suspicion lasts: `factor * max(1, log10 N)` probe intervals (Lifeguard)."""
        scale = max(1.0, math.log10(max(self.count(), 1)))
        return self._config.suspicion_factor * scale * self._config.probe_interval_s

    def expire(self, now_s: float) -> list[Member]:
        """Suspicions that ran out become `dead`; returns those members."""
        limit = self.suspicion_s()
        expired = [
            m for m in self.everyone() if m.status is Status.SUSPECT and now_s - m.since_s >= limit
        ]
        for row in expired:
            row.status, row.since_s, row.sent = Status.DEAD, now_s, 0
        return expired

    def forget_gone(self, now_s: float) -> list[str]:
        """Drop rows of members that left `LEFT_KEPT_S` ago; their ids. The retired stay known."""
        gone = [
            m.replica
            for m in self.everyone()
            if m.status is Status.LEFT and now_s - m.since_s >= LEFT_KEPT_S
        ]
        for replica in gone:
            del self._rows[replica]
        return gone

    def depart(self, replica: str, status: Status, now_s: float) -> MemberClaim | None:
        """Mark a member (or me) as left or retired, for good; the claim to spread."""
        row = self._rows.get(replica)
        if row is None:
            return None
        row.status, row.since_s, row.sent = status, now_s, 0
        return row.claim()

    def reincarnated(self, replica: str, now_s: float) -> None:
        """This agent goes on under a new id; the old one has left."""
        old, self.retired = self.me, False
        self.me = Member(
            replica,
            old.address,
            old.incarnation + 1,
            Status.ALIVE,
            now_s,
            now_s,
            journalled=old.journalled,
        )
        self._rows[replica] = self.me
        old.status, old.since_s, old.sent = Status.LEFT, now_s, 0

    # -------------------------------------------------------------------------- telling

    def gossip(self, *, full: bool = False) -> tuple[MemberClaim, ...]:
        """Claims to piggyback: the least sent first; nothing once all were sent often enough.

        With `full` this replica introduces itself, whatever was sent before.
        """
        enough = 3 * math.ceil(math.log2(len(self._rows) + 1))
        fresh = sorted(
            (m for m in self._rows.values() if m.sent < enough), key=lambda m: (m.sent, m.replica)
        )[: self._config.members_per_frame]
        if full and self.me not in fresh:
            fresh.insert(0, self.me)
        for row in fresh:
            row.sent += 1
        return tuple(row.claim() for row in fresh)

    def address_book(self) -> tuple[MemberClaim, ...]:
        """What the journal keeps, so that a cluster that restarts as a whole finds itself."""
        return tuple(m.claim() for m in self.current() if m.address and not self.is_own(m.address))

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
    any of     LEFT         it said so, or its name answers under another id where it was
    the above  RETIRED      an operator said so
    LEFT,      ALIVE        a claim of a higher incarnation, or a frame of a boot that did not say
    RETIRED                 goodbye: whoever lives refutes whatever is said of it
    LEFT       forgotten    `LEFT_KEPT_S` went by
    any        gone         its successor recorded that this life is over (`lives`)

A claim is told so often, and no more, so chance may pass somebody by. So a sync carries a digest of
who is current (`digest`), and where it differs from that of the asked, the answer brings the whole
table: once per peer and pair of digests.

Verdicts steer traffic only: **dead is not gone**. A dead member is still tried now and then, keeps
its place in the address book, and comes back with one refutation. Leaving and retiring are
explicit, and no verdict is final: a wrong one would cut off somebody who lives, for good. A member
that came back from LEFT by a mere frame, and then falls silent, has left again and is not dead:
that frame was late.

*Who is believed.* A claim is made by the sender of a frame. Of itself (`agent_of`) everybody speaks
as its owner. Of others a relay is believed, by name or by the cluster's secret - with one secret
there is one principal -; what a leaf says of others is dropped (`prober`). So every row was met
directly or is vouched for by somebody who may bring others' events, too, and `stable` waits for
nobody else's inventions; of one leaf's ids, met or not, `ROWS_PER_LEAF_MAX` are kept.

*An address is a hint to dial.* It is `proved` when its owner answered there, to a question of ours,
or told it first hand and may speak for others, too; until then nothing but a bare probe is sent to
it (`exchanges`). A member that is said to have another address has to prove that anew.

An address of our own is nobody else's: who was known there is gone from it (another agent took its
port, or this one had another id), so it keeps its row and its verdict, and is not dialled there. An
agent also has addresses that it does not know (`localhost`, a NAT): a frame that came back to its
sender tells.

Two replica ids of one name at one address: the one that *answered* there holds it, and the other
has left. A mere frame proves nothing, since one of the former life may be late: two agents that
crashed in the same instant would declare each other's new lives over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol, TypeVar

from replication.protocol.messages import INCARNATION_MAX, MemberClaim, Probe, Status
from replication.protocol.policy import AccessPolicy, agent_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replication.config import Config

T = TypeVar("T")

LEFT_KEPT_S = 3600.0
"""A member that left is remembered for this long, lest an old claim brings it back."""


MANY = 64
"""Claims on a sync: where many come at once, news of them must not queue up behind each other."""

INTRODUCED_MAX = 256
"""Claims in the answer to somebody who is new here: some kilobytes, once."""

OWN_ADDRESSES_MAX = 64
"""Addresses of our own that are remembered; one beyond them is asked, and refused, each time."""

ROWS_PER_LEAF_MAX = 64
"""Ids of one name that may not speak for others; the one that is silent for longest makes room."""


@lru_cache(maxsize=8192)
def _hash_of(replica: str) -> int:
    return int.from_bytes(blake2b(replica.encode(), digest_size=8).digest(), "big")


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
    proved: bool = False
    """Whether it answered at its address; until then that is a hint."""
    wanted: bool = False
    """Whether something waits to be said to it until its address is proved."""
    asked_s: float = -math.inf
    """When it was last asked to prove its address."""
    over: int = -1
    """The greatest incarnation at which it was said to have left, or to be retired."""
    parted: bytes | None = None
    """The boot that said goodbye, if it was its own word."""
    challenge: bytes = b""
    """What frames for it have to name; from itself, or from whoever told of it."""

    @property
    def name(self) -> str:
        """The name that the agent was given, without its incarnation."""
        return agent_of(self.replica)

    @property
    def dead(self) -> bool:
        """Whether it is believed to be down; which is not gone."""
        return self.status is Status.DEAD

    @property
    def reach(self) -> str:
        """Where to send requests: over its own connection, else at its address; "" for nowhere."""
        return self.via or self.address

    def hear_of(self, claim: MemberClaim) -> None:
        """A claim of others: its challenge counts if it is of a later life, or none is known."""
        if claim.challenge and (claim.incarnation > self.incarnation or not self.challenge):
            self.challenge = claim.challenge

    def claim(self) -> MemberClaim:
        """The row as it travels."""
        return MemberClaim(
            self.replica,
            self.address,
            self.incarnation,
            self.status,
            self.journalled,
            self.challenge,
        )


class Membership:
    """The table of members, this replica included. All methods are O(members) or better."""

    __slots__ = ("_config", "_own_addresses", "_rows", "acquainted", "closed", "me", "policy")

    def __init__(
        self,
        replica: str,
        address: str,
        incarnation: int,
        config: Config,
        now_s: float,
        *,
        journalled: bool = True,
        policy: AccessPolicy | None = None,
    ) -> None:
        self._config = config
        self.policy = policy or AccessPolicy()
        self.me = Member(
            replica, address, incarnation, Status.ALIVE, now_s, now_s, journalled=journalled
        )
        self._own_addresses = {address} - {""}
        self.acquainted = False
        """Whether anybody else was met in this boot."""
        self.closed: set[str] = set()
        """Ids of former lives whose end is on record, and not in doubt: nobody's any more."""
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

    def learn(
        self, claims: Iterable[MemberClaim], now_s: float, sender: str = "", boot: bytes = b""
    ) -> list[Member]:
        """Take claims that are news; returns the rows that changed. Unknown ones are added.

        `sender` made them, in that boot; without one they are our own, as of the last run.
        """
        told = list(claims)
        rows = [self._learn_one(claim, now_s, sender, boot) for claim in told]
        for claim in told if self.policy.may_relay(agent_of(sender)) else ():
            row = self._rows.get(claim.replica)
            if row is not None and claim.replica == sender and claim.address == row.address:
                row.proved = True  # its own word, first hand
        return [row for row in rows if row is not None]

    def believed(self, sender: str, claims: Iterable[MemberClaim]) -> list[MemberClaim]:
        """Those of its claims that a sender is to be believed: of itself, or as a relay."""
        name = agent_of(sender)
        if self.policy.may_relay(name):
            return list(claims)
        return [
            claim
            for claim in claims
            if claim.replica == sender
            or (claim.status is Status.LEFT and agent_of(claim.replica) == name)
        ]

    def _learn_one(
        self, claim: MemberClaim, now_s: float, sender: str, boot: bytes
    ) -> Member | None:
        row = self._rows.get(claim.replica)
        if row is self.me:
            return self._refute(claim)
        if claim.replica in self.closed:
            return None
        if row is None:
            if not self._has_room(claim.replica, now_s):
                return None
            row = Member(
                claim.replica,
                claim.address,
                claim.incarnation,
                claim.status,
                now_s,
                journalled=claim.journalled,
                challenge=claim.challenge,
            )
            if row.name == self.me.name and row.address == self.me.address:
                row.status = Status.LEFT  # an earlier incarnation of this agent
            self._rows[claim.replica] = row
        elif (claim.incarnation, claim.status) > (row.incarnation, row.status):
            if claim.status is not row.status:
                row.since_s = now_s
            row.hear_of(claim)
            row.incarnation, row.status = claim.incarnation, claim.status
            if claim.address not in {"", row.address}:
                row.address, row.proved = claim.address, False
            row.journalled = claim.journalled
            row.sent = 0
        else:
            return None
        if row.status >= Status.LEFT:
            row.over = row.incarnation
            row.parted = boot if sender and agent_of(sender) == row.name else None
        return row

    def _has_room(self, replica: str, now_s: float) -> bool:
        """Whether one more fits; the row that is gone or dead for longest makes room."""
        name = agent_of(replica)
        if not self.policy.may_relay(name):
            own = [m for m in self.everyone() if m.name == name]
            if len(own) >= ROWS_PER_LEAF_MAX:
                del self._rows[min(own, key=lambda m: m.heard_s).replica]
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
        """Somebody speaks of me. Whatever it is, and not that I live here: I say so, louder."""
        grave = claim.status is not Status.ALIVE
        moved = claim.address != self.me.address and claim.incarnation > self.me.incarnation
        loud_enough = claim.incarnation < INCARNATION_MAX
        if self.me.status >= Status.LEFT or not loud_enough:
            return None
        if not (moved or (grave and claim.incarnation >= self.me.incarnation)):
            return None
        self.me.incarnation = claim.incarnation + 1
        self.me.sent = 0
        return self.me

    def heard(
        self,
        replica: str,
        now_s: float,
        via: str = "",
        boot: bytes = b"",
        challenge: bytes = b"",
    ) -> Member | None:
        """Direct, authenticated evidence that `replica` runs, and can be asked `via` there.

        Its row; None if there is no room for one, or its life is closed. `challenge` is its own.
        """
        row = self._rows.get(replica)
        if row is None:
            if replica in self.closed or not self._has_room(replica, now_s):
                return None
            row = Member(replica, "", 0, Status.ALIVE, now_s)
            self._rows[replica] = row
        self.acquainted = True
        row.heard_s = now_s
        row.challenge = challenge or row.challenge
        if row.status >= Status.LEFT and row.parted == boot:
            return row  # it said goodbye, and this frame was on its way then
        row.via = via or row.via
        if row.status is not Status.ALIVE:
            # What I saw myself steers my traffic; the others wait for the member's own refutation.
            row.status, row.since_s = Status.ALIVE, now_s
        return row

    def answered(self, replica: str, address: str, now_s: float) -> list[str]:
        """It answered a question of ours there: the address is proved, and nobody else's.

        Returns the ids of its name that were there before: they have left.
        """
        row = self._rows.get(replica)
        if row is None or not address:
            return []
        row.proved = row.proved or address == row.address
        left = []
        for other in self.everyone():
            if other is row or other.address != address:
                continue
            other.proved = False
            if other.name == row.name and other.status < Status.LEFT:
                other.status, other.since_s, other.sent = Status.LEFT, now_s, 0
                other.over, other.parted = other.incarnation, None
                left.append(other.replica)
        return left

    def is_hint(self, replica: str, address: str) -> bool:
        """Whether its owner still has to answer at this address.

        Those without an owner we know ourselves: of seeds, hubs, and kept connections.
        """
        row = self._rows.get(replica)
        return row is not None and address == row.address != row.via and not row.proved

    def bare_probe(self, replica: str) -> Probe:
        """What is said where somebody has yet to answer: to a relay, where we are, too.

        Nobody but a relay vouched for where a relay is. What a leaf says that it is may be anybody.
        """
        return Probe(members=(self.me.claim(),) * self.policy.may_relay(agent_of(replica)))

    def close(self, replica: str) -> bool:
        """The end of that life is on record: it is no member any more; whether it was one."""
        self.closed.add(replica)
        return self._rows.pop(replica, None) is not None

    def reopen(self, replica: str) -> None:
        """The record was wrong, or nobody's: whoever it is may be a member again."""
        self.closed.discard(replica)

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
            row.status = Status.LEFT if row.over >= row.incarnation else Status.DEAD
            row.since_s, row.sent = now_s, 0
        return [m for m in expired if m.status is Status.DEAD]

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
        """Mark a member (or me) as left or retired; the claim to spread."""
        row = self._rows.get(replica)
        if row is None:
            return None
        row.status, row.since_s, row.sent = status, now_s, 0
        row.over, row.parted = row.incarnation, None
        return row.claim()

    def reincarnated(self, replica: str, now_s: float) -> None:
        """This agent goes on under a new id; the old one has left."""
        old = self.me
        self.me = Member(
            replica,
            old.address,
            old.incarnation + 1,
            Status.ALIVE,
            now_s,
            now_s,
            journalled=old.journalled,
            challenge=old.challenge,
        )
        self._rows[replica] = self.me
        old.status, old.since_s, old.sent = Status.LEFT, now_s, 0
        old.over = old.incarnation

    # -------------------------------------------------------------------------- telling

    def is_away(self, replica: str) -> bool:
        """Whether it is believed dead, or was never heard of."""
        row = self._rows.get(replica)
        return row is None or row.status is Status.DEAD

    def accusation(self, replica: str) -> tuple[MemberClaim, ...]:
        """What is held against a member, for itself to refute: nobody else can."""
        row = self._rows.get(replica)
        grave = row is not None and row.status in (Status.SUSPECT, Status.DEAD)
        return (row.claim(),) if row is not None and grave else ()

    def introduction(self) -> tuple[MemberClaim, ...]:
        """What a newcomer is told: whoever is current, up to `INTRODUCED_MAX` of them, and I am."""
        current = sorted(self.current(), key=lambda m: (m.status, m.sent, m.replica))
        return tuple(m.claim() for m in (self.me, *current[: INTRODUCED_MAX - 1]))

    def digest(self) -> bytes:
        """8 bytes that are equal where the same members are current. O(members)."""
        total = sum(_hash_of(m.replica) for m in (self.me, *self.current()))
        return (total & (1 << 64) - 1).to_bytes(8, "big")

    def _enough(self) -> int:
        return 3 * math.ceil(math.log2(len(self._rows) + 1))

    def gossip(self, *, full: bool = False, many: bool = False) -> tuple[MemberClaim, ...]:
        """Claims to piggyback: the least sent first; nothing once all were sent often enough.

        With `full` this replica introduces itself, whatever was sent before; `many` for a frame
        that is none of the smallest anyhow.
        """
        enough = self._enough()
        fresh = sorted(
            (m for m in self._rows.values() if m.sent < enough), key=lambda m: (m.sent, m.replica)
        )[: MANY if many else self._config.members_per_frame]
        if full and self.me not in fresh:
            fresh.insert(0, self.me)
        for row in fresh:
            row.sent += 1
        return tuple(row.claim() for row in fresh)

    def address_book(self) -> tuple[MemberClaim, ...]:
        """What the journal keeps, so that a cluster that restarts as a whole finds itself."""
        kept = (m for m in self.current() if m.address and not self.is_own(m.address))
        return tuple(replace(m.claim(), challenge=b"") for m in kept)

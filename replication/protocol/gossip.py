"""Who is given which events: answering vectors, taking deltas in, pushing what is new.

Theory of operation. Two mechanisms share one door. *Eager push* makes local writes visible in
milliseconds and may fail silently; *push-pull* compares vectors and repairs everything (Demers et
al. 1987). Whatever arrives enters through `take_in`, which alone decides what is applied, kept,
published and forwarded. A delta is always asked of the kernel at the moment it is sent, so nothing
that waits for a slow peer is ever kept; the kernel encodes each piece of history once, and gives it
to every peer that lacks it (`crdt.kernel.encodings`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from crdt import BelowFloorError, Delta, VersionVector
from replication.errors import BusyError, ForbiddenError, HistoryConflictError, MalformedFrameError
from replication.protocol import digest as digests
from replication.protocol.bootstrap import JOINING_S, NEARLY_ALL, Donor, Receiver, lacks
from replication.protocol.comparison import Comparison
from replication.protocol.effects import CHUNK, Row
from replication.protocol.gossip_scheduler import REPLACED_AFTER
from replication.protocol.intake import Intake, Outcome, record_skip
from replication.protocol.messages import (
    Ack,
    BlocksWanted,
    ChunkGiven,
    ChunkWanted,
    Digest,
    HashesGiven,
    HashesWanted,
    PositionsWanted,
    Push,
    Sync,
    Synced,
    Tier,
    is_brief,
)
from replication.protocol.peers import Acknowledgements
from replication.protocol.policy import agent_of
from replication.protocol.wire import vector_hash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from crdt import Dot, Kernel
    from replication.config import Config
    from replication.protocol.effects import Pending
    from replication.protocol.exchanges import Exchanges, Opened
    from replication.protocol.membership import Member, Membership
    from replication.protocol.messages import MemberClaim, Message
    from replication.protocol.peers import Peer, Peers, Planned, Ranges
    from replication.protocol.policy import AccessPolicy
    from replication.protocol.token_bucket import TokenBucket
    from replication.protocol.waits import Waits


WEIGHED_EVERY = 8
"""In one of so many rounds removal records are weighed, which takes a look at every origin."""


@dataclass(slots=True)
class Gossip:
    """One per replica; a second one, `durable_only`, while its journal fails."""

    kernel: Kernel
    config: Config
    peers: Peers
    exchanges: Exchanges
    members: Membership
    pending: Pending
    policy: AccessPolicy
    bandwidth: TokenBucket
    waits: Waits
    intake: Intake = field(init=False)
    donor: Donor = field(init=False)
    receiver: Receiver = field(init=False)
    comparison: Comparison = field(init=False)
    read_only: bool = False
    """What peers bring is left with them: the journal cannot take it."""
    _asked: bool = False
    """Whether those were asked who seem to lack what removals could be forgotten after."""
    _rounds: int = 0
    _stable: VersionVector = field(default_factory=VersionVector)
    """Up to which removals were forgotten when there last were too many."""

    def __post_init__(self) -> None:
        self.intake = Intake(self.kernel, self.policy, self.config.delta_bytes_max)
        self.donor = Donor(self.kernel, self.config)
        self.receiver = Receiver(self.kernel, self.config)
        self.comparison = Comparison(self.kernel)

    def durable_only(self, kernel: Kernel) -> Gossip:
        """One that tells peers of what `kernel` holds, and takes nothing in; same quarantine."""
        twin = replace(self, kernel=kernel, read_only=True, _stable=VersionVector())
        twin.intake.quarantine = self.intake.quarantine
        return twin

    # ------------------------------------------------------------------------------ syncs

    def gossip(
        self, whom: tuple[list[Member], list[str]], widespread: Mapping[str, int], now_s: float
    ) -> None:
        """One round with members and strangers; it forgets removals that all members have."""
        for member in whom[0]:
            self.greet(member, widespread, now_s)
        for address in whom[1]:
            self.greet_stranger(address, now_s)
        if whom[0]:
            self.comparison.forget({member.replica for member in self.members.current()})
        self._rounds += bool(whom[0])
        asked, self._asked = self._asked, self._asked and not whom[0]
        if not whom[0] or (self._rounds % WEIGHED_EVERY and not asked):
            return
        if self.kernel.records_bytes > self.config.removal_records_bytes_stable:
            stable = Acknowledgements(self.members, self.peers).stable(self.kernel.vector)
            if not asked:  # who seems to lack some; a round later it is known
                self._asked = self.waits.look(self.kernel.vector, now_s)
            if stable != self._stable:
                self.kernel.drop_records(stable)
                self._stable = stable

    def greet(self, member: Member, widespread: Mapping[str, int], now_s: float) -> None:
        """Open a push-pull exchange with a member; `widespread` is what all but surely all have.

        A greeting asks by its digest, and may bring events along, so that one frame that arrives is
        enough for news. Which ones:

            vectors compared since `widespread`   all above the belief, cut at the greeting's bytes
            not lately, or never                  all above belief and `widespread`, or nothing: a
                                                  piece of that is not news; what is older is
                                                  history, whose extent only the answer tells
            a push to it is under way             nothing: the push brings it - unless it was silent
                                                  for as long as a partner of a round may be
            it has next to nothing, and we have   nothing: it may have to ask for chunks, and scraps
            more than chunks are made for         of a large state would only delay that
            it is being given a state             nothing: that brings them, too
        """
        peer = self.peers.peer(member.replica)
        every = self.config.digest_full_every
        digest = digests.opening(self.kernel.vector, peer, every, self.members.writing())
        if self.receiver.is_joining(now_s):
            digest = digests.joining(self.kernel.vector)
        full = digest.whole or not peer.introduced
        lately_s = now_s - REPLACED_AFTER * self.config.gossip_interval_s
        lost = peer.pushing and self.exchanges.waiting(member.reach, Push, lately_s)
        data = b""
        told = now_s >= peer.joining_until_s
        if (
            told
            and not self._lacks_much(peer.known, self.kernel.vector)
            and (lost or not peer.pushing)
        ):
            fresh = peer.compared_since(widespread)
            since = peer.believed if fresh else peer.believed | widespread
            target = self.config.greeting_bytes_target
            data = self._encoded(since, target, now_s, whole=not fresh)
        claims = self.members.gossip(full=full, many=True)
        greeting = Sync(self.comparison.marked(digest), claims, data, self.members.digest())
        self.open(member.reach, member.replica, greeting, now_s)

    def greet_stranger(self, address: str, now_s: float) -> None:
        """Open one with whoever listens at an address."""
        digest = self.comparison.marked(digests.full(self.kernel.vector))
        greeting = Sync(digest, self.members.gossip(full=True, many=True))
        self.open(address, "", greeting, now_s)

    def answer(self, replica: str, request: Sync, now_s: float) -> Synced:
        """Take what the peer brought; what its vector lacks, cut at the byte budget."""
        peer = self.peers.peer(replica)
        if request.delta and not self.read_only:
            self.take_in(request.delta, replica, ())
        mine = self.kernel.vector
        theirs = digests.lower_bound(request.digest, mine, peer)
        answer = digests.answering(mine, peer, request.digest, self.members.writing())
        if self.receiver.is_joining(now_s):
            answer = digests.joining(mine)
        self._is_joining(peer, request.digest, now_s)
        equal = answer.hash == request.digest.hash
        full = request.digest.whole or not peer.introduced
        peer.compared(mine if equal else digests.reported(request.digest, mine), shown=mine)
        claims = self._told_of_members(replica, request.table, full=full)
        if equal:
            answer = self.comparison.marked(answer)
            self.compared(replica, answer.state, request.digest.state)
        if equal or (request.digest.tier is Tier.HASH and not peer.known):
            return Synced(answer, members=claims)
        if request.digest.tier is Tier.JOINING:
            reset = self._relays and self._lacks_much(theirs, mine)
            return Synced(answer, reset=reset, members=claims)
        theirs = self._offered(theirs)
        room = min(self.config.delta_bytes_target, self.bandwidth.room(now_s))
        try:
            if self._relays and self._lacks_much(theirs, mine):
                return Synced(digests.full(mine), reset=True, members=claims)
            delta, more = self._delta(theirs, room)
        except BelowFloorError:
            return Synced(digests.full(mine), reset=self._relays, members=claims)
        data = delta.encode() if delta else b""
        return Synced(answer, data, more, members=claims)

    def _told_of_members(
        self, replica: str, theirs: bytes, *, full: bool
    ) -> tuple[MemberClaim, ...]:
        """Claims for an answer: the whole table for who is new, or knows others than we do."""
        if self.members.get(replica) is None:
            return self.members.introduction()
        peer, mine = self.peers.peer(replica), self.members.digest()
        differ = bool(theirs) and theirs != mine
        if differ and peer.tables != theirs + mine:
            peer.tables = theirs + mine
            return self.members.introduction()
        return self.members.gossip(full=full, many=True)

    @property
    def _relays(self) -> bool:
        """Whether this replica brings others' events, too; a leaf does not."""
        return self.policy.may_relay(agent_of(self.kernel.replica))

    def _offered(self, theirs: Mapping[str, int]) -> Mapping[str, int]:
        """A peer's vector, as if it had whatever a leaf may not bring it."""
        if self._relays:
            return theirs
        me = agent_of(self.kernel.replica)
        mine = self.kernel.vector
        return {o: theirs.get(o, 0) if agent_of(o) == me else s for o, s in mine.items()}

    def _lacks_much(self, theirs: Mapping[str, int], mine: VersionVector) -> bool:
        """Whether the whole state is cheaper than a retelling: they have next to nothing of it.

        Next to nothing is what somebody who just came may have written, or was told by the way.
        O(what they lack).
        """
        much = self.config.chunks_above_events
        if self.receiver.behind or mine.events <= much:
            return False
        lacking = lacks(mine, theirs)
        return lacking > much and NEARLY_ALL * lacking > mine.events

    def synced(self, opened: Opened, replica: str, answer: Synced, now_s: float) -> None:
        """Take what the peer gave, ask for what it still has, push what it lacks.

        In this order, because each step needs the vector that the one before left behind:

        1. What it has, it said; what it was shown is my vector *when I asked*: whatever came since
           is not covered by equal hashes.
        2. Its delta is taken in. From here on `mine` is the vector after it.
        3. It cannot tell by deltas (`reset`): ask for chunks, if that is worth it.
        4. It has more: ask for just these origins (`WANTED`) - but only if that leads on. Either
           it has not been asked yet (it compared hashes and sent nothing), or its answer was cut
           *and* brought us forward; otherwise two replicas would ask each other in circles.
        5. It lacks something: push it - unless the answer is a bare hash, which says nothing of
           what it has, or a push is under way, or it is new and will rather ask for chunks.
        """
        request = opened.request
        if not isinstance(request, Sync):
            raise MalformedFrameError("a sync was answered that was not asked")
        peer = self.peers.peer(replica)
        equal = answer.digest.hash == request.digest.hash
        theirs = digests.reported(answer.digest, self.kernel.vector)
        self._is_joining(peer, answer.digest, now_s)
        peer.compared(opened.shown if equal else theirs, shown=opened.shown)
        if equal:
            self.compared(replica, request.digest.state, answer.digest.state)
            self.mend(opened, replica, answer.digest.state, now_s)
            return
        before = self.kernel.vector
        if answer.delta:
            self.take_in(answer.delta, replica, ())
        mine = self.kernel.vector
        if answer.reset:
            for wanted in self.receiver.reset(opened.address, answer.digest.vector, now_s):
                self.open(opened.address, replica, wanted, now_s)
        lacking = {o: mine.get(o, 0) for o in peer.known.above(mine)}
        if not self.policy.may_relay(agent_of(replica)):  # of a leaf only its own events
            lacking = {o: s for o, s in lacking.items() if agent_of(o) == agent_of(replica)}
        unasked = request.digest.tier not in {Tier.WANTED, Tier.JOINING}
        unasked = unasked and not (answer.delta or answer.reset)
        unasked = unasked and not self.receiver.is_joining(now_s)
        if lacking and (unasked or (answer.more and mine != before)):
            digest = Digest(vector_hash(mine), Tier.WANTED, lacking)
            self.open(opened.address, replica, Sync(digest), now_s)
        if answer.digest.tier in {Tier.HASH, Tier.JOINING} or peer.pushing:
            return
        if not (self._relays and self._lacks_much(peer.known, mine) and peer.withhold()):
            self._push(opened.address, replica, peer.believed, now_s)

    @staticmethod
    def _is_joining(peer: Peer, digest: Digest, now_s: float) -> None:
        """Whether it said that it is being given a state; that is believed for a while."""
        joining = digest.tier is Tier.JOINING
        peer.joining_until_s = now_s + JOINING_S if joining else -inf
        if joining:
            peer.asked_for_chunks()

    # ------------------------------------------------------------------------------ comparing

    def compared(self, replica: str, mine: bytes, theirs: bytes) -> None:
        """The digests of two states at equal vectors: where they begin to differ, say so."""
        if self.comparison.compare(replica, mine, theirs):
            self.pending.counts["state:differs"] += 1
            self.pending.notice("states-differ", peer=replica)

    def mend(self, opened: Opened, replica: str, theirs: bytes, now_s: float) -> None:
        """Begin to take over what a peer of another state knows to be dead, if that is due."""
        asked = opened.request
        if not isinstance(asked, Sync) or not self.policy.may_relay(agent_of(replica)):
            return  # a leaf does not speak for others
        if self.receiver.active or self.kernel.in_batch:
            return
        if not self.comparison.try_once(replica, asked.digest.state, theirs, now_s):
            return
        wanted = self.comparison.first_page(replica)
        if not self.open(opened.address, replica, wanted, now_s):
            self.comparison.failed(replica)

    def hashes(self, opened: Opened, replica: str, given: HashesGiven, now_s: float) -> None:
        """A page of a peer's hashes came: ask for the next, or for the blocks that differ.

        Raises:
            MalformedFrameError: nobody asked for it.
        """
        if not isinstance(opened.request, HashesWanted):
            raise MalformedFrameError("hashes came that were not asked for")
        wanted = self.comparison.next(replica, opened.request, given, now_s)
        if wanted is None:
            return
        blocks = isinstance(wanted, BlocksWanted)
        if blocks and not self.receiver.mend(opened.address, replica):
            self.comparison.failed(replica)
        elif not self.open(opened.address, replica, wanted, now_s):
            self.comparison.failed(replica)
            if blocks:
                self.receiver.stop()

    # ------------------------------------------------------------------------------ taking in

    def take_in(self, data: bytes, sender: str, told: tuple[int, ...]) -> Ranges:
        """Apply what a peer sent, keep it, spread what was new; returns the ranges it covers.

        Raises:
            FrameError: nothing changed.
        """
        if self.read_only:
            raise BusyError("the journal of this replica failed; it only tells what is durable")
        taken = self.intake.take(data, sender)
        if taken.outcome is Outcome.CONFLICT:
            raise HistoryConflictError(
                f"{sender} holds events of {self.kernel.replica} that it never wrote"
            )
        pending = self.pending
        pending.counts[f"delta:{taken.outcome.value}"] += 1
        pending.counts["bytes:delta"] += len(data)
        pending.counts["redundant"] += taken.redundant
        self.peers.credit(taken.ranges, sender, self.members.live(), told)
        for origin, why in taken.barred.items():
            pending.counts[f"refused:{ForbiddenError.code}"] += 1
            pending.notice("origin-refused", origin=origin, why=why, **{"from": sender})
        if taken.outcome is Outcome.POISON:
            pending.notice("quarantined", **{"from": sender, "why": taken.why})
        for row, change in taken.applied:
            pending.merge(row, change)
        self.skip_given_up()
        if taken.applied and told:  # a push; what a sync brings spreads by syncs
            origins = [origin for origin, _, _ in taken.ranges]
            known = [*told, *map(self.peers.hash_of, (sender, self.kernel.replica))]
            self.peers.spread(origins, self.members.live(), known)
        return taken.ranges

    def positions(self, asked: Push | PositionsWanted, sender: str) -> Ack:
        """Where this replica stands, of the origins named: durably, when the answer leaves.

        Raises:
            FrameError: what was pushed is refused, and nothing changed.
        """
        origins: Iterable[str]
        if isinstance(asked, Push):
            ranges = self.take_in(asked.delta, sender, asked.told)
            origins = [origin for origin, _, _ in ranges]
        else:
            origins = asked.origins
        stands = self.kernel.vector  # made anew by each look at it
        return Ack({origin: stands.get(origin, 0) for origin in origins})

    def give_up(self, origin: str) -> None:
        """Record that the quarantined event of an origin is given up, and go on behind it.

        Raises:
            CRDTError: it cannot be written now; nothing changed.
        """
        held = self.intake.quarantine.get(origin)
        if held is not None:
            record_skip(self.kernel, origin, held)
            self.skip_given_up()

    def skip_given_up(self) -> None:
        """Go on behind quarantined events that an operator gave up, here or elsewhere."""
        if not self.intake.quarantine:
            return
        held = dict(self.intake.quarantine)
        for row, change in self.intake.release():
            self.pending.merge(row, change)
        for origin in held.keys() - self.intake.quarantine.keys():
            first, last = held[origin].span
            self.pending.notice("skipped", origin=origin, events=f"{first}-{last}")

    def give(
        self, replica: str, wanted: ChunkWanted | HashesWanted | BlocksWanted, now_s: float
    ) -> ChunkGiven | HashesGiven:
        """What a peer asks for: a chunk, hashes of blocks, or the first chunk of some blocks.

        Raises:
            BusyError: this replica is in pieces itself, gave away all it may for now, or is not
                where the peer was when it asked for blocks.
            ForbiddenError: it is a leaf, which knows its own events only.
        """
        self.receiver.may_donate()
        if not self._relays:
            raise ForbiddenError("a leaf does not speak for others; ask a relay")
        if isinstance(wanted, HashesWanted):
            return self.comparison.give(wanted)
        if not self.bandwidth.room(now_s):
            if isinstance(wanted, ChunkWanted):
                self.donor.keep(wanted, now_s)
            raise BusyError("the bandwidth cap is reached; go on a moment later")
        if isinstance(wanted, BlocksWanted):
            if not self.comparison.is_at(wanted.hash):
                raise BusyError("this replica went on; compare again")
            return self.donor.give_blocks(wanted, now_s)
        self.peers.peer(replica).asked_for_chunks()
        self.peers.peer(replica).joining_until_s = now_s + JOINING_S
        return self.donor.give(wanted, now_s)

    def chunk(self, opened: Opened, replica: str, given: ChunkGiven, now_s: float) -> None:
        """A chunk of a bootstrap came: join it, keep it, ask for the next ones.

        Raises:
            MalformedFrameError: nobody asked for it.
            ForbiddenError: it comes from a leaf.
        """
        if not self.policy.may_relay(agent_of(replica)):
            raise ForbiddenError(f"{replica} is a leaf and brought a state of others")
        asked = opened.request
        if isinstance(asked, ChunkWanted):
            due = given.index == 0 or (given.set_id, given.index) == (asked.set_id, asked.index)
        else:
            due = isinstance(asked, BlocksWanted) and given.index == 0
        if not due:
            raise MalformedFrameError("a chunk came that was not asked for")
        mending, before, stood = self.receiver.mending, self._extent(), self.kernel.vector
        change, wanted = self.receiver.take(given, now_s)
        if self.receiver.contradicted:
            self._report(replica, self.receiver.contradicted)
        if mending and not self.receiver.active:
            self._mended(replica, now_s, changed=self._extent() != before)
        if change is not None:
            stands = self.kernel.vector
            risen = [(o, stood.get(o, 0) + 1, s) for o, s in stands.items() if s > stood.get(o, 0)]
            self.pending.join(Row(CHUNK, given.data, tuple(risen)), change)
            self.pending.counts["chunk:new"] += 1
        for request in wanted:
            if not self.open(opened.address, replica, request, now_s):
                self._lost_chunk(opened.address, replica, request, now_s)

    def _mended(self, replica: str, now_s: float, *, changed: bool) -> None:
        """The blocks that differed were joined."""
        self.comparison.concluded(replica, now_s, mended=changed)
        if changed:
            self.pending.counts["state:mended"] += 1
            self.pending.notice("mended", peer=replica)

    def _extent(self) -> tuple[int, int]:
        """What mending changes: entries die, or are doomed. O(origins)."""
        return self.kernel.entries, self.kernel.stats()["doomed"]

    def _report(self, replica: str, dots: Collection[Dot]) -> None:
        """An origin told two events under one number, or a replica holds something damaged."""
        if self.comparison.contradicted(replica, dots):
            named = ", ".join(self.comparison.differences()[replica].contradicted)
            self.pending.counts["state:conflict"] += 1
            self.pending.notice("contradicted", peer=replica, dots=named)

    def _lost_chunk(
        self, address: str, replica: str, request: ChunkWanted | BlocksWanted, now_s: float
    ) -> None:
        """A chunk did not come, or could not be asked for: again, or the try is over."""
        mending = self.receiver.mending
        again = self.receiver.lost(address, request, now_s)
        while again and not self.open(address, replica, again[0], now_s):
            again = self.receiver.lost(address, again[0], now_s)
        if again is None and mending:
            self.comparison.failed(replica)

    # ------------------------------------------------------------------------------ pushing

    def push_news(self, now_s: float) -> None:
        """Make the pushes that are due; peers that lack the same share one encoding."""
        if not self.peers.due():
            return
        applied = self.kernel.vector
        live = [m for m in self.members.live() if self._is_told(m.replica, applied, now_s)]
        encoded: dict[tuple[tuple[str, int], ...], bytes] = {}
        ready = max(self.exchanges.ready(), self.exchanges.ready(brief=True))
        while ready and self.bandwidth.room(now_s):
            wave = min(ready, 1) if self.bandwidth.bytes_per_s else ready
            plans = self.peers.plan(live, applied, wave)
            if not plans:
                return
            ready -= len(plans)
            for plan in plans:
                key = tuple(sorted(plan.since.items()))
                if key not in encoded:
                    encoded[key] = self._news(plan.since, applied, now_s)
                self._push_planned(plan, Push(encoded[key], plan.told), now_s)

    def _is_told(self, replica: str, applied: VersionVector, now_s: float) -> bool:
        """Whether news are pushed to a peer; one who is given a state will ask for the rest."""
        peer = self.peers.peer(replica)
        if not peer.dirty or peer.pushing:
            return True
        joins = self._relays and self._lacks_much(peer.believed, applied)
        if joins or now_s < peer.joining_until_s:
            peer.dirty.clear()
            return False
        return True

    def _push_planned(self, plan: Planned, push: Push, now_s: float) -> None:
        replica, brief = plan.peer.replica, is_brief(push)
        if plan.brief and not brief:
            self.peers.opened(replica, sent=False)
        elif push.delta and not self.exchanges.ready(brief=brief):
            self.peers.not_now(plan)
        else:
            self._push_bytes(plan.peer.reach, replica, push, now_s, plan.since)

    def _news(self, since: Mapping[str, int], applied: VersionVector, now_s: float) -> bytes:
        """What a peer lacks that has all but what is above `since`; the journal's bytes, if it can.

        A write that this step made, and nothing else, is encoded already: for the journal.
        """
        written = self.pending.written
        if written is not None and written.covers(since, applied):
            return written.data
        return self._encoded(applied.replaced(since), self.config.delta_bytes_target, now_s)

    def _push(
        self,
        address: str,
        replica: str,
        since: Mapping[str, int],
        now_s: float,
    ) -> None:
        data = self._encoded(since, self.config.delta_bytes_target, now_s)
        if data:
            self._push_bytes(address, replica, Push(data), now_s)

    def _push_bytes(
        self, address: str, replica: str, push: Push, now_s: float, origins: Iterable[str] = ()
    ) -> None:
        """Push, if that may be done now; `origins` are those that it is known to answer for."""
        sent = bool(push.delta) and self.open(address, replica, push, now_s)
        self.peers.opened(replica, sent=sent)
        if sent:
            self.waits.pushed(replica, origins, now_s)

    def acknowledged(
        self, opened: Opened, replica: str, stands: Mapping[str, int], now_s: float
    ) -> None:
        """A push, or a question, was answered with what its receiver durably has."""
        mine = self.kernel.vector
        if isinstance(opened.request, PositionsWanted):
            self.waits.answered(opened, replica, stands, mine, now_s)
            return
        told = opened.request.told if isinstance(opened.request, Push) else ()
        self.peers.pushed(replica, stands, mine, told)
        self.waits.acknowledged(opened, replica, stands, now_s)

    def failed(self, opened: Opened, now_s: float) -> None:
        """An exchange got no useful answer: forget what was assumed; gossip repairs the rest."""
        if isinstance(opened.request, Push):
            self.peers.push_failed(opened.replica)
        if isinstance(opened.request, Push | PositionsWanted):
            self.waits.failed(opened)
        if isinstance(opened.request, HashesWanted):
            self.comparison.failed(opened.replica)
        if isinstance(opened.request, ChunkWanted | BlocksWanted):
            self._lost_chunk(opened.address, opened.replica, opened.request, now_s)

    def _delta(self, since: Mapping[str, int], room: int) -> tuple[Delta, bool]:
        """Events above a vector, cut at `room` bytes; and whether there are more.

        Raises:
            BelowFloorError: only chunks could tell them.
        """
        mine = self.kernel.vector
        delta = self.kernel.delta_since(since, bytes_max=room, pieces=True) if room else Delta()
        after = VersionVector(since).replaced({origin: last for origin, _, last in delta.ranges})
        return delta, not mine <= after

    def _encoded(
        self, since: Mapping[str, int], bytes_target: int, now_s: float, *, whole: bool = False
    ) -> bytes:
        """Events above a vector; nothing if there are none, or if only chunks could tell them.

        With `whole`, nothing if not all of them fit.
        """
        try:
            room = min(bytes_target, self.bandwidth.room(now_s))
            delta, more = self._delta(self._offered(since), room)
        except BelowFloorError:
            return b""
        return delta.encode() if delta and not (whole and more) else b""

    def open(self, address: str, replica: str, request: Message, now_s: float) -> bool:
        """Open an exchange, if that may be done now."""
        opened = self.exchanges.open(address, replica, request, self.kernel.vector, now_s)
        self.pending.counts["exchange:opened" if opened else "exchange:not-now"] += 1
        return opened

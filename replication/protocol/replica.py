"""The replica: one kernel, one vector, and every decision of gossip. Bytes in, `Effects` out.

Theory of operation. State changes in one place, the kernel; this machine decides *when* a delta is
taken from it, offered to a peer, or refused. Its invariants, checked by `check()`:

* the vector that a frame shows is that of everything in this or an earlier `persist`;
* a range of an origin is applied only if it starts at or below our vector + 1, so the vector never
  jumps a gap and a peer's answer "I stand at 5" is always true;
* a local write is pushed at once to a few peers (`peers`), and anti-entropy repairs whatever was
  lost: convergence depends on nothing but that pairs keep exchanging (see `messages`);
* a frame that is refused changed nothing, and its sender is told why.

Every public method is one step: it takes the time, changes the machine, and returns what the world
has to do. `wake_s` says when the next `tick` is due; nothing happens between steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from crdt import VersionVector
from replication.errors import (
    AuthenticationError,
    BusyError,
    FaultError,
    ForbiddenError,
    FrameError,
    HistoryConflictError,
    IdentityConflictError,
    MalformedFrameError,
    OwnFrameError,
    StaleFrameError,
    frame_errors,
)
from replication.protocol.effects import Effects, Pending
from replication.protocol.exchanges import Exchanges, Opened
from replication.protocol.failure_detector import FailureDetector, Prober, Relay
from replication.protocol.freshness import NOBODY
from replication.protocol.gossip import Gossip
from replication.protocol.gossip_scheduler import GossipScheduler
from replication.protocol.identity import Identity
from replication.protocol.link import ANONYMOUS, PeerConnection
from replication.protocol.lives import Lives
from replication.protocol.membership import Membership
from replication.protocol.messages import (
    BRIEF_BYTES_MAX,
    Ack,
    BlocksWanted,
    ChunkGiven,
    ChunkWanted,
    HashesGiven,
    HashesWanted,
    Leave,
    MemberClaim,
    Message,
    PositionsWanted,
    Probe,
    Probed,
    Push,
    Refused,
    Status,
    Sync,
    Synced,
)
from replication.protocol.peers import Acknowledgements, Behind, Peers
from replication.protocol.policy import AccessPolicy, agent_of
from replication.protocol.waits import Waits
from replication.protocol.wire import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from crdt import Change, Delta, Kernel
    from replication.config import Config
    from replication.protocol.comparison import Difference
    from replication.protocol.membership import Dice
    from replication.protocol.wire import Envelope, Wire


OTHER_CODE = "other"
CODES = frozenset(kind.code for kind in frame_errors())
"""Of refusals: what peers say is counted under these and no other name."""


class Replica:
    """The pure machine of one agent.

    Args:
        kernel: the state, as the journal holds it; this replica installs itself as its listener.
        wire: seals and opens frames.
        address: where peers reach this replica; "" for one that only opens exchanges itself.
        incarnation: SWIM incarnation to start at, above that of any earlier boot.
        seeds: addresses to try; hubs: those that a connection is kept to.
        book: members as of the last run; chunks: of a bootstrap that it did not finish.
        policy: who may say what; the same on every replica.
        journalled: whether what is persisted outlives the process; peers are told.

    Its parts, each with the question that it answers; each changes its own state alone:

        kernel       what is the value?                 members    who is in the cluster?
        gossip       what comes in, what goes out?      prober     whom to probe, or to suspect?
        scheduler    when to gossip, and with whom?     peers      what does each peer have?
        exchanges    which requests are under way?      identity   may we go on under this id?
        waits        who waits, and whom to ask then?

    `_pending` is the one place where they leave what the step produced; `_take` empties it.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        wire: Wire,
        config: Config,
        dice: Dice,
        address: str,
        incarnation: int,
        now_s: float,
        seeds: Iterable[str] = (),
        book: Iterable[MemberClaim] = (),
        chunks: Iterable[bytes] = (),
        hubs: Iterable[str] = (),
        policy: AccessPolicy | None = None,
        journalled: bool = True,
    ) -> None:
        self.kernel = kernel
        self.config = config
        self.policy = policy or AccessPolicy()
        self._wire = wire
        self.bandwidth = wire.bandwidth
        self._pending = Pending()
        self.counts = self._pending.counts
        # What the journal brought back is durable; nothing else may be shown to peers.
        self.durable: VersionVector = kernel.vector

        # Who there is. The book comes before the seeds are asked, so that a cluster that restarts
        # as a whole finds itself. A hub is a seed, too: it is dialled, and then greeted by `line`.
        self._hubs = frozenset(hubs)
        self.members = Membership(
            kernel.replica,
            address,
            incarnation,
            config,
            now_s,
            journalled=journalled,
            policy=self.policy,
        )
        self.lives = Lives(kernel, self.members, config.total_timeout_s)
        self.lives.look(None, now_s)
        self.members.learn(book, now_s)
        self.peers, self.behind = Peers(config, dice), Behind()
        self.acknowledgements = Acknowledgements(self.members, self.peers)
        self.identity = Identity(kernel, self.members, dice, self.counts)

        self._turn(now_s)

        # What is said to them, and when. The first round is due at once, the first probe only an
        # interval later: right after a start everybody is silent.
        self.exchanges = Exchanges(config, wire, self.members)
        detector = FailureDetector(config, dice, next_s=now_s + config.probe_interval_s)
        self.prober = Prober(detector, self.members, self.exchanges, self.peers)
        seeds = tuple(sorted({*seeds, *self._hubs} - {address}))
        self.scheduler = GossipScheduler(config, dice, seeds, now_s, kernel.vector)

        self.waits = Waits(
            config,
            dice,
            self.members,
            self.peers,
            self.exchanges,
            self.scheduler,
            self.acknowledgements,
            self.counts,
        )

        # Two names for one object: while the journal fails, `gossip` is another one, over a kernel
        # of what is durable, and `_live` waits, with its quarantine and its bootstrap.
        self._live = self.gossip = Gossip(
            kernel,
            config,
            self.peers,
            self.exchanges,
            self.members,
            self._pending,
            self.policy,
            self.bandwidth,
            self.waits,
        )
        self._live.receiver.kept(chunks)
        self._live.comparison.news(now_s + config.gossip_interval_s)
        self._mute = False
        """Not even what is durable can be read: peers are told `busy`."""

        # Last of all: from here on a local write calls back.
        self.on_write: Callable[[], None] | None = None
        kernel.on_delta = self._wrote

    @property
    def id(self) -> str:
        """The id under which this replica writes."""
        return self.kernel.replica

    @property
    def wake_s(self) -> float:
        """When `tick` has something to do; an earlier or later call does no harm."""
        return min(self._due_s, self._live.comparison.due_s)

    @property
    def _due_s(self) -> float:
        """The same, but for the hashing of what is idle, which nobody waits for."""
        due = min(self.scheduler.wake_s, self.prober.detector.wake_s, self.waits.wake_s)
        if self.bandwidth.bytes_per_s and self.peers.due():
            due = min(due, self.bandwidth.ready_s())
        return min(due, self.exchanges.next_s(due))

    # ------------------------------------------------------------------------------ steps

    def flush(self, now_s: float) -> Effects:
        """Local writes since the last step: rows to persist, pushes that follow them."""
        return self._take(now_s)

    def receive(
        self, frame: bytes, now_s: float, exchange: int, connection: PeerConnection = ANONYMOUS
    ) -> Effects:
        """A peer's request; one send, now or (a relayed probe) later, answers `exchange`."""
        self._turn(now_s)
        status, asker = 200, UNKNOWN
        answer: Message | None
        try:
            head = self._wire.look(frame)
            asker = head.asker
            if head.boot == self._wire.boot:
                raise OwnFrameError("this is the sender itself")
            envelope = self._wire.read(head)
            self.identity.vouch(envelope.replica, asker.principal, self.policy.names_of(connection))
            if connection.principal not in {None, asker.principal}:
                raise ForbiddenError("another key opened the connection that this frame came over")
            if self._mute or self.exchanges.is_blocked(envelope.replica):
                raise BusyError("this peer is blocked here, or the journal failed")
            answer = self._answer(envelope, now_s, exchange, connection.via)
        except FrameError as error:
            self.counts[f"refused:{error.code}"] += 1
            status = error.status
            answer = Refused(error.status, error.code, str(error))
            if isinstance(error, AuthenticationError):  # nothing sealed, and nothing of ours
                self._pending.answer(b"", exchange, status)
                return self._take(now_s)
            if isinstance(error, HistoryConflictError):
                self._renew(str(error), now_s)
        except Exception as error:  # noqa: BLE001 - no frame may end a step half way
            fault = self._fault(error)
            status, answer = fault.status, Refused(fault.status, fault.code, str(fault))
        if answer is not None:
            self._pending.answer(self._wire.answer(self.id, answer, asker), exchange, status)
        return self._take(now_s)

    def answered(
        self, exchange: int, frame: bytes, now_s: float, connection: PeerConnection = ANONYMOUS
    ) -> Effects:
        """The answer to an exchange of ours; one that is unknown by now is ignored."""
        self._turn(now_s)
        opened = self.exchanges.take(exchange)
        if opened is None:
            return self._take(now_s)
        try:
            head = self._wire.look(frame)
            if head.to == NOBODY:  # it could not read whom it answers: it may say anything
                self.counts["refused-by-peer:unread"] += 1
                self._gave_up(exchange, opened, now_s)
                return self._take(now_s)
            envelope = self._wire.read(head)
            names = self.policy.names_of(connection)
            self.identity.vouch(envelope.replica, envelope.asker.principal, names)
            if envelope.answers != opened.number:
                raise MalformedFrameError("the answer belongs to another request")
            if envelope.asker.principal != self._wire.principal_of(agent_of(opened.replica)):
                raise ForbiddenError("the answer is sealed with another key than its question")
            if self.gossip.read_only or self.exchanges.is_blocked(envelope.replica, opened.address):
                raise BusyError("this peer is blocked here, or the journal failed")
            self.exchanges.met(opened, envelope.replica, envelope.asker.challenge)
            if not self._once_more(exchange, opened, envelope):
                self._conclude(exchange, opened, envelope, now_s)
        except FrameError as error:
            self.counts[f"refused:{error.code}"] += 1
            self._gave_up(exchange, opened, now_s)
        except Exception as error:  # noqa: BLE001 - as in `receive`
            self._fault(error)
            self._gave_up(exchange, opened, now_s)
        return self._take(now_s)

    def _fault(self, error: Exception) -> FaultError:
        """Something that nobody foresaw: the state is whole, and an operator has to know."""
        self.counts["fault"] += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
        self._pending.notice("fault", error=f"{error!r:.200}", where=where)
        return FaultError("the receiver failed; nothing of this frame was taken")

    def failed(self, exchange: int, now_s: float) -> Effects:
        """The shell could not deliver a request of ours, or got no answer in time."""
        opened = self.exchanges.take(exchange)
        if opened is not None:
            self.counts["exchange:failed"] += 1
            self._gave_up(exchange, opened, now_s)
        return self._take(now_s)

    def tick(self, now_s: float) -> Effects:
        """Time has passed: a gossip round, probes, verdicts, and exchanges that ran out."""
        self._turn(now_s)
        self.prober.detector.stalled(now_s - self._due_s)
        for exchange, opened in self.exchanges.expired(now_s):
            self.counts["exchange:timeout"] += 1
            self._gave_up(exchange, opened, now_s)
        for dead in self.prober.step(self.kernel.vector, now_s):
            self._pending.notice("dead", member=dead)
        whom = self.scheduler.begin(self.kernel.vector, self.members, now_s)
        self._live.comparison.tick(now_s)
        self.gossip.gossip(whom, self.scheduler.widespread, now_s)
        for address, replica in self.scheduler.tries(self.members, now_s):
            self.prober.call(address, replica, self.kernel.vector, now_s)
        return self._take(now_s)

    def persisted(self, vector: Mapping[str, int]) -> None:
        """Everything up to `vector` is on disk: from now on it may be called durable."""
        self.durable = VersionVector(vector)

    def degrade(self, durable: Kernel | None) -> None:
        """The journal failed: until `recover`, tell peers of `durable` state only, take nothing.

        Without a kernel of what is durable (the disk cannot even be read) peers are told `busy`.
        """
        self.gossip = self._live.durable_only(durable or self.kernel)
        self._mute = durable is None

    def recover(self) -> None:
        """The journal works again, and has everything."""
        self.gossip, self._mute = self._live, False

    def line(self, via: str, now_s: float, *, up: bool) -> Effects:
        """A kept connection began (a hub is told who we are) or ended (its far end is lost)."""
        if not up:
            self.members.hung_up(via, now_s)
        elif via in self._hubs:
            self.gossip.greet_stranger(via, now_s)
        return self._take(now_s)

    def differences(self) -> dict[str, Difference]:
        """Peers with equal vectors and other states, as of the last comparison with each."""
        return self._live.comparison.differences()

    def skip(self, origin: str) -> None:
        """Give up what `origin` stands in quarantine for: a local write, and raises like one."""
        self._live.give_up(origin)

    def leave(self, now_s: float, status: Status = Status.LEFT, who: str = "") -> Effects:
        """Tell some peers that this replica (or a member that is retired) is gone for good."""
        claim = self.members.depart(who or self.id, status, now_s)
        goodbye = Leave(() if claim is None else (claim,))
        for member in self.scheduler.some(self.members.live(), 3):
            self.gossip.open(member.reach, member.replica, goodbye, now_s)
        return self._take(now_s)

    def part(self, now_s: float) -> Effects:
        """The last push before a stop: whatever peers lack of our own events, to two of them."""
        for member in self.scheduler.some(self.members.live(), 2):
            self.gossip.greet(member, self.scheduler.widespread, now_s)
        return self._take(now_s)

    def _turn(self, now_s: float) -> None:
        """Time has passed: what frames for us have to name may be another challenge now."""
        self._wire.freshness.rotate(now_s)
        self.members.me.challenge = self._wire.freshness.current

    def check(self) -> None:
        """Assert the invariants between steps; the simulator calls it after every one."""
        ahead = self.durable.above(self.kernel.vector)
        assert not ahead, f"durable is ahead of the state: {ahead}"
        assert self.members.me.replica == self.id, "membership and kernel disagree on who we are"
        self.lives.check()
        assert not self.counts["fault"], "a step raised what nobody foresaw"

    # ------------------------------------------------------------------------------ requests

    def _answer(self, envelope: Envelope, now_s: float, exchange: int, via: str) -> Message | None:
        """The answer to a request, None if it is given later.

        Raises:
            FrameError: it is refused and changed nothing.
        """
        message, sender = envelope.message, envelope.replica
        self._admit(envelope, now_s)
        accused, incarnation = self.members.accusation(sender), self.members.me.incarnation
        self._alive_after_all(sender, now_s)
        match message:
            case Sync():
                answer = self.gossip.answer(sender, message, now_s)  # refused: nothing was learned
                self._met(envelope, message.members, now_s, via)
                self._compare(message.digest.vector, sender, now_s)
                claims = (*answer.members, *self._refuted(accused, incarnation))
                return replace(answer, members=claims)
            case Push() | PositionsWanted():
                ack = self.gossip.positions(message, sender)  # refused: nothing was learned
                self._met(envelope, (), now_s, via)
                return ack
            case Probe(target=""):
                self._met(envelope, message.members, now_s, via)
                claims = (*self.members.gossip(), *self._refuted(accused, incarnation))
                return Probed(members=claims)
            case Probe():
                asker = Relay(exchange, envelope.asker)
                return self.prober.relay(message.target, asker, self.kernel.vector, now_s)
            case Leave():
                self._met(envelope, message.members, now_s)
                return Ack({})
            case ChunkWanted() | HashesWanted() | BlocksWanted():
                self._met(envelope, (), now_s, via)
                return self.gossip.give(sender, message, now_s)
            case Synced() | Ack() | Probed() | ChunkGiven() | HashesGiven() | Refused():
                raise MalformedFrameError("an answer came where a request was expected")
        assert_never(message)

    # ------------------------------------------------------------------------------ answers

    def _once_more(self, exchange: int, opened: Opened, envelope: Envelope) -> bool:
        """Whether it was refused because we named no challenge of theirs; now we do."""
        message = envelope.message
        if not isinstance(message, Refused) or message.code != StaleFrameError.code:
            return False
        if not self.exchanges.again(opened, envelope.asker.challenge):
            return False
        self.counts["exchange:again"] += 1
        self.prober.again(exchange, self.exchanges.last)
        return True

    def _conclude(self, exchange: int, opened: Opened, envelope: Envelope, now_s: float) -> None:
        """The answer to a request of ours."""
        message, sender = envelope.message, envelope.replica
        self.scheduler.answered(opened, sender)
        if not isinstance(message, Refused):
            self._answered_at(opened.address, envelope, now_s)
        match message:
            case Synced():
                self._compare(message.digest.vector, sender, now_s)
                self.gossip.synced(opened, sender, message, now_s)
            case Ack():
                stands = _told(opened, message)
                self._compare(stands, sender, now_s)
                self.gossip.acknowledged(opened, sender, stands, now_s)
            case ChunkGiven():
                self.gossip.chunk(opened, sender, message, now_s)
            case HashesGiven():
                self.gossip.hashes(opened, sender, message, now_s)
            case Probed():
                concluded = self.prober.concluded(exchange, opened, answer=message, sender=sender)
                self._relayed(concluded)
            case Refused():
                self._refused(opened, envelope, message, now_s)
                self._gave_up(exchange, opened, now_s)
            case _:
                raise MalformedFrameError("a request came where an answer was expected")

    def _refused(self, opened: Opened, envelope: Envelope, refusal: Refused, now_s: float) -> None:
        """A request of ours was refused, for a reason that may be news about ourselves."""
        sender = envelope.replica
        if refusal.code == IdentityConflictError.code:
            self._told_of_ourselves(f"refused by {sender}: {refusal.text}", sender, now_s)
        if refusal.code == OwnFrameError.code and envelope.boot == self._wire.boot:
            self.scheduler.forget(opened.address)
            self.members.came_back(opened.address)
        code = refusal.code if refusal.code in CODES else OTHER_CODE
        self.counts[f"refused-by-peer:{code}"] += 1
        if refusal.status != BusyError.status:
            self._pending.notice("peer-refused", peer=opened.address, code=code)

    def _answered_at(self, address: str, envelope: Envelope, now_s: float) -> None:
        """Its sender lives, and is where we asked; what waited for that may be said now."""
        message, sender = envelope.message, envelope.replica
        via = address if address in self._hubs else ""
        claims = message.members if isinstance(message, Synced | Probed) else ()
        self._alive_after_all(sender, now_s)
        away = self._met(envelope, claims, now_s, via)
        waits = self.prober.answered(sender, address, now_s)
        if waits is not None:
            self.gossip.greet(waits, self.scheduler.widespread, now_s)
            self.waits.proved(sender)
        elif away and isinstance(message, Probed):
            found = (member for member in self.members.live() if member.replica == sender)
            for member in found:
                self.gossip.greet(member, self.scheduler.widespread, now_s)

    # ------------------------------------------------------------------------------ members

    def _met(
        self, envelope: Envelope, claims: Iterable[MemberClaim], now_s: float, via: str = ""
    ) -> bool:
        """A frame came; whether its sender was out of reach until now."""
        sender, challenge = envelope.replica, envelope.asker.challenge
        away = self.members.is_away(sender)
        told = self.prober.met(sender, claims, now_s, via, envelope.boot, challenge=challenge)
        if away:
            self.scheduler.healed(now_s)
        elif told:
            self.scheduler.news(now_s)
        return away

    def _refuted(
        self, accused: tuple[MemberClaim, ...], incarnation: int
    ) -> tuple[MemberClaim, ...]:
        """What an answer tells besides news: what was held against its receiver, and my refutation.

        Without that, both would wait for the next frame in the right direction.
        """
        me = self.members.me
        return accused if me.incarnation == incarnation else (*accused, me.claim())

    # ------------------------------------------------------------------------------ identity

    def _admit(self, envelope: Envelope, now_s: float) -> None:
        """Refuse a sender that shares an id with somebody; if it is ours, we take a new one."""
        try:
            self.identity.admit(envelope.replica, envelope.boot)
        except IdentityConflictError:
            if envelope.replica == self.id:
                self._renew("somebody else uses this id", now_s)
            raise

    def _renew(self, why: str, now_s: float) -> None:
        """Go on under a new incarnation, if one is due."""
        renewed = self.identity.renew(now_s)
        if renewed is not None:
            old, new = renewed
            self._pending.notice("re-incarnated", old=old, new=new, why=why)

    def _compare(self, vector: Mapping[str, int], sender: str, now_s: float) -> None:
        self.behind.heard(vector, self.kernel.vector, now_s, sender)
        if self.identity.outrun(vector):
            why = f"{sender} holds events of ours that this journal lost"
            self._told_of_ourselves(why, sender, now_s)

    def _told_of_ourselves(self, why: str, sender: str, now_s: float) -> None:
        """A peer's word says that our id is not ours alone; a leaf speaks for itself only."""
        if self.policy.may_relay(agent_of(sender)):
            self._renew(why, now_s)
        else:
            self.counts["re-incarnation:leaf"] += 1

    def _mind_lives(self, now_s: float) -> None:
        """Records of ended lives came, or events beyond them; one of them may be of our own."""
        pending = self._pending
        over, void = self.lives.look(pending.risen, now_s)
        pending.risen = set()
        for former in over:
            self.peers.forget(former)
            pending.notice("life-over", member=former)
        for former in void:
            pending.notice("life-goes-on", member=former)
        if not (self.gossip.read_only or self.lives.refute()):
            self._renew("the record of our end holds events of ours that this journal lost", now_s)

    def _alive_after_all(self, sender: str, now_s: float) -> None:
        if self.lives.spoke(sender, now_s):
            self._pending.notice("life-goes-on", member=sender)

    # ------------------------------------------------------------------------------ events

    def _wrote(self, delta: Delta, change: Change) -> None:
        """The kernel's listener: one local mutation or batch."""
        self._pending.write(delta, change)
        if self.on_write is not None:
            self.on_write()

    # ------------------------------------------------------------------------------ sending

    def _gave_up(self, exchange: int, opened: Opened, now_s: float) -> None:
        """No useful answer: forget what was assumed about it; gossip will repair the rest."""
        self.gossip.failed(opened, now_s)
        self._relayed(self.prober.concluded(exchange, opened, answer=None))

    def _relayed(self, result: tuple[Relay, Probed] | None) -> None:
        """Answer a peer that asked us to probe in its place."""
        if result is not None:
            relay, probed = result
            sealed = self._wire.answer(self.id, probed, relay.asker)
            self._pending.answer(sealed, relay.exchange)

    def _take(self, now_s: float) -> Effects:
        """End of a step: push the news, hand out what accumulated."""
        self._mind_lives(now_s)
        if self._pending.wrote:
            self._spread_own()
        if self._pending.wrote or self._pending.learned:
            self.scheduler.news(now_s)
            self._live.comparison.news(now_s + self.config.gossip_interval_s)
        self._pending.spread()
        if not self.gossip.read_only:
            self.gossip.push_news(now_s)
            self.waits.step(self.kernel.vector, now_s)
            self.gossip.push_news(now_s)  # to those who have to be asked once more
        return self._pending.take(self.exchanges.handed_out(), self.kernel)

    def _spread_own(self) -> None:
        """News of our own: to a few, or to as many as somebody waits for, if that costs little."""
        live, fanout = self.members.live(), 0
        if self._pending.wrote_bytes <= BRIEF_BYTES_MAX:
            fanout = self.waits.fanout(self.id, self.durable.get(self.id, 0))
        everybody = fanout >= len(live) > self.config.eager_peers_max
        final = everybody and len(live) == len(self.members.current())
        self.peers.spread([self.id], live, fanout=fanout, final=final)


def _told(opened: Opened, ack: Ack) -> Mapping[str, int]:
    """What an answer says of what was asked; whatever else it says is not taken."""
    if not isinstance(opened.request, PositionsWanted):
        return ack.vector
    return {origin: ack.vector.get(origin, 0) for origin in opened.request.origins}

"""Who waits for which events to be elsewhere, and whom to ask whether they are.

Theory of operation. A write reaches every disk within milliseconds, and its writer hears of it from
those alone that it pushed to: what the others have it would learn by chance, when a round of gossip
brings the two together, seconds or minutes later. So while somebody waits, the question is asked:
`PositionsWanted` names origins, its answer tells where a peer durably stands.

*Whom.* As many peers as a wait still needs, and `SPARE` more, so that one that hangs holds up
nobody; a wait for everybody asks everybody. A peer that a push is under way to will answer that,
so it comes first and is asked nothing; a dead one comes last. All waits share their questions.

*When.* A write that is waited for when it leaves is pushed to those whom the wait needs (`fanout`),
if it is small: no answer comes sooner. Others are asked at once, and again as the table says:

    a peer                       is asked again
    was pushed to, or asked      100 ms later, doubling to 1 s, as long as it is silent: then by two
                                 frames, since one may get lost. The second is a push of our own
                                 writes if it may lack them, since those may be what was lost
    refused, or is not there     likewise, by one frame; others come first meanwhile
    answered that it lacks some  likewise; what it lacks is pushed to it: at the first answer small
                                 writes of our own, at the second those of others, too (that is
                                 their duty first), at the third whatever there is
    was asked for one page       at once for the next, `ORIGINS_ASKED_MAX` names each
    is dead                      one of them per probe interval: it is tried, not flooded

Each refusal leaves an eighth less to be under way at a time, each answer one more (`_window`, as of
TCP): a crowd that asks a busy crowd slows down to what can be answered. An agent whose own loop was
away takes nobody's silence for an answer, and waits anew.

A new wait begins anew with all who are not silent; silence outlives the waits, so that many short
ones do not each ask a peer that hangs. Pauses are spread, so that those who ask one peer do not
march in step. Nobody is asked what is known, and without a wait nobody is asked at all.

*What is believed.* A peer answers for itself, and for the origins named; whatever else it says is
not taken. Unknown is not empty: as long as an agent that was told of others met none of them, it
knows of nobody who lacks anything, and therefore nothing (`unmet`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from crdt import VersionVector
from replication.protocol.exchanges import BRIEF_MAX
from replication.protocol.messages import (
    ORIGINS_ASKED_MAX,
    PositionsWanted,
    Push,
    is_brief,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Iterable, Mapping

    from replication.config import Config
    from replication.protocol.exchanges import Exchanges, Opened
    from replication.protocol.gossip_scheduler import GossipScheduler
    from replication.protocol.membership import Dice, Member, Membership
    from replication.protocol.peers import Acknowledgements, Peers

SPARE = 2
"""So many more are asked than are needed."""
PAUSE_S = 0.1
PAUSE_S_MAX = 1.0
WINDOW_LEAST = 8
JITTER = 0.25
"""Share of a pause by which it is spread."""
LOOK_S = 0.05
"""So long a look asks: once, for it is shorter than a pause."""
FOREIGN_AFTER, LARGE_AFTER = 1, 2
"""Earlier answers after which a peer is brought what others wrote, and what is large."""


@dataclass(frozen=True, slots=True, eq=False)
class Wait:
    """Somebody waits for the events of a vector to be on `copies` disks; None: at everybody."""

    wanted: Mapping[str, int]
    copies: int | None
    until_s: float = inf


@dataclass(slots=True)
class _Asked:
    """How a peer was asked lately."""

    due_s: float = -inf
    pause_s: float = PAUSE_S
    least_s: float = PAUSE_S
    """No pause is shorter: twice as long as its last answer took."""
    silent: int = 0
    """Attempts that may still be answered, since its last answer."""
    failures: int = 0
    """Attempts that ended in nothing, since its last answer."""
    lacked: int = 0
    """Answers since it lacked nothing."""
    names: frozenset[str] = frozenset()
    """That are being asked for, or were pushed since."""
    asking: bool = False
    """Whether there was no answer to the last question."""
    rest: list[str] = field(default_factory=list)
    """Those among them that the next pages are for."""
    stuck: dict[str, int] = field(default_factory=dict)
    """Where it still stood when it had taken a push that leads on: another one would not help."""


@dataclass(slots=True)
class _Group:
    """Waits for so many copies: what they want together, and who may lack which of it.

    Members by origins may be millions. They are gone through once; from then on only what a member
    was last seen to lack is looked at, because what it has it has.
    """

    waits: dict[int, Wait] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    _lacking: dict[str, set[str]] = field(default_factory=dict)
    _stale: bool = False
    """Whether some of it may be waited for no longer."""

    def add(self, wait: Wait) -> None:
        """One more; O(its origins + members)."""
        self.waits[id(wait)] = wait
        raised = {o: seq for o, seq in wait.wanted.items() if seq > self.wanted.get(o, 0)}
        self.wanted.update(raised)
        for names in self._lacking.values():
            names.update(raised)

    def remove(self, wait: Wait) -> None:
        """One less; O(1)."""
        del self.waits[id(wait)]
        self._stale = True

    def refresh(self, current: Collection[Member]) -> None:
        """Forget what was wanted by waits that ended, and who left; O(waits x origins), if any."""
        if self._stale:
            wanted: dict[str, int] = {}
            for wait in self.waits.values():
                for origin, seq in wait.wanted.items():
                    if seq > wanted.get(origin, 0):
                        wanted[origin] = seq
            self.wanted, self._stale = wanted, False
        if len(self._lacking) > 2 * len(current) + SPARE:
            kept = {member.replica for member in current}
            self._lacking = {who: names for who, names in self._lacking.items() if who in kept}

    def lacking(self, replica: str, known: Mapping[str, int]) -> set[str]:
        """Of which origins a member is not known to have what is wanted; O(those it lacked)."""
        before = self._lacking.get(replica)
        wanted = self.wanted
        names = wanted.keys() if before is None else before
        found = {o for o in names if known.get(o, 0) < wanted.get(o, 0)}
        self._lacking[replica] = found
        return found

    def has(self, replica: str, known: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
        """Whether a member has what one of the waits wants; O(what it lacks)."""
        lacking = self.lacking(replica, known)
        return all(known.get(o, 0) >= wanted.get(o, 0) for o in lacking)


@dataclass(slots=True)
class Waits:
    """One per replica. Time and dice are arguments."""

    config: Config
    dice: Dice
    members: Membership
    peers: Peers
    exchanges: Exchanges
    scheduler: GossipScheduler
    acknowledgements: Acknowledgements
    counts: Counter[str]
    wake_s: float = inf
    """When somebody is to be asked again."""
    _waits: dict[int, Wait] = field(default_factory=dict)
    _groups: dict[int | None, _Group] = field(default_factory=dict)
    """The same by the number of copies."""
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _news: bool = False
    """Whether something happened that is worth a question now."""
    _window: int = BRIEF_MAX
    """So many questions and small pushes may be under way: as many as were answered lately."""
    _doubles: bool = True
    _now_s: float = -inf
    _dead_s: float = -inf
    """No dead member is asked before."""

    # ------------------------------------------------------------------------------ waiting

    def begin(self, wanted: Mapping[str, int], copies: int | None, until_s: float = inf) -> Wait:
        """Somebody begins to wait; the next step asks. O(origins + peers)."""
        wait = Wait(VersionVector(wanted), copies, until_s)
        self._waits[id(wait)] = wait
        self._groups.setdefault(copies, _Group()).add(wait)
        self._news = True
        for asked in self._asked.values():
            if not asked.silent:
                asked.due_s, asked.pause_s = -inf, asked.least_s
        return wait

    def end(self, wait: Wait) -> None:
        """It is over, one way or the other. O(1); the last of them, O(peers)."""
        if self._waits.pop(id(wait), None) is None:
            return
        group = self._groups[wait.copies]
        group.remove(wait)
        if not group.waits:
            del self._groups[wait.copies]
        if not self._waits:
            self._asked = {who: asked for who, asked in self._asked.items() if asked.silent}
            for asked in self._asked.values():
                asked.rest = []
            self.wake_s, self._news = inf, False

    def look(self, wanted: Mapping[str, int], now_s: float) -> bool:
        """Somebody looks at who lacks what: the next step asks whoever seems to, once.

        False if somebody looked a moment ago. O(origins + peers).
        """
        if any(wait.until_s < inf for wait in self._waits.values()):
            return False
        self.begin(wanted, None, now_s + LOOK_S)
        return True

    def over(self, wait: Wait) -> bool:
        """Whether what is waited for is so; O(members + what they lack)."""
        group = self._groups.get(wait.copies)
        current = self.members.current()
        if group is None or id(wait) not in self._waits:
            raise LookupError("the wait has ended")
        there = [
            member.journalled
            for member in current
            if group.has(member.replica, self.peers.known(member.replica), wait.wanted)
        ]
        if wait.copies is None:
            return len(there) >= len(current) and not self.unmet
        return there.count(True) >= wait.copies

    def everywhere(self, wanted: Mapping[str, int]) -> bool:
        """Whether every current member said that it has these; O(members x origins)."""
        there = self.acknowledgements.reached(wanted).members
        return there >= len(self.members.current()) and not self.unmet

    @property
    def unmet(self) -> bool:
        """Whether this replica was told of others, and has yet to meet the first."""
        return bool(self.scheduler.seeds) and not self.members.acquainted

    # ------------------------------------------------------------------------------ asking

    def fanout(self, own: str, durable: int) -> int:
        """To how many peers own events beyond `durable` are to be pushed; 0: nobody waits."""
        fans = (
            len(self.members) if wait.copies is None else wait.copies + SPARE
            for wait in self._waits.values()
            if wait.copies != 0 and wait.wanted.get(own, 0) > durable
        )
        return max(fans, default=0)

    def step(self, mine: Mapping[str, int], now_s: float) -> None:
        """Ask whom it is time to ask; O(members + what they lack), if anybody."""
        self._now_s = now_s
        if not self._waits or not (self._news or now_s >= self.wake_s):
            return
        for look in [wait for wait in self._waits.values() if now_s >= wait.until_s]:
            self.end(look)
        self._news = False
        away_s = now_s - self.wake_s
        if away_s > PAUSE_S:  # the loop was away: answers may have come, and wait to be taken
            for asked in self._asked.values():
                asked.due_s += away_s
        # Frames get lost one by one, and are doubled; where half of the peers are silent it is the
        # load, or this agent, and more frames would not help.
        silent = sum(asked.silent > 0 and now_s >= asked.due_s for asked in self._asked.values())
        self._doubles = 2 * silent <= len(self._asked)
        # Whoever joins meanwhile is found by the second.
        self.wake_s = min((w.until_s for w in self._waits.values()), default=inf)
        if self._waits:
            self.wake_s = min(self.wake_s, now_s + PAUSE_S_MAX)
        for member, asked, names in self._lacking():
            dead = member.dead
            due_s = max(asked.due_s, self._dead_s) if dead else asked.due_s
            if now_s < due_s and (dead or asked.asking or names <= asked.names):
                self.wake_s = min(self.wake_s, due_s)
                continue
            if self.exchanges.brief >= self._window:
                self.wake_s = now_s
                break
            if dead:
                self._dead_s = now_s + self.config.probe_interval_s
            self._ask(member, asked, names, mine, now_s)
            self.wake_s = min(self.wake_s, asked.due_s)
        self.wake_s = max(self.wake_s, now_s + PAUSE_S / 4)  # those that are due soon go together

    def _lacking(self) -> list[tuple[Member, _Asked, set[str]]]:
        """Whom to ask for which origins, those first that were left in peace for longest."""
        current = self.members.current()
        named: dict[str, tuple[Member, set[str]]] = {}
        for copies, group in self._groups.items():
            group.refresh(current)
            lacking = []
            there = len(current)
            for member in current:
                names = group.lacking(member.replica, self.peers.known(member.replica))
                counts = copies is None or member.journalled  # what is no disk never will be one
                if counts and names:
                    lacking.append((member, names))
                there -= not counts or bool(names)
            if copies is not None:
                lacking.sort(key=lambda pair: self._rank(pair[0], pair[1], group.wanted))
                del lacking[copies - there + SPARE if there < copies else 0 :]
            for member, names in lacking:
                named.setdefault(member.replica, (member, set()))[1].update(names)
        if len(self._asked) > 2 * len(current) + SPARE:  # of ids that are gone
            kept = {member.replica for member in current}
            self._asked = {who: asked for who, asked in self._asked.items() if who in kept}
        found = [
            (member, self._asked.setdefault(member.replica, _Asked()), names)
            for member, names in named.values()
        ]
        return sorted(found, key=lambda each: each[1].due_s)

    def _rank(
        self, member: Member, names: set[str], wanted: Mapping[str, int]
    ) -> tuple[bool, bool, bool, int]:
        """The less, the sooner it is expected to say that it has them."""
        peer, asked = self.peers.peer(member.replica), self._asked.get(member.replica)
        hopeful = peer.pushing or all(peer.believed.get(o, 0) >= wanted[o] for o in names)
        own = self.peers.hash_of(self.members.me.replica)  # so that not all ask the same ones
        return (
            member.dead,
            asked is not None and (asked.silent > 1 or asked.failures > 0),
            not hopeful,
            self.peers.hash_of(member.replica) ^ own,
        )

    def _ask(
        self,
        member: Member,
        asked: _Asked,
        names: set[str],
        mine: Mapping[str, int],
        now_s: float,
    ) -> None:
        """Begin to ask for these names."""
        own, replica = self.members.me.replica, member.replica
        owes = asked.silent > 0 or asked.asking or self.peers.peer(replica).pushing
        lost = owes and now_s >= asked.due_s
        asked.rest = sorted(names, key=lambda name: (name != own, name))
        asked.names = frozenset(names)
        if member.reach:
            if lost and own in names:
                self._bring(member.reach, replica, asked, (own,), now_s, brief=True)
            frames = 2 if lost and self._doubles and own not in names else 1
            self._page(member.reach, replica, asked, mine, now_s, frames=frames)
        asked.silent += 1
        self._put_off(asked, now_s)

    def _page(
        self,
        address: str,
        replica: str,
        asked: _Asked,
        mine: Mapping[str, int],
        now_s: float,
        *,
        frames: int = 1,
    ) -> None:
        """Ask for the next page of what is to be asked for."""
        wanted = PositionsWanted(tuple(asked.rest[:ORIGINS_ASKED_MAX]))
        asked.asking = False
        for _ in range(frames):
            if self.exchanges.open(address, replica, wanted, mine, now_s):
                self.counts["positions:asked"] += 1
                asked.asking = True
        if asked.asking:
            del asked.rest[:ORIGINS_ASKED_MAX]

    def _put_off(self, asked: _Asked, now_s: float) -> None:
        """An attempt began; a push and a question of one moment are one."""
        if now_s < asked.due_s:
            return
        spread = 1 + JITTER * (2 * self.dice.random() - 1)
        asked.due_s = now_s + asked.pause_s * spread
        asked.pause_s = max(min(2 * asked.pause_s, PAUSE_S_MAX), asked.least_s)
        self.wake_s = min(self.wake_s, asked.due_s)

    # ------------------------------------------------------------------------------ answers

    def pushed(self, replica: str, origins: Iterable[str], now_s: float) -> None:
        """A push to a peer begins: its acknowledgement answers what would be asked. O(origins)."""
        if self._waits:
            asked = self._asked.setdefault(replica, _Asked())
            asked.names |= frozenset(origins)
            self._put_off(asked, now_s)
            asked.silent += 1

    def acknowledged(
        self, opened: Opened, replica: str, stands: Mapping[str, int], now_s: float
    ) -> None:
        """A push was answered. O(origins of the push)."""
        asked = self._heard(opened, replica, now_s)
        if asked is not None and isinstance(opened.request, Push):
            for origin, seq in stands.items():
                asked.stuck.pop(origin, None)
                if seq < opened.shown.get(origin, 0):
                    asked.stuck[origin] = seq

    def answered(
        self,
        opened: Opened,
        replica: str,
        stands: Mapping[str, int],
        mine: Mapping[str, int],
        now_s: float,
    ) -> None:
        """A peer said where it stands; what it lacks is brought to it. O(origins named)."""
        peer = self.peers.peer(replica)
        peer.reported(stands, exact=not peer.pushing)
        asked = self._asked.get(replica)
        first = asked is not None and asked.asking
        self._heard(opened, replica, now_s)
        if asked is None or not first or not self._waits:
            return  # the other frame of the same question was answered, or nobody waits any more
        behind = [o for o, s in stands.items() if s < mine.get(o, 0) and asked.stuck.get(o) != s]
        if asked.rest:
            self._page(opened.address, replica, asked, mine, now_s)
        if not behind:
            asked.lacked = 0
            return
        lacked = asked.lacked
        asked.lacked += 1
        own = self.members.me.replica
        if lacked < FOREIGN_AFTER:
            behind = [origin for origin in behind if origin == own]
        self._bring(opened.address, replica, asked, behind, now_s, brief=lacked < LARGE_AFTER)

    def _heard(self, opened: Opened, replica: str, now_s: float) -> _Asked | None:
        """Its answer ends the silence of a peer."""
        asked = self._asked.get(replica)
        if asked is not None:
            self._window = min(BRIEF_MAX, self._window + 1)
            asked.silent = asked.failures = 0
            asked.asking = asked.asking and isinstance(opened.request, Push)
            took_s = self.exchanges.since_s(opened, now_s)
            asked.least_s = min(max(PAUSE_S, 2 * took_s), PAUSE_S_MAX)
        return asked

    def proved(self, replica: str) -> None:
        """It answered where it is said to be, so that it may be asked there. O(1)."""
        asked = self._asked.get(replica)
        if asked is not None:
            asked.due_s, asked.silent, self._news = -inf, 0, True

    def failed(self, opened: Opened) -> None:
        """A question or a push came to nothing: it is not silence, so it is not doubled. O(1)."""
        asked = self._asked.get(opened.replica)
        if asked is not None:
            if self.exchanges.since_s(opened, self._now_s) < PAUSE_S_MAX:  # refused, and not lost
                self._window = max(WINDOW_LEAST, self._window * 7 // 8)
            asked.failures += 1
            asked.silent = max(0, asked.silent - 1)
            asked.asking = asked.asking and isinstance(opened.request, Push)

    def _bring(
        self,
        address: str,
        replica: str,
        asked: _Asked,
        origins: Iterable[str],
        now_s: float,
        *,
        brief: bool,
    ) -> None:
        """Mark a peer to be pushed these, unless a push that may still arrive is under way."""
        lost_s = asked.least_s * (1 - JITTER)
        if all(
            is_brief(push.request) and self.exchanges.since_s(push, now_s) >= lost_s
            for push in self.exchanges.under_way(address, Push)
        ):
            self.peers.push_again(replica, origins, brief=brief)

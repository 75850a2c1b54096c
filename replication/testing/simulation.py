"""A whole cluster in one thread and in virtual time; a seed is a bug report.

Theory of operation. The machine of an agent is pure, so a cluster is a heap of events: a frame
arrives, a commit ends, a timer rings. This module is the shell that executes `Effects` here, with a
network that loses, repeats, delays, reorders, damages and cuts (one-way too), and with disks that
forget everything that was not persisted when their replica crashes. It asserts after every step
what must hold on any schedule:

* a frame leaves only after everything it shows is in the journal;
* no dot is ever used for two different events (`dots`);
* what a journal acknowledged is in the state that comes back from it;
* no life is recorded as over that runs (unless a test copies a machine as a whole), and none is
  taken for over of which more is known than its end.

    sim = Simulation(["ada", "bob", "eve"], seed=7, faults=Faults(loss=0.2))
    sim["ada"].document("tags", ORSet).add("x")
    sim.cut("ada", "bob")
    sim.run(5)
    sim.heal()
    assert sim.settle(60)

An agent that was added with a `hub` cannot be dialled: it keeps a connection to the hub, which asks
it over that, as long as nothing cuts the two.

One exchange is one connection, as over HTTP: if ada cannot reach bob but bob can reach ada, bob's
requests and ada's answers to them travel. And each agent has the circuits of HTTP before it
(`transport.circuit`), which let few exchanges at a time go to an address that keeps failing.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from crdt import Delta
from replication.agent import SEED_BYTES, ReplicaSettings, assemble
from replication.config import Config
from replication.errors import JournalFailedError
from replication.journal import Entry, MemoryJournal, boot, leased
from replication.protocol import (
    ANONYMOUS,
    NOTHING,
    OWN,
    AccessPolicy,
    Effects,
    Keyring,
    PeerConnection,
    Published,
    Replica,
    Send,
    Wait,
    ends,
)
from replication.transport import Circuits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crdt import Kernel
    from replication.journal import Booted

EPOCH_MS = 1_700_000_000_000
SNAPSHOT_BYTES_PER_ROW = 1024  # the larger it was, the more rows it waits for, as on a real disk
SNAPSHOT_ABOVE_ROWS = 16  # small, so that most restarts go through the bytes of a kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities per frame, and times in seconds. What is lost is lost in all its copies."""

    loss: float = 0.0
    duplicate: float = 0.0
    """How many copies more arrive on average."""
    damage: float = 0.0
    """Cut short or one bit flipped."""
    delay_s: tuple[float, float] = (0.001, 0.02)
    slow: float = 0.0
    """Probability that a frame takes a hundred times as long: it is overtaken."""
    disk_s: tuple[float, float] = (0.0, 0.005)


@dataclass(slots=True)
class SimulatedAgent:
    """One agent of the simulation: its disk, and while it is up, its replica."""

    address: str
    name: str
    journal: MemoryJournal
    skew_ms: int = 0
    hub: str = ""
    """Behind a NAT: the only one that can ask it, over a connection that it keeps."""
    stalled_until_s: float = 0.0
    """Until then its event loop is away: what happens to it happens then."""
    replica: Replica | None = None
    life: int = 0
    """Counts starts: events of an earlier life find nobody."""
    lease: int = 0
    leased_to: str = ""
    log_rows: int = 0
    """Rows of its journal since the last snapshot."""
    snapshot_bytes: int = 0
    waiting: list[Effects] = field(default_factory=list)
    committing: bool = False
    published: list[Published] = field(default_factory=list)
    asked: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """Peers' exchanges that wait for an answer: number -> (peer, its life, its number)."""
    exchanges: int = 0
    rings_s: float = 0.0
    """When its timer rings next."""
    circuits: Circuits = field(default_factory=lambda: Circuits(0.0))
    out: dict[int, str] = field(default_factory=dict)
    """Its own exchanges that are under way: number -> address."""


class Simulation:
    """A cluster of replicas named `names`; all of them know the first one as their seed.

    Args:
        names: agents to start at time 0.
        seed: everything random follows from it.
        faults: of network and disks; `self.faults` may be replaced at any time.
        config: knobs of the replicas.
        rules: who may say what, the same for all.
    """

    def __init__(
        self,
        names: Iterable[str],
        seed: int,
        faults: Faults | None = None,
        config: Config | None = None,
        *,
        secret: bytes = b"simulated secret",
        rules: AccessPolicy | None = None,
    ) -> None:
        self.now_s = 0.0
        self.faults = faults or Faults()
        self.config = config or Config()
        self.dice = random.Random(seed)
        self.agents: dict[str, SimulatedAgent] = {}
        self.dots: set[tuple[str, int]] = set()
        self.acknowledged: dict[str, int] = {}
        self.bytes_sent = 0
        self.frames_sent = 0
        self._cuts: set[tuple[str, str]] = set()
        self._slow: dict[frozenset[str], float] = {}
        self._rates: dict[tuple[str, str], float] = {}
        self._busy_until_s: dict[tuple[str, str], float] = {}
        self._keys = Keyring((secret,) if secret else ())
        self.rules = rules or AccessPolicy()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.copied_whole = False
        """A test copied a machine as a whole, so that a wrong record can be made, and is voided."""
        names = list(names)
        self._seeds = names[:1]
        for name in names:
            self.add(name)

    # ------------------------------------------------------------------------------ handles

    def __getitem__(self, name: str) -> Kernel:
        """The kernel of a running agent, to read and to write."""
        return self.replica(name).kernel

    def replica(self, name: str) -> Replica:
        """The machine of a running agent."""
        if (replica := self.agents[name].replica) is None:
            raise LookupError(f"{name} is down")
        return replica

    def up(self) -> list[str]:
        """Names of running agents."""
        return [name for name, agent in self.agents.items() if agent.replica is not None]

    def add(
        self,
        address: str,
        journal: MemoryJournal | None = None,
        *,
        skew_ms: int = 0,
        name: str = "",
        hub: str = "",
    ) -> None:
        """Start an agent at an address (its name, too), on an empty disk or a given one.

        With a `hub`, nobody else can reach it there: it sits behind a NAT.
        """
        journal = journal or MemoryJournal()
        self.agents[address] = SimulatedAgent(address, name or address, journal, skew_ms, hub)
        self.start(address)

    def start(self, name: str) -> None:
        """Start an agent on what its disk holds."""
        agent = self.agents[name]
        fresh = f"{agent.name}~{self.dice.getrandbits(64):016x}"
        booted = boot(
            agent.journal,
            fresh,
            lambda: EPOCH_MS + int(self.now_s * 1000) + agent.skew_ms,
            self.rules,
        )
        self._witness_boot(booted)
        agent.lease = booted.lease
        agent.leased_to = booted.kernel.replica
        agent.life += 1
        agent.waiting, agent.committing, agent.asked = [], False, {}
        agent.circuits, agent.out = Circuits(self.config.gossip_interval_s / 2), {}
        seed = self.dice.randbytes(SEED_BYTES)
        settings = ReplicaSettings(
            cluster="simulated",
            namespace="default",
            keys=self._keys,
            config=self.config,
            rules=self.rules,
            dice=random.Random(self.dice.random()),
            seeds=() if agent.hub else tuple(self._seeds),
            hubs=(agent.hub,) if agent.hub else (),
        )
        address = "" if agent.hub else name
        agent.replica = assemble(settings, booted, seed=seed, address=address, now_s=self.now_s)
        life = agent.life
        agent.replica.on_write = lambda: self._later(0, lambda: self._flush(name, life))
        agent.rings_s = self.now_s
        self._later(0, partial(self._ring, agent, life, self.now_s))

    def crash(self, name: str) -> None:
        """Stop at once; what was not persisted is gone, peers hear nothing."""
        (agent := self.agents[name]).replica = None
        agent.journal.lose_hold()
        self._hang_up(agent)

    def stall(self, name: str, seconds: float) -> None:
        """The event loop of an agent is away: frames wait that long, and timers come first."""
        agent = self.agents[name]
        agent.stalled_until_s = self.now_s + seconds
        self._later(seconds, partial(self._step, name, agent.life, lambda r: r.tick(self.now_s)))

    def _hang_up(self, agent: SimulatedAgent) -> None:
        """The connection that an agent behind a NAT keeps to its hub ends."""
        hub = self.agents.get(agent.hub)
        if hub is not None:
            via = f"line:{agent.address}"
            ended = partial(Replica.line, via=via, now_s=self.now_s, up=False)
            self._later(0, partial(self._step, hub.address, hub.life, ended))

    # ------------------------------------------------------------------------------ network

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """`one` can no longer reach `other`; nor the other way, unless `one_way`."""
        self._cuts.add((one, other))
        if not one_way:
            self._cuts.add((other, one))
        for agent in (b for b in self.agents.values() if {b.address, b.hub} == {one, other}):
            self._hang_up(agent)

    def throttle(self, one: str, other: str, bytes_per_s: float) -> None:
        """Let the link between two carry so much each way: frames queue up on it; 0: no limit."""
        for link in ((one, other), (other, one)):
            self._rates[link] = bytes_per_s
            self._busy_until_s[link] = self.now_s

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between members of different groups."""
        sides = [list(group) for group in groups]
        for side in sides:
            for other in sides:
                if side is not other:
                    self._cuts.update((a, b) for a in side for b in other)

    def slow(self, one: str, other: str, delay_s: float) -> None:
        """Each frame between the two takes so much longer."""
        self._slow[frozenset((one, other))] = delay_s

    def heal(self) -> None:
        """End all cuts and delays."""
        self._cuts.clear()
        self._slow.clear()

    def _request(self, name: str, life: int, send: Send) -> None:
        """Deliver a request, perhaps; whatever happens to it, its sender is told in the end."""
        number, agent = send.exchange, self.agents[name]
        given_up = partial(self._gave_up, name, life, number)
        if not agent.circuits.begin(send.address, self.now_s):
            self._later(0, partial(self._step, name, life, lambda r: r.failed(number, self.now_s)))
            return
        agent.out[number] = send.address
        self._later(self.config.read_timeout_s, given_up)
        for frame, delay_s in self._travel(send.frame, name, send.address):
            self._later(delay_s, partial(self._arrive, name, life, number, send.address, frame))

    def _arrive(self, name: str, life: int, number: int, target: str, frame: bytes) -> None:
        over_line, target = target.startswith("line:"), target.removeprefix("line:")
        agent, connection = self.agents.get(target), ANONYMOUS
        if agent is None or agent.replica is None or (name, target) in self._cuts:
            return
        if over_line != bool(agent.hub) or (over_line and agent.hub != name):
            return  # behind a NAT: only its hub asks it, over the connection that it keeps
        if self.agents[name].hub == target:
            connection = PeerConnection(via=f"line:{name}")
        agent.exchanges += 1
        exchange = agent.exchanges
        agent.asked[exchange] = (name, life, number)
        self._step(target, agent.life, lambda r: r.receive(frame, self.now_s, exchange, connection))

    def _answer(self, target: str, send: Send) -> None:
        asker = self.agents[target].asked.pop(send.exchange, None)
        if asker is not None and not send.frame:  # turned away, as a transport does it
            self._later(0, partial(self._gave_up, *asker))
        elif asker is not None:
            for frame, delay_s in self._travel(send.frame, target, asker[0]):
                self._later(delay_s, partial(self._answered, *asker, frame))

    def _answered(self, name: str, life: int, number: int, frame: bytes) -> None:
        self._over(name, life, number, answered=True)
        self._step(name, life, lambda r: r.answered(number, frame, self.now_s))

    def _gave_up(self, name: str, life: int, number: int) -> None:
        self._over(name, life, number, answered=False)
        self._step(name, life, lambda r: r.failed(number, self.now_s))

    def _over(self, name: str, life: int, number: int, *, answered: bool) -> None:
        """An exchange of its own ended, in this life of the agent, and for the first time."""
        agent = self.agents.get(name)
        if agent is not None and agent.life == life and number in agent.out:
            agent.circuits.end(agent.out.pop(number), answered=answered)

    def _travel(self, frame: bytes, one: str, other: str) -> Iterable[tuple[bytes, float]]:
        """The copies of a frame that arrive, and when."""
        faults, dice, link = self.faults, self.dice, (one, other.removeprefix("line:"))
        more_s = self._slow.get(frozenset((one, other)), 0.0) if self._slow else 0.0
        if rate := self._rates.get(link):
            begin_s = max(self.now_s, self._busy_until_s[link])
            self._busy_until_s[link] = begin_s + len(frame) / rate
            more_s += self._busy_until_s[link] - self.now_s
        self.frames_sent += 1
        self.bytes_sent += len(frame)
        lost, more = dice.random() < faults.loss, dice.random() < faults.duplicate % 1
        for _ in range(0 if lost else 1 + int(faults.duplicate) + more):
            delay_s = dice.uniform(*faults.delay_s)
            if dice.random() < faults.slow:
                delay_s *= 100
            yield self._damaged(frame) if dice.random() < faults.damage else frame, delay_s + more_s

    def _damaged(self, frame: bytes) -> bytes:
        place = self.dice.randrange(len(frame))
        if self.dice.random() < 0.5:
            return frame[:place]
        bit = 1 << self.dice.randrange(8)
        return frame[:place] + bytes([frame[place] ^ bit]) + frame[place + 1 :]

    # ------------------------------------------------------------------------------ steps

    def _step(self, name: str, life: int, step: Callable[[Replica], Effects]) -> None:
        agent = self.agents[name]
        if agent.replica is None or agent.life != life:
            return
        away_s = agent.stalled_until_s - self.now_s
        if away_s > 0:
            self._later(away_s, partial(self._step, name, life, step))
            return
        effects = step(agent.replica)
        agent.replica.check()
        if effects:
            agent.waiting.append(effects)
            self._commit(agent)
        if agent.replica.wake_s < agent.rings_s:
            self._ring_at(agent, agent.replica.wake_s)

    def _flush(self, name: str, life: int) -> None:
        self._step(name, life, lambda r: r.flush(self.now_s))

    def _ring_at(self, agent: SimulatedAgent, wake_s: float) -> None:
        """Set the timer of a replica; what it was set to before is void."""
        rings_s = max(self.now_s + 0.001, wake_s, agent.stalled_until_s)
        agent.rings_s = rings_s
        ring = partial(self._ring, agent, agent.life, rings_s)
        self._later(rings_s - self.now_s, ring)

    def _ring(self, agent: SimulatedAgent, life: int, rings_s: float) -> None:
        """The timer of a replica; it rings again when the machine says so."""
        if agent.replica is None or agent.life != life or agent.rings_s != rings_s:
            return
        agent.rings_s = inf
        self._step(agent.address, life, lambda r: r.tick(self.now_s))
        if agent.rings_s == inf:
            self._ring_at(agent, agent.replica.wake_s)

    def _commit(self, agent: SimulatedAgent) -> None:
        """Begin a transaction for everything that waits, unless one is under way."""
        if agent.committing or agent.replica is None or not agent.waiting:
            return
        batch, agent.waiting = agent.waiting, []
        joined = sum(batch, NOTHING)
        if not joined.persist:
            self._dispatch(agent, agent.life, joined)
            return
        rows, vector = joined.persist, joined.vector
        if agent.replica.id != agent.leased_to:
            agent.leased_to, agent.lease = agent.replica.id, 0
        own = vector.get(agent.replica.id, 0)
        lease = leased(own, agent.lease, self.config.seq_lease)
        book = agent.replica.members.address_book()
        agent.log_rows += len(rows)
        snapshot = b""
        least = max(SNAPSHOT_ABOVE_ROWS, agent.snapshot_bytes // SNAPSHOT_BYTES_PER_ROW)
        if agent.log_rows > least and agent.replica.kernel.vector == vector:
            snapshot, agent.log_rows = agent.replica.kernel.to_bytes(), 0
            agent.snapshot_bytes = len(snapshot)
        entry = Entry(rows, vector, agent.replica.id, lease, snapshot, book)
        agent.committing = True
        wait_s = self.dice.uniform(*self.faults.disk_s)
        self._later(wait_s, partial(self._committed, agent, agent.life, joined, entry))

    def _committed(self, agent: SimulatedAgent, life: int, effects: Effects, entry: Entry) -> None:
        replica = agent.replica
        if replica is None or agent.life != life:
            return  # crashed before the disk had it
        agent.committing = False
        try:
            agent.journal.append(entry)
        except JournalFailedError:
            agent.waiting = [effects, *agent.waiting]
            self._later(self.config.journal_retry_s, lambda: self._commit(agent))
            return
        agent.lease = entry.lease
        replica.persisted(entry.vector)
        self._witness(replica.id, entry)
        self._dispatch(agent, life, effects)
        self._commit(agent)

    def _dispatch(self, agent: SimulatedAgent, life: int, effects: Effects) -> None:
        """Everything these effects show is durable: send, then publish."""
        for send in effects.send:
            if send.address:
                self._request(agent.address, life, send)
            else:
                self._answer(agent.address, send)
        agent.published += effects.publish

    def _witness_boot(self, booted: Booted) -> None:
        """A life is closed by its successor alone, and what it wrote about that is kept, too."""
        recovered, kernel = booted.recovered, booted.kernel
        for seq in range(1, kernel.vector.get(kernel.replica, 0) + 1):
            if kernel.replica != recovered.replica:
                self.dots.add((kernel.replica, seq))
                self.acknowledged[kernel.replica] = seq
        living = {self.replica(name).id for name in self.up()}
        if not self.copied_whole:
            wrong = living & {former for former, _ in ends(kernel)}
            assert not wrong, f"recorded as over, and alive: {wrong}"

    def _witness(self, replica: str, entry: Entry) -> None:
        """No dot twice; remember what was acknowledged."""
        for row in entry.rows:
            if row.kind == OWN:
                for origin, first, _ in Delta.decode(row.data).ranges:
                    again = (origin, first) in self.dots
                    assert not again, f"dot {origin}:{first} used twice"
                    self.dots.add((origin, first))
        own = entry.vector.get(replica, 0)
        self.acknowledged[replica] = max(own, self.acknowledged.get(replica, 0))

    def _later(self, wait_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_s + wait_s, self._count, action))

    # ------------------------------------------------------------------------------ time

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end_s = self.now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
        self.now_s = end_s

    def settle(self, limit_s: float, every_s: float = 0.25) -> bool:
        """Run until all running replicas are equal, at most `limit_s`; whether they are."""
        end_s = self.now_s + limit_s
        while not self.equal():
            if self.now_s >= end_s:
                return False
            self.run(every_s)
        return True

    def wait(self, name: str, copies: int | None = None) -> Wait:
        """An agent begins to wait for all that it has to be on `copies` disks, or at everybody.

        Whether it is, `self.replica(name).waits.over(wait)` says.
        """
        replica = self.replica(name)
        wait = replica.waits.begin(replica.kernel.vector, copies)
        self.step(name)
        return wait

    def step(self, name: str) -> None:
        """Let an agent do at once what there is for it to do."""
        self._later(0, partial(self._flush, name, self.agents[name].life))

    def replicated(self, name: str, copies: int | None = None, limit_s: float = 60.0) -> float:
        """Let time pass until that `wait` is over; how long it took, `inf` for over `limit_s`."""
        replica, begin_s = self.replica(name), self.now_s
        wait = self.wait(name, copies)
        while not (over := replica.waits.over(wait)) and self._next_s() <= begin_s + limit_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
        replica.waits.end(wait)
        return self.now_s - begin_s if over else inf

    def _next_s(self) -> float:
        return self._events[0][0] if self._events else inf

    def equal(self) -> bool:
        """Whether all running replicas have equal vectors and equal canonical state."""
        kernels = [self[name] for name in self.up()]
        if any(k.vector != kernels[0].vector for k in kernels):
            return False
        return len({k.digest() for k in kernels}) <= 1

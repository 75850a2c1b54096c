"""Histories of whole clusters: frames, journals, crashes, and the oracle and diagram of the kernel.

Theory of operation. A plan is drawn as for kernels (`crdt.testing.scheduler`): steps that name what
they act on by index, so that every subsequence is a plan and a failing one can be shrunk. It is
executed on a `Simulation`, which adds what no step says: gossip, loss, damage, delay. The oracle
hears of every operation with what its writer had seen; what a crash took before it was durable is
struck out again. In the end everybody is up and connected, and then all replicas must be equal, on
the oracle's value, and nothing that a journal acknowledged may be missing.

    run = cluster_history(ORSet, seed=7)
    assert_right(run)                              # of crdt.testing
    script = shrink_cluster(run)                   # the steps that matter

A disk may be rolled back to a copy, or replaced by a copy of somebody else's, only while another
disk holds all that is lost by it: otherwise losing it is what was asked for. And a copy hides that
it is one only if its lease gives it away (`_copied`): two lives that write under one id before
they can have heard of each other are beyond what anybody can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crdt import Dot, InsufficientRightsError, InvalidAmountError
from crdt.testing import (
    DOCUMENT,
    FAULTS,
    Happened,
    HistoryError,
    Oracle,
    Plan,
    Step,
    dice_of,
    dots_of,
    draw_step,
    draw_svg,
    draw_text,
    name_of,
    readable,
    shown,
    shrink_by,
)
from replication.errors import ReplicationError
from replication.testing.simulation import Faults, Simulation

if TYPE_CHECKING:
    from replication.journal import MemoryJournal

SETTLE_S = 90.0  # of virtual time that a healed cluster is given to become equal
SHRINK_ATTEMPTS_MAX = 400  # a cluster takes some 100 ms
_FAULTS = (*FAULTS, ReplicationError)
_PICKS = 1 << 16
_STEP_S = 0.15  # of virtual time after a step, at most

WEIGHTS = {
    "write": 84,
    "cut": 4,  # a link
    "isolate": 2,
    "mend": 2,  # all links
    "crash": 3,
    "start": 5,
    "backup": 2,
    "restore": 2,
    "clone": 1,
}


class ClusterHistory:
    """A plan executed on a cluster of agents a, b, c, ...; judged and drawn like any history.

    Args:
        kind: a type of ours; all agents share one document of it.
        script: the plan.
        seed: of the network and the disks.
    """

    def __init__(self, kind: Any, script: Plan, seed: int) -> None:
        self.kind, self.script, self.seed = kind, script, seed
        self.names = [chr(ord("a") + index) for index in range(script.replicas)]
        dice = dice_of(seed)
        faults = Faults(
            loss=dice.choice([0, 0.1, 0.5]),
            duplicate=dice.choice([0, 0.2]),
            damage=dice.choice([0, 0.1]),
            slow=dice.choice([0, 0.1]),
            disk_s=dice.choice([(0.0, 0.005), (0.0, 0.2)]),
        )
        self.sim = Simulation(self.names, seed, faults)
        self.expected = Oracle()
        self.path = (DOCUMENT, name_of(kind))
        self.trace: list[Happened] = []
        self.failure: Exception | None = None
        self.healed = False
        self._cuts: set[tuple[int, int]] = set()  # from -> to
        self._backups: dict[int, tuple[MemoryJournal, str]] = {}  # with its owner's name
        self._rows: dict[Dot, tuple[int, int]] = {}  # where an operation was made: replica, row
        self._news: list[set[Dot]] = [set() for _ in self.names]  # what each has not heard of yet
        try:
            for step in script.steps:
                self._execute(step)
        except _FAULTS as error:
            self.failure = error

    # ------------------------------------------------------------------------------ verdict

    def heal(self) -> None:
        """Start everybody, end all faults, and let them talk. Raises HistoryError if that fails."""
        if self.failure is None:
            self.healed = True
            try:
                self.sim.heal()
                self.sim.faults = Faults()
                for index in range(len(self.names)):
                    self._do_start(Step("start", index))
                self.sim.settle(SETTLE_S)
            except _FAULTS as error:
                self.failure = error
        if self.failure is not None:
            text = f"{type(self.failure).__name__}: {self.failure}"
            raise HistoryError(text) from self.failure

    @property
    def converged(self) -> bool:
        """Whether all agents that are up hold the same state."""
        return self.sim.equal()

    @property
    def values(self) -> list[Any]:
        """What each agent shows; None while it is down."""
        up = set(self.sim.up())
        return [
            shown(self.sim[name].document(DOCUMENT, self.kind)) if name in up else None
            for name in self.names
        ]

    @property
    def known(self) -> set[Dot]:
        """Every operation that was not lost with a crash before it was durable."""
        return {each.dot for each in self.expected.operations}

    @property
    def oracle(self) -> list[Any]:
        """What each agent has to show in the end."""
        return [self.expected.value(self.path, self.known)] * len(self.names)

    def complaint(self) -> str | None:
        """Heal, and say what is wrong; None if nothing is."""
        try:
            self.heal()
        except HistoryError as error:
            return error.text
        if not self.converged:
            return f"agents differ after {SETTLE_S:.0f} s of peace"
        for origin, seq in self.sim.acknowledged.items():
            if any(self.sim[name].vector.get(origin, 0) < seq for name in self.names):
                return f"acknowledged events of {origin} up to {seq} are lost"
        if self.values != self.oracle:
            wanted = self.describe(self.oracle[0])
            return f"shows {self.describe(self.values[0])}\n  has to show {wanted}"
        return None

    def describe(self, value: object) -> str:
        """A value for people."""
        return "nothing" if value is None else f"{readable(value)!r:.400}"

    def diagram(self) -> str:
        """The space-time diagram as text; an arrow is an operation that became known."""
        return draw_text(self)

    def svg(self) -> str:
        """The space-time diagram as an SVG document."""
        return draw_svg(self)

    # ---------------------------------------------------------------------------- execution

    def _execute(self, step: Step) -> None:
        try:
            happened = getattr(self, f"_do_{step.kind}")(step)
        except _FAULTS:
            self.trace.append(Happened(step, step.replica))
            raise
        if happened:
            self.trace.append(Happened(step, step.replica))
        self.sim.run(_STEP_S * step.pick / _PICKS)
        self._note_arrivals()

    def _is_up(self, index: int) -> bool:
        return self.sim.agents[self.names[index]].replica is not None

    def _note_arrivals(self) -> None:
        """A row for every operation that an agent has learned of since the last step."""
        for index, news in enumerate(self._news):
            if not news or not self._is_up(index):
                continue
            context = self.sim[self.names[index]].context
            for dot in sorted(dot for dot in news if context.covers(*dot)):
                news.discard(dot)
                source, row = self._rows[dot]
                self.trace.append(Happened(Step("deliver", index), index, source, row))

    def _do_write(self, step: Step) -> bool:
        if not self._is_up(step.replica):
            return False
        kernel = self.sim[self.names[step.replica]]
        observed = dots_of(kernel.context.ranges())
        before = kernel.vector.get(kernel.replica, 0)
        try:
            delta = step.operations[0].perform(kernel.document(DOCUMENT, self.kind))
        except (InsufficientRightsError, InvalidAmountError):
            return False  # refused, as it has to be
        dot = Dot(kernel.replica, kernel.vector.get(kernel.replica, 0))
        if dot.seq == before:
            return False
        stamps = [event.stamp for run in delta.runs for event in run.events]
        operation = step.operations[0]
        self.expected.record(dot, observed, self.path, operation, max(stamps, default=0))
        self._rows[dot] = (step.replica, len(self.trace))
        for index, news in enumerate(self._news):
            if index != step.replica:
                news.add(dot)
        return True

    def _cut(self, ways: set[tuple[int, int]]) -> bool:
        """Cut some ways; False if they were cut before."""
        for one, other in ways:
            self.sim.cut(self.names[one], self.names[other], one_way=True)
        before, self._cuts = self._cuts, self._cuts | ways
        return self._cuts != before

    def _do_cut(self, step: Step) -> bool:
        """A link breaks, one time in four in one direction only."""
        there, back = (step.replica, step.peer), (step.peer, step.replica)
        return self._cut({there} if step.pick % 4 == 0 else {there, back})

    def _do_isolate(self, step: Step) -> bool:
        here = step.replica
        others = [other for other in range(len(self.names)) if other != here]
        return self._cut({way for other in others for way in ((here, other), (other, here))})

    def _do_mend(self, _step: Step) -> bool:
        self.sim.heal()
        self._cuts.clear()
        return True

    def _do_crash(self, step: Step) -> bool:
        if not self._is_up(step.replica):
            return False
        name = self.names[step.replica]
        life = self.sim.replica(name).id
        durable = self.sim.acknowledged.get(life, 0)
        self.sim.crash(name)
        kept = [
            e for e in self.expected.operations if e.dot.replica != life or e.dot.seq <= durable
        ]
        self.expected.operations[:] = kept
        return True

    def _do_start(self, step: Step) -> bool:
        if self._is_up(step.replica):
            return False
        self.sim.start(self.names[step.replica])
        return True

    def _do_backup(self, step: Step) -> bool:
        agent = self.sim.agents[self.names[step.replica]]
        self._backups[step.replica] = _copied(agent.journal, step), agent.name
        return True

    def _do_restore(self, step: Step) -> bool:
        backup = self._backups.get(step.replica)
        return backup is not None and self._replace_disk(step.replica, *backup)

    def _do_clone(self, step: Step) -> bool:
        origin = self.sim.agents[self.names[step.peer]]
        disk = _copied(origin.journal, step)
        return self._replace_disk(step.replica, disk, origin.name)

    def _replace_disk(self, index: int, disk: MemoryJournal, owner: str) -> bool:
        """Crash an agent and go on with another disk, if what is lost is safe on somebody's."""
        agent = self.sim.agents[self.names[index]]
        self._do_crash(Step("crash", index))
        held = agent.journal.read().vector
        others = [
            other.journal.read().vector for other in self.sim.agents.values() if other is not agent
        ]
        if any(all(other.get(o, 0) >= seq for o, seq in held.items()) for other in others):
            agent.journal = disk.copy(continuous=disk.read().continuous)
            agent.name = owner
        self.sim.start(self.names[index])
        return True


def _copied(journal: MemoryJournal, step: Step) -> MemoryJournal:
    """A copy of a disk, half of the time one that does not say so, if numbers are leased on it."""
    held = journal.read()
    leased = held.lease > held.vector.get(held.replica, 0)
    return journal.copy(continuous=leased and bool(step.pick % 2))


def cluster_plan(kind: Any, seed: int, *, replicas: int = 5, operations: int = 100) -> Plan:
    """The plan of a seed, with that many operations among what goes wrong."""
    dice, steps, written = dice_of(seed), list[Step](), 0
    while written < operations:
        (step_kind,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        steps.append(
            draw_step(name_of(kind), dice, replicas, size=2 + written // 12, kind=step_kind)
        )
        written += len(steps[-1].operations)
    return Plan(name_of(kind), replicas, "mesh", (0,) * replicas, tuple(steps))


def cluster_history(
    kind: Any, seed: int, *, replicas: int = 5, operations: int = 100
) -> ClusterHistory:
    """The history of a seed, executed and not yet healed. About 0.3 s."""
    return ClusterHistory(
        kind, cluster_plan(kind, seed, replicas=replicas, operations=operations), seed
    )


def shrink_cluster(run: ClusterHistory, *, attempts_max: int = SHRINK_ATTEMPTS_MAX) -> Plan:
    """The plainest plan found that still goes wrong under the same seed of network and disks."""

    def fails(script: Plan) -> bool:
        return ClusterHistory(run.kind, script, run.seed).complaint() is not None

    return shrink_by(run.script, fails, attempts_max=attempts_max)

"""The execution of a plan, and its verdict.

    run = History(ORSet, plan)
    run.heal()
    assert run.converged and run.values == run.oracle, run.diagram()

A step that fails ends the execution; `heal` then raises what happened, so that a run can always be
drawn. A history need not be planned: one of an empty plan grows by `do(step)`.

Verdicts for tests of any kind; each raises an AssertionError that holds the diagram, or the one
line that replays it:

    assert_converged(ada, bob, eve)          # replicas, however they came to be
    assert_right(run)                        # a history: healed, equal, and what the oracle demands
    history(ORSet, seed=7)                   # one random history, waiting for its verdict
    replay(ORSet, PLAN)                      # a counterexample that was written down
    run_histories(ORSet, seed=7, count=100)  # many, each from a seed of its own

`check` of a history that went wrong says which kind of check noticed:

`law`          one that holds in any history at any time: a restart changes nothing, a refused delta
               leaves no trace, a change is announced, a replica has seen what it was told
`oracle`       what visibility demands: of the value in the end, and of whether a write takes a dot
`convergence`  in the end all hold the same
`invariant`    an assertion inside the type itself
`error`        it raised something else
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from crdt.errors import CRDTError, InvariantError
from crdt.testing.diagram import draw_svg, draw_text
from crdt.testing.network import DOCUMENT, InFlight, Network, Replicas, RollBackError
from crdt.testing.operation import is_view, name_of, reading_of
from crdt.testing.oracle import Oracle, readable
from crdt.testing.scheduler import Happened, Plan, Step, dice_of, linked, plan
from crdt.testing.source import replay_line
from crdt.testing.state_network import StateNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from crdt.kernel import Dot
    from crdt.testing.operation import Operation

_EPOCH_MS = 1_700_000_000_000
_SHORT = 24  # steps of a plan that is checked after each of them

# What a wrong type may raise in the middle of a history.
FAULTS = (
    CRDTError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class HistoryError(CRDTError, AssertionError):
    """A history went wrong; `seed` (if one is known) and the replay line lead back to it."""

    code = "history"
    hint = "replay the line in the message"

    def __init__(self, text: str, *, line: str = "", seed: int | None = None) -> None:
        super().__init__(f"{text}\n  replay: {line}" if line else text)
        self.text = text
        self.line = line
        self.seed = seed


def check_of(failure: Exception) -> str:
    """Which kind of check raised this in the middle of a history. O(its traceback)."""
    if isinstance(failure, HistoryError):
        return "oracle"
    if not isinstance(failure, AssertionError | InvariantError):
        return "error"
    modules, trace = list[str](), failure.__traceback__
    while trace is not None:
        modules.append(trace.tb_frame.f_globals["__name__"])
        trace = trace.tb_next
    where = [module for module in modules if module != InvariantError.__module__]  # not `require`
    return "law" if where[-1].startswith(__name__.rpartition(".")[0]) else "invariant"


class History:
    """A plan being executed; `trace` has an item per step that did something.

    Args:
        kind: one of our types, or a class that `register` was told about.
        script: the plan.
        check_every: after this many steps the invariants of a replica are checked; by default
            after each step of a short plan, so that a shrunk one ends where it went wrong.
    """

    def __init__(self, kind: Any, script: Plan, *, check_every: int | None = None) -> None:
        self.kind = kind
        self.script = script
        self.now_ms = _EPOCH_MS
        self.skews = list(script.skews_ms)
        names = [chr(ord("a") + index) for index in range(script.replicas)]
        self.network: Replicas = (
            Network(kind, names, [self._clock(index) for index in range(script.replicas)])
            if is_view(kind)
            else StateNetwork(kind, names)
        )
        self.expected = Oracle(reading_of(kind))
        self.path = (DOCUMENT, name_of(kind))
        self.statistics: Counter[str] = Counter()
        self.trace: list[Happened] = []
        self.failure: Exception | None = None
        self.check = ""  # which kind of check complained (see above)
        self.healed = False
        self.cut_links: set[frozenset[int]] = set()
        self._stash: list[tuple[Any, set[Dot]]] = []
        self._looks: dict[int, tuple[Any, set[Dot]]] = {}
        self._lives = 0
        self._message: InFlight | None = None
        check_every = check_every or (1 if len(script.steps) <= _SHORT else 16)
        for number, step in enumerate(script.steps):
            if not self._try(step, check=number % check_every == check_every - 1):
                break

    def do(self, step: Step) -> None:
        """Execute one more step, which becomes a part of the plan.

        Raises:
            HistoryError: it failed, or left the replica in an unsound state.
        """
        self.script = self.script._replace(steps=(*self.script.steps, step))
        if not self._try(step, check=True):
            self.heal()

    def _try(self, step: Step, *, check: bool) -> bool:
        try:
            self._execute(step)
            if check and self.trace:
                self.network.check(self.trace[-1].replica)
        except FAULTS as error:
            self.failure = error
        return self.failure is None

    # ------------------------------------------------------------------------------ verdict

    def heal(self) -> None:
        """End every disturbance and let all replicas learn everything.

        Raises:
            HistoryError: a step, or the healing itself, failed; its cause says with what.
        """
        if self.failure is None:
            self.healed = True
            try:
                self.network.heal()
            except FAULTS as error:
                self.failure = error
        if self.failure is not None:
            text = f"{type(self.failure).__name__}: {self.failure}"
            raise HistoryError(text) from self.failure

    @property
    def converged(self) -> bool:
        """Whether all replicas hold the same state."""
        return self.network.converged

    @property
    def values(self) -> list[Any]:
        """What each replica shows."""
        return self.network.values

    @property
    def known(self) -> set[Dot]:
        """Every operation that some replica has seen."""
        return {dot for seen in self.network.seen for dot in seen}

    @property
    def oracle(self) -> list[Any]:
        """What each replica has to show once it has learned everything.

        Raises:
            NoOracleError: none was registered for a type of your own.
        """
        known = {id(seen): frozenset(seen) for seen in self.network.seen}
        values = {seen: self.expected.value(self.path, seen) for seen in set(known.values())}
        return [values[known[id(seen)]] for seen in self.network.seen]

    def complaint(self) -> str | None:
        """Heal, and say what is wrong; None if nothing is."""
        try:
            self.heal()
            if not self.converged:
                shown = [self.describe(value) for value in self.values]
                self.check = "convergence"
                alike = " in what they hold, though not in what they show" * (len({*shown}) == 1)
                return f"replicas differ{alike}: {', '.join(shown)}"
            if self.expected.knows(self.path) and self.values != self.oracle:
                self.check = "oracle"
                shows, wanted = self.describe(self.values[0]), self.describe(self.oracle[0])
                return f"shows {shows}\n  has to show {wanted}"
        except FAULTS as error:
            self.check = check_of(self.failure or error)
            return error.text if isinstance(error, HistoryError) else repr(error)
        return None

    def describe(self, value: Any) -> str:
        """A value for people: canonical bytes decoded, and cut to a readable length."""
        if not is_view(self.kind):
            return f"{value!r:.400}"
        return "nothing" if value is None else f"{readable(value)!r:.400}"

    def diagram(self) -> str:
        """The space-time diagram as text: one column per replica, time going down."""
        return draw_text(self)

    def svg(self) -> str:
        """The space-time diagram as an SVG document."""
        return draw_svg(self)

    def __repr__(self) -> str:
        return f"History({self.kind.__name__}, {self.script!r})\n{self.diagram()}"

    # ---------------------------------------------------------------------------- execution

    def _clock(self, index: int) -> Callable[[], int] | None:
        if self.skews[index] is None:
            return None
        return lambda: max(0, self.now_ms + (self.skews[index] or 0))

    def _execute(self, step: Step) -> None:
        self.now_ms += step.pick % 7
        self.network.moment = len(self.trace)
        self._message = None
        try:
            happened = getattr(self, f"_do_{step.kind}")(step)
        except FAULTS:
            self.trace.append(self._happened(step))
            raise
        if not happened:
            self.statistics["idle"] += 1
            return
        self.statistics[step.kind] += 1
        self.trace.append(self._happened(step))

    def _happened(self, step: Step) -> Happened:
        message = self._message
        if message is not None:
            return Happened(step, message.target, message.source, message.moment)
        return Happened(step, step.replica, step.peer if step.kind in _FROM_PEER else None)

    def _reachable(self, one: int, other: int) -> bool:
        topology, count = self.script.topology, self.script.replicas
        return frozenset((one, other)) not in self.cut_links and linked(topology, count, one, other)

    def _catch_up(self, index: int) -> None:
        """A replica that is about to write gets what came before what it has, in a row of its own.

        What it then publishes is called by the row after that.
        """
        if self.network.catch_up(index):
            self.trace.append(Happened(Step("catch_up", index), index))
            self.network.moment = len(self.trace)

    def _write(self, index: int, operation: Operation, *, seen: bool) -> bool:
        self._catch_up(index)
        observed, context = set(self.network.seen[index]), None
        if seen and index in self._looks:
            context, observed = self._looks[index]
            self.statistics["seen"] += 1
        written = self.network.write(index, operation, context)
        if written is not None:
            self.expected.record(written.dot, observed, self.path, operation, written.stamp)
        elif not self.expected.may_be_silent(observed, self.path, operation):
            raise HistoryError(f"{operation} has an effect by visibility, and left no event")
        return written is not None

    def _do_write(self, step: Step) -> bool:
        return self._write(step.replica, step.operations[0], seen=step.seen[0])

    def _do_equal(self, step: Step) -> bool:
        """Two replicas do the same thing without having heard of each other's."""
        for index in (step.replica, step.peer):
            self._catch_up(index)  # both before: what the two publish is of one row
        here = self._write(step.replica, step.operations[0], seen=False)
        there = self._write(step.peer, step.operations[0], seen=False)
        return here or there

    def _do_batch(self, step: Step, *, fail: bool = False) -> bool:
        recorded = len(self.expected.operations)
        group = self.network.batch(step.replica)
        if group is None:
            return False
        try:
            with group as batch:
                for operation, seen in zip(step.operations, step.seen, strict=True):
                    self._write(step.replica, operation, seen=seen)
                if fail:
                    raise RollBackError
        except RollBackError:
            self.expected.forget(len(self.expected.operations) - recorded)
            return True
        runs = batch.delta.runs
        stamps = {(run.origin, e.seq): e.stamp for run in runs for e in run.events}
        self.expected.close_batch(recorded, stamps)
        return bool(runs)

    def _do_rollback(self, step: Step) -> bool:
        return self._do_batch(step, fail=True)

    def _do_deliver(self, step: Step, *, keep: bool = False) -> bool:
        flight = self.network.in_flight
        if not flight:
            return False
        position = step.pick % len(flight)
        message = flight[position]
        if not self._reachable(message.target, message.source):
            return False
        if not keep:
            del flight[position]
        self._message = message
        self.network.deliver(message)
        return True

    def _do_repeat(self, step: Step) -> bool:
        return self._do_deliver(step, keep=True)

    def _do_lose(self, step: Step) -> bool:
        flight = self.network.in_flight
        if not flight:
            return False
        self._message = flight.pop(step.pick % len(flight))
        return True

    def _do_overtake(self, step: Step) -> bool:
        """The newest delta on its way to the replica from that peer arrives before the others."""
        flight, way = self.network.in_flight, (step.peer, step.replica)
        places = [at for at, each in enumerate(flight) if (each.source, each.target) == way]
        return bool(places) and self._do_deliver(step._replace(pick=places[-1]))

    def _do_refused(self, step: Step) -> bool:
        """A delta arrives in a form that has to be refused, and then as it was sent."""
        flight = self.network.in_flight
        if not flight:
            return False
        self._message = flight[step.pick % len(flight)]
        return self.network.refuse(self._message, step.pick) and self._do_deliver(step)

    def _do_relearn(self, step: Step) -> bool:
        return self.network.relearn(step.replica)

    def _do_exchange(self, step: Step) -> bool:
        reachable = self._reachable(step.replica, step.peer)
        return reachable and self.network.exchange(step.replica, step.peer)

    def _do_truncated(self, step: Step) -> bool:
        budget = (1, 80, 200, 500)[step.pick % 4]
        reachable = self._reachable(step.replica, step.peer)
        return reachable and self.network.exchange(step.replica, step.peer, budget)

    def _do_merge(self, step: Step) -> bool:
        if not self._reachable(step.replica, step.peer):
            return False
        self.network.merge_from(step.replica, step.peer)
        return True

    def _do_stash(self, step: Step) -> bool:
        self._lives += 1
        copy = self.network.copy(step.replica, f"copy{self._lives}")
        self._stash.append((copy, set(self.network.seen[step.replica])))
        return True

    def _do_stale(self, step: Step) -> bool:
        if not self._stash:
            return False
        self.network.merge_copy(step.replica, *self._stash[step.pick % len(self._stash)])
        return True

    def _do_chunks(self, step: Step) -> bool:
        if not self._reachable(step.replica, step.peer):
            return False
        bytes_max, dice = (60, 150, 10_000)[step.pick % 3], dice_of(step.pick)
        return self.network.some_chunks(step.replica, step.peer, bytes_max, dice)

    def _do_restart(self, step: Step) -> bool:
        return self.network.restart(step.replica)

    def _do_rebirth(self, step: Step) -> bool:
        if not self._stash:
            return False
        back = self._stash[step.pick % len(self._stash)]
        name = f"{chr(ord('a') + step.replica)}~{self._lives + 1}"
        copies = [copy for copy, _ in self._stash]
        if not self.network.rebirth(step.replica, name, back, copies):
            return False
        self._lives += 1
        self._looks.pop(step.replica, None)
        return True

    def _do_forget(self, step: Step) -> bool:
        return self.network.forget(step.replica, step.pick)

    def _do_void(self, step: Step) -> bool:
        return self.network.void(step.replica, step.pick % 4)

    def _do_look(self, step: Step) -> bool:
        network, index = self.network, step.replica
        context = network.look(index)
        if context is None:
            return False
        self._looks[index] = (context, set(network.seen[index]))
        return True

    def _do_jump(self, step: Step) -> bool:
        if self.skews[step.replica] is None:
            return False
        self.skews[step.replica] = (0, -3_600_000, 60_000, 90_000)[step.pick % 4]
        return True

    def _do_cut(self, step: Step) -> bool:
        self.cut_links ^= {frozenset((step.replica, step.peer))}
        return True


_FROM_PEER = frozenset({"exchange", "truncated", "merge", "chunks", "equal", "cut"})


# ------------------------------------------------------------------------------------ verdicts


class Judged(Protocol):
    """A run that can tell what is wrong with it: a `History`, or one of a whole cluster."""

    @property
    def failure(self) -> Exception | None:
        """What ended it early."""

    def complaint(self) -> str | None:
        """Heal, and say what is wrong; None if nothing is."""

    def diagram(self) -> str:
        """What happened, drawn."""


def history(kind: Any, seed: int, *, replicas: int = 3, mutations: int = 40) -> History:
    """The random history of a seed, executed and not yet healed. About 8 ms."""
    return History(kind, plan(name_of(kind), dice_of(seed), replicas=replicas, mutations=mutations))


def assert_converged(*replicas: Any) -> None:
    """Assert that replicas hold the same: canonical bytes of our types, the value of others. O(n).

    Raises:
        AssertionError: they differ; the message shows what each of them holds.
    """
    held = [each.canonical_bytes() if is_view(type(each)) else each.value for each in replicas]
    if any(one != held[0] for one in held):
        shown = "\n".join(f"  {getattr(each, 'replica', '')}: {each!r}" for each in replicas)
        raise AssertionError(f"replicas differ:\n{shown}")


def assert_right(run: Judged) -> None:
    """Heal a history, and assert that it ended equal and on what visibility demands.

    Raises:
        HistoryError: it did not; the message holds the diagram.
    """
    complaint = run.complaint()
    if complaint is not None:
        raise HistoryError(f"{complaint}\n\n{run.diagram()}") from run.failure


def replay(kind: Any, script: Plan) -> None:
    """Execute a plan and judge it: what a regression test of a shrunk counterexample calls.

    Raises:
        HistoryError: it (still) goes wrong; the message holds the diagram.
    """
    assert_right(History(kind, script))


def run_histories(
    kind: Any,
    seed: int,
    count: int,
    *,
    replicas: int = 3,
    mutations: int = 40,
) -> Counter[str]:
    """Execute `count` histories, seeds seed, seed + 1, ...; about 5 ms each.

    Returns:
        What was generated: steps by kind, and "histories".

    Raises:
        HistoryError: replicas differ, or agree on a value that visibility does not allow.
    """
    statistics: Counter[str] = Counter()
    for one in range(seed, seed + count):
        run = history(kind, one, replicas=replicas, mutations=mutations)
        complaint = run.complaint()
        if complaint is not None:
            arguments = f"seed={one}, count=1, replicas={replicas}, mutations={mutations}"
            line = replay_line(kind, "run_histories", arguments)
            raise HistoryError(complaint, line=line, seed=one) from run.failure
        statistics += run.statistics
        statistics["histories"] += 1
    return statistics

"""A Hypothesis state machine of replicas, to be subclassed with rules and invariants of your own.

    class Auction(ReplicaMachine):
        kind = MaxRegister

        @rule(replica=replicas_of, amount=st.integers(1, 100))
        def bid(self, replica, amount):
            self.operate(replica, "set", amount)

        @invariant()
        def nobody_is_paid(self):
            assert all(value is None or value > 0 for value in self.run.values)

    TestAuction = Auction.TestCase

The rules that are here already make random operations of the kind and let deltas arrive, be lost
and be repeated, states be merged, links be cut, replicas restart. In the end everything heals, and
the verdict is that of every history: equal, and on what the oracle demands, or a diagram.

Beside `scenarios` this is for rules that need to know the state. The weights are Hypothesis's own,
so give it more examples.
"""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from crdt.testing.histories import History, assert_right
from crdt.testing.operation import Operation, draw, name_of
from crdt.testing.scheduler import Plan, Step, dice_of, universe_after

replicas_of = st.integers(0, 15)
"""Chooses a replica; taken modulo how many there are."""
_PICKS = st.integers(0, (1 << 16) - 1)
_SEEDS = st.integers(0, (1 << 32) - 1)


class ReplicaMachine(RuleBasedStateMachine):
    """Replicas of `kind`, the type under test; `self.run` is the history so far.

    `kind` is a type of ours, or one of yours that `register` was told about; `replicas` is how many
    take part. A rule of yours changes replicas by `operate`, so that the oracle hears of it.
    """

    kind: ClassVar[Any] = None
    replicas: ClassVar[int] = 3
    run: History

    @initialize()
    def begin(self) -> None:
        """Start with empty replicas without clocks, all linked."""
        count = self.replicas
        self.run = History(self.kind, Plan(name_of(self.kind), count, "mesh", (None,) * count, ()))

    def operate(self, replica: int, action: str, *args: Any) -> None:
        """Call a mutator at a replica.

        Raises:
            HistoryError: it failed; its cause says with what.
        """
        self._do("write", replica, operation=Operation(action, args))

    @rule(replica=replicas_of, seed=_SEEDS)
    def write(self, replica: int, seed: int) -> None:
        """A random operation, on a universe that grows with the history like any other's."""
        written = len(self.run.expected.operations)
        operation, _ = draw(name_of(self.kind), dice_of(seed), universe_after(written))
        self._do("write", replica, operation=operation)

    @rule(kind=st.sampled_from(("deliver", "repeat", "lose")), pick=_PICKS)
    def travel(self, kind: str, pick: int) -> None:
        """A delta on its way arrives, arrives and stays on its way, or is lost."""
        self._do(kind, 0, pick=pick)

    @rule(
        kind=st.sampled_from(("exchange", "truncated", "merge", "chunks", "cut")),
        replica=replicas_of,
        distance=st.integers(1, 15),
        pick=_PICKS,
    )
    def meet(self, kind: str, replica: int, distance: int, pick: int) -> None:
        """One replica learns from another; or a link is cut, or healed."""
        self._do(kind, replica, distance=distance, pick=pick)

    @rule(kind=st.sampled_from(("stash", "stale", "restart")), replica=replicas_of, pick=_PICKS)
    def live(self, kind: str, replica: int, pick: int) -> None:
        """A state is put aside, or merged again when it is old; a replica goes through bytes."""
        self._do(kind, replica, pick=pick)

    def teardown(self) -> None:
        """Heal, and judge."""
        if hasattr(self, "run"):
            assert_right(self.run)

    def _do(
        self,
        kind: str,
        replica: int,
        *,
        distance: int = 1,
        pick: int = 0,
        operation: Operation | None = None,
    ) -> None:
        here = replica % self.replicas
        there = (here + 1 + (distance - 1) % (self.replicas - 1)) % self.replicas
        operations = () if operation is None else (operation,)
        self.run.do(Step(kind, here, there, pick, operations, (False,) * len(operations)))

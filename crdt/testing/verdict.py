"""Verdicts: assertions about replicas and histories, for tests of any kind.

    assert_converged(ada, bob, eve)          # replicas, however they came to be
    assert_right(run)                        # a history: healed, equal, and what the oracle demands
    history(ORSet, seed=7)                   # one random history, waiting for its verdict
    replay(ORSet, PLAN)                      # a counterexample that was written down
    run_histories(ORSet, seed=7, count=100)  # many, each from a seed of its own

Each raises an AssertionError that holds the diagram, or the one line that replays it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from crdt.testing.history import History
from crdt.testing.judgement import HistoryError
from crdt.testing.operation import is_view, name_of
from crdt.testing.scheduler import dice_of, plan

if TYPE_CHECKING:
    from crdt.testing.scheduler import Plan


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
            line = f"run_histories({kind.__name__}, seed={one}, count=1"
            line += f", replicas={replicas}, mutations={mutations})"
            raise HistoryError(complaint, line=line, seed=one) from run.failure
        statistics += run.statistics
        statistics["histories"] += 1
    return statistics

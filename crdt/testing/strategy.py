"""`scenarios(Type)`: the weighted scheduler as a Hypothesis strategy.

    @given(scenarios(ORSet, replicas=3))
    def test_orset(run):
        run.heal()
        assert run.converged, run.diagram()
        assert run.values == run.oracle, run.diagram()

Hypothesis is given a seed, of which the scheduler draws the steps, and one byte per step; 0 means
that the step is left out. So the weights are the scheduler's and not those of a list strategy,
and Hypothesis shrinks by what it does best, setting bytes to 0. What remains is a plan like any
other: the run's `script` replays it, `crdt.testing.shrink` makes it plainer still.

What was generated is reported as Hypothesis events (`pytest --hypothesis-show-statistics`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import event
from hypothesis import strategies as st

from crdt.testing.histories import History
from crdt.testing.operation import name_of
from crdt.testing.scheduler import TOPOLOGIES, Plan, dice_of, draw_end, draw_replicas, draw_step

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

STEPS = 110  # as many as a plan of 40 mutations has
_SEED_MAX = (1 << 32) - 1


def plans(kind: Any, *, replicas: int = 3, steps: int = STEPS) -> SearchStrategy[Plan]:
    """Plans of at most `steps` steps. About 2 ms each."""
    type_name = name_of(kind)

    @st.composite
    def draw_plan(draw: DrawFn) -> Plan:
        dice = dice_of(draw(st.integers(0, _SEED_MAX)))
        count, skews = draw_replicas(dice, replicas)
        drawn = [draw_step(type_name, dice, count, size=2 + n // 10) for n in range(steps)]
        end = draw_end(type_name, dice, count, size=2 + steps // 10)
        drawn[steps - min(steps, len(end)) :] = end[:steps]
        flags = draw(st.binary(min_size=steps, max_size=steps))
        kept = [step for step, flag in zip(drawn, flags, strict=True) if flag]
        return Plan(type_name, count, dice.choice(TOPOLOGIES), skews, tuple(kept))

    return draw_plan()


def scenarios(kind: Any, *, replicas: int = 3, steps: int = STEPS) -> SearchStrategy[History]:
    """Histories that were executed and wait for `run.heal()` and the verdict. About 8 ms each.

    Args:
        kind: a type of ours, or one of yours that `register` was told about.
        replicas: how many take part (rarely one more).
        steps: how many steps a history has at most; two in five are mutations.
    """

    def execute(script: Plan) -> History:
        run = History(kind, script)
        for step in sorted(run.statistics):
            event(f"step {step}")
        event(f"topology {script.topology}")
        event(f"operations {len(run.expected.operations) // 10 * 10}+")
        return run

    return plans(kind, replicas=replicas, steps=steps).map(execute)

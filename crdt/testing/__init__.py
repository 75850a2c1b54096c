"""The kit with which this library tests itself, for types of your own as well.

Convergence alone proves little: a set that brings removed elements back converges. Algebraic laws
pass on wrong types. So a type is tested by *laws*, by an *oracle* that computes the value from
visibility alone, and by convergence, over histories of a *scheduler* that is weighted towards what
goes wrong.

    test_laws = laws(ORSet)

    @given(scenarios(ORSet, replicas=3))
    def test_orset(run):
        run.heal()
        assert run.converged, run.diagram()
        assert run.values == run.oracle, run.diagram()

`assert_right(run)` says these three lines in one. `ReplicaMachine` is the same as a state machine,
for rules and invariants of your own; the pytest plugin brings the fixture `network`. The tutorial
is docs/fuzzing.md.

From a terminal: `python -m crdt.testing fuzz ORSet`. Needs the extra `[testing]`. A name is looked
up when it is first asked for: the plugin lies behind this door and must load nothing before a
fixture is used, and Hypothesis is for those alone who ask for what needs it.

How a history comes about: `scheduler` draws a plan of steps, each with `operation`s to perform;
`histories` executes it on a `network` of replicas (`state_network`: of a type of your own), where
`refusal` and `subscriber` hold what is true at any moment, and `oracle` records who saw what;
`shrinker` leaves out what a failure does not need, and `diagram` draws the rest. What a kit for
whole clusters builds upon (`draw_step`, `dots_of`, `shrink_by`, ...) is handed on here too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crdt.testing.campaign import Outcome, fuzz
    from crdt.testing.diagram import draw_svg, draw_text
    from crdt.testing.histories import (
        FAULTS,
        History,
        HistoryError,
        assert_converged,
        assert_right,
        history,
        replay,
        run_histories,
    )
    from crdt.testing.law import laws
    from crdt.testing.machine import ReplicaMachine
    from crdt.testing.network import DOCUMENT, InFlight, Network, dots_of
    from crdt.testing.operation import (
        Choice,
        Operation,
        Recorded,
        UnknownTypeError,
        name_of,
        register,
    )
    from crdt.testing.oracle import NoOracleError, OneOf, Oracle, readable, shown
    from crdt.testing.scheduler import Happened, Plan, Step, dice_of, draw_step, plan
    from crdt.testing.shrinker import shrink, shrink_by
    from crdt.testing.state_network import Mergeable, StateNetwork
    from crdt.testing.strategy import plans, scenarios

ROOMS = {
    "assert_converged": "histories",
    "assert_right": "histories",
    "Choice": "operation",
    "dice_of": "scheduler",
    "DOCUMENT": "network",
    "dots_of": "network",
    "draw_step": "scheduler",
    "draw_svg": "diagram",
    "draw_text": "diagram",
    "FAULTS": "histories",
    "fuzz": "campaign",
    "Happened": "scheduler",
    "History": "histories",
    "history": "histories",
    "HistoryError": "histories",
    "InFlight": "network",
    "laws": "law",
    "Mergeable": "state_network",
    "name_of": "operation",
    "Network": "network",
    "NoOracleError": "oracle",
    "OneOf": "oracle",
    "Operation": "operation",
    "Oracle": "oracle",
    "Outcome": "campaign",
    "Plan": "scheduler",
    "plan": "scheduler",
    "plans": "strategy",
    "readable": "oracle",
    "Recorded": "operation",
    "register": "operation",
    "replay": "histories",
    "ReplicaMachine": "machine",
    "run_histories": "histories",
    "scenarios": "strategy",
    "shown": "oracle",
    "shrink": "shrinker",
    "shrink_by": "shrinker",
    "StateNetwork": "state_network",
    "Step": "scheduler",
    "UnknownTypeError": "operation",
}

__all__ = [
    "DOCUMENT",
    "FAULTS",
    "Choice",
    "Happened",
    "History",
    "HistoryError",
    "InFlight",
    "Mergeable",
    "Network",
    "NoOracleError",
    "OneOf",
    "Operation",
    "Oracle",
    "Outcome",
    "Plan",
    "Recorded",
    "ReplicaMachine",
    "StateNetwork",
    "Step",
    "UnknownTypeError",
    "assert_converged",
    "assert_right",
    "dice_of",
    "dots_of",
    "draw_step",
    "draw_svg",
    "draw_text",
    "fuzz",
    "history",
    "laws",
    "name_of",
    "plan",
    "plans",
    "readable",
    "register",
    "replay",
    "run_histories",
    "scenarios",
    "shown",
    "shrink",
    "shrink_by",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

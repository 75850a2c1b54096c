"""The strategy, the shrinker and the diagram: a wrong type is caught, and told in a few steps."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from hypothesis import Phase, given, settings

import crdt
from crdt.kernel.kind import KINDS
from crdt.testing import (
    History,
    HistoryError,
    NoOracleError,
    UnknownTypeError,
    laws,
    plan,
    register,
    replay,
    run_histories,
    scenarios,
    shrink,
)
from crdt.testing.operation import name_of
from crdt.testing.scheduler import dice_of
from tests.crdt.testing.wrong_sets import ForgetfulSet, RightSet, UnionSet
from tests.scale import SOAK, rounds, seeds

WRONG = pytest.mark.parametrize("kind", [UnionSet, ForgetfulSet], ids=lambda kind: kind.__name__)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_type_passes_as_a_user_would_test_it(name):
    """`@given(scenarios(Type))`: healed replicas agree, on what visibility demands."""

    @settings(max_examples=25, deadline=None, database=None)
    @given(scenarios(getattr(crdt, name), replicas=3))
    def check(run):
        run.heal()
        assert run.converged, run.diagram()
        assert run.values == run.oracle, run.diagram()

    check()


test_laws = laws(crdt.ORSet)
test_laws_of_a_plain_class = laws(RightSet)


def test_a_right_plain_class_passes():
    """A set of the textbook, written by somebody else, has nothing to fear."""
    assert run_histories(RightSet, seed=seeds(1)[0], count=rounds(4000))["restart"] == 0


@WRONG
def test_a_wrong_set_passes_whoever_tests_convergence_alone(kind):
    """300 histories end with equal replicas; both sets merely bring removed elements back."""
    for seed in range(300):
        run = History(kind, plan(name_of(kind), dice_of(seed)))
        run.heal()
        assert run.converged


@WRONG
def test_a_wrong_set_is_caught_by_default_and_shrunk_to_a_drawing(kind):
    """Within 20 histories; three steps are left: an add travels, and its remove does not."""
    with pytest.raises(HistoryError, match="has to show") as caught:
        run_histories(kind, seed=0, count=20)
    small = shrink(kind, plan(name_of(kind), dice_of(caught.value.seed)))
    assert len(small.steps) <= 6
    run = History(kind, small)
    assert run.complaint()
    drawn = run.diagram()
    assert ".add(" in drawn
    assert ".remove(" in drawn
    assert "has to show set()" in drawn
    ET.fromstring(run.svg())  # noqa: S314 - our own bytes
    assert eval(repr(small), vars(sys.modules["crdt.testing"])) == small  # noqa: S307 - as above
    with pytest.raises(HistoryError, match="has to show set"):
        replay(kind, small)


@WRONG
def test_hypothesis_finds_it_and_shrinks_it(kind):
    """The falsifying example that Hypothesis reports has at most 6 steps as well."""
    failed = []

    @settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
    @given(scenarios(kind, steps=40))
    def check(run):
        run.heal()
        if run.values != run.oracle:
            failed.append(run)
            raise AssertionError(run.diagram())

    with pytest.raises(AssertionError, match="has to show"):
        check()
    assert len(failed[-1].script.steps) <= 6


def test_a_type_without_an_oracle_is_held_to_convergence_and_says_so():
    """Asking for the expected value of such a type is an error, not a pass."""
    run = History(RightSet, plan(name_of(RightSet), dice_of(1)))
    run.expected.reading = None
    run.heal()
    with pytest.raises(NoOracleError):
        _ = run.oracle


def test_a_type_that_nobody_described_is_refused():
    """The kit cannot guess mutators."""
    with pytest.raises(UnknownTypeError, match="knows no mutators"):
        run_histories(dict, seed=1, count=1)
    with pytest.raises(UnknownTypeError, match="at least one mutator"):
        register(dict)


@pytest.mark.processes
def test_the_kit_loads_hypothesis_only_when_asked():
    """Importing the kit costs no Hypothesis; `scenarios` brings it in."""
    code = "import sys, crdt.testing as t; assert 'hypothesis' not in sys.modules; t.scenarios"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not SOAK, reason="100 000 histories run under CONVOCA_SOAK=1")
@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_hundred_thousand_histories_of_the_correct_code(name):
    """Spread over the types, seeds rotating by day, not one complaint."""
    count = -(-100_000 // len(KINDS))
    first = seeds(1)[0]
    print(f"run_histories({name}, seed={first}, count={count})")
    assert run_histories(getattr(crdt, name), first, count)["histories"] == count

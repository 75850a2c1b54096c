"""What a test of one's own is written with: the state machine, the fixtures, the assertions."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from crdt import MaxRegister, ORSet
from crdt.testing import HistoryError, ReplicaMachine, assert_converged
from crdt.testing.machine import replicas_of
from tests.crdt.testing.planted_types import Labels
from tests.crdt.testing.wrong_sets import ForgetfulSet, RightSet, UnionSet

pytest_plugins = ["pytester"]
QUICK = settings(max_examples=15, stateful_step_count=15, deadline=None, database=None)


class Auction(ReplicaMachine):
    """A machine of a user: a rule and an invariant of its own."""

    kind = MaxRegister

    @rule(replica=replicas_of, amount=st.integers(1, 100))
    def bid(self, replica, amount):
        self.operate(replica, "set", amount)

    @invariant()
    def everybody_shows_something_that_was_bid(self):
        if hasattr(self, "run"):
            bids = {each.args[0] for each in self.run.expected.operations if each.args}
            assert {value for value in self.run.values if value is not None} <= bids


def test_a_state_machine_of_ones_own_passes_for_a_right_type():
    """Rules of the kit and of the user side by side; the verdict is the oracle's."""
    run_state_machine_as_test(Auction, settings=QUICK)


def test_a_state_machine_finds_a_wrong_set_and_draws_it():
    """The same machine over a set that brings removed elements back.

    One example in some forty shows it, and the first that does is the last that runs. Which one is
    no test's to say: even derandomized, Hypothesis draws constants of all modules that are loaded.
    So the limit of examples is far beyond what luck needs.
    """

    class Wrong(ReplicaMachine):
        kind = UnionSet

    finding = settings(
        QUICK,
        max_examples=2000,
        stateful_step_count=40,
        phases=(Phase.generate,),  # shrinking is Hypothesis's own and takes its time
    )
    with pytest.raises(HistoryError, match=r"(?s)has to show.*│"):
        run_state_machine_as_test(Wrong, settings=finding)


def test_replicas_that_differ_are_shown():
    """`assert_converged` says what each holds; equal ones pass, of any type."""
    ada, bob = ORSet("ada"), ORSet("bob")
    ada.add("x")
    with pytest.raises(AssertionError, match=r"(?s)ada: ORSet\(.*'x'.*bob: ORSet"):
        assert_converged(ada, bob)
    bob.merge(ada)
    assert_converged(ada, bob)
    assert_converged(RightSet("a"), RightSet("b"))


@pytest.mark.parametrize("kind", [ORSet, RightSet], ids=lambda kind: kind.__name__)
def test_the_network_fixture_needs_no_import(network, kind):
    """It comes with the package: replicas, and what is on its way between them."""
    net = network(kind, 3)
    replica = (net.views if kind is ORSet else net.replicas)[0]
    replica.add("x")
    net.merge_from(1, 0)
    assert net.values[0] == net.values[1] != net.values[2]


def test_the_network_fixture_fails_a_test_that_leaves_replicas_different(pytester):
    """A type whose merge forgets is caught when the test is over."""
    pytester.makepyfile(
        """
        class Stubborn:
            def __init__(self, replica):
                self.replica, self.value = replica, 0

            def merge(self, other):
                pass

        def test_it(network):
            network(Stubborn).replicas[0].value = 1
        """
    )
    pytester.runpytest(
        "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"
    ).assert_outcomes(passed=1, errors=1)


def test_what_is_written_to_a_replica_itself_reaches_all_whatever_the_type_has(network):
    """A type with deltas that the network has not seen is healed by its states."""
    net = network(Labels)
    net.replicas[0].add("x")
    net.replicas[1].add("y")
    net.heal()
    assert net.values == [{"x", "y"}] * 3


def test_the_forgetful_set_converges_in_the_fixture_too(network):
    """What convergence alone says about a wrong set: nothing."""
    net = network(ForgetfulSet)
    net.replicas[0].add("x")
    net.merge_from(1, 0)
    net.replicas[0].remove("x")
    net.heal()
    assert net.values == [{"x"}] * 3

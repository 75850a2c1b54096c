"""The kit on types as a user writes them: wrong ones are caught by default, right ones pass."""

from __future__ import annotations

import pytest

from crdt.testing import OneOf, Operation, Plan, Step, fuzz, laws, replay, run_histories
from crdt.testing.operation import name_of
from tests.crdt.testing import planted_types
from tests.crdt.testing.planted_types import (
    RIGHT,
    WRONG,
    HandsOutItself,
    Labels,
    LabelsAsInTheTutorial,
    RemoveWithoutDelta,
    SilentRemove,
    SlowClock,
    Tags,
    Title,
)
from tests.scale import rounds, seeds


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_type_that_is_wrong_in_one_place_is_caught(kind):
    """As by `python -m crdt.testing fuzz`, from seed 0 on; a history is told in a few steps.

    What only a law notices has no history, so all of them are run: few by default.
    """
    outcome = fuzz(kind, examples=rounds(2000), seed=0)
    assert outcome.complaint, kind.__doc__
    assert outcome.script is None or len(outcome.script.steps) <= 12, outcome.diagram()


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
def test_a_right_type_passes_whatever_the_order_of_delivery(kind):
    """Sets whose adds replace or join one another, counter, register, map: with and without deltas.

    Both sets are judged by both ways to write the oracle of an add that wins.
    """
    outcome = fuzz(kind, examples=rounds(2000), seed=seeds(1)[0])
    assert not outcome.complaint, f"{outcome.replay}\n{outcome.complaint}\n{outcome.diagram()}"


def test_there_are_more_wrong_types_than_twenty_and_more_right_ones_than_five():
    """No two are wrong in the same way."""
    assert len({kind.__doc__ for kind in WRONG}) == len(WRONG) >= 20
    assert len(RIGHT) > 5


@pytest.mark.parametrize("kind", [SilentRemove, RemoveWithoutDelta])
def test_a_delta_that_says_less_than_the_state_is_named_with_the_operation(kind):
    """The shrunk history is the operation and what it needs; a law finds the same."""
    outcome = fuzz(kind, examples=20, seed=0)
    assert ".remove('x') leads to set()" in outcome.complaint
    assert (outcome.check, len(outcome.script.steps)) == ("law", 2)
    with pytest.raises(AssertionError, match="delta"):
        laws(kind, examples=20, seed=0)()


def test_states_do_not_mend_what_deltas_forgot():
    """Deltas alone heal first: an overtaken add that comes back is seen, though merges would do."""
    outcome = fuzz(planted_types.ApplyForgetsContext, examples=50, seed=0)
    assert outcome.complaint.startswith("replicas differ")


def test_a_delta_that_goes_on_changing_is_caught():
    """It was handed out, and is still the state of its writer."""
    with pytest.raises(AssertionError, match="a delta was changed after it was made"):
        laws(HandsOutItself, seed=0)()


def test_a_lost_write_needs_no_oracle():
    """A clock that does not follow others: the complaint says which write, after which others."""
    with pytest.raises(AssertionError, match="does not read its own write") as caught:
        laws(SlowClock, seed=0)()
    assert ".set('b') changes nothing, after b.set" in str(caught.value)
    laws(Title, examples=20, seed=0)()


def test_who_writes_has_heard_what_came_before_what_it_has():
    """The second of two adds overtakes the first; the remove of it has seen both.

    So it does not matter whether an add replaces the one it saw (`Labels`) or joins it (`Tags`).
    """

    def step(kind, replica, peer, operation=None):
        operations = () if operation is None else (operation,)
        return Step(kind, replica, peer, 0, operations, (False,) * len(operations))

    add, remove = Operation("add", ("x",)), Operation("remove", ("x",))
    steps = (
        step("write", 0, 1, add),
        step("exchange", 1, 0),
        step("write", 1, 0, add),
        step("overtake", 2, 1),
        step("write", 2, 0, remove),
    )
    for kind in (Labels, LabelsAsInTheTutorial, Tags):
        replay(kind, Plan(name_of(kind), 3, "mesh", (None,) * 3, steps))


def test_histories_of_deltas_are_exchanged_cut_short_and_caught_up():
    """What types with deltas get beyond states: answers in part, and what came before."""
    statistics = run_histories(Labels, seed=0, count=30)
    assert statistics["truncated"] > 0
    assert statistics["exchange"] > 0
    assert statistics["restart"] > 0
    assert not run_histories(planted_types.Choices, seed=0, count=10)["truncated"]


def test_an_oracle_may_allow_several_values():
    """`OneOf` equals each of them on either side of `==`, nothing else, and says which."""
    either = OneOf("a", None)
    assert "a" == either == "a"
    assert either == None  # noqa: E711
    assert either != "b"
    assert either == OneOf("a", None) != OneOf("a")
    assert repr(either) == "one of 'a', None"

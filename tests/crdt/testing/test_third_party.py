"""The kit on CRDTs that others wrote: what it says about them, defects and differences apart."""

from __future__ import annotations

import pytest

from crdt.testing import fuzz, laws
from tests.crdt.testing.third_party import YMap, YMapValues, py3_set
from tests.scale import rounds


def test_a_pycrdt_map_converges():
    """No defect found: laws, restarts, forks, loss and reordering; values and keys agree."""
    laws(YMapValues)()
    outcome = fuzz(YMapValues, examples=rounds(2000))
    assert not outcome.complaint, outcome.diagram()
    assert outcome.statistics["restart"] > 0
    assert outcome.statistics["rebirth"] > 0


def test_a_pycrdt_map_may_drop_a_put_that_no_delete_has_seen():
    """A difference, not a defect: Yjs promises convergence. LWWMap keeps such a put.

    Two replicas put one key concurrently; one of them deletes its own put. If its client id is the
    greater one, its deleted entry is the last of that key, and the other's put shows nowhere.
    """
    outcome = fuzz(YMap, examples=200, seed=0)
    assert "has to show" in outcome.complaint
    assert len(outcome.script.steps) <= 4
    assert ".delete(" in outcome.diagram()


@pytest.fixture
def py3():
    """The adapter, or a loud skip."""
    try:
        py3_set(copying=False)
    except ImportError:
        pytest.skip("python3-crdt is not here (tests/crdt/testing/third_party.py says how)")
    return py3_set


def test_python3_crdt_shares_lists_between_replicas(py3):
    """A defect of 1.0.3: `merge` keeps the other's tag lists themselves, not copies of them.

    Replicas of one process then see each other's later adds before any merge; a remove takes back
    an add that it never saw.
    """
    outcome = fuzz(py3(copying=False), seed=0)
    assert "has to show" in outcome.complaint
    assert len(outcome.script.steps) <= 6
    assert ".remove(" in outcome.diagram()


def test_python3_crdt_is_right_when_states_are_copied(py3):
    """Copied first, as over a wire, nothing is found: the mistake is the shared list alone."""
    outcome = fuzz(py3(copying=True), examples=rounds(2000))
    assert not outcome.complaint, outcome.diagram()


def test_python3_crdt_loses_its_removals_when_it_removes_from_an_empty_set(py3):
    """A second defect of 1.0.3, which the adapter steps around: the next read raises."""
    replica = py3(copying=True)("a")
    replica.inner.remove("x")
    replica.add("y")
    with pytest.raises(TypeError):
        _ = replica.value

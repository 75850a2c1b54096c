"""How a row reads that holds several entries: of several writers, or an add beside a remove."""

from __future__ import annotations

from itertools import permutations

import pytest

from crdt import Kernel, MaxRegister, MinRegister, ResettableCounter, RWSet
from tests.crdt.joining import joined


def test_a_set_whose_removes_win_counts_only_what_is_in_it():
    """`len`, `in`, `bool` and iteration say the same, though removes are kept as entries."""
    here, there = RWSet("a"), RWSet("b")
    for name in "xyz":
        here.add(name)
    there.merge(here)
    here.remove("x")
    there.add("x")
    there.remove("y")
    assert joined(here, there) == {"z"}
    for one, other in ((here.fork("c"), there), (there.fork("d"), here)):
        one.merge(other)
        assert len(one) == len(list(one)) == len(one.value) == 1
    here.remove("y")
    here.remove("z")
    assert len(here) == 0
    assert not here


def test_a_sum_that_was_read_is_read_anew_when_a_state_comes():
    """A counter keeps its sum for the next reader; entries that come as columns are in it, too."""
    here, there = Kernel("a"), Kernel("b")
    mine, theirs = (kernel.document("n", ResettableCounter) for kernel in (here, there))
    mine.increment(1)
    assert mine.value == 1
    there.document("other", RWSet).add("so that the numbers of their events differ")
    theirs.increment(5)
    here.merge(there)
    assert mine.value == 6


@pytest.mark.parametrize("kind", [MaxRegister, MinRegister], ids=lambda kind: kind.__name__)
def test_equal_numbers_of_two_types_are_one_value_everywhere(kind):
    """1 and 1.0 were written concurrently: all show the same of the two, whatever came first."""
    replicas = [kind(name) for name in "abc"]
    for replica, value in zip(replicas, (1, 1.0, 1), strict=True):
        replica.set(value)
    shown = {repr(joined(*order)) for order in permutations(replicas)}
    assert len(shown) == 1

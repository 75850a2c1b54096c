"""How a row reads that holds several entries: of several writers, or an add beside a remove."""

from __future__ import annotations

from itertools import permutations

import pytest

from crdt import MaxRegister, MinRegister, RWSet
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


@pytest.mark.parametrize("kind", [MaxRegister, MinRegister], ids=lambda kind: kind.__name__)
def test_equal_numbers_of_two_types_are_one_value_everywhere(kind):
    """1 and 1.0 were written concurrently: all show the same of the two, whatever came first."""
    replicas = [kind(name) for name in "abc"]
    for replica, value in zip(replicas, (1, 1.0, 1), strict=True):
        replica.set(value)
    shown = {repr(joined(*order)) for order in permutations(replicas)}
    assert len(shown) == 1

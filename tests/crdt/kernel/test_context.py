"""Dots, version vectors, causal contexts: what was seen, with and without gaps."""

import random

import pytest

from crdt import CausalContext, Dot, VersionVector
from crdt.errors import InvariantError, require
from tests.scale import seeds


def test_vectors_and_contexts_are_values_with_an_order():
    """Comparison, join, meet, membership and text of what was seen."""
    one, other = VersionVector({"a": 2, "b": 1}), VersionVector({"a": 1, "c": 0})
    assert other < one
    assert one > other
    assert not one <= other
    assert one | {"c": 3} == {"a": 2, "b": 1, "c": 3}
    assert one & {"a": 1, "c": 9} == {"a": 1}
    assert len({one, VersionVector({"b": 1, "a": 2})}) == 1
    assert "c" not in other
    assert repr(one) == "VersionVector(a:2, b:1)"
    context = CausalContext({"a": 2}, [("a", 4, 9), ("b", 3, 3)])
    assert Dot("a", 7) in context
    assert Dot("a", 3) not in context
    assert list(context.missing("a", 1, 12)) == [(3, 3), (10, 12)]
    assert list(context.missing("b", 1, 3)) == [(1, 2)]
    wider = context.copy()
    wider.update(CausalContext({"b": 2}, [("a", 6, 11), ("a", 3, 3), ("a", 20, 30), ("a", 13, 13)]))
    wider._check()
    assert context <= wider
    assert not wider <= context
    assert context != wider
    assert context != "a context"
    assert wider.vector == {"a": 11, "b": 3}
    assert repr(wider) == "CausalContext(VersionVector(a:11, b:3), cloud=[a:13-13, a:20-30])"
    assert str(Dot("a", 7)) == "a:7"
    with pytest.raises(InvariantError):
        require(condition=False, text="a promise")


def test_a_copy_knows_how_far_its_cloud_reaches():
    """The last seq of an origin is the highest that was seen, in a copy and after late arrivals."""
    context = CausalContext({"a": 2}, [("a", 20, 30), ("a", 9, 9)])
    twin = context.copy()
    assert context.last_seq("a") == twin.last_seq("a") == 30
    twin.add_range("a", 12, 13)
    assert twin.last_seq("a") == 30
    assert context.last_seq("b") == 0


def test_ranges_beyond_the_vector_merge_in_any_order():
    """Spans and single dots in random order always end in the same context."""
    for seed in seeds(20):
        dice = random.Random(seed)
        ranges = []
        for _ in range(30):
            first = dice.randrange(1, 80)
            ranges.append(("a", first, first + dice.choice((0, 0, 1, 5, 20))))
        context = CausalContext()
        for covered in ranges:
            context.add_range(*covered)
            context._check()
        seen = {seq for _, first, last in ranges for seq in range(first, last + 1)}
        assert {seq for seq in range(120) if context.covers("a", seq) and seq} == seen
        assert context == CausalContext({}, sorted(ranges))
        assert context.last_seq("a") == max(seen)

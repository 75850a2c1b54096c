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


@pytest.mark.parametrize("seed", seeds(5), ids=lambda seed: "today" if seed > 10**6 else str(seed))
def test_vectors_that_share_a_base_say_what_plain_ones_say(seed):
    """Whatever they were made of: order, join, meet, differences, size, sum, hash, text."""
    dice = random.Random(seed)
    former = {f"old{number}": dice.randint(1, 9) for number in range(dice.choice([0, 5, 700]))}
    known = [(VersionVector(former), dict(former))]
    names = [*former][:20] + [f"new{number}" for number in range(90)]
    for _ in range(150):
        vector, plain = dice.choice(known)
        changes = {dice.choice(names): dice.randint(0, 12) for _ in range(dice.randint(0, 20))}
        changed = {name: seq for name, seq in {**plain, **changes}.items() if seq}
        known.append((vector.replaced(changes), changed))
        one, other = dice.choice(known), dice.choice(known)
        above = {name: seq for name, seq in one[1].items() if seq > other[1].get(name, 0)}
        assert one[0].above(other[0]) == one[0].above(other[1]) == above
        differing = {n: s for n, s in one[1].items() if s != other[1].get(n, 0)}
        assert one[0].changed(other[0]) == one[0].changed(other[1]) == differing
        assert (one[0] <= other[0]) == (one[0] <= other[1]) == (not above)
        assert (one[0] >= other[0]) == (one[0] >= other[1]) == (other[0] <= one[0])
        assert (one[0] == other[0]) == (one[0] == other[1]) == (one[1] == other[1])
        join = {n: max(one[1].get(n, 0), other[1].get(n, 0)) for n in {*one[1], *other[1]}}
        assert one[0] | other[0] == one[0] | other[1] == join
        meet = {n: min(s, other[1][n]) for n, s in one[1].items() if n in other[1]}
        assert one[0] & other[0] == meet
        assert one[0].events == sum(one[1].values())
        assert (len(one[0]), dict(one[0]), bool(one[0])) == (len(one[1]), one[1], bool(one[1]))
        assert one[0].digest == VersionVector(one[1]).digest
        assert (one[0].digest == other[0].digest) == (one[1] == other[1])
        gone = dice.sample(names, 10)
        rest = VersionVector({n: s for n, s in one[1].items() if n not in gone})
        assert one[0].digest_without(gone) == rest.digest


def test_a_context_shows_vectors_that_are_not_changed_by_what_comes_later():
    """Each look is a value; what rose, was taken back, or closed a gap shows in the next one."""
    context = CausalContext({"a": 2})
    first = context.vector
    context.add_range("a", 3, 5)
    context.add_range("b", 2, 2)
    second = context.vector
    context.add_range("b", 1, 1)
    context.take_back("a", 4)
    third = context.vector
    context.take_back("a", 0)
    twin = context.copy()
    context.add(Dot("c", 1))
    assert [dict(seen) for seen in (first, second, third, context.vector, twin.vector)] == [
        {"a": 2},
        {"a": 5},
        {"a": 4, "b": 2},
        {"b": 2, "c": 1},
        {"b": 2},
    ]
    context._check()

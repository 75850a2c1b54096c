"""What messages are made of: parts that are checked before they are believed."""

import pytest

from crdt import DecodeError
from crdt.kernel.wire import (
    Span,
    naturals,
    pack_ranges,
    pack_span,
    pick,
    unpack_ranges,
    unpack_span,
    unpack_vector,
)

PATH = ("tags", "ORSet")
SPAN = Span("a", 3, 20, [4, 5, 9], [PATH] * 3, ["x", "y", "z"], [0] * 3, [None] * 3)


def test_ranges_and_vectors_come_back():
    """Ranges over a table of names; a vector as pairs."""
    names = {}
    ranges = (("b", 1, 3), ("a", 7, 7))
    assert unpack_ranges(pack_ranges(ranges, names), list(names)) == ranges
    assert unpack_vector(["a", 3, "b", 1]) == {"a": 3, "b": 1}


def test_a_span_comes_back_with_its_gaps():
    """Columns over tables of names and paths; seqs as run lengths."""
    names, paths = {}, {}
    packed = pack_span(SPAN, names, paths)
    assert unpack_span(packed, list(names), list(paths)) == SPAN


@pytest.mark.parametrize("place", range(8))
def test_a_span_with_a_part_missing_is_refused(place):
    """Each of its columns in turn is none of what it has to be."""
    packed = pack_span(SPAN, {}, {})
    packed[place] = None
    with pytest.raises(DecodeError):
        unpack_span(packed, ["a"], [PATH])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: naturals([1, True]),
        lambda: naturals([-1]),
        lambda: pick(["a"], 1),
        lambda: pick(["a"], True),
        lambda: unpack_ranges([0, 1], ["a"]),
        lambda: unpack_ranges([0, 0, 1], ["a"]),
        lambda: unpack_vector(["a"]),
        lambda: unpack_vector(["a", 1, "a", 2]),
    ],
)
def test_a_number_is_not_believed(wrong):
    """True is not 1, and an index lies inside of its table."""
    with pytest.raises(DecodeError):
        wrong()

"""The table of types: tags and paths on the wire, and what an entry of a kind may be."""

import pytest

from crdt import DecodeError
from crdt.kernel.kind import KINDS, LEAF, NAMES, kind_of, pack_path, unpack_path


def test_every_type_has_a_tag_of_its_own():
    """Tags are for ever: a path written today is read by its tag."""
    assert len(NAMES) == len(KINDS)
    assert all(KINDS[name].tag == tag for tag, name in NAMES.items())


@pytest.mark.parametrize(
    "path", [("n", "ORSet"), ("n", "ORMap", "m", "ORMap", "k", "LWWMap"), ("n", "BoundedCounter:3")]
)
def test_a_path_comes_back(path):
    """Names as they are, types as tags, a bound beside its tag."""
    assert unpack_path(pack_path(path)) == path
    assert kind_of(path).name == path[-1].partition(":")[0]


@pytest.mark.parametrize(
    "packed", [[], ["n"], ["n", 0], ["n", 4], [1, 7], ["n", 7, "m", 7], ["n", 15, "m", [4, 1]], "n"]
)
def test_what_is_not_a_path_is_refused(packed):
    """Unknown tags, children of what has none, a bound inside of a map."""
    with pytest.raises(DecodeError):
        unpack_path(packed)


@pytest.mark.parametrize(
    ("kind", "step", "stamp", "value"),
    [
        ("GCounter", "b", 0, 1),
        ("GCounter", "a", 0, -1),
        ("ORSet", "x", 1, None),
        ("ORSet", "x", 0, 1),
        ("LWWRegister", "x", 1, 1),
        ("LWWRegister", LEAF, -1, 1),
        ("MaxRegister", LEAF, 0, float("nan")),
    ],
)
def test_an_entry_that_its_kind_does_not_know_is_refused_alone_and_in_columns(
    kind, step, stamp, value
):
    """Both ways of checking say the same."""
    with pytest.raises(DecodeError):
        KINDS[kind].admit_entry("a", step, stamp, value)
    with pytest.raises(DecodeError):
        KINDS[kind].admit("a", [step], [stamp], [value])

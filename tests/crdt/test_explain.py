"""Who wrote what a document shows, and what became of the other writes."""

from __future__ import annotations

import pytest

from crdt import (
    GCounter,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MinRegister,
    ORMap,
    ORSet,
    RWSet,
)
from crdt.explanation import explain


def two(name, kind, write_one, write_other):
    """What two replicas wrote at once, as seen by the one that took in the other's."""
    one, other = Kernel("one"), Kernel("two")
    write_one(one.document(name, kind))
    write_other(other.document(name, kind))
    one.merge(other)
    return one


def fates(kernel, name):
    return [
        (line.place, line.value, str(line.dot), line.fate, str(line.by) if line.by else None)
        for line in explain(kernel, name)
    ]


@pytest.mark.parametrize(
    ("kind", "writes", "told", "later"),
    [
        (LWWRegister, ("a", "b"), [("b", "two:1", None), ("a", "one:1", "two:1")], "c"),
        (MaxRegister, (2, 1), [(2, "one:1", None), (1, "two:1", "one:1")], 3),
        (MinRegister, (2, 1), [(1, "two:1", None), (2, "one:1", "two:1")], 0),
    ],
)
def test_a_write_that_lost_is_told_beside_the_one_it_lost_to(kind, writes, told, later):
    """Both are alive until somebody who saw them writes again; then both were replaced."""
    kernel = two("r", kind, *(lambda r, value=value: r.set(value) for value in writes))
    shown, lost = told
    assert fates(kernel, "r") == [
        ("", *shown[:2], "shown", None),
        ("", *lost[:2], "lost", lost[2]),
    ]
    kernel.document("r", kind).set(later)
    written, *replaced = explain(kernel, "r")
    assert (written.value, written.fate) == (later, "shown")
    assert {(str(line.dot), line.fate) for line in replaced} == {
        ("one:1", "replaced"),
        ("two:1", "replaced"),
    }


def test_a_remove_outranks_an_add_where_removes_win_and_two_removes_agree():
    """Of an RWSet: the add lost to the earliest remove; a second remove lost nothing."""
    kernel = two("s", RWSet, lambda s: s.add("x"), lambda s: s.remove("x"))
    third = Kernel("three")
    third.document("s", RWSet).remove("x")
    kernel.merge(third)
    assert [(place, fate, by) for place, _, _, fate, by in fates(kernel, "s")] == [
        ("x", "shown", None),
        ("x", "shown", None),
        ("x", "lost", "three:1"),
    ]
    both = two("s", RWSet, lambda s: s.add("y"), lambda s: s.add("y"))
    assert {fate for _, _, _, fate, _ in fates(both, "s")} == {"shown"}


def test_where_all_writes_count_none_is_lost():
    """Concurrent adds and increments are all shown, under their places."""
    kernel = two("n", GCounter, lambda n: n.increment(2), lambda n: n.increment(3))
    assert [(value, fate) for _, value, _, fate, _ in fates(kernel, "n")] == [
        (2, "shown"),
        (3, "shown"),
    ]
    kernel = two("s", ORSet, lambda s: s.add(("a", 1)), lambda s: s.add(("a", 1)))
    assert [(place, fate) for place, _, _, fate, _ in fates(kernel, "s")] == [
        ("('a', 1)", "shown"),
        ("('a', 1)", "shown"),
    ]


def test_what_was_replaced_is_told_as_long_as_its_record_is_kept():
    """By whom, and where: inside of nested maps too; other documents are left out."""
    kernel = Kernel("a", clock=lambda: 1_700_000_000_000)
    tags = kernel.document("cart", ORMap).child("tags", LWWMap)
    kernel.document("other", LWWRegister).set(1)
    kernel.document("other", LWWRegister).set(2)
    tags.put("size", "S")
    tags.put("size", "M")
    tags.delete("size")
    tags.put("colour", "red")
    lines = explain(kernel, "cart")
    assert [(line.type, line.place, line.fate) for line in lines if line.fate == "replaced"] == [
        ("LWWMap", "tags/size", "replaced"),
        ("LWWMap", "tags/size", "replaced"),
    ]
    assert [str(line.by) for line in lines if line.by] == ["a:5", "a:4"]
    tags.kernel.drop_records()
    kernel.document("cart", ORMap).child("note", LWWRegister).set("x")
    assert {line.fate for line in explain(kernel, "cart")} == {"shown"}
    assert explain(kernel, "nothing") == []


def test_the_time_of_a_write_is_that_of_its_stamp():
    """Types without stamps do not know when."""
    kernel = Kernel("a", clock=lambda: 1_700_000_000_000)
    kernel.document("r", LWWRegister).set(1)
    kernel.document("r", ORSet).add(1)
    assert [(line.type, line.written_ms) for line in explain(kernel, "r")] == [
        ("LWWRegister", 1_700_000_000_000),
        ("ORSet", None),
    ]

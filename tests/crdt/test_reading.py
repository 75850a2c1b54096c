"""Views read like the plain data that they hold, and plain data can be written into them."""

import random
from collections.abc import Hashable
from contextlib import suppress

import pytest

from crdt import (
    BoundedCounter,
    CRDTError,
    EWFlag,
    GCounter,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    SharedKernelError,
)
from crdt.kernel.kind import KINDS, TYPES
from crdt.testing.operation import MENUS, draw

COUNTERS = (GCounter, PNCounter, ResettableCounter, BoundedCounter)


@pytest.mark.parametrize("kind", COUNTERS, ids=lambda kind: kind.__name__)
def test_a_counter_reads_like_a_number(kind):
    """Compared, added and converted like the int it shows; mutable, so without a hash."""
    a, b = kind("a"), kind("b")
    assert not a
    a.increment(3)
    b.increment(3)
    assert a
    assert a == b == 3 == a
    assert a != 4
    assert a != "3"
    assert 2 < a <= b < 3.5
    assert 4 > a >= b > 2
    assert (a + 1, 1 + a, a - b, 5 - a, sum([a, b])) == (4, 4, 0, 2, 6)
    assert (int(a), float(a), "xyzw"[a]) == (3, 3.0, "w")
    assert not isinstance(a, Hashable)
    for wrong in (lambda: a < "x", lambda: a + "x", lambda: "x" - a, lambda: hash(a)):
        with pytest.raises(TypeError):
            wrong()


def test_ormaps_compare_by_their_values():
    """Two replicas of one map are equal, and equal to the plain data that they show."""
    a = ORMap("a")
    a["t", ORSet].add(1)
    a["r", LWWRegister].set([1])
    b = a.fork("b")
    assert a == b
    assert a == {"t": {1}, "r": [1]}
    b["r", LWWRegister].set(2)
    assert a != b
    assert a != 5
    assert not isinstance(a, Hashable)


def test_what_is_no_type_of_this_package_is_refused_by_name():
    """As a child, as a document, in a removal, in a question; nothing is created by asking."""
    kernel, the_map = Kernel("k"), ORMap("m")
    for wrong in (int, 5, "ORSet", None):
        with pytest.raises(InvalidValueError, match="type of this package"):
            kernel.document("d", wrong)
        with pytest.raises(InvalidValueError, match="type of this package"):
            the_map.child("c", wrong)
    with pytest.raises(InvalidValueError, match="type of this package"):
        the_map.remove("c", "ORSet")
    for absent in (([], ORSet), ("c", 5), [], 5, ("c", int)):
        assert absent not in the_map
    assert not the_map.remove("c", int)
    assert (list(kernel.documents()), len(the_map)) == ([], 0)


def test_a_long_value_is_cut_in_its_repr():
    """A set of ten thousand is named in a line, everywhere it is shown; the value itself is not."""
    tags = ORSet("a")
    with tags.batch():
        for number in range(10_000):
            tags.add(number)
    whole = len(repr(tags.value))
    for shown in (repr(tags), tags.__rich__(), tags._repr_html_(), tags.debug().partition("\n")[0]):
        assert len(shown) < 700
        assert f"{whole} characters" in shown
    assert len(tags.value) == 10_000


def written(name, seed):
    """A replica of a type after some random operations."""
    view, dice = TYPES[name]("a"), random.Random(seed)
    for _ in range(12):
        with suppress(CRDTError):  # such as a decrement without rights
            draw(name, dice, 6)[0].perform(view)
    return view


def shown(view):
    """Its value; of an ORMap without the children that are alive and have nothing to show."""
    return pruned(view.typed_value) if isinstance(view, ORMap) else view.value


def pruned(value):
    """A map's value without empty, unset and false children, to any depth."""
    items = [(key, pruned(v) if key.endswith(":ORMap") else v) for key, v in value.items()]
    return {key: item for key, item in items if item not in (None, False, {}, (), frozenset())}


@pytest.mark.parametrize("name", sorted({*MENUS, "ORMap"} & set(KINDS)))
def test_a_value_is_imported_as_new_writes_in_one_delta(name):
    """What a view shows can be written into another document, whatever its type."""
    for seed in range(5):
        view = written(name, seed)
        alone = TYPES[name]("b")
        data = view.typed_value if isinstance(view, ORMap) else view.value
        delta = alone.import_value(data)
        assert shown(alone) == shown(view)
        assert len(delta.runs) <= 1
        reader = TYPES[name]("c")
        reader.apply(delta)
        assert reader.canonical_bytes() == alone.canonical_bytes()
        kernel = Kernel("k")
        shared = kernel.document("doc", TYPES[name])
        with pytest.raises(SharedKernelError, match="import_value"):
            shared.merge(view)
        shared.import_value(data)
        assert shown(shared) == shown(view)
        kernel._check()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_value_of_another_shape_is_not_imported(name):
    """A typed refusal, rolled back whole: nothing changed, no dot spent."""
    view, before = TYPES[name]("a"), TYPES[name]("a").canonical_bytes()
    for wrong in (object(), 1.5j, {1: object()}, [object()], {"c:ORSet": object()}):
        with pytest.raises((InvalidValueError, ValueError)) as refused:
            view.import_value(wrong)
        assert type(refused.value).__module__ == "crdt.errors"
        assert view.canonical_bytes() == before
        view.kernel._check()


def test_an_import_is_whole_or_not_at_all():
    """A bad element at the end takes the good ones before it back; conflicts come along."""
    tags, the_map, flag = ORSet("s"), ORMap("m"), EWFlag("f")
    for view, wrong in (
        (tags, [1, 2, []]),
        (tags, "text"),
        (LWWMap("l"), {"a": 1, "b": object()}),
        (the_map, {"a:ORSet": {1}, "b:NoType": 1}),
        (the_map, {"a": 1}),
        (flag, 1),
        (MVRegister("v"), [1]),
    ):
        with pytest.raises(InvalidValueError):
            view.import_value(wrong)
        assert not view.kernel.vector
    values = MVRegister("v")
    values.import_value((1, 2))
    assert values.value == (1, 2)
    assert values.conflicted
    flag.import_value(value=True)
    assert not flag.import_value(value=True)
    flag.import_value(value=False)
    assert not flag

"""Operators: in place they write or are refused, elsewhere they compute with what is shown."""

import json
import math
import operator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest

from crdt import (
    BoundedCounter,
    CRDTError,
    EWFlag,
    GCounter,
    GSet,
    InsufficientRightsError,
    InvalidAmountError,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MVRegister,
    OperatorRefusedError,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    RWSet,
    UnknownChildError,
)
from crdt.kernel.kind import KINDS, TYPES

COUNTERS = (GCounter, PNCounter, ResettableCounter, BoundedCounter)
SETS = (GSet, ORSet, RWSet)
IN_PLACE = (
    "iadd", "isub", "imul", "imatmul", "itruediv", "ifloordiv", "imod", "ipow", "ilshift",
    "irshift", "iand", "ixor", "ior",
)  # fmt: skip
MEANT = {
    **{key: {"iadd", "isub"} for key in ("PNCounter", "ResettableCounter", "BoundedCounter")},
    **{key: {"ior", "isub", "iand", "ixor"} for key in ("ORSet", "RWSet")},
    "GCounter": {"iadd"},
    "GSet": {"ior"},
    "LWWMap": {"ior"},
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_no_operator_in_place_puts_a_plain_value_in_the_views_place(name):
    """Each of the thirteen, on each type: the view is given back, or a typed error says why not."""
    operand = {"LWWMap": {}}.get(name, set() if name in {"GSet", "ORSet", "RWSet"} else 0)
    for action in IN_PLACE:
        view = TYPES[name]("a")
        in_place = getattr(operator, action)
        if action in MEANT.get(name, ()):
            assert in_place(view, operand) is view
        else:
            with pytest.raises(OperatorRefusedError, match="nothing was changed") as refused:
                in_place(view, operand)
            assert isinstance(refused.value, TypeError)
            assert refused.value.hint in str(refused.value)
            assert refused.value.type_name == name
        assert not view.kernel.vector


@pytest.mark.parametrize("kind", COUNTERS, ids=lambda kind: kind.__name__)
def test_a_counter_counts_by_its_operators(kind):
    """`+=` writes by whatever name it is reached; the write travels like any other."""
    counter = alias = kind("a")
    counter += 3
    holder = SimpleNamespace(hits=counter)
    holder.hits += alias
    listed = [counter]
    listed[0] += 1
    assert counter is alias is holder.hits is listed[0]
    assert alias.value == 7
    if kind is not GCounter:
        counter -= 2
        assert alias.value == 5
    other = kind("b")
    other.merge(alias)
    assert other == counter
    for wrong in (True, 1.0, "1", None, Decimal(1)):
        before = counter.kernel.vector
        with pytest.raises(InvalidAmountError):
            counter += wrong
        assert counter.kernel.vector == before


def test_a_bounded_counter_refuses_by_its_operator_what_it_refuses_by_name():
    """`-=` beyond the local rights, and amounts of the wrong sign."""
    seats = BoundedCounter("a", minimum=2)
    seats += 3
    with pytest.raises(InsufficientRightsError):
        seats -= 4
    with pytest.raises(InvalidAmountError):
        seats += -1
    seats -= 3
    assert seats == 2


def test_a_counter_computes_and_prints_like_its_number():
    """Every arithmetic operator, both ways, with every kind of number; formats; conversions."""
    c, n = PNCounter("a"), 7
    c += n
    for each in (
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
        operator.mod, operator.pow, divmod, operator.lt, operator.le, operator.gt, operator.ge,
        operator.eq, operator.ne,
    ):  # fmt: skip
        for other in (2, 2.5, True, Decimal(3), Fraction(5, 2), GCounter("z") + 3):
            assert each(c, other) == each(n, other)
            assert each(other, c) == each(other, n)
            assert type(each(c, other)) is type(each(n, other))
    assert (-c, +c, ~c, abs(c), round(c), round(c, -1)) == (-7, 7, -8, 7, 7, 10)
    assert (int(c), float(c), complex(c), math.floor(c), math.ceil(c), math.trunc(c)) == (
        7, 7.0, 7 + 0j, 7, 7, 7,
    )  # fmt: skip
    assert (f"{c:>5}", f"{c:+.1f}", f"{c}", str(c), "%03d" % c, repr(c)) == (  # noqa: UP031  # it is tried
        "    7", "+7.0", "7", "7", "007", "PNCounter(7)",
    )  # fmt: skip
    assert ("ab" * c, [0] * c, list(range(c)), sum([c, c])) == (
        "ab" * 7,
        [0] * 7,
        list(range(7)),
        14,
    )
    for wrong in (lambda: c + "x", lambda: [1, *c], lambda: c < "x", lambda: c / 0):
        with pytest.raises((TypeError, ZeroDivisionError)):
            wrong()


@pytest.mark.parametrize("kind", [ORSet, RWSet], ids=lambda kind: kind.__name__)
def test_a_set_changes_by_its_operators(kind):
    """The four operators in place do what the built-in set does, and each is one delta."""
    view, model, heard = kind("a"), set(), []
    view.kernel.on_delta = lambda delta, _: heard.append(delta)
    alias = view
    for action, operand in (
        ("ior", {1, 2, 3, "x"}), ("isub", {2, "absent"}), ("ixor", {3, 4}), ("iand", {1, 4, "y"}),
        ("ior", {"k": 0, "l": 0}.keys()), ("ior", GSet("g")), ("isub", {}.keys()),
    ):  # fmt: skip
        view = getattr(operator, action)(view, operand)
        model = getattr(operator, action)(model, set(operand))
        assert view is alias
        assert view == model
    assert len(heard) == 5
    view &= view
    assert view == model
    view -= view
    assert view == set()
    view |= {"k"}
    view ^= view
    assert not view
    view.kernel._check()


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
def test_a_set_takes_from_an_operator_all_or_nothing(kind):
    """One bad element refuses the whole, also inside of a batch that goes on; lists are no sets."""
    view = kind("a")
    with view.batch():
        view.add("before")
        for wrong in ({1, frozenset()}, {2, math.nan}, [3], "text", 4, None):
            with pytest.raises(InvalidValueError):
                view |= wrong
        with pytest.raises(InvalidValueError):
            view.update([5], [6, []])
        with pytest.raises(InvalidValueError):
            view.update(7)
    assert view == {"before"}
    view.update("ab", [1], {"k": 2})
    assert view == {"before", "a", "b", 1, "k"}


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
def test_set_algebra_and_comparison_with_any_set(kind):
    """With built-in sets, frozen ones, views of dicts, and other views, from both sides."""
    view, model = kind("a"), {1, 2, "x"}
    view |= model
    same, other = ORSet("b"), GSet("c")
    same |= model
    other |= {2, 3}
    for operand in (set(), {2, 3}, frozenset(model), {"x": 1}.keys(), same, other):
        plain = set(operand)
        for each in (
            operator.or_, operator.and_, operator.sub, operator.xor, operator.eq, operator.ne,
            operator.le, operator.lt, operator.ge, operator.gt,
        ):  # fmt: skip
            assert each(view, operand) == each(model, plain)
            assert each(operand, view) == each(plain, model)
        for method in ("union", "intersection", "difference", "symmetric_difference"):
            assert getattr(view, method)(operand) == getattr(model, method)(plain)
        for method in ("issubset", "issuperset", "isdisjoint"):
            assert getattr(view, method)(operand) == getattr(model, method)(plain)
    for wrong in (lambda: view | [1], lambda: [1] | view, lambda: view <= [1], lambda: view - "x"):
        with pytest.raises(TypeError):
            wrong()
    assert view == model


def test_elements_that_python_confuses_are_told_apart_by_writes_in_place():
    """1 and True are two elements, as for `add` and `remove`."""
    view = ORSet("a")
    view |= {1}
    view |= {True}
    assert len(view) == 2
    view -= {1}
    assert list(view) == [True]
    view &= {1}
    assert not len(view)


def test_a_set_pops_and_discards():
    """`discard` is `remove`; `pop` takes any element, and says so when there is none."""
    view = ORSet("a")
    view |= {1, 2}
    view.discard(1)
    view.discard("absent")
    assert view.pop() == 2
    with pytest.raises(KeyError):
        view.pop()


def test_an_lwwmap_is_a_mutable_mapping():
    """Assignment, deletion, update, pop, setdefault, `|` and `|=`, as of a dict."""
    view, model, heard = LWWMap("a"), {}, []
    view.kernel.on_delta = lambda delta, _: heard.append(delta)
    alias = view
    for each in (view, model):
        each["n"] = 1
        each["n"] += 1
        each["tags"] = ["x"]
        each["tags"] += ["y"]
        assert each.setdefault("n", 9) == 2
        assert each.setdefault("new", 9) == 9
        assert each.pop("new") == 9
        assert each.pop("absent", None) is None
        each.update({"a": 1}, b=2)
        each.update([("c", 3)])
        del each["a"]
    view |= {"d": 4, 5: "five"}
    model |= {"d": 4, 5: "five"}
    assert view is alias
    assert view == model
    assert view | {"z": 0} == model | {"z": 0}
    assert {"z": 0, "b": 0} | view == {"z": 0, "b": 0} | model
    assert view | view == model
    count = len(heard)
    view.update(x=1, y=2)
    assert len(heard) == count + 1
    key, value = view.popitem()
    assert key not in view
    assert value is not None
    with pytest.raises(KeyError):
        del view["absent"]
    with pytest.raises(KeyError):
        view.pop("absent")
    view.clear()
    assert view == {}
    with pytest.raises(KeyError):
        view.popitem()


def test_an_lwwmap_is_updated_whole_or_not_at_all():
    """One bad item refuses all of them, inside of a batch too."""
    view = LWWMap("a")
    with view.batch():
        view["before"] = 0
        for wrong in ({"a": 1, "b": object()}, {"a": 1, (): {2}}, [("a", 1), 5], 7, [("a",)]):
            with pytest.raises(InvalidValueError):
                view.update(wrong)
            with pytest.raises(InvalidValueError):
                view |= wrong
    assert view == {"before": 0}


def test_children_of_an_ormap_write_by_their_operators():
    """By (name, type), by name and by "name:Type", to any depth; only the child comes back."""
    m = ORMap("a")
    m["hits", PNCounter] += 2
    m["hits"] += 1
    m["hits:PNCounter"] -= 1
    m["tags", ORSet] |= {"x", "y"}
    m["tags"] -= {"y"}
    m["conf", LWWMap] |= {"a": 1}
    m["conf"]["b"] = 2
    m["inner", ORMap]["n", GCounter] += 5
    m["inner"]["n"] += 1
    assert m.value == {
        "hits": 2, "tags": {"x"}, "conf": {"a": 1, "b": 2}, "inner": {"n": 6},
    }  # fmt: skip
    before = m.canonical_bytes()
    for key in ("absent", ("tags", GSet)):
        with pytest.raises((UnknownChildError, OperatorRefusedError)):
            m[key] -= {1}
    for key, value, advice in (
        ("k", 1, "the_map['k', PNCounter].increment(1)"),
        ("k", "v", "the_map['k', LWWRegister].set('v')"),
        ("k", {1}, "the_map['k', ORSet].update({1})"),
        ("k", {"a": 1}, "the_map['k', LWWMap].update({'a': 1})"),
        ("tags", {1}, "the_map['tags', ORSet]"),
        (("tags", ORSet), {1}, "the_map['tags', ORSet]"),
        ("hits", GCounter("other"), "the_map['hits', GCounter].import_value"),
        ("hits", m["tags"], "no view takes a child's place"),
        ("hits", ORMap("b").child("hits", PNCounter), "no view takes"),
    ):
        with pytest.raises(OperatorRefusedError) as refused:
            m[key] = value
        assert advice in str(refused.value)
    assert m.canonical_bytes() == before


def test_the_keys_of_an_ormaps_value_lead_to_its_children_and_are_json():
    """A name where it says enough, "name:Type" where two share it, and where a name looks so."""
    m = ORMap("a")
    m["n", PNCounter] += 1
    m["n", ORSet] |= {"x"}
    m["only", LWWRegister].set([1])
    m["only:ORSet", GCounter] += 3
    m["x:y", ORMap]["deep", MVRegister].set(1)
    assert m.value == {
        "n:PNCounter": 1, "n:ORSet": {"x"}, "only": [1], "only:ORSet:GCounter": 3,
        "x:y": {"deep": (1,)},
    }  # fmt: skip
    assert json.loads(json.dumps(m.value, default=list))["n:ORSet"] == ["x"]
    for key, value in m.value.items():
        assert key in m
        assert m[key] == value
    for key, value in m.typed_value.items():
        assert key in m
        assert m[key] == value or isinstance(m[key], ORMap)
    with pytest.raises(KeyError, match="ORSet and PNCounter"):
        m["n"]
    with pytest.raises(KeyError, match="ORSet and PNCounter"):
        m.get("n")
    assert m.get("absent") is None
    assert m.get("absent:ORSet", 5) == 5
    assert "absent:ORSet" not in m
    again = ORMap("b")
    again.import_value(m.typed_value)
    assert again.typed_value == m.typed_value
    again.import_value({"only": [2]})
    assert again["only"] == [2]
    with pytest.raises(InvalidValueError, match="typed_value"):
        again.import_value({"fresh": 1})
    assert m.pop("n:ORSet") == {"x"}
    assert m.pop("n") == 1
    assert m.pop("n", None) is None
    for ask in (lambda: m.pop("n"), lambda: m["n"], lambda: m.__delitem__("n")):
        with pytest.raises(UnknownChildError):
            ask()
    assert m["only:ORSet"] == 3
    del m["only:ORSet"]
    assert set(m.value) == {"only", "x:y"}


def test_two_children_of_which_one_is_named_like_the_other_with_its_type():
    """("t", ORSet) beside ("t:ORSet", PNCounter): two keys, each leads to its own child."""
    m = ORMap("a")
    m["t:ORSet", PNCounter] += 4
    m["t", ORSet] |= {1}
    m["t", RWSet] |= {2}
    assert m.value == {"t:ORSet": {1}, "t:RWSet": {2}, "t:ORSet:PNCounter": 4}
    assert [m[key].value for key in m.value] == list(m.value.values())


def shown():
    """A view of every kind that shows something, and what it shows."""
    views = {name: TYPES[name]("a") for name in KINDS}
    for name in ("GCounter", "PNCounter", "ResettableCounter", "BoundedCounter"):
        views[name].increment(3)
    for name in ("GSet", "ORSet", "RWSet"):
        views[name].add(3)
    for name in ("LWWRegister", "MVRegister", "MaxRegister", "MinRegister"):
        views[name].set(3)
    for name in ("EWFlag", "DWFlag"):
        views[name].enable()
    views["LWWMap"]["k"] = 3
    views["ORMap"]["k", PNCounter] += 3
    return list(views.values())


def test_one_rule_of_equality_for_all_types():
    """A view equals what its value equals, plain or view, from both sides; it has no hash."""
    views = shown()
    for view in views:
        assert view == view.value
        assert view.value == view
        assert view != object()
        assert view != "3"
        with pytest.raises(TypeError):
            hash(view)
        for other in views:
            assert (view == other) is (view.value == other.value)
            assert (view != other) is (view.value != other.value)
    assert PNCounter("a") == LWWRegister("b").fork("c").kernel.document("d", GCounter)
    assert LWWMap("a") == ORMap("b") == {}
    assert EWFlag("a") == False  # noqa: E712  # the rule is about `==`
    assert MVRegister("a") == ()


def test_formats_are_those_of_the_value():
    """With a format, any view prints as its value does; without one as itself."""
    title = LWWRegister("a")
    title.set("draft")
    assert f"{title:>7}" == "  draft"
    assert f"{title}" == "LWWRegister('draft')"
    with pytest.raises(TypeError):
        f"{ORSet('a'):>7}"


def test_operators_of_documents_that_share_a_kernel():
    """They write through the shared kernel, join its batch, and are rolled back with it."""
    kernel = Kernel("k")
    hits, tags, conf = (
        kernel.document("h", PNCounter), kernel.document("t", ORSet), kernel.document("c", LWWMap)
    )  # fmt: skip
    with kernel.batch() as batch:
        hits += 2
        tags |= {"x"}
        conf |= {"k": 1}
    assert len(batch.delta.runs) == 1
    with pytest.raises(ZeroDivisionError), kernel.batch():  # noqa: PT012  # a batch
        hits += 2
        tags -= {"x"}
        conf |= {"k": 2}
        1 / 0  # noqa: B018  # the error itself is the point
    assert (hits, tags, conf) == (2, {"x"}, {"k": 1})
    kernel._check()

    def read_only():
        raise CRDTError("read only")

    kernel.before_write = read_only
    for write in (lambda: operator.iadd(hits, 1), lambda: operator.ior(tags, {"y"})):
        with pytest.raises(CRDTError, match="read only"):
            write()
    assert (hits, tags) == (2, {"x"})

"""`seen=`: every mutator of every type takes back no more than its read context covers."""

import inspect

import pytest

import crdt
from crdt import BoundedCounter, InvalidValueError, Kernel, LWWRegister, MaxRegister, MVRegister
from crdt.kernel.kind import KINDS, TYPES
from crdt.testing.operation import MENUS

ARGUMENTS = {
    "add": ("x",), "remove": ("x",), "put": ("x", 1), "delete": ("x",), "set": (7,),
    "resolve": (7,), "transfer": (1, "peer"), "adopt": ("gone",),
}  # fmt: skip
COLLECTIONS = {
    "update": ({"x": 1},), "difference_update": ({"x"},), "intersection_update": (set(),),
    "symmetric_difference_update": ({"x", "y"},), "discard": ("x",),
}  # fmt: skip
OWN_ROW = {"GCounter", "PNCounter", "BoundedCounter"}  # they replace what they wrote themselves


def mutators():
    """Every public method of every type that answers with a delta, found by its signature.

    All but import_value, which is made of them.
    """
    for name in sorted(KINDS):
        for action, method in inspect.getmembers(TYPES[name], inspect.isfunction):
            returns = inspect.signature(method).return_annotation
            if action[0] != "_" and action != "import_value" and returns == "Delta":
                yield name, action


MUTATORS = sorted(mutators())


def filled(name, replica):
    """A replica that has written what the mutators of its type replace or remove."""
    view = TYPES[name](replica)
    if name == "ORMap":
        view["x", crdt.ORSet].add(1)
    elif name == "BoundedCounter":
        view.increment(5)
        view.transfer(1, "gone")
    else:
        action = MENUS[name][0].action
        getattr(view, action)(*ARGUMENTS.get(action, ()))
    return view


def dots(view):
    """The live dots of a view that owns its kernel."""
    live = view.kernel._state.live
    return {
        str(live.dot(entry[0]))
        for container in live.containers.values()
        for row in container.rows.values()
        for entry in (row.values() if isinstance(row, dict) else [row])
    }


def test_every_mutator_of_the_types_is_in_this_test():
    """The list is not empty for any type, and what the fuzzer draws is among it."""
    assert {name for name, _ in MUTATORS} == set(KINDS)
    drawn = {(name, choice.action) for name, menu in MENUS.items() for choice in menu}
    assert {pair for pair in drawn if pair[0] in KINDS} <= set(MUTATORS)


@pytest.mark.parametrize(("name", "action"), MUTATORS)
def test_a_mutator_takes_back_only_what_its_read_context_covers(name, action):
    """What came after the reading stays alive, own writes and those of others alike."""
    a, b = filled(name, "a"), filled(name, "b")
    mine, read = dots(a), a.context
    a.merge(b)
    theirs = dots(a) - mine
    args = (ARGUMENTS | COLLECTIONS).get(action, ())
    getattr(a, action)(*args, seen=read)
    assert theirs <= dots(a)
    again = filled(name, "a2")
    again.merge(b)
    before = dots(again)
    getattr(again, action)(*args, seen={})
    own_row = {dot for dot in before if dot.startswith("a2:")} if name in OWN_ROW else set()
    assert before - own_row <= dots(again)
    for replica in (a, again):
        replica.kernel._check()
        other = Kernel("other")
        other.apply(replica.kernel.delta_since({}))
        assert other.canonical_bytes() == replica.canonical_bytes()


@pytest.mark.parametrize(("name", "action"), MUTATORS)
@pytest.mark.parametrize("wrong", [5, "a", {"a": "1"}, {1: 1}, [("a", 1)]])
def test_a_read_context_that_is_none_is_refused(name, action, wrong):
    """A typed error, with nothing changed, whatever the mutator would have done with it."""
    view = filled(name, "a")
    before = view.canonical_bytes()
    with pytest.raises(InvalidValueError, match="seen="):
        getattr(view, action)(*(ARGUMENTS | COLLECTIONS).get(action, ()), seen=wrong)
    assert view.canonical_bytes() == before


def test_an_extreme_is_judged_by_what_the_agent_saw():
    """A 7 on top of a seen 5 waits beside an unseen 9, and speaks when that is cleared."""
    a, b = MaxRegister("a"), MaxRegister("b")
    a.set(5)
    read = a.context
    b.set(9)
    a.merge(b)
    assert a.set(7, seen=read)
    assert not a.set(4)
    assert a.value == 9
    b.clear()
    a.merge(b)
    assert a.value == 7
    with pytest.raises(TypeError):
        a.set("text", seen={})


def test_a_counter_counts_the_same_with_and_without_a_read_context():
    """An increment takes nothing back, so that a stale context cannot make it count twice."""
    for seen in (None, {}, {"a": 1}):
        seats = BoundedCounter("a")
        seats.increment(3, seen=seen)
        seats.increment(2, seen=seen)
        seats.decrement(1, seen=seen)
        seats.transfer(1, "b", seen=seen)
        seats.adopt("b", seen=seen)
        assert (seats.value, seats.rights(), seats.stats()["dots"]) == (4, 4, 1)


def test_registers_keep_what_their_writer_had_not_seen():
    """Two writes on top of one reading are concurrent, also on one replica."""
    values, latest = MVRegister("v"), LWWRegister("l")
    for register in (values, latest):
        read = register.context
        register.set("one", seen=read)
        register.set("two", seen=read)
    assert values.value == ("one", "two")
    assert latest.value == "two"


BAD = (object(), "\ud800", {1, 2}, bytearray(b"x"), 1j, [object()], float("nan"), [[]] * 2)


@pytest.mark.parametrize(
    ("name", "action"), [pair for pair in MUTATORS if pair[1] in ARGUMENTS and pair[0] != "ORMap"]
)
def test_a_mutator_refuses_what_cannot_be_stored_with_nothing_changed(name, action):
    """Each argument of each mutator in turn: a typed error, and bytes and vector as before.

    A list, and NaN, are good values; where they are elements, keys, amounts or ids they are not.
    """
    view = filled(name, "a")
    before, vector = view.canonical_bytes(), view.kernel.vector
    args, refusals = ARGUMENTS[action], 0
    for index in range(len(args)):
        for bad in BAD:
            try:
                delta = getattr(view, action)(*args[:index], bad, *args[index + 1 :])
            except crdt.CRDTError:
                refusals += 1
                assert (view.canonical_bytes(), view.kernel.vector) == (before, vector)
            else:
                assert isinstance(bad, list | float)
                assert index == len(args) - 1
                assert crdt.Delta.decode(delta.encode()) == delta
                before, vector = view.canonical_bytes(), view.kernel.vector
    assert refusals >= 6 * len(args)
    view.kernel._check()


def test_entries_of_one_row_that_die_together_are_counted_once_each():
    """The log was rewritten at the first death, and then counted the second a second time."""
    kernel = Kernel("k")
    register = kernel.document("r", MVRegister)
    for number in range(120):
        register.set(number, seen=crdt.VersionVector())
        register.set(-number, seen=crdt.VersionVector())
        assert kernel.entries == len(register.value) == (2 if number == 0 else 3)
        register.set("both")
        kernel._check()
        assert kernel.entries == 1

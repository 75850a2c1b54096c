"""Scenarios of the types: what each concurrent pair of operations has to give."""

from itertools import pairwise

import pytest

from crdt import (
    HLC,
    BoundedCounter,
    Delta,
    DWFlag,
    EWFlag,
    GCounter,
    GSet,
    InsufficientRightsError,
    InvalidAmountError,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MinRegister,
    MVRegister,
    OpIdReusedError,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    RWSet,
)
from crdt.kernel.hlc import milliseconds, pack
from tests.crdt.joining import joined, live_bytes
from tests.scale import rounds


class Clock:
    """A wall clock that a test moves by hand."""

    def __init__(self, now_ms=1_700_000_000_000):
        self.now_ms = now_ms

    def __call__(self):
        return self.now_ms


def pair(kind, **options):
    """Two replicas of a type."""
    return kind("a", **options), kind("b", **options)


def test_counters_count_exactly():
    """[crdt 13] Increments add up, odd amounts are refused, a million increments leave one dot."""
    a, b = pair(PNCounter)
    a.increment()
    b.increment()
    assert joined(a, b) == 2
    g = GCounter("g")
    with pytest.raises(ValueError, match="at least 0"):
        g.increment(-1)
    with pytest.raises(TypeError):
        g.increment(True)
    with pytest.raises(TypeError):
        a.increment(1.0)
    assert not a.increment(0)
    assert a.kernel.vector == {"a": 1}
    reader = PNCounter("r")
    reader.apply(Delta.decode(a.increment(10**30).encode()))
    reader.apply(Delta.decode(a.decrement(1).encode()))
    assert reader.value == 10**30
    many, count = PNCounter("m"), rounds(1_000_000)
    with many.batch():
        for _ in range(count // 2):
            many.increment()
    for _ in range(count // 2):
        many.increment()
    assert int(many) == count
    assert many.stats()["dots"] == 1
    assert joined(many, reader, a) == count + 10**30


def test_an_operation_id_counts_once():
    """[crdt 13] The same op_id on one replica or on two counts once; another amount is refused."""
    a, b = pair(ResettableCounter)
    a.increment(3, op_id="order-1")
    assert not a.increment(3, op_id="order-1")
    b.increment(3, op_id="order-1")
    b.increment(4)
    assert joined(a, b) == 7
    with pytest.raises(OpIdReusedError) as error:
        a.increment(4, op_id="order-1")
    assert (error.value.expected, error.value.actual) == (3, 4)
    with pytest.raises(InvalidValueError):
        a.increment(1, op_id="\ud800")


def test_a_reset_takes_back_what_it_saw():
    """[crdt 14] The concurrent increment survives exactly; concurrent resets take nothing twice."""
    a, b = pair(ResettableCounter)
    a.increment(5)
    b.merge(a)
    b.reset()
    a.increment(2)
    assert joined(a, b) == 2
    a, b, c = (ResettableCounter(name) for name in "abc")
    a.increment(20)
    b.merge(a)
    c.merge(a)
    a.reset()
    b.reset()
    c.increment(10)
    assert joined(a, b, c) == 10
    a = ResettableCounter("a")
    a.increment(10)
    stale = a.fork("stale")
    a.reset()
    a.increment(1)
    assert joined(a, stale) == 1


def test_a_read_context_older_than_every_vector_is_still_honoured():
    """An agent resets what it read long ago: later increments stay, though all have seen them.

    This is why increments are not folded below the stable cut: one number cannot be taken back in
    part (docs/decisions/0013).
    """
    a, b = pair(ResettableCounter)
    for amount in (1, 2, 4):
        a.increment(amount)
    read = a.context
    a.increment(8)
    b.merge(a)
    assert a.kernel.vector == b.kernel.vector
    a.reset(seen=read)
    assert joined(a, b) == 8


def test_the_sum_is_kept_while_entries_come_and_go():
    """[crdt 14] Local, remote, bulk, once-only, rolled back and reset writes: the exact sum."""
    a, b = pair(ResettableCounter)
    assert a.value == b.value == 0
    for number in range(40):
        b.apply(a.increment(number))
        assert a.value == b.value == sum(range(number + 1))
    b.apply(a.increment(5, op_id="once"))
    assert a.value == b.value == 785
    with pytest.raises(ZeroDivisionError), a.batch():  # noqa: PT012  # the batch is the point
        a.increment(100)
        assert a.value == 885
        a.reset()
        1 / 0  # noqa: B018  # an error on purpose
    assert a.value == 785
    a.increment(1)
    c = ResettableCounter("c")
    assert c.value == 0
    c.apply(a.kernel.delta_since({}))
    assert c.value == 786
    b.reset()
    assert b.value == 0
    c.merge(b)
    assert c.value == joined(a, b, c) == 1


def test_increments_of_a_batch_coalesce():
    """[crdt 14] Inside a batch the increments of a resettable counter become one entry."""
    a, b = pair(ResettableCounter)
    with a.batch() as batch:
        for _ in range(100):
            a.increment()
        a.increment(7, op_id="x")
    assert a.stats()["dots"] == 2
    b.apply(Delta.decode(batch.delta.encode()))
    assert b.value == a.value == 107
    b.reset()
    assert joined(a, b) == 0


def test_a_bounded_counter_never_goes_below_its_bound():
    """[crdt 15] r1 holds 10; concurrent decrements never sum below 0; transfers count once."""
    r1, r2 = BoundedCounter("r1"), BoundedCounter("r2")
    r1.increment(10)
    r2.merge(r1)
    with pytest.raises(InsufficientRightsError) as error:
        r2.decrement(1)
    assert (error.value.wanted, error.value.local) == (1, 0)
    first = r1.transfer(4, to="r2")
    second = r1.transfer(2, to="r2")
    for delta in (second, first, second, first):
        r2.apply(Delta.decode(delta.encode()))
    assert (r1.rights(), r2.rights()) == (4, 6)
    r1.decrement(4)
    r2.decrement(6)
    for replica in (r1, r2):
        with pytest.raises(InsufficientRightsError):
            replica.decrement()
    assert joined(r1, r2) == 0
    with pytest.raises(InvalidAmountError):
        r1.transfer(1, to="r1")
    with pytest.raises(InvalidAmountError):
        r1.decrement(-1)
    assert not r1.decrement(0)
    assert not r1.increment(0)


def test_rights_of_a_lost_replica_are_stranded_until_adopted():
    """[crdt 15] Stranded rights are reported, move only by adopt, and the bound is in the type."""
    kernel = Kernel("a")
    seats = kernel.document("seats", BoundedCounter.at_least(5))
    assert seats.minimum == seats.value == 5
    seats.increment(3)
    seats.transfer(2, to="lost")
    assert seats.stranded(["a"]) == {"lost": 2}
    assert seats.rights() == 1
    seats.adopt("lost")
    assert (seats.rights(), seats.stranded(["a"])) == (3, {})
    assert not seats.adopt("lost")
    seats.decrement(3)
    assert int(seats) == 5
    again = Kernel.from_bytes(kernel.to_bytes(), replica="a2")
    assert again.document("seats", BoundedCounter.at_least(5)).value == 5
    assert again.document("seats", BoundedCounter).value == 0
    with pytest.raises(TypeError):
        BoundedCounter("x", minimum=1).merge(BoundedCounter("y"))
    copy = BoundedCounter("x", minimum=1).fork("z")
    assert BoundedCounter.from_bytes(copy.to_bytes(), replica="w", minimum=1).value == 1
    with pytest.raises(TypeError):
        ORMap("m").child("seats", BoundedCounter)


def test_clocks_break_only_concurrent_ties():
    """[crdt 16] Equal stamps, one millisecond twice, an hour back, ten years ahead, 2**16 ticks."""
    clock = Clock()
    a, b = LWWRegister("a", clock=clock), LWWRegister("b", clock=clock)
    a.set("from a")
    b.set("from b")
    assert joined(a, b) == "from b"  # equal stamps: the greater replica id
    a.set("first")
    a.set("second")  # the same millisecond
    assert joined(a, b) == "second"
    clock.now_ms -= 3_600_000
    a.set("an hour earlier, by the clock")
    assert a.value == joined(a, b) == "an hour earlier, by the clock"
    clock.now_ms += 3_600_000
    b.merge(a)
    ahead = LWWRegister("ahead", clock=Clock(clock.now_ms + 315_360_000_000))
    ahead.set("from the future")
    b.merge(ahead)
    assert b.value == "from the future"  # stored as it is, never clamped
    assert b.kernel.clock.skewed == 1
    assert b.kernel.clock.skewed_most_ms == 315_360_000_000
    assert milliseconds(b.kernel.clock.last) <= clock.now_ms  # and not followed
    b.set("who saw it wins over it")
    assert joined(b, ahead) == "who saw it wins over it"


def test_a_full_counter_carries_into_the_milliseconds():
    """[crdt 16] 2**16 + 1 events in one millisecond stay strictly monotone."""
    hlc = HLC()
    stamps = [hlc.tick(1_000) for _ in range(2**16 + 1)]
    assert stamps[0] == pack(1_000)
    assert stamps[-1] == pack(1_001)
    assert all(one < other for one, other in pairwise(stamps))
    assert hlc.tick(999) == pack(1_001, 1)
    a, b = pair(LWWRegister, clock=Clock(1_000))
    a.kernel.clock.last = pack(1_000, 2**16 - 1)
    b.kernel.clock.last = pack(1_000, 2**16 - 2)
    b.set("the last of its millisecond")
    a.set("carried")
    assert joined(a, b) == "carried"


def test_values_of_all_types_at_equal_stamps_have_one_winner():
    """[crdt 17] 1, "a", None and {} at equal stamps: one winner in every order, no TypeError."""
    for kind in (LWWRegister, MVRegister):
        replicas = [kind(name) for name in "abcd"]
        for replica, value in zip(replicas, (1, "a", None, {}), strict=True):
            replica.set(value)
        if kind is LWWRegister:
            assert joined(*replicas) == {}
        else:
            assert sorted(map(repr, joined(*replicas))) == ["'a'", "1", "None", "{}"]


def test_a_multi_value_register_keeps_every_write():
    """[crdt 18] Two concurrent equal values stay two dots; a write that saw both leaves one."""
    a, b = pair(MVRegister)
    a.set("same")
    b.set("same")
    assert joined(a, b) == ("same", "same")
    a.merge(b)
    assert a.conflicted
    assert a.stats()["dots"] == 2
    a.resolve("one")
    assert a.values == ("one",)
    assert a.stats()["dots"] == 1
    assert joined(a, b) == ("one",)
    a.clear()
    assert joined(a, b) == ()


def test_an_element_costs_one_dot_and_a_removed_one_nothing():
    """[crdt 19] 1 000 adds leave one dot; 100 concurrent adds, one remove that saw all: 0 bytes."""
    a = ORSet("a")
    for _ in range(1_000):
        a.add("x")
    assert a.stats()["dots"] == 1
    collector = ORSet("z")
    for number in range(100):
        adder = ORSet(f"r{number}")
        adder.add("x")
        collector.merge(adder)
    assert collector.stats()["dots"] == 100
    collector.merge(a)
    collector.remove("x")
    assert live_bytes(collector) == []
    assert collector.kernel.entries == 0
    assert joined(collector, a, adder) == set()


def test_remove_wins_in_an_rwset():
    """[crdt 20] add ∥ remove absent; add after an observed remove present; add ∥ add present."""
    a, b = pair(RWSet)
    a.add("x")
    b.remove("x")
    assert joined(a, b) == frozenset()
    a.merge(b)
    a.add("x")
    assert joined(a, b) == {"x"}
    a, b = pair(RWSet)
    a.add("x")
    b.add("x")
    assert joined(a, b) == {"x"}
    a.reset()
    b.merge(a)
    assert len(b) == 1  # b's own add was not observed by the reset
    assert list(b) == ["x"]


def test_flags_by_the_rule_in_their_name():
    """[crdt 21] on ∥ off: EWFlag on, DWFlag off; a reset flag equals a never-touched one."""
    for kind, wins in ((EWFlag, True), (DWFlag, False)):
        a, b = pair(kind)
        a.enable()
        b.merge(a)
        b.disable()
        a.enable()
        assert joined(a, b) is wins
        fresh = kind("f")
        assert not fresh
        assert live_bytes(fresh) == []
    a = EWFlag("a")
    a.enable()
    a.disable()
    assert live_bytes(a) == []
    d = DWFlag("d")
    d.enable()
    assert d
    d.disable()
    d.reset()
    assert live_bytes(d) == []


def test_removing_a_child_keeps_concurrent_changes_only():
    """[crdt 22] A X={0}, B=A; A removes X then adds 2: {2}. Depth 3: only the concurrent leaf."""
    a = ORMap("a")
    a["X", ORSet].add(0)
    b = a.fork("b")
    a.remove("X", ORSet)
    a["X", ORSet].add(2)
    assert joined(a, b) == {"X": {2}}
    a = ORMap("a")
    a["1", ORMap]["2", ORMap]["old", ORSet].add("old")
    a["1", ORMap]["2", ORMap]["count", PNCounter].increment(5)
    b = a.fork("b")
    a.remove("1")
    b["1", ORMap]["2", ORMap]["new", ORSet].add("leaf")
    leaf = {"new": {"leaf"}}
    assert joined(a, b) == {"1": {"2": leaf}}
    assert live_bytes(a) == []
    assert len(a) == 0


def test_creating_a_child_twice_concurrently_keeps_both_fields():
    """[crdt 22] Concurrent first creation of a nested map keeps the fields of both."""
    a, b = pair(ORMap)
    a["user", ORMap]["name", LWWRegister].set("ada")
    b["user", ORMap]["age", LWWRegister].set(36)
    b["user", ORSet].add("another type under the same name")
    together = joined(a, b)
    assert together["user:ORMap"] == {"name": "ada", "age": 36}
    assert together["user:ORSet"] == {"another type under the same name"}


def test_a_counter_in_a_removed_child_comes_back_whole():
    """Removing the key ∥ an increment brings back that replica's whole total, as documented."""
    a = ORMap("a")
    a["n", PNCounter].increment(5)
    b = ORMap("b")
    b.merge(a)
    b["n", PNCounter].increment(1)
    b.remove("n")
    a["n", PNCounter].increment(2)
    assert joined(a, b) == {"n": 7}
    a, b = pair(ORMap)
    a["n", ResettableCounter].increment(5)
    b.merge(a)
    b.remove("n")
    a["n", ResettableCounter].increment(2)
    assert joined(a, b) == {"n": 2}


def test_add_wins_and_put_wins():
    """Add ∥ remove is present in an ORSet; put ∥ delete is present in an LWWMap, by no clock."""
    a, b = pair(ORSet)
    a.add("x")
    b.merge(a)
    b.remove("x")
    a.add("x")
    assert joined(a, b) == {"x"}
    slow, fast = Clock(1_000), Clock(9_000_000)
    a, b = LWWMap("a", clock=slow), LWWMap("b", clock=fast)
    a["k"] = "old"
    b.merge(a)
    del b["k"]
    a["k"] = "new"
    assert joined(a, b) == {"k": "new"}
    with pytest.raises(KeyError):
        del b["k"]


def test_extremes_take_a_dot_only_when_they_move():
    """A value not beyond the observed one takes no dot; one kind per register."""
    high, low = MaxRegister("h"), MinRegister("l")
    assert high.value is None
    for value in (3, 7, 5, 7):
        high.set(value)
        low.set(value)
    assert (high.value, low.value) == (7, 3)
    assert (high.kernel.vector["h"], low.kernel.vector["l"]) == (2, 1)
    a, b = pair(MaxRegister)
    a.set(("b", 1))
    b.set(("b", 2))
    assert joined(a, b) == ("b", 2)
    for wrong in ("text", 1):
        with pytest.raises(TypeError):
            a.set(wrong)
    for refused in (float("nan"), (1, float("nan"))):
        with pytest.raises(ValueError, match="NaN"):
            MaxRegister("x").set(refused)
    for refused in (None, True, [1], ((1,),)):
        with pytest.raises(TypeError):
            MaxRegister("x").set(refused)
    a, b = pair(MinRegister)
    a.set(1)
    b.set(1.0)
    assert joined(a, b) == 1
    high.clear()
    low.clear()
    assert high.value is low.value is None


def test_a_read_context_removes_only_what_the_agent_saw():
    """An agent thinks for 30 s between reading and removing: what came meanwhile stays."""
    a, b = pair(ORSet)
    a.add("x")
    seen = a.context
    b.add("x")
    a.merge(b)
    a.remove("x", seen=seen)
    assert a == {"x"}
    a.remove("x", seen={"b": 1})
    assert a == set()
    r = LWWRegister("r")
    r.set("one")
    looked = r.context
    r.set("two")
    r.set("three", seen=looked)
    assert r.value == "three"
    assert r.stats()["dots"] == 2
    r.clear(seen=looked)
    assert r.value == "three"
    g = GSet("g")
    g.add(1)
    assert g == {1}
    assert g | {2} == {1, 2}


@pytest.mark.parametrize("kind", [GCounter, PNCounter, BoundedCounter])
def test_of_two_totals_of_one_replica_the_later_counts_whichever_came_first(kind):
    """Across a gap the earlier total is still alive: it is part of the later one, not beside it."""
    writer = kind("w")
    first, _, third = (writer.increment(amount) for amount in (5, 1, 1))
    forwards, backwards = kind("f"), kind("b")
    assert forwards.apply(first)
    assert forwards.apply(third)
    backwards.apply(third)
    assert not backwards.apply(first), "nothing changed for a reader"
    assert forwards == backwards == 7
    assert forwards.canonical_bytes() == backwards.canonical_bytes()
    assert forwards.merge(writer) == backwards.merge(writer)
    assert forwards == backwards == 7

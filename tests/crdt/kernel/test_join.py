"""Scenarios of joining: what merges, deltas and chunks must not get wrong."""

import copy
import pickle
import random
from dataclasses import replace
from itertools import permutations

import pytest

import crdt
from crdt import (
    BelowFloorError,
    CausalContext,
    DecodeError,
    Delta,
    DoomedFullError,
    Dot,
    DoubleSpentDotError,
    IdentityReusedError,
    Kernel,
    LWWMap,
    LWWRegister,
    ORMap,
    ORSet,
    PNCounter,
    SharedKernelError,
    TypeMismatchError,
    UncopyableError,
    VersionVector,
)
from crdt.kernel.kind import KINDS
from crdt.testing.operation import MENUS, draw
from tests.crdt.joining import joined


def test_a_dominating_side_is_not_simply_returned():
    """[crdt 1] A adds bar, B adds baz, C joins both, A removes bar: together only baz is left."""
    a, b = ORSet("a"), ORSet("b")
    a.add("bar")
    b.add("baz")
    c = a.fork("c")
    c.merge(b)
    a.remove("bar")
    assert joined(a, c) == {"baz"}


def test_a_lost_remove_is_learned_by_vectors():
    """[crdt 2] The delta of a remove is lost; the next exchange by vectors removes all the same."""
    a = ORSet("a")
    b = ORSet("b")
    b.apply(a.add("x"))
    a.remove("x")
    assert b == {"x"}
    b.apply(a.kernel.delta_since(b.kernel.vector))
    assert b == set()
    assert a.canonical_bytes() == b.canonical_bytes()
    assert joined(a, b) == set()


def test_no_zombie_after_two_lives_of_an_element():
    """[crdt 3] Z removed by A, added and removed by B: gone in every order of merging."""
    a, b = ORSet("a"), ORSet("b")
    a.add("Z")
    c = a.fork("c")
    a.remove("Z")
    b.add("Z")
    a.merge(b)
    b.remove("Z")
    assert joined(a, c, b) == set()


def test_a_gap_in_the_context_is_kept_and_filled_later():
    """[crdt 4] Event 3 before event 2: the context keeps the gap and 2 is still taken."""
    a, b = ORSet("a"), ORSet("b")
    first, second, third = a.add(1), a.add(2), a.add(3)
    b.apply(first)
    b.apply(third)
    assert b.context.cloud == (("a", 3, 3),)
    assert joined(b, a) == {1, 2, 3}
    assert b.kernel.vector == {"a": 1}
    assert b == {1, 3}
    b.apply(second)
    assert b == {1, 2, 3}
    assert not b.context.cloud
    assert b.canonical_bytes() == a.canonical_bytes()


def test_dots_in_any_order_end_in_a_vector():
    """[crdt 5] Dots 3, 2, 5, 1, 4 arrive: the context is exactly a:5, the cloud empty."""
    for order in permutations([1, 2, 3, 4, 5]):
        context = CausalContext()
        for seq in order:
            context.add(Dot("a", seq))
            context._check()
        assert context == CausalContext({"a": 5})
    a, b = ORSet("a"), ORSet("b")
    deltas = [a.add(n) for n in range(5)]
    for index in (2, 1, 4, 0, 3):
        b.apply(deltas[index])
    assert b.kernel.vector == {"a": 5}
    assert joined(a, b) == {0, 1, 2, 3, 4}


def test_sending_in_pieces_of_one_loses_nothing():
    """[crdt 6] k1..k3 of A, sent one by one in every order: nothing is lost on either side."""
    a = ORSet("a")
    for key in ("k1", "k2", "k3"):
        a.add(key)
    pieces = []
    vector = {}
    while delta := a.kernel.delta_since(vector, bytes_max=1):
        pieces.append(delta)
        vector = {"a": delta.ranges[-1][2]}
    for order in permutations(pieces):
        b = ORSet("b")
        b.add("mine")
        for piece in order:
            b.apply(piece)
        assert b == {"k1", "k2", "k3", "mine"}
        a_now = a.fork("a-later")
        a_now.apply(b.kernel.delta_since(a_now.kernel.vector))
        assert a_now.canonical_bytes() == b.canonical_bytes()
        assert joined(a, b) == {"k1", "k2", "k3", "mine"}


def test_a_kill_chain_out_of_order_leaves_nobody_alive():
    """[crdt 7] d2 overwrites d1, d4 overwrites d2; a replica with d1 gets d4, d2: d1 is dead."""
    a, b = LWWRegister("a"), LWWRegister("b")
    b.apply(a.set("d1"))
    second = a.set("d2")
    third = a.kernel.void(3)
    fourth = a.set("d4")
    for delta in (fourth, second, third):
        b.apply(delta)
        b.kernel._check()
    assert b.value == "d4"
    assert b.stats()["dots"] == 1
    assert b.canonical_bytes() == a.canonical_bytes()
    assert joined(a, b) == "d4"


def test_a_remove_covers_its_own_dot_and_no_other():
    """[crdt 8] Applying b's remove adds exactly that remove's dot to the context."""
    a, b, c = ORSet("a"), ORSet("b"), ORSet("c")
    add = a.add("x")
    b.add("own")
    b.apply(add)
    removal = b.remove("x")
    c.apply(add)
    c.apply(removal)
    assert list(c.context.ranges()) == [("a", 1, 1), ("b", 2, 2)]
    assert c == set()
    d = ORSet("d")
    d.apply(removal)
    assert list(d.context.ranges()) == [("b", 2, 2)]
    assert d.kernel.stats()["doomed"] == 1
    assert joined(d, c, b) == {"own"}
    d.apply(add)
    assert d == set()
    assert d.kernel.stats()["doomed"] == 0


def test_a_late_remove_takes_only_what_it_saw():
    """[crdt 9] add b, remove b, add b; the first remove arrives late: b stays."""
    a, b = ORSet("a"), ORSet("b")
    first, removal, second = a.add("b"), a.remove("b"), a.add("b")
    for delta in (first, second, removal):
        b.apply(delta)
    assert b == {"b"}
    assert b.canonical_bytes() == a.canonical_bytes()
    assert joined(a, b) == {"b"}


@pytest.mark.parametrize("name", sorted({*MENUS, "ORMap"} & set(KINDS)))
def test_deltas_once_and_in_any_order_are_the_state(name):
    """[crdt 10] The join of all deltas, at once, one by one, shuffled, repeated, is the state."""
    kind = getattr(crdt, name)
    for seed in range(12):
        dice = random.Random(seed)
        a, deltas = kind("a"), []
        a.kernel.on_delta = lambda delta, change, into=deltas: into.append(delta)
        for _ in range(15):
            try:
                draw(kind.type_name, dice, 5)[0].perform(a)
            except (crdt.InsufficientRightsError, crdt.InvalidAmountError):
                continue
        shuffled = dice.sample(deltas, len(deltas))
        for sequence in (deltas, shuffled, shuffled + deltas, [a.kernel.delta_since({})]):
            b = kind("b")
            for delta in sequence:
                b.apply(Delta.decode(delta.encode()))
            assert b.canonical_bytes() == a.canonical_bytes()
            assert b.value == a.value
        assert joined(a, b) == a.value


def test_an_identity_is_for_one_life():
    """[crdt 11] A restarted, empty ORSet("a") is told of its old self: refused, nothing changed."""
    a, b = ORSet("a"), ORSet("b")
    a.add("x")
    a.add("y")
    b.merge(a)
    again = ORSet("a")
    again.add("z")
    before = again.canonical_bytes()
    for refused in (
        lambda: again.merge(b),
        lambda: again.apply(b.kernel.delta_since({})),
        lambda: again.kernel.apply_chunk(b.kernel.chunks(1000).chunks[0]),
        lambda: Kernel.from_bytes(b.to_bytes(), replica="b").reincarnate("a"),
        lambda: b.kernel.fork("a"),
    ):
        with pytest.raises(IdentityReusedError) as error:
            refused()
        assert error.value.replica == "a"
        assert again.canonical_bytes() == before
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UncopyableError):
            copying(a)
        with pytest.raises(UncopyableError):
            copying(a.kernel)
    twin, restored = a.fork("a2"), ORSet.from_bytes(a.to_bytes(), replica="a3")
    twin.add("t")
    restored.add("r")
    assert joined(twin, restored, a) == {"x", "y", "t", "r"}


def test_a_double_spent_dot_is_named():
    """[crdt 12] Two processes under one id: the contradiction is an error that names the dot."""
    one, two = ORSet("a"), ORSet("a")
    delta, other = one.add("x"), two.add("y")
    reader = ORSet("r")
    reader.apply(delta)
    before = reader.canonical_bytes()
    for refused in (
        lambda: reader.apply(other),
        lambda: reader.merge(two),
        lambda: reader.kernel.apply_chunk(two.kernel.chunks(100).chunks[0]),
    ):
        with pytest.raises(DoubleSpentDotError) as error:
            refused()
        assert (error.value.replica, error.value.seq) == ("a", 1)
        assert reader.canonical_bytes() == before
    assert joined(reader, one) == {"x"}


@pytest.mark.parametrize(
    ("here", "there"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ([1], [True])]
)
def test_a_double_spent_dot_shows_also_between_values_that_python_holds_equal(here, there):
    """[crdt 12] The columns of two lives compared equal: `1` stayed where the other had `True`.

    With equal vectors, for ever. Deltas had always told them apart; chunks and merges had not.
    """
    one, two = LWWMap("a"), LWWMap("a")
    one.put("k", here)
    two.put("k", there)
    for refused in (
        lambda reader: reader.apply(two.kernel.delta_since({})),
        lambda reader: reader.merge(two),
        lambda reader: reader.kernel.apply_chunk(two.kernel.chunks(100).chunks[0]),
    ):
        reader = LWWMap("r")
        reader.merge(one)
        before = reader.canonical_bytes()
        with pytest.raises(DoubleSpentDotError):
            refused(reader)
        assert reader.canonical_bytes() == before


def test_a_remove_that_comes_first_needs_no_record_to_be_honoured():
    """[crdt 15] Remove first, its add later, everything droppable dropped in between: no zombie."""
    a, b, c = ORSet("a"), ORSet("b"), ORSet("c")
    add = a.add("x")
    b.apply(add)
    removal = b.remove("x")
    c.apply(removal)
    c.kernel.drop_records()
    through_bytes = ORSet.from_bytes(c.to_bytes(), replica="c")
    joiner = ORSet("j")
    joiner.merge(through_bytes)
    for chunk in c.kernel.chunks(1).chunks:
        joiner.kernel.apply_chunk(chunk)
    for reader in (c, through_bytes, joiner):
        reader.apply(add)
        assert reader == set()
        assert reader.kernel.stats()["doomed"] == 0
    assert joined(a, c, joiner) == set()


def test_a_cut_chunk_set_then_gossip_equals_the_donor():
    """[crdt 15] Chunk sets cut after any chunk, then gossip by vectors only: equal to the donor."""
    donor, other = ORSet("d"), ORSet("o")
    for number in range(12):
        donor.add(number)
        other.merge(donor)
        other.remove(number - 1 if number % 3 else "none")
        other.add(-number)
        donor.merge(other)
    chunks = donor.kernel.chunks(40).chunks
    assert len(chunks) > 3
    for cut in range(len(chunks) + 1):
        for order in (chunks, chunks[::-1]):
            reader = ORSet("r")
            reader.add("mine")
            for chunk in order[:cut]:
                reader.kernel.apply_chunk(chunk)
                reader.kernel._check()
            reader.apply(donor.kernel.delta_since(reader.kernel.vector))
            assert reader.value == donor.value | {"mine"}
            later = donor.fork("later")
            later.apply(reader.kernel.delta_since(later.kernel.vector))
            assert later.canonical_bytes() == reader.canonical_bytes()


def test_doomed_dots_are_bounded_and_say_what_is_missing():
    """Too many removals of unknown adds are refused, naming the origin to ask first."""
    a, b = ORSet("a"), ORSet("b")
    for number in range(5):
        a.add(number)
    b.merge(a)
    removal = b.clear()
    reader = ORSet("r")
    reader.kernel._state.doomed_max = 4
    with pytest.raises(DoomedFullError) as error:
        reader.apply(removal)
    assert error.value.missing == {"a"}
    assert not reader.context
    reader.apply(a.kernel.delta_since({}))
    reader.apply(removal)
    assert reader == set()


def test_only_kernels_merge():
    """A view on a shared kernel refuses merge and apply, and names the ways there are."""
    kernel = Kernel("k")
    view = kernel.document("tags", ORSet)
    alone = ORSet("a")
    delta = alone.add(1)
    child = kernel.document("m", ORMap)["inner", ORSet]
    for refused in (
        lambda: view.merge(alone),
        lambda: alone.merge(view),
        lambda: view.apply(delta),
        lambda: child.apply(delta),
        lambda: view.fork("z"),
    ):
        with pytest.raises(SharedKernelError, match="kernel"):
            refused()
    with pytest.raises(TypeMismatchError):
        alone.merge(PNCounter("p"))


def test_removal_records_are_a_bounded_cache():
    """Churn for ever, in no order, keeps the records within their limit and raises the floor."""
    a, dice = ORSet("a"), random.Random(5)
    a.kernel._state.records_max = 50
    for number in range(400):
        a.add(number)
        if number % 3:
            a.remove(dice.choice(sorted(a.value)))
        a.kernel._check()
    for number in sorted(a.value, key=lambda _: dice.random()):
        a.remove(number)
    assert a.kernel.stats()["records_bytes"] <= 50 * 128
    with pytest.raises(BelowFloorError):
        a.kernel.delta_since({})
    b = ORSet("b")
    b.merge(a)
    assert b.canonical_bytes() == a.canonical_bytes()
    assert len(a.canonical_bytes()) < 20


def test_a_batch_that_came_with_a_whole_state_leaves_whole():
    """Who merged a batch passes it on in one piece, however little room an answer has."""
    a, b = ORSet("a"), ORSet("b")
    a.add("before")
    with a.batch():
        for number in range(4):
            a.add(number)
    b.merge(a)
    pieces = [b.kernel.delta_since({"a": seq}, bytes_max=1).ranges for seq in (0, 1)]
    assert pieces == [(("a", 1, 1),), (("a", 2, 5),)]


def test_one_stamp_from_the_far_future_does_not_hide_the_others():
    """The clock follows the latest of a delta, or of a state, that it may follow."""
    now = 1_000_000
    times = iter((now, now + 20_000, now + 3_600_000))
    writer = Kernel("w", clock=lambda: next(times))
    for number in range(3):
        writer.document("m", LWWMap).put(number, number)
    for learn in (
        lambda reader: reader.apply(writer.delta_since({})),
        lambda reader: reader.merge(writer),
    ):
        reader = Kernel("r", clock=lambda: now)
        learn(reader)
        assert reader.clock.skewed >= 1
        assert reader.clock.last >> 16 == now + 20_000


def test_a_gap_that_a_merge_left_closes_with_one_event():
    """What a merged state had applied beyond it counts as applied here, not only as seen.

    Else the vector would stay behind the state for ever, and ask for what is there.
    """
    a, b, c = ORSet("a"), ORSet("b"), ORSet("c")
    deltas = [a.add(number) for number in range(3)]
    for delta in deltas[1:]:
        b.apply(delta)
    c.merge(b)
    c.apply(deltas[0])
    assert dict(c.kernel.vector) == {"a": 3}


@pytest.mark.parametrize("count", [3, 40])
def test_a_clock_follows_the_deltas_that_it_applies(count):
    """A write after hearing of others is later than they are, few (rows) or many (columns)."""
    a, b, c = LWWMap("a"), LWWMap("b"), LWWMap("c")
    for number in range(count):
        a.put(number, "theirs")
    b.apply(a.kernel.delta_since({}))
    heard = max(event.stamp for run in a.kernel.delta_since({}).runs for event in run.events)
    assert b.put("mine", 1).runs[0].events[0].stamp > heard
    c.put("mine", "older, by somebody who heard nothing")
    c.merge(b)
    assert c["mine"] == 1


def test_merging_uses_the_context_from_before_the_merge():
    """[crdt 23] Several keys in one merge: joining the first must not decide about the second."""
    a, b = ORMap("a"), ORMap("b")
    for name in ("k1", "k2", "k3"):
        a[name, ORSet].add(1)
    b.merge(a)
    a["k4", ORSet].add(4)
    b["k1", ORSet].add(2)
    b.remove("k2", ORSet)
    assert joined(a, b) == {
        "k1": {1, 2},
        "k3": {1},
        "k4": {4},
    }


def test_chunks_of_a_donor_that_disappears_leave_no_trace():
    """Part of a set shows x as dead and not the removal that killed it; then its donor is lost.

    Joined alone, such a chunk took x from one of two replicas whose vectors were, and stayed,
    equal: no exchange by vectors could see it. A set is joined whole or not at all.
    """
    a, b, c = Kernel("a"), Kernel("b"), Kernel("c")
    tags = a.document("tags", ORSet)
    for delta in (tags.add("x"), tags.add("y")):
        b.apply(delta)
        c.apply(delta)
    c.document("tags", ORSet).remove("x")
    c.document("tags", ORSet).add("z")
    chunks = c.chunks(1).chunks
    assert chunks[0].ranges == (("a", 1, 2),)
    for given in (chunks[:1], chunks[1:], chunks[:-1]):
        reader = a.fork("r")
        for chunk in given:
            assert not reader.apply_chunk(chunk)
            reader._check()
        assert reader.vector == b.vector
        assert reader.canonical_bytes() == b.canonical_bytes()
        assert reader.stats()["chunks_aside"] == len(given)
        again = Kernel.from_bytes(reader.to_bytes(), replica="r")
        for chunk in chunks:
            again.apply_chunk(chunk)
            again._check()
        assert again.canonical_bytes() == c.canonical_bytes()
        assert again.stats()["chunks_aside"] == 0
        assert not again.apply_chunk(chunks[0])


def test_an_equal_state_in_chunks_says_nothing_whoever_cut_it():
    """A set that was joined or cut before is passed over unopened; an equal state joins nothing."""
    donor, twin, other = ORSet("d"), ORSet("t"), ORSet("o")
    for number in range(6):
        twin.apply(donor.add(number))
    other.merge(donor)
    (chunk,) = twin.kernel.chunks(1000).chunks
    assert donor.kernel.chunks(1000).id == chunk.set_id
    closed = replace(chunk, content=b"never looked at")
    assert not donor.kernel.apply_chunk(closed)
    with pytest.raises(DecodeError):
        other.kernel.apply_chunk(closed)
    assert not other.kernel.apply_chunk(chunk)
    assert not other.kernel.apply_chunk(closed)
    assert joined(other, donor, twin) == set(range(6))


def test_a_set_under_the_id_of_another_is_refused():
    """The id is a hash of the content: chunks that do not add up to it are forgotten together."""
    donor, reader = ORSet("d"), Kernel("r")
    for number in range(6):
        donor.add(number)
    right = donor.kernel.chunks(30).chunks
    wrong = replace(right[-1], content=donor.kernel.chunks(31).chunks[-1].content, set_id=bytes(16))
    assert len(right) > 2
    for chunk in right[:-1]:
        reader.apply_chunk(replace(chunk, set_id=bytes(16)))
    with pytest.raises(DecodeError, match="forgotten"):
        reader.apply_chunk(wrong)
    assert not reader.context
    assert reader.stats()["chunks_aside"] == 0
    for chunk in right:
        reader.apply_chunk(chunk)
    assert reader.canonical_bytes() == donor.canonical_bytes()


def test_a_set_of_chunks_covers_the_vector_it_claims():
    """A forged vector would count events as applied that nobody has ever shown."""
    donor = ORSet("d")
    donor.add("x")
    (chunk,) = donor.kernel.chunks(1000).chunks
    reader = Kernel("r")
    with pytest.raises(DecodeError, match="claims"):
        reader.apply_chunk(replace(chunk, vector=VersionVector({"d": 1, "v": 10**9})))
    assert not reader.context
    assert reader.apply_chunk(chunk)


def test_an_event_beyond_a_gap_keeps_its_kills_through_a_merge():
    """B got a's removal before the event in between; m merges b, gets that event, and is asked.

    The removal's record was not adopted with the state, so m told the next replica of the removal
    without what it had removed: x lived on there, under equal vectors.
    """
    a = ORSet("a")
    first, between, removal = a.add("x"), a.add("y"), a.remove("x")
    b, m, n = ORSet("b"), ORSet("m"), ORSet("n")
    for replica in (b, m, n):
        replica.apply(first)
    b.apply(removal)
    m.merge(b)
    m.apply(between)
    n.apply(m.kernel.delta_since(n.kernel.vector))
    assert n.kernel.vector == m.kernel.vector == {"a": 3}
    assert n.canonical_bytes() == m.canonical_bytes() == a.canonical_bytes()


def test_the_first_piece_of_an_answer_brings_the_removals_that_only_its_donor_knows():
    """S removed x, told R the first piece of what R lacks, and is lost with its disk; T holds x."""
    origin, lost, t = ORSet("o"), ORSet("s"), ORSet("t")
    for number in range(3):
        delta = origin.add(number)
        lost.apply(delta)
        t.apply(delta)
    lost.remove(0)
    r = ORSet("r")
    r.apply(lost.kernel.delta_since({}, bytes_max=1))
    r.apply(t.kernel.delta_since(r.kernel.vector))
    t.apply(r.kernel.delta_since(t.kernel.vector))
    assert r == t == {1, 2}
    assert r.canonical_bytes() == t.canonical_bytes()


def test_a_piece_of_a_delta_whose_donor_is_lost_is_mended_by_states_and_not_by_vectors():
    """U removed x and told S alone; S told R a piece of what R lacks; both are lost; T holds x.

    The piece covers x without its entry, for S held it no longer; the removal was in a later piece.
    Now R and T have equal vectors and different states, which no exchange by vectors can see
    (docs/guarantees.md). A merge passed over R as one who knew nothing new; now states mend it.
    """
    origin, lost, last, t = ORSet("o"), ORSet("s"), ORSet("u"), ORSet("t")
    for number in range(3):
        delta = origin.add(number)
        for replica in (lost, last, t):
            replica.apply(delta)
    lost.apply(last.remove(0))
    r = ORSet("r")
    r.apply(lost.kernel.delta_since({}, bytes_max=1))
    r.apply(t.kernel.delta_since(r.kernel.vector))
    assert r.kernel.vector == t.kernel.vector
    assert (r, t) == ({1, 2}, {0, 1, 2})
    assert joined(r, t) == {1, 2}
    by_merge, by_chunks, by_blocks = t.fork("m"), t.fork("c"), t.fork("b")
    assert by_merge.merge(r)
    for chunk in r.kernel.chunks(1).chunks:
        by_chunks.kernel.apply_chunk(chunk)
    for kernel in (r.kernel, by_blocks.kernel):
        assert kernel.hash_blocks()
    assert r.kernel.state_digest != by_blocks.kernel.state_digest
    for chunk in r.kernel.block_chunks([("o", 0)], 1).chunks:
        by_blocks.kernel.apply_chunk(chunk)
    for mended in (by_merge, by_chunks, by_blocks):
        assert mended.canonical_bytes() == r.canonical_bytes()

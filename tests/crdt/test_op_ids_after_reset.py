"""An increment whose op_id a reset took does not count again: where, how long, at what cost."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from crdt import Delta, Kernel, OpIdReusedError, ORMap, ResettableCounter
from crdt.explanation import explain
from crdt.kernel import OP_IDS_MAX
from tests.crdt.joining import joined


def test_an_increment_delivered_again_after_a_reset_adds_nothing():
    """On the replica that reset, on one that heard of it, and on one that was restarted."""
    a, b = ResettableCounter("a"), ResettableCounter("b")
    a.increment(3, op_id="order-1")
    b.merge(a)
    a.reset()
    b.merge(a)
    before = a.kernel.canonical_bytes()
    restarted = ResettableCounter.from_bytes(b.to_bytes(), replica="c")
    for replica in (a, b, restarted):
        assert not replica.increment(3, op_id="order-1")
        assert replica.value == 0
    assert a.kernel.canonical_bytes() == before
    a.increment(3, op_id="order-2")
    with pytest.raises(OpIdReusedError):
        a.increment(4, op_id="order-2")
    assert joined(a, b, restarted) == 3


def test_one_operation_seen_by_a_reset_and_missed_by_it_is_over():
    """Two workers did one operation; the reset saw one of them. In every order of delivery."""
    seen, missed, other = (ResettableCounter(name) for name in ("seen", "missed", "other"))
    deltas = [seen.increment(3, op_id="once")]
    deltas.append(seen.reset())
    deltas.append(missed.increment(3, op_id="once"))
    deltas.append(other.increment(5, op_id="another"))
    states = set()
    for order in permutations(deltas):
        reader = ResettableCounter("r")
        for delta in order:
            assert reader.value in {0, 3, 5, 8}
            reader.apply(Delta.decode(delta.encode()))
        assert reader.value == 5
        states.add(reader.kernel.canonical_bytes())
    assert len(states) == 1


def test_concurrent_resets_are_both_remembered():
    """Each took what it saw; the next reset joins what they remember and leaves one entry."""
    a, b = ResettableCounter("a"), ResettableCounter("b")
    a.increment(1, op_id="a")
    b.increment(1, op_id="b")
    a.reset()
    b.reset()
    a.merge(b)
    assert (a.value, a.stats()["dots"]) == (0, 2)
    a.increment(1, op_id="c")
    a.reset()
    b.merge(a)
    assert a.stats()["dots"] == 1
    for op_id in "abc":
        assert not b.increment(1, op_id=op_id)
    assert joined(a, b) == 0


def test_the_newest_ids_are_remembered_and_the_bound_holds():
    """At most `OP_IDS_MAX`; the oldest goes first; two full memories share the room."""
    a, b = ResettableCounter("a"), ResettableCounter("b")
    for replica in (a, b):
        for number in range(OP_IDS_MAX + 1):
            replica.increment(1, op_id=f"{replica.kernel.replica}{number}")
        replica.reset()
        assert len(replica.to_bytes()) < 8 * OP_IDS_MAX + 500
        assert not replica.increment(1, op_id=f"{replica.kernel.replica}1")
        assert replica.increment(1, op_id=f"{replica.kernel.replica}0")  # the one too many
    a.merge(b)
    a.reset()
    assert a.stats()["dots"] == 1
    assert len(a.to_bytes()) < 8 * OP_IDS_MAX + 500
    newest = [f"{name}{number}" for name in "ab" for number in (0, OP_IDS_MAX // 2 + 2, OP_IDS_MAX)]
    assert not any(a.increment(1, op_id=op_id) for op_id in newest)
    assert all(a.increment(1, op_id=f"{name}1") for name in "ab")
    assert a.value == 2


def test_a_reset_that_takes_no_id_leaves_nothing_and_forgets_nothing():
    """Without ids the state after a reset is what it was before; a memory stays as it is."""
    a = ResettableCounter("a")
    a.increment(5)
    a.reset()
    assert a.stats()["dots"] == 0
    assert not a.reset()
    a.increment(1, op_id="x")
    a.reset()
    assert not a.reset()
    a.increment(5)
    assert len(a.reset().encode()) < 100
    assert a.value == 0
    assert not a.increment(1, op_id="x")


def test_a_reset_with_a_read_context_remembers_what_it_took():
    """What came after the reading stays and counts; its id is not remembered."""
    a = ResettableCounter("a")
    a.increment(1, op_id="read")
    looked = a.context
    a.increment(2, op_id="later")
    a.reset(seen=looked)
    assert a.value == 2
    assert not a.increment(1, op_id="read")
    assert not a.increment(2, op_id="later")
    a.reset(seen=looked)
    assert a.value == 2


def test_a_batch_rolled_back_remembers_nothing():
    """The reset never happened: the increment counts, and so does its id."""
    a = ResettableCounter("a")
    a.increment(2, op_id="x")
    with pytest.raises(ZeroDivisionError), a.batch():  # noqa: PT012  # the batch is the point
        a.reset()
        assert a.value == 0
        assert not a.increment(2, op_id="x")
        1 / 0  # noqa: B018  # an error on purpose
    assert a.value == 2
    with a.batch():
        a.increment(7, op_id="y")
        a.reset()
        a.increment(7, op_id="y")
    assert a.value == 0
    assert not a.increment(7, op_id="y")


def test_removing_the_counter_takes_what_its_resets_remember():
    """In an ORMap a reset child stays, at 0; removed, it leaves nothing, and its ids are free."""
    a, b = ORMap("a"), ORMap("b")
    a["hits", ResettableCounter].increment(3, op_id="x")
    a["hits", ResettableCounter].reset()
    b.merge(a)
    assert a.value == b.value == {"hits": 0}
    del a["hits"]
    b["hits", ResettableCounter].increment(4, op_id="y")
    a.merge(b)
    b.merge(a)
    assert a.value == b.value == {"hits": 4}
    del a["hits"]
    assert a.stats()["dots"] == 0
    assert a["hits", ResettableCounter].increment(3, op_id="x")
    assert a.value == {"hits": 3}


def test_a_wide_delta_and_chunks_carry_the_memory():
    """Columns of thousands of increments with a memory among them, and a bootstrap in pieces."""
    kernel = Kernel("a")
    counter = kernel.document("n", ResettableCounter)
    counter.increment(3, op_id="x")
    counter.reset()
    for number in range(3000):
        counter.increment(1, op_id=f"n{number}")
    by_delta, by_chunks = Kernel("b"), Kernel("c")
    by_delta.apply(Delta.decode(kernel.delta_since({}).encode()))
    chunks = list(kernel.chunks(4096).chunks)
    random.Random(7).shuffle(chunks)
    for chunk in chunks:
        by_chunks.apply_chunk(chunk)
    for reader in (by_delta, by_chunks):
        view = reader.document("n", ResettableCounter)
        assert view.value == 3000
        assert not view.increment(3, op_id="x")
        assert reader.canonical_bytes() == kernel.canonical_bytes()


def test_a_memory_is_explained_as_one():
    """`explain` shows how much is remembered, not its bytes."""
    kernel = Kernel("a")
    kernel.document("n", ResettableCounter).increment(3, op_id="x")
    kernel.document("n", ResettableCounter).reset()
    assert [line.value for line in explain(kernel, "n") if line.fate == "shown"] == [
        "remembers 1 op_ids"
    ]

"""The kernel as its users in an agent see it: many documents, deltas, chunks, identity."""

import pytest

from crdt import (
    BelowFloorError,
    Change,
    Chunk,
    Delta,
    IdentityReusedError,
    Kernel,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
)


def written(replica="a"):
    """A kernel with a bit of everything in it, and every delta it published."""
    kernel, deltas = Kernel(replica), []
    kernel.on_delta = lambda delta, change: deltas.append(delta)
    tags = kernel.document("tags", ORSet)
    tags.add("x")
    tags.add(True)
    tags.remove("x")
    kernel.document("count", PNCounter).increment(4)
    nested = kernel.document("m", ORMap)
    nested["deep", ORMap]["title", LWWRegister].set({"a": [1, (2,)]})
    with kernel.batch():
        nested["tags", ORSet].add(1)
        kernel.document("count", PNCounter).increment(1)
    return kernel, deltas


def test_documents_with_one_name_and_two_types_are_two_documents():
    """The same name with two types never poisons either."""
    kernel = Kernel("a")
    kernel.document("x", ORSet).add(1)
    kernel.document("x", PNCounter).increment(2)
    assert list(kernel.documents()) == [("x", ORSet), ("x", PNCounter)]
    assert kernel.document("x", ORSet) == {1}
    assert kernel.document("x", PNCounter).value == 2


def test_deltas_in_any_order_give_the_state_of_their_writer():
    """Published deltas, reversed and repeated, through bytes, rebuild the writer's state."""
    kernel, deltas = written()
    other = Kernel("b")
    for delta in [*reversed(deltas), *deltas]:
        other.apply(Delta.decode(delta.encode()))
        other._check()
    assert other.canonical_bytes() == kernel.canonical_bytes()
    assert other.vector == kernel.vector == {"a": 7}


def test_a_peer_asks_with_its_vector_and_gets_what_it_lacks():
    """delta_since at every possible vector completes a replica that stopped there."""
    kernel, deltas = written()
    for known in range(len(deltas) + 1):
        other = Kernel("b")
        for delta in deltas[:known]:
            other.apply(delta)
        other.apply(kernel.delta_since(other.vector))
        assert other.digest() == kernel.digest()
        assert not kernel.delta_since(other.vector)


def test_a_byte_budget_cuts_between_batches_and_always_makes_progress():
    """With a budget of one byte a peer gets one batch at a time, and never half of one."""
    kernel, _ = written()
    other, answers = Kernel("b"), []
    while delta := kernel.delta_since(other.vector, bytes_max=1):
        answers.append(delta.ranges)
        other.apply(delta)
    assert answers == [(("a", n, n),) for n in range(1, 6)] + [(("a", 6, 7),)]
    assert other.digest() == kernel.digest()


def test_dropped_records_raise_a_floor_and_chunks_go_around_it():
    """Below the floor there is no delta; the chunk set tells the removal by absence."""
    kernel, deltas = written()
    other = Kernel("b")
    for delta in deltas[:2]:
        other.apply(delta)
    kernel.drop_records()
    with pytest.raises(BelowFloorError) as refused:
        kernel.delta_since(other.vector)
    assert (refused.value.origin, refused.value.asked) == ("a", 2)
    chunks = kernel.chunks(40)
    for chunk in reversed(chunks.chunks[1:]):
        other.apply_chunk(Chunk.decode(chunk.encode()))
        assert other.vector == {"a": 2}
    other.apply_chunk(chunks.chunks[0])
    assert other.vector == kernel.vector
    assert other.digest() == kernel.digest()


def test_a_change_names_documents_and_keys_and_is_falsy_without_one():
    """Subscribers learn which top-level keys changed, and nothing when no value did."""
    kernel, deltas = written()
    other = Kernel("b")
    changes = [other.apply(delta) for delta in deltas]
    assert [{(c.name, c.type, c.keys) for c in change.documents} for change in changes] == [
        {("tags", ORSet, frozenset({"x"}))},
        {("tags", ORSet, frozenset({True}))},
        {("tags", ORSet, frozenset({"x"}))},
        {("count", PNCounter, None)},
        {("m", ORMap, frozenset({"deep"}))},
        {("m", ORMap, frozenset({"tags"})), ("count", PNCounter, None)},
    ]
    assert other.apply(deltas[0]) == Change()
    kernel.document("tags", ORSet).add(True)
    assert not other.apply(kernel.delta_since(other.vector))


@pytest.mark.parametrize(
    ("kind", "write", "before", "after"),
    [
        (MVRegister, lambda view: view.set("x"), ("x",), ("x", "x")),
        (ResettableCounter, lambda view: view.increment(1), 1, 2),
    ],
)
def test_an_equal_value_beside_another_is_announced(kind, write, before, after):
    """The counterexample of the fuzzing kit: two replicas wrote the same, each under its number 1.

    The set of values stayed as it was, and the sum, and the conflict, came about unannounced.
    """
    a, b = kind("a"), kind("b")
    write(a)
    delta = write(b)
    assert a.value == before
    change = a.apply(delta)
    assert a.value == after
    assert [(each.type, each.keys) for each in change.documents] == [(kind, None)]


def test_an_agent_restarts_voids_its_lease_and_replays_its_journal():
    """Journal deltas go through replay, leased numbers are covered, a new life gets a new id."""
    kernel, deltas = written()
    again = Kernel("a")
    with pytest.raises(IdentityReusedError):
        again.apply(deltas[0])
    for delta in deltas:
        again.replay(delta)
    assert again.digest() == kernel.digest()
    void = again.void(1000)
    assert void.ranges == (("a", 8, 1000),)
    kernel.replay(Delta.decode(void.encode()))
    assert kernel.digest() == again.digest()
    view = again.document("count", PNCounter)
    again.reincarnate("a2")
    view.increment()
    assert again.vector == {"a": 1000, "a2": 1}
    assert view.value == 6


def test_a_snapshot_without_records_says_from_where_on_it_can_tell():
    """Its floor is the last removal that it left out: below that, chunks; above, deltas."""
    kernel = Kernel("a")
    tags = kernel.document("tags", ORSet)
    for number in range(4):
        tags.add(number)
    tags.remove(1)
    tags.remove(2)
    tags.add("after")
    again = Kernel.from_bytes(kernel.to_bytes(records=False), replica="a")
    for seq in range(6):
        with pytest.raises(BelowFloorError):
            again.delta_since({"a": seq})
    assert again.delta_since({"a": 6}).ranges == (("a", 7, 7),)
    whole = Kernel.from_bytes(kernel.to_bytes(), replica="a")
    assert whole.delta_since({"a": 4}) == kernel.delta_since({"a": 4})


def test_an_answer_is_never_cut_inside_of_a_batch():
    """Of two batches the first comes whole, whatever the budget; then the second."""
    kernel = Kernel("a")
    tags = kernel.document("tags", ORSet)
    for group in ("abc", "de"):
        with kernel.batch():
            for name in group:
                tags.add(name)
    for bytes_max in range(1, 400, 7):
        ends, seen = [], 0
        while seen < 5:
            ((_, first, seen),) = kernel.delta_since({"a": seen}, bytes_max=bytes_max).ranges
            ends.append((first, seen))
        assert ends in ([(1, 3), (4, 5)], [(1, 5)])


def test_batches_are_batches_after_a_restart():
    """An answer of the next life cuts where one of this life would."""
    kernel = Kernel("a")
    with kernel.batch():
        for name in "abc":
            kernel.document("tags", ORSet).add(name)
    again = Kernel.from_bytes(kernel.to_bytes(), replica="a")
    assert again.delta_since({}, bytes_max=1) == kernel.delta_since({}, bytes_max=1)
    assert again.delta_since({}, bytes_max=1).ranges == (("a", 1, 3),)


def test_a_fork_writes_later_than_all_that_it_took_over():
    """Its clock goes on where the other's was, without a wall clock too."""
    title = LWWRegister("a")
    for text in ("one", "two", "three"):
        title.set(text)
    twin = title.fork("b")
    assert twin.set("four").runs[0].events[0].stamp > title.kernel.clock.last


def test_a_restart_writes_beyond_every_stamp_that_was_reserved():
    """The snapshot is older than the crash: up to the ceiling, stamps may have been issued."""
    kernel = Kernel("a")
    title = kernel.document("title", LWWRegister)
    title.set("one")
    ceiling = kernel.clock.reserve(5_000)
    data = kernel.to_bytes()
    lost = title.set("written after the snapshot").runs[0].events[0].stamp
    again = Kernel.from_bytes(data, replica="a")
    stamp = again.document("title", LWWRegister).set("two").runs[0].events[0].stamp
    assert stamp > ceiling >= lost
    assert again.clock.ceiling == ceiling


def test_a_delta_falls_apart_into_its_batches():
    """Delta.batches gives one delta per batch, in order, and together they are the whole."""
    kernel, _ = written()
    delta = kernel.delta_since({})
    pieces = list(delta.batches())
    assert [piece.ranges[0][1:] for piece in pieces] == [(1, 2), (3, 3), (4, 5), (6, 7)]
    other = Kernel("b")
    for piece in pieces:
        other.apply(piece)
    assert other.digest() == kernel.digest()

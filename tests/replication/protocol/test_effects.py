"""What one step leaves, and how steps add up: persist, then send, then publish."""

from __future__ import annotations

import pytest

from crdt import GCounter, Kernel, ORSet
from replication.protocol.effects import (
    CHUNK,
    DELTA,
    NOTHING,
    OWN,
    Effects,
    Pending,
    Row,
    Send,
    Written,
)


@pytest.fixture
def pending() -> Pending:
    return Pending()


def wrote(pending: Pending) -> Kernel:
    kernel = Kernel("ada~1")
    kernel.on_delta = pending.write
    return kernel


def test_steps_add_up_in_order_and_the_later_vector_counts():
    """So a shell may commit many of them in one transaction."""
    one = Effects((Row(OWN, b"1"),), (Send("h:1", b"f", 1),), vector={"ada~1": 1})
    two = Effects((Row(OWN, b"2"),), vector={"ada~1": 2})
    both = sum((one, two, NOTHING), NOTHING)
    assert [row.data for row in both.persist] == [b"1", b"2"]
    assert (both.send, both.vector) == (one.send, {"ada~1": 2})
    assert not NOTHING


def test_what_happened_becomes_rows_and_publications_by_their_cause(pending):
    """Each kind of row says where it came from; a change that shows nothing is not published."""
    kernel = wrote(pending)
    kernel.document("n", GCounter).increment()
    other = Kernel("bob~1")
    delta = other.document("n", GCounter).increment(5)
    row = Row(DELTA, delta.encode(), delta.ranges)
    pending.merge(row, kernel.apply(delta))
    pending.merge(row, kernel.apply(delta))  # it was known: nothing to see
    pending.join(Row(CHUNK, b"chunk"), kernel.apply(other.document("n", GCounter).increment()))
    effects = pending.take([], kernel)
    assert [row.kind for row in effects.persist] == [OWN, DELTA, DELTA, CHUNK]
    assert [p.cause for p in effects.publish] == ["local", "remote", "bootstrap"]
    assert effects.vector == {"ada~1": 1, "bob~1": 2}
    assert pending.take([], kernel) == Effects()


def test_a_write_is_encoded_once_as_long_as_it_is_all_the_news_there_is(pending):
    """What the journal keeps is what a peer lacks that has all but this write."""
    kernel = wrote(pending)
    kernel.document("set", ORSet).add("x")
    with kernel.batch():
        kernel.document("set", ORSet).remove("x")
        kernel.document("set", ORSet).add("y")
    assert pending.written is None  # two writes: neither alone is the news
    pending.spread()
    pending.take([], kernel)
    with kernel.batch():
        kernel.document("set", ORSet).add("z")
        kernel.document("set", ORSet).remove("y")
    written = pending.written
    assert written.data == kernel.delta_since({"ada~1": written.first - 1}).encode()
    assert written.covers({"ada~1": 3}, kernel.vector)
    assert not written.covers({"ada~1": 2}, kernel.vector)
    delta = Kernel("bob~1").document("set", ORSet).add("w")
    pending.merge(Row(DELTA, delta.encode()), kernel.apply(delta))
    assert pending.written is None  # what came on top may have changed what is left of it


def test_a_write_covers_a_peer_that_lacks_nothing_else():
    """Other origins named there have to be known in full."""
    written = Written("ada~1", 4, 5, b"")
    applied = {"ada~1": 5, "bob~1": 7}
    assert written.covers({"ada~1": 3, "bob~1": 7}, applied)
    assert not written.covers({"ada~1": 3, "bob~1": 6}, applied)
    assert not written.covers({"ada~1": 3}, {"ada~1": 6})

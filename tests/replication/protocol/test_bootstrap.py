"""Chunk sets: what a donor keeps, what a receiver asks for, and where it goes on after a cut."""

from __future__ import annotations

import random

import pytest

from crdt import Kernel, LWWRegister
from replication.config import Config
from replication.errors import BusyError, MalformedFrameError
from replication.protocol.bootstrap import CUT_KEPT_S, CUTS_MAX, Donor, Receiver
from replication.protocol.messages import ChunkGiven, ChunkWanted

CONFIG = Config(chunk_bytes=2000, chunks_in_flight=3)


def filled(name: str = "ada~1", entries: int = 200) -> Kernel:
    kernel, dice = Kernel(name), random.Random(1)
    for number in range(entries):
        kernel.document(f"r/{number}", LWWRegister).set(dice.randbytes(50))
    return kernel


@pytest.fixture
def donor() -> Donor:
    return Donor(filled(), CONFIG)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(Kernel("bob~1"), CONFIG)


def carried(donor: Donor, receiver: Receiver, wanted: list[ChunkWanted], count: int) -> list:
    """Give so many of the chunks asked for, in order; what is asked for then."""
    wanted = list(wanted)
    for _ in range(count):
        if not wanted:
            break
        _, more = receiver.take(donor.give(wanted.pop(0), 0.0))
        wanted += more
    return wanted


def test_a_newcomer_asks_for_one_chunk_and_then_for_a_few_at_a_time(donor, receiver):
    """The first answer names the set; the vector rises when all of it is here, not before."""
    (first,) = receiver.reset("h:1", donor.kernel.vector, 0.0)
    assert first == ChunkWanted(b"", 0)
    change, more = receiver.take(donor.give(first, 0.0))
    assert change is not None
    assert [w.index for w in more] == [1, 2, 3]
    assert not receiver.kernel.vector
    assert carried(donor, receiver, more, 10_000) == []
    assert receiver.kernel.vector == donor.kernel.vector
    assert receiver.kernel.digest() == donor.kernel.digest()
    assert not receiver.active


def test_a_cut_join_goes_on_where_it_was(donor, receiver):
    """The next try with that donor asks for the first chunk that is lacking, of the same set."""
    wanted = carried(donor, receiver, receiver.reset("h:1", donor.kernel.vector, 0.0), 5)
    set_id = receiver.set_id
    assert wanted
    receiver.stop()
    assert receiver.reset("h:1", donor.kernel.vector, 1.0) == [ChunkWanted(set_id, 5)]


def test_chunks_that_the_journal_kept_are_not_asked_for_again(donor):
    """After a crash a receiver starts anew; it knows the chunks by the id of their set."""
    chunks = [donor.give(ChunkWanted(b"", 0), 0.0)]
    chunks += [donor.give(ChunkWanted(chunks[0].set_id, n), 0.0) for n in (1, 3)]
    kernel = Kernel("bob~1")
    before = Receiver(kernel, CONFIG)
    before.reset("h:1", donor.kernel.vector, 0.0)
    for chunk in chunks:
        before.take(chunk)
    after = Receiver(kernel, CONFIG)
    after.kept(chunk.data for chunk in chunks)
    (first,) = after.reset("h:1", donor.kernel.vector, 0.0)
    change, more = after.take(donor.give(first, 0.0))
    assert change is None  # it was here
    assert [w.index for w in more] == [2, 4, 5]


def test_who_lacks_little_waits_for_another_peer_before_it_asks_for_a_state(donor):
    """One interval; if it has got on by then, the wait begins anew."""
    receiver = Receiver(filled("bob~1", 1), CONFIG)
    theirs = {"ada~1": 200}
    assert receiver.reset("h:1", theirs, 0.0) == []
    assert receiver.reset("h:1", theirs, 0.5) == []
    assert receiver.reset("h:1", theirs, 1.0) == [ChunkWanted(b"", 0)]
    assert receiver.reset("h:2", theirs, 1.0) == []  # one at a time


def test_a_donor_in_pieces_donates_nothing(receiver):
    """Its own state is not one that anybody had."""
    receiver.may_donate()
    receiver.reset("h:1", {"ada~1": 9}, 0.0)
    with pytest.raises(BusyError):
        receiver.may_donate()


def test_a_donor_keeps_few_cuts_for_a_while(donor):
    """One that nobody asks for is dropped: then a new set is cut, and its first chunk given."""
    first = donor.give(ChunkWanted(b"", 0), 0.0)
    donor.keep(ChunkWanted(first.set_id, 1), CUT_KEPT_S)
    assert donor.give(ChunkWanted(first.set_id, 1), 2 * CUT_KEPT_S).set_id == first.set_id
    donor.kernel.document("more", LWWRegister).set(1)
    fresh = donor.give(ChunkWanted(first.set_id, 1), 3 * CUT_KEPT_S + 1)
    assert (fresh.set_id != first.set_id, fresh.index) == (True, 0)
    for number in range(CUTS_MAX + 1):
        donor.kernel.document("more", LWWRegister).set(number)
        donor.give(ChunkWanted(b"", 0), 3 * CUT_KEPT_S)
    assert len(donor._cuts) == CUTS_MAX


def test_what_is_not_the_chunk_asked_for_is_refused(donor, receiver):
    """By its index at the donor; by its content at the receiver."""
    first = donor.give(ChunkWanted(b"", 0), 0.0)
    with pytest.raises(MalformedFrameError, match="no 9999"):
        donor.give(ChunkWanted(first.set_id, 9999), 0.0)
    for wrong in (
        ChunkGiven(first.set_id, 0, first.total, b"junk"),
        ChunkGiven(first.set_id, 1, first.total, first.data),
        ChunkGiven(b"another set", 0, first.total, first.data),
    ):
        with pytest.raises(MalformedFrameError):
            receiver.take(wrong)

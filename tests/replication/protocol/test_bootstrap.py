"""Chunk sets: what a donor keeps, what a receiver asks for, and where it goes on after a cut."""

from __future__ import annotations

import random

import pytest

from crdt import Kernel, LWWRegister
from replication.config import Config
from replication.errors import BusyError, MalformedFrameError
from replication.protocol.bootstrap import CUT_KEPT_S, CUTS_MAX, Donor, Receiver
from replication.protocol.messages import BlocksWanted, ChunkGiven, ChunkWanted

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
        _, more = receiver.take(donor.give(wanted.pop(0), 0.0), 0.0)
        wanted += more
    return wanted


def test_a_newcomer_asks_for_one_chunk_and_then_for_a_few_at_a_time(donor, receiver):
    """The first answer names the set; the vector rises when all of it is here, not before."""
    (first,) = receiver.reset("h:1", donor.kernel.vector, 0.0)
    assert first == ChunkWanted(b"", 0)
    change, more = receiver.take(donor.give(first, 0.0), 0.0)
    assert change is not None
    assert [w.index for w in more] == [1, 2]
    more = carried(donor, receiver, more, 1)
    assert [w.index for w in more] == [2, 3, 4]
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
        before.take(chunk, 0.0)
    after = Receiver(kernel, CONFIG)
    after.kept(chunk.data for chunk in chunks)
    (first,) = after.reset("h:1", donor.kernel.vector, 0.0)
    change, more = after.take(donor.give(first, 0.0), 0.0)
    assert change is None  # it was here
    assert [w.index for w in more] == [2, 4]


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
        donor.kernel.drop_records()  # deltas do not lead on from the cuts before
        donor.give(ChunkWanted(b"", 0), 3 * CUT_KEPT_S)
    assert len(donor._cuts) == CUTS_MAX


def test_requests_that_name_no_set_share_a_cut_while_deltas_lead_on_from_it(monkeypatch):
    """Counterexample: 13 cuts of one state, its first request repeated while writes went on."""
    config = Config(chunk_bytes=2000, chunks_above_events=50)
    donor, cuts, sound = Donor(filled(), config), [], Kernel.chunks
    monkeypatch.setattr(Kernel, "chunks", lambda *given: cuts.append(1) or sound(*given))
    first = donor.give(ChunkWanted(b"", 0), 0.0)
    for number in range(13):
        donor.kernel.document("more", LWWRegister).set(number)
        now_s = number * CUT_KEPT_S / 2
        assert donor.give(ChunkWanted(b"", 0), now_s).set_id == first.set_id
        assert donor.give(ChunkWanted(b"lost", 7), now_s).index == 0
    assert len(cuts) == 1
    for number in range(50):
        donor.kernel.document(f"much/{number}", LWWRegister).set(number)
    second = donor.give(ChunkWanted(b"", 0), 6 * CUT_KEPT_S)
    assert (second.set_id != first.set_id, len(cuts)) == (True, 2)
    for number in range(100):  # both are wanted: a third would take one away from somebody
        donor.kernel.document(f"much/{number}", LWWRegister).set(-number)
    assert donor.give(ChunkWanted(b"", 0), 6 * CUT_KEPT_S).set_id == second.set_id
    assert donor.give(ChunkWanted(first.set_id, 1), 6 * CUT_KEPT_S).set_id == first.set_id
    assert len(cuts) == 2


def test_blocks_to_mend_take_no_cut_away_from_a_newcomer(donor):
    """They are kept beside the states, and as few."""
    first = donor.give(ChunkWanted(b"", 0), 0.0)
    for number in range(5):
        donor.kernel.document("more", LWWRegister).set(number)
        donor.give_blocks(BlocksWanted(b"", (("ada~1", 0),)), 0.0)
    assert len(donor._cuts) == 1 + CUTS_MAX
    assert donor.give(ChunkWanted(first.set_id, 1), 0.0).set_id == first.set_id


def test_as_many_chunks_are_under_way_as_come_well_within_their_time(donor):
    """Soon: twice as many. Slow, as the link is: fewer. Lost: half, and the last one again."""
    config = Config(chunk_bytes=500, chunks_in_flight=8)
    donor, receiver = Donor(filled(), config), Receiver(Kernel("bob~1"), config)

    def come(wanted: list[ChunkWanted], now_s: float) -> list[ChunkWanted]:
        _, more = receiver.take(donor.give(wanted.pop(0), now_s), now_s)
        return wanted + more

    wanted = receiver.reset("h:1", donor.kernel.vector, 0.0)
    windows = []
    for _ in range(6):
        wanted = come(wanted, 0.0)
        windows.append(receiver.window)
    assert windows == [2, 4, 8, 8, 8, 8]
    wanted = come(wanted, 16.0)  # one of eight took two seconds of its own
    assert receiver.window == 1
    while len(wanted) > 1:
        assert receiver.lost("h:1", wanted.pop(), 20.0) == []
    assert receiver.lost("h:2", wanted[0], 20.0) == []  # of somebody else
    again = receiver.lost("h:1", wanted[0], 20.0)
    assert again == [ChunkWanted(receiver.set_id, wanted[0].index)]
    assert receiver.lost("h:1", again[0], 30.0) == again
    assert receiver.lost("h:1", again[0], 40.0) is None
    assert not receiver.active
    assert receiver.is_joining(25.0) is False  # so little is told by deltas as well


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
            receiver.take(wrong, 0.0)

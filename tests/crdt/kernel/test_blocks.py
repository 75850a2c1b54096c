"""The digest of the state: hashes of blocks, what keeps them up to date, and what they mend."""

from __future__ import annotations

from collections import Counter

import pytest

from crdt import Dot, DoubleSpentDotError, Kernel, LWWRegister, ORSet
from tests.crdt.kernel.block_schedules import (
    MENDABLE,
    PLANTED,
    Schedule,
    differing,
    mend,
    without_kills,
)
from tests.scale import rounds, seeds


@pytest.mark.parametrize("planted", PLANTED)
def test_equal_vectors_and_digests_are_equal_bytes_and_what_differs_is_seen_and_mended(planted):
    """20 000 schedules of exchange by vectors with restarts, floors, forks, chunks and cuts."""
    count = rounds(20_000 // len(PLANTED), 200)
    (seed,) = seeds(1)
    print(f"Schedule({seed}...{seed + count}, {planted!r})")
    statistics, apart = Counter[str](), 0
    for number in range(seed, seed + count):
        run = Schedule(number, planted)
        if run.apart():
            apart += 1
            contradicted = run.mend()
            assert contradicted == run.planted, number
            assert run.apart() == (planted not in MENDABLE), number
        else:
            assert planted in {"", "kills left out"}, number  # overwritten later, or told in full
        statistics += run.statistics
    assert statistics["compared"] > 2 * count
    least = count // 200 if planted == "" else count // 2
    assert apart > least or count < 200  # so few, in brief, may all come together


def pair() -> tuple[Kernel, Kernel]:
    """Two kernels that hold the same 3 000 entries of one origin, hashed."""
    ada, bob = Kernel("ada"), Kernel("bob")
    for number in range(3000):
        ada.document("s", ORSet).add(number)
    bob.apply(ada.delta_since({}))
    assert ada.hash_blocks()
    assert bob.hash_blocks()
    return ada, bob


def test_equal_states_have_equal_digests_however_they_came_to_be():
    """By deltas, chunks, merge, from bytes, in slices or at once; and another one if it differs."""
    ada, bob = pair()
    assert len(ada.block_hashes()) == 3
    assert len(ada.state_digest) == 16
    assert ada.state_digest == bob.state_digest
    again, eve, flo = Kernel.from_bytes(ada.to_bytes(), replica="ada"), Kernel("eve"), Kernel("flo")
    for chunk in ada.chunks(5000).chunks:
        eve.apply_chunk(chunk)
    flo.merge(ada)
    for kernel in (again, eve, flo):
        assert kernel.state_digest == b""
        assert not kernel.hash_blocks(2)
        assert kernel.state_digest == b""
        assert kernel.hash_blocks(2)
        assert kernel.state_digest == ada.state_digest
        assert kernel.block_hashes() == ada.block_hashes()
    ada.document("s", ORSet).remove(7)
    assert ada.state_digest == b""
    assert ada.hash_blocks()
    assert ada.state_digest != bob.state_digest


def test_a_write_marks_what_it_took_and_nothing_else_is_hashed_again():
    """One mark per entry that dies; what is new is known by its number."""
    ada, _ = pair()
    before = ada.block_hashes()
    ada.document("s", ORSet).add("new")
    assert not ada._state.live.dirty
    ada.document("s", ORSet).remove(1500)
    assert len(ada._state.live.dirty) == 1
    assert not ada.hash_blocks(1)
    assert ada.hash_blocks(1)
    after = ada.block_hashes()
    assert {key[1] for key in after if after[key] != before.get(key)} == {1, 2}


def test_there_is_no_digest_while_vectors_do_not_tell_all():
    """An open batch, a dot seen beyond the vector: no digest. A doomed dot is part of it."""
    ada, bob = pair()
    with ada.batch():
        assert not ada.hash_blocks()
        assert ada.state_digest == b""
        ada.document("s", ORSet).add("in a batch")
    deltas = [ada.document("s", ORSet).add(f"late {number}") for number in range(2)]
    bob.apply(ada.delta_since(bob.vector, bytes_max=1))
    bob.apply(deltas[1])
    assert bob.hash_blocks()
    assert bob.state_digest == b""
    bob.apply(deltas[0])
    assert bob.hash_blocks()
    assert ada.hash_blocks()
    assert bob.vector == ada.vector
    assert bob.state_digest == ada.state_digest != b""
    eve, flo = ORSet("eve"), ORSet("flo")
    flo.apply(eve.add("unheard"))
    removal = flo.remove("unheard")
    for kernel in (ada, bob):
        kernel.apply(removal)
        kernel._check()
        assert kernel.hash_blocks()
    assert ada.state_digest == bob.state_digest
    assert ("eve", 0) in ada.block_hashes()
    ada._state.doomed.clear()
    ada._state.live.dirty.add(ada._state.live.bases["eve"] >> 10)
    ada.hash_blocks()
    assert differing(ada, bob) == [("eve", 0)]
    assert mend(ada, bob, 100) == set()
    assert ada.stats()["doomed"] == 1


def test_a_lost_removal_is_mended_by_one_block_of_three():
    """Only the block that differs travels; who knew the removal learns and loses nothing."""
    ada, bob = pair()
    removal = ada.document("s", ORSet).remove(2000)
    bob.apply(without_kills(removal))
    for kernel in (ada, bob):
        kernel.hash_blocks()
    assert ada.vector == bob.vector
    assert differing(ada, bob) == [("ada", 1)]
    chunks = bob.block_chunks([("ada", 1)], 1 << 20).chunks
    assert sum(len(span.seqs) for chunk in chunks for span in chunk.open().spans) == 1024
    assert mend(ada, bob, 4000) == set()
    assert ada.digest() != bob.digest()
    assert mend(bob, ada, 4000) == set()
    assert ada.digest() == bob.digest()
    assert bob.stats()["chunks_aside"] == 0


def test_two_events_under_one_number_are_named_and_the_rest_is_mended():
    """Equivocation: an error to who joins a state, a name on a list to who mends one."""
    ada, bob = pair()
    for kernel, value in ((ada, "pay 1"), (bob, "pay 1000")):
        kernel.apply(Kernel("eve").document("order", LWWRegister).set(value))
    bob.apply(without_kills(ada.document("s", ORSet).remove(5)))
    for kernel in (ada, bob):
        kernel.hash_blocks()
    wanted = differing(bob, ada)
    assert wanted == [("ada", 0), ("eve", 0)]
    before = bob.canonical_bytes()
    (chunk,) = ada.block_chunks(wanted, 1 << 20).chunks
    with pytest.raises(DoubleSpentDotError):
        bob.apply_chunk(chunk)
    assert bob.canonical_bytes() == before
    assert mend(bob, ada, 1 << 20) == {Dot("eve", 1)}
    assert bob.document("order", LWWRegister).value == "pay 1000"
    bob.hash_blocks()
    assert differing(bob, ada) == [("eve", 0)]


def test_a_set_that_contradicts_is_not_taken_for_known():
    """It is joined but for one dot, so it says that again when it comes again."""
    ada, bob = pair()
    for kernel, value in ((ada, "pay 1"), (bob, "pay 1000")):
        kernel.apply(Kernel("eve").document("order", LWWRegister).set(value))
        kernel.hash_blocks()
    for _ in range(2):
        assert mend(bob, ada, 1 << 20) == {Dot("eve", 1)}
    bob.document("order", LWWRegister).set("pay 2")
    ada.apply(bob.delta_since(ada.vector))
    for kernel in (ada, bob):
        kernel.hash_blocks()
    assert ada.state_digest == bob.state_digest


def test_wide_gaps_cost_nothing():
    """A void range of a billion numbers is no billion blocks."""
    ada = Kernel("ada")
    ada.document("s", ORSet).add("x")
    ada.void(1 << 39)
    ada.document("s", ORSet).add("y")
    assert ada.hash_blocks(3)
    assert ada.block_hashes().keys() == {("ada", 0), ("ada", 1 << 29)}
    nothing = [("ada", 5), ("nobody", 0), ("ada", 1 << 62), ("ada", -1)]
    (chunk,) = ada.block_chunks([*nothing, ("ada", 1 << 29)], 100).chunks
    assert [len(span.seqs) for span in chunk.open().spans] == [0, 1]

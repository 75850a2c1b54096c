"""Chunks weigh about what was asked for, whatever they are made of, and can always be opened."""

import pytest

from crdt import Chunk, Kernel, LWWMap, LWWRegister, ORMap, ORSet
from crdt.kernel.envelope import unseal


def wide_text(kernel):
    """Text of which each character takes three or four bytes."""
    for number in range(150):
        kernel.document("m", LWWMap).put(f"schlüssel-{number}", "漢😀" * 20)


def many_documents(kernel):
    """Documents with long names and one small entry each."""
    for number in range(150):
        kernel.document(f"{'a-long-name-' * 6}{number}", LWWRegister).set(1)


def many_children(kernel):
    """The same within a map."""
    for number in range(150):
        kernel.document("m", ORMap).child(f"{'ö' * 60}{number}", LWWRegister).set(1)


def in_turn(kernel):
    """Entries of documents by turns, so that each chunk names most of them."""
    for number in range(300):
        kernel.document(f"{'name' * 20}{number % 50}", LWWMap).put(number, number)


def doomed(kernel):
    """Removals whose adds are still on their way, and a few entries."""
    writer = Kernel("writer-of-the-adds")
    adds = [writer.document("s", ORSet).add(number) for number in range(600)]
    eraser = Kernel("eraser")
    for add in adds:
        eraser.apply(add)
    for number in range(0, 600, 2):
        kernel.apply(eraser.document("s", ORSet).remove(number))
    for number in range(50):
        kernel.document("s", ORSet).add(("mine", number))


@pytest.mark.parametrize("fill", [wide_text, many_documents, many_children, in_turn, doomed])
def test_no_chunk_weighs_more_than_was_asked_for(fill):
    """Counted by characters, and without the paths, a chunk weighed eight times its limit."""
    kernel = Kernel("k")
    fill(kernel)
    chunks = kernel.chunks(2000).chunks
    sizes = [len(unseal("e", chunk.content)) for chunk in chunks]
    assert max(sizes) <= 2000
    assert sum(sizes[:-1]) >= 600 * (len(sizes) - 1)
    reader = Kernel("r")
    for chunk in reversed(chunks):
        reader.apply_chunk(Chunk.decode(chunk.encode()))
    assert reader.canonical_bytes() == kernel.canonical_bytes()


@pytest.mark.parametrize("fill", [wide_text, many_documents, many_children, in_turn])
def test_a_snapshot_of_wide_text_and_long_names_fits_its_envelopes(fill, monkeypatch):
    """17 million wide characters made one envelope that nobody would open: no restart after it."""
    monkeypatch.setattr("crdt.kernel.snapshot.PIECE_BYTES", 1 << 11)
    monkeypatch.setattr("crdt.kernel.envelope.BODY_BYTES_MAX", 1 << 12)
    kernel = Kernel("k")
    fill(kernel)
    again = Kernel.from_bytes(kernel.to_bytes(records=False), replica="k")
    assert again.canonical_bytes() == kernel.canonical_bytes()

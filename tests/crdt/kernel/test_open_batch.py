"""An open batch: what it wrote is read inside, and nothing of it leaves before its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crdt import (
    BatchOpenError,
    Chunk,
    CRDTError,
    Delta,
    Dot,
    EWFlag,
    Kernel,
    LWWMap,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class GivenUpError(Exception):
    """What ends a batch of these tests."""


def giving_out(kernel: Kernel, peer: Kernel) -> dict[str, Callable[[], object]]:
    """Every way in which state leaves a kernel, or changes what may leave later."""
    return {
        "merge": lambda: peer.merge(kernel),
        "merge, the other way": lambda: kernel.merge(peer),
        "apply": lambda: kernel.apply(Delta()),
        "replay": lambda: kernel.replay(Delta()),
        "apply_chunk": lambda: kernel.apply_chunk(peer.chunks(100).chunks[0]),
        "delta_since": lambda: kernel.delta_since({}),
        "delta_since, in pieces": lambda: kernel.delta_since({}, bytes_max=100),
        "chunks": lambda: kernel.chunks(1000),
        "documents_since": lambda: kernel.documents_since({}),
        "to_bytes": kernel.to_bytes,
        "to_bytes, bare": lambda: kernel.to_bytes(records=False),
        "canonical_bytes": kernel.canonical_bytes,
        "digest": kernel.digest,
        "fork": lambda: kernel.fork("f"),
        "reincarnate": lambda: kernel.reincarnate("f"),
        "void": lambda: kernel.void(1000),
        "drop_records": kernel.drop_records,
    }


@pytest.mark.parametrize("way", giving_out(Kernel("a"), Kernel("b")))
def test_nothing_of_a_batch_leaves_before_its_end(way: str) -> None:
    """Refused inside; after a roll back the dots are used again, and nobody holds other entries."""
    kernel, peer = Kernel("a"), Kernel("b")
    peer.document("theirs", ORSet).add(1)
    elements = kernel.document("s", ORSet)
    elements.add("before")
    peer.merge(kernel)
    before = kernel.canonical_bytes()

    def give_up() -> None:
        with kernel.batch():
            elements.add("never")
            elements.remove("before")
            with pytest.raises(BatchOpenError, match="'a'"):
                giving_out(kernel, peer)[way]()
            raise GivenUpError

    with pytest.raises(GivenUpError):
        give_up()
    assert kernel.canonical_bytes() == before
    elements.add("after")
    peer.apply(kernel.delta_since(peer.vector))
    assert peer.document("s", ORSet).value == {"before", "after"}
    peer._check()
    kernel._check()
    giving_out(kernel, peer)[way]()


def test_an_empty_batch_gives_nothing_out_either() -> None:
    """Whether it has written yet is not for others to find out."""
    kernel = Kernel("a")
    with kernel.batch():
        for way, give in giving_out(kernel, Kernel("b")).items():
            with pytest.raises(BatchOpenError):
                give()
            assert not kernel.vector, way


def test_what_was_seen_is_what_was_before_the_batch() -> None:
    """Vector and context leave out what may be rolled back; values read inside do not."""
    kernel, other = Kernel("a"), Kernel("b")
    other.document("s", ORSet).add("theirs")
    kernel.merge(other)
    elements, flag = kernel.document("s", ORSet), kernel.document("f", EWFlag)
    elements.add("mine")
    vector, context = kernel.vector, kernel.context
    with kernel.batch():
        elements.add("new")
        flag.enable()
        with kernel.batch():
            elements.add("newer")
            assert kernel.vector == vector
        assert (kernel.vector, kernel.context, elements.context) == (vector, context, context)
        assert elements.value == {"theirs", "mine", "new", "newer"}
        assert flag.value
        assert "a:1" in repr(kernel)
        kernel._check()
    assert kernel.vector == {"a": 4, "b": 1}
    assert kernel.context.covers("a", 4)


def test_a_context_of_a_batch_that_was_rolled_back_names_no_later_event() -> None:
    """`seen=` taken inside names nothing that came after: new events under those dots stay."""
    kernel = Kernel("a")
    elements, keys = kernel.document("s", ORSet), kernel.document("m", LWWMap)
    taken = []

    def give_up() -> None:
        with kernel.batch():
            elements.add("x")
            keys.put("k", 1)
            taken.extend([kernel.context, kernel.vector])
            raise GivenUpError

    with pytest.raises(GivenUpError):
        give_up()
    elements.add("x")
    keys.put("k", 2)
    for seen in taken:
        elements.remove("x", seen=seen)
        keys.delete("k", seen=seen)
    assert elements.value == {"x"}
    assert keys.value == {"k": 2}


def test_a_context_is_cut_also_where_more_was_seen_than_applied() -> None:
    """After a cut state the context runs ahead of the vector; own open events are in neither."""
    donor, kernel = Kernel("d"), Kernel("a")
    delta = donor.document("s", ORSet).add(1)
    later = donor.document("s", ORSet).add(2)
    other = Kernel("o")
    other.apply(later)
    kernel.merge(other)
    kernel.document("c", PNCounter).increment()
    for chunk in other.chunks(100).chunks:
        kernel.apply_chunk(Chunk.decode(chunk.encode()))
    before = kernel.context
    with kernel.batch():
        kernel.document("c", PNCounter).increment()
        assert kernel.context == before
        assert Dot("a", 2) not in kernel.context
    assert Dot("a", 2) in kernel.context
    kernel.apply(delta)
    kernel._check()


def test_reads_of_values_work_in_a_batch_of_ones_own() -> None:
    """Views, documents, explanations of views: what a writer needs to decide what to write next."""
    kernel = Kernel("a")
    tree, counter = kernel.document("t", ORMap), kernel.document("r", ResettableCounter)
    with kernel.batch() as batch:
        tree["tags", ORSet].add("x")
        counter.increment(2)
        counter.increment(3, op_id="o")
        assert tree["tags", ORSet].value == {"x"}
        assert counter.value == 5
        assert sorted(name for name, _ in kernel.documents()) == ["r", "t"]
        assert "'x'" in tree["tags", ORSet].debug()
        assert kernel.stats()["entries"] == kernel.entries == 3
        assert not batch.delta
    assert batch.delta
    assert counter.value == 5


def test_a_batch_of_the_other_side_is_refused_with_nothing_changed() -> None:
    """Whoever merges from a replica whose batch is open is told whose it is."""
    mine, theirs = ORSet("a"), ORSet("b")
    mine.add(1)
    with theirs.batch():
        theirs.add(2)
        for attempt in (lambda: mine.merge(theirs), theirs.to_bytes, lambda: theirs.fork("c")):
            with pytest.raises(CRDTError, match="'b'"):
                attempt()
        assert mine.value == {1}
    mine.merge(theirs)
    assert mine.value == {1, 2}

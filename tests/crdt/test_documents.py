"""Documents of one kernel by the beginning of their names: listed, and deleted at once."""

import pytest

from crdt import (
    BatchTooLargeError,
    BoundedCounter,
    CRDTError,
    DeletionRefusedError,
    Delta,
    GSet,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    ORMap,
    ORSet,
    PNCounter,
)


def filled(replica="k"):
    """Three documents below "a/", one of them nested, and one beside."""
    kernel = Kernel(replica)
    kernel.document("a/tags", ORSet).update({1, 2})
    kernel.document("a/tags", GSet).add("x")
    kernel.document("a/map", ORMap)["deep", ORMap]["n", PNCounter] += 5
    kernel.document("b", LWWRegister).set("stays")
    return kernel


def test_documents_are_listed_by_the_beginning_of_their_names():
    """In order; the empty prefix, and none, name all of them."""
    kernel = filled()
    below = [("a/map", ORMap), ("a/tags", GSet), ("a/tags", ORSet)]
    assert list(kernel.documents("a/")) == below
    assert list(kernel.documents()) == list(kernel.documents("")) == [*below, ("b", LWWRegister)]
    assert list(kernel.documents("a/tags")) == below[1:]
    assert list(kernel.documents("none")) == []
    for wrong in (None, 1, b"a"):
        with pytest.raises(InvalidValueError):
            list(kernel.documents(wrong))


def test_a_deletion_by_prefix_is_one_event_that_every_replica_honours():
    """One dot, one delta; nothing of them is left, views go on, and what is beside stays."""
    kernel, heard = filled(), []
    tags = kernel.document("a/tags", ORSet)
    other = Kernel("o")
    other.merge(kernel)
    kernel.on_delta = lambda delta, change: heard.append((delta, change))
    before = kernel.vector["k"]
    delta = kernel.delete("a/")
    assert kernel.vector["k"] == before + 1
    [(told, change)] = heard
    assert told == delta
    assert {each.name for each in change.documents} == {"a/tags", "a/map"}
    assert list(kernel.documents()) == [("b", LWWRegister)]
    assert kernel.entries == 1
    assert tags == set()
    other.apply(Delta.decode(delta.encode()))
    assert other.canonical_bytes() == kernel.canonical_bytes()
    assert not kernel.delete("a/")
    assert not kernel.delete("none")
    tags.add(3)
    assert list(kernel.documents()) == [("a/tags", ORSet), ("b", LWWRegister)]
    kernel._check()


def test_what_was_not_seen_survives_a_deletion():
    """A concurrent write stays, as does what a read context does not cover."""
    kernel = filled()
    other = Kernel("o")
    other.merge(kernel)
    other.document("a/tags", ORSet).add("concurrent")
    other.document("a/new", LWWMap)["k"] = 1
    read = kernel.context
    kernel.document("a/tags", ORSet).add("after reading")
    kernel.delete("a/", seen=read)
    assert kernel.document("a/tags", ORSet) == {"after reading"}
    kernel.merge(other)
    other.merge(kernel)
    for each in (kernel, other):
        assert each.document("a/tags", ORSet) == {"after reading", "concurrent"}
        assert list(each.documents("a/")) == [("a/new", LWWMap), ("a/tags", ORSet)]
        each._check()
    with pytest.raises(InvalidValueError, match="seen="):
        kernel.delete("a/", seen=5)


def test_a_deletion_is_refused_whole():
    """Spent rights are not forgotten, an empty prefix is a slip, a limit is a limit."""
    kernel = filled()
    kernel.document("a/seats", BoundedCounter.at_least(2)).increment(3)
    before = kernel.canonical_bytes()
    with pytest.raises(DeletionRefusedError, match="a/seats") as refused:
        kernel.delete("a/")
    assert refused.value.documents == ("a/seats",)
    for wrong in ("", None, 5):
        with pytest.raises(InvalidValueError):
            kernel.delete(wrong)

    def read_only():
        raise CRDTError("read only")

    kernel.before_write = read_only
    with pytest.raises(CRDTError, match="read only"):
        kernel.delete("a/tags")
    kernel.before_write = None
    kernel.batch_bytes_max = 1
    with pytest.raises(BatchTooLargeError):
        kernel.delete("a/tags")
    kernel.batch_bytes_max = None
    assert kernel.canonical_bytes() == before
    with pytest.raises(ZeroDivisionError), kernel.batch():  # noqa: PT012  # a batch
        kernel.delete("a/tags")
        assert not list(kernel.documents("a/tags"))
        1 / 0  # noqa: B018  # the error itself is the point
    assert kernel.canonical_bytes() == before
    kernel._check()

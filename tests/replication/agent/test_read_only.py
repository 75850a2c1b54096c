"""Read-only views: everything reads as always, every mutator is refused, children included."""

from __future__ import annotations

import pytest

from crdt import Kernel, LWWRegister, ORMap, ORSet, PNCounter
from replication import ForbiddenWriteError
from replication.agent.read_only import read_only_view

WHY = "'doc' is not bob's to write"


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel("ada~1")
    made.document("doc", ORSet).add("x")
    made.document("doc", PNCounter).increment(2)
    made.document("doc", LWWRegister).set("paid")
    made.document("doc", ORMap).child("n", PNCounter).increment(1)
    return made


def test_a_view_reads_what_the_document_holds_now(kernel):
    """It is a view and no copy: what is written elsewhere is seen."""
    view = read_only_view(kernel, "doc", ORSet, WHY)
    assert set(view) == {"x"}
    kernel.document("doc", ORSet).add("y")
    assert set(view) == {"x", "y"}
    assert "y" in view
    assert len(view) == 2


@pytest.mark.parametrize(
    ("kind", "mutate"),
    [
        (ORSet, lambda view: view.add("z")),
        (ORSet, lambda view: view.remove("x")),
        (ORSet, lambda view: view.clear()),
        (PNCounter, lambda view: view.increment(1)),
        (LWWRegister, lambda view: view.set("open")),
        (ORMap, lambda view: view.child("n", PNCounter).increment(1)),
        (ORMap, lambda view: view.child("new", ORSet).add(1)),
        (ORMap, lambda view: view.remove("n")),
    ],
)
def test_a_mutator_is_refused_before_anything_changes(kernel, kind, mutate):
    """The error says why, and neither state nor vector moved."""
    before = dict(kernel.vector), kernel.digest()
    with pytest.raises(ForbiddenWriteError, match="not bob's to write"):
        mutate(read_only_view(kernel, "doc", kind, WHY))
    assert (dict(kernel.vector), kernel.digest()) == before


def test_other_documents_of_the_kernel_can_be_written(kernel):
    """The refusal belongs to the view; the kernel behind it is as free as before."""
    read_only_view(kernel, "doc", ORSet, WHY)
    kernel.document("other", ORSet).add("x")
    assert set(kernel.document("other", ORSet)) == {"x"}

"""A read changes nothing: the parts of a kernel are the same before and after each of them.

Looked at is everything that decides what a kernel answers later: names and logs, rows, contexts,
doomed dots, records, chunks aside, clock. Left out is what only makes a second look faster: whether
a container is known to be plain, a counter's total, the order of slots that came late, and which
sets were cut lately.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import crdt
from crdt import BelowFloorError, Delta, DoomedFullError, Kernel, ORSet, explain
from crdt.kernel.kind import KINDS
from crdt.kernel.limits import SEQ_MAX
from crdt.testing import history
from crdt.testing.operation import MENUS

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = [getattr(crdt, name) for name in sorted(KINDS) if name in {*MENUS, "ORMap"}]


def parts(kernel: Kernel) -> dict[str, Any]:
    """Everything inside that decides about the future."""
    state = kernel._state
    live = state.live
    return {
        "names": list(live.names),
        "bases": dict(live.bases),
        "logs": [
            (
                [(seq, place.path, step) for seq, place, step in log.slots(0, SEQ_MAX)],
                list(log.kills.between(0, SEQ_MAX)),
                (log.floor, log.stale, log.kills.slots, list(log.batches)),
            )
            for log in live.logs
        ],
        "rows": {path: dict(container.rows) for path, container in live.containers.items()},
        "children": {path: set(found.children) for path, found in live.containers.items()},
        "applied": state.applied.copy(),
        "context": state.context.copy(),
        "one": state.applied is state.context,
        "doomed": set(state.doomed),
        "records": (state.records, state.records_max),
        "aside": {key: sorted(came.chunks) for key, came in state.chunk_sets.items()},
        "clock": (state.clock.last, state.clock.ceiling, state.clock.skewed),
        "writer": (kernel._writer.last, kernel._writer.open_batch, state.replica),
    }


def unless_below_a_floor(read: Callable[[], object]) -> None:
    """Read it; to be told that chunks are needed is an answer as well."""
    with suppress(BelowFloorError):
        read()


def kernel_reads(kernel: Kernel, kind: Any) -> dict[str, Callable[[], object]]:
    """Every way to ask a kernel."""
    dots = [("a", 1, 9), ("stranger", 1, 9)]
    reads: dict[str, Callable[[], object]] = {
        "delta_since": lambda: unless_below_a_floor(lambda: kernel.delta_since({})),
        "delta_since_cut": lambda: unless_below_a_floor(
            lambda: kernel.delta_since({"stranger": 3}, bytes_max=80)
        ),
        "chunks": lambda: kernel.chunks(100),
        "block_hashes": kernel.block_hashes,
        "block_chunks": lambda: kernel.block_chunks([("a", 0), ("stranger", 0)], 100),
        "to_bytes": kernel.to_bytes,
        "to_bytes_without_records": lambda: kernel.to_bytes(records=False),
        "canonical_bytes": kernel.canonical_bytes,
        "digest": kernel.digest,
        "stats": kernel.stats,
        "documents": lambda: list(kernel.documents()),
        "documents_since": lambda: kernel.documents_since({}),
        "documents_at": lambda: [kernel.documents_at(each) for each in dots],
        "places_at": lambda: [kernel.places_at(each) for each in dots],
        "document": lambda: kernel.document("nobody wrote this", kind),
        "explain": lambda: [explain(kernel, name) for name in ("doc", "no such")],
        "fork": lambda: kernel.fork("twin"),
        "merged into another": lambda: Kernel("other").merge(kernel),
        "repr": lambda: repr(kernel),
    }
    given = {name for name, item in inspect.getmembers(Kernel) if isinstance(item, property)}
    for name in given:
        reads[name] = lambda name=name: getattr(kernel, name)
    return reads


def view_reads(view: Any) -> dict[str, Callable[[], object]]:
    """Every way to look at a document."""
    cls = type(view)
    reads: dict[str, Callable[[], object]] = {
        "repr": lambda: repr(view),
        "rich": view.__rich__,
        "html": view._repr_html_,
        "equals": lambda: (view == view.value, view == 7),
        "debug": view.debug,
        "stats": view.stats,
    }
    for name, item in inspect.getmembers(cls):
        if isinstance(item, property) and not name.startswith("_"):
            reads[name] = lambda name=name: getattr(view, name)
    for name in ("keys", "items"):
        if callable(getattr(cls, name, None)):
            reads[name] = lambda name=name: list(getattr(view, name)())
    if hasattr(cls, "__iter__"):
        reads["iterate"] = lambda: [each in view for each in view]
        reads["not in"] = lambda: "no such" in view
        reads["len"] = lambda: len(view)
    if hasattr(cls, "get"):
        reads["get"] = lambda: [view.get(each) for each in view]
    if hasattr(cls, "__bool__"):
        reads["bool"] = lambda: bool(view)
    return reads


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_no_read_changes_a_kernel_that_came_back_from_its_bytes(kind):
    """After random histories and a restart, no read leaves a trace, and the first answer is whole.

    An origin whose every entry was dead had no log after a restart; any read that walked the state
    made one, so tests that looked before they gossiped never saw that it was told to nobody.
    """
    missing_logs = 0
    for seed in range(6):
        run = history(kind, seed)
        for kernel in run.network.kernels:
            again = Kernel.from_bytes(kernel.to_bytes(), replica=kernel.replica)
            missing_logs += not again.vector.keys() <= again._state.live.bases.keys()
            before = parts(again)
            for name, read in (
                kernel_reads(again, kind) | view_reads(again.document("doc", kind))
            ).items():
                try:
                    read()
                except (ValueError, TypeError):
                    assert name in {"equals", "value", "bool"}, name
                assert parts(again) == before, f"{name} changed something"
    if kind is ORSet:
        assert missing_logs


def test_what_is_refused_adds_no_origin():
    """A delta that is looked at and refused leaves not even a name behind: no log, no number."""
    ada, bob, eve, flo = (ORSet(name) for name in ("ada", "bob", "eve", "flo"))
    told = ada.add("x")
    bob.apply(told)
    bob.remove("x")
    eve.apply(flo.add("y"))
    unknown = eve.remove("y")
    again = Kernel.from_bytes(bob.to_bytes(), replica="bob")
    again._state.doomed_max = 0
    before = parts(again)
    with pytest.raises(DoomedFullError):
        again.apply(Delta((*told.runs, *unknown.runs)))
    assert parts(again) == before
    assert "ada" not in again._state.live.bases

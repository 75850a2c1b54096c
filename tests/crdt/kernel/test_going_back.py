"""A join that breaks off anywhere, by whatever error, leaves the kernel as it was."""

from __future__ import annotations

from functools import partial

import pytest

from crdt import Delta, GCounter, Kernel, LWWRegister, ORMap, ORSet, ResettableCounter
from crdt.kernel.context import CausalContext
from crdt.kernel.doomed import Doomed
from crdt.kernel.hlc import HLC
from crdt.kernel.live import Container, LiveTable, OriginLog
from crdt.kernel.state import State

PLACES = [
    (LiveTable, "container"), (LiveTable, "enlist"), (LiveTable, "insert"), (LiveTable, "kill"),
    (LiveTable, "retire"), (LiveTable, "log"), (LiveTable, "base"), (OriginLog, "place"),
    (OriginLog, "entry_died"), (OriginLog, "mark_batch"),
    (OriginLog, "record"), (OriginLog, "rewrite"), (CausalContext, "add_range"), (Doomed, "add"),
    (Doomed, "cover"), (HLC, "observe"), (State, "record"), (State, "cover_range"),
    (Container, "count"),
]  # fmt: skip
ROUNDS = 12
CACHES = {"records": 0, "records_bytes": 0}
"""What may be less afterwards: records of removals, for peers that lag."""


def writer() -> tuple[Kernel, list[Delta]]:
    """Events of every shape: documents, children, columns, removals, a batch, concurrent rows."""
    kernel, other, told = Kernel("w~1"), Kernel("o~1"), list[Delta]()
    kernel.on_delta = lambda delta, _: told.append(delta)
    kernel.apply(other.document("both", LWWRegister).set("theirs"))
    kernel.document("both", LWWRegister).set("mine")
    kernel.document("map", ORMap)["other", ORSet].add("y")
    for number in range(200):
        kernel.document("few", ORSet).add(number)
    kernel.document("n", ResettableCounter).increment(2)
    kernel.document("map", ORMap)["child", LWWRegister].set([1, 2])  # the reader has what is above
    with kernel.batch():
        for number in range(40):
            kernel.document("many", ORSet).add(number)
        kernel.document("count", GCounter).increment(3)
    kernel.document("few", ORSet).clear()
    kernel.document("n", ResettableCounter).reset()
    kernel.document("many", ORSet).remove(7)
    kernel.document("both", LWWRegister).set("again")
    del kernel.document("map", ORMap)["other"]
    kernel.document("late", ORSet).add("z")
    return kernel, told


HEARD = 203


def reader(told: list[Delta]) -> Kernel:
    """A kernel with a state of its own that overlaps: what comes will kill, doom and join rows."""
    kernel = Kernel("r~1")
    for delta in told[:HEARD]:
        kernel.apply(delta)
    kernel.document("both", LWWRegister).set("here")
    kernel.document("many", ORSet).add("kept")
    kernel.document("count", GCounter).increment(4)
    assert kernel.document("n", ResettableCounter).value == 2
    remover, unheard = Kernel("z~1"), Kernel("w~1")
    unheard.void(HEARD + 3)
    remover.apply(unheard.document("many", ORSet).add("unheard"))
    kernel.apply(remover.document("many", ORSet).clear())
    return kernel


class BrokenError(Exception):
    """What nobody foresaw."""


def ways(ahead: Kernel, told: list[Delta], kernel: Kernel) -> dict[str, partial]:
    doomed = ahead.fork("v~1").document("many", ORSet).clear()
    (chunk,) = ahead.chunks(1 << 20).chunks
    return {
        "delta": partial(kernel.apply, Delta(tuple(run for d in told[HEARD:] for run in d.runs))),
        "doom": partial(kernel.apply, doomed),
        "chunk": partial(kernel.apply_chunk, chunk),
        "merge": partial(kernel.merge, ahead),
    }


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0].__name__}.{place[1]}")
def test_whatever_breaks_half_way_leaves_no_trace_and_goes_in_later(place, monkeypatch):
    """Each method of the state raises at its first call, its second, ...: before or behind it."""
    assert sum(broken(place, way, monkeypatch) for way in ("delta", "doom", "chunk", "merge"))


def broken(place, way, monkeypatch) -> int:
    """How often one way in broke off, and was gone back from."""
    ahead, told = writer()
    wanted = reader(told)
    ways(ahead, told, wanted)[way]()
    owner, name = place
    real = getattr(owner, name)
    broke = 0
    for round_ in range(ROUNDS):
        kernel = reader(told)
        go = ways(ahead, told, kernel)[way]
        before, vector = kernel.canonical_bytes(), kernel.vector
        stats, clock = kernel.stats(), kernel.clock.last
        left = [round_ // 2]

        def breaks(*arguments, left=left, late=round_ % 2, **named):
            left[0] -= 1
            if left[0] != -1:
                return real(*arguments, **named)
            if late:
                real(*arguments, **named)
            raise BrokenError

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, breaks)
            try:
                go()
            except BrokenError:
                broke += 1
            else:
                break
        kernel._check()
        assert (kernel.canonical_bytes(), kernel.vector) == (before, vector)
        assert kernel.stats() | CACHES == stats | CACHES
        assert kernel.clock.last == clock
        go()
        kernel._check()
        assert kernel.canonical_bytes() == wanted.canonical_bytes()
    return broke

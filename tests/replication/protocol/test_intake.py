"""The one door for deltas: what is refused, held and given up.

What a skip does to a cluster is in `tests/simulation/test_skips.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crdt import CRDTError, Delta, DoomedFullError, Kernel, ORSet, Run
from crdt.kernel.live import LiveTable
from replication import AccessPolicy, Config
from replication.errors import BusyError, MalformedFrameError
from replication.protocol.intake import QUARANTINED_MAX, Intake, Outcome, given_up, without

if TYPE_CHECKING:
    from crdt import Change


def test_removals_that_wait_for_what_they_remove_are_no_poison(monkeypatch):
    """DoomedFullError: refused for now, the origin is not stopped."""
    writer, kernel = Kernel("ada~1"), Kernel("bob~1")
    added = writer.document("set", ORSet).add("x")
    intake = Intake(kernel, AccessPolicy(), 1 << 20)

    def full(_: Kernel, __: Delta) -> Change:
        raise DoomedFullError(frozenset({"cyd~1"}), 0)

    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "apply", full)
        with pytest.raises(BusyError):
            intake.take(added.encode(), "ada~1")
    assert intake.take(added.encode(), "ada~1").outcome is Outcome.NEW


def test_what_was_given_up_is_left_out_and_nothing_else():
    """By number, above what is here already; a delta without such events stays the same object."""
    kernel = Kernel("ada~1")
    for number in range(4):
        kernel.document("set", ORSet).add(number)
    delta = kernel.delta_since({})
    gone = given_up([("ada~1", 2, 3), ("bob~1", 1, 9), "junk", ("ada~1", 0, 1), ("ada~1", 4)])
    assert gone == {"ada~1": [(2, 3)], "bob~1": [(1, 9)]}
    left = without(delta, gone, {})
    assert left.ranges == delta.ranges
    assert [row[0] for run in left.runs for row in run.rows] == [1, 4]
    assert without(delta, gone, {"ada~1": 3}) is delta
    assert without(Delta((Run("cyd~1", 1, 9),)), gone, {}).runs[0].origin == "cyd~1"


def test_a_quarantine_holds_so_many_origins_and_the_next_when_there_is_room(monkeypatch):
    """Every new origin with a batch that no one can apply used to be held, without an end."""

    def apply(kernel: Kernel, delta: Delta) -> Change:
        raise CRDTError("cannot be joined")

    monkeypatch.setattr(Kernel, "apply", apply)
    intake = Intake(Kernel("ada~1"), AccessPolicy(), Config().delta_bytes_max)
    for number in range(QUARANTINED_MAX):
        data = Kernel(f"eve{number}~1").document("set", ORSet).add(number).encode()
        assert intake.take(data, "bob~1").outcome is Outcome.POISON
    last = Kernel("last~1").document("set", ORSet).add("last").encode()
    assert intake.take(last, "bob~1").applied == ()
    assert (len(intake.quarantine), "last~1" in intake.quarantine) == (QUARANTINED_MAX, False)
    del intake.quarantine["eve0~1"]
    assert intake.take(last, "bob~1").outcome is Outcome.POISON
    assert "last~1" in intake.quarantine


@pytest.mark.parametrize("error", [RecursionError, MemoryError, ZeroDivisionError, KeyError])
def test_what_nobody_foresaw_stops_one_origin_and_changes_nothing(error, monkeypatch):
    """Counterexample: anything but a CRDTError left a vector that claimed what was not there."""
    sound, bad = Kernel("ada~1"), Kernel("eve~1")
    deltas = [sound.document("set", ORSet).add(1), bad.document("set", ORSet).add("bad")]
    deltas += [bad.document("set", ORSet).add("later"), sound.document("set", ORSet).add(2)]
    kernel = Kernel("bob~1")
    intake = Intake(kernel, AccessPolicy(), Config().delta_bytes_max)
    insert = LiveTable.insert

    def raises(table, container, step, entry):
        insert(table, container, step, entry)
        if step == "bad":
            raise error("half way")

    with monkeypatch.context() as patch:
        patch.setattr(LiveTable, "insert", raises)
        taken = intake.take(Delta(tuple(run for d in deltas for run in d.runs)).encode(), "cyd~1")
    assert taken.outcome is Outcome.POISON
    assert error.__name__ in taken.why
    kernel._check()
    assert dict(kernel.vector) == {"ada~1": 2}
    assert set(kernel.document("set", ORSet)) == {1, 2}
    assert {range_ for row, _ in taken.applied for range_ in row.ranges} == {
        ("ada~1", 1, 1), ("ada~1", 2, 2)
    }  # fmt: skip
    assert list(intake.quarantine) == ["eve~1"]
    intake.take(bad.delta_since({}).encode(), "cyd~1")
    assert (set(kernel.document("set", ORSet)), intake.quarantine) == ({1, 2, "bad", "later"}, {})


@pytest.mark.parametrize("error", [RecursionError, MemoryError, KeyError])
def test_bytes_that_break_the_decoder_are_no_delta(error, monkeypatch):
    """Not even that ends a step half way: a refusal by type."""
    intake = Intake(Kernel("bob~1"), AccessPolicy(), Config().delta_bytes_max)

    def raises(*_: object) -> None:
        raise error

    monkeypatch.setattr(Delta, "decode", raises)
    with pytest.raises(MalformedFrameError):
        intake.take(b"x", "ada~1")

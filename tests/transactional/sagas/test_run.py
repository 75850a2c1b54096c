"""A run as it lies in the store: its bytes, its state, and the writes that keep it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from transactional import Delete, DeletePrefix, KeyValue, Put, SagaRun, SagaState
from transactional.sagas.history import Record, RecordKind
from transactional.sagas.run import SagaLayout, read_run, writes_of

NOW = datetime(2025, 1, 1, tzinfo=UTC)
LAYOUT = SagaLayout()


def run_with(*kinds: RecordKind) -> SagaRun:
    run = SagaRun("w1", "work", 2, {"n": 1}, NOW)
    return run.extended([Record(kind, NOW, "a", 1) for kind in kinds], "ann")


def test_a_run_survives_its_bytes():
    """What is written is what is read, at the key's revision."""
    run = run_with(RecordKind.INTENT, RecordKind.DONE, RecordKind.INTENT)
    found = read_run(KeyValue("k", run.encode(), 9, 9))
    assert found == run.at(9)
    assert found.progress == run.progress
    assert found.to_json() == run.to_json()


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ((), SagaState.RUNNING),
        ((RecordKind.INTENT,), SagaState.RUNNING),
        ((RecordKind.INTENT, RecordKind.REFUSED), SagaState.COMPENSATING),
        ((RecordKind.ABANDON,), SagaState.COMPENSATING),
        ((RecordKind.INTENT, RecordKind.DONE, RecordKind.COMPLETED), SagaState.COMPLETED),
        ((RecordKind.REFUSED, RecordKind.COMPENSATED), SagaState.COMPENSATED),
        ((RecordKind.STUCK,), SagaState.STUCK),
        ((RecordKind.DEAD_LETTER,), SagaState.DEAD_LETTER),
        ((RecordKind.STUCK, RecordKind.RETRY), SagaState.RUNNING),
    ],
)
def test_its_state_follows_from_its_history(kinds, state):
    """The last record, or the way that the run goes."""
    run = run_with(*kinds)
    assert run.state is state
    assert run.over is (state in (SagaState.COMPLETED, SagaState.COMPENSATED))
    assert run.stopped is (state in (SagaState.STUCK, SagaState.DEAD_LETTER))


def test_an_older_state_is_left_as_it_was():
    """More records make another run; folding them shares nothing that changes."""
    run = run_with(RecordKind.INTENT)
    longer = run.extended([Record(RecordKind.DONE, NOW, "a", 1, value=5)], "bob")
    assert (run.results, longer.results) == ({}, {"a": 5})
    assert (run.owner, longer.owner) == ("ann", "bob")
    assert (
        longer.progress == SagaRun("w1", "work", 2, {"n": 1}, NOW, "bob", longer.history).progress
    )


def test_a_run_that_is_over_moves():
    """Open runs lie together; one that is over leaves, and takes its signals along."""
    run = run_with(RecordKind.INTENT)
    assert writes_of(run, LAYOUT, signals=True) == [Put(LAYOUT.open("w1"), run.encode())]
    over = run_with(RecordKind.COMPLETED)
    moved = [Delete(LAYOUT.open("w1")), Put(LAYOUT.done("w1"), over.encode())]
    assert writes_of(over, LAYOUT, signals=False) == moved
    signals = [*moved, DeletePrefix(LAYOUT.signal("w1"))]
    assert writes_of(over, LAYOUT, signals=True) == signals

"""A run as it lies in the store: its bytes, its state, and the writes that keep it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from transactional import Delete, DeletePrefix, KeyValue, Put, SagaRun, SagaState
from transactional.sagas.history import Progress, Record, RecordKind
from transactional.sagas.run import NOW as DUE_NOW
from transactional.sagas.run import SagaLayout, due_at, read_run, writes_of

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
    owned = Put(LAYOUT.owned("ann", "w1"), b"")
    assert writes_of(run, LAYOUT) == [Put(LAYOUT.open("w1"), run.encode()), owned]
    assert writes_of(run, LAYOUT, run) == [Put(LAYOUT.open("w1"), run.encode())]
    over = run_with(RecordKind.COMPLETED)
    over = replace(over, owner="")
    moved = [Delete(LAYOUT.open("w1")), Put(LAYOUT.done("w1"), over.encode())]
    assert writes_of(over, LAYOUT) == moved
    assert writes_of(over, LAYOUT, run) == [Delete(LAYOUT.owned("ann", "w1")), *moved]
    signals = [*moved, DeletePrefix(LAYOUT.signal("w1"))]
    assert writes_of(over, LAYOUT, signals=True) == signals
    child = replace(over, parent="p")
    assert writes_of(child, LAYOUT)[-1] == Put(LAYOUT.due(DUE_NOW, "p"), b"")


def test_a_parked_run_is_in_the_index_of_what_is_due():
    """From owned to parked and back, one key each; times sort as they are."""
    run = run_with(RecordKind.INTENT)
    parked = run.extended([], "", due=due_at(NOW))
    indices = writes_of(parked, LAYOUT, run)
    assert Delete(LAYOUT.owned("ann", "w1")) in indices
    assert Put(LAYOUT.due(due_at(NOW), "w1"), b"") in indices
    again = writes_of(parked.extended([], "bob"), LAYOUT, parked)
    assert Delete(LAYOUT.due(due_at(NOW), "w1")) in again
    assert Put(LAYOUT.owned("bob", "w1"), b"") in again
    assert DUE_NOW < due_at(NOW) < due_at(NOW + timedelta(microseconds=1))
    assert read_run(KeyValue("k", parked.encode(), 9, 9)) == parked.at(9)


def test_names_with_slashes_and_dots_stay_apart():
    """Whatever an id is made of, its keys are its own, and are read back."""
    for run_id in ("a/b", "a%2Fb", "a.b", "a b", "ä"):
        assert LAYOUT.due_of(LAYOUT.due(DUE_NOW, run_id)) == (DUE_NOW, run_id)
        assert LAYOUT.owned_of(LAYOUT.owned("w~1", run_id)) == ("w~1", run_id)
    assert LAYOUT.signal("a/b", "c") != LAYOUT.signal("a", "b/c")
    assert LAYOUT.open("a/b") != LAYOUT.open("a%2Fb")


def test_calls_that_all_say_later_are_kept_as_one():
    """So a step may ask for patience without end; attempts and their beginning are remembered."""
    run = run_with()
    for attempt in range(1, 2001):
        run = run.extended([Record(RecordKind.INTENT, NOW, "a", attempt)], "ann")
        later = Record(RecordKind.LATER, NOW + timedelta(seconds=attempt), "a", attempt)
        run = run.extended([later], "ann")
    assert [record.kind for record in run.history] == [RecordKind.INTENT, RecordKind.LATER]
    tries = run.progress.forward["a"]
    assert (tries.attempts, tries.since, tries.unsure) == (2000, NOW, 0)
    assert run.progress == Progress.of(run.history)

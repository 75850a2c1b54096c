"""The pure decision, driven by dice instead of a store: no history may break its invariants."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.scale import rounds, seeds
from transactional import Retry, Saga, Step, StepKind
from transactional.sagas.history import (
    FINAL,
    PERSONS,
    RECORDS_BYTES_MAX,
    RECORDS_MAX,
    Finish,
    Progress,
    Record,
    RecordKind,
    Run,
    Stop,
    Undo,
    next_action,
    past_pivot,
    without_old_attempts,
)

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def some_saga(dice: random.Random) -> Saga:
    kinds = [StepKind.COMPENSATABLE] * dice.randrange(4)
    kinds += [StepKind.PIVOT] * dice.randrange(2)
    kinds += [StepKind.RETRIABLE] * dice.randrange(3)
    kinds = kinds or [StepKind.COMPENSATABLE]
    return Saga(
        "s",
        [
            Step(
                f"s{number}",
                print,
                print if kind is not StepKind.RETRIABLE and dice.random() < 0.8 else None,
                kind,
                Retry(),
                crashes_max=3,
            )
            for number, kind in enumerate(kinds)
        ],
    )


def outcome(dice: random.Random, saga: Saga, action: Run | Undo) -> list[Record]:  # noqa: PLR0911
    """What a driver might record after the attempt; nothing: it crashed."""
    roll = dice.random()
    later = (NOW + timedelta(seconds=1)).isoformat()
    if roll < 0.1:
        return []
    if isinstance(action, Undo):
        if roll < 0.25:
            again = dice.choice([later, None])
            return [Record(RecordKind.UNDO_FAILED, NOW, action.step, action.attempt, again, "e")]
        return [Record(RecordKind.UNDONE, NOW, action.step, action.attempt)]
    if roll < 0.2:
        again = dice.choice([later, None])
        return [Record(RecordKind.FAILED, NOW, action.step, action.attempt, again, "e")]
    if roll < 0.25 and saga.step(action.step).kind is not StepKind.RETRIABLE:
        return [Record(RecordKind.REFUSED, NOW, action.step, action.attempt, error="no")]
    if roll < 0.3:
        return [Record(RecordKind.LATER, NOW, action.step, action.attempt, later)]
    if roll < 0.33:
        return [Record(RecordKind.PAUSED, NOW, action.step, action.attempt)]
    return [Record(RecordKind.DONE, NOW, action.step, action.attempt, 1)]


def person(dice: random.Random, stop: Stop) -> Record:
    return Record(dice.choice([RecordKind.RETRY, RecordKind.SKIP]), NOW, stop.step)


def life(dice: random.Random) -> tuple[Saga, list[Record], int]:
    """One whole run, with crashes, people and a deadline."""
    saga, history, stops = some_saga(dice), [], 0
    short: list[Record] = []  # the same, rid of old attempts whenever a person wrote
    seen = 0
    while True:
        action = next_action(saga, Progress.of(history))
        assert next_action(saga, Progress.of(list(history))) == action  # pure
        short, seen = [*short, *history[seen:]], len(history)
        if history and history[-1].kind in PERSONS:
            short = list(without_old_attempts(short))
        assert next_action(saga, Progress.of(short)) == action
        if isinstance(action, Finish):
            return saga, [*history, Record(action.end, NOW)], stops
        if isinstance(action, Stop):
            history += [Record(action.reason, NOW, action.step), person(dice, action)]
            stops += 1
            continue
        kind = RecordKind.INTENT if isinstance(action, Run) else RecordKind.UNDO
        history.append(Record(kind, NOW, action.step, action.attempt))
        history += outcome(dice, saga, action)
        progress = Progress.of(history)
        if dice.random() < 0.03 and not progress.turned and not past_pivot(saga, progress):
            history.append(Record(RecordKind.DEADLINE, NOW))


def check(saga: Saga, history: list[Record], stops: int) -> None:
    kinds = [record.kind for record in history]
    begun = {r.step for r in history if r.kind is RecordKind.INTENT}
    progress = Progress.of(history)
    order = [step.name for step in saga.steps]
    firsts = list(dict.fromkeys(r.step for r in history if r.kind is RecordKind.INTENT))
    assert firsts == [name for name in order if name in begun]
    undos = list(dict.fromkeys(r.step for r in history if r.kind is RecordKind.UNDO))
    assert undos == [name for name in reversed(order) if name in undos]
    if RecordKind.UNDO in kinds:
        assert RecordKind.INTENT not in kinds[kinds.index(RecordKind.UNDO) :]
    attempts: dict[tuple, int] = {}
    for record in history:
        if record.kind in (RecordKind.INTENT, RecordKind.UNDO):
            key = (record.kind, record.step)
            assert record.attempt == attempts.get(key, 0) + 1
            attempts[key] = record.attempt
    assert kinds[-1] in FINAL
    if kinds[-1] is RecordKind.COMPLETED:
        assert set(progress.results) == set(order)
        assert RecordKind.UNDO not in kinds
    else:
        for step in saga.steps:
            owed = step.name in begun - progress.refused and step.compensation is not None
            assert not owed or step.name in progress.undone, step.name
        if stops == 0:
            assert not past_pivot(saga, progress)


@pytest.mark.parametrize("seed", seeds(4))
def test_no_life_breaks_an_invariant(seed):
    """Forward in order, back in reverse, never both; nothing that was begun is left undone."""
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    ends = set()
    for _ in range(rounds(20_000)):
        saga, history, stops = life(dice)
        check(saga, history, stops)
        ends.add((history[-1].kind, stops > 0))
    assert len(ends) == 4  # both ends, with and without a person's help


def test_a_history_that_never_ends_is_ended():
    """A step that asks for later for ever is dead-lettered at the limit of records."""
    saga = Saga("s", [Step("a", print)])
    later = Record(RecordKind.LATER, NOW, "a", 1, NOW.isoformat())
    history = [Record(RecordKind.INTENT, NOW, "a", 1), later] * (RECORDS_MAX // 2)
    assert next_action(saga, Progress.of(history)) == Stop(RecordKind.DEAD_LETTER)


def test_a_history_that_tells_too_much_is_ended():
    """Errors count by their bytes, results do not: they have a limit of their own."""
    saga = Saga("s", [Step("a", print), Step("b", print)])
    done = Record(RecordKind.DONE, NOW, "a", 1, "x" * RECORDS_BYTES_MAX)
    history = [Record(RecordKind.INTENT, NOW, "a", 1), done]
    assert next_action(saga, Progress.of(history)) == Run("b", 1)
    failed = Record(RecordKind.FAILED, NOW, "b", 1, NOW.isoformat(), "é" * 500)
    history += [Record(RecordKind.INTENT, NOW, "b", 1), failed] * (RECORDS_BYTES_MAX // 1000)
    assert len(history) < RECORDS_MAX
    assert next_action(saga, Progress.of(history)) == Stop(RecordKind.DEAD_LETTER)


def test_old_attempts_make_room_and_leave_the_doubt():
    """Of fifty attempts before a person's word two are kept, and what a pivot may have done."""
    saga = Saga("s", [Step("a", print, kind=StepKind.PIVOT)])
    later = Record(RecordKind.LATER, NOW, "a", 51, NOW.isoformat())
    history = []
    for number in range(1, 51):
        failed = Record(RecordKind.FAILED, NOW, "a", number, NOW.isoformat(), "lost")
        history += [Record(RecordKind.INTENT, NOW, "a", number), failed]
    history += [Record(RecordKind.INTENT, NOW, "a", 51), later]
    history += [Record(RecordKind.DEAD_LETTER, NOW, "a"), Record(RecordKind.RETRY, NOW, "a")]
    short = without_old_attempts(history)
    assert short == tuple(history[-6:])
    assert Progress.of(short).forward["a"].unsure > 0
    assert next_action(saga, Progress.of(short)) == Run("a", 52)


def test_records_survive_json():
    """What is written is what is read."""
    record = Record(RecordKind.FAILED, NOW, "a", 2, NOW.isoformat(), "OSError: no")
    assert Record.from_json(record.to_json()) == record

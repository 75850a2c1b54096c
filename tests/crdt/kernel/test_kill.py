"""A range of dots dies as its dots would one by one, and costs little for each of them."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

import pytest

from crdt import Delta, Event, Kernel, LWWRegister, MVRegister, ORMap, ORSet, PNCounter, Run
from crdt.kernel import kill
from tests.scale import rounds

if TYPE_CHECKING:
    from types import FrameType

ORIGINS = ("bob~1", "cyd~1")


def removal(*kills: tuple[str, int, int], seq: int = 1) -> Delta:
    event = Event(seq, None, "", 0, None, tuple(sorted(kills)))
    return Delta((Run("eve~1", seq, seq, (event,)),))


def grown(dice: random.Random) -> list[Delta]:
    """What two agents wrote into large and small documents, beside each other and in turn."""
    writers, deltas = [Kernel(origin) for origin in ORIGINS], list[Delta]()
    for step in range(400):
        writer = dice.choice(writers)
        match dice.randrange(7):
            case 0 | 1 | 2:
                writer.document("large", ORSet).add(dice.randrange(300))
            case 3:
                writer.document(f"small/{dice.randrange(20)}", LWWRegister).set(step)
            case 4:
                writer.document("shared", MVRegister).set(step)
            case 5:
                writer.document("n", PNCounter).increment(dice.randrange(1, 5))
            case _:
                writer.document("map", ORMap).child(f"k{dice.randrange(40)}", LWWRegister).set(step)
        if dice.random() < 0.05:
            for one, other in (writers, writers[::-1]):
                other.apply(one.delta_since(dict(other.vector)))
    for writer in writers:
        deltas += writer.delta_since({}).batches()
    return deltas


def kills(dice: random.Random, deltas: list[Delta]) -> list[Delta]:
    last = {run.origin: run.last for delta in deltas for run in delta.runs}
    made = []
    for seq in range(1, 8):
        ranges = []
        for origin in dice.sample(ORIGINS, dice.randint(1, 2)):
            first = dice.randint(1, last[origin])
            ranges.append((origin, first, min(last[origin] + 5, first + dice.choice([0, 9, 400]))))
        made.append(removal(*ranges, seq=seq))
    return made


@pytest.mark.parametrize("seed", range(rounds(60, 3)))
def test_a_range_dies_as_its_dots_would(seed, monkeypatch):
    """Equal state, equal digest, equal news, equal counts, whichever way was taken."""
    dice = random.Random(seed)
    deltas = grown(dice)
    removals = kills(dice, deltas)
    if dice.random() < 0.5:  # entries that come after newer ones, as of a state: slots are late
        dice.shuffle(deltas)
    seen = []
    for whole, share in ((1 << 60, 1), (1, 8), (16, 8), (1, 1 << 60)):
        monkeypatch.setattr(kill, "WHOLE_ROWS", whole)
        monkeypatch.setattr(kill, "CUT_SHARE", share)
        kernel, news = Kernel("ada~1"), []
        for delta in deltas:
            kernel.apply(delta)
        for delta in removals:
            change = kernel.apply(delta)
            news.append(sorted((doc.name, doc.keys or frozenset()) for doc in change.documents))
            kernel._check()
        seen.append((kernel.digest(), kernel.canonical_bytes(), kernel.entries, news))
    assert all(one == seen[0] for one in seen)


@pytest.mark.parametrize("whole", [1, 1 << 60])
def test_a_kill_that_breaks_off_leaves_no_trace(whole, monkeypatch):
    """The containers that were emptied as a whole are back as well, with their slots."""
    monkeypatch.setattr(kill, "WHOLE_ROWS", whole)
    writer, kernel = Kernel("bob~1"), Kernel("ada~1")
    for number in range(100):
        writer.document("large", ORSet).add(number)
        writer.document(f"small/{number % 7}", ORSet).add(number)
    kernel.apply(writer.delta_since({}))
    before = kernel.canonical_bytes(), kernel.digest(), kernel.stats()
    first, broken = removal(("bob~1", 1, 200)).runs[0].rows[0], ("bob~1", 1, "no number")
    rows = (first, (2, None, "", 0, None, (broken,)))
    with pytest.raises(TypeError):
        kernel.apply(Delta((Run("eve~1", 1, 2, rows, admitted=True),)))
    kernel._check()
    assert (kernel.canonical_bytes(), kernel.digest(), kernel.stats()) == before
    kernel.apply(removal(("bob~1", 1, 200)))
    assert kernel.entries == 0


def test_what_comes_back_in_the_same_delta_is_news_only_where_it_differs():
    """A removal of all of a set, and elements that are added after it: those stay as they were."""
    writer, kernel = Kernel("bob~1"), Kernel("ada~1")
    for number in range(100):
        writer.document("large", ORSet).add(number)
    kernel.apply(writer.delta_since({}))
    writer.document("large", ORSet).clear()
    for number in range(50, 60):
        writer.document("large", ORSet).add(number)
    (change,) = kernel.apply(writer.delta_since(dict(kernel.vector))).documents
    assert change.keys == frozenset(range(100)) - frozenset(range(50, 60))
    kernel._check()


def test_the_death_of_many_is_a_matter_of_few_calls():
    """Counterexample: 52 bytes that removed 70,000 live entries held the loop for 0.3 s."""
    writer, kernel = Kernel("bob~1"), Kernel("ada~1")
    for number in range(20_000):
        writer.document("large", ORSet).add(number)
    kernel.apply(writer.delta_since({}))
    delta, calls = removal(("bob~1", 1, 20_000)), [0]

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        calls[0] += event in {"call", "c_call"}

    sys.setprofile(called)
    try:
        kernel.apply(delta)
    finally:
        sys.setprofile(None)
    assert kernel.entries == 0
    assert calls[0] < 1000
    kernel._check()

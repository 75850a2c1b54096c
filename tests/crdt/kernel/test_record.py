"""Removal records: exact, whatever the order, and one stretch where removals follow a pattern."""

from __future__ import annotations

import random

import pytest

from crdt import DecodeError, Kernel, LWWMap, LWWRegister, ORSet, PNCounter
from crdt.kernel.limits import SEQ_MAX
from crdt.kernel.record import Records, Stretch


def told(records: Records, after: int = 0, last: int = 1 << 40) -> dict:
    """What the records say of the events in (after, last]."""
    found = list(records.between(after, last))
    assert found == sorted(found)
    return dict(found)


@pytest.mark.parametrize("seed", range(200))
def test_records_say_what_a_dictionary_would(seed: int) -> None:
    """Added in any order and repeated, asked by ranges, dropped from below, undone from above."""
    dice = random.Random(seed)
    records, plain, floor = Records(), {}, 0
    gap, low, step = dice.randint(1, 3), dice.randint(1000, 2000), dice.choice([-2, -1, 1, 1, 2, 3])
    for turn in range(120):
        what = dice.random()
        if what < 0.6:  # a pattern, with holes and turns in it
            seq, kills = turn * gap + 1, (("a", low + turn * step, low + turn * step),)
            if dice.random() < 0.1:
                step = dice.choice([-1, 1, 2])
        elif what < 0.8:
            seq = dice.randint(floor + 1, 400)
            first = dice.randint(1, 300)
            kills = tuple(
                (origin, first, first + dice.randint(0, 2)) for origin in "ab"[: turn % 2 + 1]
            )
        elif what < 0.97:
            after = dice.randint(0, 400)
            last = after + dice.randint(0, 400)
            wanted = {seq: k for seq, k in plain.items() if after < seq <= last}
            assert told(records, after, last) == wanted
            assert all((seq in records) == (seq in plain) for seq in range(after, after + 40))
            continue
        elif dice.random() < 0.5:
            upto = dice.randint(0, 400)
            gone = [seq for seq in plain if seq <= upto]
            assert records.drop(upto) == max(gone, default=0)
            plain = {seq: k for seq, k in plain.items() if seq > upto}
            floor = max(floor, upto)
            continue
        else:
            after = dice.randint(0, 400)
            records.forget_after(after)
            plain = {seq: k for seq, k in plain.items() if seq <= after}
            continue
        records.add(seq, kills)
        plain.setdefault(seq, kills)
        records._check()
    assert told(records) == plain
    assert told(records.copy()) == plain
    assert list(records.newest()) == sorted(plain.items(), reverse=True)
    assert records.ranges == sum(map(len, plain.values()))
    assert records.slots <= records.ranges
    assert bool(records) == bool(plain)


def removals(kind: str, count: int) -> Kernel:
    """A kernel after many removals of one kind."""
    kernel = Kernel("a")
    elements, keys = kernel.document("s", ORSet), kernel.document("m", LWWMap)
    if kind == "the same element":
        for _ in range(count):
            elements.add("x")
            elements.remove("x")
    elif kind in {"in order", "backwards"}:
        for number in range(count):
            elements.add(number)
        for number in range(count) if kind == "in order" else reversed(range(count)):
            elements.remove(number)
    elif kind == "a register":
        for number in range(count):
            kernel.document("r", LWWRegister).set(number)
    elif kind == "two counters":
        for _ in range(count):
            kernel.document("c", PNCounter).increment()
            kernel.document("d", PNCounter).increment()
    elif kind == "keys in turn":
        for number in range(count):
            keys.put(number % 10, number)
    elif kind == "of another":
        other = Kernel("b")
        for number in range(count):
            other.document("s", ORSet).add(number)
        kernel.merge(other)
        for number in range(count):
            elements.remove(number)
    return kernel


@pytest.mark.parametrize(
    "kind",
    [
        "the same element",
        "in order",
        "backwards",
        "a register",
        "two counters",
        "keys in turn",
        "of another",
    ],
)
def test_removals_in_a_pattern_share_a_record(kind: str) -> None:
    """Thousands take a few hundred bytes of memory and of a snapshot, and are told one by one."""
    count = 2000
    kernel, empty = removals(kind, count), Kernel("a")
    stats = kernel.stats()
    assert stats["records"] >= count - 10
    assert stats["records_bytes"] <= 4 * 128
    live = len(kernel.chunks(1 << 20).chunks[0].encode())
    assert len(kernel.to_bytes()) - len(kernel.to_bytes(records=False)) < 100
    assert len(kernel.to_bytes()) < len(empty.to_bytes()) + live + 200
    again = Kernel.from_bytes(kernel.to_bytes(), replica="a")
    again._check()
    assert again.stats()["records_bytes"] == stats["records_bytes"]
    for after in (0, 1, count // 2, count // 2 + 1, count - 1):
        asked = {"a": after, "b": count}
        assert again.delta_since(asked) == kernel.delta_since(asked)
    late = Kernel("late")
    while late.vector != kernel.vector:
        late.apply(kernel.delta_since(late.vector, bytes_max=5000))
    assert late.canonical_bytes() == kernel.canonical_bytes()
    late._check()


def test_removals_without_a_pattern_are_remembered_too() -> None:
    """In random order they take a record for one or two, and a lagging peer learns of each."""
    dice = random.Random(7)
    kernel, peer = Kernel("a"), Kernel("b")
    elements = kernel.document("s", ORSet)
    for number in range(500):
        elements.add(number)
    peer.merge(kernel)
    order = list(range(500))
    dice.shuffle(order)
    for number in order[:400]:
        elements.remove(number)
    assert 100 < kernel.stats()["records_bytes"] // 128 <= 400
    again = Kernel.from_bytes(kernel.to_bytes(), replica="a")
    peer.apply(again.delta_since(peer.vector))
    assert peer.document("s", ORSet).value == set(order[400:])
    assert peer.canonical_bytes() == kernel.canonical_bytes()


def test_forged_stretches_are_refused() -> None:
    """A snapshot whose records overlap, leave the numbers there are, or name no origin."""
    from crdt.kernel.live import OriginLog  # inside of the kernel
    from crdt.kernel.snapshot import _load_stretches

    for packed in (
        [1, 2, 1, 0, 1, 1],
        [0, 1, 1, 0, 1, 0, 0],
        [1, 0, 1, 0, 1, 0, 0],
        [1, 2, 0, 0, 1, 1, 0],
        [1, 2, 1, 5, 1, 1, 0],
        [1, 3, 1, 0, 2, -1, 0],
        [1, 1, 1, 0, 1, 0, -1],
        [1, 1 << 40, 1, 0, 1, 1, 0],
        [1, 2, 1, 0, (1 << 40) - 1, 1, 0],
        [1, 5, 1, 0, 1, 1, 0, 3, 1, 1, 0, 1, 1, 0],
        [1, 1, 1, 0, "1", 0, 0],
    ):
        with pytest.raises(DecodeError):
            _load_stretches(OriginLog(0), packed, ["a"], seen=SEQ_MAX)
    assert Stretch(3, 4, 2, "a", 1, 1, 0).last == 9

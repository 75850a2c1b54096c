"""Deltas and what a change tells: small and wide ones, in pieces and put together."""

from __future__ import annotations

import random

import pytest

from crdt import (
    BatchTooLargeError,
    BoundedCounter,
    Change,
    DecodeError,
    Delta,
    GSet,
    Kernel,
    LWWMap,
    LWWRegister,
    ORMap,
    ORSet,
    PNCounter,
    ValueTooLargeError,
)
from crdt.kernel.codec import freeze
from crdt.kernel.delta import WIDE, Run
from crdt.kernel.envelope import seal

COUNT = 3 * WIDE


def wide(kernel: Kernel, first: int = 0) -> Delta:
    """Many writes of one batch, in two documents by turns."""
    with kernel.batch() as batch:
        for number in range(first, first + COUNT):
            kernel.document(f"m{number % 2}", LWWMap).put(f"k{number}", number)
    return batch.delta


def test_a_wide_delta_is_the_same_as_columns_and_as_rows():
    """It comes from the wire as columns; its rows, hash and text are those of the one that left."""
    delta = wide(Kernel("a"))
    come = Delta.decode(delta.encode())
    (run,) = come.runs
    assert run.span is not None
    assert come.encode() == delta.encode()
    assert come == delta
    assert hash(come) == hash(delta)
    assert repr(come) == repr(delta)
    assert {come, delta} == {delta}
    assert delta.runs[0] == run
    assert delta.runs[0] != "a run"
    assert delta != "a delta"
    assert [event.seq for event in run.events] == list(range(1, COUNT + 1))


def test_wide_deltas_may_come_in_any_order_and_overlap():
    """Columns below what is known already are sorted in; what was taken before is passed over."""
    writer = Kernel("a")
    deltas = [Delta.decode(wide(writer, first * COUNT).encode()) for first in range(3)]
    for order in ((2, 0, 1), (1, 2, 0, 1), (0, 2, 2, 1)):
        reader = Kernel("r")
        for number in order:
            reader.apply(deltas[number])
        reader._check()
        assert reader.canonical_bytes() == writer.canonical_bytes()
        assert reader.delta_since({}) == writer.delta_since({})


def test_small_deltas_put_together_are_applied_as_one_and_keep_their_batches():
    """In order they continue one another; mixed with those of others they do not."""
    a, b = Kernel("a"), Kernel("b")
    parts = []
    for number in range(COUNT):
        parts.append(a.document("s", ORSet).add(number))
        with b.batch() as batch:
            b.document("s", ORSet).add(-number)
            b.document("s", ORSet).add(("b", number))
        parts.append(batch.delta)
    parts.append(a.document("s", ORSet).remove(3))
    expected = Kernel("x")
    for part in parts:
        expected.apply(part)
    dice = random.Random(1)
    for _ in range(5):
        in_order = sorted(parts, key=lambda part: part.runs[0].origin)
        reader = Kernel("r")
        runs = [run for part in in_order for run in part.runs]
        reader.apply(Delta(tuple(runs)))
        reader._check()
        assert reader.canonical_bytes() == expected.canonical_bytes()
        assert list(reader.delta_since({}).batches()) == list(expected.delta_since({}).batches())
        dice.shuffle(parts)


def test_batches_that_say_nothing_any_longer_go_with_what_follows_them():
    """A delta is split between batches, whole batches may be dead, and no event is lost."""
    kernel = Kernel("a")
    deltas = []
    for round_ in range(4):
        with kernel.batch() as batch:
            for number in range(3):
                kernel.document("m", LWWMap).put(number, round_)
        deltas.append(batch.delta)
        deltas.append(kernel.document("s", ORSet).add(round_))
    other = Kernel("o")
    for delta in deltas:
        other.apply(delta)
    pieces = list(other.delta_since({}).batches())
    covered = [
        seq for piece in pieces for run in piece.runs for seq in range(run.first, run.last + 1)
    ]
    assert covered == list(range(1, 17))
    again = Kernel("p")
    for piece in reversed(pieces):
        again.apply(piece)
    assert again.digest() == kernel.digest()


def test_a_piece_of_a_delta_is_still_a_batch_where_it_arrives():
    """Cut into its batches and applied one by one, a batch is passed on as one."""
    a, b = ORSet("a"), ORSet("b")
    a.add("single")
    with a.batch():
        a.add("one")
        a.add("two")
    pieces = list(a.kernel.delta_since({}).batches())
    assert [piece.ranges for piece in pieces] == [(("a", 1, 1),), (("a", 2, 3),)]
    assert pieces[1].runs[0].batches == ((2, 3),)
    for piece in pieces:
        b.apply(piece)
    assert b.kernel.delta_since({"a": 1}, bytes_max=1).ranges == (("a", 2, 3),)


@pytest.mark.parametrize("last", [4, 5, 6])
def test_an_event_kills_only_what_came_before_it(last):
    """An event of a run that names itself, or one after it, among its victims is no event."""
    row = (4, ("s", "ORSet"), "x", 0, None, (("m", 2, last),))
    data = Delta((Run("m", 4, 4, (row,)),)).encode()
    with pytest.raises(DecodeError, match="kills itself"):
        Delta.decode(data)
    sound = (*row[:5], (("m", 2, 3), ("n", 1, 9)))
    assert Delta.decode(Delta((Run("m", 4, 4, (sound,)),)).encode()).ranges == (("m", 4, 4),)


def test_a_delta_of_more_events_than_may_weigh_is_refused_before_they_are_built():
    """Rows and columns alike; what is no run at all is refused for that."""
    kernel = Kernel("a")
    delta = wide(kernel)
    kernel.drop_records()
    some = [kernel.document("s", ORSet).add(number).runs[0] for number in range(4)]
    for sound, weight in ((delta, 300), (Delta(tuple(some)), 100)):
        assert Delta.decode(sound.encode(), weight_max=1 << 20) == sound
        with pytest.raises(
            DecodeError, match=r"more (events than can weigh|lists and maps|names, runs or bytes)"
        ):
            Delta.decode(sound.encode(), weight_max=weight)


def test_a_change_compares_by_what_it_tells():
    """Also when it is looked at late; one that tells nothing is false."""
    a, b, c = Kernel("a"), Kernel("b"), Kernel("c")
    delta = a.document("s", ORSet).add("x")
    told, same = b.apply(delta), c.apply(delta)
    b.document("s", ORSet).remove("x")
    assert told == same
    assert hash(told) == hash(same)
    assert repr(told) == repr(same)
    assert told != "a change"
    assert not c.apply(delta)
    assert c.apply(delta) == Change()


def test_the_documents_of_a_range_are_those_of_its_live_entries():
    """None stands for what was never seen here, and removals are found by what they would touch."""
    kernel = Kernel("a")
    kernel.document("s", ORSet).add(1)
    kernel.document("m", ORMap).child("tags", ORSet).add(2)
    kernel.document("s", ORSet).add(3)
    kernel.document("s", ORSet).remove(3)
    assert kernel.documents_at(("a", 1, 1)) == {"s"}
    assert {document for _, document in kernel.places_at(("a", 1, 4))} == {"s", "m"}
    assert kernel.places_at(("stranger", 1, 2)) == []
    assert kernel.documents_at(("a", 1, 4)) == {"s", "m"}
    assert kernel.documents_at(("a", 3, 4)) == set()
    assert kernel.documents_at(("a", 4, 5)) == {None}
    assert kernel.documents_at(("stranger", 1, 2)) == {None}


def test_bounds_are_equal_by_their_bound():
    """`at_least(2)` names one type, wherever it is written."""
    assert BoundedCounter.at_least(2) == BoundedCounter.at_least(2)
    assert BoundedCounter.at_least(2) != BoundedCounter.at_least(3)
    assert len({BoundedCounter.at_least(2), BoundedCounter.at_least(2)}) == 1
    assert BoundedCounter.at_least(2).__name__ == "BoundedCounter"


def heavy() -> dict[str, tuple[Run, ...]]:
    """Few bytes that would make a receiver work for long, each in a way of its own."""
    deep = tuple((f"d{n}", *("ORMap", "n") * 63, "ORSet") for n in range(1, 400))
    nested = 1
    for _ in range(60):
        nested = [nested]
    value = freeze([nested] * 1500)
    one = (1, ("r", "LWWRegister"), "", 1)
    killed = tuple(("ghost", 1 + 4 * n, 2 + 4 * n) for n in range(12_000))
    return {
        "runs": tuple(Run(f"x{n}", 1, 1 << 30) for n in range(4_000)),
        "killed ranges": (Run("m", 1, 1, ((1, None, "", 0, None, killed),)),),
        "nested documents": (
            Run("m", 1, 399, tuple((n, path, "x", 0, None, ()) for n, path in enumerate(deep, 1))),
        ),
        "nested values": (Run("m", 1, 1, ((*one, value, ()),)),),
    }


@pytest.mark.parametrize("what", heavy())
def test_a_few_bytes_that_make_much_work_are_refused_before_it_is_done(what, monkeypatch):
    """Each weighed nothing beyond its bytes: a frame of 42 KiB held the loop for minutes."""
    runs = heavy()[what]
    data = Delta(runs).encode()
    assert len(data) < 64 * 1024
    built = []
    monkeypatch.setattr("crdt.kernel.delta._unpack_run", lambda *packed: built.append(packed))
    monkeypatch.setattr("crdt.kernel.codec.decode_value", built.append)
    with pytest.raises(DecodeError, match="more"):
        Delta.decode(data, weight_max=512 * 1024)
    assert not built


@pytest.mark.parametrize("item", [b"\x80", b"\x91\x90"], ids=["maps", "lists"])
def test_a_body_of_many_lists_is_refused_when_there_are_too_many(item):
    """Counterexample: 900 KB of empty maps came in 4 KB, and each was made."""
    body = b"\x93\x90\x90\xdd" + (300_000).to_bytes(4, "big") + item * 300_000
    with pytest.raises(DecodeError, match="more lists and maps"):
        Delta.decode(seal("d", body), weight_max=512 * 1024)


def adds(kernel: Kernel, count: int) -> None:
    for number in range(count):
        kernel.document("s", GSet).add(number)


def lists(kernel: Kernel, count: int) -> None:
    kernel.document("r", LWWRegister).set([[[]]] * count)


def registers(kernel: Kernel, count: int) -> None:
    for number in range(count):
        kernel.document(f"r/{number}", LWWRegister).set("same")


def removals(kernel: Kernel, count: int) -> None:
    for number in range(count):
        kernel.document("c", PNCounter).increment(number + 1)
        kernel.document("o", ORSet).discard(number)


@pytest.mark.parametrize("limit", [256, 4 * 1024, 64 * 1024])
@pytest.mark.parametrize("write", [adds, lists, registers, removals])
def test_a_batch_that_passes_is_one_that_receivers_take(write, limit):
    """Counterexample: 11 000 small events took 23 KB, passed at their writer, and nowhere else."""
    passed = refused = 0
    for count in (1, 2, 4, 8, 32, 128, 512, 2048):
        kernel, reader = Kernel("m~0123456789abcdef"), Kernel("r")
        for number in range(count):
            kernel.document("o", ORSet).add(number)
        start = kernel.vector
        reader.merge(kernel)
        before = kernel.canonical_bytes()
        try:
            with kernel.batch(bytes_max=limit):
                write(kernel, count)
        except BatchTooLargeError:
            refused += 1
            assert kernel.canonical_bytes() == before
            continue
        passed += 1
        reader.apply(Delta.decode(kernel.delta_since(start).encode(), weight_max=2 * limit))
        assert reader.canonical_bytes() == kernel.canonical_bytes()
    assert passed
    assert refused or limit > 4 * 1024


def test_what_the_local_limit_lets_pass_every_receiver_takes():
    """A local write is weighed as its receivers weigh it, values and children included."""
    kernel, reader = Kernel("m"), Kernel("r")
    kernel.batch_bytes_max = 256 * 1024
    kernel.document("r", LWWRegister).set([*range(100)] * 800)
    kernel.document("r", LWWRegister).set([{"id": n, "tags": ["a", "b"]} for n in range(2_000)])
    with pytest.raises(ValueTooLargeError):
        kernel.document("r", LWWRegister).set([[[]]] * 20_000)
    with kernel.batch():
        for number in range(60):
            below = kernel.document("m", ORMap)
            for name in range(20):
                below = below[f"{number}.{name}", ORMap]
            below["x", LWWRegister].set(number)
    data = kernel.delta_since({}).encode()
    reader.apply(Delta.decode(data, weight_max=512 * 1024))
    assert reader.canonical_bytes() == kernel.canonical_bytes()

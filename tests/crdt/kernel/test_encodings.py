"""What is encoded once is given to all who ask: never stale, never too much, and closed on its way.

Counted are encodings, events and bytes; nothing here depends on time.
"""

from __future__ import annotations

import random
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest

from crdt import BelowFloorError, DecodeError, Delta, Kernel, LWWMap, ORSet, PNCounter
from crdt.kernel import delta as deltas
from crdt.kernel.encodings import Encodings, Piece
from crdt.kernel.since import PIECE_WEIGHT_MIN
from tests.scale import rounds, seeds

BATCH = 400
ROOM = 100_000


def fill(kernel: Kernel, batches: int, start: int = 0) -> None:
    """New keys only, `BATCH` of them at a time."""
    table = kernel.document("m", LWWMap)
    for batch in range(start, start + batches):
        with kernel.batch(1 << 20):
            for number in range(BATCH):
                table.put(f"k{batch * BATCH + number:06d}", number)


def roll_back(kernel: Kernel, key: str) -> None:
    """A batch that replaces an entry, removes another, and fails."""
    with suppress(ZeroDivisionError), kernel.batch():
        kernel.document("m", LWWMap).put(key, 1)
        kernel.document("s", ORSet).remove(key)
        raise ZeroDivisionError


@contextmanager
def counted(monkeypatch):
    """Events packed and runs unpacked while it lasts."""
    counts = {"packed": 0, "unpacked": 0}
    pack, unpack = deltas._pack_run, deltas._unpack_run

    def packed(run, *rest):
        counts["packed"] += len(run.rows)
        return pack(run, *rest)

    def unpacked(*arguments):
        counts["unpacked"] += 1
        return unpack(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(deltas, "_pack_run", packed)
        patch.setattr(deltas, "_unpack_run", unpacked)
        yield counts


def afresh(kernel: Kernel, vector, **options) -> Delta:
    """The answer of a kernel that remembers no encoding."""
    live = kernel._state.live
    kept, live.encodings = live.encodings, Encodings()
    try:
        answer = kernel.delta_since(vector, **options)
        answer.encode()
        return Delta(answer.runs)
    finally:
        live.encodings = kept


# ------------------------------------------------------------------------------ encoded once


def test_peers_that_lack_the_same_are_given_one_encoding(monkeypatch):
    """Four readers, one after the other, with and without a limit: each event is packed once."""
    kernel = Kernel("a")
    fill(kernel, 10)
    for bytes_max in (None, ROOM):
        with counted(monkeypatch) as counts:
            answers = [
                kernel.delta_since({"a": 5 * BATCH}, bytes_max=bytes_max).encode() for _ in range(4)
            ]
        assert len(set(answers)) == 1
        assert counts == {"packed": len(Delta.decode(answers[0]).runs[0].rows), "unpacked": 0}


def test_readers_at_different_places_meet_at_the_ends_of_pieces(monkeypatch):
    """Four readers, as far apart as they please, cost little more than one; all become equal."""
    kernel = Kernel("a")
    table = kernel.document("m", LWWMap)
    for number in range(40 * BATCH):
        table.put(f"k{number:06d}", number)
    readers = [Kernel(f"r{number}") for number in range(4)]
    for number, reader in enumerate(readers):
        while reader.vector.get("a", 0) < 350 * number:
            reader.apply(kernel.delta_since(reader.vector, bytes_max=6_000))
    asked = 0
    with counted(monkeypatch) as counts:
        while any(reader.vector != kernel.vector for reader in readers):
            for reader in readers:
                data = kernel.delta_since(reader.vector, bytes_max=ROOM, pieces=True).encode()
                reader.apply(Delta.decode(data))
                asked += 1
    assert asked > 40
    assert counts["packed"] < 1.3 * 40 * BATCH
    assert len({reader.canonical_bytes() for reader in (kernel, *readers)}) == 1


def test_what_a_batch_was_encoded_to_for_the_journal_is_what_peers_are_given(monkeypatch):
    """A writer that keeps a journal packs each event once, however many peers there are."""
    kernel, journal = Kernel("a"), []
    kernel.on_delta = lambda delta, _: journal.append(delta.encode())
    with counted(monkeypatch) as counts:
        fill(kernel, 12)
        stands = dict.fromkeys(range(4), 0)
        while min(stands.values()) < 12 * BATCH:
            for peer, stand in stands.items():
                answer = kernel.delta_since({"a": stand}, bytes_max=ROOM, pieces=True)
                answer.encode()
                stands[peer] = answer.ranges[-1][2] if answer.ranges else stand
    assert counts["packed"] == 12 * BATCH
    assert len(journal) == 12


def test_a_piece_is_cut_between_batches_whoever_asks_in_between():
    """A reader that stands inside of a batch leaves no piece behind that would cut it."""
    kernel = Kernel("a")
    fill(kernel, 3)
    kernel.delta_since({"a": BATCH // 2}).encode()
    kernel.delta_since({"a": BATCH // 2}, bytes_max=1, pieces=True).encode()
    for room in (1, ROOM // 4, ROOM):
        stand, batches = 0, []
        while stand < 3 * BATCH:
            answer = kernel.delta_since({"a": stand}, bytes_max=room, pieces=True)
            batches += [mark for run in answer.runs for mark in run.batches]
            stand = answer.ranges[-1][2]
        assert batches == [(n * BATCH + 1, (n + 1) * BATCH) for n in range(3)]


# ------------------------------------------------------------------------------ never stale


@pytest.mark.parametrize("change", ["overwrite", "remove", "delete", "foreign removal", "batch"])
def test_what_changed_is_encoded_anew(change):
    """However an entry dies: its piece is not given again, the others are."""
    kernel = Kernel("a")
    fill(kernel, 4)
    peer = kernel.fork("b")
    before = [kernel.delta_since({"a": n * BATCH}, bytes_max=ROOM // 2).encode() for n in range(4)]
    table = kernel.document("m", LWWMap)
    key = f"k{BATCH + 7:06d}"
    if change == "overwrite":
        table.put(key, "new")
    elif change == "remove":
        table.delete(key)
    elif change == "delete":
        kernel.delete("m")
    elif change == "foreign removal":
        kernel.apply(peer.document("m", LWWMap).delete(key))
    else:
        with kernel.batch():
            table.put(key, "new")
    for number in (1, *([0, 2, 3] if change == "delete" else [])):
        vector = {"a": number * BATCH}
        again = kernel.delta_since(vector, bytes_max=ROOM // 2)
        assert again.encode() != before[number]
        assert again == afresh(kernel, vector, bytes_max=ROOM // 2)
    if change != "delete":
        assert kernel.delta_since({"a": 0}, bytes_max=ROOM // 2).encode() == before[0]


def test_a_batch_that_is_rolled_back_leaves_no_encoding_of_it():
    """What it killed is alive again, and what it wrote was never there."""
    kernel = Kernel("a")
    fill(kernel, 1)
    before = kernel.delta_since({}).encode()
    roll_back(kernel, "k000003")
    assert kernel.delta_since({}).encode() == before
    assert kernel.delta_since({}) == afresh(kernel, {})


def test_a_delta_says_what_it_was_made_of_though_the_state_went_on():
    """It is encoded late, after one of its entries died: its bytes are its own, and not kept."""
    kernel = Kernel("a")
    fill(kernel, 1)
    early = kernel.delta_since({})
    kernel.document("m", LWWMap).delete("k000003")
    late = kernel.delta_since({})
    assert Delta.decode(early.encode()) == early
    assert late == afresh(kernel, {})
    assert kernel.delta_since({}).encode() == late.encode() != early.encode()


def act(dice: random.Random, kernels: list[Kernel]) -> None:
    """One thing that may happen to a replica: a write of any kind, an exchange, a compaction."""
    kernel = dice.choice(kernels)
    other = dice.choice([each for each in kernels if each is not kernel])
    key, roll = f"k{dice.randrange(60)}", dice.randrange(12)
    if roll < 4:
        with kernel.batch(1 << 20):
            for _ in range(dice.choice((1, 3, 30))):
                kernel.document("m", LWWMap).put(f"k{dice.randrange(400)}", dice.random())
    elif roll == 4:
        kernel.document("s", ORSet).add(key)
    elif roll == 5:
        kernel.document("s", ORSet).remove(key)
    elif roll == 6:
        kernel.document("c", PNCounter).increment(dice.randrange(5))
    elif roll == 7:
        kernel.delete("s")
    elif roll == 8:
        kernel.merge(other)
    elif roll == 9:
        for chunk in other.chunks(dice.choice((300, 10_000))).chunks:
            kernel.apply_chunk(chunk)
    elif roll == 10:
        kernel.drop_records({name: dice.randint(0, seq) for name, seq in kernel.vector.items()})
    else:
        roll_back(kernel, key)


def test_a_kept_encoding_says_what_a_fresh_one_would():
    """Random lives of three replicas: whole answers are equal to fresh ones, in events and bytes.

    Pieces say the same in other runs: who applies them stands where one of fresh answers does.
    """
    for seed in seeds(6):
        dice = random.Random(seed)
        kernels = [Kernel(name) for name in "abc"]
        for _ in range(rounds(600) // 10):
            act(dice, kernels)
            for kernel in kernels:
                vector = {n: dice.randint(0, s) for n, s in kernel.vector.items()}
                for options in ({}, {"bytes_max": dice.choice((200, 3_000, 50_000))}):
                    try:
                        fresh = afresh(kernel, vector, **options)
                    except BelowFloorError as refused:
                        with pytest.raises(type(refused)):
                            kernel.delta_since(vector, **options)
                        continue
                    told = kernel.delta_since(vector, **options)
                    if not options:
                        assert told == fresh
                        assert told.encode() == fresh.encode()
                    assert Delta.decode(told.encode()) == Delta(told.runs)
                    told = kernel.delta_since(vector, **options, pieces=True)
                    one, two = Kernel("x"), Kernel("x")
                    one.apply(Delta.decode(told.encode()))
                    two.apply(afresh(kernel, vector))
                    if not options:
                        assert one.canonical_bytes() == two.canonical_bytes()
                        assert one.delta_since({}) == two.delta_since({})


# ------------------------------------------------------------------------------ bounded


def test_encodings_are_bounded_in_bytes_and_counted():
    """The piece that lay longest goes first; what is larger than its share is never kept."""
    kernel = Kernel("a")
    encodings = kernel._state.live.encodings
    encodings.bytes_max = 20_000
    fill(kernel, 30)
    for number in range(30):
        kernel.delta_since({"a": number * BATCH}, bytes_max=ROOM // 2, pieces=True).encode()
        assert kernel.stats()["encodings_bytes"] == encodings.bytes_held <= 20_000
    assert encodings.made > 20
    assert encodings.find(encodings.starts[-1]) is not None
    held = encodings.bytes_held
    kernel.delta_since({}).encode()  # everything at once: over its share
    assert encodings.bytes_held < held
    assert kernel.stats()["encodings_given"] == 0


def test_pieces_that_are_made_push_out_those_they_overlap():
    """So a dot is in one piece at most, and to forget it is to look in one place."""
    encodings = Encodings()
    dice = random.Random(3)
    for _ in range(500):
        first = dice.randrange(1000)
        piece = encodings.keep(Piece(first, first + dice.randint(1, 50), 1, PIECE_WEIGHT_MIN))
        if dice.random() < 0.7:
            piece.encoded(b"x" * 9)
        if dice.random() < 0.3:
            dot = dice.randint(1, 1000)
            encodings.forget(dot, dot)
            assert not any(p.after < dot <= p.last for p in encodings._pieces.values())
        spans = sorted((p.after, p.last) for p in encodings._pieces.values())
        assert [start for start, _ in spans] == encodings.starts
        assert all(one[1] <= two[0] for one, two in pairwise(spans))
        sizes = [512 + len(p.data) for p in encodings._pieces.values()]
        assert encodings.bytes_held == sum(sizes)


# ------------------------------------------------------------------------------ closed


def test_ranges_are_read_without_opening_what_is_in_them(monkeypatch):
    """And the parts that somebody knows are left out unopened; what is left is a sound delta."""
    kernel = Kernel("a")
    fill(kernel, 3)
    other = Kernel("b")
    other.document("s", ORSet).add("x")
    kernel.apply(other.delta_since({}))
    delta = Delta(
        (
            *kernel.delta_since({"a": 2 * BATCH, "b": 1}).runs,
            *kernel.delta_since({"b": 1}, bytes_max=ROOM // 3).runs,
            *kernel.delta_since({"a": 3 * BATCH}).runs,
        )
    )
    data = delta.encode()
    with monkeypatch.context() as patch:
        patch.setattr(deltas, "inflated", None)
        assert Delta.ranges_in(data) == delta.ranges
        assert Delta.news_in(data, {}) == data
        left = Delta.news_in(data, {"a": BATCH})
        assert Delta.news_in(data, kernel.vector) == Delta().encode()
        with pytest.raises(DecodeError):
            Delta.ranges_in(data[:-1])
    assert Delta.decode(left).ranges == (("a", 2 * BATCH + 1, 3 * BATCH), ("b", 1, 1))


def test_a_part_cannot_cover_other_dots_than_stand_outside_of_it():
    """A forged outside gives other dots to the same events, or does not fit: never two truths."""
    kernel = Kernel("a")
    kernel.document("s", ORSet).add("x")
    data = kernel.delta_since({}).encode()
    ((names, _, size, content),) = deltas.unpack_body(deltas.unseal("d", data), 1 << 20)
    for forged in ([0, 1, 0, 0, 2, 0], [0, 0, 0], [1, 1, 0], [0, 1]):
        part = [names, forged, size, content]
        with pytest.raises(DecodeError):
            Delta.decode(deltas.seal("d", deltas.pack([part])))
    moved = deltas.seal("d", deltas.pack([[["z"], [0, 7, 0], size, content]]))
    assert Delta.ranges_in(moved) == Delta.decode(moved).ranges == (("z", 7, 7),)


@pytest.mark.parametrize("what", ["names", "ranges", "sizes", "parts", "inflated"])
def test_the_outside_of_a_delta_is_as_limited_as_its_inside(what, monkeypatch):
    """Ranges are read before anything else is known: a few bytes must not make many of them."""
    many = 100_000
    names, flat, part = ["z"], [0, 1, 0], [["z"], [0, 1, 0], 10, b"0123456789"]
    body = {
        "names": [[[f"n{number}" for number in range(many)], flat, 0, b""]],
        "ranges": [[names, [0, 1, 0] * many, 0, b""]],
        "sizes": [[names, flat, 1 << 20, b"x"], [names, flat, 1 << 20, b"x"]],
        "parts": [part] * many,
        "inflated": [[names, flat, 0, b"0" * (3 << 20)]],
    }[what]
    data = deltas.seal("d", deltas.pack(body))
    assert len(data) < 400_000
    made = []
    for name in ("names_of", "unpack_ranges"):
        monkeypatch.setattr(deltas, name, lambda given, *_: made.append(len(given)) or [])
    for read in (Delta.ranges_in, Delta.decode):
        with pytest.raises(DecodeError, match=r"more|announces"):
            read(data, weight_max=512 * 1024)
    assert sum(made) < 50_000

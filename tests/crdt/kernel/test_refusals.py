"""What is refused, exhaustively: every single fault in a small message; and the paths for bulk."""

import random
import zlib

import pytest

import crdt
from crdt import (
    BoundedCounter,
    Chunk,
    Delta,
    GCounter,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    ORMap,
    ORSet,
)
from crdt.errors import DecodeError
from crdt.kernel.codec import encode_value, freeze, pack, step_of, unpack_body
from crdt.kernel.envelope import BODY_BYTES_MAX, COMPRESS_ABOVE, seal, unseal
from tests.crdt.kernel.chunks import only_chunk
from tests.scale import seeds

BAD = (
    None, True, -1, 0, 1, 2, 7, 1 << 39, 1 << 41, 1 << 70, -(1 << 70), "", "a", "x" * 300, b"",
    b"x", 1.5, float("nan"), [], [0], [[]], ["a", "a"], [1, 2], [1, 2, 3],
    freeze([1]), freeze((1, 2)), step_of(1.0), (encode_value("plain"),),
)  # fmt: skip


def faults(body):
    """Every body that differs in one place: a part replaced, left out, or doubled."""
    if not isinstance(body, list):
        return
    for index, part in enumerate(body):
        for bad in BAD:
            yield [*body[:index], bad, *body[index + 1 :]]
        yield [*body[:index], *body[index + 1 :]]
        yield [*body[: index + 1], *body[index:]]
        for inner in faults(part):
            yield [*body[:index], inner, *body[index + 1 :]]


def small_kernel():
    """Every shape of entry, a removal, a batch, a gap, a doomed dot and an unfinished set."""
    kernel, other = Kernel("a"), Kernel("b")
    kernel.document("s", ORSet).add((1, 2))
    kernel.document("n", GCounter).increment(3)
    kernel.document("q", BoundedCounter.at_least(2)).increment(5)
    kernel.document("m", ORMap)["r", LWWRegister].set([1])
    with kernel.batch():
        kernel.document("s", ORSet).add(7)
        kernel.document("x", MaxRegister).set(2.5)
    kernel.document("s", ORSet).remove(7)
    first = other.document("s", ORSet).add("first")
    second = Kernel("c")
    second.apply(first)
    kernel.apply(second.document("s", ORSet).remove("first"))
    other.document("s", ORSet).add("unheard")
    kernel.apply(other.document("s", ORSet).add("third"))
    third = Kernel("d")
    third.document("s", ORSet).add("aside")
    third.document("s", ORSet).add("aside too")
    kernel.apply_chunk(third.chunks(10).chunks[0])
    return kernel


def accepts(kind, body, tail=b""):
    """Whether the decoder takes a body; whatever it takes must leave a sound kernel."""
    data = seal(kind, pack(body), compress=False)
    reader = Kernel("r")
    try:
        if kind == "d":
            reader.apply(Delta.decode(data))
        elif kind == "c":
            reader.apply_chunk(Chunk.decode(data))
        elif kind == "e":
            reader.apply_chunk(only_chunk(pack(body), tail))
        else:
            whole = len(data).to_bytes(4, "big") + data + tail
            reader = Kernel.from_bytes(whole, replica="r")
    except crdt.CRDTError:
        return False
    reader._check()
    return True


@pytest.mark.parametrize("kind", ["d", "c", "e", "s"])
def test_every_single_fault_is_refused_or_harmless(kind):
    """[crdt 25] Each part of a message replaced, dropped or doubled: typed error or sound state."""
    kernel = small_kernel()
    snapshot = kernel.to_bytes()
    size = int.from_bytes(snapshot[:4], "big")
    (chunk,) = kernel.chunks(10_000).chunks
    data = {
        "d": kernel.delta_since({}).encode(),
        "c": chunk.encode(),
        "e": chunk.content,
        "s": snapshot[4 : 4 + size],
    }[kind]
    body = unpack_body(unseal(kind, data))
    tail = {"s": snapshot[4 + size :], "e": chunk.vector}.get(kind, b"")
    assert accepts(kind, body, tail)
    verdicts = [accepts(kind, fault, tail) for fault in faults(body)]
    assert verdicts.count(False) > len(verdicts) // 2
    assert Kernel.from_bytes(snapshot, replica="a").canonical_bytes() == kernel.canonical_bytes()


def test_envelopes_that_lie_about_their_content():
    """Sizes, compression and checksums are checked against what is there."""
    plain = b"\x90" * (COMPRESS_ABOVE * 4)
    packed = seal("d", plain)
    assert unseal("d", packed) == plain
    noise = random.Random(1).randbytes(COMPRESS_ABOVE * 2)
    assert unseal("d", seal("d", noise)) == noise

    def forged(content, size, flags):
        rest = size.to_bytes(4, "big") + content
        head = b"cv\x03d" + bytes([flags])
        return head + zlib.crc32(head + rest).to_bytes(4, "big") + rest

    deflated = zlib.compress(plain)
    for data in (
        forged(plain, len(plain) + 1, 0),
        forged(b"", BODY_BYTES_MAX + 1, 0),
        forged(b"no zlib", 7, 1),
        forged(deflated, len(plain) - 1, 1),
        forged(deflated, len(plain) + 1, 1),
        forged(deflated[:-3], len(plain), 1),
        forged(deflated + b"x", len(plain), 1),
        forged(plain, len(plain), 8),
    ):
        with pytest.raises(DecodeError):
            unseal("d", data)
    assert unseal("d", forged(deflated, len(plain), 1)) == plain
    for data in ("text", None, b"\x00\x00"):
        with pytest.raises(DecodeError):
            Kernel.from_bytes(data, replica="x")
    with pytest.raises(TypeError):
        pack([object()])


@pytest.mark.parametrize("width", [3, 20])
def test_an_event_that_says_nothing_is_refused_however_wide_its_run(width):
    """A forged row without entry and with an empty list of kills.

    In a run wide enough for columns it broke the apply halfway, with all dots counted as seen.
    """
    rows = [[min(index, 1), 0, f"k{index}", 0, None] for index in range(width)]
    rows[1] = [1, []]
    events = pack([[["doc", 7]], [[0, [], rows]]])
    with pytest.raises(DecodeError, match="an empty list of kills"):
        Delta.decode(seal("d", pack([[["z"], [0, 1, width - 1], len(events), events]])))


def test_a_snapshot_is_read_by_its_own_life_or_a_new_one():
    """Bytes that know a replica's events in part cannot be that replica's own snapshot."""
    a, b = ORSet("a"), ORSet("b")
    a.add(1)
    b.apply(a.add(2))
    with pytest.raises(crdt.IdentityReusedError):
        ORSet.from_bytes(b.to_bytes(), replica="a")
    assert ORSet.from_bytes(b.to_bytes(), replica="c") == {2}


def test_a_snapshot_holds_no_entry_that_it_has_not_seen():
    """A forged head that covers less than the pieces behind it: refused, not a broken kernel."""
    donor = ORSet("a")
    for number in range(3):
        donor.add(number)
    data = donor.to_bytes()
    size = int.from_bytes(data[:4], "big")
    head = unpack_body(unseal("s", data[4 : 4 + size]))
    head[2] = head[3] = [0, 1, 0, 0, 3, 0]
    forged = seal("s", pack(head))
    with pytest.raises(DecodeError, match="not seen"):
        Kernel.from_bytes(len(forged).to_bytes(4, "big") + forged + data[4 + size :], replica="b")
    again = data + data[4 + size :]
    with pytest.raises(DecodeError, match="same events"):
        Kernel.from_bytes(again, replica="b")


def test_wide_runs_and_shuffled_ones_give_the_same_state():
    """Column by column, row by row, in order or not: the same bytes, and vectors keep answering."""
    for seed in seeds(3):
        dice = random.Random(seed)
        writer, deltas = Kernel("w"), []
        writer.on_delta = lambda delta, change, into=deltas: into.append(delta)
        first, second = writer.document("m", LWWMap), writer.document("s", ORSet)
        for number in range(400):
            if dice.random() < 0.8:
                first.put(f"k{number}", number)
            else:
                second.add(dice.randrange(50) if seed % 2 else number)
        by_columns, by_rows, shuffled = Kernel("1"), Kernel("2"), Kernel("3")
        change = by_columns.apply(writer.delta_since({}))
        assert {each.name for each in change.documents} == {"m", "s"}
        for delta in deltas:
            by_rows.apply(delta)
        for delta in dice.sample(deltas, len(deltas)):
            shuffled.apply(delta)
            if dice.random() < 0.02:
                Kernel("asks").apply(shuffled.delta_since({"w": dice.randrange(400)}))
        for reader in (by_columns, by_rows, shuffled):
            reader._check()
            assert reader.canonical_bytes() == writer.canonical_bytes()
            again = Kernel("again")
            again.apply(reader.delta_since({}))
            assert again.canonical_bytes() == writer.canonical_bytes()


def test_records_that_doom_an_unseen_dot_are_never_evicted():
    """Eviction stops at records that still have work to do, and goes on when they are done."""
    writer, remover, reader = ORSet("w"), ORSet("x"), ORSet("r")
    adds = [writer.add(number) for number in range(8)]
    remover.merge(writer)
    reader.kernel._state.records_max = 2
    for number in range(8):
        reader.apply(remover.remove(number))
    assert reader.kernel.stats()["doomed"] == 8
    assert reader.kernel.stats()["records"] == 8
    for add in adds:
        reader.apply(add)
    reader.kernel.drop_records()
    assert reader.kernel.stats()["records"] == 0
    assert reader == set()
    assert int(GCounter("g")) == 0
    with pytest.raises(crdt.InvalidValueError):
        ORSet("e").add([])


def test_a_delta_that_is_wrong_twice_is_refused_for_the_identity_first():
    """A stranger under our id is for its owner to solve, also behind a dot spent twice."""
    kernel, other, twin = Kernel("a"), Kernel("b"), Kernel("b")
    kernel.apply(other.document("s", ORSet).add("x"))
    before = kernel.canonical_bytes()
    spent = twin.document("s", ORSet).add("y")
    stranger = Kernel("a").document("s", ORSet).add("z")
    for runs in (spent.runs + stranger.runs, stranger.runs + spent.runs):
        with pytest.raises(crdt.IdentityReusedError):
            kernel.apply(Delta(runs))
    assert kernel.canonical_bytes() == before

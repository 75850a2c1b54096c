"""What is kept aside of incomplete chunk sets has a limit in bytes of memory, and says so."""

import tracemalloc
from dataclasses import replace

import pytest

from crdt import (
    Chunk,
    ChunksAsideFullError,
    IdentityReusedError,
    Kernel,
    LWWMap,
    MaxRegister,
    ORMap,
    ORSet,
    VersionVector,
)
from crdt.kernel.chunk import id_of


def donor_of(name, width):
    """A kernel with so many entries, and the chunks of its state, at least six."""
    kernel = Kernel(name)
    tags = kernel.document("tags", ORSet)
    for number in range(width):
        tags.add(f"{name}-{number:06d}")
    chunks = kernel.chunks(width * 4).chunks
    assert len(chunks) >= 6
    return kernel, chunks


def aside(kernel):
    """What the statistics say: chunks, their bytes, and how many were forgotten."""
    stats = kernel.stats()
    return stats["chunks_aside"], stats["chunks_aside_bytes"], stats["chunks_forgotten"]


def test_a_second_set_over_the_limit_makes_the_older_one_go_and_loses_nothing():
    """The older set is forgotten and counted; sent again it joins, and nothing is missing."""
    (one, first), (two, second) = donor_of("one", 60), donor_of("two", 60)
    reader = Kernel("r")
    reader.document("tags", ORSet).add("mine")
    before = reader.canonical_bytes()
    weight = max(chunk.memory_bytes for chunk in (*first, *second))
    reader.chunks_aside_bytes_max = weight * 4
    assert reader.chunks_aside_bytes_max == weight * 4
    for chunk in first[:3]:
        reader.apply_chunk(chunk)
    assert aside(reader) == (3, sum(chunk.memory_bytes for chunk in first[:3]), 0)
    reader.apply_chunk(second[0])
    reader.apply_chunk(second[0])
    assert aside(reader)[0] == 4
    reader.apply_chunk(second[1])
    assert aside(reader) == (2, second[0].memory_bytes + second[1].memory_bytes, 3)
    assert reader.canonical_bytes() == before
    reader.chunks_aside_bytes_max = 1 << 30
    for chunk in (*second[2:], *first):
        reader.apply_chunk(chunk)
    assert aside(reader) == (0, 0, 3)
    together = one.document("tags", ORSet).value | two.document("tags", ORSet).value
    assert reader.document("tags", ORSet).value == together | {"mine"}
    reader._check()


def test_a_set_that_alone_is_too_large_is_refused_and_what_was_kept_stays():
    """The refusal names set, bytes and limit; with more room, or by deltas, the rest comes."""
    kernel, chunks = donor_of("d", 60)
    reader = Kernel("r")
    for chunk in chunks[:2]:
        reader.apply_chunk(chunk)
    kept = aside(reader)
    reader.chunks_aside_bytes_max = kept[1] + 1
    with pytest.raises(ChunksAsideFullError, match="not kept") as refused:
        reader.apply_chunk(chunks[2])
    error = refused.value
    assert (error.set_id, error.bytes_max) == (chunks[2].set_id, kept[1] + 1)
    assert error.size == kept[1] + chunks[2].memory_bytes
    assert aside(reader) == kept
    by_deltas = reader.fork("r2")
    assert by_deltas.chunks_aside_bytes_max == kept[1] + 1
    by_deltas.apply(kernel.delta_since(by_deltas.vector))
    reader.chunks_aside_bytes_max = error.size * len(chunks)
    for chunk in chunks[2:]:
        reader.apply_chunk(chunk)
    for each in (reader, by_deltas):
        assert each.canonical_bytes() == kernel.canonical_bytes()


@pytest.mark.parametrize("room", [0, 1, 2, 5, 6])
def test_a_snapshot_gives_back_only_the_sets_for_which_there_is_room(room, monkeypatch):
    """Of two sets of three chunks: both, the newer, or none; the state itself is always whole."""
    (_, first), (_, second) = donor_of("one", 60), donor_of("two", 60)
    keeper = Kernel("k")
    keeper.document("tags", ORSet).add("mine")
    for chunk in (*first[:3], *second[:3]):
        keeper.apply_chunk(chunk)
    weight = max(chunk.memory_bytes for chunk in (*first, *second))
    monkeypatch.setattr("crdt.kernel.state.CHUNKS_ASIDE_BYTES_MAX", weight * room)
    again = Kernel.from_bytes(keeper.to_bytes(), replica="k")
    kept = 6 if room == 6 else 3 if room == 5 else 0
    assert aside(again)[::2] == (kept, 6 - kept)
    assert aside(again)[1] <= weight * room
    assert again.canonical_bytes() == keeper.canonical_bytes()
    again.chunks_aside_bytes_max = 1 << 30
    for chunk in second[3:] if kept else second:
        again.apply_chunk(chunk)
    assert len(again.document("tags", ORSet)) == 61
    again._check()


def wide(kernel):
    """Many plain entries: `agent-000001 -> 1`."""
    for number in range(3_000):
        kernel.document("m", LWWMap).put(f"agent-{number:06d}", number)


def packed(kernel):
    """Elements and values that are no plain scalars, as short as they get."""
    for number in range(3_000):
        kernel.document("m", LWWMap).put((number,), [])


def scattered(kernel):
    """A span per entry, and a document per entry, nested."""
    for number in range(1_000):
        kernel.document(f"{number}", ORMap)["a", ORMap]["b", MaxRegister].set(number)
        kernel.document("void", ORSet).remove("absent")
        kernel.void(kernel.vector[kernel.replica] + 2)


def doomed(kernel):
    """Removals of adds that never came, one by one."""
    source, remover = Kernel("s"), Kernel("x")
    for number in range(2_000):
        delta = source.document("t", ORSet).add(number)
        if number % 2:
            remover.apply(delta)
    kernel.apply(remover.document("t", ORSet).clear())


@pytest.mark.parametrize("fill", [wide, packed, scattered, doomed])
def test_the_memory_that_is_counted_is_not_less_than_what_is_taken(fill):
    """Tracing measures the opened chunk; the count is above it, and not tenfold."""
    kernel = Kernel("k")
    fill(kernel)
    (chunk,) = kernel.chunks(1 << 24).chunks
    data = chunk.encode()
    del kernel
    tracemalloc.start()
    opened = Chunk.decode(data)
    opened.open()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken <= opened.memory_bytes <= 10 * taken


def test_a_chunk_that_unpacks_to_much_more_is_weighed_by_what_it_becomes():
    """A few hundred bytes of zlib that hold a megabyte count as a megabyte."""
    kernel = Kernel("k")
    kernel.document("m", LWWMap).put("zeros", bytes(1 << 20))
    kernel.document("m", LWWMap).put("more", bytes(1 << 20))
    chunk = kernel.chunks(1 << 10).chunks[0]
    assert len(chunk.content) < 1 << 14
    assert chunk.memory_bytes > 1 << 20
    reader = Kernel("r")
    reader.chunks_aside_bytes_max = 1 << 20
    with pytest.raises(ChunksAsideFullError):
        reader.apply_chunk(chunk)
    assert aside(reader) == (0, 0, 0)


def test_a_set_kept_aside_survives_the_joining_of_another():
    """Another donor's state comes whole in between; then the first set is completed."""
    (_, chunks), (other, _) = donor_of("a", 80), donor_of("b", 80)
    reader = Kernel("r")
    for chunk in chunks[::2]:
        reader.apply_chunk(chunk)
    (whole,) = other.chunks(1 << 20).chunks
    reader.apply_chunk(whole)
    assert aside(reader)[0] == len(chunks[::2])
    for chunk in chunks[1::2]:
        reader.apply_chunk(chunk)
    assert len(reader.document("tags", ORSet)) == 160
    assert aside(reader)[:2] == (0, 0)


def test_chunks_kept_aside_outlive_a_restart():
    """Half of a set before it, half after it, and the state is there."""
    donor, chunks = donor_of("a", 60)
    reader = Kernel("r")
    for chunk in chunks[:3]:
        reader.apply_chunk(chunk)
    again = Kernel.from_bytes(reader.to_bytes(), replica="r")
    assert aside(again) == aside(reader)
    for chunk in chunks[3:]:
        again.apply_chunk(chunk)
    assert again.canonical_bytes() == donor.canonical_bytes()


def test_a_set_is_known_by_what_it_covers_too():
    """Two vectors over one content are two sets; one that claims another vector begins anew."""
    donor, chunks = donor_of("a", 60)
    removed = Kernel("a")
    for name in ("a", "b"):
        removed.document("tags", ORSet).add(name)
        removed.document("tags", ORSet).remove(name)
    assert donor.chunks(240).id != removed.chunks(240).id
    digests = [chunk.open().digest for chunk in chunks]
    one, other = (id_of(digests, VersionVector({"a": seq})) for seq in (60, 61))
    assert one != other
    reader = Kernel("r")
    forged = VersionVector({"a": 7})
    reader.apply_chunk(replace(chunks[0], vector=forged))
    reader.apply_chunk(chunks[1])
    assert aside(reader)[0] == 1
    for chunk in chunks:
        reader.apply_chunk(chunk)
    assert reader.canonical_bytes() == donor.canonical_bytes()


def test_chunks_that_know_of_the_death_of_own_events_speak_of_a_life_not_lived():
    """The donor has only heard that an event of ours was removed: our own number is spent."""
    lost, remover, donor = Kernel("a"), Kernel("b"), Kernel("c")
    remover.apply(lost.document("tags", ORSet).add("x"))
    donor.apply(remover.document("tags", ORSet).remove("x"))
    (chunk,) = donor.chunks(1000).chunks
    assert [origin for origin, *_ in chunk.ranges] == ["b"]
    fresh = Kernel("a")
    before = fresh.to_bytes()
    with pytest.raises(IdentityReusedError):
        fresh.apply_chunk(chunk)
    assert fresh.to_bytes() == before
    fresh.reincarnate("a~2")
    fresh.apply_chunk(chunk)
    assert fresh.stats()["doomed"] == 1


def test_an_equal_state_in_one_chunk_settles_what_was_kept_aside():
    """It says that all of it is here, and so that unfinished sets of older states are useless."""
    donor, chunks = donor_of("d", 60)
    reader = Kernel("r")
    reader.apply_chunk(chunks[0])
    reader.apply(donor.delta_since({}))
    (whole,) = donor.chunks(1 << 20).chunks
    half = Chunk(whole.set_id, 0, 2, whole.vector, whole.content)  # a liar's
    reader.apply_chunk(half)
    assert aside(reader)[0] == 2
    assert not reader.apply_chunk(whole)
    assert aside(reader) == (0, 0, 0)

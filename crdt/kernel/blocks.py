"""Blocks: a digest of the state, beside the vector, which is a digest of what was heard.

Equal vectors are equal states as long as every answer came whole and nobody told two events under
one number. To see where that was not so, the live content is hashed in blocks: the entries, and the
doomed dots, of 1 024 neighbouring seqs of one origin, in the same columns as in a chunk. Two
replicas that heard the same, and have equal hashes over all blocks, hold equal bytes; if the hashes
differ, so do some blocks, and only those are exchanged (a Merkle tree of two levels; Demers et al.
1987 compare checksums; DeCandia et al. 2007, section 4.7, trees).

What is out of date is known without looking. A write costs one mark for each entry that it took out
of a row (`LiveTable.dirty`), and none for what it adds: an entry that is new has a seq above the
applied vector as it was when its origin was hashed last (`reached`), because what is covered never
comes alive again. So `refresh` walks the marked blocks, and those with slots above `reached`. It
does so in slices, whenever its caller has time; until it is through there is no digest.

There is none either while something was seen beyond the applied vector: vectors say nothing about
that, so equal ones would not have to mean equal states.

What differs is mended by a set of chunks like any other (`transfer`), cut from these blocks alone.
Such a set covers nothing beyond its spans and has no vector: it raises nobody. Where both have
heard the same, each dot in it can be judged by itself - in the span and absent is dead - so joining
these blocks is what joining the whole states would be. Two *different* entries of one dot are
beyond mending: both stay where they are, and the dot is named (`contradicted`).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from crdt.kernel.chunk import pack_content
from crdt.kernel.codec import pack
from crdt.kernel.context import Range, VersionVector
from crdt.kernel.doomed import BLOCK_BITS
from crdt.kernel.join import span_of
from crdt.kernel.limits import SEQ_BITS, SEQ_MAX
from crdt.kernel.set_hash import HASH_BYTES, element, hash_of
from crdt.kernel.transfer import cut_spans
from crdt.kernel.wire import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crdt.kernel.chunk import ChunkSet
    from crdt.kernel.state import State

_SEQS = 1 << BLOCK_BITS

# (origin, number of the block): its seqs are number * 1024 .. number * 1024 + 1023.
Block = tuple[str, int]


def is_fresh(state: State) -> bool:
    """Whether no hash is out of date. O(what changed)."""
    vector = state.applied.vector
    if state.live.dirty or state.blocks.at != vector:
        return False
    state.blocks.at = vector  # the same, and perhaps in other parts: next time it is seen at once
    return True


def refresh(state: State, blocks_max: int) -> bool:
    """Hash blocks that are out of date, so many at most; whether none is left. O(their entries)."""
    if is_fresh(state):
        return True
    # Not islice: where a word has 32 bits it takes no number that large.
    for _, key in zip(range(blocks_max), _outdated(state), strict=False):
        _hash(state, key)
    vector, reached = state.applied.vector, state.blocks.reached
    if state.live.dirty or any(
        reached.get(o, 0) < s for o, s in vector.above(state.blocks.at).items()
    ):
        return False
    state.blocks.at = vector
    return True


def _outdated(state: State) -> Iterator[int]:
    """The blocks to hash. One that was handed out counts as hashed. O(what changed) beside them."""
    live, reached = state.live, state.blocks.reached
    while live.dirty:
        yield live.dirty.pop()
    for origin, last in state.applied.vector.above(state.blocks.at).items():
        log = live.history(origin)
        while reached.get(origin, 0) < last:
            seq = log.next_seq(reached.get(origin, 0))
            if seq is None or seq > last:
                reached[origin] = last
                break
            reached[origin] = min(last, seq | (_SEQS - 1))
            yield (log.base + seq) >> BLOCK_BITS


def _hash(state: State, key: int) -> None:
    blocks = state.blocks
    found, before = _hash_of(state, key), blocks.of.pop(key, None)
    if before is not None:
        blocks.total -= _counted(state, key, before)
    if found is not None:
        blocks.of[key] = found
        blocks.total += _counted(state, key, found)


def _counted(state: State, key: int, found: bytes) -> int:
    """What a block adds to the hash over all."""
    return element(pack([*_block_of(state, key), found]))


def _hash_of(state: State, key: int) -> bytes | None:
    """The hash of a block, None if there is nothing in it. O(1024)."""
    origin, number = _block_of(state, key)
    span, doomed = _content(state, origin, number, SEQ_MAX)
    if not span.seqs and not doomed:
        return None
    return blake2b(pack(pack_content([span], doomed)), digest_size=HASH_BYTES).digest()


def _content(state: State, origin: str, number: int, last: int) -> tuple[Span, tuple[Range, ...]]:
    """The live entries of a block up to a seq, and the doomed dots in the whole of it."""
    first, end = max(1, number << BLOCK_BITS), (number << BLOCK_BITS) + _SEQS - 1
    span = span_of(state, origin, first, min(end, last))
    base = state.live.bases.get(origin)
    if not state.doomed or base is None:
        return span, ()
    doomed = state.doomed.ranges(base >> SEQ_BITS, first, end)
    return span, tuple((origin, *found) for found in doomed)


def _block_of(state: State, key: int) -> Block:
    index, number = divmod(key, 1 << (SEQ_BITS - BLOCK_BITS))
    return state.live.names[index], number


def hashes(state: State) -> dict[Block, bytes]:
    """The hash of every block that holds something, in the order of the blocks. O(blocks)."""
    named = ((_block_of(state, key), found) for key, found in state.blocks.of.items())
    return dict(sorted(named))


def digest(state: State) -> bytes:
    """The hash over all blocks; b"" if there is none now. O(what changed since it was asked)."""
    if state.context is not state.applied or state.applied.clouds or not is_fresh(state):
        return b""
    return hash_of(state.blocks.total)


def cut_blocks(state: State, blocks: Iterable[Block], bytes_max: int) -> ChunkSet:
    """What is alive, and doomed, in these blocks, as a set that raises nobody. O(their entries)."""
    spans, killed = list[Span](), list[Range]()
    for origin, number in sorted(set(blocks)):
        if not 0 <= number <= SEQ_MAX >> BLOCK_BITS:
            continue  # there is no such block
        last = state.applied.seqs.get(origin, 0)
        span, doomed = _content(state, origin, number, last)
        if span.first <= span.last:
            spans.append(span)
        killed += doomed
    return cut_spans(spans, tuple(killed), VersionVector(), bytes_max)


def disagreements(state: State) -> list[Block]:
    """Blocks whose hashes stand behind a digest and are wrong: none, ever. O(n)."""
    if not digest(state):
        return []
    names, wanted = state.live.names, dict[int, bytes]()
    for index, log in enumerate(state.live.logs):
        last = state.applied.seqs.get(names[index], 0)
        keys = {(log.base + seq) >> BLOCK_BITS for seq in (*log.seqs, *log.late) if seq <= last}
        keys |= {
            (log.base + seq) >> BLOCK_BITS
            for low, high in state.doomed.ranges(index)
            for seq in range(low, high + 1)
        }
        for key in keys:
            found = _hash_of(state, key)
            if found is not None:
                wanted[key] = found
    keys = wanted.keys() | state.blocks.of.keys()
    return [_block_of(state, key) for key in keys if wanted.get(key) != state.blocks.of.get(key)]

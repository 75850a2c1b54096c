"""Doomed dots: killed before they came, so their entries are refused when they come.

A kill is a range, and may be as wide as a forger likes; what covers it is a range, too. So the dots
are bits, a block of neighbouring seqs in one int, and blocks lie by origin: to doom a range, to
cover one, and to ask for one costs its blocks or those that there are, whichever is less. A million
neighbours are a thousand ints.

Each dot is on the account of one owner, whoever killed it first, so that nobody's removals can take
the room of another's (`State.owner_of` says who an origin belongs to).

A join that fails goes back (`State.moment`): blocks are replaced and never changed, and while
somebody may go back the replaced ones are kept.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from crdt.kernel.limits import SEQ_BITS, SEQ_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BITS: Final = 10
_SEQS: Final = 1 << BLOCK_BITS
_FULL: Final = (1 << _SEQS) - 1
BLOCKS_MAX: Final = 1 << 16
"""Blocks that hold something: what takes memory where dots are scattered."""

_Block = dict[str, int]  # owner -> bits; no bit twice


class Doomed:
    """A set of packed dots (`index of origin << SEQ_BITS | seq`), by owner."""

    __slots__ = ("_log", "_origins", "blocks", "blocks_of", "of")

    def __init__(self) -> None:
        self._origins: dict[int, dict[int, _Block]] = {}  # origin's index -> block -> its bits
        self._log: list[tuple[int, int, _Block | None]] | None = None
        self.of: Counter[str] = Counter()  # dots by owner
        self.blocks_of: Counter[str] = Counter()  # blocks that an owner has dots in
        self.blocks = 0

    def __len__(self) -> int:
        return self.of.total()

    def __bool__(self) -> bool:
        return bool(self._origins)

    def __contains__(self, dot: int) -> bool:
        block = self._origins.get(dot >> SEQ_BITS, {}).get((dot & SEQ_MAX) >> BLOCK_BITS)
        return block is not None and bool(_union(block) >> (dot & (_SEQS - 1)) & 1)

    def __iter__(self) -> Iterator[int]:
        for index in self._origins:
            for first, last in self.ranges(index):
                yield from range(index << SEQ_BITS | first, (index << SEQ_BITS | last) + 1)

    # ---------------------------------------------------------------------------- one origin

    def origins(self) -> list[int]:
        """The indices of the origins that have some. O(origins that have)."""
        return list(self._origins)

    def ranges(self, index: int, first: int = 0, last: int = SEQ_MAX) -> list[tuple[int, int]]:
        """The doomed seqs of an origin in first..last, ascending. O(blocks + answer)."""
        found: list[tuple[int, int]] = []
        for number, bits in self._inside(index, first, last):
            _extend(found, number << BLOCK_BITS, bits)
        return found

    def owned(self, index: int) -> Iterator[tuple[str, int, int]]:
        """(owner, first, last) of the doomed seqs of an origin. O(blocks + answer)."""
        by_owner: dict[str, list[tuple[int, int]]] = {}
        for number, block in sorted(self._origins.get(index, {}).items()):
            for owner, bits in block.items():
                _extend(by_owner.setdefault(owner, []), number << BLOCK_BITS, bits)
        for owner, ranges in sorted(by_owner.items()):
            for first, last in ranges:
                yield owner, first, last

    def intersects(self, index: int, first: int, last: int) -> bool:
        """Whether a doomed seq of an origin lies in first..last. O(blocks)."""
        return next(self._inside(index, first, last), None) is not None

    def _inside(self, index: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(block, doomed bits of first..last in it), ascending, where there are any."""
        blocks = self._origins.get(index)
        if blocks is None:
            return
        low, high = first >> BLOCK_BITS, last >> BLOCK_BITS
        if high - low < len(blocks):
            numbers = [number for number in range(low, high + 1) if number in blocks]
        else:
            numbers = sorted(number for number in blocks if low <= number <= high)
        for number in numbers:
            bits = _union(blocks[number]) & _mask(number, first, last)
            if bits:
                yield number, bits

    # -------------------------------------------------------------------------------- change

    def add(self, index: int, first: int, last: int, owner: str) -> None:
        """Doom these seqs of an origin; those that are doomed stay on their account. O(blocks)."""
        blocks = self._origins.setdefault(index, {})
        for number in range(first >> BLOCK_BITS, (last >> BLOCK_BITS) + 1):
            block = blocks.get(number)
            bits = _mask(number, first, last)
            if block is not None:
                bits &= ~_union(block)
            if bits:
                self._put(
                    index, number, {**(block or {}), owner: (block or {}).get(owner, 0) | bits}
                )

    def cover(self, index: int, first: int, last: int) -> list[int]:
        """These seqs are doomed no longer; the blocks that held some. O(blocks)."""
        touched = []
        for number, bits in list(self._inside(index, first, last)):
            block = self._origins[index][number]
            left = {owner: rest for owner, had in block.items() if (rest := had & ~bits)}
            self._put(index, number, left or None)
            touched.append(number)
        return touched

    def _put(self, index: int, number: int, block: _Block | None) -> None:
        blocks = self._origins.setdefault(index, {})
        before = blocks.get(number)
        if self._log is not None:
            self._log.append((index, number, before))
        for owner, bits in (before or {}).items():
            self.of[owner] -= bits.bit_count()
            self.blocks_of[owner] -= 1
        for owner, bits in (block or {}).items():
            self.of[owner] += bits.bit_count()
            self.blocks_of[owner] += 1
        for owner in (before or {}).keys() - (block or {}).keys():
            if not self.blocks_of[owner]:
                del self.of[owner], self.blocks_of[owner]
        self.blocks += (block is not None) - (before is not None)
        if block is not None:
            blocks[number] = block
            return
        blocks.pop(number, None)
        if not blocks:
            del self._origins[index]

    def clear(self) -> None:
        """Forget all of them."""
        self.__init__()  # type: ignore[misc]  # as new

    def copy(self) -> Doomed:
        """An independent copy. O(blocks)."""
        twin = Doomed()
        twin._origins = {index: dict(blocks) for index, blocks in self._origins.items()}
        twin.of, twin.blocks_of, twin.blocks = self.of.copy(), self.blocks_of.copy(), self.blocks
        return twin

    # ------------------------------------------------------------------------------- undoing

    def remember(self) -> None:
        """From now on keep what is replaced, until `forget` or `go_back`."""
        self._log = []

    def forget(self) -> None:
        """Nobody will go back."""
        self._log = None

    def go_back(self) -> None:
        """Be what it was when it began to remember. O(changes)."""
        log, self._log = self._log or [], None
        for index, number, block in reversed(log):
            self._put(index, number, block)


def _union(block: _Block) -> int:
    bits = 0
    for owned in block.values():
        bits |= owned
    return bits


def _mask(number: int, first: int, last: int) -> int:
    """The bits of first..last in a block."""
    start = number << BLOCK_BITS
    low, high = max(first - start, 0), min(last - start, _SEQS - 1)
    return _FULL if high - low == _SEQS - 1 else ((1 << (high - low + 1)) - 1) << low


def _extend(ranges: list[tuple[int, int]], start: int, bits: int) -> None:
    """Add the set bits of a block as ranges, the first perhaps joined to the last that there is."""
    position = 0
    while bits:
        gap = (bits & -bits).bit_length() - 1
        bits >>= gap
        width = (~bits & (bits + 1)).bit_length() - 1
        bits >>= width
        first = start + position + gap
        last = first + width - 1
        position += gap + width
        if ranges and ranges[-1][1] == first - 1:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))

"""Overwrites what lies in the file and is no part of any row: for values that must be forgotten.

Theory of operation
-------------------
A row that SQLite deletes, shortens or moves to another page leaves its bytes behind: in the gap of
a page between two cells, in the tail of a value's last page, in a page that is free.
``secure_delete`` overwrites a cell where it lay last, and no copy that an earlier move left.  So
every page is looked at, and every byte of it that means nothing becomes zero.  Which bytes those
are, the file format says (https://sqlite.org/fileformat2.html, sections 1.5 to 1.8): the *pointer
map*, which a file with ``auto_vacuum`` has, tells what each page is; a page of a tree tells where
its cells are, a cell how long it is and where it goes on.

That is done *in steps* between commits, of some milliseconds each, so that the only writer goes on
however large the file is.  A step begins by moving the whole log into the file, which is then all
that there is, and writes past SQLite: only to bytes that it never reads, so that a reader may read
the same page at the same time, and a power cut in the middle leaves the same rows.

What commits write between two steps may carry old bytes from a page that was not looked at yet to
one that was.  So the log, before it is moved, is read for the pages that are in it, and those are
looked at again; in the end there are few of them and they are done in one step::

    every page --(steps)--> those written meanwhile --(steps)--> ... --> the last, in one step
                                                                         log cut, cache dropped

At that moment there is nothing in the file but rows.  Whatever was forgotten until then is in
nothing of it, so a round that is under way is also good for who comes later.

While a round lasts, ``secure_delete`` is on: a page that becomes free is then written, and so is
in the log.  The writer's cache is dropped at the end, lest it write a page's old gaps once more.

It never guesses.  A page that does not add up is no reason to write anything: the round ends with
``NotUnderstoodError``, and the file is rebuilt by VACUUM instead, which knows no steps.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from transactional.file_locks import OPEN_FLAGS, read_at, write_at

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from pathlib import Path

STEP_S: Final = 0.02
"""How long a step takes, about; commits wait as long."""
REST: Final = 2.0
"""A step is followed by a pause of so many times its length, if there is other work."""
READ_PAGES: Final = 64
"""Pages that are read at once; a step has one such piece at least."""
LAST_PAGES: Final = 4096
"""So many, written since they were looked at, are looked at again in one step."""
TURNS_MAX: Final = 8
"""After so many times the rest is done in one step, however much it is."""

_LOCK_BYTE: Final = 1 << 30  # where SQLite locks; the page that holds it is never used
_ROOT, _FREE, _TREE = 1, 2, 5  # of the pointer map
_OVERFLOW: Final = frozenset({3, 4})  # the first, and the next ones
_TABLE_LEAF, _TABLE_INSIDE, _INDEX_LEAF, _INDEX_INSIDE = 0x0D, 0x05, 0x0A, 0x02
_FRAME_HEAD: Final = struct.Struct(">IIII")  # page, size of the database, two salts

Span = tuple[int, int]


class NotUnderstoodError(Exception):
    """A page is not as the file format says; nothing was written to it."""


class HeldUpError(Exception):
    """A reader from outside holds on to the log."""


class Scrubber:
    """Rounds over one file, for its only writer, between its transactions."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._fd = -1
        self._todo: Sequence[int] | None = None  # pages to look at, ascending; None: no round
        self._at = 0  # how many of them were looked at
        self._again: set[int] = set()  # those written since
        self._turns = 0  # how often these became the pages to look at
        self._next_s = 0.0

    @property
    def pages_left(self) -> int:
        """How many pages are to be looked at; 0 outside of a round."""
        todo = self._todo  # another thread asks
        return 0 if todo is None else max(0, len(todo) - self._at) + len(self._again)

    @property
    def next_s(self) -> float:
        """When the next step is due, by ``time.monotonic``."""
        return self._next_s

    def close(self) -> None:
        """Let go of the file; after SQLite has, whose locks on it end with *any* descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def note_log(self) -> None:
        """Take note of the pages in the log; before each checkpoint of a round."""
        if self._todo is None:
            return
        written = _pages_in(self._path.with_name(self._path.name + "-wal"))
        if not self._turns:  # the others are still to be looked at, unless the file grew
            last = len(self._todo)
            written = (page for page in written if not self._at < page <= last)
        self._again.update(written)

    def step(self) -> bool:
        """Look at some more pages; say whether the round is over.  It begins one if there is none.

        Raises:
            HeldUpError: a reader holds on to the log; nothing was done.
            NotUnderstoodError: the round was given up.
            sqlite3.Error, OSError: the disk; the round goes on with the next step.
        """
        begun_s = time.monotonic()
        self._db.execute("PRAGMA secure_delete=ON")
        emptied = self._move_log()
        try:
            file = _File(self._open())
            if self._todo is None:
                self._todo, self._at, self._again, self._turns = file.all_pages(), 0, set(), 0
            over = self._look(file, begun_s + STEP_S) and emptied
        except NotUnderstoodError:
            self._todo = None
            raise
        if over:
            os.fsync(self._fd)
            self._db.execute("PRAGMA shrink_memory")
            self._db.execute("PRAGMA secure_delete=OFF")
            self._todo = None
        ended_s = time.monotonic()
        self._next_s = ended_s + REST * (ended_s - begun_s)
        return over

    def _look(self, file: _File, end_s: float) -> bool:
        """Look at pages until the time is over; say whether none are left."""
        assert self._todo is not None  # `step` has seen to it
        while True:
            left = len(self._todo) - self._at
            last = self._turns and (left <= LAST_PAGES or self._turns > TURNS_MAX)
            while self._at < len(self._todo):
                file.clean(self._todo[self._at : self._at + READ_PAGES])
                self._at += READ_PAGES
                if not last and time.monotonic() > end_s:
                    return False
            if not self._again:
                return True
            self._todo, self._at = sorted(self._again), 0
            self._again.clear()
            self._turns += 1

    def _move_log(self) -> bool:
        """Move the log into the file; say whether it is empty now, and not only moved."""
        self.note_log()
        self._db.execute("PRAGMA busy_timeout=0")
        try:
            (busy, frames, moved), *_ = self._db.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            ).fetchall()
        finally:
            self._db.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        if busy and frames != moved:
            raise HeldUpError("a reader holds on to the write-ahead log")
        return not busy

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | OPEN_FLAGS)
        return self._fd


BUSY_MS: Final = 1000
"""What the connection waits for a lock otherwise."""


def _pages_in(log: Path) -> Iterable[int]:
    """Yield the numbers of the pages in a write-ahead log, of its present generation."""
    try:
        file = log.open("rb", buffering=0)
    except FileNotFoundError:
        return
    with closing(file):
        head = file.read(32)
        if len(head) < 32:
            return
        page_bytes = int.from_bytes(head[8:12])
        salts = struct.unpack(">II", head[16:24])
        at = 32
        while len(frame := read_at(file.fileno(), _FRAME_HEAD.size, at)) == _FRAME_HEAD.size:
            page, _, *found = _FRAME_HEAD.unpack(frame)
            if tuple(found) != salts:
                return
            yield page
            at += 24 + page_bytes


class _File:
    """The database file as it lies there, with nothing of it in the log."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        head = read_at(fd, 100, 0)
        if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
            raise NotUnderstoodError("no head of a database")
        size = int.from_bytes(head[16:18])
        self._page_bytes = 65536 if size == 1 else size
        self._usable = self._page_bytes - head[20]
        self._pages = int.from_bytes(head[28:32])
        if head[52:56] == bytes(4):
            raise NotUnderstoodError("the file has no pointer map")
        self._mapped = self._usable // 5 + 1
        self._lock_page = _LOCK_BYTE // self._page_bytes + 1
        self._map: tuple[int, bytes] = (0, b"")
        self._trunks: dict[int, int] | None = None
        self._zeros = bytes(self._page_bytes)

    def all_pages(self) -> range:
        """Return the numbers of all pages."""
        return range(1, self._pages + 1)

    def clean(self, pages: Sequence[int]) -> None:
        """Overwrite what means nothing in these pages; ascending numbers."""
        at = 0
        while at < len(pages):
            end = at + 1
            while end < len(pages) and pages[end] == pages[end - 1] + 1:
                end += 1
            content = self._read(pages[at], end - at)
            for place, page in enumerate(pages[at:end]):
                start = place * self._page_bytes
                self._clean(page, content[start : start + self._page_bytes])
            at = end

    def _clean(self, number: int, page: bytes) -> None:
        if number > self._pages or number == self._lock_page or self._map_page(number) == number:
            return
        kind = _ROOT if number == 1 else self._kind(number)
        if kind == _FREE:
            self._clear(number, page, [self._free_span(number)])
        elif kind in {_ROOT, _TREE}:
            gaps, chains = _gaps(page, 100 if number == 1 else 0, self._usable)
            self._clear(number, page, gaps)
            for first, size in chains:
                self._clean_chain(first, size)
        elif kind not in _OVERFLOW:  # looked at from the page of its cell
            raise NotUnderstoodError(f"page {number} is of kind {kind}")

    def _clean_chain(self, number: int, size: int) -> None:
        """Overwrite the tail of the last page of a value that goes on in pages of its own."""
        room = self._usable - 4
        while size > room:
            number, size = int.from_bytes(self._read_some(number, 4)), size - room
        page = self._read_some(number, self._page_bytes)
        if int.from_bytes(page[:4]) or self._kind(number) not in _OVERFLOW:
            raise NotUnderstoodError(f"page {number} is not the last of its value")
        self._clear(number, page, [(4 + size, self._usable)])

    def _free_span(self, number: int) -> Span:
        """Return what means nothing in a free page: all of it, but for the list of free pages."""
        if self._trunks is None:
            self._trunks = {}
            trunk = int.from_bytes(self._read_some(1, 100)[32:36])
            while trunk:
                if trunk in self._trunks:
                    raise NotUnderstoodError("the list of free pages is a ring")
                head = self._read_some(trunk, 8)
                self._trunks[trunk] = int.from_bytes(head[4:])
                trunk = int.from_bytes(head[:4])
        if number not in self._trunks:
            return 0, self._page_bytes
        return min(8 + 4 * self._trunks[number], self._usable), self._usable

    def _clear(self, number: int, page: bytes, gaps: Iterable[Span]) -> None:
        for start, end in gaps:
            if page[start:end] != self._zeros[: end - start]:
                zeros = self._zeros[: end - start]
                if write_at(self._fd, zeros, self._place(number) + start) != len(zeros):
                    raise OSError("a page was not written whole")

    # --- where things are ---

    def _map_page(self, number: int) -> int:
        """Return the page of the pointer map that tells of a page; it tells of none of its own."""
        if number < 2:
            return 0
        page = (number - 2) // self._mapped * self._mapped + 2
        return page + (page == self._lock_page)

    def _kind(self, number: int) -> int:
        map_page = self._map_page(number)
        if self._map[0] != map_page:
            self._map = (map_page, self._read(map_page, 1))
        return self._map[1][5 * (number - map_page - 1)]

    def _place(self, number: int) -> int:
        return (number - 1) * self._page_bytes

    def _read(self, number: int, pages: int) -> bytes:
        pages = max(0, min(pages, self._pages - number + 1))
        return self._read_some(number, pages * self._page_bytes) if pages else b""

    def _read_some(self, number: int, size: int) -> bytes:
        if not 1 <= number <= self._pages:
            raise NotUnderstoodError(f"there is no page {number}")
        found = read_at(self._fd, size, self._place(number))
        if len(found) != size:
            raise NotUnderstoodError(f"the file ends within page {number}")
        return found


# --- a page of a tree ----------------------------------------------------------------------------


def _gaps(page: bytes, head: int, usable: int) -> tuple[list[Span], list[tuple[int, int]]]:
    """Return what lies between the cells of a page, and where values go on: page and bytes.

    ``head`` is where the page's own header begins.

    Raises:
        NotUnderstoodError: cells overlap, or lie where none can.
    """
    kind = page[head]
    if kind not in {_TABLE_LEAF, _TABLE_INSIDE, _INDEX_LEAF, _INDEX_INSIDE}:
        raise NotUnderstoodError(f"{kind} is no kind of a page")
    free, count = struct.unpack_from(">HH", page, head + 1)
    first = head + (12 if kind in {_TABLE_INSIDE, _INDEX_INSIDE} else 8)
    used: list[Span] = [(head, first + 2 * count)]
    chains: list[tuple[int, int]] = []
    try:
        for at in struct.unpack_from(f">{count}H", page, first):
            size, more = _cell(page, at, kind, usable)
            if more:
                chains.append((int.from_bytes(page[at + size - 4 : at + size]), more))
            used.append((at, at + max(size, 4)))
        used += _free_blocks(page, free)
    except (IndexError, struct.error) as error:
        raise NotUnderstoodError("something goes on behind the page") from error
    used.sort()
    used.append((usable, usable))
    if any(end > start for (_, end), (start, _) in pairwise(used)):
        raise NotUnderstoodError("cells overlap")
    return [(end, start) for (_, end), (start, _) in pairwise(used) if start > end], chains


def _free_blocks(page: bytes, at: int) -> list[Span]:
    """Return the heads of the free blocks of a page: where the next one is, and the size."""
    heads: list[Span] = []
    while at:
        heads.append((at, at + 4))
        (following,) = struct.unpack_from(">H", page, at)
        if following and following <= at:
            raise NotUnderstoodError("the list of free blocks goes back")
        at = following
    return heads


def _cell(page: bytes, at: int, kind: int, usable: int) -> tuple[int, int]:
    """Return the length of a cell in its page, and how many bytes of it are elsewhere."""
    start = at
    if kind in {_TABLE_INSIDE, _INDEX_INSIDE}:
        at += 4  # the page below
    payload, at = _varint(page, at)
    if kind == _TABLE_INSIDE:
        return at - start, 0  # that was the rowid
    if kind == _TABLE_LEAF:
        _, at = _varint(page, at)
        most = usable - 35
    else:
        most = (usable - 12) * 64 // 255 - 23
    if payload <= most:
        return at + payload - start, 0
    least = (usable - 12) * 32 // 255 - 23
    here = least + (payload - least) % (usable - 4)
    if here > most:
        here = least
    return at + here + 4 - start, payload - here


def _varint(page: bytes, at: int) -> tuple[int, int]:
    byte = page[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for place in range(at + 1, at + 8):
        byte = page[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9

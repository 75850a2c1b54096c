"""Encodings: what was encoded once is given to whoever asks next, until it changes.

A piece of an origin's history is worked out event by event, weighed, packed and compressed; and
most pieces are asked for by several peers, one after the other. So the bytes of a piece are kept,
under the dot that it begins behind. Nothing else is: its events are in the state anyway.

A piece says what is left of its events, so it is forgotten as soon as less is left: whoever takes
an entry out of a row, or marks a batch among events that were applied before, says so here. (What
is covered never comes alive again, and records go from the old end only, below the floor, where
nobody is answered.) A piece may be forgotten before anybody had it encoded; it is then what its
delta says, and nobody else's.

Pieces never overlap: one that is made takes the place of those in its way. Two readers that stand
at different places therefore meet at the ends of pieces, and read the same ones from there on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

ENCODINGS_BYTES_MAX = 4 << 20  # of one kernel: what lay longest without being asked for goes
_PIECE_BYTES = 512  # of memory that a piece takes beside its bytes
_SHARE = 4  # a piece of more than a quarter of the room is not kept


class Piece:
    """The events (after, last] of one origin: how many, what they weigh, and their bytes once made.

    `room` is what they had to fit into, if they were cut there; None: nothing cut them.
    """

    __slots__ = ("_home", "after", "data", "events", "last", "room", "weight")

    def __init__(
        self, after: int, last: int, events: int, weight: int | None, room: int | None = None
    ) -> None:
        self.after = after  # dots, like `last`: the origin is a part of them
        self.last = last
        self.events = events
        self.weight = weight  # an upper bound of their bytes; None: nobody weighed them
        self.room = room
        self.data = b""
        self._home: Encodings | None = None

    def encoded(self, data: bytes) -> bytes:
        """Its bytes were made; the same bytes."""
        self.data = data
        if self._home is not None:
            self._home.filled(self)
        return data


class Encodings:
    """The pieces of one kernel, found by where they begin; bounded in bytes."""

    __slots__ = ("_pieces", "bytes_held", "bytes_max", "given", "made", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []  # dots, ascending; empty while nothing is kept
        self._pieces: dict[int, Piece] = {}  # by start; what was asked for last is at the end
        self.bytes_held = 0
        self.bytes_max = ENCODINGS_BYTES_MAX
        self.made = 0  # pieces encoded, and how often one was given again
        self.given = 0

    def find(self, after: int) -> Piece | None:
        """The encoded piece that begins behind a dot. O(1)."""
        piece = self._pieces.get(after)
        return piece if piece is not None and piece.data else None

    def give(self, piece: Piece) -> None:
        """It is asked for again. O(1)."""
        self.given += 1
        self._pieces[piece.after] = self._pieces.pop(piece.after)

    def next_end(self, after: int, last: int, weight_min: int) -> int:
        """Up to where to encode anew behind a dot, to meet others there; at most the last.

        The end of the piece that it lies in, else where the next one begins: of the encoded pieces
        of at least that weight. O(log n + lighter pieces on the way).
        """
        around = self.around(after)
        if around is not None and (around.weight or 0) >= weight_min:
            return min(around.last, last)
        for index in range(bisect_right(self.starts, after), len(self.starts)):
            start = self.starts[index]
            if start >= last:
                break
            piece = self._pieces[start]
            if piece.data and (piece.weight or 0) >= weight_min:
                return start
        return last

    def around(self, after: int) -> Piece | None:
        """The encoded piece that a dot, and the one behind it, lie in. O(log n)."""
        index = bisect_left(self.starts, after) - 1
        piece = self._pieces[self.starts[index]] if index >= 0 else None
        return piece if piece is not None and piece.data and after < piece.last else None

    def keep(self, piece: Piece) -> Piece:
        """Keep a piece, in place of all that it overlaps. O(log n + those)."""
        self.forget(piece.after + 1, piece.last)
        piece._home = self  # noqa: SLF001  # a class of this module
        insort(self.starts, piece.after)
        self._pieces[piece.after] = piece
        self.bytes_held += _PIECE_BYTES + len(piece.data)
        self._make_room()
        return piece

    def filled(self, piece: Piece) -> None:
        """A kept piece has its bytes now. O(1)."""
        self.made += 1
        self.bytes_held += len(piece.data)
        if len(piece.data) > self.bytes_max // _SHARE:
            self._drop(piece)
        self._make_room()

    def forget(self, first: int, last: int) -> None:
        """Something changed in first..last, dots of one origin. O(log n + pieces there)."""
        starts = self.starts
        index = max(0, bisect_left(starts, first) - 1)
        while index < len(starts) and starts[index] < last:
            piece = self._pieces[starts[index]]
            if piece.last >= first:
                self._drop(piece)
            else:
                index += 1

    def _make_room(self) -> None:
        while self.bytes_held > self.bytes_max and self._pieces:
            self._drop(next(iter(self._pieces.values())))

    def _drop(self, piece: Piece) -> None:
        piece._home = None  # noqa: SLF001
        del self._pieces[piece.after]
        del self.starts[bisect_left(self.starts, piece.after)]
        self.bytes_held -= _PIECE_BYTES + len(piece.data)

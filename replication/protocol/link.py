"""A kept connection: exchanges of both its ends, side by side, in one ordered stream of pieces.

Theory of operation. Over a POST an exchange *is* the connection. Over a WebSocket either end may
ask, so a request needs a number and an answer has to name it; and a frame is cut into pieces, so
that a reader never has to hold more than it allowed, and a writer sees after each piece whether
the other end still takes any:

    piece = [kind: 1 byte][number: 8 bytes][part of a frame]   kind: ask or answer; + 2: the last

Pieces of one frame are contiguous. What waits to be written is bounded by `outbox_bytes_max`:
beyond it requests are not taken (their events stay where deltas are computed from, so they
coalesce: the peer "needs a diff"), and answers are replaced by an empty one, which tells the asker
to try later. The shell writes piece by piece and gives the connection up when one piece makes no
progress for `stalled_s`. Nothing here knows what a frame says; the replica behind it is the same
as behind a POST.

A frame says who its sender claims to be. Two more facts are known only to the connection that it
came over, kept or not: where its sender can be asked in turn while that connection lasts (the only
way to an agent behind a NAT), and which names a client certificate proves: `PeerConnection`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from replication.errors import BusyError, FrameTooLargeError, MalformedFrameError

HEAD_BYTES = 9
PIECE_BYTES = 64 * 1024
ASK, ANSWER, LAST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class PeerConnection:
    """The far end of a connection.

    Attributes:
        via: while it stays connected, requests to it may be sent there; "" for nowhere.
        names: that its certificate proves; empty without one.
        principal: whose key opened it, "" for the secret's; None if none did. Frames of another
            principal have no business there.
    """

    via: str = ""
    names: frozenset[str] = frozenset()
    principal: str | None = None


ANONYMOUS = PeerConnection()
"""One of which nothing is known: a request over plain HTTP, whose sender cannot be asked back."""


@dataclass(frozen=True, slots=True)
class Came:
    """A frame that came whole: the other end's request, or the answer to one of ours."""

    number: int
    frame: bytes
    is_answer: bool


@dataclass(slots=True)
class Link:
    """One end of a kept connection; bytes in, frames out, and the other way round.

    Args:
        outbox_bytes_max: what may wait to be written.
        frame_bytes_max: the longest frame that is taken in.
    """

    outbox_bytes_max: int
    frame_bytes_max: int
    outbox_bytes: int = 0
    _outbox: deque[bytes] = field(default_factory=deque)
    _asked: int = 0
    _coming: tuple[int, int] | None = None
    _parts: list[bytes] = field(default_factory=list)
    _came_bytes: int = 0

    def ask(self, frame: bytes) -> int:
        """Queue a request; the number that its answer will have.

        Raises:
            BusyError: the outbox is full; nothing was queued.
        """
        if self.outbox_bytes + len(frame) > self.outbox_bytes_max:
            raise BusyError("the outbox of this connection is full; its peer needs a diff later")
        self._asked += 1
        self._queue(ASK, self._asked, frame)
        return self._asked

    def answer(self, number: int, frame: bytes) -> None:
        """Queue the answer to the other end's request; an empty one if there is no room."""
        room = self.outbox_bytes + len(frame) <= self.outbox_bytes_max
        self._queue(ANSWER, number, frame if room else b"")

    @property
    def full(self) -> bool:
        """Whether no more should be read before something was written."""
        return self.outbox_bytes > self.outbox_bytes_max // 2

    def _queue(self, kind: int, number: int, frame: bytes) -> None:
        for start in range(0, max(len(frame), 1), PIECE_BYTES):
            part = frame[start : start + PIECE_BYTES]
            last = LAST if start + PIECE_BYTES >= len(frame) else 0
            piece = bytes([kind | last]) + number.to_bytes(8, "big") + part
            self._outbox.append(piece)
            self.outbox_bytes += len(piece)

    def take(self) -> bytes | None:
        """The next piece to write, if there is one."""
        if not self._outbox:
            return None
        piece = self._outbox.popleft()
        self.outbox_bytes -= len(piece)
        return piece

    def receive(self, piece: bytes) -> Came | None:
        """Take a piece in; the frame that it completed.

        Raises:
            FrameError: the other end does not follow the protocol; the connection is of no use.
        """
        if not HEAD_BYTES <= len(piece) <= HEAD_BYTES + PIECE_BYTES or piece[0] > ANSWER | LAST:
            raise MalformedFrameError("not a piece of a frame")
        if not piece[0] & LAST and len(piece) < HEAD_BYTES + PIECE_BYTES:
            raise MalformedFrameError("a piece that is not the last one is not full")
        kind, number = piece[0] & ANSWER, int.from_bytes(piece[1:HEAD_BYTES], "big")
        if self._coming not in {None, (kind, number)}:
            raise MalformedFrameError("two frames are interleaved")
        self._came_bytes += len(piece) - HEAD_BYTES
        if self._came_bytes > self.frame_bytes_max:
            raise FrameTooLargeError(f"a frame of over {self.frame_bytes_max} bytes")
        self._parts.append(piece[HEAD_BYTES:])
        self._coming = kind, number
        if not piece[0] & LAST:
            return None
        frame = b"".join(self._parts)
        self._parts, self._coming, self._came_bytes = [], None, 0
        return Came(number, frame, is_answer=kind == ANSWER)

"""One ordered stream of pieces: exchanges side by side, bounded both ways."""

from __future__ import annotations

import pytest

from replication.errors import BusyError, FrameTooLargeError, MalformedFrameError
from replication.protocol.link import ANSWER, ASK, HEAD_BYTES, LAST, PIECE_BYTES, Came, Link
from replication.transport.websocket import PIECE_MAX


def pieces_of(link: Link) -> list[bytes]:
    return list(iter(link.take, None))


def piece(kind: int, number: int, part: bytes) -> bytes:
    return bytes([kind]) + number.to_bytes(8, "big") + part


def test_both_ends_of_a_link_ask_and_answer_side_by_side():
    """Requests and answers cross; a long frame travels in pieces; numbers tell which is which."""
    one, two = Link(1 << 20, 1 << 20), Link(1 << 20, 1 << 20)
    long = bytes(range(256)) * 1000
    assert (one.ask(long), one.ask(b"second"), two.ask(b"theirs")) == (1, 2, 1)
    came = [two.receive(piece) for piece in pieces_of(one)]
    assert [c for c in came if c] == [Came(1, long, is_answer=False), Came(2, b"second", False)]
    assert max(map(len, pieces_of(two))) <= PIECE_MAX
    two.answer(2, b"answer")
    assert one.receive(two.take()) == Came(2, b"answer", is_answer=True)
    assert one.outbox_bytes == two.outbox_bytes == 0


def test_a_full_outbox_takes_no_request_and_answers_with_nothing():
    """Bounded: a request is refused, an answer becomes an empty one, and room comes by writing."""
    link = Link(outbox_bytes_max=1000, frame_bytes_max=1000)
    link.ask(b"x" * 900)
    assert link.full
    with pytest.raises(BusyError):
        link.ask(b"x" * 200)
    link.answer(7, b"x" * 200)
    assert [len(piece) - HEAD_BYTES for piece in pieces_of(link)] == [900, 0]
    assert not link.full
    link.ask(b"x" * 900)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([b""], MalformedFrameError),
        ([piece(7, 1, b"x")], MalformedFrameError),
        ([piece(ASK, 1, b"")], MalformedFrameError),  # endless empty pieces would cost memory
        ([piece(ASK | LAST, 1, b"x" * (PIECE_BYTES + 1))], MalformedFrameError),
        ([piece(ASK, 1, b"x" * PIECE_BYTES), piece(ANSWER | LAST, 1, b"x")], MalformedFrameError),
        ([piece(ASK, 1, b"x" * PIECE_BYTES)] * 3, FrameTooLargeError),
    ],
)
def test_a_link_refuses_what_follows_no_protocol(pieces, error):
    """Typed, and before anything is put together."""
    link = Link(1 << 20, frame_bytes_max=2 * PIECE_BYTES)
    for part in pieces[:-1]:
        assert link.receive(part) is None
    with pytest.raises(error):
        link.receive(pieces[-1])

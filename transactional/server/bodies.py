"""What a body may cost: bytes while it comes, places while it is parsed, and the loop's time.

A body of JSON is small or large in three ways.  Its *bytes* are counted while it arrives, against
the pools of all requests in flight.  Its *tokens* - strings, brackets, commas, colons - are what
parsing and its result cost: 16 MiB of ``[],[],`` are 300 MB of Python and a second of work, so they
are counted before, in pieces, which costs a hundredth.  And *time*: above ``OFF_LOOP_BYTES`` it is
parsed, and an answer written, in another thread.  Python runs one thread at a time, and one call of
its parser is not interrupted; the limit of tokens is what keeps that call short (tens of
milliseconds), the thread what keeps it out of the loop.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from transactional import wire
from transactional.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

OFF_LOOP_BYTES: Final = 64 << 10
"""A larger body is parsed, and a larger answer written, off the loop."""
TOKENS_MAX: Final = 1 << 18
"""Most strings, brackets, braces, commas and colons in one body."""
_PIECE_BYTES: Final = 64 << 10


def check_tokens(body: bytes) -> None:
    """Raise InvalidRequestError if the body has more than ``TOKENS_MAX`` tokens; O(bytes).

    Written for JSON; of anything else the count means nothing, and the parser refuses it.
    """
    marks = quotes = at = 0
    inside = False
    while at < len(body):
        piece = body[at : at + _PIECE_BYTES]
        escapes = len(piece) - len(piece.rstrip(b"\\"))
        if escapes % 2 and at + len(piece) < len(body):
            piece = piece[:-1]  # what it escapes is in the next piece
        at += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
        quotes += len(parts) - 1
        marks += sum(map(outside.count, (b",", b":", b"[", b"{")))
        if marks + quotes // 2 > TOKENS_MAX:
            raise InvalidRequestError(f"the body has more than {TOKENS_MAX} values and marks")


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error


def _check_and_parse(body: bytes) -> Any:
    check_tokens(body)
    return _parse(body)


async def parse(body: bytes) -> Any:
    """Return what a body of JSON says.

    Raises:
        InvalidRequestError: it is no JSON, or too much of it.
    """
    if len(body) <= OFF_LOOP_BYTES:
        return _parse(body)
    return await asyncio.to_thread(_check_and_parse, body)


async def written(doc: Any, bytes_read: int) -> bytes:
    """Return an answer as JSON; ``bytes_read`` is about how much is in it."""
    if bytes_read <= OFF_LOOP_BYTES:
        return wire.encode(doc).encode()
    return await asyncio.to_thread(lambda: wire.encode(doc).encode())


async def written_batch(revision: int, replies: Sequence[wire.Document], bytes_read: int) -> bytes:
    """Return the answer to a batch; in another thread it lets others run between the replies."""

    def write() -> bytes:
        inner = ",".join([wire.encode(reply) for reply in replies])
        return f'{{"revision":{revision},"replies":[{inner}]}}'.encode()

    return write() if bytes_read <= OFF_LOOP_BYTES else await asyncio.to_thread(write)

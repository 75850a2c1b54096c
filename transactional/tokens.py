"""Names that nobody else has, without a system call for each.

A *nonce* is only unique: random bits of the process and a count.  A *token* cannot be guessed
either: it comes from the operating system's generator, never from a seeded one, because a salt must
not be guessed from other salts.  Why not ask each time: `os.urandom` gives up Python's lock, and a
thread that writes to SQLite takes it: under load a token then costs 50 microseconds, most of them
waiting.  So entropy is fetched for 256 tokens at once.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from typing import Final

from transactional.file_locks import on_fork

TOKEN_BYTES: Final = 16
TOKENS_AT_ONCE: Final = 256

# Taking from a deque is atomic, so threads never get the same token.
_tokens: deque[str] = deque()


def fresh_token() -> str:
    """32 hexadecimal digits that nobody else has or guesses."""
    try:
        return _tokens.popleft()
    except IndexError:
        drawn = os.urandom(TOKEN_BYTES * TOKENS_AT_ONCE).hex()
        digits = 2 * TOKEN_BYTES
        _tokens.extend(drawn[n : n + digits] for n in range(digits, len(drawn), digits))
        return drawn[:digits]


# A forked child must not hand out its parent's tokens.
on_fork(_tokens.clear)


class _Nonce:
    """Unique names: random bits of the process and a count."""

    def __init__(self) -> None:
        self._redraw()
        on_fork(self._redraw)

    def _redraw(self) -> None:
        self._process = secrets.token_hex(8)
        self._count = itertools.count()

    def __call__(self) -> str:
        return f"{self._process}{next(self._count):08x}"


nonce: Final = _Nonce()
"""Return 24 or more hexadecimal digits that no other call, process or fork returns."""

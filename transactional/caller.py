"""Who asks an engine that serves many, and how many bytes it may still be told in this answer.

A question of a few bytes may ask for the same megabytes many times over.  So what an engine reads
for one request is counted where it is read, before the next value is fetched: a request costs
memory in proportion to `ANSWER_BYTES_MAX` at the most, however many reads it holds.  All requests
in flight draw on one `Pool`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from transactional.errors import AnswerTooLargeError, TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER_BYTES_MAX: Final = 16 << 20
"""Most bytes of keys and values in one answer of an authority, a batch's included."""


class Pool:
    """Bytes that all of a kind hold at once, out of a larger pool or not.  Safe in threads."""

    def __init__(self, bytes_max: int, what: str) -> None:
        self.bytes_max = bytes_max
        self.held = 0
        self._what = what
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Hold ``size`` more bytes; TooManyRequestsError if there are not so many."""
        with self._lock:
            if self.held + size > self.bytes_max:
                raise TooManyRequestsError(f"{self.bytes_max} bytes {self._what}")
            self.held += size

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self.held -= size


class Caller:
    """A role, and what one request of it may still cost; ``release`` it when it is over."""

    def __init__(
        self, role: str = "", *, bytes_max: int | None = None, pools: Sequence[Pool] = ()
    ) -> None:
        self.role = role
        self.bytes_read = 0
        self._bytes_max = bytes_max
        self._pools = pools
        self._held = 0
        self._lock = threading.Lock()

    @property
    def bytes_left(self) -> int | None:
        """How much it may still read; None: as much as it likes."""
        return None if self._bytes_max is None else max(0, self._bytes_max - self.bytes_read)

    def read(self, size: int) -> None:
        """Count what was read for it.

        Raises:
            AnswerTooLargeError: it asks for too much in one request.
            TooManyRequestsError: others ask for so much at the moment.
        """
        if self._bytes_max is None:
            return
        with self._lock:
            if self.bytes_read + size > self._bytes_max:
                raise AnswerTooLargeError(f"the answer is larger than {self._bytes_max} bytes")
            self.bytes_read += size
        self.hold(size)

    def hold(self, size: int) -> None:
        """Hold bytes of the pools until the request is over."""
        for number, pool in enumerate(self._pools):
            try:
                pool.take(size)
            except TooManyRequestsError:
                for taken in self._pools[:number]:
                    taken.give(size)
                raise
        with self._lock:
            self._held += size

    def release(self) -> None:
        """Give back what was held: the answer was sent."""
        with self._lock:
            held, self._held = self._held, 0
        for pool in self._pools:
            pool.give(held)


OWNER: Final = Caller()
"""Whoever has the store to himself: no role, no limit."""

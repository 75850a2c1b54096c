"""The port of transports.

Theory of operation. One exchange is one request frame and one answer frame. A transport delivers
the request, waits with limits (connect, read, total), and returns the answer or raises
`PeerUnreachableError`; it may lose, delay or reorder exchanges and may never alter one silently,
because frames authenticate themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

Serve = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""Takes a request frame, returns (HTTP status, answer frame)."""


@dataclass(slots=True)
class Traffic:
    """Bytes of frames, without HTTP headers."""

    sent: int = 0
    received: int = 0


class Transport(Protocol):
    """Moves frames between addresses."""

    traffic: Traffic

    async def listen(self, serve: Serve) -> str:
        """Start to serve; returns the address that peers reach us at.

        Raises:
            ListenError: the address cannot be used; nothing was started.
        """

    async def exchange(self, address: str, frame: bytes) -> bytes:
        """Deliver a request, return the answer.

        Raises:
            PeerUnreachableError: no answer; the request may or may not have arrived.
        """

    def mount(self, app: Any, path: str, agent: AbstractAsyncContextManager[object]) -> None:
        """Serve from an application that somebody else runs, and let it run the agent.

        Raises:
            ConfigError: this transport has no use for one.
        """

    async def close(self) -> None:
        """Stop serving, close connections."""

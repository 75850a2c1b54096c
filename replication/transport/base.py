"""The ports: what moves frames, and what an agent offers its operators.

Theory of operation. One exchange is one request frame and one answer frame. A transport delivers
the request, waits with limits (connect, read, total), and returns the answer or raises
`PeerUnreachableError`; it may lose, delay or reorder exchanges and may never alter one silently,
because frames authenticate themselves.

A transport may keep a connection over which requests travel both ways. Each request comes with its
`PeerConnection`: the place (`via`) at which its sender can be asked in turn, however it is reached,
and the names that its client certificate proves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from replication.protocol import PeerConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager


Serve = Callable[[bytes, PeerConnection], Awaitable[tuple[int, bytes]]]
"""Takes a request frame, returns (HTTP status, answer frame)."""

LineNews = Callable[[str, bool], None]
"""Hears that a connection is kept to an address now (True), or that a `via` ended (False)."""


@dataclass(slots=True)
class Traffic:
    """Bytes of frames, without HTTP headers."""

    sent: int = 0
    received: int = 0
    stalled: int = 0
    """Kept connections that were dropped because their other end took nothing any more."""
    unauthenticated: int = 0
    """Frames that no key sealed that is known here."""
    turned_away: int = 0
    """Frames of ours that were told so elsewhere."""


class Transport(Protocol):
    """Moves frames between addresses."""

    traffic: Traffic

    async def listen(self, serve: Serve, line_news: LineNews, port: int = 0) -> str:
        """Start to serve; returns the address that peers reach us at.

        Where any port will do, `port` is tried first.

        Raises:
            ListenError: the address cannot be used; nothing was started.
        """

    async def exchange(self, address: str, frame: bytes) -> bytes:
        """Deliver a request, return the answer.

        Raises:
            PeerUnreachableError: no answer; the request may or may not have arrived.
        """

    def names_at(self, address: str) -> frozenset[str]:
        """The names that a certificate proved there when it answered last; none without one."""

    def mount(self, app: Any, path: str, agent: AbstractAsyncContextManager[object]) -> None:
        """Serve from an application that somebody else runs, and let it run the agent.

        Raises:
            ConfigError: this transport has no use for one.
        """

    async def close(self) -> None:
        """Stop serving, close connections."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a GET shows. `private` ones hold values: they need a proof of an order."""

    content_type: str
    render: Callable[[Mapping[str, str]], str]
    private: bool = False


class Handlers(Protocol):
    """The port: what an agent offers its operators."""

    @property
    def id(self) -> str:
        """Who answers."""

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Path -> what a GET of it shows."""

    async def execute(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry out an order.

        Raises:
            ReplicationError: it is refused, or did not come to its end in time.
        """

    def follow(self, prefix: str) -> AsyncIterator[Mapping[str, Any]]:
        """Changes of documents from now on, until the agent closes."""

"""The port of transports.

Theory of operation. One exchange is one request frame and one answer frame. A transport delivers
the request, waits with limits (connect, read, total), and returns the answer or raises
`PeerUnreachableError`; it may lose, delay or reorder exchanges and may never alter one silently,
because frames authenticate themselves.

A transport may keep a connection over which requests travel both ways. Each request comes with its
`PeerConnection`: the place (`via`) at which its sender can be asked in turn, however it is reached,
and the names that its client certificate proves.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from replication.errors import ConfigError
from replication.protocol import PeerConnection

if TYPE_CHECKING:
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


PATH = "/_replica"
"""Where an agent answers its peers, unless its address says otherwise."""


PORT_MAX = 65_535
_HOST = re.compile(r"[\w.%:-]+")
_PATH = re.compile(r"[\w./~@:+-]*", re.ASCII)
"""What needs no quoting in a URL, and is no pattern to whoever routes it."""


def split_address(address: str) -> tuple[str, int, str]:
    """`host:port[/path]` as (host, port, path); an IPv6 host comes without its brackets.

    Raises:
        ConfigError: it is not of that form.
    """
    place, slash, path = address.partition("/")
    host, colon, port = place.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not colon or not host or not 0 <= number <= PORT_MAX or not _PATH.fullmatch(path):
        raise ConfigError(
            f"{address!r} is not an address", hint="write host:port, e.g. 127.0.0.1:7001"
        )
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in host and inside == host:
        raise ConfigError(
            f"{address!r}: an IPv6 address stands in brackets", hint=f"write [{host}]:{port}"
        )
    if not _HOST.fullmatch(inside):
        raise ConfigError(f"{address!r}: {host!r} is neither a name nor an IP address")
    return inside, number, slash + path if slash else PATH


def port_of(address: str) -> int:
    """The port of an address, 0 if it has none."""
    port = address.partition("/")[0].rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() else 0


def joined_address(host: str, port: int, path: str = PATH) -> str:
    """The address of these, as `split_address` reads it."""
    return f"{f'[{host}]' if ':' in host else host}:{port}" + ("" if path == PATH else path)


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

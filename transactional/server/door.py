"""The door of an authority: how many may stand in it, and how long, before they say who they are.

Theory of operation
-------------------
A connection costs a descriptor and some memory from the moment it is accepted, and whoever can
reach the port can open one.  So each is counted here, below HTTP and TLS, from its first moment::

    accepted --> a stranger --(a request is admitted)--> known --(idle)--> closed
                    |
                    +-- no request that is let in within ``HEADER_S``: closed

A *stranger* has not had a request admitted yet: it may be slow on purpose, so it has ten seconds
for its handshake and its first head, however it drips; there are few places for strangers of one
address, and not many for all.  One that is *known* has shown its token, or needs none, and has a
longer time between two requests, longer than our client leaves a connection idle; its requests are
limited elsewhere.  What is over a limit is told 503 in plain words and closed, so that an honest
client knows that nothing was read; under TLS it is only closed.

``connections_max`` leaves descriptors for the files of the store.  A timer that goes off each
second looks for who is late: cheaper than a timer per connection, and a second does not matter.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

HEADER_S: Final = 10.0
"""How long a stranger may take until its first request is admitted, TLS and all."""
IDLE_S: Final = 75.0
"""How long a known connection may be idle; our client hangs up after 15."""
CONNECTIONS_MAX: Final = 4096
"""Most connections; fewer if the process may have fewer descriptors."""
STRANGERS_MAX: Final = 512
"""Most connections of strangers; at most half of all."""
STRANGERS_PER_ADDRESS_MAX: Final = 64
"""Most connections of strangers of one address."""
DESCRIPTORS_KEPT: Final = 64
"""Descriptors that connections leave for files."""
LEAVING_MAX: Final = 32
"""Most connections that were told 503 and may read it; others are closed without a word."""
LEAVE_S: Final = 1.0
"""How long one that was told 503 has to read it."""

FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_WORDS: Final = (
    b'{"code":"unavailable","message":"too many connections (nothing was written)",'
    b'"hint":"try again in a moment; nothing was written","applied":false,'
    b'"details":{"reason":"too many connections","retry_after_s":1.0}}'
)


def connections_max() -> int:
    """Return how many connections this process can have and still open files."""
    try:
        import resource  # noqa: PLC0415 - Windows has none, and no such limit on sockets
    except ImportError:
        return CONNECTIONS_MAX
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(2, min(CONNECTIONS_MAX, soft - DESCRIPTORS_KEPT))


class Door:
    """Makes the protocol of each connection; ``serve`` makes that of HTTP behind it."""

    def __init__(
        self, serve: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None
    ) -> None:
        self._serve = serve
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._connections_max = connections_max()
        self.connections: dict[object, Connection] = {}
        """By the protocol of HTTP, which requests know."""
        self.leaving: set[Connection] = set()
        self.strangers: Counter[str] = Counter()
        self.closed = False
        self._timer = self._loop.call_later(1.0, self._look)

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was just accepted."""
        return Connection(self, self._serve, self._tls)

    def has_room(self, address: str) -> bool:
        """Say whether there is a place for one more stranger of the address."""
        return (
            not self.closed
            and len(self.connections) < self._connections_max
            and self.strangers.total() < min(STRANGERS_MAX, self._connections_max // 2)
            and self.strangers[address] < STRANGERS_PER_ADDRESS_MAX
        )

    def admitted(self, protocol: object) -> None:
        """Take note that a request on the connection was let in, and is being worked on."""
        if (connection := self.connections.get(protocol)) is not None:
            connection.know()

    def answered(self, protocol: object) -> None:
        """Take note that the request is answered; the next one may be waited for."""
        if (connection := self.connections.get(protocol)) is not None:
            connection.deadline_s = self._loop.time() + IDLE_S

    def _look(self) -> None:
        now_s = self._loop.time()
        for connection in (*self.connections.values(), *self.leaving):
            if connection.deadline_s is not None and connection.deadline_s <= now_s:
                connection.cut()
        self._timer = self._loop.call_later(1.0, self._look)

    def close(self) -> None:
        """Let nobody in any more, and cut off whoever is still there."""
        self.closed = True
        self._timer.cancel()
        for connection in (*self.connections.values(), *self.leaving):
            connection.cut()


class Connection(asyncio.Protocol):
    """One connection: counted, and handed on to HTTP if there is room for it."""

    def __init__(
        self, door: Door, serve: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        self._door = door
        self._serve = serve
        self._tls = tls
        self._http: asyncio.Protocol | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._raw: asyncio.Transport | None = None
        self._address = ""
        self._stranger = False
        self._told = False
        self.deadline_s: float | None = None
        """When it is cut off; None: a request is being worked on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or say that there is none."""
        self._transport = self._raw = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        now_s = asyncio.get_running_loop().time()
        if not self._door.has_room(self._address):
            self.deadline_s = now_s + LEAVE_S
            self._refuse()
            return
        self.deadline_s = now_s + HEADER_S
        self._stranger = True
        self._door.strangers[self._address] += 1
        self._http = self._serve()
        self._door.connections[self._http] = self
        if self._tls is None:
            self._http.connection_made(transport)
            return
        self._transport.pause_reading()
        self._handshake = asyncio.get_running_loop().create_task(self._start_tls(self._tls))

    async def _start_tls(self, tls: ssl.SSLContext) -> None:
        raw = cast("asyncio.Transport", self._raw)
        loop = asyncio.get_running_loop()
        try:
            made = await loop.start_tls(
                raw, self, tls, server_side=True, ssl_handshake_timeout=HEADER_S
            )
        except (OSError, ConnectionError):  # SSLError is an OSError
            raw.abort()
            self._leave()
            return
        if made is None or self._http is None:  # gone meanwhile
            raw.abort()
            self._leave()
            return
        self._transport = made
        self._http.connection_made(made)
        self._told = True

    def _refuse(self) -> None:
        transport = cast("asyncio.Transport", self._transport)
        door = self._door
        if door.closed or self._tls is not None or len(door.leaving) >= LEAVING_MAX:
            transport.abort()
            return
        door.leaving.add(self)
        transport.write(FULL % (len(_WORDS), _WORDS))
        transport.write_eof()

    def know(self) -> None:
        """It is no stranger any more, and works on a request."""
        self.deadline_s = None
        self._forget_stranger()

    def _forget_stranger(self) -> None:
        if self._stranger:
            self._stranger = False
            self._door.strangers[self._address] -= 1
            if not self._door.strangers[self._address]:
                del self._door.strangers[self._address]

    def cut(self) -> None:
        """End it: it is late."""
        self.deadline_s = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand on what came; nobody reads what one sends who was told to go."""
        if self._http is not None:
            self._http.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on that no more will come."""
        return self._http.eof_received() if self._http is not None else None

    def pause_writing(self) -> None:
        """Hand on that the peer does not read."""
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that it reads again."""
        if self._http is not None:
            self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        http = self._http
        self._leave()
        if http is not None and (self._tls is None or self._told):
            http.connection_lost(exc)

    def _leave(self) -> None:
        self._forget_stranger()
        self._door.leaving.discard(self)
        if self._http is not None:
            self._door.connections.pop(self._http, None)
            self._http = None

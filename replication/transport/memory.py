"""A transport within one process: a switchboard of addresses.

The fake that passes the conformance suite of transports: agents in one event loop talk without a
socket, e.g. in a user's own tests.
"""

from __future__ import annotations

import asyncio

from replication.errors import ConfigError, ListenError, PeerUnreachableError
from replication.protocol import ANONYMOUS
from replication.transport.base import LineNews, Serve, Traffic


class Switchboard:
    """Connects the `MemoryTransport`s that were made on it."""

    def __init__(self) -> None:
        self.lines: dict[str, Serve] = {}

    def transport(self, address: str) -> MemoryTransport:
        """A transport that will listen at `address`."""
        return MemoryTransport(self, address)


class MemoryTransport:
    """One agent's end of a switchboard."""

    def __init__(self, board: Switchboard, address: str) -> None:
        self.traffic = Traffic()
        self._board = board
        self._address = address

    async def listen(self, serve: Serve, line_news: LineNews) -> str:  # noqa: ARG002 - the port's
        """Take the address."""
        if self._address in self._board.lines:
            raise ListenError(f"{self._address} is taken")
        self._board.lines[self._address] = serve
        return self._address

    async def exchange(self, address: str, frame: bytes) -> bytes:
        """Call the other end."""
        await asyncio.sleep(0)
        serve = self._board.lines.get(address)
        if serve is None:
            raise PeerUnreachableError(f"nobody listens at {address}")
        self.traffic.sent += len(frame)
        _, answer = await serve(frame, ANONYMOUS)
        self.traffic.received += len(answer)
        return answer

    def mount(self, app: object, path: str, agent: object) -> None:  # noqa: ARG002 - the port's
        """There is nothing to mount."""
        raise ConfigError(f"a switchboard cannot be mounted at {path}")

    async def close(self) -> None:
        """Give the address back."""
        self._board.lines.pop(self._address, None)

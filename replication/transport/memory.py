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
    """Connects the `MemoryTransport`s that were made on it, but for those that are `cut`."""

    def __init__(self) -> None:
        self.lines: dict[str, Serve] = {}
        self._cuts: set[frozenset[str]] = set()
        self._unplugged: set[str] = set()

    def cut(self, one: str, other: str) -> None:
        """No exchange between two addresses gets through, either way."""
        self._cuts.add(frozenset((one, other)))

    def heal(self) -> None:
        """End all cuts."""
        self._cuts.clear()

    def unplug(self, address: str) -> None:
        """Nothing gets through to and from an address, until it is taken again."""
        self._unplugged.add(address)

    def passes(self, one: str, other: str) -> bool:
        """Whether anything gets through between two addresses."""
        return not self._unplugged & {one, other} and frozenset((one, other)) not in self._cuts

    def line(self, caller: str, address: str) -> Serve | None:
        """Who answers there, if a caller reaches it."""
        return self.lines.get(address) if self.passes(caller, address) else None

    def plug(self, address: str, serve: Serve) -> None:
        """Take an address."""
        if address in self.lines:
            raise ListenError(f"{address} is taken")
        self.lines[address] = serve
        self._unplugged.discard(address)

    def transport(self, address: str) -> MemoryTransport:
        """A transport that will listen at `address`."""
        return MemoryTransport(self, address)


class MemoryTransport:
    """One agent's end of a switchboard."""

    def __init__(self, board: Switchboard, address: str) -> None:
        self.traffic = Traffic()
        self._board = board
        self._address = address

    async def listen(self, serve: Serve, line_news: LineNews, port: int = 0) -> str:  # noqa: ARG002 - the port's
        """Take the address."""
        self._board.plug(self._address, serve)
        return self._address

    async def exchange(self, address: str, frame: bytes) -> bytes:
        """Call the other end."""
        await asyncio.sleep(0)
        serve = self._board.line(self._address, address)
        if serve is None:
            raise PeerUnreachableError(f"nobody listens at {address}")
        self.traffic.sent += len(frame)
        _, answer = await serve(frame, ANONYMOUS)
        if not self._board.passes(address, self._address):  # it was cut off meanwhile
            raise PeerUnreachableError(f"the answer of {address} is lost")
        self.traffic.received += len(answer)
        return answer

    def names_at(self, address: str) -> frozenset[str]:  # noqa: ARG002 - the port's
        """There are no certificates."""
        return frozenset()

    def mount(self, app: object, path: str, agent: object) -> None:  # noqa: ARG002 - the port's
        """There is nothing to mount."""
        raise ConfigError(f"a switchboard cannot be mounted at {path}")

    async def close(self) -> None:
        """Give the address back."""
        self._board.lines.pop(self._address, None)

"""A network between processes that can be cut and slowed, link by link.

Theory of operation. Every node is reached through a proxy of its own, whose address is the only one
that the others learn. Who speaks over a connection, its first frame says: the id of the sender
stands in it. So a cut is that of a link, as a firewall makes it: connections are reset, new ones
refused. A slow link holds each piece back for its delay. The nodes know nothing of all this.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress

SENDER = re.compile(rb"([a-z0-9]+)~[0-9a-f]{16}")
PIECE_BYTES = 64 * 1024
FIRST_BYTES_MAX = 1024 * 1024
"""Of a connection that does not say who speaks."""


class Network:
    """The proxies, and what is cut or slow. Addresses are loopback."""

    def __init__(self) -> None:
        self._targets: dict[str, int] = {}
        self._proxies: dict[str, asyncio.Server] = {}
        self._former: list[asyncio.Server] = []  # closed at the end, when nobody dials any more
        self._pipes: dict[asyncio.Task[None], frozenset[str]] = {}
        self._cuts: set[frozenset[str]] = set()
        self._slow: dict[frozenset[str], float] = {}
        self.carried: Counter[frozenset[str]] = Counter()
        """How many pieces each link carried by now."""

    async def address(self, name: str) -> str:
        """A new address for a node; its former one is nobody's any more."""
        if name in self._proxies:
            self._former.append(self._proxies.pop(name))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._pipes[task] = frozenset((name,))
            try:
                with suppress(OSError, asyncio.CancelledError):
                    if self._proxies.get(name) is proxy:
                        await self._carry(name, task, reader, writer)
            finally:
                del self._pipes[task]
                writer.transport.abort()

        proxy = self._proxies[name] = await asyncio.start_server(serve, "127.0.0.1", 0)
        return f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"

    def behind(self, name: str, port: int) -> None:
        """Where a node really listens."""
        self._targets[name] = port

    async def _carry(
        self,
        to: str,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        first = b""
        while (sender := SENDER.search(first.partition(b"\r\n\r\n")[2])) is None:
            piece = await reader.read(PIECE_BYTES)
            if not piece or len(first) > FIRST_BYTES_MAX:
                return
            first += piece
        link = frozenset((sender[1].decode(), to))
        if link in self._cuts or to not in self._targets:
            return
        self._pipes[task] = link
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._targets[to])
        try:
            await self._hold_back(link)
            far_writer.write(first)
            ways = [
                asyncio.create_task(self._pipe(link, reader, far_writer)),
                asyncio.create_task(self._pipe(link, far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            far_writer.transport.abort()

    async def _pipe(
        self, link: frozenset[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await self._hold_back(link)
            self.carried[link] += 1
            writer.write(piece)
            await writer.drain()

    async def _hold_back(self, link: frozenset[str]) -> None:
        if link in self._slow:
            await asyncio.sleep(self._slow[link])

    def cut(self, one: str, other: str) -> None:
        """Reset every connection of a link, and refuse new ones."""
        link = frozenset((one, other))
        self._cuts.add(link)
        for task, carries in self._pipes.items():
            if carries == link:
                task.cancel()

    def slow(self, one: str, other: str, delay_s: float) -> None:
        """Hold back whatever travels between the two."""
        self._slow[frozenset((one, other))] = delay_s

    def state(self, one: str, other: str) -> tuple[str, float]:
        """Whether a link is `open`, `cut` or `slow`, and its delay in seconds."""
        link = frozenset((one, other))
        if link in self._cuts:
            return "cut", 0.0
        delay_s = self._slow.get(link, 0.0)
        return ("slow" if delay_s else "open"), delay_s

    def heal(self) -> None:
        """End all cuts and delays."""
        self._cuts.clear()
        self._slow.clear()

    async def close(self) -> None:
        """End every proxy and connection."""
        for proxy in (*self._proxies.values(), *self._former):
            proxy.close()
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

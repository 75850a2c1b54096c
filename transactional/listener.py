"""The end of a listener, with nobody left in the doorway.

asyncio accepts a connection in one turn of the loop and makes its transport in the next. If the
server is closed in between, it is told so by an exception in its log, and the socket is nobody's:
the peer waits for an answer that will never come, and the descriptor is gone until garbage is
collected. Whoever stops a server while others dial it sees that sooner or later.
"""

from __future__ import annotations

import asyncio
import contextlib


async def close_listener(server: asyncio.Server) -> None:
    """Accept nobody any more, let who was accepted have a protocol, then close; O(listeners).

    What becomes of the connections is up to whoever made their protocols.
    """
    loop = asyncio.get_running_loop()
    try:
        with contextlib.suppress(NotImplementedError):  # the loop of Windows has no readers
            for listening in server.sockets:
                loop.remove_reader(listening.fileno())
        for _ in range(2):  # a turn to make transports, another to tell their protocols
            await asyncio.sleep(0)
    finally:
        server.close()

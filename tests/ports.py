"""Ports for servers whose address has to be known before they start."""

from __future__ import annotations

import contextlib
import random
import socket

PORTS = (12_000, 32_000)
"""Linux gives connections, and listeners that ask for any port, ports from 32768 on."""


def free_ports(count: int) -> list[int]:
    """Return ports that were free just now, below those that the system gives away by itself.

    Between this and the server's start, and while a server that was killed is started again, no
    connection of a test that runs beside this one gets the port as its own end.
    """
    dice = random.SystemRandom()  # tests that begin at the same seed take different ones
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            held = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                held.bind(("127.0.0.1", dice.randrange(*PORTS)))
                found.append(held.getsockname()[1])
        return found

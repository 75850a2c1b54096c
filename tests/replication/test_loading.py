"""What an import does not load: each room can be had without what others need."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("replication.protocol", ["aiohttp", "asyncio", "replication.agent"]),
        ("replication.testing.simulation", ["crdt.testing", "hypothesis"]),
    ],
)
def test_a_room_is_loaded_without_what_it_does_not_need(name, absent):
    """The protocol without sockets and loops, the simulation without the kit of `crdt.testing`."""
    program = f"import sys, {name}; print(*(m for m in {absent} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.split() == []

"""What an import does not load: each room can be had without what others need."""

from __future__ import annotations

import subprocess
import sys

import pytest

KIT = ["crdt.testing", "hypothesis"]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import replication.protocol", ["aiohttp", "asyncio", "replication.agent"]),
        ("import replication.testing.simulation", KIT),
        ("import replication.testing.pytest_plugin", ["aiohttp", "msgpack", *KIT]),
        ("from replication import Agent, BlockingAgent", ["aiohttp", "aiohttp.web"]),
        ("from replication.transport import AdminClient", ["aiohttp.web", "replication.protocol"]),
        ("from replication import Simulation", KIT),
        ("from replication.testing import Simulation", KIT),
        ("from replication.testing import local_agents", KIT),
    ],
)
def test_a_room_is_loaded_without_what_it_does_not_need(statement, absent):
    """The protocol without sockets and loops, a simulation without the kit of the types.

    An agent's class without sockets, which are loaded when one is made; an operator without a
    server. And the plugin, which every pytest run of a machine loads, without anything.
    """
    program = f"import sys; {statement}; print(*(m for m in {absent} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.split() == []

"""Agents inside somebody else's aiohttp application, many on one port; and their pages."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aiohttp import web

from replication import Agent, Config, ConfigError
from replication.transport.memory import Switchboard

CALM = Config(
    gossip_interval_s=4.0,
    probe_interval_s=60.0,
    probe_timeout_s=60.0,
    connect_timeout_s=60.0,
    read_timeout_s=60.0,
    total_timeout_s=60.0,
)
"""All of them are in one loop: where the machine is busy with others, an answer takes long."""


@pytest.mark.processes
async def test_two_hundred_agents_share_one_port():
    """[replication 27] one process, one application, one port: a write reaches all of them."""
    app = web.Application()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    agents = [
        Agent(
            f"a{n}",
            listen="",
            address=f"127.0.0.1:{port}/agents/{n}",
            peers=[f"127.0.0.1:{port}/agents/{n // 8}"] if n else [],
            config=CALM,
            seed=n,
        )
        for n in range(200)
    ]
    for number, agent in enumerate(agents):
        agent.mount(app, f"/agents/{number}")
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        agents[7].counter("n").increment(3)
        started = time.monotonic()
        while not all(agent.counter("n").value == 3 for agent in agents):  # noqa: ASYNC110 - as seen
            await asyncio.sleep(0.1)
        print(f"200 agents, {time.monotonic() - started:.1f} s")
    finally:
        await runner.cleanup()


async def test_an_agent_on_a_switchboard_cannot_be_mounted():
    """A typed error instead of an agent that nobody reaches."""
    with pytest.raises(ConfigError):
        Agent("a", transport=Switchboard().transport("a:1")).mount(web.Application())

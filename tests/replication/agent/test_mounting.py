"""Agents inside somebody else's aiohttp application, many on one port; and their pages."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from replication import Agent, ClosedError, Config, ConfigError, ListenError
from replication.agent.blocking import BlockingAgent
from replication.journal.memory import MemoryJournal
from replication.transport.base import PATH
from replication.transport.http import MEDIA_TYPE
from replication.transport.memory import Switchboard
from tests.replication.ports import free_ports

if TYPE_CHECKING:
    from replication.journal.base import Recovered

CALM = Config(gossip_interval_s=4.0, probe_interval_s=20.0, read_timeout_s=15.0)


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
    await web.SockSite(runner, listening).start()
    agents[7].counter("n").increment(3)
    started = time.monotonic()
    async with asyncio.timeout(120):
        while not all(agent.counter("n").value == 3 for agent in agents):  # noqa: ASYNC110 - as seen
            await asyncio.sleep(0.1)
    print(f"200 agents, {time.monotonic() - started:.1f} s")
    await runner.cleanup()


async def test_an_agent_on_a_switchboard_cannot_be_mounted():
    """A typed error instead of an agent that nobody reaches."""
    with pytest.raises(ConfigError):
        Agent("a", transport=Switchboard().transport("a:1")).mount(web.Application())


async def test_operators_read_pages_from_this_machine():
    """/status is JSON, /metrics is Prometheus' text: every line is a comment or a sample."""
    async with Agent("ada", secret="a shared secret") as ada, aiohttp.ClientSession() as session:
        ada.counter("n").increment(1)
        async with session.get(f"http://{ada.address}/status") as response:
            page = json.loads(await response.text())
        assert page["id"] == ada.id
        assert page["state"]["entries"] == 1
        async with session.get(f"http://{ada.address}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = [line for line in lines if not line.startswith("#")]
        assert all(
            line.startswith("convoca_") and float(line.rsplit(" ", 1)[1]) >= 0 for line in samples
        )
        assert "secret" not in "\n".join(lines) + json.dumps(page)


def test_the_synchronous_twin_does_the_same_without_await(tmp_path):
    """Counters, sets, batches, tokens and restarts from a thread that knows no loop."""
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        ada.counter("n").increment(2)
        ada.batch(lambda agent: (agent.orset("tags").add("x"), agent.orset("tags").add("y")))
        ada.durable(ada.version(), timeout_s=10)
        assert set(ada.orset("tags")) == {"x", "y"}
        assert "x" in ada.orset("tags")
        assert len(ada.orset("tags")) == 2
        with BlockingAgent("bob", peers=[ada.address]) as bob:
            bob.seen(ada.version(), timeout_s=10)
            assert bob.counter("n").value == 2
            assert [member.name for member in bob.members()] == ["ada"]
            assert bob.digest() == ada.digest()
        before = ada.id
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        assert (ada.id, ada.counter("n").value) == (before, 2)


class SlowJournal(MemoryJournal):
    """A large one: it takes a while to read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_it = threading.Event()

    def open(self) -> Recovered:
        assert self.read_it.wait(30)
        return super().open()


async def test_a_start_on_a_busy_port_leaves_no_journal_behind(tmp_path):
    """A new journal is made when all else that can fail has succeeded."""
    async with Agent("ada") as ada:
        bob = Agent("bob", listen=ada.address, journal=tmp_path / "bob.db")
        with pytest.raises(ListenError):
            await bob.start()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ClosedError):
            bob.version()


async def test_an_agent_that_still_reads_its_journal_is_busy_and_then_there():
    """Its port answers from the first moment: 503 to whoever asks how it is, and to peers."""
    journal, listen = SlowJournal(), f"127.0.0.1:{free_ports(1)[0]}"
    bob = Agent("bob", listen=listen, journal=journal)
    starting = asyncio.create_task(bob.start())
    async with asyncio.timeout(30), aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"http://{listen}/status") as answer:
                    assert answer.status == 503
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
        body, kind = b"a frame", {"Content-Type": MEDIA_TYPE}
        async with client.post(f"http://{listen}{PATH}", data=body, headers=kind) as answer:
            assert answer.status == 503
        journal.read_it.set()
        await starting
        async with client.get(f"http://{listen}/status") as answer:
            assert answer.status == 200
    await bob.close()

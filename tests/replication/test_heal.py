"""After a heal, over real sockets: every link of every agent runs through a proxy that cuts it.

The proxies stand between agents and know who speaks by the sender in the frame, so a cut is that
of one link in one direction. It refuses (connections are reset) or swallows (bytes are held back,
as the system holds what a dead network does not acknowledge) and lets go of them at the heal.

How long that takes is told by a clock that is as slow as the machine: it ticks on the loop on which
agents and proxies live, so where each turn of the loop comes late, because others have the
processor, it is late by as much. The promise itself is that of virtual time, in
`tests/simulation/test_heal.py`; here sockets and circuits are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Self

import pytest

from replication import Agent, Config
from replication.listener import close_listener
from replication.testing.agents import equal
from replication.transport.circuit import FAILURES_MAX
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMES = ["ada", "bob", "cyd", "dan"]
INTERVAL_S = 0.25
QUICK = Config(
    gossip_interval_s=INTERVAL_S,
    gossip_interval_max_s=8 * INTERVAL_S,
    probe_interval_s=INTERVAL_S,
    probe_timeout_s=INTERVAL_S / 2,
    connect_timeout_s=2 * INTERVAL_S,
    read_timeout_s=5 * INTERVAL_S,
    total_timeout_s=15 * INTERVAL_S,
)
"""The proportions of the defaults, at a quarter of their time."""
INTERVALS_MAX = 10
TICK_S = 0.01
LIMIT_S = 60.0
SENDER = re.compile(rb"([a-z]+)~[0-9a-f]{16}")


class Network:
    """The proxies in front of all agents, and which links are cut."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._cuts: set[tuple[str, str]] = set()
        self._healed = asyncio.Event()
        self._healed.set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.ports: dict[str, int] = {}
        """Where each agent really listens; known once it does."""

    async def before(self, name: str) -> asyncio.Server:
        """A proxy for an agent that has no port yet."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            self._pipes.add(task)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ConnectionError):
                await self._carry(name, reader, writer)
            writer.transport.abort()
            self._pipes.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return server

    async def _carry(
        self, to: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection; whose it is, its first frame says."""
        first = b""
        while (sender := SENDER.search(first.partition(b"\r\n\r\n")[2])) is None:
            if not (piece := await reader.read(65536)):
                return
            first += piece
        who = sender[1].decode()
        if not await self._passes(who, to):
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.ports[to])
        far_writer.write(first)
        back = asyncio.create_task(self._pipe(who, to, far_reader, writer))
        try:
            await self._pipe(who, to, reader, far_writer)
        finally:
            back.cancel()
            far_writer.transport.abort()

    async def _pipe(
        self, who: str, to: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(65536):
            if not await self._passes(who, to):
                return
            writer.write(piece)
            await writer.drain()

    async def _passes(self, who: str, to: str) -> bool:
        while (who, to) in self._cuts:
            if self._how == "refuses":
                return False
            await self._healed.wait()
        return True

    def partition(self, *groups: list[str]) -> None:
        self._healed.clear()
        for side in groups:
            for other in groups:
                if side is not other:
                    self._cuts |= {(one, far) for one in side for far in other}

    def heal(self) -> None:
        self._cuts.clear()
        self._healed.set()

    async def close(self) -> None:
        self.heal()
        for server in self._servers:
            await close_listener(server)
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)


@contextlib.asynccontextmanager
async def team(network: Network) -> AsyncIterator[list[Agent]]:
    """Agents that know each other by their proxies only."""
    proxies = {name: await network.before(name) for name in NAMES}
    outside = {n: f"127.0.0.1:{p.sockets[0].getsockname()[1]}" for n, p in proxies.items()}
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(network.close)
        agents = []
        for name in NAMES:
            (port,) = free_ports(1)
            network.ports[name] = port
            agent = Agent(
                name,
                listen=f"127.0.0.1:{port}",
                address=outside[name],
                peers=[outside[NAMES[0]]],
                config=QUICK,
            )
            await stack.enter_async_context(agent)
            agents.append(agent)
        yield agents


class LoopClock:
    """Counts ticks of the loop while it is open."""

    def __init__(self) -> None:
        self.ticks = 0

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.ticks += 1

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()


@pytest.mark.processes
@pytest.mark.parametrize("how", ["refuses", "swallows"])
@pytest.mark.parametrize(
    "groups",
    [(NAMES[:2], NAMES[2:]), tuple([name] for name in NAMES)],
    ids=["halves", "everybody alone"],
)
async def test_a_heal_over_real_sockets(how, groups, until):
    """Both sides declare each other dead and their circuits are open; ten intervals are enough."""
    network = Network(how)
    async with team(network) as agents:
        others = len(NAMES) - 1
        await until(lambda: all(len(agent.members()) == others for agent in agents), LIMIT_S)
        network.partition(*groups)
        await until(lambda: all(cut_off(agent, groups) for agent in agents), LIMIT_S)
        for agent in agents:
            agent.counter("n").increment(1)
        async with LoopClock() as clock:
            network.heal()
            await equal(*agents, timeout_s=LIMIT_S)
        assert [agent.counter("n").value for agent in agents] == [len(NAMES)] * len(NAMES)
        print(f"{clock.ticks * TICK_S / INTERVAL_S:.1f} intervals")
        assert clock.ticks * TICK_S <= INTERVALS_MAX * INTERVAL_S


def cut_off(agent: Agent, groups: tuple[list[str], ...]) -> bool:
    """Whether it calls everybody dead who is on another side, with a circuit open to each."""
    own = next(group for group in groups if agent.name in group)
    rows = agent._runtime.replica.members.everyone()
    failures = agent._transport._circuits.failures
    far = [row for row in rows if row.name not in own]
    return all(row.status.name == "DEAD" and failures(row.address) >= FAILURES_MAX for row in far)

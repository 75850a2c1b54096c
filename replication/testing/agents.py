"""Real agents without sockets, and the time that a test turns by hand.

Theory of operation. `local_agents` starts real agents - loop, journal in memory, the whole protocol
- on a switchboard in the running event loop: your code runs as in production, without a port.

    async def test_my_agents():
        async with local_agents("ada", "bob") as (ada, bob):
            ada.counter("n").increment(1)
            await equal(ada, bob)

A `VirtualClock` drives the clusters of one test (`simulation`) together, and whatever else of yours
takes a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from replication.agent import Agent
from replication.errors import NotYetError
from replication.journal import MemoryJournal
from replication.testing.simulation import EPOCH_MS, Faults, Simulation
from replication.transport import Switchboard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from replication.config import Config

LOOK_EVERY_S = 0.005


class VirtualClock:
    """Time that passes when a test says so, for everything that the test drives by it.

    Called, it gives milliseconds since 1970: what `clock=` of kernels and types wants.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.clusters: list[Simulation] = []

    def __call__(self) -> int:
        """Milliseconds since 1970."""
        return EPOCH_MS + int(self.now_s * 1000)

    def drive(
        self,
        names: Iterable[str],
        seed: int,
        faults: Faults | None = None,
        config: Config | None = None,
    ) -> Simulation:
        """A cluster that lives in this time."""
        sim = Simulation(names, seed, faults, config)
        sim.run(self.now_s)
        self.clusters.append(sim)
        return sim

    def advance(self, seconds: float) -> None:
        """Let time pass, in every cluster as well."""
        self.now_s += seconds
        for sim in self.clusters:
            sim.run(max(0.0, self.now_s - sim.now_s))


@contextlib.asynccontextmanager
async def local_agents(
    *names: str, config: Config | None = None
) -> AsyncIterator[tuple[Agent, ...]]:
    """Agents of these names that know the first one; closed in the end, whatever happened.

    Each has a disk that lives as long as they do, so what waits for `durable` works as anywhere.
    """
    board = Switchboard()
    addresses = [f"{name}:1" for name in names]
    agents = [
        Agent(
            name,
            transport=board.transport(address),
            journal=MemoryJournal(),
            peers=addresses[:1] if number else (),
            config=config,
            seed=number,
        )
        for number, (name, address) in enumerate(zip(names, addresses, strict=True))
    ]
    async with contextlib.AsyncExitStack() as stack:
        for agent in agents:
            await stack.enter_async_context(agent)
        yield tuple(agents)


async def equal(*agents: Agent, timeout_s: float = 10.0) -> None:
    """Wait until all agents have equal state.

    Raises:
        NotYetError: they did not become equal in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while len({agent.digest() for agent in agents}) > 1:  # noqa: ASYNC110 - states have no event
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError as error:
        states = len({agent.digest() for agent in agents})
        raise NotYetError(
            f"equal: {states} different states after {timeout_s:g} s", reached=states, wanted=1
        ) from error

"""Real agents without sockets, in the time of a test or in one that it turns by hand.

Theory of operation. `local_agents` starts real agents - loop, journal in memory, the whole protocol
- on a switchboard in the running event loop: your code runs as in production, without a port.

    async def test_my_agents():
        async with local_agents("ada", "bob") as team:
            ada, bob = team
            ada.counter("n").increment(1)
            await team.equal()

A killed agent leaves its journal behind as it is at that moment, and nothing else: it says no
goodbye, and what it has not persisted is gone. So the zombie is unplugged, its disk is copied, and
only then is it closed, for nobody to hear.

`in_virtual_time` runs such a story in a loop whose clock jumps (`virtual_loop`): ten minutes of
partition take milliseconds.

A `VirtualClock` drives the clusters of one test (`simulation`) together, and whatever else of yours
takes a clock.
"""

from __future__ import annotations

import asyncio
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Self, TypeVar

from replication.agent import Agent
from replication.errors import ClosedError, ConfigError, NotYetError, UnknownPeerError
from replication.journal import MemoryJournal
from replication.testing.simulation import EPOCH_MS, Faults, Simulation
from replication.testing.virtual_loop import virtual_time_loop
from replication.transport import Switchboard

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterable, Iterator

    from replication.config import Config

T = TypeVar("T")

LOOK_EVERY_S = 0.005
MEET_S_MAX = 10.0
SETTLE_S = 30.0
"""How long agents of the fixture have in the end to become equal."""


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


class LocalAgents:
    """Agents in one event loop; `async with` starts them, lets them meet, and closes them.

    Or `team = await local_agents(...)` and `await team.close()`. Iterated it gives the agents that
    run, in the order of their names as given; `team["ada"]` is one of them.
    """

    def __init__(self, *names: str, config: Config | None = None, settle_s: float = 0.0) -> None:
        if len(set(names)) != len(names):
            raise ConfigError("two agents of one name", hint="give each agent a name of its own")
        self._board = Switchboard()
        self._config = config
        self._settle_s = settle_s
        self._disks = {name: MemoryJournal() for name in names}
        self._agents: dict[str, Agent] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where they run; None before the start and after the close."""

    async def _start(self) -> Self:
        self.loop = asyncio.get_running_loop()
        try:
            for name in self._disks:
                await self.start(name)
            async with asyncio.timeout(MEET_S_MAX):
                while any(len(agent.members()) < len(self) - 1 for agent in self):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(LOOK_EVERY_S)
        except BaseException:
            await self.close()
            raise
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def __aenter__(self) -> Self:
        return await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        try:
            if error is None and self._settle_s:
                await self.settle()
        finally:
            await self.close()

    async def settle(self) -> None:
        """Heal, and assert that those who run become equal, in the time that was given for it."""
        self.heal()
        try:
            await self.equal(timeout_s=self._settle_s or SETTLE_S)
        except NotYetError as error:
            raise AssertionError(f"agents differ after {self._settle_s:g} s of peace") from error

    async def close(self) -> None:
        """Close every agent; a second call does nothing."""
        agents, self._agents, self.loop = self._agents, {}, None
        for agent in agents.values():
            await agent.close()

    def __iter__(self) -> Iterator[Agent]:
        return iter([self._agents[name] for name in self._disks if name in self._agents])

    def __len__(self) -> int:
        return len(self._agents)

    def __getitem__(self, name: str) -> Agent:
        self._known(name)
        if name not in self._agents:
            raise ClosedError(f"agent {name!r} does not run", hint="start it: team.start(name)")
        return self._agents[name]

    def _known(self, name: str) -> str:
        if name not in self._disks:
            known = ", ".join(self._disks)
            raise UnknownPeerError(f"{name!r} is none of these agents", hint=f"there are: {known}")
        return name

    async def equal(self, timeout_s: float = 10.0) -> None:
        """Wait until all agents that run have equal state.

        Raises:
            NotYetError: they did not become equal in time.
        """
        await equal(*self, timeout_s=timeout_s)

    async def kill(self, name: str) -> None:
        """End an agent as `kill -9` does; its peers hear nothing, its journal stays as it is."""
        agent = self[name]
        self._board.unplug(_address(name))
        self._disks[name] = self._disks[name].copy(continuous=True)
        del self._agents[name]
        await agent.close()

    async def start(self, name: str) -> Agent:
        """Start an agent that was killed, on what its journal holds; one that runs is returned."""
        if self._known(name) in self._agents:
            return self._agents[name]
        names = list(self._disks)
        agent = Agent(
            name,
            transport=self._board.transport(_address(name)),
            journal=self._disks[name],
            peers=[_address(other) for other in names if other in self._agents],
            config=self._config,
            seed=names.index(name),
        )
        self._agents[name] = await agent.start()
        return agent

    def partition(self, *groups: str | Iterable[str]) -> None:
        """Cut every link between groups: names, or lists of them; unnamed ones stay with everybody.

        In addition to what is cut already, until `heal`.
        """
        sides = [[group] if isinstance(group, str) else list(group) for group in groups]
        members = [self._known(name) for side in sides for name in side]
        if len(sides) < 2 or len(set(members)) != len(members):
            raise ConfigError(
                f"no partition: {sides}", hint='team.partition(["ada"], ["bob", "cyd"])'
            )
        for side, other in combinations(sides, 2):
            for one, far in product(side, other):
                self._board.cut(_address(one), _address(far))

    def heal(self) -> None:
        """End every partition."""
        self._board.heal()


def _address(name: str) -> str:
    return f"{name}:1"


def local_agents(*names: str, config: Config | None = None) -> LocalAgents:
    """Agents of these names that have met; closed in the end, whatever happened.

    Each has a disk that lives as long as they do, so what waits for `durable` works as anywhere.
    """
    return LocalAgents(*names, config=config)


def in_virtual_time(story: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a fresh loop in which waiting takes no time; its result."""
    with asyncio.Runner(loop_factory=virtual_time_loop) as runner:
        return runner.run(story)


class AgentMaker:
    """What the fixture `agents` gives: teams that have to end equal, and time that jumps."""

    def __init__(self) -> None:
        self._teams: list[LocalAgents] = []

    def __call__(self, *names: str, config: Config | None = None) -> LocalAgents:
        """A team: `async with agents("ada", "bob") as team`, or `team = await agents(...)`."""
        team = LocalAgents(*names, config=config, settle_s=SETTLE_S)
        self._teams.append(team)
        return team

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Run a test's coroutine in virtual time, from a test that is a plain function."""

        async def told() -> T:
            try:
                result = await story
                for team in self._teams:
                    if team.loop is asyncio.get_running_loop():
                        await team.settle()
                return result
            finally:
                await self._close(asyncio.get_running_loop())

        return in_virtual_time(told())

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        for team in self._teams:
            if team.loop is loop:
                await team.close()

    def finish(self) -> None:
        """After the test: settle and close what it started by `await`, if its loop is still there.

        Where the loop has been closed, what ran in it is gone with it.
        """
        for team in self._teams:
            if team.loop is not None and not team.loop.is_closed() and not team.loop.is_running():
                try:
                    team.loop.run_until_complete(team.settle())
                finally:
                    team.loop.run_until_complete(team.close())


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

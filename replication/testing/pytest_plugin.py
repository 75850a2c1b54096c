"""The pytest plugin: agents, and clusters in virtual time, as fixtures. Installed with the package.

    async def test_my_agents(agents):
        async with agents("ada", "bob") as team:
            ada, bob = team
            ada.counter("n").increment(1)
            await team.equal()

    def test_my_cluster(cluster, virtual_clock):
        sim = cluster("ada", "bob", seed=7)
        sim["ada"].document("tags", ORSet).add("x")
        virtual_clock.advance(5)
        assert "x" in sim["bob"].document("tags", ORSet)

When the test has passed, every team and every cluster of it is healed and given time, and has to
end equal.

Every pytest run on a machine with this package imports this module, so it loads nothing else before
a fixture is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replication import testing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replication.config import Config
    from replication.testing.agents import AgentMaker, VirtualClock
    from replication.testing.simulation import Faults, Simulation


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """Time that passes when the test says so; call it for milliseconds, e.g. as `clock=`."""
    return testing.VirtualClock()


@pytest.fixture
def agents() -> Iterator[AgentMaker]:
    """Make teams of real agents in memory, in the loop of the test, for `async with`.

    From a test that is a plain function, its `run` runs a coroutine in virtual time.
    """
    maker = testing.AgentMaker()
    yield maker
    maker.finish()


@pytest.fixture
def cluster(virtual_clock: VirtualClock) -> Iterator[Callable[..., Simulation]]:
    """Make a cluster: `cluster("ada", "bob", seed=7, faults=Faults(loss=0.2))`."""

    def make(
        *names: str, seed: int = 0, faults: Faults | None = None, config: Config | None = None
    ) -> Simulation:
        return virtual_clock.drive(names, seed, faults, config)

    yield make
    for sim in virtual_clock.clusters:
        sim.heal()
        sim.faults = type(sim.faults)()
        for name, agent in sim.agents.items():
            if agent.replica is None:
                sim.start(name)
        assert sim.settle(testing.SETTLE_S), (
            f"agents differ after {testing.SETTLE_S:.0f} s of peace"
        )

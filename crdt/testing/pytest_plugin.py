"""The pytest plugin: a network of replicas as a fixture. Installed with the package.

    def test_my_agents_agree(network):
        net = network(ORSet, 3)
        net.views[0].add("x")
        net.heal()                  # ends every disturbance, and asserts what must hold
        assert net.values == [{"x"}] * 3

Whatever a test does with it, what is left of the network is healed when the test has passed, and
replicas that differ then fail it. `replication.testing` adds `cluster` and `virtual_clock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crdt.testing.network import Network
    from crdt.testing.state_network import StateNetwork


@pytest.fixture
def network() -> Iterator[Callable[..., Network | StateNetwork]]:
    """Make a network: `network(Type, count=3)` of replicas a, b, c; any type that the kit knows."""
    from crdt.testing.network import Network  # noqa: PLC0415  # costs only whoever uses it
    from crdt.testing.operation import is_view  # noqa: PLC0415
    from crdt.testing.state_network import StateNetwork  # noqa: PLC0415

    made: list[Network | StateNetwork] = []

    def make(kind: Any, count: int = 3) -> Network | StateNetwork:
        names = [chr(ord("a") + index) for index in range(count)]
        made.append(Network(kind, names) if is_view(kind) else StateNetwork(kind, names))
        return made[-1]

    yield make
    for each in made:
        each.heal()
        assert each.converged, f"replicas differ after healing: {each.values!r}"

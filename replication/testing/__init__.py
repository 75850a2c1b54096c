"""For tests of your own: real agents without sockets, clusters in virtual time, random histories.

Theory of operation. Three levels, from most like production to most under control:

    agents              real agents - loop, journal in memory, the whole protocol - on a switchboard
                        in the loop of the test, or in one whose clock jumps (`virtual_loop`)
    simulation          replicas in virtual time over a seeded network that loses, repeats, delays,
                        damages and cuts; no code of yours runs in it but what you write to kernels
    cluster_histories   random histories of such clusters, with faults, for the oracle of
                        `crdt.testing`

The pytest plugin brings the fixtures `agents`, `cluster` and `virtual_clock`. Names are looked up
when they are asked for, so that a simulation does not load the kit of `crdt.testing`, and a test
run that uses no fixture of the plugin loads nothing at all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replication.testing.agents import (
        AgentMaker,
        LocalAgents,
        VirtualClock,
        equal,
        in_virtual_time,
        local_agents,
    )
    from replication.testing.cluster_histories import (
        SETTLE_S,
        ClusterHistory,
        cluster_history,
        cluster_plan,
        shrink_cluster,
    )
    from replication.testing.simulation import Faults, Simulation
    from replication.testing.virtual_loop import virtual_time_loop

ROOMS = {
    "AgentMaker": "agents",
    "LocalAgents": "agents",
    "VirtualClock": "agents",
    "equal": "agents",
    "in_virtual_time": "agents",
    "local_agents": "agents",
    "SETTLE_S": "cluster_histories",
    "ClusterHistory": "cluster_histories",
    "cluster_history": "cluster_histories",
    "cluster_plan": "cluster_histories",
    "shrink_cluster": "cluster_histories",
    "Faults": "simulation",
    "Simulation": "simulation",
    "virtual_time_loop": "virtual_loop",
}

__all__ = [
    "SETTLE_S",
    "AgentMaker",
    "ClusterHistory",
    "Faults",
    "LocalAgents",
    "Simulation",
    "VirtualClock",
    "cluster_history",
    "cluster_plan",
    "equal",
    "in_virtual_time",
    "local_agents",
    "shrink_cluster",
    "virtual_time_loop",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)

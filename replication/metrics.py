"""What an operator wants to see of one agent: `/metrics` (Prometheus text) and `/status` (JSON).

Theory of operation. Everything here is read from the agent when it is asked for; nothing is
sampled, so an idle scraper costs nothing. Names follow Prometheus' conventions: base units,
`_total` for counters. `/status` is one agent's view of the cluster, for people and scripts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from replication.transport.http import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replication.agent import Agent


def status(agent: Agent) -> dict[str, Any]:
    """One agent's view, as JSON-ready data. O(members + origins)."""
    lag = agent.lag()
    return {
        "id": agent.id,
        "name": agent.name,
        "address": agent.address,
        "read_only": agent.read_only,
        "digest": agent.digest().hex(),
        "vector": dict(agent.kernel.vector),
        "members": [
            {
                "id": member.id,
                "address": member.address,
                "status": member.status.name.lower(),
                "heard_s": round(member.heard_s, 3) if member.heard_s < 1e9 else None,
                "lag_events": lag.get(member.id),
            }
            for member in agent.members()
        ],
        "bytes": {"sent": agent.bytes_sent, "received": agent.bytes_received},
        "counts": agent.counts(),
        "state": agent.kernel.stats(),
        "quarantine": agent.quarantine(),
    }


def exposition(agent: Agent) -> str:
    """The metrics of one agent in Prometheus' text format 0.0.4."""
    return "\n".join(_lines(agent)) + "\n"


def pages(agent: Agent) -> dict[str, Callable[[], Page]]:
    """What an agent's own server shows to operators."""
    return {
        "/status": lambda: Page("application/json", json.dumps(status(agent))),
        "/metrics": lambda: Page("text/plain", exposition(agent)),
    }


def _lines(agent: Agent) -> Iterator[str]:
    label = f'agent="{_escaped(agent.name)}"'

    def family(name: str, kind: str, text: str) -> Iterator[str]:
        yield f"# HELP convoca_{name} {text}"
        yield f"# TYPE convoca_{name} {kind}"

    yield from family("bytes_total", "counter", "Bytes of frames, without HTTP headers.")
    yield f'convoca_bytes_total{{{label},direction="sent"}} {agent.bytes_sent}'
    yield f'convoca_bytes_total{{{label},direction="received"}} {agent.bytes_received}'
    yield from family("events_total", "counter", "What happened so often, by kind.")
    for kind, count in sorted(agent.counts().items()):
        yield f'convoca_events_total{{{label},kind="{_escaped(kind)}"}} {count}'
    yield from family("lag_events", "gauge", "Events of this agent's state that a member lacks.")
    for member, lag in sorted(agent.lag().items()):
        yield f'convoca_lag_events{{{label},member="{_escaped(member)}"}} {lag}'
    yield from family("members", "gauge", "Members by status.")
    states = [member.status.name.lower() for member in agent.members()]
    for state in sorted(set(states)):
        yield f'convoca_members{{{label},status="{state}"}} {states.count(state)}'
    yield from family("state", "gauge", "Size of the local state, by what is counted.")
    for what, size in sorted(agent.kernel.stats().items()):
        yield f'convoca_state{{{label},what="{what}"}} {size}'
    yield from family("quarantined", "gauge", "Origins stopped at an event that cannot be applied.")
    yield f"convoca_quarantined{{{label}}} {len(agent.quarantine())}"
    yield from family("read_only", "gauge", "1 while the journal fails and writes are refused.")
    yield f"convoca_read_only{{{label}}} {int(agent.read_only)}"


def _escaped(text: str) -> str:
    """A label value, by the text format's rules."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

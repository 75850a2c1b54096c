"""What an operator wants to see of one agent: `/metrics` (Prometheus text) and `/status` (JSON).

Theory of operation. Everything here is read from the agent when it is asked for; an idle scraper
costs nothing. Names follow Prometheus' conventions: base units, `_total` for counters. `/status` is
one agent's view of the cluster, for people and scripts. One table, `FAMILIES`, names every metric,
its type and its meaning; the operations guide is checked against it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from replication.agent.vitals import BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replication.agent.agent import Agent
    from replication.agent.vitals import Vitals

Sample = tuple[dict[str, str], float]

REDUNDANT = "redundant"
REFUSED = "refused:"
REFUSED_BY_PEER = "refused-by-peer:"


def status(agent: Agent) -> dict[str, Any]:
    """One agent's view, as JSON-ready data. O(members + origins)."""
    lag, behind, vitals = agent.lag(), agent.behind(), agent.vitals
    return {
        "id": agent.id,
        "name": agent.name,
        "address": agent.address,
        "read_only": agent.read_only,
        "digest": agent.digest().hex(),
        "vector": dict(agent.kernel.vector),
        "behind": {
            origin: {"events": events, "seconds": round(since_s, 3)}
            for origin, (events, since_s) in behind.items()
        },
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
        "cut": agent.blocked(),
        "bytes": {"sent": agent.bytes_sent, "received": agent.bytes_received},
        "queued_bytes": dict(vitals.queued),
        "loop_lag_s": round(vitals.heartbeat.recent_s, 4),
        "converging_s": round(vitals.converging_s, 3),
        "counts": agent.counts(),
        "state": agent.kernel.stats(),
        "quarantine": agent.quarantine(),
    }


def exposition(agent: Agent) -> str:
    """The metrics of one agent in Prometheus' text format 0.0.4."""
    return "\n".join(_lines(agent)) + "\n"


def _lines(agent: Agent) -> Iterator[str]:
    label = {"agent": agent.name}
    for name, (kind, text, samples) in FAMILIES.items():
        yield f"# HELP convoca_{name} {text}"
        yield f"# TYPE convoca_{name} {kind}"
        for labels, value in samples(agent):
            yield f"convoca_{name}{_labels(label | labels)} {value:g}"
    yield from _convergence(label, agent.vitals)


def _convergence(label: dict[str, str], vitals: Vitals) -> Iterator[str]:
    """The one histogram."""
    name, counts = "convoca_convergence_seconds", vitals.convergence.counts
    yield f"# HELP {name} {CONVERGENCE}"
    yield f"# TYPE {name} histogram"
    bounds = [*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"]
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield f"{name}_bucket{_labels(label | {'le': bound})} {count}"
    yield f"{name}_sum{_labels(label)} {vitals.convergence.total_s:g}"
    yield f"{name}_count{_labels(label)} {sum(counts)}"


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    """A label value, by the text format's rules."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


# ------------------------------------------------------------------------------ samples


def _by(key: str, values: dict[str, float]) -> Iterator[Sample]:
    return (({key: name}, value) for name, value in sorted(values.items()))


def _one(value: float) -> Iterator[Sample]:
    yield {}, value


def _bytes(agent: Agent) -> Iterator[Sample]:
    for (direction, kind), size in sorted(agent.bytes_by_kind().items()):
        yield {"direction": direction, "kind": kind}, size


def _member_seconds(agent: Agent) -> dict[str, float]:
    stands = agent.stands()
    return {member: agent.vitals.lag_s(agent.id, seq) for member, seq in stands.items()}


def _rejections(agent: Agent) -> Iterator[Sample]:
    for kind, count in sorted(agent.counts().items()):
        for prefix, by in ((REFUSED, "here"), (REFUSED_BY_PEER, "peer")):
            if kind.startswith(prefix):
                yield {"by": by, "code": kind.removeprefix(prefix)}, count


def _events(agent: Agent) -> dict[str, float]:
    apart = (REDUNDANT, REFUSED, REFUSED_BY_PEER)
    return {k: float(n) for k, n in agent.counts().items() if not k.startswith(apart)}


def _members(agent: Agent) -> dict[str, float]:
    states = [member.status.name.lower() for member in agent.members()]
    return {state: float(states.count(state)) for state in states}


CONVERGENCE = (
    "From durable here until every member told that it is durable there, per commit of own writes."
)
Family = tuple[str, str, "Callable[[Agent], Iterator[Sample]]"]
FAMILIES: dict[str, Family] = {
    "lag_events": (
        "gauge",
        "Events that peers told of and this agent lacks, by their origin.",
        lambda a: _by("origin", {o: float(n) for o, (n, _) in a.behind().items()}),
    ),
    "lag_seconds": (
        "gauge",
        "Since when this agent lacks events of an origin that it was told of.",
        lambda a: _by("origin", {o: s for o, (_, s) in a.behind().items()}),
    ),
    "member_lag_events": (
        "gauge",
        "Events of this agent's state that a member is not known to have.",
        lambda a: _by("member", dict[str, float](a.lag())),
    ),
    "member_lag_seconds": (
        "gauge",
        "Age of the oldest write of this agent that a member is not known to have.",
        lambda a: _by("member", _member_seconds(a)),
    ),
    "converging_seconds": (
        "gauge",
        "Age of the oldest write of this agent that is durable here and not at every member.",
        lambda a: _one(a.vitals.converging_s),
    ),
    "bytes_total": ("counter", "Bytes of frames, without HTTP headers, by message.", _bytes),
    "redundant_entries_total": (
        "counter",
        "Events that came though they were here already.",
        lambda a: _one(a.counts().get(REDUNDANT, 0)),
    ),
    "queue_bytes": (
        "gauge",
        "Frames that wait for an answer: of a peer (outbound) or of this agent (inbound).",
        lambda a: _by("queue", dict[str, float](a.vitals.queued)),
    ),
    "rejections_total": (
        "counter",
        "Frames that were refused, by code; by whom: here, or by the peer.",
        _rejections,
    ),
    "quarantined_origins": (
        "gauge",
        "Origins stopped at an event that cannot be applied.",
        lambda a: _one(len(a.quarantine())),
    ),
    "quarantined_entries": (
        "gauge",
        "Events of quarantined origins that peers told of and that wait.",
        lambda a: _one(sum(n for o, (n, _) in a.behind().items() if o in a.quarantine())),
    ),
    "loop_lag_seconds": (
        "gauge",
        "By how much the event loop was late, at worst in the last 30 s.",
        lambda a: _one(a.vitals.heartbeat.recent_s),
    ),
    "members": ("gauge", "Members by status.", lambda a: _by("status", _members(a))),
    "state": (
        "gauge",
        "Size of the local state, by what is counted.",
        lambda a: _by("what", dict[str, float](a.kernel.stats())),
    ),
    "read_only": (
        "gauge",
        "1 while the journal fails and writes are refused.",
        lambda a: _one(a.read_only),
    ),
    "events_total": (
        "counter",
        "What else happened so often, by kind.",
        lambda a: _by("kind", _events(a)),
    ),
}

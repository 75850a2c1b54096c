"""What an operator may see and do at a running agent; `transport.admin` carries it over HTTP.

Theory of operation. *Seeing.* `/metrics` (Prometheus text) and `/status` (JSON) are read from the
agent when they are asked for; an idle scraper costs nothing. Names follow Prometheus' conventions:
base units, `_total` for counters. `/status` is one agent's view of the cluster, for people and
scripts. One table, `FAMILIES`, names every metric, its type and its meaning; the operations guide
is checked against it. `/documents` and `/explain` show values, and are for operators alone.

*Doing.* An operator's write is the agent's own write: it takes the agent's next dot, is durable
when the order is answered, and gossips like any other. A cut is the agent's refusal to talk to a
peer, both ways; it lives in memory and ends with `heal` or with the process.

An agent hands itself to its handlers, so they name what they need of it as an interface
(`Administered`) instead of importing it: all that can be seen and done from outside stands there.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol

from crdt import CRDTError, explain, recollection
from replication.agent.vitals import BUCKETS_S
from replication.errors import ClosedError, OrderRefusedError, UnknownDocumentError
from replication.transport import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from crdt import Kernel, LWWRegister, ORSet, PNCounter, Recollection
    from replication.agent.vitals import Vitals
    from replication.agent.watch import ChangedDocument, Watch
    from replication.protocol import Difference, Member, Reached, Status
    from replication.version import Version

Sample = tuple[dict[str, str], float]

SHOWN_BYTES_MAX = 4096
"""The longest value that a line of changes shows, as JSON."""
VALUES_MAX = 1000
"""So many documents are told with their values in one answer."""
ORDER_TIMEOUT_S_MAX = 600.0
"""For so long an order may wait, and hold a connection; one that asks for more is refused."""
REDUNDANT = "redundant"
REFUSED = "refused:"
REFUSED_BY_PEER = "refused-by-peer:"


@dataclass(frozen=True, slots=True)
class MemberView:
    """A peer as an agent sees it: a snapshot, not the row that gossip works on.

    `heard_s` is seconds since its last frame; `journalled`: whether it keeps a journal.
    """

    id: str
    name: str
    address: str
    status: Status
    heard_s: float
    journalled: bool

    @classmethod
    def of(cls, member: Member, now_s: float) -> MemberView:
        """The view of a row at a moment."""
        heard_s = now_s - member.heard_s
        return cls(
            member.replica,
            member.name,
            member.address,
            member.status,
            heard_s,
            member.journalled,
        )


class Administered(Protocol):
    """What handlers need of an agent. Each member means what `Agent` says of it."""

    name: str

    # -- seeing

    @property
    def id(self) -> str:
        """The id that it writes under."""

    @property
    def address(self) -> str:
        """Where peers reach it."""

    @property
    def kernel(self) -> Kernel:
        """Its state."""

    @property
    def vitals(self) -> Vitals:
        """Its instruments."""

    @property
    def journalled(self) -> bool:
        """Whether it keeps a journal."""

    @property
    def read_only(self) -> bool:
        """Whether its journal fails."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames."""

    @property
    def bytes_received(self) -> int:
        """Bytes of frames."""

    def digest(self) -> bytes:
        """Equal where states are."""

    def members(self) -> list[MemberView]:
        """Peers that it knows."""

    def lag(self) -> dict[str, int]:
        """Member -> events that it is not known to have."""

    def behind(self) -> dict[str, tuple[int, float]]:
        """Origin -> events lacked here, and for how long."""

    def stands(self) -> dict[str, int]:
        """Member -> up to which of the agent's own events it has."""

    def bytes_by_kind(self) -> dict[tuple[str, str], int]:
        """(direction, kind of message) -> bytes."""

    def counts(self) -> dict[str, int]:
        """How often what happened."""

    def blocked(self) -> list[str]:
        """Peers that it is cut off from."""

    def quarantine(self) -> dict[str, str]:
        """Origins that are stopped, and why."""

    def differences(self) -> dict[str, Difference]:
        """Peers that heard the same and hold something else."""

    def watch(self, prefix: str) -> Watch:
        """Changes from now on."""

    # -- doing

    def counter(self, name: str) -> PNCounter:
        """A counter to write."""

    def register(self, name: str) -> LWWRegister:
        """A register to write."""

    def orset(self, name: str) -> ORSet:
        """A set to write."""

    def version(self) -> Version:
        """A token for what was written."""

    async def durable(self, token: Version, timeout_s: float) -> None:
        """Until it is on this disk."""

    async def replicated(self, token: Version, n: int, timeout_s: float) -> int:
        """Until it is on the disks of `n` others."""

    def reached(self, token: Version) -> Reached:
        """Where it is by now."""

    def block(self, peer: str) -> None:
        """Cut a peer off."""

    def unblock(self, peer: str) -> None:
        """End that."""

    def retire(self, peer: str) -> None:
        """Declare a member gone."""

    def skip(self, origin: str) -> None:
        """Give up an event in quarantine."""


def _never(replica: str, seq: int) -> None:
    """When it became durable here, where there is no journal."""


def _ends(known: Recollection | None) -> list[str]:
    """Where what is known of replaced values ends, for people."""
    if known is None:
        return ["replaced values are not kept here: replaced_bytes_max is 0"]
    notes = []
    if known.ran_out:
        notes.append(f"older values are forgotten here: {known.values_kept} kept")
    elif known.overflowed:
        kept = known.values_kept
        notes.append(f"older values, if there were any, are forgotten here: {kept} kept")
    if known.begins_late:
        notes.append(
            "what was replaced before this agent started, or was given a whole state, "
            "is not known here"
        )
    return notes


class AdminHandlers:
    """Answers the operators of one agent."""

    def __init__(self, agent: Administered) -> None:
        self._agent = agent

    @property
    def id(self) -> str:
        """Who answers; "" before the start."""
        with contextlib.suppress(ClosedError):
            return self._agent.id
        return ""

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Path -> what a GET of it shows."""
        agent = self._agent
        return {
            "/status": Endpoint("application/json", lambda _: json.dumps(status(agent))),
            "/metrics": Endpoint("text/plain", lambda _: exposition(agent)),
            "/documents": Endpoint("application/json", self._documents, private=True),
            "/explain": Endpoint("application/json", self._explain, private=True),
        }

    # ------------------------------------------------------------------------------ seeing

    def _documents(self, query: Mapping[str, str]) -> str:
        """{type: value} of the documents of a name; all names if none is asked for.

        With `values=all` the first `VALUES_MAX` of all, and the digest of the state they are of.
        """
        agent = self._agent
        documents = list(agent.kernel.documents())
        if query.get("values") == "all":
            values = [
                [name, kind.__name__, plain(agent.kernel.document(name, kind).value)]
                for name, kind in islice(documents, VALUES_MAX)
            ]
            return json.dumps(
                {"digest": agent.digest().hex(), "bytes": agent.bytes_sent, "documents": values}
            )
        if "name" not in query:
            return json.dumps(sorted({name for name, _ in documents}))
        found = {
            kind.__name__: plain(agent.kernel.document(name, kind).value)
            for name, kind in documents
            if name == query["name"]
        }
        if not found:
            raise UnknownDocumentError(f"there is no document {query['name']!r}")
        return json.dumps(found)

    def _explain(self, query: Mapping[str, str]) -> str:
        """Every known write of the documents of a name, its fate, and how far that goes back."""
        agent, name = self._agent, query.get("name", "")
        arrived_ms = agent.vitals.arrived_ms if agent.journalled else _never
        told = {
            "lines": [
                {
                    "type": line.type,
                    "place": line.place,
                    "value": plain(line.value),
                    "fate": line.fate,
                    "writer": line.dot.replica,
                    "seq": line.dot.seq,
                    "written_ms": line.written_ms,
                    "durable_here_ms": arrived_ms(line.dot.replica, line.dot.seq),
                    "by": f"{line.by.replica}:{line.by.seq}" if line.by else "",
                    "missing": line.missing and f"{line.missing} here",
                }
                for line in explain(agent.kernel, name)
            ],
            "notes": _ends(recollection(agent.kernel, name)),
        }
        return json.dumps(told)

    async def follow(self, prefix: str) -> AsyncIterator[Mapping[str, Any]]:
        """Changes from now on, as `Agent.watch` gives them."""
        async for event in self._agent.watch(prefix):
            for document in event.documents:
                yield {
                    "name": document.name,
                    "type": document.type.__name__,
                    "keys": sorted(map(str, document.keys or ())),
                    **self._shown(document),
                    "cause": event.cause,
                    "lagged": event.lagged,
                }

    def _shown(self, document: ChangedDocument) -> dict[str, Any]:
        """What a document reads now: all of it, or of a set or map what changed.

        A value of more than `SHOWN_BYTES_MAX` is left out, and that is said (`cut`).
        """
        whole: Any = self._agent.kernel.document(document.name, document.type).value
        if document.keys is None:
            value = plain(whole)
        elif isinstance(whole, dict):
            value = {str(key): plain(whole.get(key)) for key in document.keys}
        else:
            here, gone = document.keys & whole, document.keys - whole
            value = {"added": plain(here), "removed": plain(gone)}
        cut = len(json.dumps(value)) > SHOWN_BYTES_MAX
        return {"value": None if cut else value, "cut": cut}

    # ------------------------------------------------------------------------------ doing

    async def execute(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry out an order; what came of it.

        Raises:
            ReplicationError: it was refused, and nothing changed, or its time ran out (NotYetError:
                the write stands).
        """
        verb, agent = order.get("verb"), self._agent
        if verb in {"cut", "heal", "retire"}:
            peer = _text(order, "peer")
            {"cut": agent.block, "heal": agent.unblock, "retire": agent.retire}[verb](peer)
            return {"peer": peer}
        agent.kernel.admit()
        if agent.kernel.in_batch:
            raise OrderRefusedError("a batch is open here", hint="try again")
        timeout_s, copies = _timeout(order), _count(order, "copies")
        try:
            if verb == "skip":
                agent.skip(_text(order, "peer"))
            else:
                self._write(verb, _text(order, "name"), order.get("value"))
        except CRDTError as error:
            raise OrderRefusedError(str(error)) from error
        token = agent.version()
        if agent.journalled:
            await agent.durable(token, timeout_s)
        if copies:
            await agent.replicated(token, copies, timeout_s)
        reached = agent.reached(token)
        return {
            "writer": agent.id,
            "version": token.encode(),
            "durable": agent.journalled,
            "copies": {"on_disk": reached.on_disk, "in_memory": reached.in_memory},
        }

    def _write(self, verb: object, name: str, value: Any) -> None:
        agent = self._agent
        match verb:
            case "set":
                agent.register(name).set(value)
            case "add":
                agent.orset(name).add(_element(value))
            case "remove":
                agent.orset(name).remove(_element(value))
            case "inc":
                if type(value) is not int:
                    raise OrderRefusedError(f"{value!r} is not a whole number")
                agent.counter(name).increment(value)
            case _:
                raise OrderRefusedError(f"{verb!r} is not an order")


def plain(value: Any) -> Any:
    """A value of `crdt` as JSON can show it: sets sorted, bytes as hex, times as text.

    A mapping is an object if its keys are text, else a list of pairs, since 1 and "1" are two keys.
    What is not a number (`NaN`, `Infinity`, `-Infinity`) is text.
    """
    if isinstance(value, dict):
        pairs = [[plain(key), plain(item)] for key, item in value.items()]
        return dict(pairs) if all(isinstance(key, str) for key in value) else pairs
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _element(value: Any) -> Any:
    """A JSON value as an element of a set: lists become tuples."""
    return tuple(map(_element, value)) if isinstance(value, list) else value


def _text(order: Mapping[str, Any], field: str) -> str:
    value = order.get(field)
    if not isinstance(value, str) or not value:
        raise OrderRefusedError(f"the order lacks a {field}")
    return value


def _timeout(order: Mapping[str, Any]) -> float:
    value = order.get("timeout_s", 10.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise OrderRefusedError(f"timeout_s is a number of seconds, not {value!r}")
    if value > ORDER_TIMEOUT_S_MAX:
        raise OrderRefusedError(
            f"an order waits for at most {ORDER_TIMEOUT_S_MAX:g} s, not {value:g}",
            hint="nothing was written; ask for less, and look with `status` how far it came",
        )
    return value


def _count(order: Mapping[str, Any], field: str) -> int:
    value = order.get(field, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OrderRefusedError(f"{field} is a whole number of at least 0, not {value!r}")
    return value


# ------------------------------------------------------------------------------ status


def status(agent: Administered) -> dict[str, Any]:
    """One agent's view, as JSON-ready data. O(members + origins)."""
    lag, behind, vitals = agent.lag(), agent.behind(), agent.vitals
    return {
        "id": agent.id,
        "name": agent.name,
        "address": agent.address,
        "journalled": agent.journalled,
        "read_only": agent.read_only,
        "digest": "" if agent.kernel.in_batch else agent.digest().hex(),  # half of one is no state
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
                "journalled": member.journalled,
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
        "differing": {
            peer: {"blocks": found.blocks, "contradicted": list(found.contradicted)}
            for peer, found in agent.differences().items()
        },
    }


# ------------------------------------------------------------------------------ metrics


def exposition(agent: Administered) -> str:
    """The metrics of one agent in Prometheus' text format 0.0.4."""
    return "\n".join(_lines(agent)) + "\n"


def _lines(agent: Administered) -> Iterator[str]:
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


# -- samples


def _by(key: str, values: dict[str, float]) -> Iterator[Sample]:
    return (({key: name}, value) for name, value in sorted(values.items()))


def _one(value: float) -> Iterator[Sample]:
    yield {}, value


def _bytes(agent: Administered) -> Iterator[Sample]:
    for (direction, kind), size in sorted(agent.bytes_by_kind().items()):
        yield {"direction": direction, "kind": kind}, size


OTHERS = "other"


def _by_origin(agent: Administered, values: dict[str, float]) -> Iterator[Sample]:
    """The greatest value by origin, those of current members by name: others may be made up."""
    known = {member.id for member in agent.members()}
    folded: dict[str, float] = {}
    for origin, value in values.items():
        label = origin if origin in known else OTHERS
        folded[label] = max(value, folded.get(label, 0.0))
    return _by("origin", folded)


def _member_seconds(agent: Administered) -> dict[str, float]:
    stands = agent.stands()
    return {member: agent.vitals.lag_s(agent.id, seq) for member, seq in stands.items()}


def _rejections(agent: Administered) -> Iterator[Sample]:
    for kind, count in sorted(agent.counts().items()):
        for prefix, by in ((REFUSED, "here"), (REFUSED_BY_PEER, "peer")):
            if kind.startswith(prefix):
                yield {"by": by, "code": kind.removeprefix(prefix)}, count


def _events(agent: Administered) -> dict[str, float]:
    apart = (REDUNDANT, REFUSED, REFUSED_BY_PEER)
    return {k: float(n) for k, n in agent.counts().items() if not k.startswith(apart)}


def _members(agent: Administered) -> dict[str, float]:
    states = [member.status.name.lower() for member in agent.members()]
    return {state: float(states.count(state)) for state in states}


CONVERGENCE = (
    "From durable here until every member told that it is durable there, per commit of own writes."
)
Family = tuple[str, str, "Callable[[Administered], Iterator[Sample]]"]
FAMILIES: dict[str, Family] = {
    "lag_events": (
        "gauge",
        "Events that peers told of and this agent lacks, by origin; of former lives the most.",
        lambda a: _by_origin(a, {o: float(n) for o, (n, _) in a.behind().items()}),
    ),
    "lag_seconds": (
        "gauge",
        "Since when this agent lacks events of an origin that it was told of.",
        lambda a: _by_origin(a, {o: s for o, (_, s) in a.behind().items()}),
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
    "differing_peers": (
        "gauge",
        "Peers that heard the same and held something else when states were compared last.",
        lambda a: _one(len(a.differences())),
    ),
    "contradicted_dots": (
        "gauge",
        "Numbers of events that stand for one entry here and for another at a differing peer.",
        lambda a: _one(len({d for f in a.differences().values() for d in f.contradicted})),
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

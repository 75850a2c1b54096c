"""What an operator may see and do at a running agent; `transport.desk` carries it over HTTP.

Theory of operation. An operator's write is the agent's own write: it takes the agent's next dot,
is durable when the order is answered, and gossips like any other. A cut is the agent's refusal to
talk to a peer, both ways; it lives in memory and ends with `heal` or with the process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crdt import CRDTError, explain
from replication.agent.metrics import exposition, status
from replication.errors import OrderRefusedError
from replication.transport.desk import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from replication.agent.agent import Agent

TIMEOUT_S_MAX = 60.0


class Console:
    """The desk of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def pages(self) -> Mapping[str, Page]:
        """Path -> page."""
        agent = self._agent
        return {
            "/status": Page("application/json", lambda _: json.dumps(status(agent))),
            "/metrics": Page("text/plain", lambda _: exposition(agent)),
            "/documents": Page("application/json", self._documents, private=True),
            "/explain": Page("application/json", self._explain, private=True),
        }

    # ------------------------------------------------------------------------------ seeing

    def _documents(self, query: Mapping[str, str]) -> str:
        """{type: value} of the documents of a name; all names if none is asked for."""
        agent = self._agent
        documents = list(agent.kernel.documents())
        if "name" not in query:
            return json.dumps(sorted({name for name, _ in documents}))
        found = {
            kind.__name__: plain(agent.kernel.document(name, kind).value)
            for name, kind in documents
            if name == query["name"]
        }
        if not found:
            raise OrderRefusedError(
                f"there is no document {query['name']!r}", hint="`get` without a name lists them"
            )
        return json.dumps(found)

    def _explain(self, query: Mapping[str, str]) -> str:
        """Every known write of the documents of a name, and its fate."""
        agent = self._agent
        return json.dumps(
            [
                {
                    "type": line.type,
                    "place": line.place,
                    "value": plain(line.value),
                    "fate": line.fate,
                    "writer": line.dot.replica,
                    "seq": line.dot.seq,
                    "written_ms": line.written_ms,
                    "durable_here_ms": agent.vitals.arrived_ms(line.dot.replica, line.dot.seq),
                    "by": f"{line.by.replica}:{line.by.seq}" if line.by else "",
                }
                for line in explain(agent.kernel, query.get("name", ""))
            ]
        )

    async def follow(self, prefix: str) -> AsyncIterator[Mapping[str, Any]]:
        """Changes from now on, as `Agent.watch` gives them."""
        async for event in self._agent.watch(prefix):
            for document in event.documents:
                yield {
                    "name": document.name,
                    "type": document.type.__name__,
                    "keys": sorted(map(str, document.keys or ())),
                    "cause": event.cause,
                    "lagged": event.lagged,
                }

    # ------------------------------------------------------------------------------ doing

    async def obey(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
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
        if agent.kernel.in_batch:
            raise OrderRefusedError("a batch is open here", hint="try again")
        try:
            if verb == "skip":
                agent.skip(_text(order, "peer"))
            else:
                self._write(verb, _text(order, "name"), order.get("value"))
        except CRDTError as error:
            raise OrderRefusedError(str(error)) from error
        token = agent.version()
        timeout_s = min(_number(order, "timeout_s", 10.0), TIMEOUT_S_MAX)
        copies = int(_number(order, "copies", 0))
        await agent.durable(token, timeout_s)
        if copies:
            await agent.replicated(token, copies, timeout_s)
        return {"writer": agent.id, "version": token.encode()}

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
                    raise OrderRefusedError(f"{value!r} is no whole number")
                agent.counter(name).increment(value)
            case _:
                raise OrderRefusedError(f"{verb!r} is no order")


def plain(value: Any) -> Any:
    """A value of `crdt` as JSON can show it: sets sorted, bytes as hex, times as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _element(value: Any) -> Any:
    """A JSON value as an element of a set: lists become tuples."""
    return tuple(map(_element, value)) if isinstance(value, list) else value


def _text(order: Mapping[str, Any], field: str) -> str:
    value = order.get(field)
    if not isinstance(value, str) or not value:
        raise OrderRefusedError(f"the order lacks a {field}")
    return value


def _number(order: Mapping[str, Any], field: str, default: float) -> float:
    value = order.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise OrderRefusedError(f"{field} is a number of at least 0")
    return value

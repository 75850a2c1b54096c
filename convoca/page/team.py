"""A team as one of its agents sees it.

Theory of operation. The agent knows its own state, whom it hears and whom it cut off. What the
others hold it does not know, and gossip does not tell: two replicas compare what they lack, not
what they have. So those that live are asked as an operator asks them, with this agent's secret.
Whoever does not answer, or may not (off this machine values travel by TLS only), is shown without a
state, never with a guessed one.

What may be ordered is what the agent itself can do: write, cut itself off from the others, and end
that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from convoca.page.picture import Link, Picture, Refused, Replica, text_of
from replication import ReplicationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replication import Agent, MemberView

ASK_S = 1.0
"""How long an agent may take that is asked; one picture waits so long at most."""
ASKED_MAX = 30
"""So many members are asked for their state; of more only the status is shown."""
REMARKS_MAX = 200
BURST_WRITES = 20
BURST = "page/burst"
"""The counter that a burst of writes increments."""


class TeamReplicas:
    """Pictures of a team, by one agent that runs."""

    orders = ("burst", "partition", "heal")

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._statuses: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._used: dict[str, int] = {}
        self._remarks: deque[tuple[float, str]] = deque(maxlen=REMARKS_MAX)

    async def look(self) -> Picture:
        """The agent itself, then its current members in the order of their names."""
        agent, now_s = self._agent, time.monotonic()
        members = sorted(agent.members(), key=lambda m: (m.name, m.id))
        members = [member for member in members if member.status.name != "RETIRED"]
        lag = agent.lag()
        asked = [member for member in members if member.status.name == "ALIVE"][:ASKED_MAX]
        told = await asyncio.gather(
            self._ask(agent.address), *(self._ask(m.address) for m in asked)
        )
        states = dict(zip((agent.id, *(m.id for m in asked)), told, strict=True))
        own = Replica(
            agent.name,
            "alive",
            **_state(states[agent.id]),
            id=agent.id,
            address=agent.address,
            journalled=agent.journalled,
        )
        self._note(members)
        names = _names(agent.name, members)
        others = [
            Replica(
                names[member.id],
                member.status.name.lower(),
                **_state(states.get(member.id)),
                id=member.id,
                address=member.address,
                heard_s=member.heard_s,
                lag=lag.get(member.id),
                journalled=member.journalled,
            )
            for member in members
        ]
        blocked = set(agent.blocked())
        links = [self._link(member, names[member.id], blocked, now_s) for member in members]
        types = {name: kind for state in told if state for name, kind, _ in state["documents"]}
        return Picture([own, *others], links, types, tuple(self._remarks))

    async def _ask(self, address: str) -> Any:
        """What an agent holds, None if it does not say."""
        if not address:
            return None
        try:
            client = self._agent.operator(address, ASK_S)
            return json.loads(await client.get("/documents", values="all"))
        except (ReplicationError, ValueError):
            return None

    def _link(self, member: MemberView, name: str, blocked: set[str], now_s: float) -> Link:
        heard_at_s = now_s - member.heard_s
        if heard_at_s > self._heard.get(member.id, heard_at_s) + 0.01:
            self._used[member.id] = self._used.get(member.id, 0) + 1
        self._heard[member.id] = heard_at_s
        cut = bool(blocked & {member.id, member.name, member.address})
        used = self._used.get(member.id, 0)
        return Link(self._agent.name, name, "cut" if cut else "open", used)

    def _note(self, members: Sequence[MemberView]) -> None:
        statuses = {member.id: member.status.name.lower() for member in members}
        for member in members:
            status = statuses[member.id]
            if status != self._statuses.get(member.id):
                self._remark(f"{member.name} is {status}")
        self._statuses = statuses

    def _remark(self, text: str) -> None:
        self._remarks.append((time.time(), text))

    async def explain(self, replica: str, name: str) -> Sequence[Mapping[str, Any]]:
        """As that agent tells it.

        Raises:
            Refused: no member is called so, or it does not say.
        """
        agent = self._agent
        names = _names(agent.name, agent.members())
        addresses = {names[member.id]: member.address for member in agent.members()}
        address = agent.address if replica == agent.name else addresses.get(replica)
        if not address:
            raise Refused(f"no member is called {replica!r}")
        try:
            client = agent.operator(address, ASK_S)
            told = json.loads(await client.get("/explain", name=name))
        except (ReplicationError, ValueError) as error:
            raise Refused(f"{replica} does not say: {error}") from error
        lines = [{**line, "value": text_of(line["value"])} for line in told["lines"]]
        return [*lines, *({"fate": "", "missing": note} for note in told["notes"] if lines)]

    async def execute(self, verb: str) -> str:
        """Write, cut this agent off, or end that.

        Raises:
            Refused: it cannot be done now.
        """
        agent = self._agent
        try:
            if verb == "burst":
                for _ in range(BURST_WRITES):
                    agent.counter(BURST).increment()
                text = f"{agent.name} wrote {BURST_WRITES} times to {BURST}"
            elif verb == "partition":
                peers = [m.id for m in agent.members() if m.status.name in {"ALIVE", "SUSPECT"}]
                if not peers:
                    raise Refused("nobody else is there to be cut off from")
                for peer in peers:
                    agent.block(peer)
                text = f"{agent.name} is cut off from {len(peers)} others"
            elif verb == "heal":
                for peer in agent.blocked():
                    agent.unblock(peer)
                text = f"{agent.name} is cut off from nobody"
            else:
                raise Refused(f"{verb!r} is not an order that an agent can carry out")
        except ReplicationError as error:
            raise Refused(str(error)) from error
        self._remark(text)
        return text


def _names(own: str, members: Sequence[MemberView]) -> dict[str, str]:
    """Id -> what a member is called; one of several namesakes by its id."""
    counts = [own, *(member.name for member in members)]
    return {
        member.id: member.name if counts.count(member.name) == 1 else member.id
        for member in members
    }


def _state(told: Any) -> dict[str, Any]:
    """Digest, values and bytes of an answer; nothing of none."""
    if told is None:
        return {}
    values = {name: text_of(value) for name, _, value in told["documents"]}
    return {"digest": told["digest"], "values": values, "bytes_sent": told["bytes"]}

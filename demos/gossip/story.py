"""Directs a run: carries the script out, looks at everybody all the time, measures each heal.

A heal (or a return) is over when everybody who runs has all that anybody had in that moment; the
nodes write on meanwhile. What else they write is compared in the end, when nobody does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from demos.gossip.script import Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from demos.gossip.cluster import Cluster, Look
    from demos.gossip.load import Ledger

EQUAL_S_MAX = 30.0


@dataclass(slots=True)
class Heal:
    """One heal: when, what everybody has to have, and how long that took."""

    at_s: float
    what: str
    wanted: dict[str, int]
    took_s: float | None = None
    cut_again: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """The cluster at one moment, for the curve."""

    at_s: float
    states: int
    diverged: int
    bytes_sent: int


@dataclass(slots=True)
class Outcome:
    """What the director saw."""

    ledger: Ledger
    interval_s: float
    names: Sequence[str]
    curve: list[Moment] = field(default_factory=list)
    heals: list[Heal] = field(default_factory=list)
    remarks: list[tuple[float, str]] = field(default_factory=list)
    looks: dict[str, Look] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    equal_s: float | None = None
    """From the last write until all were equal."""
    sent_before: int = 0
    """Bytes and deltas of lives that were killed."""
    deltas_before: int = 0


def diverged(looks: dict[str, Look]) -> list[str]:
    """The keys whose values differ between nodes."""
    keys = next(iter(looks.values())).values if looks else {}
    return [key for key in keys if len({look.values[key] for look in looks.values()}) > 1]


class Story:
    """One run. `changed` is called after each look and remark; `hands` gives steps of a person."""

    def __init__(
        self,
        cluster: Cluster,
        changed: Callable[[Outcome, str], None],
        hands: Callable[[float], Step | None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._changed = changed
        self._hands = hands
        self.down: set[str] = set()
        self.cut = False
        self.outcome = Outcome(cluster.ledger, cluster.interval_s, cluster.names)

    def _remark(self, text: str) -> None:
        self.outcome.remarks.append((self._cluster.now_s, text))
        self._changed(self.outcome, text)

    async def play(self, script: Sequence[Step]) -> Outcome:
        """From the first process to the last look; the caller closes the cluster."""
        await self._cluster.open()
        await self._cluster.go()
        self._remark(f"{len(self._cluster.names)} nodes have met and write")
        left = list(script)
        while True:
            step = self._hands(self._cluster.now_s)
            if step is None and left and self._cluster.now_s >= left[0].at_s:
                step = left.pop(0)
            if step is not None and step.verb == "end":
                break
            if step is not None:
                await self._do(step)
            await self._look()
            next_s = left[0].at_s - self._cluster.now_s if left else self._cluster.look_every_s
            await self._cluster.wait(max(0.01, min(self._cluster.look_every_s, next_s)))
        await self._end()
        return self.outcome

    async def _do(self, step: Step) -> None:
        before = self.outcome.looks
        await self._cluster.do(step)
        if step.verb in {"partition", "kill"}:
            for heal in self.outcome.heals:
                heal.cut_again |= heal.took_s is None
        if step.verb == "partition":
            self.cut = True
        if step.verb == "kill":
            (name,) = step.groups[0]
            self.down.add(name)
            if name in before:
                self.outcome.sent_before += before[name].bytes_sent
                self.outcome.deltas_before += before[name].deltas
        self._remark(str(step))
        if step.verb == "return":
            self.down.discard(step.groups[0][0])
        if step.verb == "return" or (step.verb == "heal" and self.cut):
            await self._begin_heal(str(step))
        if step.verb == "heal":
            self.cut = False

    async def _begin_heal(self, what: str) -> None:
        began_s = self._cluster.now_s
        wanted: Counter[str] = Counter()
        for look in (await self._cluster.look()).values():
            wanted |= Counter(look.vector)
        self.outcome.heals.append(Heal(began_s, what, dict(wanted)))

    async def _look(self) -> None:
        looks = self.outcome.looks = await self._cluster.look()
        now_s = self._cluster.now_s
        sent = sum(look.bytes_sent for look in looks.values()) + self.outcome.sent_before
        states = len({look.digest for look in looks.values()})
        self.outcome.curve.append(Moment(now_s, states, len(diverged(looks)), sent))
        for heal in self.outcome.heals:
            if heal.took_s is None and not heal.cut_again and reached(heal.wanted, looks):
                heal.took_s = now_s - heal.at_s
                rounds = heal.took_s / self.outcome.interval_s
                self._remark(f"everybody has it: {heal.took_s:.1f} s, {rounds:.1f} rounds")
        self._changed(self.outcome, "")

    async def _end(self) -> None:
        """End every trouble, let nobody write, and wait until all are equal."""
        if self.cut:
            await self._do(Step(self._cluster.now_s, "heal"))
        for name in sorted(self.down):
            await self._do(Step(self._cluster.now_s, "return", ((name,),)))
        await self._cluster.finish()
        ended_s = self._cluster.now_s
        self._remark("nobody writes any more")
        while self._cluster.now_s - ended_s < EQUAL_S_MAX:
            await self._look()
            settled = all(h.took_s is not None or h.cut_again for h in self.outcome.heals)
            if self.outcome.curve[-1].states == 1 and settled and self._met():
                self.outcome.equal_s = self._cluster.now_s - ended_s
                break
            await self._cluster.wait(self._cluster.look_every_s)
        self.outcome.values = await self._cluster.values()

    def _met(self) -> bool:
        others = len(self._cluster.names) - 1
        return all(look.members == others for look in self.outcome.looks.values())


def reached(wanted: dict[str, int], looks: dict[str, Look]) -> bool:
    """Whether every node has all of it."""
    return all(
        look.vector.get(origin, 0) >= seq
        for look in looks.values()
        for origin, seq in wanted.items()
    )


async def while_open(cluster: Cluster, work: Awaitable[Any]) -> Any:
    """Do the work; whatever happens, no process is left behind."""
    try:
        return await work
    finally:
        await asyncio.shield(cluster.close())

"""A cluster of real processes: one agent each, over loopback, through proxies that cut.

A node that was killed returns on another port and another address: the others learn it from the
node itself.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from demos.gossip.cluster import Look
from demos.gossip.load import Ledger
from demos.gossip.network import Network
from demos.stage import Actor, StageError, Told, free_addresses
from replication import Config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from demos.gossip.script import Step

READY_S_MAX = 30.0
ANSWER_S_MAX = 30.0
LOOK_EVERY_S = 0.25
PORTS_MAX = 5
"""Tries to find a port that nobody takes in the moment between the choice and the start."""


class Processes:
    """Real nodes. `drop` is the number of a write of the first node that it leaves out."""

    def __init__(
        self,
        names: Sequence[str],
        seed: int,
        folder: Path,
        pause_s: float,
        drop: int = 0,
        *,
        store: str = "",
    ) -> None:
        self.names = names
        self.ledger = Ledger(seed)
        self.interval_s, self.look_every_s = Config().gossip_interval_s, LOOK_EVERY_S
        self._options = (seed, folder, pause_s, drop)
        self._store = store
        self._actors = {name: Actor(name, self._heard) for name in names}
        self.network = Network()
        self._addresses: dict[str, str] = {}
        self._lives = dict.fromkeys(names, 0)
        self._writing = False
        self._began_s = time.monotonic()

    def _heard(self, name: str, told: Told) -> None:
        if told["tell"] in {"wrote", "acked"}:
            place = (name, int(told["life"]), int(told["number"]))
            self.ledger.note(place, acked=told["tell"] == "acked")

    @property
    def now_s(self) -> float:
        """Seconds since the nodes began to write."""
        return time.monotonic() - self._began_s

    def up(self) -> list[str]:
        """Who runs.

        Raises:
            StageError: one ended although nobody killed it.
        """
        for actor in self._actors.values():
            if actor.failure:
                raise StageError(actor.failure)
        return [name for name, actor in self._actors.items() if actor.running]

    async def open(self) -> None:
        """Start all nodes, each with the addresses of the others, and wait until they have met."""
        for name in self.names:
            self._addresses[name] = await self.network.address(name)
        await asyncio.gather(*(self._start(name) for name in self.names))
        deadline_s = time.monotonic() + READY_S_MAX
        while any(seen.members < len(self.names) - 1 for seen in (await self.look()).values()):
            if time.monotonic() > deadline_s:
                raise StageError(f"the nodes did not meet in {READY_S_MAX:g} s")
            await asyncio.sleep(0.1)

    async def _start(self, name: str) -> None:
        seed, folder, pause_s, drop = self._options
        self._lives[name] += 1
        actor = self._actors[name]
        for attempt in range(PORTS_MAX):
            (listen,) = free_addresses(1)
            port = int(listen.rpartition(":")[2])
            self.network.behind(name, port)
            await actor.start(
                "demos.gossip.worker",
                *("--name", name, "--life", str(self._lives[name]), "--port", str(port)),
                *("--address", self._addresses[name]),
                *("--peers", *(a for other, a in self._addresses.items() if other != name)),
                *("--journal", str(folder / f"{name}.db"), "--seed", str(seed)),
                *("--pause-s", str(pause_s)),
                *("--drop", str(drop if name == self.names[0] else 0), "--store", self._store),
            )
            try:
                await actor.hear("ready", timeout_s=READY_S_MAX)
            except StageError as error:
                if "port is busy" not in str(error) or attempt + 1 == PORTS_MAX:
                    raise
            else:
                break
        if self._writing:
            actor.say("go")

    async def go(self) -> None:
        """All begin to write."""
        self._began_s, self._writing = time.monotonic(), True
        for actor in self._actors.values():
            actor.say("go")

    async def do(self, step: Step) -> None:
        """Cut, slow, heal, kill or bring back."""
        match step.verb:
            case "partition":
                pairs = [
                    (one, far)
                    for number, side in enumerate(step.groups)
                    for other in step.groups[number + 1 :]
                    for one in side
                    for far in other
                ]
                for one, far in pairs:
                    self.network.cut(one, far)
            case "slow":
                for one in step.groups[0]:
                    for far in step.groups[1]:
                        self.network.slow(one, far, step.delay_s)
            case "heal":
                self.network.heal()
            case "kill":
                await self._actors[step.groups[0][0]].kill()
            case "return":
                (name,) = step.groups[0]
                self._addresses[name] = await self.network.address(name)
                await self._start(name)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(max(0.0, seconds))

    async def look(self) -> dict[str, Look]:
        """Every node that runs."""
        return {
            name: Look(**{field: told[field] for field in Look.__slots__})
            for name, told in (await self._ask_all("look")).items()
        }

    async def ask(self, node: str, do: str, **fields: Any) -> Told:
        """Ask one node something; StageError if it does not run."""
        return await self._actors[node].ask(do, timeout_s=ANSWER_S_MAX, **fields)

    def burst(self, writes: int) -> None:
        """Everybody who runs makes so many writes at once."""
        for name in self.up():
            self._actors[name].say("burst", writes=writes)

    async def finish(self) -> None:
        """Nobody writes any more."""
        self._writing = False
        await self._ask_all("finish")

    async def values(self) -> dict[str, dict[str, Any]]:
        """Every key of every node, whole."""
        return {name: told["values"] for name, told in (await self._ask_all("values")).items()}

    async def _ask_all(self, do: str) -> dict[str, Told]:
        names = self.up()
        asked = (self._actors[name].ask(do, timeout_s=ANSWER_S_MAX) for name in names)
        return dict(zip(names, await asyncio.gather(*asked), strict=True))

    async def close(self) -> None:
        """End every process, then the network."""
        await asyncio.gather(*(actor.kill() for actor in self._actors.values()))
        await self.network.close()

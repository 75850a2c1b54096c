"""The same cluster in one thread and on virtual time: hundreds of nodes, the same script."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from demos.gossip import load
from demos.gossip.cluster import Look
from demos.gossip.load import Ledger
from replication import Faults, Simulation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demos.gossip.script import Step

LAN = Faults(delay_s=(0.0005, 0.005), disk_s=(0.001, 0.01))
MEET_S_MAX = 120.0
LOOK_EVERY_S, FEW = 0.25, 50
STEP_S = 0.05
"""Between two looks at whose write is due, and what has become durable."""


class Simulated:
    """Simulated nodes; a write counts as acknowledged once its disk has it."""

    def __init__(self, names: Sequence[str], seed: int, pause_s: float, drop: int = 0) -> None:
        self.names = names
        self.ledger = Ledger(seed)
        self._sim = Simulation(names, seed, LAN)
        self.interval_s = self._sim.config.gossip_interval_s
        self.look_every_s = LOOK_EVERY_S if len(names) <= FEW else 2 * LOOK_EVERY_S
        self._seed, self._pause_s, self._drop = seed, pause_s, drop
        self._dice = random.Random(f"load {seed}")
        self._address = {name: name for name in names}
        self._life = dict.fromkeys(names, 1)
        self._number = dict.fromkeys(names, 0)
        self._due_s: dict[str, float] = {}
        self._unacked: dict[str, list[tuple[load.Place, str, int]]] = {n: [] for n in names}
        self._began_s = 0.0

    @property
    def now_s(self) -> float:
        """Virtual seconds since the nodes began to write."""
        return self._sim.now_s - self._began_s

    def up(self) -> list[str]:
        """Who runs."""
        running = set(self._sim.up())
        return [name for name in self.names if self._address[name] in running]

    async def open(self) -> None:
        """Wait until all have met."""
        others = len(self.names) - 1
        while self._sim.now_s < MEET_S_MAX and any(
            len(self._sim.replica(name).members.live()) < others for name in self.names
        ):
            self._sim.run(1.0)

    async def go(self) -> None:
        """All begin to write, each at its own moment."""
        self._began_s = self._sim.now_s
        self._due_s = {name: self._dice.random() * self._pause_s for name in self.names}

    async def do(self, step: Step) -> None:
        """Cut, slow, heal, kill or bring back."""
        at = self._address
        match step.verb:
            case "partition":
                self._sim.partition(*([at[name] for name in side] for side in step.groups))
            case "slow":
                for one in step.groups[0]:
                    for far in step.groups[1]:
                        self._sim.slow(at[one], at[far], step.delay_s)
            case "heal":
                self._sim.heal()
            case "kill":
                (name,) = step.groups[0]
                self._note_acks(name)
                self._unacked[name] = []
                self._sim.crash(at[name])
            case "return":
                (name,) = step.groups[0]
                journal = self._sim.agents[at[name]].journal
                self._life[name] += 1
                self._number[name] = 0
                at[name] = f"{name}:{self._life[name]}"
                self._sim.add(at[name], journal, name=name)
                self._due_s[name] = self.now_s

    async def wait(self, seconds: float) -> None:
        """Let virtual time pass, with its writes."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self._sim.run(min(STEP_S, end_s - self.now_s))
            for name in self.up():
                self._note_acks(name)
                if name in self._due_s and self.now_s >= self._due_s[name]:
                    self._write(name)
                    self._due_s[name] += self._pause_s

    def _write(self, name: str) -> None:
        kernel = self._sim[self._address[name]]
        self._number[name] += 1
        place = (name, self._life[name], self._number[name])
        self.ledger.note(place, acked=False)
        if name != self.names[0] or self._number[name] != self._drop:
            with kernel.batch():
                load.carry_out(load.write(self._seed, place), kernel.document)
        seq = kernel.vector.get(kernel.replica, 0)
        self._unacked[name].append((place, kernel.replica, seq))

    def _note_acks(self, name: str) -> None:
        durable = self._sim.replica(self._address[name]).durable
        left = []
        for place, replica, seq in self._unacked[name]:
            if durable.get(replica, 0) >= seq:
                self.ledger.note(place, acked=True)
            else:
                left.append((place, replica, seq))
        self._unacked[name] = left

    async def look(self) -> dict[str, Look]:
        """Every node that runs; equal vectors are equal states, which the last look checks."""
        return {name: self._look(name) for name in self.up()}

    def _look(self, name: str) -> Look:
        replica = self._sim.replica(self._address[name])
        vector = dict(replica.kernel.vector)
        return Look(
            digest=f"{hash(frozenset(vector.items())) & (1 << 64) - 1:016x}"
            if self._due_s
            else replica.kernel.digest().hex(),
            vector=vector,
            values=load.shown(load.values(replica.kernel.document)),
            members=len(replica.members.live()),
            bytes_sent=sum(
                count
                for (way, _), count in replica.exchanges.wire.bytes_by_kind.items()
                if way == "sent"
            ),
            deltas=sum(n for kind, n in replica.counts.items() if kind.startswith("delta:")),
            state_bytes=0 if self._due_s else len(replica.kernel.to_bytes()),
        )

    async def finish(self) -> None:
        """Nobody writes any more."""
        self._due_s = {}
        self._sim.run(0.1)
        for name in self.up():
            self._note_acks(name)

    async def values(self) -> dict[str, dict[str, Any]]:
        """Every key of every node, whole."""
        return {name: load.values(self._sim[self._address[name]].document) for name in self.up()}

    async def close(self) -> None:
        """Nothing is left to end."""

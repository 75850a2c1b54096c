"""What tests of simulated clusters share: five names, a set to write to, and a poisonous event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdt import CRDTError, Delta, Kernel, ORSet
from replication.protocol.policy import agent_of

if TYPE_CHECKING:
    from crdt import Change
    from replication import Simulation

FIVE = ["ada", "bob", "cyd", "dan", "eve"]


def add(sim: Simulation, name: str, element: object) -> None:
    sim[name].document("set", ORSet).add(element)


def elements(sim: Simulation, name: str) -> set:
    return set(sim[name].document("set", ORSet))


def met(sim: Simulation) -> Simulation:
    """The cluster after everybody knows everybody."""
    sim.run(10)
    assert all(len(sim.replica(name).members.live()) == len(sim.up()) - 1 for name in sim.up())
    return sim


def poison(monkeypatch, names: set[str], origin: str, *seqs: int) -> None:
    """Agents of these names cannot apply what these events say."""
    sound = Kernel.apply

    def apply(self: Kernel, delta: Delta) -> Change:
        told = {row[0] for run in delta.runs if run.origin == origin for row in run.rows}
        if agent_of(self.replica) in names and not told.isdisjoint(seqs):
            raise CRDTError("cannot be joined")
        return sound(self, delta)

    monkeypatch.setattr(Kernel, "apply", apply)

"""What a cluster should show, computed from visibility alone: no merge code, no shared bugs.

Every operation is noted with its dot and with the vector its writer had seen. An add counts unless
a later operation on the element saw it (a removal ends it, another add stands in for it - vectors
are not causally closed, so a removal may have seen the second add and not the first); increments
all count; a register shows one of the writes that no other write saw. Operations that a crash took
before they were durable are struck out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crdt import LWWRegister, ORSet, PNCounter

if TYPE_CHECKING:
    from replication import Simulation


@dataclass(frozen=True)
class Noted:
    """One operation: its dot, what its writer had seen, and what it did."""

    origin: str
    seq: int
    saw: dict[str, int]
    kind: str
    value: Any

    def seen_by(self, other: Noted) -> bool:
        return other is not self and other.saw.get(self.origin, 0) >= self.seq


@dataclass
class Oracle:
    """Performs operations on a simulation and remembers them."""

    sim: Simulation
    noted: list[Noted] = field(default_factory=list)

    def perform(self, name: str, kind: str, value: Any) -> None:
        kernel = self.sim[name]
        saw = dict(kernel.vector)
        match kind:
            case "add":
                kernel.document("set", ORSet).add(value)
            case "remove":
                kernel.document("set", ORSet).remove(value)
            case "increment":
                kernel.document("counter", PNCounter).increment(value)
            case "set":
                kernel.document("register", LWWRegister).set(value)
        seq = kernel.vector.get(kernel.replica, 0)
        if seq > saw.get(kernel.replica, 0):
            self.noted.append(Noted(kernel.replica, seq, saw, kind, value))

    def crash(self, name: str) -> None:
        """Crash a replica, and strike out what its disk did not have yet."""
        replica = self.sim.replica(name).id
        self.sim.crash(name)
        durable = self.sim.acknowledged.get(replica, 0)
        self.noted = [n for n in self.noted if n.origin != replica or n.seq <= durable]

    def check(self, name: str) -> None:
        """Assert that a replica shows what visibility implies."""
        kernel = self.sim[name]
        touches = [n for n in self.noted if n.kind in {"add", "remove"}]
        shown = {
            add.value
            for add in touches
            if add.kind == "add"
            and not any(add.value == other.value and add.seen_by(other) for other in touches)
        }
        assert set(kernel.document("set", ORSet)) == shown
        total = sum(n.value for n in self.noted if n.kind == "increment")
        assert kernel.document("counter", PNCounter).value == total
        writes = [n for n in self.noted if n.kind == "set"]
        last = {w.value for w in writes if not any(w.seen_by(o) for o in writes)}
        if last:
            assert kernel.document("register", LWWRegister).value in last

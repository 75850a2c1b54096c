"""What the director needs of a cluster, be it of processes or simulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demos.gossip.load import Ledger
    from demos.gossip.script import Step


@dataclass(frozen=True, slots=True)
class Look:
    """One node at one moment: its state by digest, vector and keys, and what it sent so far."""

    digest: str
    vector: dict[str, int]
    values: dict[str, str]
    members: int
    bytes_sent: int
    deltas: int
    state_bytes: int


class Cluster(Protocol):
    """Nodes that write, on a network that the director cuts."""

    names: Sequence[str]
    ledger: Ledger
    """Told of every write and acknowledgement."""
    interval_s: float
    """Of gossip."""
    look_every_s: float

    @property
    def now_s(self) -> float:
        """Seconds since the nodes began to write, real or virtual."""

    def up(self) -> list[str]:
        """Who runs."""

    async def open(self) -> None:
        """Start all nodes; they know each other when this returns."""

    async def go(self) -> None:
        """All begin to write."""

    async def do(self, step: Step) -> None:
        """Cut, slow, heal, kill or bring back."""

    async def wait(self, seconds: float) -> None:
        """Let time pass."""

    async def look(self) -> dict[str, Look]:
        """Every node that runs, at about this moment."""

    async def finish(self) -> None:
        """Nobody writes any more, and all that was written is durable."""

    async def values(self) -> dict[str, dict[str, Any]]:
        """Every key of every node, whole."""

    async def close(self) -> None:
        """End everything; a second call does nothing."""

"""Somebody who knows the secret of a simulated cluster and follows no protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication import Config, Simulation
from replication.protocol.keyring import Keyring
from replication.protocol.wire import Wire

if TYPE_CHECKING:
    from replication.protocol.effects import Send
    from replication.protocol.messages import Message

SECRET = b"simulated secret"


class Stranger:
    """Somebody who knows the secret and follows no protocol."""

    def __init__(self, sim: Simulation, name: str = "mal~0000000000000000") -> None:
        self.sim, self.name = sim, name
        self.wire = Wire(
            cluster="simulated", namespace="default", keys=Keyring((SECRET,)),
            boot=sim.dice.randbytes(8),
            config=Config(), rules=sim.rules.digest,
        )  # fmt: skip

    def ask(self, target: str, message: Message) -> Message:
        """One request; the answer, after the target's whole step."""
        replica = self.sim.replica(target)
        frame = self.wire.seal(self.name, message)
        sends: tuple[Send, ...] = replica.receive(frame, self.sim.now_s, 10**6).send
        replica.check()
        (answer,) = [send for send in sends if not send.address]
        return self.wire.open(answer.frame).message

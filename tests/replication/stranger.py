"""Somebody who knows a key, of a simulated cluster or of a live agent, and follows no protocol."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import aiohttp

from replication import Config, Simulation
from replication.protocol.freshness import NOBODY
from replication.protocol.keyring import Keyring
from replication.protocol.messages import Probe
from replication.protocol.wire import Wire
from replication.transport.http import MEDIA_TYPE

if TYPE_CHECKING:
    from replication.protocol.effects import Send
    from replication.protocol.messages import Message

SECRET = b"simulated secret"
BOOTS = count(1000)
"""The later a stranger is made, the later is its boot."""


class Stranger:
    """Somebody who knows the secret and follows no protocol."""

    def __init__(self, sim: Simulation, name: str = "mal~0000000000000000") -> None:
        self.sim, self.name = sim, name
        self._challenges: dict[str, bytes] = {}
        self.wire = Wire(
            cluster="simulated", namespace="default", keys=Keyring((SECRET,)),
            boot=next(BOOTS).to_bytes(4, "big") + sim.dice.randbytes(4),
            config=Config(), rules=sim.rules.digest,
        )  # fmt: skip

    def ask(self, target: str, message: Message) -> Message:
        """One request; the answer, after the target's whole step."""
        if target not in self._challenges:
            self._said(target, Probe(), NOBODY)  # a knock
        return self._said(target, message, self._challenges[target])

    def _said(self, target: str, message: Message, challenge: bytes) -> Message:
        replica = self.sim.replica(target)
        frame = self.wire.seal(self.name, message, challenge=challenge)
        sends: tuple[Send, ...] = replica.receive(frame, self.sim.now_s, 10**6).send
        replica.check()
        (answer,) = [send for send in sends if not send.address]
        opened = self.wire.open(answer.frame)
        self._challenges[target] = opened.asker.challenge
        return opened.message


async def posted(address: str, frame: bytes) -> tuple[int, bytes]:
    """A frame by hand: the status and the body of its answer."""
    async with aiohttp.ClientSession() as session:
        url, headers = f"http://{address}/_replica", {"Content-Type": MEDIA_TYPE}
        async with session.post(url, data=frame, headers=headers) as answer:
            return answer.status, await answer.read()


async def challenge_of(address: str, wire: Wire, replica: str) -> bytes:
    """What a live agent tells whoever knocks: what frames for it have to name."""
    _, answer = await posted(address, wire.seal(replica, Probe()))
    return wire.open(answer).asker.challenge

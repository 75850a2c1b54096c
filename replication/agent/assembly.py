"""Puts a replica together from what a journal held; for the agent and the simulation alike.

Theory of operation. The two shells differ in where time, dice and bytes come from, and in nothing
else: they build the very same machine here, so what the simulation shows holds for the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication.protocol.replica import Replica
from replication.protocol.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replication.config import Config
    from replication.journal.base import Booted
    from replication.protocol.keyring import Keyring
    from replication.protocol.membership import Dice
    from replication.protocol.policy import AccessPolicy

BOOTS_PER_INCARNATION = 1 << 16
"""SWIM incarnations that one boot may use up by refuting suspicions."""


def assemble(
    booted: Booted,
    *,
    cluster: str,
    namespace: str,
    keys: Keyring,
    boot: bytes,
    config: Config,
    dice: Dice,
    address: str,
    now_s: float,
    seeds: Iterable[str],
    hubs: Iterable[str] = (),
    rules: AccessPolicy,
) -> Replica:
    """The machine of one boot; `boot` are 8 random bytes that no other boot uses."""
    wire = Wire(
        cluster=cluster,
        namespace=namespace,
        keys=keys,
        boot=boot,
        config=config,
        rules=rules.digest,
    )
    booted.kernel.batch_bytes_max = config.batch_bytes_max  # of single writes, too
    return Replica(
        booted.kernel,
        wire=wire,
        config=config,
        dice=dice,
        address=address,
        incarnation=booted.recovered.boots * BOOTS_PER_INCARNATION,
        now_s=now_s,
        seeds=seeds,
        hubs=hubs,
        policy=rules,
        book=booted.recovered.book,
        chunks=booted.chunks(),
    )

"""Puts a replica together from what a journal held; for the agent and the simulation alike.

Theory of operation. The two shells differ in where time, dice and bytes come from, and in nothing
else: they build the very same machine here, so what the simulation shows holds for the agent. What
an author said once is `ReplicaSettings`; what each boot finds anew are the arguments of `assemble`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.protocol import BOOT_BYTES, Replica, Wire

if TYPE_CHECKING:
    from replication.config import Config
    from replication.journal import Booted
    from replication.protocol import AccessPolicy, Dice, Keyring

BOOTS_PER_INCARNATION = 1 << 16
"""SWIM incarnations that one boot may use up by refuting suspicions."""
BOOTS_COUNTED_MAX = (1 << 8 * BOOT_BYTES // 2) - 1
SEED_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """What its author says about a replica, the same in each of its boots.

    Attributes:
        cluster, namespace: frames of others are refused.
        keys: that frames are sealed and opened with.
        rules: who may bring and write what.
        dice: of gossip.
        seeds: addresses to find the cluster by.
        hubs: addresses that a line is kept to.
        journalled: whether its journal outlives its process.
    """

    cluster: str
    namespace: str
    keys: Keyring = field(repr=False)
    config: Config
    rules: AccessPolicy
    dice: Dice
    seeds: tuple[str, ...] = ()
    hubs: tuple[str, ...] = ()
    journalled: bool = True


def assemble(
    settings: ReplicaSettings, booted: Booted, *, seed: bytes, address: str, now_s: float
) -> Replica:
    """The machine of one boot; `seed` are `SEED_BYTES` random bytes that no other boot has."""
    config, rules = settings.config, settings.rules
    nth = min(booted.recovered.boots, BOOTS_COUNTED_MAX).to_bytes(BOOT_BYTES // 2, "big")
    wire = Wire(
        cluster=settings.cluster,
        namespace=settings.namespace,
        keys=settings.keys,
        boot=nth + seed[: BOOT_BYTES // 2],
        config=config,
        rules=rules.digest,
        seed=seed,
    )
    booted.kernel.batch_bytes_max = config.batch_bytes_max  # of single writes, too
    return Replica(
        booted.kernel,
        wire=wire,
        config=config,
        dice=settings.dice,
        address=address,
        incarnation=booted.recovered.boots * BOOTS_PER_INCARNATION,
        now_s=now_s,
        seeds=settings.seeds,
        hubs=settings.hubs,
        policy=rules,
        book=booted.recovered.book,
        chunks=booted.chunks(),
        journalled=settings.journalled,
    )

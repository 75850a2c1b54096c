"""Every knob of replication with its unit, its reason and its relation to its neighbours.

Theory of operation. A limit stands on everything that can grow or wait, its unit is the last word
of its name, and what happens at the limit is written beside it. One frozen `Config` serves an
agent, a simulation and a benchmark alike, so a number that is tuned is tuned everywhere.
What a single room uses and nobody tunes is a constant of that room.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from replication.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

KIB = 1024
MIB = 1024 * KIB


MAY_BE_ZERO = frozenset(
    {
        "gossip_jitter",  # then rounds march in step
        "eager_peers_max",  # then gossip alone spreads writes
        "greeting_bytes_target",  # then a sync asks only
        "unauthenticated_bytes_max",  # then every body needs its proof
        "compress_above_bytes",
        "chunks_above_events",  # then every newcomer is given the state
        "removal_records_bytes_stable",
        "replaced_bytes_max",  # then no replaced value is kept
        "bandwidth_bytes_per_s",  # no limit
        "lines_max",  # then no connection is kept for others
    }
)
LEAST_S = 0.001
"""Of every interval and wait: below it the loop would spin, or give up before any answer."""
LEAST: Mapping[str, float] = {
    "members_max": 2,
    "delta_bytes_target": 128,
    "delta_bytes_max": 512,
    "batch_bytes_max": 256,
    "chunk_bytes": 128,
    "body_bytes_max": 4 * KIB,
    "outbox_bytes_max": 4 * KIB,
    "read_timeout_s": 0.1,
    "total_timeout_s": 0.1,
}
"""A frame is its vector and its members' claims, too: smaller ones would carry nothing else. One
event that overwrites another weighs 135 bytes with the shortest of names, and an origin 160.
Who never waits for an answer never hears the challenge under which its frames are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Knobs of one agent. The defaults are those of docs/operations.md.

    Raises:
        ConfigError: a value is out of range or contradicts a neighbour; nothing was started.
    """

    # -- gossip: how fast an agent learns what was not pushed to it
    gossip_interval_s: float = 1.0
    """Between two push-pull rounds. Idle rounds double it up to `gossip_interval_max_s`."""
    gossip_interval_max_s: float = 8.0
    gossip_jitter: float = 0.2
    """Share of the interval by which rounds are spread, so that agents do not march in step."""
    fanout: int = 2
    """Peers per round: 100 replicas are equal in at most 5 rounds (p99)."""
    fanout_above_300: int = 3
    digest_full_every: int = 10
    """Every so many exchanges with a peer carry the whole vector: repairs what lost answers hid."""

    # -- eager push: how fast a local write is seen elsewhere
    eager_peers_max: int = 4
    """A local write goes to so many peers at once; gossip brings it to the others."""

    # -- sizes
    delta_bytes_target: int = 256 * KIB
    """A delta is cut near this: its decoding holds the loop for milliseconds."""
    delta_bytes_max: int = 512 * KIB
    """One that certainly weighs more is refused before it is built: ten thousand events hold the
    loop for a tenth of a second. At least twice `batch_bytes_max` of any agent: small events weigh
    more than their bytes. So it is equal everywhere."""
    greeting_bytes_target: int = 32 * KIB
    """A sync carries so much of what its receiver is believed to lack; more is pushed after it."""
    batch_bytes_max: int = 256 * KIB
    """A larger batch, or one that weighs more than twice that, is refused at its exit; nothing
    changed. A single write is weighed only, and refused above it."""
    body_bytes_max: int = 4 * MIB
    """A larger frame is refused with 413 before it is read."""
    unauthenticated_bytes_max: int = 16 * KIB
    """What is read from a sender that did not yet prove that it knows the secret."""
    compress_above_bytes: int = 1 * KIB
    chunk_bytes: int = 256 * KIB
    chunks_in_flight: int = 8
    """At most; fewer over a link that does not carry so many within the time of an exchange."""
    chunks_above_events: int = 20_000
    """A newcomer that lacks more is given the state in chunks instead of its history. Up to so many
    events old, the cut of a donor does for the next one, too."""

    removal_records_bytes_stable: int = 4 * MIB
    """Records of removals: above it, those that every current member has are forgotten. At the
    kernel's own limit (16 MiB) the oldest go, and who still lacks them needs chunks."""

    replaced_bytes_max: int = 8 * MIB
    """Memory for values that were seen replaced, for `explain` alone: at most 100 of a document,
    the oldest go first. Never sent, never on disk, gone when the agent ends."""

    # -- queues
    inbound_exchanges_max: int = 8
    """More are answered 503 with Retry-After."""
    outbox_bytes_max: int = 4 * MIB
    """Waiting to be written on one kept connection. Over it nothing more is handed to it: the peer
    needs a diff, which coalesces and is computed when there is room."""
    bandwidth_bytes_per_s: float = 0.0
    """Frames that carry state (deltas and chunks) per second, to all peers together; 0: no limit.
    A token bucket of one second: in any T seconds at most `bandwidth_bytes_per_s * (T + 1)` bytes
    of such frames, and one frame more, because a batch and a chunk are never cut. Over it pushes
    wait, and answers carry less and say that there is more; digests, probes and acknowledgements
    are not counted and never wait, nor do local reads and writes."""
    lines_max: int = 1024
    """Kept connections that are accepted; more are answered 503."""
    outbound_exchanges_max: int = 64
    """Exchanges that this agent opened and that are unanswered; gossip skips over it."""
    subscription_events_max: int = 1024
    """Queued per subscriber; over it changes are conflated per document and `lagged` is set."""
    members_max: int = 4096
    """Members known; unknown ones beyond it are ignored."""

    # -- waits
    connect_timeout_s: float = 2.0
    read_timeout_s: float = 5.0
    total_timeout_s: float = 15.0
    """aiohttp's default of 300 s would let a hung peer hold an exchange for five minutes."""
    stalled_s: float = 30.0
    """A kept connection that takes nothing for so long is dropped; its agent dials again."""
    journal_retry_s: float = 1.0
    """Between two attempts to persist after a failure."""

    # -- failure detection (SWIM; Lifeguard's local health stretches both)
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5

    # -- constants: nobody has had a reason to set them, so nobody can
    told_max: ClassVar[int] = 32
    """Hashes of peers that have a push already; receivers forward it to others, once."""
    members_per_frame: ClassVar[int] = 8
    indirect_probes: ClassVar[int] = 3
    suspicion_factor: ClassVar[float] = 4.0
    """Suspicion lasts `factor * max(1, log10(members))` intervals before it becomes `dead`."""
    local_health_max: ClassVar[int] = 8
    seq_lease: ClassVar[int] = 1000
    """Own sequence numbers reserved on disk at a time, so that a crash never reuses one."""

    def __post_init__(self) -> None:
        for knob in fields(self):
            self._check_knob(knob, getattr(self, knob.name))
        largest = max(self.chunk_bytes, self.delta_bytes_target, self.batch_bytes_max)
        if 2 * largest > self.outbox_bytes_max:
            raise ConfigError(
                f"outbox_bytes_max must be at least twice the largest delta, {largest} bytes",
                hint="an outbox that cannot hold one delta never sends any",
            )
        if 2 * largest > self.body_bytes_max:
            raise ConfigError(
                f"body_bytes_max must be at least twice the largest delta, {largest} bytes",
                hint="chunks, deltas and batches travel in one body each",
            )
        if self.delta_bytes_max < max(self.delta_bytes_target, 2 * self.batch_bytes_max):
            raise ConfigError(
                "delta_bytes_max must not be below delta_bytes_target, nor twice batch_bytes_max",
                hint="a batch may weigh twice its bytes, and peers would refuse it for good",
            )
        if self.gossip_interval_s > self.gossip_interval_max_s:
            raise ConfigError("gossip_interval_s must not exceed gossip_interval_max_s")
        if self.gossip_jitter >= 1:
            raise ConfigError("gossip_jitter is a share of the interval, below 1")
        for name in ("connect_timeout_s", "read_timeout_s"):
            if getattr(self, name) > self.total_timeout_s:
                raise ConfigError(f"{name} must not exceed total_timeout_s")
        if self.probe_timeout_s > self.probe_interval_s:
            raise ConfigError(
                "probe_timeout_s must not exceed probe_interval_s",
                hint="a probe is judged at the end of its interval",
            )

    @staticmethod
    def _check_knob(knob: Field[float], value: object) -> None:
        """Refuse what is not a number, not whole where things are counted, or below its least."""
        whole, least = knob.type == "int", least_of(knob)
        kinds = int if whole else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not value >= least:  # type: ignore[operator]  # a number by now
            what = "whole number" if whole else "number"
            raise ConfigError(
                f"{knob.name} must be a {what} of at least {least:g}, not {value!r:.80}",
                hint=f"its default is {knob.default}; at 0 agents would start and never replicate"
                if least
                else f"its default is {knob.default}",
            )


def least_of(knob: Field[float]) -> float:
    """The least value of a knob with which agents still come to equal state."""
    if knob.name in MAY_BE_ZERO:
        return 0
    return LEAST.get(knob.name, 1 if knob.type == "int" else LEAST_S)

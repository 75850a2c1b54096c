"""The messages of replication, and the conversations that they are for.

Theory of operation. Anti-entropy by version vectors (Demers et al. 1987; van Renesse et al. 2008):
the vector of a replica *is* its digest, so one round trip tells both sides exactly what the other
lacks. Every request has exactly one answer, so each pair travels as one HTTP POST, and the same
frames travel over a kept WebSocket.

Push-pull, when both are equal (the common, idle case; 16 bytes of digest each way):

    A --Sync(hash)--------------------------> B
    A <-------------------------Synced(hash)-- B

when they differ; one round trip syncs both ways, because A remembers where B stood (and brings to a
B that it never met, or not lately, whatever is too new to be everywhere):

    A --Sync(hash, what changed at A since they met, those events)--> B    B applies, persists
    A <---------Synced(what changed at B, what A lacks)-------------- B    A applies, persists

when A did not know where B stood, or B lacks more than fits, pushes follow:

    A --Push(what B lacks)------------------> B       B applies, persists, then answers
    A <-------------------Ack(B's vector)---- B

and as long as an answer was cut at the byte budget, or only the hash was sent at first:

    A --Sync(wanted: A's seqs of origins)---> B
    A <-------------Synced(what A lacks)----- B

Eager push of a local write; `told` are hashes of the replicas that the pushers already serve, so
that a receiver forwards what was new to it once, and only to others:

    A --Push(delta, told={B,C})-> B --Push(delta, told={B,C,D})-> D
    A <--Ack-------------------- B

A peer that is below a floor of the other (removal records were dropped), or that joins, is served
by one chunk set; the receiver asks chunk by chunk and may resume after a cut:

    A <--Synced(reset)---------- B
    A --ChunkWanted(0 of new)--> B
    A <-Chunk(set, 0 of n)------ B      ... until n; then A's vector rises to the set's

Where vectors are equal, digests of the state are compared, if both ends have one. If they differ (a
piece of an answer whose donor was lost, an origin that told two events under one number), whoever
asked mends itself, once per peer and pair of digests: it asks for the hashes of the peer's blocks,
page by page, and then for the blocks that differ, as a chunk set that raises no vector:

    A --Sync(hash, state)-------------------> B
    A <-----------------Synced(hash, state')-- B
    A --HashesWanted(hash)------------------> B
    A <------------HashesGiven(hash, blocks)-- B
    A --BlocksWanted(hash, those that differ)> B
    A <-Chunk(set, 0 of n)------------------- B      ... until n; what is dead there dies here

While somebody at A waits for events to be at B, A asks for them by their origins; where B stands is
durable there when the answer leaves:

    A --PositionsWanted(origins)------------> B
    A <---------------Ack(B's seqs of them)-- B

Failure detection (SWIM): `Probe` is answered by `Probed`; with a `target`, the receiver probes the
target itself and answers for it.

Anything may be answered by `Refused`, which says what was wrong and changes nothing. One of them
begins an acquaintance: whoever does not know what frames for a peer have to name knocks with a bare
`Probe`, and is told (see `freshness`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


ORIGINS_ASKED_MAX = 512
"""Named by one `PositionsWanted`; more are asked for by the next."""
BRIEF_BYTES_MAX = 1024
"""Of the delta of a push that costs no more than a question."""
INCARNATION_MAX = (1 << 48) - 1
"""Of a SWIM incarnation: 2**32 boots of 2**16 refutations. Claims beyond it say nothing."""


class Status(IntEnum):
    """What is claimed about a member. The greater wins at equal SWIM incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3
    RETIRED = 4


class Tier(IntEnum):
    """How much of a vector a message carries."""

    HASH = 0
    """Only the 16-byte hash."""
    CHANGED = 1
    """Origins that changed since the last exchange with this peer."""
    FULL = 2
    """All of it."""
    WANTED = 3
    """The origins that the sender lacks events of; it wants those and nothing else."""
    CURRENT = 4
    """Those of current members and whatever changed lately; of all others together a hash."""
    JOINING = 5
    """All of it, and the sender is being given a state: events would come twice, so none now."""


@dataclass(frozen=True, slots=True)
class MemberClaim:
    """Somebody's claim about a member, at that member's SWIM incarnation number.

    `journalled` is what the member says of itself: whether what it has outlives its process.
    `challenge` is what frames for it had to name lately (`freshness`), so that whoever hears of a
    member may speak to it at once; b"" if that is not known.
    """

    replica: str
    address: str
    incarnation: int
    status: Status
    journalled: bool = True
    challenge: bytes = b""


@dataclass(frozen=True, slots=True)
class Digest:
    """A summary of a version vector, at one of its tiers; `rest` is a hash of the others.

    `state` is the digest of the state at that vector, b"" for none.
    """

    hash: bytes
    tier: Tier = Tier.HASH
    vector: Mapping[str, int] = field(default_factory=dict)
    rest: bytes = b""
    state: bytes = b""

    @property
    def whole(self) -> bool:
        """Whether it speaks of every origin; such a one repairs what lost answers hid."""
        return self.tier in {Tier.FULL, Tier.CURRENT, Tier.JOINING}


@dataclass(frozen=True, slots=True)
class Sync:
    """Opens a push-pull exchange; `delta` is what the receiver is believed to lack.

    `table` is a digest of who is a current member; b"" asks for nobody's table.
    """

    digest: Digest
    members: tuple[MemberClaim, ...] = ()
    delta: bytes = b""
    table: bytes = b""


@dataclass(frozen=True, slots=True)
class Synced:
    """Answers `Sync`: my digest, and (a piece of) what your vector lacks.

    `more` says that the delta was cut at the byte budget; `reset` that you are below a floor of
    mine and have to ask for chunks.
    """

    digest: Digest
    delta: bytes = b""
    more: bool = False
    reset: bool = False
    members: tuple[MemberClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class Push:
    """Events that the receiver is believed to lack."""

    delta: bytes
    told: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """Answers `Push` and `PositionsWanted`: where I durably stand, for the origins named there."""

    vector: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Probe:
    """Are you there? With a `target`: please ask that member for me."""

    target: str = ""
    members: tuple[MemberClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """Answers `Probe`; `reached` is False when the `target` did not answer the helper."""

    reached: bool = True
    members: tuple[MemberClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkWanted:
    """Please send chunk `index` of `set_id` (empty: cut a new set)."""

    set_id: bytes = b""
    index: int = 0


@dataclass(frozen=True, slots=True)
class ChunkGiven:
    """One chunk of a set of `total`."""

    set_id: bytes
    index: int
    total: int
    data: bytes


Blocks = tuple[tuple[str, int, bytes], ...]
"""(origin, number of the block, hash of what is alive in it), ascending."""


@dataclass(frozen=True, slots=True)
class HashesWanted:
    """Please send the hashes of your blocks, from behind a block on; `hash` is of my vector."""

    hash: bytes
    after: tuple[str, int] = ("", -1)


@dataclass(frozen=True, slots=True)
class HashesGiven:
    """A page of hashes at the vector of that hash; b"" and none if there are none at it now."""

    hash: bytes = b""
    blocks: Blocks = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class BlocksWanted:
    """Please send the first chunk of a set of these blocks; `hash` is of my vector."""

    hash: bytes
    blocks: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PositionsWanted:
    """Where do you durably stand for these origins? One to `ORIGINS_ASKED_MAX` of them."""

    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """The sender (or a member that the sender retires) leaves for good; not a failure."""

    members: tuple[MemberClaim, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was refused and changed nothing; `status` is an HTTP status."""

    status: int
    code: str
    text: str


Message = (
    Sync
    | Synced
    | Push
    | Ack
    | Probe
    | Probed
    | ChunkWanted
    | ChunkGiven
    | Leave
    | Refused
    | HashesWanted
    | HashesGiven
    | BlocksWanted
    | PositionsWanted
)


def carries_state(message: Message) -> bool:
    """Whether it brings events or a chunk: what the bandwidth cap counts."""
    if isinstance(message, Sync | Synced | Push):
        return bool(message.delta)
    return isinstance(message, ChunkGiven)


def is_brief(message: Message) -> bool:
    """Whether it is so small that many of them may be under way at once."""
    if isinstance(message, Push):
        return len(message.delta) <= BRIEF_BYTES_MAX
    return isinstance(message, PositionsWanted)

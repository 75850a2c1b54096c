"""A dot names one event: (replica id, sequence number).

The question it answers: "which write are we talking about?" A replica numbers its own events
1, 2, 3, ... and never uses a number twice; dots are therefore unique without any coordination
(Almeida, Shoker, Baquero 2018, section 5: dots and causal contexts).

Inside one kernel a dot is a single int, `index of the replica << SEQ_BITS | seq`, because a
kernel holds one per live entry: comparing, hashing and storing an int costs a fraction of a
tuple. That form never leaves the kernel; what travels names replicas by their ids.
"""

from __future__ import annotations

from typing import NamedTuple

from crdt.errors import InvalidReplicaError

SEQ_BITS = 40
SEQ_MAX = (1 << SEQ_BITS) - 1  # a million writes a second for twelve days; a life is shorter
REPLICA_BYTES_MAX = 256

# (origin, first, last), inclusive: a contiguous run of one replica's events.
Range = tuple[str, int, int]


class Dot(NamedTuple):
    """One event: the `seq`-th of `replica`, counted from 1."""

    replica: str
    seq: int

    def __str__(self) -> str:
        return f"{self.replica}:{self.seq}"


def check_replica(replica: object) -> str:
    """The id itself, or InvalidReplicaError: ids are short, non-empty, encodable text."""
    if type(replica) is not str or not replica:
        raise InvalidReplicaError(f"a replica id is a non-empty str, not {replica!r}")
    if len(replica) <= REPLICA_BYTES_MAX and replica.isascii():
        return replica
    try:
        size = len(replica.encode())
    except UnicodeEncodeError as error:
        raise InvalidReplicaError(f"replica id {replica!r} is not valid text") from error
    if size > REPLICA_BYTES_MAX:
        raise InvalidReplicaError(f"a replica id has at most {REPLICA_BYTES_MAX} bytes, not {size}")
    return replica

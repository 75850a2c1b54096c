"""Values that merge: conflict-free replicated data types for agents that share state.

    a, b = ORSet("a"), ORSet("b")
    a.add("x"); b.add("y")
    b.merge(a)                      # b == {"x", "y"}, whatever the order

Many documents in one replica share a kernel: `Kernel("a").document("tags", ORSet)`. Everything here
is pure arithmetic: no I/O, no clock, no randomness, no threads.
"""

from crdt.bounded_counter import BoundedCounter
from crdt.counter import GCounter, PNCounter
from crdt.errors import (
    AmbiguousNameError,
    BatchOpenError,
    BatchTooLargeError,
    BelowFloorError,
    BodyTooLargeError,
    ChunksAsideFullError,
    CRDTError,
    DecodeError,
    DoomedFullError,
    DoubleSpentDotError,
    IdentityReusedError,
    InsufficientRightsError,
    InvalidAmountError,
    InvalidReplicaError,
    InvalidValueError,
    InvariantError,
    OpIdReusedError,
    SharedKernelError,
    TypeMismatchError,
    UncopyableError,
    UnknownVersionError,
)
from crdt.explain import Explained, explain
from crdt.flag import DWFlag, EWFlag
from crdt.kernel import (
    HLC,
    Batch,
    CausalContext,
    Change,
    Chunk,
    ChunkSet,
    Delta,
    DocumentChange,
    DocumentType,
    Dot,
    Event,
    Kernel,
    Run,
    VersionVector,
    decode_value,
    encode_value,
)
from crdt.map import LWWMap, ORMap
from crdt.register import LWWRegister, MaxRegister, MinRegister, MVRegister
from crdt.resettable_counter import ResettableCounter
from crdt.set import GSet, ORSet, RWSet

__all__ = [
    "HLC",
    "AmbiguousNameError",
    "Batch",
    "BatchOpenError",
    "BatchTooLargeError",
    "BelowFloorError",
    "BodyTooLargeError",
    "BoundedCounter",
    "CRDTError",
    "CausalContext",
    "Change",
    "Chunk",
    "ChunkSet",
    "ChunksAsideFullError",
    "DWFlag",
    "DecodeError",
    "Delta",
    "DocumentChange",
    "DocumentType",
    "DoomedFullError",
    "Dot",
    "DoubleSpentDotError",
    "EWFlag",
    "Event",
    "Explained",
    "GCounter",
    "GSet",
    "IdentityReusedError",
    "InsufficientRightsError",
    "InvalidAmountError",
    "InvalidReplicaError",
    "InvalidValueError",
    "InvariantError",
    "Kernel",
    "LWWMap",
    "LWWRegister",
    "MVRegister",
    "MaxRegister",
    "MinRegister",
    "ORMap",
    "ORSet",
    "OpIdReusedError",
    "PNCounter",
    "RWSet",
    "ResettableCounter",
    "Run",
    "SharedKernelError",
    "TypeMismatchError",
    "UncopyableError",
    "UnknownVersionError",
    "VersionVector",
    "decode_value",
    "encode_value",
    "explain",
]

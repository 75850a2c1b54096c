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
from crdt.flag import DWFlag, EWFlag
from crdt.kernel.change import Change, DocumentChange
from crdt.kernel.chunk import Chunk, ChunkSet
from crdt.kernel.codec import decode_value, encode_value
from crdt.kernel.context import CausalContext, Dot, VersionVector
from crdt.kernel.delta import Delta, Event, Run
from crdt.kernel.hlc import HLC
from crdt.kernel.kernel import Kernel
from crdt.kernel.writer import Batch
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
    "DoomedFullError",
    "Dot",
    "DoubleSpentDotError",
    "EWFlag",
    "Event",
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
]

"""Values that merge: conflict-free replicated data types for agents that share state.

    a, b = ORSet("a"), ORSet("b")
    a.add("x"); b.add("y")
    b.merge(a)                      # b == {"x", "y"}, whatever the order

Many documents in one replica share a kernel: `Kernel("a").document("tags", ORSet)`. Everything here
is pure arithmetic: no I/O, no clock, no randomness, no threads.

A name is looked up when it is first asked for: the pytest plugin lies behind this door, too, and
must load nothing into every test run of a machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__distribution__ = "convoca"

if TYPE_CHECKING:
    from crdt.bounded_counter import BoundedCounter
    from crdt.codec import Codec
    from crdt.counter import GCounter, PNCounter, ReadsAsNumber
    from crdt.errors import (
        AmbiguousNameError,
        BatchInterruptedError,
        BatchOpenError,
        BatchTooLargeError,
        BelowFloorError,
        BodyTooLargeError,
        ChunksAsideFullError,
        ClockError,
        CodecError,
        ConvocaError,
        CRDTError,
        DecodeError,
        DeletionRefusedError,
        DoomedFullError,
        DoubleSpentDotError,
        IdentityReusedError,
        InsufficientRightsError,
        InvalidAmountError,
        InvalidArgumentError,
        InvalidReplicaError,
        InvalidValueError,
        InvariantError,
        OperatorRefusedError,
        OpIdReusedError,
        SeqsExhaustedError,
        SharedKernelError,
        TypeMismatchError,
        UncopyableError,
        UnknownChildError,
        UnknownVersionError,
    )
    from crdt.explanation import Explained, Recollection, explain, recollection
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
        Seen,
        VersionVector,
        decode_value,
        encode_value,
    )
    from crdt.map import LWWMap, ORMap
    from crdt.register import LWWRegister, MaxRegister, MinRegister, MVRegister
    from crdt.resettable_counter import ResettableCounter
    from crdt.set import GSet, ORSet, RWSet
    from crdt.view import CodedType

ROOMS = {
    "AmbiguousNameError": "errors",
    "Batch": "kernel",
    "BatchInterruptedError": "errors",
    "BatchOpenError": "errors",
    "BatchTooLargeError": "errors",
    "BelowFloorError": "errors",
    "BodyTooLargeError": "errors",
    "BoundedCounter": "bounded_counter",
    "CausalContext": "kernel",
    "Change": "kernel",
    "Chunk": "kernel",
    "ChunksAsideFullError": "errors",
    "ChunkSet": "kernel",
    "ClockError": "errors",
    "Codec": "codec",
    "CodecError": "errors",
    "CodedType": "view",
    "CRDTError": "errors",
    "ConvocaError": "errors",
    "decode_value": "kernel",
    "DecodeError": "errors",
    "DeletionRefusedError": "errors",
    "Delta": "kernel",
    "DocumentChange": "kernel",
    "DocumentType": "kernel",
    "DoomedFullError": "errors",
    "Dot": "kernel",
    "DoubleSpentDotError": "errors",
    "DWFlag": "flag",
    "encode_value": "kernel",
    "Event": "kernel",
    "EWFlag": "flag",
    "explain": "explanation",
    "Explained": "explanation",
    "Recollection": "explanation",
    "recollection": "explanation",
    "GCounter": "counter",
    "GSet": "set",
    "HLC": "kernel",
    "IdentityReusedError": "errors",
    "InsufficientRightsError": "errors",
    "InvalidAmountError": "errors",
    "InvalidArgumentError": "errors",
    "InvalidReplicaError": "errors",
    "InvalidValueError": "errors",
    "InvariantError": "errors",
    "Kernel": "kernel",
    "LWWMap": "map",
    "LWWRegister": "register",
    "MaxRegister": "register",
    "MinRegister": "register",
    "MVRegister": "register",
    "OperatorRefusedError": "errors",
    "OpIdReusedError": "errors",
    "ORMap": "map",
    "ORSet": "set",
    "PNCounter": "counter",
    "ReadsAsNumber": "counter",
    "ResettableCounter": "resettable_counter",
    "Run": "kernel",
    "RWSet": "set",
    "Seen": "kernel",
    "SeqsExhaustedError": "errors",
    "SharedKernelError": "errors",
    "TypeMismatchError": "errors",
    "UncopyableError": "errors",
    "UnknownChildError": "errors",
    "UnknownVersionError": "errors",
    "ValueTooLargeError": "errors",
    "VersionVector": "kernel",
}

__all__ = [
    "HLC",
    "AmbiguousNameError",
    "Batch",
    "BatchInterruptedError",
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
    "ClockError",
    "Codec",
    "CodecError",
    "CodedType",
    "ConvocaError",
    "DWFlag",
    "DecodeError",
    "DeletionRefusedError",
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
    "InvalidArgumentError",
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
    "OperatorRefusedError",
    "PNCounter",
    "RWSet",
    "ReadsAsNumber",
    "Recollection",
    "ResettableCounter",
    "Run",
    "Seen",
    "SeqsExhaustedError",
    "SharedKernelError",
    "TypeMismatchError",
    "UncopyableError",
    "UnknownChildError",
    "UnknownVersionError",
    "ValueTooLargeError",
    "VersionVector",
    "decode_value",
    "encode_value",
    "explain",
    "recollection",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

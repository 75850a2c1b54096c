"""The kernel: causal arithmetic on dots, and the one store that every type is a view of.

A kernel holds entries `path -> {dot: entry}` and one causal context, and every change of either
comes in by one of two doors:

    a view's mutation -> writer -> live entries, log, context -> a delta that leaves
    what others send  -> delta -> join -> the same              (events)
                      -> chunk -> transfer -> join -> the same  (a whole state in pieces)

and leaves by three: `delta_since` for a peer that lacks events, `transfer` for one that lacks
nearly all, `snapshot` for a restart. Which file knows what:

    context, doomed    a dot, a version vector, a causal context; dots killed before they came
    kind, codec        the table of types and tags; values as canonical bytes
    record             what removals leave for peers that lag
    live, state        what is alive and where; with what was seen, applied and doomed, the state
    writer             local mutations, and batches of them
    delta, since       what one replica tells another; what a peer lacks
    encodings          the bytes of what was told before, as long as it would be told the same
    join               how events and states of others come in
    chunk, transfer    a piece of a state, packed; a state cut, taken and joined
    blocks             a digest of the state: hashes of its content, block by block
    snapshot           a kernel as bytes and back
    replaced           what died here lately, for people who ask
    change             what a mutation, an apply or a merge changed for a reader
    wire, envelope     parts of messages, read with suspicion; magic, version, checksum
    hlc                the hybrid clock
    limits             what may be stored at all: the numbers that every door shares
    kernel             the front: `Kernel`

What is worked out only when somebody asks (the runs of a delta, the rows of a run, the documents of
a change, the entries of a chunk) is everywhere a slot that is None until then, and kept afterwards.

This face hands on what the rest of `crdt` is built of: to users by way of `crdt` the kernel, what
travels, and what was seen; to the types (`crdt/*.py`) the writer, rows and containers, and the
stored form of values; to the kit (`crdt.testing`) the table of types and the limits. Modules in
here import one another and never the face.
"""

from crdt.kernel.change import Change, DocumentChange
from crdt.kernel.chunk import Chunk, ChunkSet
from crdt.kernel.codec import (
    Step,
    Stored,
    decode_value,
    element_of,
    encode_value,
    freeze,
    is_text,
    order_of,
    pack,
    shown,
    step_of,
    thaw,
)
from crdt.kernel.context import (
    CausalContext,
    Dot,
    Range,
    Seen,
    VersionVector,
    check_replica,
    context_of,
)
from crdt.kernel.delta import Delta, Event, Run
from crdt.kernel.hlc import HLC, milliseconds
from crdt.kernel.kernel import DocumentType, Kernel
from crdt.kernel.kind import (
    KINDS,
    LEAF,
    MEMORY,
    TYPES,
    Path,
    below,
    check_document_type,
    kind_of,
    refuse_unordered,
)
from crdt.kernel.limits import INT_BYTES_MAX, INT_MAX, INT_MIN, OP_ID_BYTES, OP_IDS_MAX, SEQ_MAX
from crdt.kernel.live import VALUE_OF, Container, Entry, LiveTable, Row, entries_of
from crdt.kernel.replaced import Replaced
from crdt.kernel.state import DOOMED_MAX
from crdt.kernel.writer import NOTHING, Batch, Victim, Writer

__all__ = [
    "DOOMED_MAX",
    "HLC",
    "INT_BYTES_MAX",
    "INT_MAX",
    "INT_MIN",
    "KINDS",
    "LEAF",
    "MEMORY",
    "NOTHING",
    "OP_IDS_MAX",
    "OP_ID_BYTES",
    "SEQ_MAX",
    "TYPES",
    "VALUE_OF",
    "Batch",
    "CausalContext",
    "Change",
    "Chunk",
    "ChunkSet",
    "Container",
    "Delta",
    "DocumentChange",
    "DocumentType",
    "Dot",
    "Entry",
    "Event",
    "Kernel",
    "LiveTable",
    "Path",
    "Range",
    "Replaced",
    "Row",
    "Run",
    "Seen",
    "Step",
    "Stored",
    "VersionVector",
    "Victim",
    "Writer",
    "below",
    "check_document_type",
    "check_replica",
    "context_of",
    "decode_value",
    "element_of",
    "encode_value",
    "entries_of",
    "freeze",
    "is_text",
    "kind_of",
    "milliseconds",
    "order_of",
    "pack",
    "refuse_unordered",
    "shown",
    "step_of",
    "thaw",
]

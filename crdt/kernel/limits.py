"""What may be stored at all: the limits that every door shares.

A local write, a delta, a chunk, a merge and a snapshot are judged by the same numbers, so that
whatever one replica accepts every other can take in, keep, restart from and show. A write over a
limit is refused as the caller's argument, bytes over it as damaged, and nothing changes either way.

    dots      1 .. SEQ_MAX            a dot is packed into one int inside a kernel
    stamps    0 .. STAMP_MAX          of which a replica issues the lower half only (`hlc`)
    integers  INT_MIN .. INT_MAX      so that their digits, sums included, stay below the 4,300 that
                                      Python turns into text: every number can be shown
    values    NESTING_MAX levels      list, dict and tuple in one another
              VALUE_BYTES_MAX         of one value, element, key or name: a write fits an envelope
    paths     PATH_DEPTH_MAX levels   a document and what is nested in it; who reads one recurses
              VALUE_BYTES_MAX         all of its names together
    replicas  REPLICA_BYTES_MAX       of one id
    op_ids    OP_IDS_MAX              one reset of a counter remembers, as OP_ID_BYTES each

Numbers alone; the checks are where the thing checked is made: `codec` for values, `kind` for
entries and paths, `context` for ids, `writer` for what this replica adds by itself.
"""

from __future__ import annotations

from typing import Final

SEQ_BITS: Final = 40
SEQ_MAX: Final = (1 << SEQ_BITS) - 1  # a million writes a second for twelve days; a life is shorter
STAMP_MAX: Final = (1 << 64) - 1
INT_BYTES_MAX: Final = 1024  # of one integer in two's complement; 2,466 digits
INT_MAX: Final = (1 << (8 * INT_BYTES_MAX - 1)) - 1
INT_MIN: Final = -INT_MAX - 1
NESTING_MAX: Final = 64
PATH_DEPTH_MAX: Final = 64
VALUE_BYTES_MAX: Final = 16 << 20
REPLICA_BYTES_MAX: Final = 256
OP_IDS_MAX: Final = 1024
OP_ID_BYTES: Final = 8

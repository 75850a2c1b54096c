"""Durability of one replica. A journal is never shared: it belongs to one process at a time.

Theory of operation. `Journal` is the port: a log of encoded deltas, the vector that they add up to,
and the identity that wrote them, changed by one transaction at a time. `boot` brings a kernel back
from one, under an id that it may write with; `rebuild` its state alone. `MemoryJournal` is the
specification in the fewest lines, `SqliteJournal` one file on a disk that may lose its power; of
such a file `look` tells, and `back_up` makes a copy.
"""

from replication.journal.base import (
    HOW_TO_GO_ON,
    Booted,
    Entry,
    Journal,
    KeptOut,
    Recovered,
    boot,
    leased,
    rebuild,
)
from replication.journal.memory import MemoryJournal
from replication.journal.sqlite import SqliteJournal, back_up, look

__all__ = [
    "HOW_TO_GO_ON",
    "Booted",
    "Entry",
    "Journal",
    "KeptOut",
    "MemoryJournal",
    "Recovered",
    "SqliteJournal",
    "back_up",
    "boot",
    "leased",
    "look",
    "rebuild",
]

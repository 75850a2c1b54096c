"""A journal in memory: the specification in the fewest lines, and the disk of the simulation.

It keeps what was appended for as long as the object lives, so that a crashed replica can be started
again on it. `fail` makes appends raise, as a full disk would.
"""

from __future__ import annotations

from dataclasses import replace

from crdt import VersionVector
from replication.errors import JournalFailedError, JournalHeldError
from replication.journal.base import Entry, Recovered, check_vector


class MemoryJournal:
    """Holds one replica's log. `copy` clones it, as copying a file would."""

    def __init__(self) -> None:
        self.fail = ""
        self.port = 0
        self.appends = 0
        self._held = self._written = False
        self._state = Recovered(boots=0)

    def open(self) -> Recovered:
        """Everything appended so far."""
        if self._held:
            raise JournalHeldError("this journal is open already")
        self._held = True
        self._state = replace(self._state, boots=self._state.boots + 1)
        return self._state

    def append(self, entry: Entry) -> None:
        """Keep the transaction, or raise what `fail` says."""
        if self.fail:
            raise JournalFailedError(self.fail)
        old = self._state
        check_vector(entry, old.vector)
        rows = [] if entry.snapshot else [*old.rows, *entry.rows]
        self._state = Recovered(
            entry.replica,
            old.boots,
            continuous=True,
            descends=old.descends or entry.replica != old.replica,
            lease=entry.lease,
            snapshot=entry.snapshot or old.snapshot,
            rows=rows,
            vector=VersionVector(entry.vector),
            book=old.book if entry.book is None else entry.book,
        )
        self.appends += 1
        self._written = True

    def read(self) -> Recovered:
        """What was appended."""
        return self._state

    def close(self) -> None:
        """A clean stop: the unused lease is given back."""
        own = self._state.vector.get(self._state.replica, 0)
        if self._written:
            self._state = replace(self._state, lease=own)
        self.lose_hold()

    def lose_hold(self) -> None:
        """What a crash does to it."""
        self._held = self._written = False

    def copy(self, *, continuous: bool = False, machine: bool = False) -> MemoryJournal:
        """A backup. By default it knows that it is one; a cloned disk does not.

        Neither is the file that its last life locked, so neither descends from that; only a whole
        `machine` that was copied, disk, lock and all, could believe so.
        """
        clone = MemoryJournal()
        clone._state = replace(
            self._state,
            continuous=continuous or machine,
            descends=machine and self._state.descends,
            rows=tuple(self._state.rows),
        )
        return clone

"""The store's rows as its writer's thread sees, decides and writes them.

``State`` belongs to the writing connection.  Between ``begin`` and ``finish`` a group of operations
runs, each decided on the state that the ones before it left, all made durable by one COMMIT.  An
operation is decided before it changes anything, so one that is refused leaves no trace.

What a group changes gathers in ``_Pending`` and is written in bulk, when the group ends or when an
operation reads a range.  Single keys and op_ids are looked up there first, then among the recently
used, then in the file: the only writer may remember what the file holds.  A group that fails drops
its pending changes and restores the few counters and leases that it touched.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from transactional import rules
from transactional.clock import BusinessTime, Clock, utc
from transactional.errors import (
    ConflictError,
    LeaseExpiredError,
    OperationIdReusedError,
    OpIdExpiredError,
    OpIdFencedError,
    StoreLockedError,
    TooManyRequestsError,
)
from transactional.stores.feed import Row, Rows, row_of, rows_under
from transactional.stores.leases import LEASES_MAX, Leases
from transactional.stores.sqlite_bulk import insert_rows
from transactional.values import (
    LAST_CODE_POINT,
    Applied,
    Commit,
    Compare,
    Delete,
    Fenced,
    KeyValue,
    Lease,
    Put,
    Write,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

REMEMBERED_KEYS: Final = 16_384
"""Keys kept in memory for the next compare; all are dropped when there are more."""
REMEMBERED_BYTES: Final = 4096
"""Largest value that is kept in memory."""
REMEMBERED_OPERATIONS: Final = 65_536
"""Op_ids kept in memory: a new one need not be looked for in the file."""
FORGET_ROWS: Final = 256
"""Most old rows of each kind that one group removes: compaction is paid in small coins."""

_Record = tuple[bytes | None, int, bool, int]
"""An operation's content (None: fenced), revision, success and time: plain values, see feed.py."""

_KEY = "SELECT key, value, revision, created_revision, lease FROM keys "


@dataclass(slots=True)
class _Pending:
    """What the current group changed and the file does not hold yet, or not durably."""

    keys: dict[str, KeyValue | None] = field(default_factory=dict)
    operations: dict[str, _Record] = field(default_factory=dict)
    commits: list[tuple[int, Rows]] = field(default_factory=list)
    history_rows: list[Row] = field(default_factory=list)  # not in the file yet
    operation_rows: list[tuple[object, ...]] = field(default_factory=list)  # likewise


class State:
    """The whole state of a store, seen and changed by its only writer."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        time: BusinessTime,
        *,
        history_commits_max: int,
        op_id_retention_s: float,
    ) -> None:
        self._db = connection
        self._clock = clock
        self._time = time
        self._history_commits_max = history_commits_max
        self._retention_us = int(op_id_retention_s * 1e6)
        meta = connection.execute("SELECT epoch, revision, compacted, time_us FROM meta").fetchone()
        self.epoch, self.revision, self.compacted = str(meta[0]), int(meta[1]), int(meta[2])
        time.resume(meta[3], clock.elapsed_s())
        self._leases = Leases()
        for lease, ttl_s in connection.execute("SELECT lease, ttl_s FROM leases"):
            self._leases.start(lease, ttl_s, clock.elapsed_s())
        self._before = (self.revision, self.compacted)
        self._read_clocks()
        self._touched: list[tuple[str, float, float]] = []
        self._pending = _Pending()
        self._keys: dict[str, KeyValue | None] = {}
        self._operations: dict[str, _Record] = {}
        self._operations_since = self.revision
        """Every record of a later revision than this is in ``_operations``."""
        self.bytes_written = 0
        """Roughly, since it was last set to 0; tells when a checkpoint is worth its while."""

    # --- a group ---

    def begin(self) -> None:
        """Open the transaction of a group and let what is due expire in it.

        Raises:
            StoreLockedError: somebody else wrote to the file.  What is remembered here is void, and
                as revisions never return, each later group will find the same.
        """
        self._before = (self.revision, self.compacted)
        self._touched.clear()
        self._pending = _Pending()
        self._db.execute("BEGIN IMMEDIATE")
        self._read_clocks()
        found = self._db.execute("SELECT epoch, revision FROM meta").fetchone()
        if found != (self.epoch, self.revision):
            raise StoreLockedError("another authority wrote to the file; this one has stopped")
        due = self._leases.due(self._now[1])
        for lease in due:  # all of them first: ending one may fail, and `due` tells each but once
            self._touch(lease)
        for lease in due:
            self._end(lease)

    def finish(self) -> list[tuple[int, Rows]]:
        """Make the group durable and return what it changed; answers go out after it."""
        self._flush()
        if self.revision != self._before[0]:
            self._forget()
            self._db.execute(
                "UPDATE meta SET revision = ?, compacted = ?, time_us = ?",
                (self.revision, self.compacted, self._time.last_us),
            )
        self._db.execute("COMMIT")
        self._remember()
        return self._pending.commits

    def abandon(self) -> None:
        """Undo the whole group, in the file and in memory."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self.revision, self.compacted = self._before
        for lease, ttl_s, started_s in reversed(self._touched):
            if ttl_s:
                self._leases.start(lease, ttl_s, started_s)
            else:
                self._leases.end(lease)

    def next_deadline_s(self) -> float | None:
        """Return when the next lease ends, on the boot-time clock."""
        return self._leases.next_deadline_s()

    def checkpoint(self) -> None:
        """Move the log's content into the database file, as far as readers allow."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.bytes_written = 0

    def _flush(self) -> None:
        """Write what is pending into the transaction."""
        pending = self._pending
        if rows := pending.history_rows:
            latest = {row[1]: row for row in rows}
            gone = [(key,) for key, row in latest.items() if row[2] is None]
            self._db.executemany("DELETE FROM keys WHERE key = ?", gone)
            put = [row[:5] for row in latest.values() if row[2] is not None]
            insert_rows(
                self._db, "REPLACE INTO keys(revision, key, value, created_revision, lease)", put
            )
            insert_rows(self._db, "INSERT INTO history", rows)
            self.bytes_written += sum([512 + 2 * len(row[2] or b"") for row in rows])
            pending.history_rows = []
        if pending.operation_rows:
            insert_rows(self._db, "REPLACE INTO operations", pending.operation_rows)
            pending.operation_rows = []

    def _remember(self) -> None:
        """Keep for the next groups what this one, now durable, changed."""
        if len(self._keys) > REMEMBERED_KEYS:
            self._keys.clear()
        for key, item in self._pending.keys.items():
            self._keys[key] = item
            if item is not None and len(item.value) > REMEMBERED_BYTES:
                del self._keys[key]
        self._operations.update(self._pending.operations)
        while len(self._operations) > REMEMBERED_OPERATIONS:
            oldest = next(iter(self._operations))
            self._operations_since = self._operations.pop(oldest)[1]

    def _forget(self) -> None:
        """Remove a few rows that are older than the limits, and say so in ``compacted``."""
        horizon = min(self.revision - self._history_commits_max, self.compacted + FORGET_ROWS)
        if horizon > self.compacted:
            self._db.execute("DELETE FROM history WHERE revision <= ?", (horizon,))
            self.compacted = horizon
        old = "DELETE FROM operations WHERE op_id IN (SELECT op_id FROM operations WHERE "
        self._db.execute(f"{old} minted < ? LIMIT {FORGET_ROWS})", (self.compacted,))
        self._db.execute(
            f"{old} minted IS NULL AND time_us < ? LIMIT {FORGET_ROWS})",
            (self._time.last_us - self._retention_us,),
        )

    def _read_clocks(self) -> None:  # once per group, whose operations are concurrent
        self._now = (self._clock.wall_us(), self._clock.elapsed_s())

    def _next_us(self) -> int:
        return self._time.next_us(*self._now)

    # --- View: what rules.decide asks ---

    def find(self, key: str) -> KeyValue | None:
        """Return the key as it stands."""
        if key in self._pending.keys:
            return self._pending.keys[key]
        if key in self._keys:
            return self._keys[key]
        row = self._db.execute(_KEY + "WHERE key = ?", (key,)).fetchone()
        found = KeyValue(*row) if row is not None else None
        if found is None or len(found.value) <= REMEMBERED_BYTES:
            self._keys[key] = found
        return found

    def keys_under(self, prefix: str) -> list[str]:
        """Return the keys that start with ``prefix``, in order."""
        self._flush()
        rows = self._db.execute(
            "SELECT key FROM keys WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, prefix + LAST_CODE_POINT),
        )
        return [key for (key,) in rows]

    def changed(self, prefix: str, since: int) -> bool:
        """Say whether anything under ``prefix`` was, or may have been, changed after ``since``."""
        if not self.compacted <= since <= self.revision:
            return True
        for revision, rows in self._pending.commits:
            if revision > since and rows_under(rows, prefix):
                return True
        row = self._db.execute(
            "SELECT 1 FROM history WHERE revision > ? AND key >= ? AND key < ? LIMIT 1",
            (since, prefix, prefix + LAST_CODE_POINT),
        ).fetchone()
        return row is not None

    def lease_alive(self, lease: str) -> bool:
        """Say whether the lease is alive."""
        return lease in self._leases

    # --- operations ---

    def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write],
        op_id: str,
        content: bytes,
    ) -> Commit:
        """Decide and write; see ``Store.commit``."""
        minted = rules.minted_revision(op_id, self.epoch, self.revision)
        record = self._recorded(op_id, minted)
        if record is not None:
            if record[0] != content:
                raise OperationIdReusedError(op_id)
            return replace(_commit_of(record), replayed=True)
        failed = rules.decide(self, compares)
        if failed and not otherwise:
            current = {key: self.find(key) for key in rules.compared_keys(compares)}
            raise ConflictError(failed, current, self.revision)
        chosen = otherwise if failed else writes
        for write in chosen:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise LeaseExpiredError(write.lease)
        time_us = self._next_us()
        if chosen:
            self._write(chosen, time_us)
        record = (content, self.revision, not failed, time_us)
        if chosen:
            self._record(op_id, record, minted)
        return _commit_of(record)

    def _write(self, writes: Sequence[Write], time_us: int) -> None:
        revision = self.revision + 1
        changes = rules.effects(self, writes, revision)
        self.revision = revision
        for change in changes:
            self._pending.keys[change.key] = change.current
        rows = tuple([row_of(change, revision, time_us) for change in changes])
        self._pending.history_rows += rows
        self._pending.commits.append((revision, rows))

    def _record(self, op_id: str, record: _Record, minted: int | None) -> None:
        self._pending.operations[op_id] = record
        self._pending.operation_rows.append((op_id, *record, minted))

    def resolve(self, op_id: str) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        minted = rules.minted_revision(op_id, self.epoch, self.revision)
        try:
            record = self._recorded(op_id, minted)
        except OpIdFencedError:
            return Fenced(op_id)
        if record is not None:
            return Applied(_commit_of(record), record[0])
        # Counted as a revision, so that its record is later than the op_id's own revision.
        self.revision += 1
        self._record(op_id, (None, self.revision, False, self._next_us()), minted)
        return Fenced(op_id)

    def _recorded(self, op_id: str, minted: int | None) -> tuple[bytes, int, bool, int] | None:
        if minted is not None and minted < self.compacted:
            raise OpIdExpiredError(op_id)
        record = self._pending.operations.get(op_id) or self._operations.get(op_id)
        if record is None:
            # Its record would be of a later revision than its own: no need to look further back.
            if minted is not None and minted >= self._operations_since:
                return None
            record = self._recorded_in_file(op_id)
            if record is None:
                return None
        content, revision, succeeded, time_us = record
        if minted is None:
            now_us = max(self._now[0], self._time.last_us)
            if now_us - time_us > self._retention_us:
                return None  # a caller's own op_id, and as good as forgotten
        if content is None:
            raise OpIdFencedError(op_id)
        return content, revision, succeeded, time_us

    def _recorded_in_file(self, op_id: str) -> _Record | None:
        row = self._db.execute(
            "SELECT content, revision, succeeded, time_us FROM operations WHERE op_id = ?",
            (op_id,),
        ).fetchone()
        if row is None:
            return None
        content, revision, succeeded, time_us = row
        return content, revision, bool(succeeded), time_us

    # --- leases ---

    def grant(self, ttl_s: float) -> Lease:
        """Grant a lease."""
        if len(self._leases) >= LEASES_MAX:
            raise TooManyRequestsError(f"{LEASES_MAX} leases are alive")
        lease = Lease(secrets.token_hex(10), ttl_s)
        self._db.execute("INSERT INTO leases VALUES (?, ?)", (lease.id, ttl_s))
        self._leases.start(lease.id, ttl_s, self._clock.elapsed_s())
        self._touched.append((lease.id, 0.0, 0.0))
        return lease

    def renew(self, lease: str) -> Lease:
        """Start the lease's time anew; renewals are not written, a restart renews them all."""
        ttl_s = self._leases.ttl_s(lease)
        if ttl_s is None:
            raise LeaseExpiredError(lease)
        self._leases.start(lease, ttl_s, self._clock.elapsed_s())
        return Lease(lease, ttl_s)

    def revoke(self, lease: str) -> None:
        """End the lease and delete its keys."""
        if lease in self._leases:
            self._touch(lease)
            self._end(lease)

    def _end(self, lease: str) -> None:
        self._flush()
        rows = self._db.execute("SELECT key FROM keys WHERE lease = ?", (lease,)).fetchall()
        if rows:
            self._write([Delete(key) for (key,) in rows], self._next_us())
        self._db.execute("DELETE FROM leases WHERE lease = ?", (lease,))
        self._leases.end(lease)

    def _touch(self, lease: str) -> None:
        """Have ``abandon`` restore the lease, with a deadline that is reached."""
        ttl_s = self._leases.ttl_s(lease) or 0.0
        self._touched.append((lease, ttl_s, self._clock.elapsed_s() - ttl_s))


def _commit_of(record: _Record) -> Commit:
    return Commit(record[1], record[2], utc(record[3]))

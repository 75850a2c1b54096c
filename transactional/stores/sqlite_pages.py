"""The store's rows as its readers' threads see them.

Each group of reads shares one snapshot.  A reader of a write-ahead log sees a commit only after its
frames are synced (SQLite publishes the log's index last), so what is read here is durable.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from transactional.stores.feed import event_of, rows_under
from transactional.values import LAST_CODE_POINT, Compacted, KeyValue, Snapshot, WatchEvent

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

HISTORY_ROWS: Final = 500
"""About how many rows of history one page reads; a commit is never cut."""

_KEY = "SELECT key, value, revision, created_revision, lease FROM keys "


class Pages:
    """What a read-only connection reads; one group of reads shares one snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def begin(self) -> None:
        """Take the snapshot."""
        self._db.execute("BEGIN")

    def end(self) -> None:
        """Let go of the snapshot."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _revision(self) -> int:
        (revision,) = self._db.execute("SELECT revision FROM meta").fetchone()
        return int(revision)

    def get(self, key: str) -> KeyValue | None:
        """Return one key."""
        row = self._db.execute(_KEY + "WHERE key = ?", (key,)).fetchone()
        return KeyValue(*row) if row is not None else None

    def get_many(self, keys: Sequence[str]) -> Snapshot:
        """Return several keys at one revision."""
        found = {key: item for key in sorted(set(keys)) if (item := self.get(key)) is not None}
        return Snapshot(self._revision(), found)

    def scan(self, prefix: str, after: str | None, limit: int) -> Snapshot:
        """Return one page of keys under ``prefix`` behind ``after``."""
        first = "key > ?" if after is not None and after >= prefix else "key >= ?"
        rows = self._db.execute(
            f"{_KEY} WHERE {first} AND key < ? ORDER BY key LIMIT ?",
            (max(prefix, after or ""), prefix + LAST_CODE_POINT, limit + 1),
        ).fetchall()
        found = {row[0]: KeyValue(*row) for row in rows[:limit]}
        return Snapshot(self._revision(), found, more=len(rows) > limit)

    def history(self, cursor: int, prefix: str) -> tuple[int, list[WatchEvent | Compacted]]:
        """Return (new cursor, events under ``prefix``) for a stretch of commits after ``cursor``.

        The cursor stays where it is when there is nothing more.
        """
        (compacted,) = self._db.execute("SELECT compacted FROM meta").fetchone()
        if cursor < compacted:
            return compacted, [Compacted(cursor, compacted)]
        last = self._db.execute(
            "SELECT revision FROM history WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?",
            (cursor, HISTORY_ROWS - 1),
        ).fetchone()
        end = last[0] if last is not None else self._revision()
        rows = self._db.execute(
            "SELECT revision, key, value, created_revision, lease, time_us FROM history"
            " WHERE revision > ? AND revision <= ? ORDER BY revision, key",
            (cursor, end),
        ).fetchall()
        commits = (tuple(group) for _, group in groupby(rows, key=itemgetter(0)))
        return end, [event_of(mine) for rows in commits if (mine := rows_under(rows, prefix))]

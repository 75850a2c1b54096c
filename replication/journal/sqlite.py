"""A journal in one SQLite file.

Theory of operation. WAL with `synchronous=FULL`: a commit returns after its log is on the disk
(with NORMAL an acknowledged write can be lost to a power cut). Rows are opaque; the vector is kept
beside them and changes in the same transaction.

Two files are beside the database: `-wal`, SQLite's own, and `.lock`. An exclusive `flock` on the
latter keeps a second process out, and its content, a nonce and a number, witnesses what a restored
database has forgotten. Each boot writes a fresh nonce into the database and then into the lock
file; each commit raises the number in both, in that order. At the next boot the lock file must
hold the database's nonce (or the one before: a crash between the two writes) and a number no
greater than the database's, and the database must be the same file (device and inode). A copy, a
moved file, a restored backup, be it written *into* the original file, all fail that test:
continuity is broken until somebody writes under a new incarnation. A machine that is rolled back
as a whole takes the lock file with it (see docs/guarantees.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from replication.errors import JournalFailedError, JournalHeldError, JournalUnreadableError
from replication.journal.base import Entry, Recovered
from replication.protocol import MemberClaim, Row, Status

FORMAT = 1
LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
APPLICATION_ID = 0x434E5643  # "CNVC": tells our files from other SQLite databases

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE rows (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE vector (origin TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), data BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """The small facts that a journal keeps about itself."""

    replica: str = ""
    boots: int = 0
    lease: int = 0
    nonce: str = ""
    nonce_before: str = ""
    inode: str = ""
    commits: int = 0
    broken: int = 0
    book: str = "[]"


class SqliteJournal:
    """One file, one process, one replica.

    Args:
        path: the database; created if absent. Its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._vector: dict[str, int] = {}
        self._nonce = ""
        self._commits = 0
        self._replica = ""
        self._written: Entry | None = None

    # ------------------------------------------------------------------------------ opening

    def open(self) -> Recovered:
        """Lock, check, read everything; O(size of the log)."""
        self._take_lock()
        try:
            continuous = self._open_database()
            return self._read(continuous=continuous)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise JournalUnreadableError(f"{self._path} cannot be read: {error}") from error
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            lock = os.open(self._path.with_name(self._path.name + ".lock"), LOCK_FLAGS, 0o644)
        except OSError as error:
            raise JournalUnreadableError(
                f"{self._path} cannot be opened: {error.strerror}",
                hint="its directory must exist and be writable",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise JournalHeldError(f"{self._path} is held by another process") from error
        self._lock = lock

    def _open_database(self) -> bool:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db = db
        # A crash of the very first boot may leave an empty file, or one with a header and no table.
        fresh = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not fresh:
            ours = db.execute("PRAGMA application_id").fetchone()[0]
            if ours != APPLICATION_ID:
                raise JournalUnreadableError(f"{self._path} is a database, but no journal")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != FORMAT:
                raise JournalUnreadableError(
                    f"{self._path} has journal format {version}; this build reads {FORMAT}"
                )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if fresh:
            db.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT}")
            db.execute("COMMIT")
        return self._begin_boot()

    def _begin_boot(self) -> bool:
        """Read the facts, decide on continuity, write this boot's nonce to both files."""
        facts = self._facts()
        place = self._path.stat()
        inode = f"{place.st_dev}:{place.st_ino}"
        nonce, commits = self._witness()
        continuous = (
            not facts.broken
            and nonce in {facts.nonce, facts.nonce_before} - {""}
            and commits <= facts.commits
            and inode == facts.inode
        )
        self._nonce, self._commits = secrets.token_hex(8), facts.commits
        self._remember(
            nonce=self._nonce,
            nonce_before=nonce if continuous else "",
            inode=inode,
            boots=facts.boots + 1,
            broken=int(bool(facts.replica) and not continuous),
        )
        self._testify()
        os.fsync(self._held())
        return continuous

    def _remember(self, **facts: str | int) -> None:
        """Write facts in a transaction of their own."""
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())
        db.execute("COMMIT")

    def _witness(self) -> tuple[str, int]:
        """What the lock file says: the nonce of the last boot and how many commits there were."""
        nonce, _, commits = os.pread(self._held(), 64, 0).decode("ascii", "replace").partition(" ")
        return nonce, int(commits) if commits.strip().isdigit() else 0

    def _testify(self) -> None:
        """Tell the lock file; after the database, so that a crash between them accuses nobody.

        Not synced for each commit: a power cut may leave the number too small, never too great.
        """
        os.pwrite(self._held(), f"{self._nonce} {self._commits:020d}\n".encode(), 0)

    def _facts(self) -> Facts:
        known = dict(self._connection().execute("SELECT name, value FROM facts"))
        return Facts(**{name: known[name] for name in Facts.__slots__ if name in known})

    def read(self) -> Recovered:
        """Everything durable, once more."""
        try:
            return self._read(continuous=True)
        except sqlite3.Error as error:
            raise JournalUnreadableError(f"{self._path} cannot be read: {error}") from error

    def _read(self, *, continuous: bool) -> Recovered:
        db, facts = self._connection(), self._facts()
        self._replica = facts.replica
        snapshot = db.execute("SELECT data FROM snapshot").fetchone()
        self._vector = dict(db.execute("SELECT origin, seq FROM vector"))
        return Recovered(
            replica=facts.replica,
            boots=facts.boots,
            continuous=continuous,
            lease=facts.lease,
            snapshot=snapshot[0] if snapshot else b"",
            rows=[Row(*row) for row in db.execute("SELECT kind, data FROM rows ORDER BY number")],
            vector=dict(self._vector),
            book=_book(facts.book),
        )

    # ------------------------------------------------------------------------------ writing

    def append(self, entry: Entry) -> None:
        """One transaction; durable when it returns."""
        db = self._connection()
        changed = {o: s for o, s in entry.vector.items() if self._vector.get(o) != s}
        try:
            db.execute("BEGIN IMMEDIATE")
            if entry.snapshot:
                db.execute("DELETE FROM rows")
                db.execute("REPLACE INTO snapshot VALUES (1, ?)", (entry.snapshot,))
            else:
                pairs = [(row.kind, row.data) for row in entry.rows]
                db.executemany("INSERT INTO rows (kind, data) VALUES (?, ?)", pairs)
            db.executemany("REPLACE INTO vector VALUES (?, ?)", changed.items())
            facts: dict[str, str | int] = {
                "replica": entry.replica,
                "lease": entry.lease,
                "commits": self._commits + 1,
            }
            if entry.replica != self._replica:
                facts["broken"] = 0
            if entry.book is not None:
                facts["book"] = json.dumps(
                    [[c.replica, c.address, c.incarnation, c.status] for c in entry.book]
                )
            db.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise JournalFailedError(f"{self._path} could not be written: {error}") from error
        self._vector.update(changed)
        self._commits += 1
        self._replica, self._written = entry.replica, entry
        with contextlib.suppress(OSError):  # the commit stands; a count too small accuses nobody
            self._testify()

    def backup_to(self, path: str | Path) -> None:
        """A consistent copy without identity: whoever opens it takes a new incarnation."""
        with sqlite3.connect(path) as copy:
            self._connection().backup(copy)
            copy.execute(
                "DELETE FROM facts WHERE name IN ('nonce', 'nonce_before', 'inode', 'commits')"
            )
        copy.close()

    def close(self) -> None:
        """Give back the unused lease - a clean stop, so the identity may go on -, then the hold."""
        if self._db is not None:
            if self._written is not None:
                self._give_back_lease(self._written)
            self._db.close()
            self._db, self._written = None, None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _give_back_lease(self, last: Entry) -> None:
        own = last.vector.get(last.replica, 0)
        try:
            self._remember(lease=own, commits=self._commits + 1)
            self._commits += 1
            self._testify()
        except (sqlite3.Error, OSError):
            return  # a stop that is not on the disk is no clean stop

    def _held(self) -> int:
        if self._lock is None:
            raise JournalFailedError(f"{self._path} is not open")
        return self._lock

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalFailedError(f"{self._path} is not open")
        return self._db


def _book(text: str) -> tuple[MemberClaim, ...]:
    return tuple(MemberClaim(r, a, n, Status(s)) for r, a, n, s in json.loads(text))

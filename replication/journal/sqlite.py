"""A journal in one SQLite file.

Theory of operation. WAL with `synchronous=FULL`: a commit returns after its log is on the disk
(with NORMAL an acknowledged write can be lost to a power cut). Rows are opaque; the vector is kept
beside them and changes in the same transaction.

Who holds it, and which files belong to it, is `files`' to say. The content of its `.lock`, a nonce
and a number, witnesses what a restored database has forgotten; beside them it notes the port that
was listened on, for whoever starts next. Each boot writes a fresh nonce into the database and then
into the lock file; each commit raises the number in both, in that order. At the next boot the lock
file must hold the database's nonce (or the one before: a crash between the two writes) and a number
no greater than the database's, and the database must be the same file (device and inode). A copy, a
moved file, a restored backup, be it written *into* the original file, all fail that test:
continuity is broken until somebody writes under a new incarnation. A machine that is rolled back as
a whole takes the lock file with it (see docs/guarantees.md).

The nonce is written before WAL is switched on, and WAL is switched off by a clean close: so a file
names the boot whose log may lie beside it. Whoever only wants to know (`look`) reads a copy of what
is there, or the file itself when it was closed; nothing is written and no boot is counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replication.errors import ConfigError, JournalFailedError, JournalUnreadableError
from replication.journal import files
from replication.journal.base import Entry, KeptOut, Recovered, check_vector, rebuild
from replication.protocol import MemberClaim, Row, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("replication")

FORMAT = 2
PORT_MAX = 65_535
APPLICATION_ID = 0x434E5643  # "CNVC": tells our files from other SQLite databases
IDENTITY = "'nonce', 'nonce_before', 'inode', 'commits'"

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

    Raises:
        ConfigError: that is not the path of a file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = journal_path(path)
        self._hold: files.Hold | None = None
        self._db: sqlite3.Connection | None = None
        self._vector: dict[str, int] = {}
        self._nonce = ""
        self._commits = 0
        self._replica = ""
        self._written: Entry | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """Where its agent listened last: the lock file says it to whoever has not opened it yet."""
        if self._port is None:
            try:
                lock = files.beside(Path(os.path.realpath(self._path)), ".lock")
                self._port = _port_in(lock.read_bytes()[:64])
            except OSError:
                return 0
        return self._port

    @port.setter
    def port(self, port: int) -> None:
        self._port = port

    # ------------------------------------------------------------------------------ opening

    def open(self) -> Recovered:
        """Lock, check, read everything; O(size of the log)."""
        self._path = Path(os.path.realpath(self._path))
        self._hold = files.Hold(self._path)
        try:
            self._set_strange_log_aside()
            continuous = self._open_database()
            return self._read(continuous=continuous)
        except (sqlite3.Error, OSError) as error:
            self._let_go()
            raise JournalUnreadableError(f"{self._path} cannot be read: {error}") from error
        except BaseException:
            self._let_go()
            raise

    def _set_strange_log_aside(self) -> None:
        files.check_links(self._path)
        nonce, _ = _testimony(os.pread(self._held(), 64, 0))
        if files.has_log(self._path) and files.log_is_strange(self._path, nonce):
            moved = ", ".join(map(str, files.move_aside(self._path)))
            facts = {"journal": str(self._path), "moved": moved}
            logger.warning("log-of-another-file", extra={"facts": facts})

    def _open_database(self) -> bool:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db = db
        assert self._hold is not None
        self._hold.connection = db
        # A crash of the very first boot may leave an empty file, or one with a header and no table.
        fresh = _is_fresh(db, self._path)
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=FULL")
        if fresh:
            db.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT}")
            db.execute("COMMIT")
        continuous = self._begin_boot()
        db.execute("PRAGMA journal_mode=WAL")
        return continuous

    def _begin_boot(self) -> bool:
        """Read the facts, decide on continuity, write this boot's nonce to both files."""
        facts = _facts(self._connection())
        inode = _inode(self._path)
        witness = _testimony(os.pread(self._held(), 64, 0))
        continuous = _continuous(facts, witness, inode)
        self._nonce, self._commits = secrets.token_hex(8), facts.commits
        self._remember(
            nonce=self._nonce,
            nonce_before=witness[0] if continuous else "",
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

    def _testify(self) -> None:
        """Tell the lock file; after the database, so that a crash between them accuses nobody.

        Not synced for each commit: a power cut may leave the number too small, never too great.
        """
        testimony = f"{self._nonce} {self._commits:020d} {self.port:05d}\n"
        os.pwrite(self._held(), testimony.encode(), 0)

    def read(self) -> Recovered:
        """Everything durable, once more."""
        try:
            return self._read(continuous=True)
        except sqlite3.Error as error:
            raise JournalUnreadableError(f"{self._path} cannot be read: {error}") from error

    def _read(self, *, continuous: bool) -> Recovered:
        recovered = _recovered(self._connection(), continuous=continuous)
        self._replica, self._vector = recovered.replica, dict(recovered.vector)
        return recovered

    # ------------------------------------------------------------------------------ writing

    def append(self, entry: Entry) -> None:
        """One transaction; durable when it returns."""
        db = self._connection()
        changed = {o: s for o, s in entry.vector.items() if self._vector.get(o) != s}
        try:
            db.execute("BEGIN IMMEDIATE")
            check_vector(entry, self._vector)
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
                    [
                        [c.replica, c.address, c.incarnation, c.status, c.journalled]
                        for c in entry.book
                    ]
                )
            db.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())
            db.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(db)
            raise JournalFailedError(f"{self._path} could not be written: {error}") from error
        except BaseException:
            _roll_back(db)
            raise
        self._vector.update(changed)
        self._commits += 1
        self._replica, self._written = entry.replica, entry
        with contextlib.suppress(OSError):  # the commit stands; a count too small accuses nobody
            self._testify()

    def close(self) -> None:
        """Give back the unused lease - a clean stop, so the identity may go on -, then the hold."""
        if self._hold is not None and self._hold.forked:  # all of it is the parent's
            self._db = self._hold = None
            return
        if self._db is not None:
            if self._written is not None:
                self._give_back_lease(self._written)
            with contextlib.suppress(
                sqlite3.Error
            ):  # somebody reads it: the log stays, that is all
                self._db.execute("PRAGMA journal_mode=DELETE")
        self._let_go()

    def _let_go(self) -> None:
        """Close what is open, as it is."""
        if self._db is not None:
            self._db.close()
            self._db, self._written = None, None
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def _give_back_lease(self, last: Entry) -> None:
        own = last.vector.get(last.replica, 0)
        try:
            self._remember(lease=own, commits=self._commits + 1)
            self._commits += 1
            self._testify()
        except (sqlite3.Error, OSError):
            return  # a stop that is not on the disk was not a clean one

    def _held(self) -> int:
        if self._hold is None or self._hold.forked:
            raise JournalFailedError(f"{self._path} is not open")
        return self._hold.witness

    def _connection(self) -> sqlite3.Connection:
        if self._db is None or (self._hold is not None and self._hold.forked):
            raise JournalFailedError(f"{self._path} is not open")
        return self._db


# ------------------------------------------------------------------------------ reading a file


def journal_path(path: object) -> Path:
    """The path of a journal, as an absolute one.

    Raises:
        ConfigError: no file can have it.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"a journal is the path of a file, not {path!r}", hint="journal='ada.db'")
    if text == ":memory:" or text.startswith("file:"):
        raise ConfigError(
            f"{text!r} is no file: a journal is what outlives its process",
            hint="leave `journal` out for an agent that is in memory only",
        )
    return Path(text).absolute()


def look(path: str | Path) -> Recovered:
    """What a journal holds that nobody uses, and whether a start would be continuous; O(size).

    Nothing is written, and no boot is counted: `boots` are those there were.

    Raises:
        JournalHeldError: its agent runs.
        JournalUnreadableError: it is not a journal, is damaged, or does not exist.
    """
    with _reading(path) as (db, real):
        try:
            witness = _testimony(files.beside(real, ".lock").read_bytes()[:64])
        except OSError:
            witness = "", 0
        return _recovered(db, continuous=_continuous(_facts(db), witness, _inode(real)))


def back_up(
    path: str | Path, target: str | Path, kept_out: list[KeptOut] | None = None
) -> list[Path]:
    """Copy a journal that nobody uses, without its identity: who opens it is somebody else.

    To restore one is to back it up to where a journal was: companions that were left there get new
    names, which are returned. With a list for `kept_out` it is said there which origins the copy
    will start without (see `rebuild`); else a journal that has some is not copied.

    Raises:
        JournalHeldError, JournalUnreadableError: `path` cannot be read (see `look`), `target`
            exists or is in use. Nothing was changed.
    """

    def write(part: Path) -> None:
        with _reading(path) as (db, _), contextlib.closing(sqlite3.connect(part)) as copy:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute(f"DELETE FROM facts WHERE name IN ({IDENTITY})")  # noqa: S608 - a constant
            copy.commit()
        with _reading(part) as (db, _):  # as a start would
            recovered = _recovered(db, continuous=False)
            rebuild(recovered, recovered.replica or "nobody~0", None, kept_out)

    return files.put_in_place(journal_path(target), write)


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[tuple[sqlite3.Connection, Path]]:
    """A connection that reads a sound journal as it is, and the real path of that."""
    real = Path(os.path.realpath(journal_path(path)))
    if not real.is_file():
        raise JournalUnreadableError(f"{path} does not exist", hint="check the path")
    files.check_not_held(real)
    files.check_links(real)
    try:
        with files.apart(real) as place:
            if place != real:
                lock = files.beside(real, ".lock")
                nonce = _testimony(lock.read_bytes()[:64])[0] if lock.exists() else ""
                if files.log_is_strange(place, nonce):
                    files.move_aside(place)
            how = "immutable=1" if place == real else "mode=rw"
            uri = f"{place.as_uri()}?{how}"
            with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
                if _is_fresh(db, real):
                    raise JournalUnreadableError(f"{real} is empty", hint="check the path")
                (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise JournalUnreadableError(f"{real} is damaged: {verdict}")
                yield db, real
    except (sqlite3.Error, OSError) as error:
        raise JournalUnreadableError(f"{real} cannot be read: {error}") from error


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _is_fresh(db: sqlite3.Connection, path: Path) -> bool:
    """Whether there is nothing in the file yet.

    Raises:
        JournalUnreadableError: there is something, which is not a journal of this format.
    """
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return True
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalUnreadableError(f"{path} is a database, but not a journal")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise JournalUnreadableError(
            f"{path} has journal format {version}; this build reads {FORMAT}"
        )
    return False


def _facts(db: sqlite3.Connection) -> Facts:
    known = dict(db.execute("SELECT name, value FROM facts"))
    return Facts(**{name: known[name] for name in Facts.__slots__ if name in known})


def _recovered(db: sqlite3.Connection, *, continuous: bool) -> Recovered:
    facts = _facts(db)
    snapshot = db.execute("SELECT data FROM snapshot").fetchone()
    return Recovered(
        replica=facts.replica,
        boots=facts.boots,
        continuous=continuous,
        descends=continuous,
        lease=facts.lease,
        snapshot=snapshot[0] if snapshot else b"",
        rows=[Row(*row) for row in db.execute("SELECT kind, data FROM rows ORDER BY number")],
        vector=dict(db.execute("SELECT origin, seq FROM vector")),
        book=_book(facts.book),
    )


def _testimony(text: bytes) -> tuple[str, int]:
    """What a lock file says: the nonce of the last boot and how many commits there were."""
    nonce, commits, *_ = [*text.decode("ascii", "replace").split(), "", ""]
    return nonce, int(commits) if commits.isdecimal() else 0


def _port_in(text: bytes) -> int:
    """The port that a lock file notes, 0 for none."""
    port = [*text.decode("ascii", "replace").split(), "", "", ""][2]
    return int(port) if port.isdecimal() and int(port) <= PORT_MAX else 0


def _inode(path: Path) -> str:
    place = path.stat()
    return f"{place.st_dev}:{place.st_ino}"


def _continuous(facts: Facts, witness: tuple[str, int], inode: str) -> bool:
    """Whether nothing that was ever sent can be missing; see above."""
    nonce, commits = witness
    return (
        not facts.broken
        and nonce in {facts.nonce, facts.nonce_before} - {""}
        and commits <= facts.commits
        and inode == facts.inode
    )


def _book(text: str) -> tuple[MemberClaim, ...]:
    return tuple(MemberClaim(r, a, n, Status(s), j) for r, a, n, s, j in json.loads(text))

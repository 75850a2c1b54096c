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

*At rest.* Each row, the snapshot and each entry of the vector lie beside a CRC-32 of theirs, and
the facts beside one of all of them, which include the number and the sum of the vector's. A row
that the disk has changed is given as one that cannot be read, so that its origin alone is kept out,
as for any row (see `base`); a row that is gone is missed by the vector. Of the rest nothing may be
wrong: a start refuses it. SQLite's own check of its pages comes first, for `CHECK_S_MAX` at most.

The nonce is written before WAL is switched on, and WAL is switched off by a clean close: so a file
names the boot whose log may lie beside it. Whoever only wants to know (`look`) reads a copy of what
is there, or the file itself when it was closed; nothing is written and no boot is counted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from crdt import VersionVector
from replication.errors import ConfigError, JournalFailedError, JournalUnreadableError
from replication.file_locks import read_at, write_at
from replication.journal import files
from replication.journal.base import Entry, KeptOut, Recovered, check_vector, rebuild
from replication.protocol import DELTA, MemberClaim, Row, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger("replication")

FORMAT = 3
FORMAT_BEFORE = 2
CHECK_S_MAX = 5.0
"""How long opening a journal may check its pages; a check that is not finished is told."""
CHECK_STEPS = 10_000
"""After so many instructions of SQLite's a check looks at the time."""
PORT_MAX = 65_535
APPLICATION_ID = 0x434E5643  # "CNVC": tells our files from other SQLite databases
IDENTITY = ("nonce", "nonce_before", "inode", "commits")

RESTORE = "restore a backup, or start without the file: peers bring back what they have"

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE vector (
    origin TEXT PRIMARY KEY, seq INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY CHECK (id = 1), data BLOB NOT NULL, checksum INTEGER NOT NULL
);
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
    origins: int = 0
    """How many entries the vector has."""
    vector_sum: int = 0
    """The sum of their checksums."""
    rows: int = 0
    """How many rows there are."""
    rows_sum: int = 0
    """The sum of their checksums."""
    checksum: int = 0
    """Of all the others."""


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
        self._vector = VersionVector()
        self._facts = Facts()
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
            self._check_log()
            continuous = self._open_database()
            return self._read(continuous=continuous)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self._let_go()
            why = f"{self._path} cannot be read: {error}"
            if _is_full(error):
                raise JournalUnreadableError(
                    why, hint="free disk space, then start again"
                ) from error
            raise JournalUnreadableError(why) from error
        except BaseException:
            self._let_go()
            raise

    def _set_strange_log_aside(self) -> None:
        files.check_links(self._path)
        nonce, _ = _testimony(read_at(self._held(), 64, 0))
        if files.has_log(self._path) and files.log_is_strange(self._path, nonce, _facts):
            moved = ", ".join(map(str, files.move_aside(self._path)))
            facts = {"journal": str(self._path), "moved": moved}
            logger.warning("log-of-another-file", extra={"facts": facts})

    def _check_log(self) -> None:
        """Look at file and log as they are: whoever opens them to write, cuts the log."""
        if files.has_log(self._path):
            uri = f"{self._path.as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
                self._check_commits(_facts(db))

    def _check_commits(self, facts: Facts) -> tuple[str, int]:
        witness = _testimony(read_at(self._held(), 64, 0))
        _check_commits(facts, witness, self._path)
        return witness

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
        elif _format(db) != FORMAT:
            _convert(db)
        _check_pages(db, self._path, limit_s=CHECK_S_MAX)
        continuous = self._begin_boot()
        db.execute("PRAGMA journal_mode=WAL")
        return continuous

    def _begin_boot(self) -> bool:
        """Read the facts, decide on continuity, write this boot's nonce to both files."""
        facts = self._facts = _facts(self._connection())
        inode = _inode(self._path)
        witness = self._check_commits(facts)
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
        known = _write_facts(db, self._facts, facts)
        db.execute("COMMIT")
        self._facts = known

    def _testify(self) -> None:
        """Tell the lock file; after the database, so that a crash between them accuses nobody.

        Not synced for each commit: a power cut may leave the number too small, never too great.
        """
        testimony = f"{self._nonce} {self._commits:020d} {self.port:05d}\n"
        write_at(self._held(), testimony.encode(), 0)

    def read(self) -> Recovered:
        """Everything durable, once more."""
        try:
            return self._read(continuous=True)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise JournalUnreadableError(f"{self._path} cannot be read: {error}") from error

    def _read(self, *, continuous: bool) -> Recovered:
        recovered = _recovered(self._connection(), continuous=continuous)
        self._replica, self._vector = recovered.replica, VersionVector(recovered.vector)
        return recovered

    # ------------------------------------------------------------------------------ writing

    def append(self, entry: Entry) -> None:
        """One transaction; durable when it returns."""
        db = self._connection()
        vector = VersionVector(entry.vector)
        changed = vector.changed(self._vector)
        try:
            db.execute("BEGIN IMMEDIATE")
            check_vector(entry, self._vector)
            before = (0, 0) if entry.snapshot else (self._facts.rows, self._facts.rows_sum)
            rows = [(row.kind, row.data, _row_sum(row.kind, row.data)) for row in entry.rows]
            if entry.snapshot:
                rows.clear()
                db.execute("DELETE FROM rows")
                snapshot = (entry.snapshot, crc32(entry.snapshot))
                db.execute("REPLACE INTO snapshot VALUES (1, ?, ?)", snapshot)
            else:
                db.executemany("INSERT INTO rows (kind, data, checksum) VALUES (?, ?, ?)", rows)
            sums = {origin: _vector_sum(origin, seq) for origin, seq in changed.items()}
            stands = [(origin, seq, sums[origin]) for origin, seq in changed.items()]
            db.executemany("REPLACE INTO vector VALUES (?, ?, ?)", stands)
            old = {origin: self._vector[origin] for origin in changed if origin in self._vector}
            less = sum([_vector_sum(origin, seq) for origin, seq in old.items()])
            facts: dict[str, str | int] = {
                "replica": entry.replica,
                "lease": entry.lease,
                "commits": self._commits + 1,
                "origins": self._facts.origins + len(changed) - len(old),
                "vector_sum": self._facts.vector_sum + sum(sums.values()) - less,
                "rows": before[0] + len(rows),
                "rows_sum": before[1] + sum([row[2] for row in rows]),
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
            known = _write_facts(db, self._facts, facts)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(db)
            raise JournalFailedError(f"{self._path} could not be written: {error}") from error
        except BaseException:
            _roll_back(db)
            raise
        whole = len(vector) >= len(self._vector)
        self._vector = vector if whole else self._vector.replaced(changed)
        self._facts = known
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
        return _recovered(db, continuous=_continuous(_facts(db), _left(real), _inode(real)))


def _is_full(error: Exception) -> bool:
    """Whether what is missing is room on the disk."""
    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return full or getattr(error, "errno", 0) in {errno.ENOSPC, getattr(errno, "EDQUOT", -1)}


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
            if _format(copy) != FORMAT:
                copy.isolation_level = None
                _convert(copy)
            nobody = {name: getattr(Facts(), name) for name in IDENTITY}
            _write_facts(copy, _facts(copy), nobody)
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
            witness = _left(real)
            if place != real and files.log_is_strange(place, witness[0], _facts):
                files.move_aside(place)
            how = "immutable=1" if place == real else "mode=rw"
            uri = f"{place.as_uri()}?{how}"
            with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
                if _is_fresh(db, real):
                    raise JournalUnreadableError(f"{real} is empty", hint="check the path")
                _check_pages(db, real)
                _check_commits(_facts(db), witness, real)
                yield db, real
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
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
    if (version := _format(db)) not in {FORMAT, FORMAT_BEFORE}:
        raise JournalUnreadableError(
            f"{path} has journal format {version}; this build reads {FORMAT}"
        )
    return False


def _format(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _convert(db: sqlite3.Connection) -> None:
    """Bring a journal of the format before to this one; O(its size), all of it or nothing."""
    db.create_function("crc32", 1, crc32, deterministic=True)
    db.create_function("row_sum", 2, _row_sum, deterministic=True)
    db.create_function("vector_sum", 2, _vector_sum, deterministic=True)
    known = dict(db.execute("SELECT name, value FROM facts"))
    db.execute("BEGIN IMMEDIATE")
    try:
        for table, computed in (
            ("rows", "row_sum(kind, data)"),
            ("vector", "vector_sum(origin, seq)"),
            ("snapshot", "crc32(data)"),
        ):
            db.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
            db.execute(f"UPDATE {table} SET checksum = {computed}")  # noqa: S608 - ours
        origins, total = db.execute("SELECT count(*), total(checksum) FROM vector").fetchone()
        rows, sums = db.execute("SELECT count(*), total(checksum) FROM rows").fetchone()
        counted = {
            "origins": origins,
            "vector_sum": int(total),
            "rows": rows,
            "rows_sum": int(sums),
        }
        _write_facts(db, Facts(**known), counted)
        db.execute(f"PRAGMA user_version={FORMAT}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


# ------------------------------------------------------------------------------ at rest


def _row_sum(kind: str, data: bytes) -> int:
    return crc32(data, crc32(kind.encode()))


def _vector_sum(origin: str, seq: int) -> int:
    return crc32(f"{origin}\0{seq}".encode())


def _facts_sum(facts: Facts) -> int:
    said = [getattr(facts, name) for name in Facts.__slots__ if name != "checksum"]
    return crc32("\0".join(map(str, said)).encode())


def _write_facts(db: sqlite3.Connection, known: Facts, changes: Mapping[str, str | int]) -> Facts:
    """Write facts, with their checksum, into the open transaction; what they all are then."""
    facts = replace(known, **changes)  # type: ignore[arg-type]  # each by its own type
    facts = replace(facts, checksum=_facts_sum(facts))
    written = [*changes, "checksum"]
    pairs = [(name, getattr(facts, name)) for name in written]
    db.executemany("REPLACE INTO facts VALUES (?, ?)", pairs)
    return facts


def _check_pages(db: sqlite3.Connection, path: Path, *, limit_s: float = math.inf) -> None:
    """Have SQLite look at the pages of the file, for about that long. O(size).

    Raises:
        JournalUnreadableError: it found something.
    """
    end_s = time.monotonic() + limit_s
    db.set_progress_handler(lambda: time.monotonic() > end_s, CHECK_STEPS)
    try:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        facts = {"journal": str(path), "limit_s": limit_s}
        logger.warning("pages-not-checked", extra={"facts": facts})
    else:
        if verdict != "ok":
            raise JournalUnreadableError(f"{path} is damaged: {verdict}", hint=RESTORE)
    finally:
        db.set_progress_handler(None, 0)


def _damaged(what: str) -> JournalUnreadableError:
    return JournalUnreadableError(f"the journal's {what} is not what was written", hint=RESTORE)


def _facts(db: sqlite3.Connection) -> Facts:
    """The facts of a journal that were written.

    Raises:
        JournalUnreadableError: they are not these.
    """
    known = dict(db.execute("SELECT name, value FROM facts"))
    if not known:
        return Facts()
    if not known.keys() <= set(Facts.__slots__):
        raise _damaged("identity")
    facts = Facts(**known)
    if _format(db) == FORMAT and _facts_sum(facts) != facts.checksum:
        raise _damaged("identity")
    return facts


def _vector(db: sqlite3.Connection, facts: Facts) -> dict[str, int]:
    found = db.execute("SELECT origin, seq, checksum FROM vector").fetchall()
    sums = [_vector_sum(origin, seq) for origin, seq, _ in found]
    if sums != [row[2] for row in found]:
        raise _damaged("vector")
    if (len(sums), sum(sums)) != (facts.origins, facts.vector_sum):
        raise _damaged("vector")
    return {origin: seq for origin, seq, _ in found}


def _rows(db: sqlite3.Connection) -> list[Row]:
    """The rows; in the place of one that the disk has changed stands one that nobody can read."""
    found = db.execute("SELECT kind, data, checksum FROM rows ORDER BY number").fetchall()
    return [
        Row(kind, data) if _is_whole(kind, data, checksum) else Row(DELTA, b"")
        for kind, data, checksum in found
    ]


def _is_whole(kind: object, data: object, checksum: object) -> bool:
    if not (isinstance(kind, str) and isinstance(data, bytes)):
        return False
    return _row_sum(kind, data) == checksum


def _snapshot(db: sqlite3.Connection) -> bytes:
    found = db.execute("SELECT data, checksum FROM snapshot").fetchall()
    if not found:
        return b""
    ((data, checksum),) = found
    if not isinstance(data, bytes) or crc32(data) != checksum:
        raise _damaged("snapshot")
    return data


def _recovered(db: sqlite3.Connection, *, continuous: bool) -> Recovered:
    if _format(db) != FORMAT:
        raise JournalUnreadableError(
            f"the journal has format {FORMAT_BEFORE}", hint="a start of its agent converts it"
        )
    facts = _facts(db)
    return Recovered(
        replica=facts.replica,
        boots=facts.boots,
        continuous=continuous,
        descends=continuous,
        lease=facts.lease,
        snapshot=_snapshot(db),
        rows=_rows(db),
        vector=_vector(db, facts),
        book=_book(facts.book),
    )


def _testimony(text: bytes) -> tuple[str, int]:
    """What a lock file says: the nonce of the last boot and how many commits there were."""
    nonce, commits, *_ = [*text.decode("ascii", "replace").split(), "", ""]
    return nonce, int(commits) if commits.isdecimal() else 0


def _left(path: Path) -> tuple[str, int]:
    """What the last boot of a journal that nobody uses left in its lock file, if there is one."""
    try:
        return _testimony(files.beside(path, ".lock").read_bytes()[:64])
    except OSError:
        return "", 0


def _port_in(text: bytes) -> int:
    """The port that a lock file notes, 0 for none."""
    port = [*text.decode("ascii", "replace").split(), "", "", ""][2]
    return int(port) if port.isdecimal() and int(port) <= PORT_MAX else 0


def _inode(path: Path) -> str:
    place = path.stat()
    return f"{place.st_dev}:{place.st_ino}"


def _check_commits(facts: Facts, witness: tuple[str, int], path: Path) -> None:
    """Assert that a database has come as far as its lock file says of the same boot.

    Raises:
        JournalUnreadableError: commits are gone.
    """
    nonce, commits = witness
    if nonce in {facts.nonce, facts.nonce_before} - {""} and commits > facts.commits:
        raise JournalUnreadableError(
            f"{path}: commits up to {commits} were made durable, and file and log come to"
            f" {facts.commits}: the log is damaged or removed, or an older copy was put here",
            hint=f"restore a backup; or, to start without them as a new incarnation, keep a copy"
            f" and move {path.name}.lock away",
        )


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

"""The database file: who may open it, how it is set up, copied and checked.

One process owns the file.  It holds an advisory lock on ``FILE-lock`` (its own file: closing any
descriptor of the database itself would drop SQLite's POSIX locks), so a second authority fails at
once and the kernel frees the lock when the owner dies, however it dies.  The path is resolved
first, so that a symbolic link is not a second file; a file with two hard links, whose names would
have a log each, is refused.  The lock file can be removed by hand: the lock is not the last word,
and every group of writes checks that the file stands where this owner left it (``State.begin``);
an owner that finds another's commits in it writes no more.

The owner has one writing connection; all others are read-only and never checkpoint.  That keeps
clear of SQLite's WAL-reset bug (before 3.51.3), which needs two that write or checkpoint.

``synchronous=FULL`` is what makes an acknowledgement mean something: with NORMAL a WAL commit is
not synced, and a power cut takes acknowledged commits with it (tests/power_cut.py shows both).

A copy made by ``backup`` is another life of the store: it has a new epoch, and its revisions go on
2**32 above the original's, so no token issued after the copy was made can match in it.  It is
opened once before it gets its name.

SQLite plays a left-over log into whatever file stands beside it; if that is a copy that somebody
put back, the two make one damaged file.  So an owner that finds a log compares epochs first: of the
file alone, and of the file as the log leaves it.  A log of another life is moved aside
(``FILE-wal.aside-1``); one of this life that does not add up is refused, and both are left alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

from transactional.clock import AWAY_S_MAX, JUMP_S_MAX, utc
from transactional.errors import (
    ClockJumpedError,
    CorruptStoreError,
    InvalidRequestError,
    StoreFullError,
    StoreIOError,
    StoreLockedError,
    TransactionalError,
    UnavailableError,
    UnsafeFilesystemError,
)
from transactional.file_locks import OPEN_FLAGS, lock, read_at, restrict, write_at
from transactional.stores import sqlite_schema as schema
from transactional.stores.retention import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECK_S_MAX: Final = 5.0
"""How long opening a file may check it; what there is no time for is told."""
CHECKED_BYTES_MAX: Final = 1 << 30
"""The pages of a larger file are not checked when it is opened: SQLite does it all at once."""
BUSY_TIMEOUT_S: Final = 1.0
"""How long a foreign lock is waited for before the group is refused as unavailable."""
PRIVATE: Final = 0o600
"""Values are not encrypted: what is made here is for its owner's eyes."""
WAL_ATTEMPTS: Final = 40
WAL_PAUSE_S: Final = 0.05
COMPLAINTS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What is raised if the file cannot be read or written; see ``translate``."""
KINDS_MAX: Final = 100
"""So many kinds of keys are told one by one; names of a user's own may be of as many as keys."""
OTHERS: Final = "keys (of other names)"
UNCLEAN: Final = "unclean"
"""In a lock file: the file may hold bytes of values that were to be forgotten."""
_log = logging.getLogger(__name__)
_COMPANIONS: Final = ("-wal", "-shm", "-journal")
REVISION_GAP: Final = 1 << 32
"""How far a restored copy's revisions start above its original's."""
NETWORK_FILESYSTEMS: Final = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|gfs2|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2|smb(2|3|fs)"
    r"|fuse\.(ceph|davfs|glusterfs|s3fs|sshfs)"
)


def translate(error: sqlite3.Error | UnicodeDecodeError) -> TransactionalError:
    """Return SQLite's complaint as ours.  For errors *before* or *instead of* a commit.

    A text that is none is damage, and Python's ``sqlite3`` meets it in rows and in messages.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = f"SQLite: {error}"
    if isinstance(error, UnicodeDecodeError) or text.startswith("SQLite: Could not decode"):
        return CorruptStoreError(text)
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(text)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return UnavailableError(f"another process locks the database ({error})", retry_after_s=1.0)
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return CorruptStoreError(text)
    return StoreIOError(text)


def of_system(where: str, error: OSError) -> StoreFullError | StoreIOError:
    """Return what the system refused as ours: no room left, which heals, or something else."""
    text = f"{where}: {error.strerror or error}"
    if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return StoreFullError(text)
    return StoreIOError(text)


class FileLock:
    """The right to be the authority of one file; freed by ``close`` or by the process's end."""

    def __init__(self, path: Path) -> None:
        name = _lock_of(path)
        while True:
            self._fd, self._release = _locked(name, path)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), name.stat()):
                    break
            os.close(self._fd)  # removed before it was locked: it locks nothing
            self._release()
        _, self.epoch_before, self.revision_before, self.unclean = _witness(self._fd)
        self._path = name
        self._epoch = self.epoch_before
        is_new = os.fstat(self._fd).st_size == 0
        try:
            self.note(self.revision_before)
        except OSError as error:  # a full disk: what was begun must not lie there for good
            self.close(remove=is_new)
            raise of_system(f"cannot write {name}", error) from error

    def owned(self, epoch: str, revision: int) -> None:
        """Write down whose log may lie beside the file should this owner die."""
        self._epoch = epoch
        self.note(revision)

    def note(self, revision: int) -> None:
        """Write down that the file, with its log, has come to this revision.

        It is not synced: a power cut may leave a number too small, never one too great.
        """
        self._revision = revision
        last = UNCLEAN if self.unclean else "-" * len(UNCLEAN)
        text = f"{os.getpid():010} {self._epoch or '-':<16} {revision:020} {last}\n"
        write_at(self._fd, text.encode(), 0)

    def mark(self, *, unclean: bool) -> None:
        """Write down whether the file may hold bytes of values that were forgotten; synced."""
        self.unclean = unclean
        self.note(self._revision)
        os.fsync(self._fd)

    def close(self, *, remove: bool = False) -> None:
        """Free the file; `remove` leaves no trace."""
        if self._fd >= 0:
            if remove:  # while it is locked: who waits for it sees that it is not the one any more
                with contextlib.suppress(PermissionError):  # Windows keeps what is open
                    self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
            self._release()


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + "-lock")


def _locked(name: Path, path: Path) -> tuple[int, Callable[[], None]]:
    """Lock the file ``name`` for the owner of ``path``; return its descriptor and what lets go."""
    try:
        make_private(name)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, PRIVATE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidRequestError(f"{path.parent} is not a directory") from error
    except OSError as error:
        raise of_system(f"cannot use {name}", error) from error
    try:
        return fd, lock(fd, name)
    except OSError as error:
        owner, *_ = _witness(fd)
        os.close(fd)
        raise StoreLockedError(f"{path} belongs to process {owner or 'unknown'}") from error


def _witness(fd: int) -> tuple[int, str, int, bool]:
    """Return what a lock file says: the owner's process, the epoch, how far he came, unclean."""
    words = read_at(fd, 80, 0).decode(errors="replace").split()
    pid, epoch, revision, last, *_ = [*words, "", "", "", ""]
    numbers = [int(text) if text.isdecimal() else 0 for text in (pid, revision)]
    return numbers[0], epoch, numbers[1], last == UNCLEAN


def set_strange_log_aside(path: Path, epoch_before: str) -> None:
    """Move the log beside ``path`` away if it is another file's; its owner holds the lock.

    ``epoch_before`` is that of the last owner, as its lock file tells.  O(size) if there is a log.

    Raises:
        CorruptStoreError: file and log are of one life and do not add up; both were left alone.
    """
    if not _has_log(path):
        return
    joined, alone = _epoch(path, "mode=ro", check=True), _epoch(path, "immutable=1", check=False)
    if joined is not None and alone in {joined, None}:  # None: it was never checkpointed, or half
        return
    sound = alone is not None and _epoch(path, "immutable=1", check=True) is not None
    if joined is not None and not sound and epoch_before in {joined, ""}:
        return  # power went in a checkpoint: a page is half written, and whole in the log
    if not sound or (joined is None and alone == epoch_before):
        raise CorruptStoreError(
            f"{path} and the log beside it, {path.name}-wal, do not fit together"
        )
    move_aside(path)


def _epoch(path: Path, how: str, *, check: bool) -> str | None:
    """Return the epoch of a file, with its log or without; None if it cannot be told."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True)) as connection:
            if check and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return None
            row = connection.execute("SELECT epoch FROM meta").fetchone()
    except COMPLAINTS:
        return None
    return str(row[0]) if row else None


def move_aside(path: Path) -> None:
    """Rename what is left of a file's companions, lest SQLite takes them for another's."""
    for companion in (path.with_name(path.name + suffix) for suffix in _COMPANIONS):
        if companion.exists():
            names = (companion.with_name(f"{companion.name}.aside-{n}") for n in range(1, 10_000))
            companion.rename(next(name for name in names if not name.exists()))


def real_path(path: Path) -> Path:
    """Return the one path that every way to the file leads to; locks and logs are named after it.

    Raises:
        UnsafeFilesystemError: the file has several hard links, so there is no such path.
    """
    real = Path(os.path.realpath(path))
    try:
        links = real.stat().st_nlink
    except OSError:
        return real  # absent, or out of reach: opening it will tell
    if links > 1 and real.is_file():
        raise UnsafeFilesystemError(f"{path} has {links} hard links, each with a log of its own")
    return real


def filesystem_of(path: PurePath, mounts: str) -> str:
    """Return the type of the file system that holds ``path``, from the text of mountinfo(5)."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def check_filesystem(path: Path) -> None:
    """Raise UnsafeFilesystemError if ``path`` lies on a network file system."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return  # no Linux: nothing to ask
    kind = filesystem_of(path.parent.resolve(), mounts)
    if NETWORK_FILESYSTEMS.fullmatch(kind):
        raise UnsafeFilesystemError(f"{path} lies on {kind}")


def connect_writer(
    path: Path, *, synchronous: str = "FULL", create: bool = True
) -> sqlite3.Connection:
    """Open (create, recover) the file for its owner, who holds the FileLock.

    ``synchronous`` is a parameter only so that the power-cut test can show what it is for.

    Raises:
        CorruptStoreError: the file is not ours, or empty and ``create`` is False; it is untouched.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        new = schema.is_new(connection)  # before the first change: it may be somebody else's
        if new and not create:
            raise CorruptStoreError(f"{path} is empty, not a store")
        if new:  # now or, with VACUUM, never: the switch to WAL writes the first page
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _set_wal(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        # Checkpoints are the writer thread's work, after it has answered.
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA temp_store=MEMORY")
        # The default of some builds; what must not be found again is rebuilt, see sqlite.py.
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("PRAGMA cache_size=-65536")  # KiB
        schema.register(connection)
        if new:
            schema.set_up(connection)
        elif schema.version_of(connection) != schema.FORMAT:
            _log.warning("%s is converted to format %d", path, schema.FORMAT)
            schema.convert(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open the file for reading while its owner has it open."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA query_only=ON")
    return connection


def _set_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; the switch does not honour the busy timeout, so it is repeated here."""
    for attempt in range(WAL_ATTEMPTS):
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if attempt == WAL_ATTEMPTS - 1 or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            if mode == "wal":
                return
        time.sleep(WAL_PAUSE_S)
    raise UnsafeFilesystemError("this file system cannot hold a write-ahead log")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """The file in its owner's hands: one connection that writes, three that cannot."""

    lock: FileLock
    writer: sqlite3.Connection
    points: sqlite3.Connection
    ranges: sqlite3.Connection
    patrol: sqlite3.Connection
    unchecked: tuple[str, ...]
    """What there was no time to check when it was opened."""

    @classmethod
    def open(
        cls, path: Path, wall_us: Callable[[], int], *, accept_clock: bool, check_s_max: float
    ) -> OpenFile:
        """Take the file, or leave it as it was and raise; see ``SQLiteStore.open``."""
        path = real_path(path)
        check_filesystem(path)
        trace = _has_lock_file(path)
        lock = FileLock(path)
        writer = None
        there = path.exists()
        try:
            set_strange_log_aside(path, lock.epoch_before)
            _check_log(path, lock)
            behind_s = _behind(path, wall_us(), accept=accept_clock)
            make_private(path)
            writer = connect_writer(path, create=not (there and lock.revision_before))
            unchecked = _check(path, lock, writer, check_s_max)
            if behind_s > JUMP_S_MAX and accept_clock:
                _take_back(writer, wall_us())
            meta = schema.Meta.read(writer)
            lock.owned(meta.epoch, meta.revision)
            points, ranges, patrol = [connect_reader(path) for _ in range(3)]
            return cls(lock, writer, points, ranges, patrol, unchecked)
        except BaseException as error:
            if writer is not None:
                writer.close()
            lock.close(remove=not (trace or lock.epoch_before))
            if isinstance(error, COMPLAINTS):
                raise translate(error) from error
            if isinstance(error, OSError):
                raise of_system(f"cannot use {path}", error) from error
            raise

    def close(self) -> None:
        """Move the log into the file and free it."""
        self.close_readers()
        self.writer.close()  # the last one checkpoints
        self.lock.close()

    def close_readers(self) -> None:
        """Close the connections that only read."""
        for reader in (self.points, self.ranges, self.patrol):
            reader.close()


def _check_log(path: Path, lock: FileLock) -> None:
    """Look at file and log as they are: whoever opens them to write, cuts the log when he closes.

    Raises:
        CorruptStoreError: commits are missing; some may lie behind what is damaged of the log.
    """
    if _has_log(path):
        with contextlib.closing(_connect_left(path)) as connection:
            if schema.is_new(connection) or schema.version_of(connection) != schema.FORMAT:
                return
            if lost := _lost_commits(lock.epoch_before, lock.revision_before, connection):
                raise CorruptStoreError(f"{path}: {lost[0]}")


def _check(
    path: Path, lock: FileLock, connection: sqlite3.Connection, limit_s: float
) -> tuple[str, ...]:
    """Look whether the disk still has what was written; return what there was no time for.

    Raises:
        CorruptStoreError: it has not.
    """
    problems = _lost_commits(lock.epoch_before, lock.revision_before, connection)
    found = schema.check(connection, limit_s=limit_s, bytes_max=CHECKED_BYTES_MAX)
    if problems := [*problems, *found.problems]:
        raise CorruptStoreError(f"{path}: {'; '.join(problems[:5])}")
    if found.unchecked:
        left = ", ".join(found.unchecked)
        _log.warning("%s: in %g s there was no time to check: %s", path, limit_s, left)
    return found.unchecked


def _lost_commits(epoch: str, revision: int, connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong if file and log have not come as far as their last owner had."""
    meta = schema.Meta.read(connection)
    if meta.epoch != epoch or meta.revision >= revision:
        return []
    text = (
        f"commits up to {revision} were made durable, and file and log come to"
        f" {meta.revision}: the log is damaged or gone, or an older file was put here (to go on"
        " with what is there, as another life: move the -lock beside it away, and `backup` it)"
    )
    return [text]


def _behind(path: Path, wall_us: int, *, accept: bool) -> float:
    """Return how far the wall clock is behind the store's last time; 0.0 if that has none yet.

    Raises:
        ClockJumpedError: they are too far apart, and that is not accepted.
    """
    last_us = 0
    with contextlib.suppress(*COMPLAINTS):  # no store yet, or no sound one: opening it will tell
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            (last_us,) = connection.execute("SELECT time_us FROM meta").fetchone()
    behind_s = (last_us - wall_us) / 1e6 if last_us else 0.0
    if abs(behind_s) > AWAY_S_MAX and not accept:
        raise ClockJumpedError(clock=utc(wall_us).isoformat(), store=utc(last_us).isoformat())
    return behind_s


def _take_back(writer: sqlite3.Connection, wall_us: int) -> None:
    """Set the store's time back; who was told a wrong one holds tokens of another life."""
    epoch = secrets.token_hex(4)
    _begin_another_life(writer, epoch, time_us=wall_us)
    _log.warning("the store's time was taken back; its epoch is %s from now on", epoch)


def backup(source: Path, target: Path) -> str:
    """Copy a store, in use or not, into a new file that is ready to serve; return its epoch.

    Raises:
        InvalidRequestError: ``source`` is missing or ``target`` exists.
        StoreLockedError: a removed ``target`` is still in use.
        CorruptStoreError: ``source`` is not a sound store of ours.
        StoreFullError, StoreIOError: the copy cannot be written; there is none.
    """
    if not source.exists():
        raise InvalidRequestError(f"{source} does not exist")
    target = Path(os.path.realpath(target.parent)) / target.name  # no link in its own name
    _check_free(target)
    epoch = secrets.token_hex(4)
    trace = _has_lock_file(target)
    lock = FileLock(target)  # it may be removed, and in use none the less
    try:
        with _private_directory(target) as directory:
            part = directory / target.name
            try:
                make_private(part)
                _copy(source, part, epoch)
            except COMPLAINTS as error:
                raise translate(error) from error
            move_aside(target)
            _link(part, target)
    except OSError as error:
        raise of_system(f"cannot write {target}", error) from error
    finally:
        lock.close(remove=not trace)
    parent = os.open(target.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)
    return epoch


def _check_free(target: Path) -> None:
    if os.path.lexists(target):  # a link to nowhere, too
        raise InvalidRequestError(f"{target} exists; a backup overwrites nothing")


@contextlib.contextmanager
def _private_directory(target: Path) -> Iterator[Path]:
    """Make a directory beside ``target`` that nobody else can enter, for as long as it is used."""
    try:
        made = tempfile.TemporaryDirectory(prefix=f".{target.name[:100]}.", dir=target.parent)
    except OSError as error:
        raise of_system(f"cannot write beside {target}", error) from error
    with made as directory:
        yield Path(directory)


def _link(part: Path, target: Path) -> None:
    """Give a file its name, unless something has that name."""
    try:
        os.link(part, target, follow_symlinks=False)
    except FileExistsError:
        _check_free(target)
        raise
    except (OSError, NotImplementedError):  # no hard links here: nearly as good
        _check_free(target)
        part.rename(target)
    else:
        part.unlink()


def make_private(path: Path) -> None:
    """Make an empty file for its owner's eyes, whatever the umask; one that is there stays.

    SQLite gives the mode of a database to its log and its journal.
    """
    try:
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, PRIVATE)
    except FileExistsError:
        return
    try:
        restrict(made, PRIVATE)
    finally:
        os.close(made)


def _copy(source: Path, part: Path, epoch: str) -> None:
    with (
        _any_connection(source) as (reading, lost),
        contextlib.closing(sqlite3.connect(part)) as writing,
    ):
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode=DELETE")
        writing.isolation_level = None
        schema.register(writing)
        if schema.version_of(writing) != schema.FORMAT:
            schema.convert(writing)
        if problems := [*lost, *schema.check(writing).problems]:
            raise CorruptStoreError(f"{source} is damaged: {'; '.join(problems[:5])}")
        _begin_another_life(writing, epoch)
        if _is_unclean(real_path(source)):
            writing.execute("VACUUM")
    with part.open("rb") as written:
        os.fsync(written.fileno())


def _is_unclean(path: Path) -> bool:
    """Say whether a file may hold bytes of values that were forgotten, as its lock file tells."""
    try:
        fd = os.open(_lock_of(path), os.O_RDONLY | OPEN_FLAGS)
    except OSError:
        return False
    try:
        return _witness(fd)[3]
    finally:
        os.close(fd)


def _begin_another_life(
    copy: sqlite3.Connection, epoch: str, *, time_us: int | None = None
) -> None:
    """History and minted op_ids belong to the old life; callers' own go with their effects."""
    copy.execute("BEGIN")
    for table in ("history", "changes", "moments"):
        copy.execute(f"DELETE FROM {table}")
    copy.execute("DELETE FROM operations WHERE minted >= 0")
    meta = schema.Meta.read(copy)
    floor = meta.revision + REVISION_GAP
    if time_us is None:
        time_us = meta.time_us
    totals = {table: schema.totals_of(copy, table) for table in meta.totals}
    schema.Meta(epoch, floor, floor, floor, floor, time_us, totals).write(copy)
    copy.execute("COMMIT")


@contextlib.contextmanager
def _any_connection(path: Path) -> Iterator[tuple[sqlite3.Connection, list[str]]]:
    """Connect as a reader: beside the authority, or to what it left, which is not changed.

    Also what the last owner's lock file says against it.
    """
    path = real_path(path)
    trace = _has_lock_file(path)
    try:
        lock = FileLock(path)
    except StoreLockedError:
        with contextlib.closing(connect_reader(path)) as connection:
            yield connection, []
        return
    except (StoreIOError, StoreFullError) as error:
        writable = os.access(
            path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids
        )
        if writable and not isinstance(error, StoreFullError):
            raise
        with _untouched(path) as found:
            yield found
        return
    try:
        with _left(path, lock.epoch_before, lock.revision_before) as found:
            yield found
    finally:
        lock.close(remove=not trace)


@contextlib.contextmanager
def _left(path: Path, epoch: str, revision: int) -> Iterator[tuple[sqlite3.Connection, list[str]]]:
    """Connect to a file that nobody uses, and say what its last owner's word is against it."""
    set_strange_log_aside(path, epoch)
    with contextlib.closing(_connect_left(path)) as connection:
        if schema.is_new(connection):
            raise CorruptStoreError(f"{path} is empty, not a store")
        now = schema.version_of(connection) == schema.FORMAT
        yield connection, _lost_commits(epoch, revision, connection) if now else []


def _connect_left(path: Path) -> sqlite3.Connection:
    """Open a file that nobody uses for reading: with its log, which stays, or as it is."""
    how = "mode=ro" if _has_log(path) else "immutable=1"
    uri = f"{path.as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def _has_log(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


@contextlib.contextmanager
def _untouched(path: Path) -> Iterator[tuple[sqlite3.Connection, list[str]]]:
    """Connect in a place that cannot be written: a snapshot, a disk that was mounted to be read.

    A log needs an index beside it, so a file that has one is copied to where there may be one.
    """
    name, epoch, revision = _lock_of(path), "", 0
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(name, os.O_RDONLY | OPEN_FLAGS)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreIOError(f"cannot read {name}: {error.strerror}") from error
        else:
            stack.callback(os.close, fd)
            try:
                stack.callback(lock(fd, name, shared=True))
            except OSError:  # it is used, by somebody who may write here
                yield stack.enter_context(contextlib.closing(connect_reader(path))), []
                return
            _, epoch, revision, _ = _witness(fd)
        place = path
        if _has_log(path):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="convoca-"))
            place = Path(directory) / path.name
            for end in ("", "-wal"):
                shutil.copyfile(path.with_name(path.name + end), place.with_name(place.name + end))
        yield stack.enter_context(_left(place, epoch, revision))


def _has_lock_file(path: Path) -> bool:
    return _lock_of(path).exists()


def stats(path: Path) -> list[Share]:
    """Return what takes how much: the file, its tables, and the keys by kind; O(file).

    Of the kinds the ``KINDS_MAX`` largest are told, and all others in one sum.

    ``table NAME`` is a table with its pages, ``keys NAME`` the keys that begin with that, with the
    bytes of names and values; ``free pages`` are used again before the file grows.

    Raises:
        InvalidRequestError, CorruptStoreError: as ``verify``.
    """
    if not path.exists():
        raise InvalidRequestError(f"{path} does not exist")
    try:
        with _any_connection(path) as (connection, _):
            if told := _older_format(connection, path):
                raise InvalidRequestError(told)
            return list(_shares(connection, path))
    except COMPLAINTS as error:
        raise translate(error) from error


def _shares(connection: sqlite3.Connection, path: Path) -> Iterator[Share]:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    yield Share("file", pages, pages * page)
    log = path.with_name(path.name + "-wal")
    yield Share("log", 1, log.stat().st_size if log.exists() else 0)
    yield Share("free pages", free, free * page)
    totals = schema.Meta.read(connection).totals
    try:
        sizes = dict(connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"))
    except sqlite3.OperationalError:  # a build without it: the values alone
        sizes = {name: size for name, (_, _, size) in totals.items()}
    for name, (rows, _, _) in totals.items():
        yield Share(f"table {name}", rows, sizes.get(name, 0))
    connection.create_function("kind_of", 1, kind_of, deterministic=True)
    kinds = connection.execute(
        "SELECT kind_of(key), count(*), sum(length(key) + length(value)) FROM keys"
        " GROUP BY 1 ORDER BY 3 DESC"
    )
    others = Share(OTHERS, 0, 0)
    for place, (kind, rows, size) in enumerate(kinds):
        if place < KINDS_MAX:
            yield Share(f"keys {kind}", rows, size)
        else:
            others = Share(OTHERS, others.rows + rows, others.bytes + size)
    if others.rows:
        yield others


def kind_of(key: str) -> str:
    """Return what keys of a kind have in common: the first name, and what the recipes call it."""
    first, _, rest = key.partition("/")
    second, slash, rest = rest.partition("/")
    if second == "of" and slash:  # a resource of reservations
        return f"{first}/of/*/{rest.partition('/')[2].partition('/')[0]}/"
    return f"{first}/{second}/" if slash else f"{first}/" if second else "(no name before a /)"


_CHECKS = {
    "a key is newer than the store": (
        "SELECT key FROM keys, meta WHERE keys.revision > meta.revision"
    ),
    "a key was created after it was written": (
        "SELECT key FROM keys WHERE created_revision > revision"
    ),
    "a key disagrees with the history": (
        "SELECT keys.key FROM keys JOIN meta LEFT JOIN history USING (key, revision)"
        " WHERE keys.revision > meta.compacted AND history.value IS NOT keys.value"
    ),
    "history is newer than the store": (
        "SELECT history.key FROM history, meta WHERE history.revision > meta.revision"
    ),
    "history was changed later, but the key was not": (
        "SELECT history.key FROM history LEFT JOIN keys USING (key)"
        " GROUP BY history.key HAVING max(history.revision) > coalesce(max(keys.revision), 0)"
        " AND (SELECT value FROM history AS last WHERE last.key = history.key"
        " ORDER BY revision DESC LIMIT 1) IS NOT NULL"
    ),
    "an operation is newer than the store": (
        "SELECT op_id FROM operations, meta WHERE operations.revision > meta.revision"
    ),
    "a key's lease does not exist": (
        "SELECT key FROM keys WHERE lease IS NOT NULL AND lease NOT IN (SELECT lease FROM leases)"
    ),
}


def verify(path: Path) -> list[str]:
    """Return what is wrong with a store's file, in words; an empty list is a sound file.

    Raises:
        InvalidRequestError: there is no such file.
        CorruptStoreError: it is no store of ours, or of a later version.
    """
    if not path.exists():
        raise InvalidRequestError(f"{path} does not exist")
    problems: list[str] = []
    try:
        with _any_connection(path) as (connection, lost):
            schema.register(connection)
            if told := _older_format(connection, path):
                return [told]
            problems += [*lost, *schema.check(connection).problems]
            for what, query in _CHECKS.items():
                problems += [
                    f"{what}: {name}" for (name,) in connection.execute(query + " LIMIT 5")
                ]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        problems.append(f"SQLite: {error}")
    return problems


def _older_format(connection: sqlite3.Connection, path: Path) -> str:
    """Say what to do about a file of the format before; CorruptStoreError if it is no store."""
    if schema.is_new(connection):
        raise CorruptStoreError("the file is empty")
    if schema.version_of(connection) != schema.FORMAT_BEFORE:
        return ""
    return (
        f"{path} has format {schema.FORMAT_BEFORE}: `serve` it once to convert it, or take a"
        " `backup`, which is converted"
    )

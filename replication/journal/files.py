"""The files of a journal: who holds them, which of them belong together, copies that open.

Theory of operation. A journal at `ada.db` has companions that are named after it:

    ada.db-wal, -shm    SQLite's log since its last checkpoint, and the index of that
    ada.db-journal      SQLite's, for moments: pages to put back if a change is not finished
    ada.db.lock         ours: keeps a second process out, and witnesses what was committed

*One file, one journal.* Symbolic links and relative paths are resolved, so that companions have one
name. Two hard links have none in common; so the file itself is locked as well as the lock file (a
`flock`, which SQLite's own locks do not meet). A clean close leaves no log and marks the file so.
One without that mark, with several links and no log beside this one, was left under another name:
it is refused here, because its last commits are there. A process must not open and close a file
that it holds, since that drops SQLite's locks; so what it holds is remembered here.

*A log of another file.* SQLite plays a left-over log into whatever file stands beside it. If that
is a backup that somebody put there, the two make one damaged file. A boot therefore writes its
nonce into the file itself, before there is a log; while one is there, file and log name the same
boot or do not belong together. Then the log is moved aside (`ada.db-wal.aside-1`). If they name
the same boot and do not add up to a sound file, opening is refused, and both are left as they are.

*A fork* shares descriptors, and with them a `flock`: the parent could not let go while the child
lives. So a child closes what it was handed, at once (`descriptors`). SQLite's own descriptors
are closed as well, behind its back, and the connection is never closed: SQLite would checkpoint, or
remove, a log that belongs to the parent. Only a descriptor that cannot be written to takes the
place of each, so that its number is not given to another file.

*Copies* are made beside their place, in a directory that nobody else can enter, synced, opened once
as a start would open them, and linked to it, which fails where anything is, be it a link to
nowhere. Before a success is told there is a file that opens.

*Eyes.* Values are not encrypted, so every file that is made here is its owner's alone (0600),
whatever the umask; SQLite gives its own the mode of the database. A file that is there keeps its
mode: whoever widened it had a reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from replication.descriptors import blind, kept_from_children
from replication.errors import JournalHeldError, JournalUnreadableError
from replication.file_locks import OPEN_FLAGS, lock, restrict, sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | OPEN_FLAGS
PRIVATE = 0o600
COMPANIONS = ("-wal", "-shm", "-journal")
COUNTS = {
    "rows": "SELECT count(*) FROM rows",
    "rows_sum": "SELECT coalesce(sum(checksum), 0) FROM rows",
    "origins": "SELECT count(*) FROM vector",
    "vector_sum": "SELECT coalesce(sum(checksum), 0) FROM vector",
}
"""What a journal's facts say of its tables, and how to ask those."""
WAL_VERSION = 2
WAL_VERSION_AT = slice(18, 20)
"""Read and write version of a SQLite file; 2 while it may have a log (file format, 1.3.3)."""

_held: set[tuple[int, int]] = set()
_holding = threading.Lock()


def beside(path: Path, suffix: str) -> Path:
    """The companion of a file."""
    return path.with_name(path.name + suffix)


class Hold:
    """The right to be the one who uses a journal; ended by `close`, or with the process.

    Args:
        path: with every link and `..` in it resolved; the file is created if absent.

    Raises:
        JournalHeldError: somebody has it, here or in another process, under whatever name.
        JournalUnreadableError: there can be no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._inode: tuple[int, int] | None = None
        self.connection: sqlite3.Connection | None = None  # of the database, once it is open
        self._pid = os.getpid()
        self._releases: list[Callable[[], None]] = []
        self._lock: int | None = _opened(beside(path, ".lock"), path)
        kept_from_children(self)
        try:
            self._releases.append(_locked(self._lock, beside(path, ".lock"), path))
            with _holding:
                self._hold_file()
        except BaseException:
            self.close()
            raise

    def _hold_file(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if _inode(self._path.stat()) in _held:
                raise _held_error(self._path)
        self._file = _opened(self._path, self._path)
        self._releases.append(_locked(self._file, self._path, self._path))
        self._inode = _inode(os.fstat(self._file))
        _held.add(self._inode)

    @property
    def witness(self) -> int:
        """The descriptor of the lock file."""
        if self._lock is None:
            raise JournalHeldError(f"{self._path} is not held")
        return self._lock

    @property
    def forked(self) -> bool:
        """Whether this is a copy of it, in a forked child, which holds nothing."""
        return self._pid != os.getpid()

    def forget(self) -> None:
        """In a forked child: close what it was handed, and touch nothing of it ever again."""
        global _holding  # noqa: PLW0603 - another thread of the parent may have held it
        _holding = threading.Lock()
        _held.clear()
        ours: set[int | None] = {self._file, self._lock}
        with contextlib.suppress(OSError):
            names = [self._path, *(beside(self._path, suffix) for suffix in COMPANIONS)]
            files = {_inode(name.stat()) for name in names if name.exists()}
            for descriptor in [int(each.name) for each in Path("/dev/fd").iterdir()]:
                with contextlib.suppress(OSError):
                    if _inode(os.fstat(descriptor)) in files:
                        ours.add(descriptor)
        blind(each for each in ours if each is not None)
        self._file = self._lock = None
        if self.connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))  # never to be finalized

    def close(self) -> None:
        """Let go; after the database was closed."""
        with _holding:
            _held.discard(self._inode or (0, 0))
            self._inode = None
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None
        while self._releases:
            self._releases.pop()()


def _opened(name: Path, path: Path) -> int:
    """Open a file, made for its owner's eyes if absent: what it will hold is not encrypted."""
    try:
        with contextlib.suppress(FileExistsError):
            made = os.open(name, LOCK_FLAGS | os.O_EXCL, PRIVATE)
            restrict(made, PRIVATE)
            return made
        return os.open(name, LOCK_FLAGS, PRIVATE)
    except OSError as error:
        raise JournalUnreadableError(
            f"{path} cannot be opened: {error.strerror}",
            hint="a journal is a file; its directory must exist and be writable",
        ) from error


def _locked(descriptor: int, name: Path, path: Path, *, shared: bool = False) -> Callable[[], None]:
    """Lock a file for the journal at `path`; what lets go of it."""
    try:
        return lock(descriptor, name, shared=shared)
    except OSError as error:
        raise _held_error(path) from error


def _held_error(path: Path) -> JournalHeldError:
    return JournalHeldError(f"{path} is held by another process, or by another agent of this one")


def _inode(place: os.stat_result) -> tuple[int, int]:
    return place.st_dev, place.st_ino


def check_not_held(path: Path) -> None:
    """Raise JournalHeldError if somebody uses the journal; touches nothing."""
    with _holding:
        if _inode(path.stat()) in _held:
            raise _held_error(path)
        for name in (beside(path, ".lock"), path):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(name, os.O_RDONLY | OPEN_FLAGS)
                try:
                    _locked(descriptor, name, path, shared=True)()
                finally:
                    os.close(descriptor)


# ------------------------------------------------------------------------------ what fits together


def has_log(path: Path) -> bool:
    """Whether commits lie beside the file: its last user did not close it."""
    with contextlib.suppress(FileNotFoundError):
        return beside(path, "-wal").stat().st_size > 0
    return False


def check_links(path: Path) -> None:
    """Refuse a file that was left under another of its names; see above.

    Raises:
        JournalUnreadableError: its log lies beside that name.
    """
    links = path.stat().st_nlink
    if links < 2 or has_log(path):
        return
    with path.open("rb") as file:
        left = WAL_VERSION in file.read(100)[WAL_VERSION_AT]
    if left:
        raise JournalUnreadableError(
            f"{path} has {links} hard links, and was not closed under this one",
            hint="open it by the name that has a -wal file beside it, or remove the other names",
        )


def nonce_in(
    path: Path, check: Callable[[sqlite3.Connection], object], *, alone: bool
) -> str | None:
    """The nonce of the boot that wrote a file, `alone` or with its log; None if it is not sound.

    O(size). The file is not changed; with a log, its index is. `check` raises if the facts in it
    are not what was written: a nonce that the disk has changed names no boot.
    """
    how = "immutable=1" if alone else "mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return None
            check(db)
            facts = dict(db.execute("SELECT name, value FROM facts"))
            counted = {name: facts[name] for name in COUNTS if name in facts}
            if any(db.execute(COUNTS[name]).fetchone() != (n,) for name, n in counted.items()):
                return None  # each page is sound, but they are not of one moment
    except (sqlite3.Error, UnicodeDecodeError, JournalUnreadableError):
        return None
    return str(facts.get("nonce", ""))


def log_is_strange(
    path: Path, witnessed: str, check: Callable[[sqlite3.Connection], object]
) -> bool:
    """Whether the log beside a file is another file's; `witnessed` is what the lock file names.

    For `check` see `nonce_in`.

    Raises:
        JournalUnreadableError: it is this file's, as far as can be seen, and does not fit.
    """
    joined, alone = (nonce_in(path, check, alone=alone) for alone in (False, True))
    if joined is not None and alone in {joined, None}:  # None: cut within a checkpoint
        return False
    if alone is not None and (joined is not None or alone != witnessed):
        return True
    raise JournalUnreadableError(
        f"{path} and the log beside it, {path.name}-wal, do not add up to a sound file",
        hint="restore a backup over it; to open the file without its last commits, move -wal away",
    )


def move_aside(path: Path) -> list[Path]:
    """Rename what is left of a file's companions, lest SQLite takes them for another's."""
    moved = []
    for companion in (beside(path, suffix) for suffix in COMPANIONS):
        if companion.exists():
            names = (beside(companion, f".aside-{number}") for number in range(1, 10_000))
            free = next(name for name in names if not name.exists())
            companion.rename(free)
            moved.append(free)
    return moved


# ------------------------------------------------------------------------------ copies


@contextlib.contextmanager
def apart(path: Path) -> Iterator[Path]:
    """A place where the file can be read without a trace: a copy, if there is a log beside it."""
    if not has_log(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="convoca-") as directory:
        copy = Path(directory) / "journal"
        for suffix in ("", "-wal"):
            shutil.copyfile(beside(path, suffix), beside(copy, suffix))
        yield copy


def put_in_place(target: Path, write: Callable[[Path], None]) -> list[Path]:
    """Make a new file at `target`, whole or not at all; which left-over companions were moved.

    `write` fills the file that it is given, and raises if what it wrote does not open.

    Raises:
        JournalHeldError: an agent runs on a file of that name, removed or not.
        JournalUnreadableError: there is a file already; it was left alone.
    """
    target = Path(os.path.realpath(target.parent)) / target.name  # no link in its own name
    name = beside(target, ".lock")
    descriptor, release = _opened(name, target), None
    try:
        release = _locked(descriptor, name, target)
        _check_free(target)
        with _private_directory(target) as directory:
            part = directory / target.name
            os.close(_opened(part, target))
            write(part)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            moved = move_aside(target)
            _link(part, target)
        sync_directory(target.parent)
        return moved
    finally:
        os.close(descriptor)
        if release is not None:
            release()


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise JournalUnreadableError(
            f"{target} exists", hint="move it away first; nothing was changed"
        )


@contextlib.contextmanager
def _private_directory(target: Path) -> Iterator[Path]:
    try:
        made = tempfile.TemporaryDirectory(prefix=f".{target.name[:100]}.", dir=target.parent)
    except OSError as error:
        raise JournalUnreadableError(f"{target} cannot be made: {error.strerror}") from error
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

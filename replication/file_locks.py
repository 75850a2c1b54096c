"""What of a file differs between systems: its lock, its mode, reading and writing at a place.

Theory of operation. On Linux and macOS a file is locked by `flock`, which ends with the last
descriptor, however the process ends. Windows has no such lock on a descriptor; there a file beside
it, NAME.held, is locked by `filelock`, which the system frees with the process as well. Whoever
locks gets what lets go, and calls it beside closing the descriptor.

    ran here     Linux; and Linux with these calls taken away, which is not Windows
    not run      macOS, Windows

This module is the same text in `replication` and in `transactional`, which know nothing of each
other; a test holds the two together.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

try:
    import fcntl as _found

    _fcntl: Any = _found
except ImportError:  # Windows
    _fcntl = None

OPEN_FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""What every `os.open` of a file of ours adds: nothing is inherited, no byte is translated."""
_os: Any = os


def lock(descriptor: int, name: Path, *, shared: bool = False) -> Callable[[], None]:
    """Lock an open file, or raise OSError if somebody has it; what lets go of it.

    `shared` locks go together. Where there are none, this one is exclusive.
    """
    if _fcntl is not None:
        _fcntl.flock(descriptor, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
        return _nothing
    from filelock import FileLock  # noqa: PLC0415 - of the systems that need it

    held = FileLock(f"{name}.held", timeout=0, is_singleton=False, thread_local=False)
    held.acquire()  # filelock.Timeout is an OSError
    return held.release


def _nothing() -> None:
    """The end of a descriptor is that of its lock."""


def restrict(descriptor: int, mode: int) -> None:
    """Give a file a mode whatever the umask says; on Windows its directory's rights hold."""
    if hasattr(_os, "fchmod"):
        _os.fchmod(descriptor, mode)


def read_at(descriptor: int, size: int, at: int) -> bytes:
    """Read from a place of a file; where the system has no such call, one thread at a time may."""
    if hasattr(_os, "pread"):
        return bytes(_os.pread(descriptor, size, at))
    os.lseek(descriptor, at, os.SEEK_SET)
    return os.read(descriptor, size)


def write_at(descriptor: int, content: bytes, at: int) -> int:
    """Write to a place of a file; how many bytes. As `read_at`."""
    if hasattr(_os, "pwrite"):
        return int(_os.pwrite(descriptor, content, at))
    os.lseek(descriptor, at, os.SEEK_SET)
    return os.write(descriptor, content)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable; Windows does not open directories, and does it itself."""
    if os.name == "nt":
        return
    directory = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def on_fork(forget: Callable[[], object]) -> None:
    """Have a forked child call something first; where there is no fork, nothing."""
    if hasattr(_os, "register_at_fork"):
        _os.register_at_fork(after_in_child=forget)

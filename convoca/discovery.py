"""How members of a team on one host find each other: a file each, in a directory of the user.

Theory of operation. A member that listens on loopback writes down its address, and reads those of
the others:

    RUNTIME/convoca/TEAM/ann.json       {"team", "name", "address", "pid", "started", "id"}

`RUNTIME` is `$XDG_RUNTIME_DIR`, or else a directory of the user's own under the system's for
temporary files; `TEAM` is a hash, for a team's name is any text. *First written, then read*: of two
members that start at once at least one sees the other. *Whoever can write here could lead members
astray*, so each directory is the user's alone (0700, no link), or nothing in it is read. A file is
a link, of another user, too large or not what it should be: it is left out.

A file whose process is gone is swept by whoever comes by. A process is the one that wrote the file
if its number and the time of its start are the same; where a start time cannot be had, the number
alone decides, and a stale file may stay until the number is free. Claiming a name, and sweeping,
is done under a lock of the directory, so no one sweeps what another just claimed.

What a file says is a hint, and no more: an address is asked as any peer is, and proves the secret
if there is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convoca.errors import NameTakenError, RuntimeDirectoryError
from convoca.processes import is_running, locked, started
from replication.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_BYTES_MAX = 4096
MEMBERS_MAX = 1000
"""So many files of a team are read; who finds more has enough addresses."""
PRIVATE = 0o700
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Found:
    """A member on this host, as its file says."""

    team: str
    name: str
    address: str
    pid: int
    started: str
    """When the process began, in the system's own words; "" if those cannot be had."""
    id: str

    @property
    def alive(self) -> bool:
        """Whether the process that wrote this runs; O(1)."""
        return is_running(self.pid, self.started)


class Whereabouts:
    """Where one member of a team is to be found, from `claim` to `leave`.

    Args:
        team: any text.
        name: of the member.
        root: the directory of all teams; made if absent.
    """

    def __init__(self, team: str, name: str, root: Path | None = None) -> None:
        self.team = team
        self.name = name
        self._directory = directory_of(team, root)
        self._mine: bytes = b""

    def claim(self, address: str, replica: str) -> None:
        """Write down where this member is. O(1).

        Raises:
            NameTakenError: a living one has the name.
            RuntimeDirectoryError: the directory is not this user's alone. Nothing was written.
        """
        _make_private(self._directory)
        try:
            self._claim(address, replica)
        except OSError as error:
            raise RuntimeDirectoryError(f"{self._directory} cannot be used: {error}") from error

    def _claim(self, address: str, replica: str) -> None:
        mine = Found(
            self.team, self.name, address, os.getpid(), started(os.getpid()) or "", replica
        )
        with locked(self._directory / ".lock"):
            other = _read(self._place)
            if other is not None and other.alive:
                raise NameTakenError(self.name, self.team, pid=other.pid, address=other.address)
            self._mine = json.dumps({n: getattr(mine, n) for n in Found.__slots__}).encode()
            _write(self._place, self._mine)

    def check_free(self) -> None:
        """Raise NameTakenError if a living member has the name now."""
        if _is_private(self._directory):
            other = _read(self._place)
            if other is not None and other.alive:
                raise NameTakenError(self.name, self.team, pid=other.pid, address=other.address)

    def others(self) -> list[Found]:
        """Living members of the team, this one left out; sweeps what is stale. O(files).

        Raises:
            RuntimeDirectoryError: nothing was read.
        """
        return [each for each in _living(self._directory) if each.name != self.name]

    def leave(self) -> None:
        """Take the file away, if it is this member's still."""
        if not self._mine:
            return
        with contextlib.suppress(OSError), locked(self._directory / ".lock"):
            if self._place.read_bytes() == self._mine:
                self._place.unlink()
        self._mine = b""

    @property
    def _place(self) -> Path:
        return self._directory / f"{self.name}.json"


def everybody(root: Path | None = None) -> list[Found]:
    """Living members of all teams of this user on this host, by team and name. O(files)."""
    top = root or runtime_directory()
    if not _is_private(top):
        return []
    with contextlib.suppress(FileNotFoundError):
        found = [each for directory in sorted(top.iterdir()) for each in _of(directory)]
        return sorted(found, key=lambda each: (each.team, each.name))
    return []


def _of(directory: Path) -> list[Found]:
    try:
        return list(_living(directory))
    except (RuntimeDirectoryError, OSError):
        return []


def runtime_directory() -> Path:
    """The directory of all teams of this user on this host.

    `$CONVOCA_RUNTIME_DIR` names another one, for teams apart from each other.
    """
    if given := os.environ.get("CONVOCA_RUNTIME_DIR"):
        return Path(given)
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "convoca"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or tempfile.gettempdir()
        return Path(local) / "convoca" / "run"
    return Path(tempfile.gettempdir()) / f"convoca-{os.getuid()}"


def directory_of(team: str, root: Path | None = None) -> Path:
    """The directory of one team."""
    name = hashlib.sha256(team.encode(errors="surrogatepass")).hexdigest()[:24]
    return (root or runtime_directory()) / name


# ------------------------------------------------------------------------------ files of ours only


def _make_private(directory: Path) -> None:
    for each in (directory.parent, directory):
        try:
            each.mkdir(PRIVATE, parents=each is directory.parent, exist_ok=True)
        except OSError as error:
            raise RuntimeDirectoryError(f"{each} cannot be made: {error.strerror}") from error
        if not _is_private(each):
            raise RuntimeDirectoryError(f"{each} is a link, of another user, or open to others")


def _is_private(directory: Path) -> bool:
    """Whether it is there, a directory and no link, and its owner, who is this user, alone enters.

    On Windows the profile of a user is that: its rights are inherited, and not looked at here.
    """
    try:
        found = directory.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    if sys.platform == "win32":
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _living(directory: Path) -> Iterator[Found]:
    if not os.path.lexists(directory):
        return
    if not _is_private(directory) or not _is_private(directory.parent):
        raise RuntimeDirectoryError(f"{directory} is a link, of another user, or open to others")
    places: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        places = sorted(directory.glob("*.json"))[:MEMBERS_MAX]
    for place in places:
        found = _read(place)
        if found is None:
            continue
        if found.alive:
            yield found
        else:
            _sweep(place)


def _sweep(place: Path) -> None:
    """Remove a file whose process is gone; not if somebody claimed the name meanwhile."""
    with contextlib.suppress(OSError), locked(place.parent / ".lock"):
        found = _read(place)
        if found is not None and not found.alive:
            place.unlink()


def _read(place: Path) -> Found | None:
    """What a file says; None if it is not what a member of this user would write."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(place, flags)
    except OSError:
        return None
    try:
        about = os.fstat(descriptor)
        foreign = sys.platform != "win32" and about.st_uid != os.geteuid()
        if foreign or not stat.S_ISREG(about.st_mode) or about.st_size > FILE_BYTES_MAX:
            return None
        found = _parsed(os.read(descriptor, FILE_BYTES_MAX))
    except UNREADABLE:
        return None
    finally:
        os.close(descriptor)
    ours = place.parent == directory_of(found.team, place.parent.parent)
    return found if ours and found.name == place.stem else None


def _parsed(content: bytes) -> Found:
    """A file's content; ValueError, KeyError or TypeError if it is none."""
    doc = json.loads(content)
    texts = {field: doc[field] for field in ("team", "name", "address", "started", "id")}
    if not all(isinstance(text, str) for text in texts.values()) or type(doc["pid"]) is not int:
        raise TypeError("a field is of another type")
    host, _, port = texts["address"].rpartition(":")
    if not is_loopback(host.strip("[]")) or not 0 < int(port) < 1 << 16:
        raise ValueError("an address of another machine")
    return Found(pid=doc["pid"], **texts)


def _write(place: Path, content: bytes) -> None:
    """Whole or not at all, for this user's eyes."""
    with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as part:
        part.write(content)
    Path(part.name).replace(place)

"""The clients of an authority, each with a token of its own: who it is, and which keys it may use.

Theory of operation
-------------------
A file in TOML lists roles and clients.  A *role* is what may be done: the prefixes of the keys that
may be read, and of those that may be written, and whether it may give the authority orders
(``operate = true``: ``compact``).  A *client* is one process with one token; clients of
a role take over each other's leases, op_ids and sagas.  What is written records the client::

    [roles.billing]
    read = ["orders/", "lock/"]
    write = ["orders/", "lock/orders"]

    [clients.billing-1]
    role = "billing"
    sha256 = "9f86d081884c7d65..."      # or several in a list, while one token replaces another

The file holds the SHA-256 of each token and no token.  That is enough because a token is drawn, not
invented: 32 random bytes (``python -m transactional token``) cannot be found by trying, so neither
salt nor a slow hash would add anything, and whoever reads the file cannot come in.

It is looked at before each request, by its inode, size and time, and read again when one of them
changed, so a token that is taken out is refused from the next request on, and its open watches end.
A list that makes no sense, or is gone, changes nothing: the last good one stays in force, and the
log says so.  The other way round a slip of the pen would lock everybody out.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from transactional import rules
from transactional.errors import ForbiddenError, InvalidRequestError, UnauthorizedError

if TYPE_CHECKING:
    from pathlib import Path

LIST_BYTES_MAX: Final = 4 << 20
"""Largest list of clients."""
PREFIXES_MAX: Final = 256
"""Most prefixes of one role, of each kind."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,48}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, and under which prefixes it may read and write; the empty prefix is every key.

    ``operates``: whether it may give the authority orders that concern everybody.
    """

    name: str = ""
    role: str = ""
    reads: tuple[str, ...] = ("",)
    writes: tuple[str, ...] = ("",)
    operates: bool = True

    def check_read(self, prefix: str) -> None:
        """Raise ForbiddenError unless all keys that start with ``prefix`` may be read."""
        if not prefix.startswith(self.reads):
            raise ForbiddenError(f"role {self.role!r} may not read {prefix!r}")

    def check_write(self, prefix: str) -> None:
        """Raise ForbiddenError unless all keys that start with ``prefix`` may be written."""
        if not prefix.startswith(self.writes):
            raise ForbiddenError(f"role {self.role!r} may not write {prefix!r}")

    def check_operate(self) -> None:
        """Raise ForbiddenError unless orders may be given to the authority itself."""
        if not self.operates:
            raise ForbiddenError(f"role {self.role!r} may give the authority no orders")

    def check_lease(self, lease: str) -> None:
        """Raise ForbiddenError unless the lease is one of the role; its id alone tells."""
        if self.role and rules.owner_of(lease) != self.role:
            raise ForbiddenError(f"lease {lease!r} is not one of role {self.role!r}")


ANYBODY: Final = Client()
"""Whoever comes to an authority that has no list of clients."""


class ClientList:
    """The list in a file, read again whenever it changes.

    Raises:
        InvalidRequestError: the first reading failed; later ones leave the list as it was.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._clients: dict[str, Client] = {}
        self._look(first=True)

    def __len__(self) -> int:
        return len({client.name for client in self._clients.values()})

    def client_of(self, token: bytes) -> Client:
        """Return whose token it is.

        It is looked up by its hash, so how long that takes tells nothing about other tokens.

        Raises:
            UnauthorizedError: nobody's.
        """
        self._look()
        client = self._clients.get(hashlib.sha256(token).hexdigest())
        if client is None:
            raise UnauthorizedError("the bearer token is missing or wrong")
        return client

    def _look(self, *, first: bool = False) -> None:
        seen: object
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError as error:
            seen = error.errno
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._clients = read_clients(self._path)
        except InvalidRequestError as error:
            if first:
                raise
            _log.error("the list of clients stays as it was: %s", error)
        else:
            _log.info("%d clients are listed", len(self))


def read_clients(path: Path) -> dict[str, Client]:
    """Return the clients in a file by the hashes of their tokens.

    Raises:
        InvalidRequestError: it cannot be read, makes no sense, or anybody may change it.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IWOTH:
                raise InvalidRequestError(f"{path} can be changed by everybody on this machine")
            text = file.read(LIST_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > LIST_BYTES_MAX:
        raise InvalidRequestError(f"{path} is larger than {LIST_BYTES_MAX} bytes")
    try:
        return _clients(tomllib.loads(text.decode()))
    except (ValueError, RecursionError) as error:  # what tomllib says may quote the file
        raise InvalidRequestError(f"{path} is not TOML") from error
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path}: {error.reason}") from error


def _clients(doc: dict[str, Any]) -> dict[str, Client]:
    _only(doc, {"roles", "clients"}, "the list")
    roles = {
        name: _role(name, found) for name, found in _table(doc.get("roles", {}), "roles").items()
    }
    clients: dict[str, Client] = {}
    for name, found in _table(doc.get("clients", {}), "clients").items():
        _check_name(name)
        entry = _table(found, f"client {name}")
        _only(entry, {"role", "sha256"}, f"client {name}")
        role = entry.get("role")
        if not isinstance(role, str) or role not in roles:
            raise InvalidRequestError(f"client {name} names a role that is not in the list")
        hashes = entry.get("sha256")
        hashes = [hashes] if isinstance(hashes, str) else hashes
        if not isinstance(hashes, list) or not all(
            isinstance(each, str) and _HASH.fullmatch(each) for each in hashes
        ):
            raise InvalidRequestError(f"sha256 of client {name} is 64 digits 0-9a-f, or a list")
        reads, writes, operates = roles[role]
        for each in hashes:
            if each in clients:
                raise InvalidRequestError(f"{clients[each].name} and {name} have the same token")
            clients[each] = Client(name, role, reads, writes, operates)
    return clients


def _role(name: str, found: object) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    _check_name(name)
    entry = _table(found, f"role {name}")
    _only(entry, {"read", "write", "operate"}, f"role {name}")
    operates = entry.get("operate", False)
    if not isinstance(operates, bool):
        raise InvalidRequestError(f"operate of role {name} is true or false")
    reads, writes = (_prefixes(entry.get(what, []), name) for what in ("read", "write"))
    return reads, writes, operates


def _prefixes(found: object, role: str) -> tuple[str, ...]:
    if not isinstance(found, list) or len(found) > PREFIXES_MAX:
        raise InvalidRequestError(f"role {role} has lists of at most {PREFIXES_MAX} prefixes")
    for prefix in found:
        rules.check_prefix(prefix)
    return tuple(found)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(f"{name!r} is no name: letters, digits, _ and -, at most 48")


def _table(found: object, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InvalidRequestError(f"{what} is a table")
    return found


def _only(found: dict[str, Any], known: set[str], what: str) -> None:
    if strange := sorted(found.keys() - known):
        raise InvalidRequestError(f"{what} has no {strange[0]!r}, only {', '.join(sorted(known))}")

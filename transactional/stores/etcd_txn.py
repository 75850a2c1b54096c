"""How a store lies in etcd, and how a commit becomes one of its transactions.

Layout
------
Everything of a store lies under its name, ``NAME/``::

    epoch               names this life of the store
    clock               the base of business time: the time of a commit is base + 4 x its revision
    k/KEY               a key: who wrote it, the base, its lease, a checksum, its value
    k/FOLDER NUL n      something was deleted from the folder (a key's part up to its last slash)
    p/n                 something was deleted by prefix
    o/OP_ID             what became of an operation; goes with an etcd lease when it is old
    h/LEASE             the heartbeat of a lease: attached to etcd's own, gone when that is
    a/LEASE/KEY         which keys a lease has

*Deletes.*  etcd compares the revisions of what is there, so a range from which a key was deleted
looks unchanged.  A delete therefore also writes a mark into the key's folder, in the same
transaction, and only if the key was there.  The marks sort inside their folders (NUL, which no key
has, before all else): one comparison of ``k/PREFIX`` sees puts and deletes.  What is deleted by
prefix has marks of its own, since a prefix may be compared that lies below.

*Time.*  ``base`` never falls, and every commit compares that it is still the one it was built with;
so times rise strictly with revisions, in every process, and no two commits contend for a clock.
Whoever finds the clock too far behind the wall puts a higher base in his own commit.

*Leases.*  Keys are not attached to etcd's leases: what these delete nobody could compare, and who
deleted it would not be known.  Only the heartbeat is.  When that is gone, a client that hears of it
deletes the keys in a commit like any other.

Limits
------
etcd counts operations by depth: a transaction may have ``max-txn-ops`` (128) comparisons, or
entries of either list, less those of the transactions around it.  Comparisons all stand in one
list; writes are spread over nested transactions.  ``Txn.operations`` is the count that etcd makes.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from transactional.errors import DamagedRowError
from transactional.values import LAST_CODE_POINT, KeyValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Document = dict[str, Any]

MARK: Final = "\x00"
SPACING_US: Final = 4
"""Business time from one revision to the next; ``now()`` lies between."""
WIDTH: Final = 100
"""Entries of one list, at most; more of them are nested."""
_FORMAT: Final = 1


def b64(raw: bytes) -> str:
    """Return bytes as they stand in etcd's JSON."""
    return b64encode(raw).decode()


def time_us(base_us: int, revision: int) -> int:
    """Return the business time of a revision."""
    return base_us + SPACING_US * revision


# --- what lies under a key -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of a write, beside what etcd keeps of every key."""

    base_us: int
    by: str
    lease: str | None
    value: bytes

    def encode(self, key: str) -> bytes:
        """Return its bytes; the checksum covers the key as well."""
        by, lease = self.by.encode(), (self.lease or "").encode()
        head = b"".join((
            bytes((_FORMAT,)), self.base_us.to_bytes(8, "big", signed=True),
            bytes((len(by),)), by, bytes((len(lease),)), lease,
        ))  # fmt: skip
        return head + _checksum(key, head, self.value) + self.value

    @classmethod
    def decode(cls, key: str, raw: bytes) -> Row:
        """Return what was written.

        Raises:
            DamagedRowError: it is not that.
        """
        try:
            if raw[0] != _FORMAT:
                raise DamagedRowError(key, f"{key!r} is no row of this format")
            by_end = 10 + raw[9]
            end = by_end + 1 + raw[by_end]
            head, value = raw[:end], raw[end + 4 :]
            if raw[end : end + 4] != _checksum(key, head, value):
                raise DamagedRowError(key, f"what lies under {key!r} is not what was written")
            lease = raw[by_end + 1 : end].decode() or None
            base_us = int.from_bytes(raw[1:9], "big", signed=True)
            return cls(base_us, raw[10:by_end].decode(), lease, value)
        except (IndexError, UnicodeDecodeError) as error:
            raise DamagedRowError(key, f"{key!r} is no row of this format") from error


def _checksum(key: str, head: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(head, zlib.crc32(key.encode()))).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation: ``fate`` is applied, otherwise (the other branch) or fenced."""

    APPLIED = 1
    OTHERWISE = 0
    FENCED = 2

    base_us: int
    fate: int
    content: bytes
    revision: int = 0

    def encode(self) -> bytes:
        """Return its bytes."""
        base = self.base_us.to_bytes(8, "big", signed=True)
        return bytes((_FORMAT, self.fate)) + base + self.content

    @classmethod
    def of(cls, found: Document) -> Outcome:
        """Return what lies under an operation's key."""
        raw = b64decode(found.get("value", ""))
        if len(raw) < 10 or raw[0] != _FORMAT:
            key = b64decode(found.get("key", "")).decode(errors="replace")
            raise DamagedRowError(key, f"{key!r} is no record of an operation")
        base_us = int.from_bytes(raw[2:10], "big", signed=True)
        return cls(base_us, raw[1], raw[10:], int(found["mod_revision"]))


class Layout:
    """Where what lies, as it stands in etcd's JSON."""

    def __init__(self, name: str) -> None:
        self.root = f"{name}/"
        self.epoch = self._at("epoch")
        self.clock = self._at("clock")
        self.nothing = self._at("nothing")
        """Never there: who deletes it has written nothing, and went through the log of all."""
        self._skip = len(f"{self.root}k/".encode())

    def _at(self, path: str) -> str:
        return b64(f"{self.root}{path}".encode())

    def key(self, key: str) -> str:
        """Where a key lies."""
        return self._at(f"k/{key}")

    def after(self, key: str) -> str:
        """Return the first place behind a key."""
        return b64(f"{self.root}k/{key}".encode() + b"\0")

    @staticmethod
    def behind(place: str) -> str:
        """Return the place right behind another one."""
        return b64(b64decode(place) + b"\0")

    def end(self, prefix: str) -> str:
        """Return the first place behind all keys with a prefix."""
        return self._at(f"k/{prefix}{LAST_CODE_POINT}")

    def mark(self, folder: str, number: int) -> str:
        """Where it is marked that something was deleted from a folder."""
        return self._at(f"k/{folder}{MARK}{number:02x}")

    def marks(self, folder: str) -> tuple[str, str]:
        """Return the range of a folder's marks."""
        return self._at(f"k/{folder}{MARK}"), self._at(f"k/{folder}\x01")

    def prefix_mark(self, number: int) -> str:
        """Where it is marked that something was deleted by prefix."""
        return self._at(f"p/{number:02x}")

    @property
    def prefix_marks(self) -> tuple[str, str]:
        """The range of the marks of what was deleted by prefix."""
        return self._at("p/"), self._at("p0")

    def operation(self, name: str) -> str:
        """Where an operation's outcome lies."""
        return self._at(f"o/{name}")

    def heartbeat(self, lease: str) -> str:
        """Where a lease's heartbeat lies."""
        return self._at(f"h/{lease}")

    @property
    def heartbeats(self) -> tuple[str, str]:
        """The range of all heartbeats."""
        return self._at("h/"), self._at("h0")

    def attached(self, lease: str, key: str) -> str:
        """Where it is noted that a key has a lease."""
        return self._at(f"a/{lease}/{key}")

    def attachments(self, lease: str) -> tuple[str, str]:
        """The range of the keys that a lease has."""
        return self._at(f"a/{lease}/"), self._at(f"a/{lease}0")

    @property
    def all_attachments(self) -> tuple[str, str]:
        """The range of the keys that leases have."""
        return self._at("a/"), self._at("a0")

    def name_at(self, place: str) -> str:
        """Return the key (or mark) that lies at a place of ``k/``."""
        return b64decode(place)[self._skip :].decode()

    def path_at(self, place: str) -> str:
        """Return what stands behind the store's name."""
        return b64decode(place).decode()[len(self.root) :]


def folder_of(key: str) -> str:
    """Return the part of a key up to its last slash."""
    return key[: key.rfind("/") + 1]


def loaded(key: str, found: Document) -> KeyValue:
    """Return a key as it stands from etcd's JSON; DamagedRowError if it is damaged."""
    row = Row.decode(key, b64decode(found.get("value", "")))
    revision = int(found["mod_revision"])
    return KeyValue(
        key, row.value, revision, int(found["create_revision"]),
        row.lease, row.by, time_us(row.base_us, revision),
    )  # fmt: skip


# --- transactions --------------------------------------------------------------------------------


@dataclass(slots=True)
class Txn:
    """A transaction of etcd's: entries are JSON, or transactions within."""

    compares: list[str] = field(default_factory=list)
    success: list[str | Txn] = field(default_factory=list)
    failure: list[str | Txn] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """What etcd counts, and refuses if it is more than its ``max-txn-ops``."""
        here = max(len(self.compares), len(self.success), len(self.failure))
        inner = [e.operations for e in (*self.success, *self.failure) if isinstance(e, Txn)]
        return here + max(inner, default=0)

    def body(self) -> str:
        """Return it as JSON."""
        lists = (
            ("compare", self.compares),
            ("success", [_entry(entry) for entry in self.success]),
            ("failure", [_entry(entry) for entry in self.failure]),
        )
        return "{" + ",".join([f'"{name}":[{",".join(e)}]' for name, e in lists if e]) + "}"


def _entry(entry: str | Txn) -> str:
    return entry if isinstance(entry, str) else f'{{"request_txn":{entry.body()}}}'


def spread(entries: Sequence[str | Txn]) -> list[str | Txn]:
    """Return the same as at most ``WIDTH`` entries."""
    if len(entries) <= WIDTH:
        return list(entries)
    size = -(-len(entries) // WIDTH)
    return [Txn(success=list(entries[n : n + size])) for n in range(0, len(entries), size)]


def get_range(start: str, end: str | None = None, **options: str | int | bool) -> str:
    """Return the operation that reads a key, or a range of keys."""
    fields = [f'"key":"{start}"']
    if end is not None:
        fields.append(f'"range_end":"{end}"')
    for name, value in options.items():
        word = f'"{value}"' if not isinstance(value, bool) else str(value).lower()
        fields.append(f'"{name}":{word}')
    return '{"request_range":{' + ",".join(fields) + "}}"


def put(place: str, raw: bytes, etcd_lease: str | None = None) -> str:
    """Return the operation that writes."""
    lease = f',"lease":"{etcd_lease}"' if etcd_lease is not None else ""
    return f'{{"request_put":{{"key":"{place}","value":"{b64(raw)}"{lease}}}}}'


def delete(start: str, end: str | None = None) -> str:
    """Return the operation that deletes a key, or a range of keys."""
    to = f',"range_end":"{end}"' if end is not None else ""
    return f'{{"request_delete_range":{{"key":"{start}"{to}}}}}'


def is_written_at(place: str, revision: int) -> str:
    """Compare: the key was last written by this revision; 0: it is absent."""
    return f'{{"key":"{place}","target":"MOD","mod_revision":"{revision}"}}'


def is_there(place: str) -> str:
    """Compare: the key is there."""
    return f'{{"key":"{place}","target":"CREATE","result":"GREATER","create_revision":"0"}}'


def is_absent(place: str) -> str:
    """Compare: the key is not there."""
    return f'{{"key":"{place}","target":"CREATE","create_revision":"0"}}'


def any_there(start: str, end: str) -> str:
    """Compare: some key of the range is there."""
    return (
        f'{{"key":"{start}","range_end":"{end}","target":"CREATE","result":"GREATER",'
        '"create_revision":"0"}'
    )


def none_there(start: str, end: str) -> str:
    """Compare: no key of the range is there."""
    return f'{{"key":"{start}","range_end":"{end}","target":"CREATE","create_revision":"0"}}'


def unwritten_since(start: str, end: str, revision: int) -> str:
    """Compare: no key of the range was written after the revision."""
    return (
        f'{{"key":"{start}","range_end":"{end}","target":"MOD","result":"LESS",'
        f'"mod_revision":"{revision + 1}"}}'
    )


# --- answers -------------------------------------------------------------------------------------


def succeeded(answer: Document) -> bool:
    """Say which list of a transaction was run; false is left out."""
    return bool(answer.get("succeeded"))


def parts(answer: Document) -> list[Document]:
    """Return the answers of a list's entries, those of ``spread`` put together again."""
    found: list[Document] = answer.get("responses", [])
    return found


def flat(answers: Iterable[Document], count: int) -> list[Document]:
    """Return the answers of ``count`` entries that went through ``spread``."""
    listed = list(answers)
    if count <= WIDTH:
        return listed
    return [inner for answer in listed for inner in parts(answer["response_txn"])]


def kvs(answer: Document) -> list[Document]:
    """Return the keys of a range that was read."""
    found: list[Document] = answer.get("response_range", {}).get("kvs", [])
    return found

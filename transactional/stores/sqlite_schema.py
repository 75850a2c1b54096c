"""What lies in the database file: the tables, the checksum of each row, how an older file is read.

Theory of operation
-------------------
A *row* of a key is the same wherever it is kept, as the key's present in ``keys`` and as a commit's
past in ``history``: the value, the revision that wrote it and the one that created the key, its
lease, **by** whom and when (``time_us``) it was written, and a **checksum** of all of that.  Every
table whose rows mean something has such a checksum, and whoever reads a row computes it again: a
bit that the disk has turned is an error that names the key, never a value.

A row that is *gone* has no checksum to fail.  So ``meta`` holds, for each table, how many rows
there are, the sum of their checksums and of the bytes in them; it is written in the transaction
that changes the rows.  A checksum covers key and revision, so the sum is a running hash of the set
of all (key, revision): a row that is lost, doubled or back from the dead makes a difference.  The
sum of what is there costs one pass that SQLite makes by itself.

CRC-32 is for accidents: each changed burst of 32 bits is noticed, of other damage all but 2**-32.
It does not keep anybody out who can write to the file; nothing in the file could.

Versions: ``user_version`` is the format.  A file of the format before is converted when its owner
opens it, in one transaction, so that a crash leaves one or the other (docs/operations.md, Upgrade).
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from transactional.errors import CorruptStoreError, DamagedRowError, NewerFormatError
from transactional.values import KeyValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

CHECK_STEPS: Final = 10_000
"""After so many instructions of SQLite's a check looks at the time."""
FORMAT: Final = 3
FORMAT_BEFORE: Final = 2
APPLICATION_ID: Final = 0x436F6E76  # "Conv"
OWN: Final = -1
"""In the place of the revision inside a minted op_id: the op_id is a caller's own."""

_SCHEMA = """
CREATE TABLE meta(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch TEXT NOT NULL,
    revision INTEGER NOT NULL,      -- of the last commit
    compacted INTEGER NOT NULL,     -- floor of `history`: values up to here are forgotten
    indexed INTEGER NOT NULL,       -- floor of `changes`: which keys changed is forgotten as well
    resolvable INTEGER NOT NULL,    -- floor of `operations`: op_ids minted below it are forgotten
    time_us INTEGER NOT NULL,       -- business time of the last commit
    totals TEXT NOT NULL,           -- of each table below: rows, sum of their checksums, bytes
    checksum INTEGER NOT NULL
);
CREATE TABLE keys(
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL,
    created_revision INTEGER NOT NULL, lease TEXT,
    by TEXT NOT NULL,               -- who wrote it; '' is not known
    time_us INTEGER NOT NULL,       -- when; 0 is not known
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX leased ON keys(lease) WHERE lease IS NOT NULL;
CREATE TABLE history(               -- one row per changed key; value NULL: deleted
    revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, created_revision INTEGER,
    lease TEXT, by TEXT NOT NULL, time_us INTEGER NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE TABLE changes(               -- what is left of the history below `compacted`
    revision INTEGER NOT NULL, key TEXT NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE TABLE operations(            -- content NULL: fenced
    minted INTEGER NOT NULL,        -- the revision inside a minted op_id, -1: a caller's own
    op_id TEXT NOT NULL, content BLOB, revision INTEGER NOT NULL, succeeded INTEGER NOT NULL,
    time_us INTEGER NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (minted, op_id)
) WITHOUT ROWID;
CREATE INDEX own ON operations(time_us) WHERE minted < 0;
CREATE TABLE leases(                -- remote: its holder may live in another process
    lease TEXT PRIMARY KEY, ttl_s REAL NOT NULL, remote INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE moments(               -- now and then: when which revision was the last
    revision INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, checksum INTEGER NOT NULL
);
"""

# --- checksums -----------------------------------------------------------------------------------

KEY_COLUMNS: Final = "revision, key, value, created_revision, lease, by, time_us, checksum"
"""Of ``keys`` and of ``history``: a ``feed.Row`` and its checksum."""


def row_checksum(  # noqa: PLR0917 the columns of a row, in their order
    revision: int,
    key: str,
    value: bytes | None,
    created: int | None,
    lease: str | None,
    by: str,
    time_us: int,
) -> int:
    """Return the checksum of a row of a key; a deletion has neither value nor creation."""
    head = f"{revision}\0{key}\0{created}\0{lease}\0{by}\0{time_us}"  # no text has a \0 in it
    return crc32(value or b"", crc32(head.encode()))


def change_checksum(revision: int, key: str) -> int:
    """Return the checksum of a row of ``changes``."""
    return crc32(f"{revision}\0{key}".encode())


def operation_checksum(  # noqa: PLR0917 as above
    minted: int, op_id: str, content: bytes | None, revision: int, succeeded: int, time_us: int
) -> int:
    """Return the checksum of the record of an operation."""
    head = f"{minted}\0{op_id}\0{content is None}\0{revision}\0{succeeded:d}\0{time_us}"
    return crc32(content or b"", crc32(head.encode()))


def lease_checksum(lease: str, ttl_s: float, remote: int) -> int:
    """Return the checksum of a lease."""
    return crc32(f"{lease}\0{float(ttl_s)!r}\0{remote:d}".encode())


def moment_checksum(revision: int, time_us: int) -> int:
    """Return the checksum of a moment."""
    return crc32(f"{revision}\0{time_us}".encode())


CHECKSUMS: Final[dict[str, tuple[str, Callable[..., int], str]]] = {
    "keys": (KEY_COLUMNS.removesuffix(", checksum"), row_checksum, "length(value)"),
    "history": (
        KEY_COLUMNS.removesuffix(", checksum"),
        row_checksum,
        "coalesce(length(value), 0)",
    ),
    "changes": ("revision, key", change_checksum, "0"),
    "operations": ("minted, op_id, content, revision, succeeded, time_us", operation_checksum, "0"),
    "leases": ("lease, ttl_s, remote", lease_checksum, "0"),
    "moments": ("revision, time_us", moment_checksum, "0"),
}
"""The tables that are counted: their columns, the checksum of those, the bytes of a row."""
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "leases": ("lease",),
    "moments": ("revision",),
    "keys": ("key",),
    "operations": ("minted", "op_id"),
    "history": ("revision", "key"),
    "changes": ("revision", "key"),
}
"""Their primary keys; the tables are checked in this order, if there is no time for all."""
Totals = tuple[int, int, int]
"""Of a table: rows, sum of their checksums, bytes in them."""
NOTHING: Final[Totals] = (0, 0, 0)


class Meta(NamedTuple):
    """The row of ``meta``."""

    epoch: str
    revision: int
    compacted: int
    indexed: int
    resolvable: int
    time_us: int
    totals: dict[str, Totals]

    def write(self, connection: sqlite3.Connection) -> None:
        """Put it into the file."""
        columns = (*self[:-1], _dump(self.totals))
        connection.execute(
            "REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*columns, _meta_checksum(columns)),
        )

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Meta:
        """Take it from the file.

        Raises:
            CorruptStoreError: it is not what was written.
        """
        found = connection.execute("SELECT * FROM meta").fetchall()
        try:
            ((_, *columns, checksum),) = found
            if _meta_checksum(columns) != checksum:
                raise ValueError("checksum")
            epoch, revision, compacted, indexed, resolvable, time_us, text = columns
            totals = {name: (n, c, b) for name, (n, c, b) in json.loads(text).items()}
            return cls(epoch, revision, compacted, indexed, resolvable, time_us, totals)
        except (TypeError, ValueError) as error:
            raise CorruptStoreError("the row of `meta` is not what was written") from error


_dump: Final = json.JSONEncoder(separators=(",", ":")).encode


def _meta_checksum(columns: Sequence[Any]) -> int:
    return crc32("\0".join(map(str, columns)).encode())


def found_key(row: Sequence[Any]) -> KeyValue:
    """Return a row of ``keys`` as a value.

    Raises:
        DamagedRowError: it is not what was written.
    """
    check_row(row)
    revision, key, value, created, lease, by, time_us, _ = row
    return KeyValue(key, value, revision, created, lease, by, time_us)


def check_row(row: Sequence[Any]) -> None:
    """Raise DamagedRowError unless a row of ``keys`` or ``history`` is what was written."""
    if not is_whole(row):
        raise DamagedRowError(str(row[1]), f"the row of {row[1]!r} is not what was written")


def is_whole(row: Sequence[Any]) -> bool:
    """Say whether a row of ``keys`` or ``history`` is what was written."""
    revision, key, value, created, lease, by, time_us, checksum = row
    try:
        # Another type is damage, too, and as text it could look the same.
        return bool(row_checksum(revision, key, value, created, lease, by, time_us) == checksum)
    except (TypeError, ValueError):
        return False


# --- a new file, an older one --------------------------------------------------------------------


def is_new(connection: sqlite3.Connection) -> bool:
    """Say whether the file is still empty; raise CorruptStoreError if it is not a store of ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    version = version_of(connection)
    if application == APPLICATION_ID:
        if version > FORMAT:
            raise NewerFormatError("the file", version, FORMAT)
        if version not in {FORMAT, FORMAT_BEFORE}:
            raise CorruptStoreError(
                f"the file has format {version}; this program reads {FORMAT},"
                f" and converts {FORMAT_BEFORE}"
            )
        return False
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables or application or version:
        raise CorruptStoreError("the file is a database, but not a store of ours")
    return True


def version_of(connection: sqlite3.Connection) -> int:
    """Return the format of the file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def set_up(connection: sqlite3.Connection) -> None:
    """Make the tables of a store in a new file."""
    connection.executescript("BEGIN IMMEDIATE;" + _SCHEMA)
    Meta(secrets.token_hex(4), 0, 0, 0, 0, 0, dict.fromkeys(CHECKSUMS, NOTHING)).write(connection)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={FORMAT}")
    connection.execute("COMMIT")


_CONVERT: Final = """
INSERT INTO keys SELECT key, value, revision, created_revision, lease, '', t,
    row_checksum(revision, key, value, created_revision, lease, '', t)
FROM (SELECT keys.*, coalesce((SELECT time_us FROM history_2 AS h
    WHERE h.revision = keys.revision AND h.key = keys.key), 0) AS t FROM keys_2 AS keys);
INSERT INTO history SELECT revision, key, value, created_revision, lease, '', time_us,
    row_checksum(revision, key, value, created_revision, lease, '', time_us) FROM history_2;
INSERT INTO operations SELECT m, op_id, content, revision, succeeded, time_us,
    operation_checksum(m, op_id, content, revision, succeeded, time_us)
FROM (SELECT *, coalesce(minted, -1) AS m FROM operations_2);
INSERT INTO leases SELECT lease, ttl_s, remote, lease_checksum(lease, ttl_s, remote) FROM leases_2;
"""


def convert(connection: sqlite3.Connection) -> None:
    """Bring a file of the format before to this one; O(its size), all of it or nothing.

    The time of a key is known as far as the history goes, by whom it was written is not.
    """
    register(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for index in ("leased", "minted", "own"):
            connection.execute(f"DROP INDEX {index}")
        old = ("meta", "keys", "history", "operations", "leases")
        for table in old:
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_2")
        for statement in [*_SCHEMA.split(";\n"), *_CONVERT.split(";\n")]:
            connection.execute(statement)
        epoch, revision, compacted, time_us = connection.execute(
            "SELECT epoch, revision, compacted, time_us FROM meta_2"
        ).fetchone()
        totals = {name: totals_of(connection, name) for name in CHECKSUMS}
        Meta(epoch, revision, compacted, compacted, compacted, time_us, totals).write(connection)
        for table in old:
            connection.execute(f"DROP TABLE {table}_2")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("VACUUM")  # which is when that setting comes to be, and the old pages go


def totals_of(
    connection: sqlite3.Connection, table: str, where: str = "TRUE", values: Sequence[Any] = ()
) -> Totals:
    """Return how many rows of a table there are, the sum of their checksums, and of their bytes."""
    size = CHECKSUMS[table][2]
    rows, checksums, size = connection.execute(
        f"SELECT count(*), coalesce(sum(checksum), 0), coalesce(sum({size}), 0)"
        f" FROM {table} WHERE {where}",
        values,
    ).fetchone()
    return rows, checksums, size


def register(connection: sqlite3.Connection) -> None:
    """Teach SQLite the checksums: ``row_checksum(...)`` and so on."""
    for name, count, checksum in (
        ("row_checksum", 7, row_checksum),
        ("change_checksum", 2, change_checksum),
        ("operation_checksum", 6, operation_checksum),
        ("lease_checksum", 3, lease_checksum),
        ("moment_checksum", 2, moment_checksum),
    ):
        connection.create_function(name, count, _or_none(checksum), deterministic=True)


def _or_none(checksum: Callable[..., int]) -> Callable[..., int | None]:
    """Return a function that gives None for what a damaged row may hold: other types."""

    def computed(*columns: Any) -> int | None:
        try:
            return checksum(*columns)
        except (TypeError, ValueError):
            return None

    return computed


# --- what is wrong with it -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found wrong, and what it did not get to."""

    problems: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def check(
    connection: sqlite3.Connection, *, limit_s: float = math.inf, bytes_max: float = math.inf
) -> Findings:
    """Look at every page and row: is it what was written, and is any missing?  O(file).

    It stops after about `limit_s`; the pages are looked at in one go, if they are no more than
    `bytes_max`.  The connection knows the checksums (``register``).

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    problems: list[str] = []
    stages: dict[str, Callable[[], list[str]]] = {
        "pages": lambda: _check_pages(connection),
        **{table: partial(_check_table, connection, table) for table in PLACES},
    }
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    unchecked: list[str] = []
    if pages * page > bytes_max:
        del stages["pages"]
        unchecked.append("pages")
    end_s = time.monotonic() + limit_s
    connection.set_progress_handler(lambda: time.monotonic() > end_s, CHECK_STEPS)
    connection.execute("BEGIN")  # rows and what is noted of them, as of one commit
    try:
        while stages and time.monotonic() < end_s:
            name = next(iter(stages))
            problems += stages[name]()
            del stages[name]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
            raise
    finally:
        connection.set_progress_handler(None, 0)
        connection.execute("ROLLBACK")
    unchecked += stages
    return Findings(tuple(problems), tuple(unchecked))


def _check_pages(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("PRAGMA integrity_check(20)").fetchall()
    return [f"SQLite: {line}" for (line,) in found if line != "ok"]


def _check_table(connection: sqlite3.Connection, table: str) -> list[str]:
    """Compare each row with its checksum, and all of them with what is noted of the table."""
    columns, checksum, _ = CHECKSUMS[table]
    name = {"operations": "op_id", "leases": "lease", "moments": "revision"}.get(table, "key")
    try:
        bad = connection.execute(
            f"SELECT CAST({name} AS BLOB) FROM {table}"
            f" WHERE checksum IS NOT {checksum.__name__}({columns}) LIMIT 5"
        ).fetchall()
    except sqlite3.OperationalError as error:
        if "user-defined function" not in str(error):
            raise
        return [f"a row of {table} holds bytes for a text"]
    names = [(found or b"").decode(errors="replace") for (found,) in bad]
    found = [f"a row of {table} is not what was written: {name!r}" for name in names]
    totals, noted = totals_of(connection, table), Meta.read(connection).totals.get(table)
    if totals != noted:
        found.append(f"rows of {table} are lost: rows, sum, bytes are {totals}, not {noted}")
    return found

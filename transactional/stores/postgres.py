"""The store in a PostgreSQL database, shared by any number of processes.

Theory of operation
-------------------
The server decides.  A call that writes joins a queue; its sender takes what waits and sends it as
one statement, which judges the requests one after the other under a row lock and is a transaction
of its own (``postgres_schema.py`` tells how)::

    callers --> queue --> [ SELECT * FROM write(r1, r2, ...) ] --> answers, and the watchers' feed
                             lock | r1 | r2 | ... | commit

So one commit on the server's disk serves all that waited in this process, and while it is being
made the next batch gathers.  One connection writes, two read (those who read keys at the same time
share a statement, and so do those who read ranges), one follows the changes; they are made when
they are needed.  No connection has a state that a call relies on - no session locks, no prepared
statements with names, no settings - so a pooler that gives each transaction another server
connection may stand in between.

What an error means.  ``ERROR`` from the server: the statement was rolled back, nothing was written;
deadlocks, serialization failures and waits for the lock that took too long are tried again a few
times.  No connection: nothing was sent.  A connection that broke or fell silent while a statement
was on its way, and ``FATAL`` (the server goes down, perhaps after it committed): the outcome of
what it writes is unknown.  It is never repeated here; ``resolve`` finds the record that was written
in the same transaction, or fences it off.

Fail-over: the URL may name several hosts.  A connection goes to the first that takes writes.  A
server that is behind what it once told us has lost commits, which asynchronous standbys do when
they are promoted; the first write that notices ends this life of the store (another epoch), so that
no revision ever means two things.

Watches share a ``feed``, which one poll for all keeps up: at once after a commit of this process,
and when the server notifies, which it does at most every 5 ms, so who was told looks once more
after that; and every half a second in any case, for notifications may get lost.

Time: business time starts from the server's clock, carried on by boot time between two answers, and
raised to the last commit's in the commit.  Leases have a time of their own that all processes agree
on: boot time, set once by the server's clock and corrected only as far as its answers prove, so
that no step of a wall clock ends a lease; the server never lets it go back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
import ssl as tls_library
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote

import asyncpg

from transactional import rules
from transactional.caller import OWNER, Caller
from transactional.clock import BusinessTime, Clock, utc
from transactional.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptStoreError,
    DamagedRowError,
    EpochMismatchError,
    InvalidRequestError,
    LeaseExpiredError,
    NewerFormatError,
    OperationIdReusedError,
    OpIdExpiredError,
    OpIdFencedError,
    StoreClosedError,
    StoreFullError,
    StoreIOError,
    TooManyRequestsError,
    TransactionalError,
    UnavailableError,
    UnknownSchemeError,
    WeakServerError,
    WrongRequestError,
)
from transactional.shield import shielded
from transactional.store import mint_op_id, this_user
from transactional.stores import postgres_schema as schema
from transactional.stores.call_queue import Call, CallQueue
from transactional.stores.feed import Feed, Row, event_of
from transactional.stores.retention import Retention
from transactional.values import (
    LAST_CODE_POINT,
    READ_BYTES_MAX,
    SCAN_KEYS_MAX,
    Absent,
    Applied,
    Capabilities,
    Commit,
    CommitRequest,
    Compacted,
    Compare,
    Delete,
    DeletePrefix,
    Exists,
    Fenced,
    KeyValue,
    Lease,
    LeaseAlive,
    Put,
    Revision,
    Snapshot,
    Unchanged,
    ValueIs,
    WatchEvent,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

CONNECT_S: Final = 3.0
"""How long a connection to one host may take."""
STATEMENT_S: Final = 8.0
"""How long the server works on a statement; it then ends it, and nothing is written."""
ANSWER_S: Final = 10.0
"""How long an answer is waited for; after that a commit's outcome is unknown."""
LOCK_S: Final = 5.0
"""How long a statement waits for the commits before it; then it is tried again."""
ATTEMPTS_MAX: Final = 5
"""So often a statement is sent that the server rolled back for the sake of another."""
BATCH_MAX: Final = 256
"""Most requests in one statement."""
BATCH_BYTES: Final = 4 << 20
"""About the most bytes of requests in one statement; a larger request goes alone."""
POINTS_MAX: Final = 64
"""Most reads of keys in one statement."""
RANGES_MAX: Final = 128
"""Most ranges in one statement..."""
SHARED_ROWS: Final = 128
"""...which brings no more rows of each; one that has more is read once more, alone."""
POLL_S: Final = 0.5
"""How often is looked for changes without being told to."""
POLL_UNTOLD_S: Final = 0.05
"""The same behind a pooler, where nobody is told."""
HISTORY_ROWS: Final = 1000
"""Rows of history that are read at a time; a commit is never cut."""
RECENT_COMMITS_MAX: Final = 4096
"""Commits kept in memory for watchers; who is further behind reads the history."""
RENEW_S: Final = 5.0
"""How long a thread waits for a lease to be renewed."""
STEP_US: Final = 100_000
"""A server's clock that is found further off than this was set, and leases do not follow it..."""
DRIFT: Final = 0.0005
"""...except for what two clocks may drift apart, in this proportion to the time since."""
COMPACT_ROWS: Final = 4096
"""Rows that one step of ``compact`` removes."""

WEAK: Final = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply", "remote_write", "local"),
}
"""The settings without which an acknowledged commit can be lost when the machine falls."""
NEVER: Final = (1 << 63) - 1
"""A revision that no commit has, and the largest that PostgreSQL takes."""
_RISKS: Final = {
    "fsync": "after a power cut the database may be destroyed",
    "full_page_writes": "after a power cut pages may be half written",
    "synchronous_commit": "after a fall the last commits may be lost though they were acknowledged",
}
_OPTIONS: Final = (
    "host",
    "reads",
    "schema",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "weak",
)
_SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, the lock was not to be had in time."""
_TAKEN: Final = frozenset({"42P07", "42710", "42723"})
"""There is a table, a type or a function of that name already."""
_HEADS: Final = 7
"""Columns of a read that say what `meta` holds."""

_log = logging.getLogger(__name__)


# --- where it is ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says; the password is in no text that is made of it."""

    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    schema: str = "convoca"
    weak: frozenset[str] = frozenset()
    stale_reads: bool = False
    tls: tls_library.SSLContext | str = "prefer"
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str, tls: tls_library.SSLContext | None = None) -> Address:
        """Read ``postgresql://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?OPTIONS``.

        Options: ``schema=NAME``, ``reads=standby``, ``weak=SETTING,SETTING``, ``sslmode``,
        ``sslrootcert``, ``sslcert``, ``sslkey``, ``host=DIRECTORY`` (a Unix socket), and the limits
        of ``Retention``.

        Raises:
            UnknownSchemeError: it is no such URL; no error repeats what it holds.
            InvalidRequestError: an option is unknown, or out of its bounds.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in {"postgresql", "postgres"}:
            raise UnknownSchemeError("the URL names no PostgreSQL server")
        rest, _, query = rest.partition("?")
        place, _, database = rest.partition("/")
        who, _, places = place.rpartition("@")
        user, _, password = who.partition(":")
        options = dict(parse_qsl(query, keep_blank_values=True))
        own: dict[str, str] = {}
        for name in _OPTIONS:
            if name in options:
                own[name] = options.pop(name)
        limits = Retention.parse(options, besides=_OPTIONS)
        Retention().but(limits)
        weak = frozenset(own.get("weak", "").split(",")) - {""}
        if unknown := weak - WEAK.keys():
            raise InvalidRequestError(
                f"weak={','.join(sorted(unknown))}: there are {', '.join(WEAK)}"
            )
        if own.get("reads", "standby") != "standby":
            raise InvalidRequestError("reads= takes one word, standby: reads may then be stale")
        hosts = tuple(_host(each) for each in (own.get("host") or places or "localhost").split(","))
        return cls(
            hosts,
            unquote(user) or None,
            unquote(password) or None,
            unquote(database) or None,
            own.get("schema") or "convoca",
            weak,
            "reads" in own,
            tls or _tls_of(own),
            limits,
        )


def _host(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::(\d{1,5}))?", unquote(text))
    if not found or not 0 < int(found[2] or 5432) < 65536:
        raise UnknownSchemeError("the URL names no host and port")
    return found[1].strip("[]"), int(found[2] or 5432)


def _tls_of(options: Mapping[str, str]) -> tls_library.SSLContext | str:
    mode = options.get("sslmode", "prefer")
    if mode not in _SSLMODES:
        raise InvalidRequestError(f"sslmode= is one of {', '.join(_SSLMODES)}")
    if "sslrootcert" not in options and "sslcert" not in options:
        return mode
    try:
        context = tls_library.create_default_context(cafile=options.get("sslrootcert"))
        context.check_hostname = mode != "verify-ca"
        if "sslcert" in options:
            context.load_cert_chain(options["sslcert"], options.get("sslkey"))
    except OSError as error:
        raise InvalidRequestError(f"the certificates cannot be used: {error.strerror}") from error
    return context


# --- connections ---------------------------------------------------------------------------------


class _LostError(Exception):
    """A statement was sent and its answer did not come."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself."""

    host: str
    version: str
    settings: Mapping[str, str]
    told: bool
    """It notifies: there is no pooler in between, as far as one can tell."""

    @property
    def weak(self) -> tuple[str, ...]:
        """The settings with which it may lose what it acknowledged."""
        return tuple(name for name, good in WEAK.items() if self.settings[name] not in good)

    @property
    def replicated(self) -> bool:
        """A commit is on a second machine's disk before it is acknowledged."""
        waits = self.settings["synchronous_commit"] in {"on", "remote_apply"}
        return waits and bool(self.settings["synchronous_standby_names"].strip())


class _Hosts:
    """Makes connections, to a host that can do what they are for."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._pooled = False
        self.server: Server | None = None
        """What the last one that takes writes said."""

    async def connect(self, *, standby: bool = False) -> tuple[asyncpg.Connection[Any], Server]:
        """Connect to the first host that will do: takes writes, or is a standby, if there is one.

        Raises:
            UnavailableError: there is none.  AccessDeniedError: it refuses us.
            WeakServerError: it may lose what it acknowledges, and that is not allowed.
        """
        reasons: list[str] = []
        for host, port in self.address.hosts:
            name = f"{host}:{port}"
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection, server, writable = await self._try(host, port)
            except (
                OSError,  # TimeoutError is one
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as error:
                reasons.append(f"{name}: {_refused(error)}")
                continue
            if writable == standby:
                reasons.append(f"{name}: {'takes writes' if writable else 'is read-only'}")
                connection.terminate()
                continue
            weak = tuple(each for each in server.weak if each not in self.address.weak)
            if weak and not standby:
                connection.terminate()
                words = ", ".join(f"{each}={server.settings[each]}" for each in weak)
                raise WeakServerError(weak, f"{name} may lose what it acknowledges: {words}")
            if not standby:
                self.server = server
            return connection, server
        if standby:
            return await self.connect()
        raise UnavailableError(f"no PostgreSQL server that takes writes: {'; '.join(reasons)}")

    async def _try(self, host: str, port: int) -> tuple[asyncpg.Connection[Any], Server, bool]:
        try:
            connection = await self._open(host, port)
        except asyncpg.PostgresError as error:
            # A pooler does not take settings at the start, nor could it keep them.
            if self._pooled or error.sqlstate not in {"08P01", "0A000"}:
                raise
            self._pooled = True
            connection = await self._open(host, port)
        try:
            found = await connection.fetchrow(schema.SETTINGS)
            assert found is not None
            if found["encoding"] != "UTF8":
                raise InvalidRequestError(
                    f"the database's encoding is {found['encoding']}, not UTF8"
                )
            settings = {name: found[name] for name in (*WEAK, "synchronous_standby_names")}
            server = Server(f"{host}:{port}", found["version"], settings, not self._pooled)
            return connection, server, not found["standby"] and found["read_only"] == "off"
        except BaseException:
            connection.terminate()
            raise

    async def _open(self, host: str, port: int) -> asyncpg.Connection[Any]:
        settings = {
            "application_name": "convoca",
            "statement_timeout": f"{STATEMENT_S * 1000:.0f}",
            "lock_timeout": f"{LOCK_S * 1000:.0f}",
        }
        return await asyncpg.connect(
            host=host,
            port=port,
            user=self.address.user,
            password=self.address.password,
            database=self.address.database,
            ssl=cast("Any", self.address.tls) if not host.startswith("/") else None,
            timeout=CONNECT_S,
            statement_cache_size=0,
            server_settings={} if self._pooled else settings,
        )


class _Link:
    """One connection for one user at a time, made when it is needed and again when it broke."""

    def __init__(self, hosts: _Hosts, *, standby: bool = False) -> None:
        self._hosts = hosts
        self._standby = standby
        self._connection: asyncpg.Connection[Any] | None = None
        self.told = False

    async def ready(self) -> asyncpg.Connection[Any]:
        """Return the connection."""
        if self._connection is None or self._connection.is_closed():
            self.drop()
            self._connection, server = await self._hosts.connect(standby=self._standby)
            self.told = server.told
        return self._connection

    async def fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Run one statement, which is a transaction of its own.

        Raises:
            UnavailableError: there is no connection; nothing was sent.
            asyncpg.PostgresError: the server rolled it back; nothing was written.
            _LostError: the answer was lost.
        """
        connection = await self.ready()
        asked = asyncio.ensure_future(connection.fetch(statement, *values))
        try:
            done, _ = await asyncio.wait({asked}, timeout=ANSWER_S)
            if done:
                return asked.result()
            raise _LostError(f"no answer within {ANSWER_S:g} s")
        except asyncpg.PostgresError as error:
            if _is_definite(error):
                if error.sqlstate == "25006":  # it is a standby by now
                    self.drop()
                raise
            self.drop()
            raise _LostError(_words(error)) from error
        except asyncpg.DataError:
            raise  # of a value that cannot be sent; nothing was
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # The last is of a connection that the server has just given up, in asyncpg's words.
            self.drop()
            raise _LostError(_words(error)) from error
        finally:
            if not asked.done():  # too late, or nobody waits any more
                self.drop()
                await asyncio.wait({asked})
            if not asked.cancelled():
                asked.exception()

    def drop(self) -> None:
        """Hang up without a word."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
                await connection.close(timeout=CONNECT_S)


def _is_definite(error: asyncpg.PostgresError) -> bool:
    """Say whether the server said that it rolled back, and lives on."""
    return getattr(error, "severity_en", None) == "ERROR"


def _words(error: BaseException) -> str:
    """Return what went wrong, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _refused(error: Exception) -> str:
    """Return why there is no connection, or raise it, if another attempt will not help."""
    state = getattr(error, "sqlstate", None)
    if state in {"28000", "28P01", "3D000", "42501"}:
        raise AccessDeniedError(_words(error)) from error
    return "no connection in time" if isinstance(error, TimeoutError) else _words(error)


_KINDS: Final[Mapping[str, type[UnavailableError | WrongRequestError]]] = {
    "53100": StoreFullError,  # disk full
    "53400": StoreFullError,  # a limit of the configuration
    "58": StoreIOError,
    "XX001": CorruptStoreError,
    "XX002": CorruptStoreError,
    "3F000": CorruptStoreError,  # the schema is gone...
    "42501": AccessDeniedError,
    "42": CorruptStoreError,  # ...or a table or a function, or it is not as we made it
    "XX": StoreIOError,  # an internal error
    "0A": UnavailableError,  # not in this server's power
    "25": UnavailableError,  # read-only
    "40": UnavailableError,  # rolled back for the sake of another
    "53": UnavailableError,  # memory, connections
    "55": UnavailableError,  # the lock was not to be had
    "57": UnavailableError,  # it took too long
}
"""What an error means that begins with a code; the first that fits."""


def _told(error: asyncpg.PostgresError) -> Exception:
    """Return what an error of the server means to who asked; itself, if it is a fault of ours."""
    state = error.sqlstate or ""
    kind = next((kind for code, kind in _KINDS.items() if state.startswith(code)), None)
    return error if kind is None else kind(f"PostgreSQL: {_words(error)}")


# --- reads that share statements -----------------------------------------------------------------

_Range = tuple[str, str, str, int]
"""First key, the key to begin behind, the end, and the most rows."""
_Asked = TypeVar("_Asked", tuple[str, ...], _Range)
_Found = tuple[int, list[tuple[Any, ...]]]
"""The revision at which was read, and rows of keys."""


def _are_cut(rows: Sequence[Sequence[Any]]) -> bool:
    """Say whether there may be more rows behind these than an answer takes."""
    return sum(len(row[2]) for row in rows) > READ_BYTES_MAX


async def _answer(
    read: Callable[[list[Call[_Asked]]], Awaitable[None]], batch: list[Call[_Asked]]
) -> None:
    """Have a batch read; whatever goes wrong, they are told."""
    try:
        await read(batch)
    except Exception as error:  # noqa: BLE001 theirs, not the sender's
        for call in batch:
            call.fail(error)


# --- requests as arrays --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Request:
    """What one call asks `write` for."""

    kind: int
    name: str
    """Of the operation, with its role; of the lease."""
    asked: CommitRequest | None = None
    op_id: str = ""
    minted: int = schema.OWN
    content: bytes | None = None
    by: str = ""
    ttl_s: float | None = None
    caller: Caller = OWNER


_Entry = tuple[int, int, str, bytes | None, int | None, str | None, bool]
"""Part, kind, key, value, number, lease, forget."""


def _compare_entry(compare: Compare) -> _Entry:
    match compare:
        case Revision(key, revision):
            return (schema.COMPARE, schema.REVISION, key, None, min(revision, NEVER), None, False)
        case Exists(key):
            return (schema.COMPARE, schema.EXISTS, key, None, None, None, False)
        case Absent(key):
            return (schema.COMPARE, schema.ABSENT, key, None, None, None, False)
        case ValueIs(key, value):
            return (schema.COMPARE, schema.VALUE, key, value, None, None, False)
        case Unchanged(prefix, since):
            return (schema.COMPARE, schema.UNCHANGED, prefix, None, min(since, NEVER), None, False)
        case LeaseAlive(lease):
            return (schema.COMPARE, schema.LEASE, lease, None, None, None, False)


def _write_entry(part: int, write: Write) -> _Entry:
    match write:
        case Put(key, value, lease, forget):
            return (part, schema.PUT, key, value, None, lease, forget)
        case Delete(key, forget):
            return (part, schema.DELETE, key, None, None, None, forget)
        case DeletePrefix(prefix, forget):
            return (part, schema.DELETE_PREFIX, prefix, None, None, None, forget)


def _arrays(requests: Sequence[_Request]) -> list[list[Any]]:
    """Return the arrays that `write` takes; a request's compares come before its writes."""
    first, entries = [1], list[_Entry]()
    for request in requests:
        if (asked := request.asked) is not None:
            entries += map(_compare_entry, asked.compares)
            entries += map(partial(_write_entry, schema.WRITE), asked.writes)
            entries += map(partial(_write_entry, schema.OTHERWISE), asked.otherwise)
        first.append(len(entries) + 1)
    return [
        [request.kind for request in requests],
        [request.name for request in requests],
        [request.minted for request in requests],
        [request.content for request in requests],
        [request.by for request in requests],
        [request.ttl_s for request in requests],
        first,
        *([entry[column] for entry in entries] for column in range(7)),
    ]


def _row(record: Sequence[Any]) -> tuple[Any, ...]:
    """Return the columns of a key's row in an answer of `write`."""
    _, _, revision, time_us, _, _, key, value, created, lease, by, checksum = record
    return (revision, key, value, created, lease, by, time_us, checksum)


def _outcome(request: _Request, records: Sequence[Sequence[Any]]) -> object:
    """Return the result of a request, or raise what it says, from its rows of the answer."""
    _, what, revision, time_us, flag, failed, text, value, *_ = records[0]
    if what == schema.APPLIED:
        return Commit(revision, flag, utc(time_us))
    if what == schema.LEASED:
        return Lease(request.name, request.ttl_s if request.ttl_s is not None else float(text or 0))
    if what == schema.CONFLICT:
        raise _conflict(request, failed, revision, records[1:])
    if what == schema.REPLAYED:
        first = Commit(revision, flag, utc(time_us), replayed=request.kind == schema.COMMIT)
        return first if request.kind == schema.COMMIT else Applied(first, value)
    if what == schema.FENCED and request.kind == schema.RESOLVE:
        return Fenced(request.op_id)
    raise _refusal(request, what, records[0][9])


_OF_OP_ID: Final[
    Mapping[int, type[OpIdFencedError | OperationIdReusedError | OpIdExpiredError]]
] = {
    schema.FENCED: OpIdFencedError,
    schema.REUSED: OperationIdReusedError,
    schema.EXPIRED: OpIdExpiredError,
}


def _refusal(request: _Request, what: int, lease: str) -> TransactionalError:
    op_id = request.op_id
    if what in _OF_OP_ID:
        return _OF_OP_ID[what](op_id)
    if what == schema.UNBORN:
        return InvalidRequestError(f"op_id {op_id!r} names a revision that is yet to come")
    if what == schema.DAMAGED:
        return DamagedRowError(op_id, f"the record of {op_id!r} is not what was written")
    if what == schema.NO_LEASE:
        return LeaseExpiredError(lease)
    return TooManyRequestsError("there are too many leases already")  # schema.TOO_MANY


def _conflict(
    request: _Request, failed: Sequence[int], revision: int, rows: Sequence[Sequence[Any]]
) -> ConflictError:
    asked = cast("CommitRequest", request.asked)
    current: dict[str, KeyValue | None] = dict.fromkeys(rules.compared_keys(asked.compares))
    for found in map(schema.found_key, map(_row, rows)):
        current[found.key] = found
        request.caller.read(len(found.key) + len(found.value))
    return ConflictError(tuple(asked.compares[n] for n in failed), current, revision)


# --- the store -----------------------------------------------------------------------------------


class PostgresStore:
    """A Store in a database; made by ``open``, belongs to the event loop that opened it."""

    def __init__(
        self, hosts: _Hosts, clock: Clock | None, retention: Retention, by: str | None
    ) -> None:
        self._hosts = hosts
        self._sql = schema.Statements(hosts.address.schema)
        self._given_clock = clock
        self._clock = clock or Clock()
        self._by = by or this_user()
        self._limits = [
            retention.history_commits_max,
            retention.history_bytes_max,
            *(
                int(seconds * 1e6)
                for seconds in (
                    retention.index_retention_s,
                    retention.minted_retention_s,
                    retention.op_id_retention_s,
                )
            ),
        ]
        self._time = BusinessTime()
        self._heard = (0, 0.0)  # the server's clock, and the boot time that belongs to it
        self._ahead_us: int | None = None  # of leases' time before boot time
        self._doubt_us = 0  # about that
        self._told_s = 0.0  # when an answer last came
        self._epoch = ""
        self._revision = 0
        self._writer = _Link(hosts)
        self._readers = [_Link(hosts, standby=hosts.address.stale_reads) for _ in range(2)]
        self._follower = _Link(hosts)
        self._writes: CallQueue[_Request] = CallQueue(
            self._deliver, batch_max=BATCH_MAX, bytes_max=BATCH_BYTES, senders=1
        )
        self._points: CallQueue[tuple[str, ...]] = CallQueue(
            partial(_answer, self._read_points), batch_max=POINTS_MAX, senders=1
        )
        self._ranges: CallQueue[_Range] = CallQueue(
            partial(_answer, self._read_ranges), batch_max=RANGES_MAX, senders=1
        )
        self._ranging = asyncio.Lock()  # of the connection that reads ranges, and old history
        self._feed = Feed(0, commits_max=RECENT_COMMITS_MAX)
        self._watchers = 0
        self._news = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        tls: tls_library.SSLContext | None = None,
        clock: Clock | None = None,
        by: str | None = None,
        **limits: float,
    ) -> PostgresStore:
        """Open the store at ``postgresql://…`` (see ``Address.parse``); make it on first use.

        Raises:
            UnknownSchemeError, InvalidRequestError: the URL is not one.
            UnavailableError: no server takes writes now.
            AccessDeniedError: the server refuses us, or does not let us make the tables.
            WeakServerError: the server may lose what it acknowledges.
            NewerFormatError: the tables are of a later version of this library.
            CorruptStoreError: they are not as this library made them.
        """
        address = Address.parse(url, tls)
        hosts = _Hosts(address)
        retention = Retention().but({**address.limits, **limits})
        self = cls(hosts, clock, retention, by)
        try:
            await self._set_up()
            await self._read(self._writer, self._sql.points, [], READ_BYTES_MAX)
        except BaseException:
            await self._hang_up()
            raise
        self._feed = Feed(self._revision, commits_max=RECENT_COMMITS_MAX)
        return self

    async def _set_up(self) -> None:
        """Make the tables, and teach the server the functions of this version."""
        sql = self._sql
        ((made, taught),) = await self._query(
            self._writer, schema.FOUND, sql.schema, sql.write_name
        )
        if not (made and taught):
            await self._make()
        ((version, self._epoch),) = await self._query(
            self._writer, f"SELECT format, epoch FROM {sql.meta}"
        )
        if version > schema.FORMAT:
            raise NewerFormatError(f"schema {self._hosts.address.schema!r}", version, schema.FORMAT)
        if version != schema.FORMAT:
            raise CorruptStoreError(
                f"the tables have format {version}; this program reads {schema.FORMAT}"
            )

    async def _make(self) -> None:
        """One transaction; who comes at the same time waits for it, and finds everything there."""
        sql = self._sql
        connection = await self._writer.ready()
        try:
            async with asyncio.timeout(ANSWER_S), connection.transaction():
                await connection.execute(
                    "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", sql.channel
                )
                found = await connection.fetchrow(schema.FOUND, sql.schema, sql.write_name)
                assert found is not None
                if not found["made"]:
                    await connection.execute(sql.tables)
                elif await connection.fetchval(f"SELECT format FROM {sql.meta}") != schema.FORMAT:
                    return
                if not found["taught"]:
                    await connection.execute(sql.functions)
        except asyncpg.PostgresError as error:
            self._writer.drop()
            if (error.sqlstate or "") in _TAKEN:
                raise InvalidRequestError(
                    f"schema {self._hosts.address.schema!r} holds something else already:"
                    f" {_words(error)}; name another one, ?schema=NAME"
                ) from error
            if _is_definite(error):
                raise _told(error) from error
            raise UnavailableError(f"PostgreSQL: {_words(error)}") from error
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            self._writer.drop()  # it may be there or not: the next attempt looks
            raise UnavailableError(f"PostgreSQL: {_words(error)}") from error

    @property
    def epoch(self) -> str:
        """Name of the store's life that this client opened."""
        return self._epoch

    @property
    def capabilities(self) -> Capabilities:
        """What the server's settings promise."""
        server = self._hosts.server
        return Capabilities(
            "postgresql",
            durable=server is not None and not server.weak,
            shared=True,
            fault_tolerant=server is not None and not server.weak and server.replicated,
        )

    def advice(self) -> Sequence[str]:
        """Return what an operator should change about the server; see ``Advises``."""
        server = self._hosts.server
        if server is None:
            return []
        lines = [f"{server.host}: set {name}=on: {_RISKS[name]}" for name in server.weak]
        settings = server.settings
        waits = settings["synchronous_commit"]
        if settings["synchronous_standby_names"].strip() and not server.replicated and not lines:
            lines.append(
                f"{server.host}: set synchronous_commit=on: with {waits} a commit is acknowledged"
                " before it is on the standby's disk"
            )
        if not server.told:
            lines.append(
                f"{server.host}: connect without the pooler: it passes no notifications, so watches"
                f" ask every {POLL_UNTOLD_S * 1000:.0f} ms"
            )
        return lines

    # --- time ---

    def _hear(self, clock_us: int, lease_us: int, sent_s: float) -> None:
        """Take in what an answer says of the server's clock and of the leases' time.

        The clock was read between sending and now: how far the leases' time is ahead of boot time
        lies between two bounds, and each answer may narrow it.  Bounds far from what earlier ones
        allowed mean that the clock was set.
        """
        heard_s = self._clock.elapsed_s()
        if self._given_clock is None:
            self._heard = (clock_us, heard_s)
        else:
            clock_us, sent_s = self._given_clock.wall_us(), heard_s
        low, high = clock_us - int(heard_s * 1e6), clock_us - int(sent_s * 1e6)
        if self._ahead_us is None:
            self._ahead_us, self._doubt_us = (low + high) // 2, high - low
        else:
            off_us = max(low, min(high, self._ahead_us)) - self._ahead_us
            allowed_us = max(STEP_US, self._doubt_us) + (heard_s - self._told_s) * 1e6 * DRIFT
            if abs(off_us) <= allowed_us:
                self._ahead_us += off_us
                self._doubt_us = min(self._doubt_us, high - low)
        self._told_s = heard_s
        # It never goes back for anybody: who is behind what another told is wrong.
        self._ahead_us = max(self._ahead_us, lease_us - int(heard_s * 1e6))

    def _wall_us(self) -> int:
        if self._given_clock is not None:
            return self._given_clock.wall_us()
        clock_us, at_s = self._heard
        return clock_us + int((self._clock.elapsed_s() - at_s) * 1e6)

    def _lease_us(self) -> int:
        return (self._ahead_us or 0) + int(self._clock.elapsed_s() * 1e6)

    def _now_us(self) -> int:
        return self._time.next_us(self._wall_us(), self._clock.elapsed_s())

    # --- reading ---

    async def _read(
        self, link: _Link, statement: str, *values: object
    ) -> tuple[Sequence[Any], list[tuple[Any, ...]]]:
        """Run a query of `postgres_schema`; return what it says of `meta`, and its rows of keys."""
        stale = self._hosts.address.stale_reads and link in self._readers
        for _ in range(ATTEMPTS_MAX):
            seen, sent_s = self._revision, self._clock.elapsed_s()
            found = await self._query(link, statement, *values)
            head = found[0][:_HEADS]
            epoch, revision, _, time_us, lease_us, clock_us, deadline_us = head
            if epoch != self._epoch:
                raise EpochMismatchError(given=self._epoch, current=epoch)
            if not stale:
                if revision < seen:
                    link.drop()
                    raise UnavailableError("the server is behind what it has told before")
                self._hear(clock_us, lease_us, sent_s)
                if self._saw(revision, time_us) and link is not self._follower:
                    self._news.set()
                if deadline_us is not None and deadline_us <= self._lease_us():
                    await self._write(_Request(schema.REVOKE, ""))  # what is due ends in passing
                    continue
            return head, [tuple(row[_HEADS:]) for row in found if row[_HEADS] is not None]
        raise UnavailableError("leases end faster than the store is read")

    async def _query(self, link: _Link, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """Run a query; one that is lost is sent once more: reading twice is the same as once."""
        lost = 0
        for attempt in range(ATTEMPTS_MAX):
            if self._closing is not None:
                raise StoreClosedError("the store is closed")
            try:
                return cast("list[Sequence[Any]]", await link.fetch(statement, *values))
            except _LostError as error:
                lost += 1
                if lost > 1:
                    raise UnavailableError(f"the answer was lost: {error}") from error
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _AGAIN or attempt == ATTEMPTS_MAX - 1:
                    raise _told(error) from error
        raise AssertionError("the last attempt returns or raises")

    def _saw(self, revision: int, time_us: int) -> bool:
        """Note a commit that was heard of, and say whether it is news; business time follows it."""
        if time_us > self._time.last_us:
            self._time.resume(time_us, self._clock.elapsed_s())
        known, self._revision = self._revision, max(revision, self._revision)
        return revision > known

    async def get(self, key: str, *, caller: Caller = OWNER) -> KeyValue | None:
        """Return the key as it stands, None if absent."""
        rules.check_key(key)
        _, rows = await self._ask(self._points, (key,), len(key))
        return next(rules.read_all(map(schema.found_key, rows), caller), None)

    async def get_many(self, keys: Sequence[str], *, caller: Caller = OWNER) -> Snapshot:
        """Return several keys at one revision."""
        rules.check_keys(keys)
        asked = tuple(sorted(set(keys)))
        revision, rows = await self._ask(self._points, asked, sum(map(len, asked)))
        found = rules.read_all(map(schema.found_key, rows), caller)
        return Snapshot(revision, {item.key: item for item in found})

    async def scan(
        self,
        prefix: str,
        *,
        after: str | None = None,
        limit: int = SCAN_KEYS_MAX,
        caller: Caller = OWNER,
    ) -> Snapshot:
        """Return keys under ``prefix`` behind ``after``, at one revision."""
        rules.check_scan(prefix, after, limit)
        asked = (prefix, after or "", prefix + LAST_CODE_POINT, limit + 1)
        revision, rows = await self._ask(self._ranges, asked, len(prefix) + len(after or ""))
        page, more = rules.page_of(map(schema.found_key, rows), limit, caller)
        return Snapshot(revision, {item.key: item for item in page}, more=more)

    async def now(self) -> datetime:
        """Return the business time."""
        await self._present()
        return utc(self._now_us())

    async def _present(self) -> int:
        """Return the revision of the last commit, having heard what the server says of time."""
        return (await self._ask(self._points, (), 0))[0]

    async def _ask(self, queue: CallQueue[_Asked], asked: _Asked, size: int) -> _Found:
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        return cast("_Found", await queue.ask(Call(asked, size, op_id=None)))

    async def _read_points(self, batch: list[Call[tuple[str, ...]]]) -> None:
        """Answer those who asked for keys, each by one statement: at one revision."""
        keys = sorted({key for call in batch for key in call.body})
        head, rows = await self._read(self._readers[0], self._sql.points, keys, READ_BYTES_MAX)
        by_key = {row[1]: row for row in rows}
        cut = len(batch) > 1 and _are_cut(rows)
        later: list[Call[tuple[str, ...]]] = []
        for call in batch:
            if cut and call.body and call.body[-1] > rows[-1][1]:
                later.append(call)
            else:
                call.answer((head[1], [by_key[key] for key in call.body if key in by_key]))
        # Some progress at least: of those who want more than fits, each is served alone.
        shares = [later] if len(later) < len(batch) else [[call] for call in later]
        for share in filter(None, shares):
            await self._read_points(share)

    async def _read_ranges(self, batch: list[Call[_Range]]) -> None:
        """Answer those who asked for ranges, each by one statement: at one revision."""
        alone = len(batch) == 1
        most = SCAN_KEYS_MAX + 1 if alone else SHARED_ROWS
        spans = [(*span, min(limit, most)) for *span, limit in (call.body for call in batch)]
        async with self._ranging:
            head, rows = await self._read(
                self._readers[1],
                self._sql.ranges,
                *map(list, zip(*spans, strict=True)),
                READ_BYTES_MAX,
            )
        by_range = {n: list(found) for n, found in groupby(rows, key=itemgetter(-1))}
        behind = rows[-1][-1] if _are_cut(rows) else len(batch) + 1
        later: list[Call[_Range]] = []
        for n, call in enumerate(batch, 1):
            found = by_range.get(n, [])
            if alone or (n < behind and (len(found) < most or call.body[-1] <= most)):
                call.answer((head[1], [row[:-1] for row in found]))
            else:
                later.append(call)
        for call in later:
            await self._read_ranges([call])

    def elapsed_s(self) -> float:
        """Return seconds since boot."""
        return self._clock.elapsed_s()

    def mint_op_id(self) -> str:
        """Return a fresh op_id."""
        return mint_op_id(self._epoch, self._revision)

    # --- writing ---

    async def _deliver(self, batch: list[Call[_Request]]) -> None:
        """Have the server judge a batch; answer its calls."""
        requests = [call.body for call in batch]
        seen = self._revision
        try:
            answer = await self._judged(requests, seen)
        except _LostError as error:
            for call in batch:
                call.lost(f"the answer of PostgreSQL was lost: {error}")
            return
        except (asyncpg.PostgresError, asyncpg.DataError) as error:
            # A request that the server cannot even judge must not take its neighbours along.
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._deliver(batch[:middle])
                await self._deliver(batch[middle:])
            else:
                batch[0].fail(error)
            return
        except Exception as error:  # noqa: BLE001 definite: none of them was made
            for call in batch:
                call.fail(error)
            return
        for number, call in enumerate(batch, 1):
            try:
                call.answer(_outcome(call.body, answer[number]))
            except TransactionalError as error:
                call.fail(error)

    async def _judged(
        self, requests: Sequence[_Request], seen: int
    ) -> dict[int, list[tuple[Any, ...]]]:
        """Return the rows of the answer, by request, the store's own under 0."""
        arrays = _arrays(requests)
        for attempt in range(ATTEMPTS_MAX):
            sent_s = self._clock.elapsed_s()
            try:
                found = await self._writer.fetch(
                    self._sql.write,
                    self._epoch,
                    seen,
                    self._now_us(),
                    self._lease_us(),
                    self._limits,
                    *arrays,
                )
                break
            except asyncpg.PostgresError as error:
                if error.sqlstate in _AGAIN and attempt < ATTEMPTS_MAX - 1:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 jitter
                    continue
                raise _told(error) from error
        answer = {n: [tuple(row) for row in rows] for n, rows in groupby(found, key=itemgetter(0))}
        _, what, revision, time_us, _, _, epoch, _, clock_us, lease_us, *_ = answer[0][0]
        if what == schema.OTHER_LIFE:
            if seen and epoch != self._epoch:
                _log.error(
                    "the store has another life, %s: it was restored, or lost commits", epoch
                )
            raise EpochMismatchError(given=self._epoch, current=epoch)
        self._hear(clock_us, int(lease_us), sent_s)
        if self._saw(revision, time_us):
            self._news.set()
        return answer

    async def _write(self, request: _Request, size: int = 64) -> Any:
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        op_id = request.op_id if request.kind == schema.COMMIT else None
        return await self._writes.ask(Call(request, size, op_id=op_id))

    def _request(self, asked: CommitRequest, op_id: str, caller: Caller) -> _Request:
        return _Request(
            schema.COMMIT,
            rules.operation_of(op_id, caller.role),
            asked,
            op_id,
            self._minted(op_id),
            rules.fingerprint(asked.compares, asked.writes, asked.otherwise),
            asked.by or self._by,
            caller=caller,
        )

    def _minted(self, op_id: str) -> int:
        """Return the revision in an op_id, whether it was already reached or not."""
        minted = rules.minted_revision(op_id, self._epoch, 1 << 62)
        return schema.OWN if minted is None else minted

    async def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write] = (),
        *,
        op_id: str | None = None,
        by: str | None = None,
        caller: Caller = OWNER,
    ) -> Commit:
        """Decide and write at one point in time, durable when it returns; see ``Store.commit``."""
        size = rules.check_commit(compares, writes, otherwise, op_id, by)
        asked = CommitRequest(compares, writes, otherwise, op_id, by)
        try:
            request = self._request(asked, op_id or self.mint_op_id(), caller)
            return cast("Commit", await self._write(request, size))
        except OpIdExpiredError:
            if op_id is not None:
                raise
        # Never sent before, so not a repeat: we were idle for so long that what we know of the
        # revision is below the floor.  The answer told the present one.
        request = self._request(asked, self.mint_op_id(), caller)
        return cast("Commit", await self._write(request, size))

    async def commit_all(
        self, requests: Sequence[CommitRequest], *, caller: Caller = OWNER
    ) -> list[Commit | BaseException]:
        """Decide commits that came together, each alone; see ``TakesCommitsTogether``."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        outcomes: dict[int, Commit | BaseException] = {}
        calls: dict[int, Call[_Request]] = {}
        for n, asked in enumerate(requests):
            try:
                size = rules.check_commit(
                    asked.compares, asked.writes, asked.otherwise, asked.op_id, asked.by
                )
                op_id = asked.op_id or self.mint_op_id()
                calls[n] = Call(self._request(asked, op_id, caller), size, op_id=op_id)
            except TransactionalError as error:
                outcomes[n] = error
        self._writes.put(list(calls.values()))
        made = await asyncio.gather(*(c.future for c in calls.values()), return_exceptions=True)
        outcomes |= zip(calls, made, strict=True)
        return [outcomes[n] for n in range(len(requests))]

    async def resolve(self, op_id: str, *, caller: Caller = OWNER) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        rules.check_op_id(op_id)
        name, minted = rules.operation_of(op_id, caller.role), self._minted(op_id)
        request = _Request(schema.RESOLVE, name, op_id=op_id, minted=minted)
        return cast("Applied | Fenced", await self._write(request))

    # --- leases ---

    async def lease(self, ttl_s: float, *, caller: Caller = OWNER) -> Lease:
        """Grant a lease."""
        rules.check_ttl(ttl_s)
        name = rules.lease_of(caller.role, secrets.token_hex(10))
        request = _Request(schema.GRANT, name, by=caller.role, ttl_s=float(ttl_s))
        return cast("Lease", await self._write(request))

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew."""
        return cast("Lease", await self._write(_Request(schema.RENEW, lease_id)))

    def renew_from_thread(self, lease_id: str) -> None:
        """Start the lease's time anew while the event loop is busy; see ``RenewsFromThreads``.

        On a connection of its own, in a loop of its own.
        """
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        try:
            asyncio.run(asyncio.wait_for(self._renew_apart(lease_id), RENEW_S))
        except TimeoutError as error:
            raise UnavailableError(f"the store did not answer within {RENEW_S:g} s") from error

    async def _renew_apart(self, lease_id: str) -> None:
        link = _Link(_Hosts(self._hosts.address))
        request = _Request(schema.RENEW, lease_id)
        times = (self._wall_us(), self._lease_us())
        try:
            found = await link.fetch(
                self._sql.write, self._epoch, 0, *times, self._limits, *_arrays([request])
            )
        except _LostError as error:
            raise UnavailableError(f"the answer was lost: {error}") from error
        except asyncpg.PostgresError as error:
            raise _told(error) from error
        finally:
            await link.close()
        if found[0][1] == schema.OTHER_LIFE:
            raise EpochMismatchError(given=self._epoch, current=found[0][6])
        _outcome(request, [tuple(row) for row in found])

    async def revoke(self, lease_id: str) -> None:
        """End the lease and delete its keys."""
        await self._write(_Request(schema.REVOKE, lease_id))

    # --- watching ---

    async def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under ``prefix`` across reconnects; see ``Store.watch``."""
        rules.check_prefix(prefix)
        rules.check_cursor(after, max(after or 0, 0))
        present = await self._present()
        rules.check_cursor(after, present)
        self._follow(present)
        self._watchers += 1
        try:
            cursor = present if after is None else after
            async for event in self._feed.follow(prefix, cursor, partial(self._older, prefix)):
                yield event
        finally:
            self._watchers -= 1
            self._news.set()

    async def _older(self, prefix: str, cursor: int) -> tuple[int, list[WatchEvent | Compacted]]:
        """Read a stretch of the history; return the cursor behind it."""
        async with self._ranging:
            return await self._past(self._readers[1], prefix, cursor)

    async def _past(
        self, link: _Link, prefix: str, cursor: int
    ) -> tuple[int, list[WatchEvent | Compacted]]:
        compacted, end, commits = await self._commits_after(link, prefix, cursor)
        if cursor < compacted:
            return compacted, [Compacted(cursor, compacted)]
        return end, [event_of(rows) for _, rows in commits]

    async def _commits_after(
        self, link: _Link, prefix: str, cursor: int
    ) -> tuple[int, int, list[tuple[int, tuple[Row, ...]]]]:
        """Return the floor, up to where was read, and the commits in between, each whole."""
        span = (prefix, prefix + LAST_CODE_POINT)
        head, rows = await self._read(
            link, self._sql.past, cursor, *span, HISTORY_ROWS + 1, READ_BYTES_MAX
        )
        end, more = head[1], bool(rows) and (len(rows) > HISTORY_ROWS or rows[-1][-1])
        if more:
            last = rows[-1][0]
            rows = [row for row in rows if row[0] < last]
            end = rows[-1][0] if rows else last
            if not rows:  # one commit is more than that
                head, rows = await self._read(link, self._sql.past_commit, last, *span)
        found: list[Row] = []
        for row in rows:
            schema.check_row(row[:8])
            found.append(cast("Row", row[:7]))
        by_commit = groupby(found, key=itemgetter(0))
        return head[2], end, [(revision, tuple(group)) for revision, group in by_commit]

    def _follow(self, present: int) -> None:
        """Have the feed kept up from now on, if it is not."""
        if self._following is None or self._following.done():
            self._feed = Feed(present, commits_max=RECENT_COMMITS_MAX)
            self._following = asyncio.create_task(self._keep_up(self._feed))

    async def _keep_up(self, feed: Feed) -> None:
        """Publish what is new, for as long as anybody watches."""
        listening: asyncpg.Connection[Any] | None = None
        away = False
        while True:
            self._news.clear()
            try:
                connection = await self._follower.ready()
                if self._follower.told and connection is not listening:
                    await connection.add_listener(self._sql.channel, self._notified)
                    listening = connection
                await self._publish(feed)
                away = False
            except (
                TransactionalError,
                _LostError,
                asyncpg.PostgresError,
                OSError,
                asyncpg.InterfaceError,
            ) as error:
                if isinstance(error, EpochMismatchError):
                    feed.close()
                if isinstance(error, EpochMismatchError | StoreClosedError):
                    return
                if not away:
                    _log.warning("changes cannot be followed, to be tried again: %s", error)
                away = True
            if not self._watchers:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S if self._follower.told else POLL_UNTOLD_S):
                    await self._news.wait()

    async def _publish(self, feed: Feed) -> None:
        while True:
            before = feed.revision
            compacted, end, commits = await self._commits_after(self._follower, "", before)
            if before < compacted:  # we were away for so long that something was forgotten
                feed.skip(end)
                return
            feed.publish(commits)
            if end > feed.revision:
                feed.publish([(end, ())])
            if end >= self._revision:  # else there is more, or was heard of meanwhile
                return

    def _notified(self, *told: object) -> None:
        """Look for the commit that the notification is of, and once more for those after it."""
        if int(cast("str", told[-1]) or NEVER) > self._feed.revision:
            self._news.set()
        # Within this time nobody is told again.
        asyncio.get_running_loop().call_later(schema.NOTIFY_US / 1e6 + 0.001, self._news.set)

    # --- the rest ---

    async def compact(self) -> int:
        """Remove all that is beyond the limits, a piece at a time; how many rows went."""
        rows = 0
        while True:
            try:
                found = await self._apart(self._sql.compact, self._limits, COMPACT_ROWS)
            except _LostError as error:
                raise UnavailableError(f"the answer was lost: {error}") from error
            if not (removed := int(found[0][0])):
                return rows
            rows += removed

    async def verify(self) -> list[str]:
        """Return what is wrong with the rows, in words, a hundred at the most; O(store)."""
        try:
            found = await self._apart(self._sql.damaged)
        except _LostError as error:
            raise UnavailableError(f"the answer was lost: {error}") from error
        return [f"{what}: the row of {key!r} is not what was written" for what, key in found]

    async def _apart(self, statement: str, *values: object) -> list[asyncpg.Record]:
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        link = _Link(self._hosts)
        try:
            return await link.fetch(statement, *values)
        except asyncpg.PostgresError as error:
            raise _told(error) from error
        finally:
            await link.close()

    def figures(self) -> Mapping[str, float]:
        """Return what there is to watch; see ``Measured``."""
        return {
            "waiting_commits": len(self._writes),
            "watches": self._feed.watches,
            "clock_refused_total": self._time.refused,
        }

    async def close(self) -> None:
        """Carry what was accepted, then hang up; once, and to the end, for all callers."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await shielded(self._closing)

    async def _close(self) -> None:
        await self._writes.drain()
        await self._points.drain()
        await self._ranges.drain()
        self._feed.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._hang_up()

    async def _hang_up(self) -> None:
        for link in (self._writer, self._follower, *self._readers):
            await link.close()

"""The engines behind one Protocol, and the URL that chooses between them.

`memory` is the specification in the fewest lines, `sqlite` the durable one, `http` the client of an
authority that serves one of them, `postgres` for processes on many machines, `etcd` for what must
survive machines.  They share the rules (`transactional/rules.py`), the `feed` of watchers, the
table of `leases`, the `writer_thread` with its group commit and the `call_queue` of who asks a
server.

An engine's module is imported when its scheme is opened, so nobody pays for (or needs to install)
what he does not use.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from transactional.errors import UnknownSchemeError
from transactional.stores.retention import Retention, Share

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from transactional.store import Store


__all__ = ["Retention", "Share", "backup", "connect", "open", "stats", "verify"]


async def connect(
    url: str,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    accept_clock: bool = False,
) -> Store:
    """Return an open store for ``url``; the caller closes it.

    ``memory:`` | ``sqlite:PATH`` | ``http://HOST:PORT`` | ``https://HOST:PORT`` |
    ``etcd://HOST:PORT,HOST:PORT/NAME?OPTIONS`` (see ``docs/etcd.md``) |
    ``postgresql://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?OPTIONS`` (see
    ``stores/postgres.py``); ``token`` is for an authority, ``tls`` for whatever is far
    away.  A token in the URL (``?token=…``) works too, where nobody reads
    URLs; no error repeats it.

    ``accept_clock`` opens a file, or a store on etcd, whose last time is more than 30 days from the
    clock's; see ``SQLiteStore.open``.  The other engines have no use for it.

    The first two take what they remember as options, ``sqlite:a.db?history_bytes_max=1000000`` (see
    ``Retention``), and a file how often all of it is looked at, ``check_every_s`` (see
    ``SQLiteStore.open``); a ``?`` in a path is written ``%3F``.

    Raises:
        UnknownSchemeError: the URL names no engine, or a password, which no authority takes.
        InvalidRequestError: an option is unknown, or out of its bounds.
        ClockJumpedError: the clock is that far off, and it was not accepted.
        UnavailableError: the authority cannot be reached, or the file belongs to another one.
        WeakServerError: a server keeps less than a store promises; see ``docs/etcd.md``.
    """
    scheme, _, rest = url.partition(":")
    path, _, query = rest.partition("?")
    match scheme:
        case "memory" if not path:
            from transactional.stores import memory  # noqa: PLC0415 lazy engine

            limits = memory.RETENTION.but(Retention.parse(_options(query)))
            return memory.MemoryStore(retention=limits)
        case "sqlite" if path:
            from transactional.stores.sqlite import CHECK_EVERY_S, SQLiteStore  # noqa: PLC0415 lazy engine

            options = _options(query)
            every_s = options.pop("check_every_s", str(CHECK_EVERY_S))
            limits = Retention().but(Retention.parse(options, besides=["check_every_s"]))
            return await SQLiteStore.open(
                unquote(path),
                retention=limits,
                accept_clock=accept_clock,
                check_every_s=Retention.number("check_every_s", every_s),
            )
        case "http" | "https":
            from transactional.stores.http import HTTPStore  # noqa: PLC0415 lazy engine

            base, in_url = _authority_of(url)
            return await HTTPStore.open(base, token=token or in_url, tls=tls)
        case "etcd" | "etcds":
            from transactional.stores.etcd import EtcdStore  # noqa: PLC0415 lazy engine

            return await EtcdStore.open(url, tls=tls, accept_clock=accept_clock)
        case "postgresql" | "postgres":
            try:
                from transactional.stores.postgres import PostgresStore  # noqa: PLC0415 lazy engine
            except ModuleNotFoundError as error:
                if error.name != "asyncpg":
                    raise
                raise UnknownSchemeError(
                    "PostgreSQL needs asyncpg: pip install 'convoca[postgres]'"
                ) from error
            return await PostgresStore.open(url, tls=tls)
    raise UnknownSchemeError("the URL names no store")  # nor is it told: it may hold a token


def _authority_of(url: str) -> tuple[str, str | None]:
    """Return an authority's address and the token in its URL; no error tells what it holds."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # .port raises beyond 65535
            raise UnknownSchemeError("the URL names no host and port")
    except ValueError:
        raise UnknownSchemeError("the URL names no host and port") from None  # it quotes the URL
    if parts.username is not None or parts.password is not None:
        raise UnknownSchemeError("the URL has USER:PASSWORD@, which an authority does not take")
    return f"{parts.scheme}://{parts.netloc}{parts.path}", _options(parts.query).get("token")


def _options(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


@asynccontextmanager
async def open(  # noqa: A001 the verb users expect
    url: str,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    accept_clock: bool = False,
) -> AsyncIterator[Store]:
    """Open a store for the length of an ``async with``; see ``connect`` for URLs and errors."""
    store = await connect(url, token=token, tls=tls, accept_clock=accept_clock)
    try:
        yield store
    finally:
        await store.close()


def backup(source: Path, target: Path) -> str:
    """Copy a database file, in use or not; return the copy's epoch.  See ``sqlite_file.backup``."""
    from transactional.stores import sqlite_file  # noqa: PLC0415 lazy engine

    return sqlite_file.backup(source, target)


def stats(path: Path) -> list[Share]:
    """Return what takes how much in a database file.  See ``sqlite_file.stats``."""
    from transactional.stores import sqlite_file  # noqa: PLC0415 lazy engine

    return sqlite_file.stats(path)


def verify(path: Path) -> list[str]:
    """Return what is wrong with a database file, in words; nothing: it is sound."""
    from transactional.stores import sqlite_file  # noqa: PLC0415 lazy engine

    return sqlite_file.verify(path)

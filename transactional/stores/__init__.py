"""The engines behind one Protocol, and the URL that chooses between them.

`memory` is the specification in the fewest lines, `sqlite` the durable one, `http` the client of an
authority that serves one of them.  They share the rules (`transactional/rules.py`), the `feed` of
watchers, the table of `leases` and the `writer_thread` with its group commit.

An engine's module is imported when its scheme is opened, so nobody pays for (or needs to install)
what he does not use.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from transactional.errors import UnknownSchemeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from transactional.store import Store


__all__ = ["backup", "connect", "open", "verify"]


async def connect(url: str) -> Store:
    """Return an open store for ``url``; the caller closes it.

    ``memory:`` | ``sqlite:PATH`` | ``http://HOST:PORT?token=…`` | ``https://…``

    Raises:
        UnknownSchemeError: the URL names no engine.
        UnavailableError: the authority cannot be reached, or the file belongs to another one.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if not rest:
            from transactional.stores.memory import MemoryStore  # noqa: PLC0415 lazy engine

            return MemoryStore()
        case "sqlite" if rest:
            from transactional.stores.sqlite import SQLiteStore  # noqa: PLC0415 lazy engine

            return await SQLiteStore.open(unquote(rest))
        case "http" | "https":
            from transactional.stores.http import HTTPStore  # noqa: PLC0415 lazy engine

            try:
                parts = urlsplit(url)
                if not parts.hostname or parts.port == 0:  # .port raises beyond 65535
                    raise UnknownSchemeError(f"{url!r} names no host and port")
            except ValueError as error:
                raise UnknownSchemeError(f"{url!r} names no host and port: {error}") from error
            options = dict(parse_qsl(parts.query))
            return await HTTPStore.open(
                f"{scheme}://{parts.netloc}{parts.path}", token=options.get("token")
            )
    raise UnknownSchemeError(f"{url!r} names no store")


@asynccontextmanager
async def open(url: str) -> AsyncIterator[Store]:  # noqa: A001 the verb users expect
    """Open a store for the length of an ``async with``; see ``connect`` for URLs and errors."""
    store = await connect(url)
    try:
        yield store
    finally:
        await store.close()


def backup(source: Path, target: Path) -> str:
    """Copy a database file, in use or not; return the copy's epoch.  See ``sqlite_file.backup``."""
    from transactional.stores import sqlite_file  # noqa: PLC0415 lazy engine

    return sqlite_file.backup(source, target)


def verify(path: Path) -> list[str]:
    """Return what is wrong with a database file, in words; nothing: it is sound."""
    from transactional.stores import sqlite_file  # noqa: PLC0415 lazy engine

    return sqlite_file.verify(path)

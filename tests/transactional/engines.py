"""The engines under test, each behind one small port, so that a suite is written once.

An ``Engine`` owns one set of data and opens any number of clients on it.  To put another engine
under the whole suite, write its port here and add it to ``ENGINES``; one that needs a program asks
for it with ``servers.require``, which skips or fails.  One whose leases follow the clock that it
is given, and not a server's own, goes into ``TIMED``, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from tests.transactional import postgres
from tests.transactional.servers import etcd_url
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores.etcd import EtcdStore
from transactional.stores.http import HTTPStore
from transactional.stores.memory import MemoryStore
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from _pytest.mark import ParameterSet

    from transactional.clock import Clock
    from transactional.store import Store


class Engine(Protocol):
    """One set of data."""

    async def client(self) -> Store:
        """Return another handle on the same data; the engine closes it."""
        ...

    async def stop(self) -> None:
        """Close everything."""
        ...


class MemoryEngine:
    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock
        self._store: MemoryStore | None = None

    async def client(self) -> Store:
        if self._store is None:
            self._store = MemoryStore(clock=self._clock, history_commits_max=50_000)
        return self._store

    async def stop(self) -> None:
        if self._store is not None:
            await self._store.close()


class SQLiteEngine:
    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._path = directory / "store.db"
        self._clock = clock
        self._store: SQLiteStore | None = None

    async def client(self) -> Store:
        if self._store is None:
            self._store = await SQLiteStore.open(self._path, clock=self._clock)
        return self._store

    async def stop(self) -> None:
        if self._store is not None:
            await self._store.close()


class HTTPEngine:
    """An authority on loopback over SQLite; each client has its own connections."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._path = directory / "store.db"
        self._clock = clock
        self._clients: list[HTTPStore] = []
        self.authority: Authority | None = None

    async def client(self) -> Store:
        if self.authority is None:
            served = await SQLiteStore.open(self._path, clock=self._clock)
            self.authority = Authority(served, Listen(port=0))
            await self.authority.start()
        client = await HTTPStore.open(self.authority.url, clock=self._clock)
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        if self.authority is not None:
            await self.authority.stop()


class PostgresEngine:
    """A schema of its own in the session's PostgreSQL; each client has its own connections."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock
        self._clients: list[Store] = []
        self.url = ""

    async def client(self) -> Store:
        from transactional.stores.postgres import PostgresStore

        self.url = self.url or await postgres.new_schema()
        client = await PostgresStore.open(self.url, clock=self._clock)
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        if self.url:
            await postgres.drop(self.url)


class EtcdEngine:
    """A name of its own on a member that the tests of this process share."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock
        self._clients: list[EtcdStore] = []
        self.url = etcd_url()

    async def client(self) -> Store:
        client = await EtcdStore.open(self.url, clock=self._clock)
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()


ENGINES: dict[str, Callable[..., Engine]] = {
    "memory": MemoryEngine,
    "sqlite": SQLiteEngine,
    "http": HTTPEngine,
    "postgres": PostgresEngine,
    "etcd": EtcdEngine,
}
TIMED = ("memory", "sqlite", "http", "postgres")
"""Engines whose leases run out by the clock that they are given."""
IN_PROCESS = ("memory", "sqlite")


def parameters(names: Iterable[str]) -> list[ParameterSet]:
    """Return the engines as parameters of a fixture; those with sockets are marked."""
    mark = pytest.mark.processes
    return [pytest.param(name, marks=() if name in IN_PROCESS else mark) for name in names]

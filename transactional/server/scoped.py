"""A store as one client of the authority may use it: the one place where its rights are looked at.

What is asked is judged by its words alone, before the store sees it, so a refusal tells nothing of
what the store holds.  A compare is a question too: it needs the right to read what it compares, the
whole range if it compares a range, because a conflict would answer it.  A write needs the right to
write only; of what stood there it learns nothing but the store's revision.  Deleting a prefix needs
all of it.  Leases and op_ids of another role do not exist for this one: its leases are refused by
their name, and its op_ids are recorded apart.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from transactional.errors import ForbiddenError
from transactional.server.clients import ANYBODY
from transactional.store import Compactable, ServesRoles, TakesCommitsTogether
from transactional.values import (
    SCAN_KEYS_MAX,
    CommitRequest,
    DeletePrefix,
    LeaseAlive,
    Put,
    Unchanged,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from transactional.caller import Caller
    from transactional.server.clients import Client
    from transactional.values import (
        Applied,
        Capabilities,
        Commit,
        Compacted,
        Compare,
        Fenced,
        KeyValue,
        Lease,
        Snapshot,
        WatchEvent,
        Write,
    )


class ScopedStore:
    """A Store for one request of a client: ForbiddenError for what its role may not do.

    ``caller`` counts what is read for the request.
    """

    def __init__(self, store: ServesRoles, client: Client, caller: Caller) -> None:
        self._store = store
        self._client = client
        self._caller = caller

    @property
    def epoch(self) -> str:
        """Name of this life of the store."""
        return self._store.epoch

    @property
    def capabilities(self) -> Capabilities:
        """What the engine promises, and what may be read of it."""
        return replace(self._store.capabilities, reads=self._client.reads)

    # --- reading ---

    async def get(self, key: str) -> KeyValue | None:
        """Return the key as it stands."""
        self._client.check_read(key)
        return await self._store.get(key, caller=self._caller)

    async def get_many(self, keys: Sequence[str]) -> Snapshot:
        """Return several keys at one revision."""
        for key in keys:
            self._client.check_read(key)
        return await self._store.get_many(keys, caller=self._caller)

    async def scan(
        self, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return keys under a prefix, all of which may be read."""
        self._client.check_read(prefix)
        return await self._store.scan(prefix, after=after, limit=limit, caller=self._caller)

    async def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under a prefix, all of which may be read."""
        self._client.check_read(prefix)
        async for event in self._store.watch(prefix, after=after):
            yield event

    # --- writing ---

    async def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write] = (),
        *,
        op_id: str | None = None,
        by: str | None = None,
    ) -> Commit:
        """Decide and write, if its role may read what is compared and write what is written."""
        return await self._commit(
            self._judged(CommitRequest(compares, writes, otherwise, op_id, by))
        )

    async def _commit(self, asked: CommitRequest) -> Commit:
        return await self._store.commit(
            asked.compares,
            asked.writes,
            asked.otherwise,
            op_id=asked.op_id,
            by=asked.by,
            caller=self._caller,
        )

    async def commit_all(self, requests: Sequence[CommitRequest]) -> list[Commit | BaseException]:
        """Decide each request alone; see ``TakesCommitsTogether``."""
        refused: dict[int, ForbiddenError] = {}
        judged: list[CommitRequest] = []
        for place, asked in enumerate(requests):
            try:
                judged.append(self._judged(asked))
            except ForbiddenError as error:
                refused[place] = error
        outcomes = iter(await self._commit_all(judged))
        return [refused[n] if n in refused else next(outcomes) for n in range(len(requests))]

    async def _commit_all(self, requests: Sequence[CommitRequest]) -> list[Commit | BaseException]:
        if isinstance(self._store, TakesCommitsTogether):
            return await self._store.commit_all(requests, caller=self._caller)
        return await asyncio.gather(*map(self._commit, requests), return_exceptions=True)

    def _judged(self, asked: CommitRequest) -> CommitRequest:
        """Return the request under the client's name; ForbiddenError if it may not be made."""
        client = self._client
        if client is ANYBODY:
            return asked
        for compare in asked.compares:
            match compare:
                case Unchanged(prefix):
                    client.check_read(prefix)
                case LeaseAlive(lease):
                    client.check_lease(lease)
                case _:
                    client.check_read(compare.key)
        for write in (*asked.writes, *asked.otherwise):
            if isinstance(write, DeletePrefix):
                client.check_write(write.prefix)
                continue
            client.check_write(write.key)
            if isinstance(write, Put) and write.lease is not None:
                client.check_lease(write.lease)
        # What it calls itself stands behind what it is known by.
        return replace(asked, by=client.name if asked.by is None else f"{client.name}:{asked.by}")

    async def resolve(self, op_id: str) -> Applied | Fenced:
        """Settle an op_id of the role."""
        return await self._store.resolve(op_id, caller=self._caller)

    # --- leases ---

    async def lease(self, ttl_s: float) -> Lease:
        """Grant a lease to the role."""
        return await self._store.lease(ttl_s, caller=self._caller)

    async def renew(self, lease_id: str) -> Lease:
        """Renew a lease of the role."""
        self._client.check_lease(lease_id)
        return await self._store.renew(lease_id)

    async def revoke(self, lease_id: str) -> None:
        """End a lease of the role."""
        self._client.check_lease(lease_id)
        await self._store.revoke(lease_id)

    # --- orders ---

    async def compact(self) -> int:
        """Remove all that the engine keeps no longer, if the role may give orders."""
        rows, more = 0, True
        while more:
            removed, more = await self.compact_piece()
            rows += removed
        return rows

    async def compact_piece(self) -> tuple[int, bool]:
        """Remove a piece of it; an engine that keeps nothing has nothing to remove."""
        self._client.check_operate()
        if not isinstance(self._store, Compactable):
            return 0, False
        return await self._store.compact_piece()

    # --- the rest tells nothing of anybody ---

    async def now(self) -> datetime:
        """Return the business time."""
        return await self._store.now()

    def elapsed_s(self) -> float:
        """Return seconds since boot."""
        return self._store.elapsed_s()

    def mint_op_id(self) -> str:
        """Return a fresh op_id."""
        return self._store.mint_op_id()

    async def close(self) -> None:
        """Leave the store to the authority, which closes it."""

"""The store in memory: the protocol's meaning in the fewest lines, and the reference for the rest.

Every method decides without awaiting, so on one event loop each is one point in time; that is the
whole proof of linearizability.  Nothing survives the process.
"""

from __future__ import annotations

import asyncio
import secrets
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from transactional import rules
from transactional.caller import OWNER, Caller
from transactional.clock import BusinessTime, Clock, utc
from transactional.errors import (
    ConflictError,
    LeaseExpiredError,
    OperationIdReusedError,
    OpIdExpiredError,
    OpIdFencedError,
    StoreClosedError,
)
from transactional.store import BY_LEASE, mint_op_id, this_user
from transactional.stores.feed import Feed, row_of
from transactional.stores.last_changes import LastChanges
from transactional.stores.leases import Leases
from transactional.stores.retention import Moments, Retention
from transactional.values import (
    LAST_CODE_POINT,
    SCAN_KEYS_MAX,
    Applied,
    Capabilities,
    Commit,
    Compacted,
    Compare,
    Delete,
    Fenced,
    KeyValue,
    Lease,
    Put,
    Snapshot,
    WatchEvent,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from datetime import datetime

RETENTION: Final = Retention(history_bytes_max=64 << 20, history_commits_max=100_000)
"""Less than on a disk."""
ROWS_MAX: Final = 1_000_000
"""Commits whose keys, and minted op_ids whose outcome, are known, however short a time ago."""


class MemoryStore:
    """A Store for one event loop of one process.  O(log n) per key, O(k) per prefix of k keys."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        retention: Retention | None = None,
        by: str | None = None,
        **limits: float,
    ) -> None:
        self._by = by or this_user()
        self._clock = clock or Clock()
        self._keys: dict[str, KeyValue] = {}
        self._order: list[str] = []
        self._operations: dict[str, tuple[bytes, Commit] | None] = {}  # None: fenced
        # op_id -> its revision, in the order of recording; when it was recorded, oldest first
        self._minted: OrderedDict[str, int] = OrderedDict()
        self._own: OrderedDict[str, int] = OrderedDict()
        self._retention = retention = (retention or RETENTION).but(limits)
        self._moments = Moments(retention)
        self._changes: deque[tuple[int, tuple[str, ...]]] = deque()  # what the feed has dropped too
        self._indexed = 0
        self._resolvable = 0
        self._last_changes = LastChanges(0)
        self._leases = Leases()
        self._leased: dict[str, dict[str, None]] = {}  # keys by lease, in the order of writing
        self._time = BusinessTime()
        self._feed = Feed(
            0, commits_max=retention.history_commits_max, bytes_max=retention.history_bytes_max
        )
        self._epoch = secrets.token_hex(4)
        self._revision = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def epoch(self) -> str:
        """Name of this life of the store."""
        return self._epoch

    @property
    def capabilities(self) -> Capabilities:
        """Neither durable nor shared."""
        return Capabilities("memory", durable=False, shared=False, fault_tolerant=False)

    # --- View: what rules.failed_compares asks ---

    def find(self, key: str) -> KeyValue | None:
        """Return the key as it stands."""
        return self._keys.get(key)

    def keys_under(self, prefix: str) -> list[str]:
        """Return the keys that start with ``prefix``, in order."""
        first = bisect_left(self._order, prefix)
        return self._order[first : bisect_right(self._order, prefix + LAST_CODE_POINT)]

    def changed(self, prefix: str, since: int) -> bool:
        """Say whether anything under ``prefix`` was, or may have been, changed after ``since``."""
        if not self._indexed <= since <= self._revision:
            return True
        known = self._last_changes.changed(prefix, since)
        if known is not None:
            return known
        for revision, keys in reversed(self._changes):
            if revision <= since:
                return False
            if any(key.startswith(prefix) for key in keys):
                return True
        return False

    def lease_alive(self, lease: str) -> bool:
        """Say whether the lease is alive."""
        return lease in self._leases

    # --- reading ---

    async def get(self, key: str, *, caller: Caller = OWNER) -> KeyValue | None:
        """Return the key as it stands, None if absent."""
        rules.check_key(key)
        self._turn()
        found = [self._keys[key]] if key in self._keys else []
        return next(rules.read_all(found, caller), None)

    async def get_many(self, keys: Sequence[str], *, caller: Caller = OWNER) -> Snapshot:
        """Return several keys at one revision."""
        rules.check_keys(keys)
        self._turn()
        found = (self._keys[key] for key in sorted(set(keys)) if key in self._keys)
        return Snapshot(self._revision, {item.key: item for item in rules.read_all(found, caller)})

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
        self._turn()
        first = bisect_left(self._order, prefix)
        if after is not None:
            first = max(first, bisect_right(self._order, after))
        keys = self._order[first : first + limit + 1]
        keys = keys[: bisect_right(keys, prefix + LAST_CODE_POINT)]
        page, more = rules.page_of(map(self._keys.__getitem__, keys), limit, caller)
        return Snapshot(self._revision, {item.key: item for item in page}, more=more)

    async def now(self) -> datetime:
        """Return the business time."""
        self._turn()
        return utc(self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s()))

    def elapsed_s(self) -> float:
        """Return seconds since boot."""
        return self._clock.elapsed_s()

    def figures(self) -> Mapping[str, float]:
        """Return what there is to watch; see ``Measured``."""
        return {
            "leases": len(self._leases),
            "watches": self._feed.watches,
            "clock_refused_total": self._time.refused,
        }

    def mint_op_id(self) -> str:
        """Return a fresh op_id."""
        return mint_op_id(self._epoch, self._revision)

    # --- writing ---

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
        """Decide and write at one point in time; see ``Store.commit``."""
        rules.check_commit(compares, writes, otherwise, op_id, by)
        self._turn()
        op_id = op_id or self.mint_op_id()
        content = rules.fingerprint(compares, writes, otherwise)
        first = self._recorded(op_id, caller, content)
        if first is not None:
            return Commit(first.revision, first.succeeded, first.time, replayed=True)
        failed = rules.failed_compares(self, compares)
        if failed and not otherwise:
            current = rules.current_of(self, compares, caller)
            raise ConflictError(failed, current, self._revision)
        chosen = otherwise if failed else writes
        for write in chosen:
            if isinstance(write, Put) and write.lease and not self.lease_alive(write.lease):
                raise LeaseExpiredError(write.lease)
        commit = self._write(chosen, succeeded=not failed, by=by or self._by)
        if chosen:
            self._record(op_id, caller, (content, commit))
        return commit

    def _write(self, writes: Sequence[Write], *, succeeded: bool, by: str) -> Commit:
        time_us = self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s())
        if not writes:
            return Commit(self._revision, succeeded, utc(time_us))
        changes = rules.effects(self, writes, self._revision + 1, by, time_us)
        self._revision += 1
        for change in changes:
            old, new = self._keys.get(change.key), change.current
            if old is not None and old.lease is not None:
                self._unlease(change.key, old.lease)
            if new is None:
                del self._keys[change.key]
                del self._order[bisect_left(self._order, change.key)]
                continue
            if old is None:
                insort(self._order, change.key)
            self._keys[change.key] = new
            if new.lease is not None:
                self._leased.setdefault(new.lease, {})[change.key] = None
        rows = tuple([row_of(change, self._revision, by, time_us) for change in changes])
        self._changes.append((self._revision, tuple([row[1] for row in rows])))
        self._last_changes.note(self._revision, self._changes[-1][1])
        if self._moments.due(time_us):
            self._moments.note(self._revision, time_us)
            self._moments.forget(time_us)
        self._feed.publish([(self._revision, rows)])
        if (forgotten := rules.forgotten(writes)) is not None:
            self._feed.forget(forgotten, self._revision)
        return Commit(self._revision, succeeded, utc(time_us))

    # --- operations ---

    def _recorded(self, op_id: str, caller: Caller, content: bytes | None) -> Commit | None:
        """Return the first result of ``op_id``; raise if it cannot be used for ``content``."""
        minted = rules.minted_revision(op_id, self._epoch, self._revision)
        if minted is not None and minted < self._resolvable:
            raise OpIdExpiredError(op_id)
        name = rules.operation_of(op_id, caller.role)
        if name not in self._operations:
            return None
        record = self._operations[name]
        if record is None:
            raise OpIdFencedError(op_id)
        if content is not None and record[0] != content:
            raise OperationIdReusedError(op_id)
        return record[1]

    def _record(self, op_id: str, caller: Caller, record: tuple[bytes, Commit] | None) -> None:
        name = rules.operation_of(op_id, caller.role)
        self._operations[name] = record
        minted = rules.minted_revision(op_id, self._epoch, self._revision)
        if minted is None:
            self._own[name] = self._time.last_us
        else:
            self._minted[name] = minted

    async def resolve(self, op_id: str, *, caller: Caller = OWNER) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        rules.check_op_id(op_id)
        self._turn()
        try:
            self._recorded(op_id, caller, None)
        except OpIdFencedError:
            return Fenced(op_id)
        record = self._operations.get(rules.operation_of(op_id, caller.role))
        if record is not None:
            return Applied(record[1], record[0])
        self._record(op_id, caller, None)
        return Fenced(op_id)

    # --- leases ---

    async def lease(self, ttl_s: float, *, caller: Caller = OWNER) -> Lease:
        """Grant a lease."""
        rules.check_ttl(ttl_s)
        self._turn()
        self._leases.admit(caller.role)
        lease = Lease(rules.lease_of(caller.role, secrets.token_hex(10)), ttl_s)
        self._leases.start(lease.id, ttl_s, self._clock.elapsed_s())
        self._arm()
        return lease

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew."""
        self._turn()
        ttl_s = self._leases.ttl_s(lease_id)
        if ttl_s is None:
            raise LeaseExpiredError(lease_id)
        self._leases.start(lease_id, ttl_s, self._clock.elapsed_s())
        return Lease(lease_id, ttl_s)

    async def revoke(self, lease_id: str) -> None:
        """End the lease and delete its keys."""
        self._turn()
        self._end(lease_id)

    def _end(self, lease_id: str) -> None:
        if self._leases.end(lease_id):
            mine = [*self._leased.get(lease_id, ())]
            if mine:
                self._write([Delete(key) for key in mine], succeeded=True, by=BY_LEASE)

    def _unlease(self, key: str, lease: str) -> None:
        keys = self._leased[lease]
        del keys[key]
        if not keys:
            del self._leased[lease]

    def _turn(self) -> None:
        """Begin an operation: what is due happens before it."""
        if self._closed:
            raise StoreClosedError("the store is closed")
        for lease in self._leases.due(self._clock.elapsed_s()):
            self._end(lease)
        limits, now_us = self._retention, self._time.last_us
        old = self._moments.before(now_us - int(limits.index_retention_s * 1e6))
        self._indexed = max(self._indexed, old)
        if len(self._changes) > ROWS_MAX:
            self._indexed = max(self._indexed, self._changes[0][0])
        if len(self._minted) > ROWS_MAX:
            self._resolvable = max(self._resolvable, next(iter(self._minted.values())) + 1)
        while self._changes and self._changes[0][0] <= self._indexed:
            self._changes.popleft()
        past = self._moments.before(now_us - int(limits.minted_retention_s * 1e6))
        self._resolvable = max(self._resolvable, past)
        self._forget(self._own, now_us - int(limits.op_id_retention_s * 1e6))
        self._forget(self._minted, self._resolvable)

    def _forget(self, index: dict[str, int], horizon: int) -> None:
        while index and next(iter(index.values())) < horizon:
            op_id = next(iter(index))
            del index[op_id], self._operations[op_id]

    def _arm(self) -> None:
        """Make sure that watchers hear of the next expiry even if nobody calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_s = self._leases.next_deadline_s()
        if deadline_s is not None and not self._closed:
            pause_s = max(0.0, deadline_s - self._clock.elapsed_s())
            self._timer = asyncio.get_running_loop().call_later(pause_s + 0.001, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._closed:
            self._turn()
            self._arm()

    # --- watching ---

    async def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under ``prefix``; see ``Store.watch``."""
        rules.check_prefix(prefix)
        self._turn()
        rules.check_cursor(after, self._revision)

        async def older(cursor: int) -> tuple[int, list[WatchEvent | Compacted]]:
            return self._feed.floor, [Compacted(cursor, self._feed.floor)]

        async for event in self._feed.follow(prefix, after, older):
            yield event

    async def close(self) -> None:
        """Stop; the content is gone."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._feed.close()

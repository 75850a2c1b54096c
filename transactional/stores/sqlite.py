"""The store in one SQLite file, owned by one process: durable, and fast because commits share.

Theory of operation
-------------------
One thread writes.  It takes what waits, up to 512 operations, and runs them in one transaction::

    callers --> queue --> [ BEGIN IMMEDIATE | op | op | ... | op | COMMIT (fsync) ] --> answers
                                                                                    --> watchers

Operations are decided one after the other against the state that the ones before them left, so the
order in the group is the order of their commits.  Answers, conflicts included, go out after COMMIT:
a conflict may have been with a neighbour in the group.  A refused operation changed nothing; should
one fail in a way nobody foresaw, the group is rolled back and run again in halves.  Two threads
more read through connections that cannot write, point reads and range reads apart, so that a long
scan delays no get.

What an error does to a group: before COMMIT everything is rolled back and all are told
``UnavailableError``.  If COMMIT itself meets an I/O error, the log may or may not hold the commit
after a crash, so each writer is told ``OutcomeUnknownError``; ``resolve`` settles it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from transactional import rules
from transactional.clock import BusinessTime, Clock, utc
from transactional.errors import (
    InvalidRequestError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreLockedError,
    TransactionalError,
)
from transactional.shield import shielded
from transactional.store import mint_op_id
from transactional.stores import sqlite_file
from transactional.stores.feed import Feed, Rows
from transactional.stores.sqlite_pages import Pages
from transactional.stores.sqlite_state import State
from transactional.stores.writer_thread import Failure, Job, Lane
from transactional.values import (
    SCAN_KEYS_MAX,
    Applied,
    Capabilities,
    Commit,
    CommitRequest,
    Compacted,
    Compare,
    Fenced,
    KeyValue,
    Lease,
    Snapshot,
    WatchEvent,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from datetime import datetime

HISTORY_COMMITS_MAX: Final = 1_000_000
"""Commits that watchers can go back and minted op_ids are remembered for (some 200 MB)."""
OP_ID_RETENTION_S: Final = 7 * 86_400.0
"""How long callers' own op_ids are remembered; after that the same one is a new operation."""
RECENT_COMMITS_MAX: Final = 4096
"""Commits kept in memory for watchers; who is further behind reads the history."""
CHECKPOINT_BYTES: Final = 8 << 20
"""Bytes written after which the log is moved into the database file."""
REST_S_MIN: Final = 0.1
"""Pause after a group that failed, if nobody asks for anything and a lease is due; it doubles."""
REST_S_MAX: Final = 1.0

_log = logging.getLogger(__name__)


class SQLiteStore:
    """A Store in a file; made by ``open``, belongs to the event loop that opened it."""

    def __init__(
        self,
        file: sqlite_file.OpenFile,
        state: State,
        time: BusinessTime,
        clock: Clock,
    ) -> None:
        self._file = file
        self._state = state
        self._time = time
        self._clock = clock
        self._epoch = state.epoch
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(state.revision, commits_max=RECENT_COMMITS_MAX)
        self._closing: asyncio.Task[None] | None = None
        self._rest_s = 0.0
        self._news: deque[list[tuple[int, Rows]]] = deque()
        self._writer: Lane[State] = Lane(
            "store-writer",
            self._write_group,
            pause_s=self._pause_s,
            told=self._publish,
            rest=self._checkpoint,
        )
        self._points = self._reader("store-points", file.points)
        self._ranges = self._reader("store-ranges", file.ranges)

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        clock: Clock | None = None,
        history_commits_max: int = HISTORY_COMMITS_MAX,
        op_id_retention_s: float = OP_ID_RETENTION_S,
    ) -> SQLiteStore:
        """Open or create the store in ``path``.

        Raises:
            StoreLockedError: another authority has the file open; nothing was touched.
            UnsafeFilesystemError: the file is on a network file system; nothing was touched.
            CorruptStoreError: the file is damaged or something else; nothing was touched.
            InvalidRequestError: the directory does not exist.
            UnavailableError: the file or its directory cannot be used now.
        """
        clock = clock or Clock()
        time = BusinessTime()
        opening = asyncio.get_running_loop().run_in_executor(
            None, sqlite_file.OpenFile.open, Path(path)
        )
        file = await shielded(opening, undo=lambda file: asyncio.to_thread(file.close))
        try:
            state = State(
                file.writer,
                clock,
                time,
                history_commits_max=history_commits_max,
                op_id_retention_s=op_id_retention_s,
            )
        except sqlite3.Error as error:
            file.close()
            raise sqlite_file.translate(error) from error
        return cls(file, state, time, clock)

    @property
    def epoch(self) -> str:
        """Name of this life of the store."""
        return self._epoch

    @property
    def capabilities(self) -> Capabilities:
        """Durable; shared only through the HTTP authority."""
        return Capabilities("sqlite", durable=True, shared=False, fault_tolerant=False)

    # --- in the writer's thread ---

    def _write_group(self, jobs: Sequence[Job[State]]) -> Sequence[object]:
        state = self._state
        try:
            state.begin()
            outcomes = [_attempt(job, state) for job in jobs]
        except sqlite3.OperationalError as error:  # full, I/O, locked: it is everybody's trouble
            state.abandon()
            self._rest_after(failed=True)
            return [Failure(sqlite_file.translate(error)) for _ in jobs]
        except StoreLockedError as error:  # the file is another's by now: watchers must not wait
            state.abandon()
            self._rest_after(failed=True)
            self._loop.call_soon_threadsafe(self._feed.close)
            return [Failure(error) for _ in jobs]
        except Exception as error:  # noqa: BLE001 one poisoned operation must not take 511 along
            state.abandon()
            return self._isolate(jobs, error)
        try:
            commits = state.finish()
        except sqlite3.Error as error:
            state.abandon()
            self._rest_after(failed=True)
            return [Failure(_commit_failed(error, job)) for job in jobs]
        self._rest_after(failed=False)
        if commits:
            self._news.append(commits)
        return outcomes

    def _isolate(self, jobs: Sequence[Job[State]], error: Exception) -> Sequence[object]:
        """Halve a group that met a bug until the culprit stands alone; the others commit."""
        if len(jobs) == 1:
            return [Failure(error)]
        middle = len(jobs) // 2
        return [*self._write_group(jobs[:middle]), *self._write_group(jobs[middle:])]

    def _pause_s(self) -> float | None:
        deadline_s = self._state.next_deadline_s()
        if deadline_s is None:
            return None
        return max(self._rest_s, deadline_s - self._clock.elapsed_s()) + 0.001

    def _rest_after(self, *, failed: bool) -> None:
        """Set how long a lease that is due waits for its end: a sick disk is not asked at once."""
        again_s = min(REST_S_MAX, max(REST_S_MIN, 2 * self._rest_s))
        self._rest_s = again_s if failed else 0.0

    def _checkpoint(self) -> None:
        if self._state.bytes_written < CHECKPOINT_BYTES:
            return
        try:
            self._state.checkpoint()
        except sqlite3.Error as error:  # the log keeps what it has; the next group tries again
            _log.warning("checkpoint failed: %s", error)

    # --- in the loop again, before the group is answered ---

    def _publish(self) -> None:
        while self._news:
            self._feed.publish(self._news.popleft())

    # --- in the readers' threads ---

    def _reader(self, name: str, connection: sqlite3.Connection) -> Lane[Pages]:
        pages = Pages(connection)

        def read_group(jobs: Sequence[Job[Pages]]) -> Sequence[object]:
            try:
                pages.begin()
                return [_read(job, pages) for job in jobs]
            except sqlite3.Error as error:
                return [Failure(sqlite_file.translate(error)) for _ in jobs]
            finally:
                pages.end()

        return Lane(name, read_group)

    # --- Store ---

    async def get(self, key: str) -> KeyValue | None:
        """Return the key as it stands, None if absent."""
        rules.check_key(key)
        return await self._points.ask(lambda pages: pages.get(key))

    async def get_many(self, keys: Sequence[str]) -> Snapshot:
        """Return several keys at one revision."""
        rules.check_keys(keys)
        return await self._points.ask(lambda pages: pages.get_many(keys))

    async def scan(
        self, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return keys under ``prefix`` behind ``after``, at one revision."""
        rules.check_scan(prefix, after, limit)
        return await self._ranges.ask(lambda pages: pages.scan(prefix, after, limit))

    async def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write] = (),
        *,
        op_id: str | None = None,
    ) -> Commit:
        """Decide and write at one point in time, durable when it returns; see ``Store.commit``."""
        run, name = self._job(compares, writes, otherwise, op_id)
        return await self._writer.ask(run, op_id=name)

    async def commit_all(self, requests: Sequence[CommitRequest]) -> list[Commit | BaseException]:
        """Decide commits that came together, each alone; see ``TakesCommitsTogether``."""
        outcomes: dict[int, object] = {}
        jobs: dict[int, tuple[Callable[[State], Commit], str]] = {}
        for n, asked in enumerate(requests):
            try:
                jobs[n] = self._job(asked.compares, asked.writes, asked.otherwise, asked.op_id)
            except InvalidRequestError as error:
                outcomes[n] = error
        outcomes |= zip(jobs, await self._writer.ask_all(list(jobs.values())), strict=True)
        return [_raised(outcomes[n]) for n in range(len(requests))]

    def _job(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write],
        op_id: str | None,
    ) -> tuple[Callable[[State], Commit], str]:
        """Check a commit; return what the writer is to do, and its op_id."""
        rules.check_commit(compares, writes, otherwise, op_id)
        content = rules.fingerprint(compares, writes, otherwise)
        name = op_id or self.mint_op_id()
        return lambda state: state.commit(compares, writes, otherwise, name, content), name

    async def resolve(self, op_id: str) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        rules.check_op_id(op_id)
        return await self._writer.ask(lambda state: state.resolve(op_id), op_id=op_id)

    async def lease(self, ttl_s: float) -> Lease:
        """Grant a lease."""
        rules.check_ttl(ttl_s)
        return await self._writer.ask(lambda state: state.grant(ttl_s))

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew."""
        return await self._writer.ask(lambda state: state.renew(lease_id))

    async def revoke(self, lease_id: str) -> None:
        """End the lease and delete its keys."""
        await self._writer.ask(lambda state: state.revoke(lease_id))

    async def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under ``prefix``; see ``Store.watch``."""
        rules.check_prefix(prefix)
        if after is not None and after > self._feed.revision:
            rules.check_cursor(after, (await self.get_many([])).revision)

        async def older(cursor: int) -> tuple[int, list[WatchEvent | Compacted]]:
            return await self._ranges.ask(lambda pages: pages.history(cursor, prefix))

        async for event in self._feed.follow(prefix, after, older):
            yield event

    async def now(self) -> datetime:
        """Return the business time."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        return utc(self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s()))

    def elapsed_s(self) -> float:
        """Return seconds since boot."""
        return self._clock.elapsed_s()

    def mint_op_id(self) -> str:
        """Return a fresh op_id."""
        return mint_op_id(self._epoch, self._feed.revision)

    async def close(self) -> None:
        """Finish what was accepted, move the log into the file, and free it; once for all callers.

        A caller that is cancelled meanwhile is so when it is done: the file is never left locked.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await shielded(self._closing)

    async def _close(self) -> None:
        self._feed.close()
        for lane in (self._points, self._ranges, self._writer):
            await lane.close()
        await asyncio.to_thread(self._file.close)


def _raised(outcome: object) -> Commit | BaseException:
    """Return a commit's outcome, or the error that it would raise."""
    return outcome.error if isinstance(outcome, Failure) else cast("Commit", outcome)


def _attempt(job: Job[State], state: State) -> object:
    try:
        return job.run(state)
    except TransactionalError as error:  # refused before it changed anything
        return Failure(error)


def _read(job: Job[Pages], pages: Pages) -> object:
    """Answer one read; what is wrong with it is no concern of its neighbours."""
    try:
        return job.run(pages)
    except sqlite3.Error as error:
        return Failure(sqlite_file.translate(error))
    except Exception as error:  # noqa: BLE001 a bug must reach its caller, not 511 others
        return Failure(error)


def _commit_failed(error: sqlite3.Error, job: Job[State]) -> TransactionalError:
    # Any other error left no valid commit frame in the log; after an I/O error there may be one.
    io = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR
    if io and job.op_id is not None:
        return OutcomeUnknownError(job.op_id, f"SQLite: {error}")
    return sqlite_file.translate(error)

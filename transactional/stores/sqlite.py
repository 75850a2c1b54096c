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

``State`` is what the writer's thread sees, decides and writes.  An operation is decided before it
changes anything, so one that is refused leaves no trace.  What a group changes gathers in
``_Pending`` and is written in bulk, when the group ends or when an operation reads a range.  Single
keys and op_ids are looked up there first, then among the recently used, then in the file: the only
writer may remember what the file holds.  A group that fails drops its pending changes and restores
the few counters and leases that it touched.

``Pages`` is what a reader's thread sees.  Each group of reads shares one snapshot.  A reader of a
write-ahead log sees a commit only after its frames are synced (SQLite publishes the log's index
last), so what is read here is durable.

How the file is opened, locked, set up, copied and checked is in ``sqlite_file.py``.

What is older than the limits (``retention.py``) goes in passing: each group removes up to twice
as much as it adds, so that no load outruns it, and a pause is no longer than what caused it.  Pages
that become free are used again; if they are many, the file is cut shorter, a few at a time.

Values that a commit makes ``forgotten`` are replaced in the history in the same transaction.  What
SQLite leaves of them in the file is overwritten after it, in steps between the groups that follow
(``sqlite_scrub.py``); who made it forget is answered when that is done, or after ``SCRUB_S`` while
it goes on.  The lock file says that it is not done: a process that dies leaves it to the next one.

Once in a while all rows are looked at again, between groups as well (``sqlite_patrol.py``).  If one
is not what was written, or is gone, an opening would refuse the file: from then on everything that
is asked of the store is answered with ``CorruptStoreError``, until a person has looked.

What an error does to a group: before COMMIT everything is rolled back and all are told
``UnavailableError``.  If COMMIT itself meets an I/O error, the log may or may not hold the commit
after a crash, so each writer is told ``OutcomeUnknownError``; ``resolve`` settles it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from transactional import rules
from transactional.caller import OWNER, Caller
from transactional.clock import BusinessTime, Clock, utc
from transactional.errors import (
    ConflictError,
    CorruptStoreError,
    DamagedRowError,
    InvalidRequestError,
    LeaseExpiredError,
    OperationIdReusedError,
    OpIdExpiredError,
    OpIdFencedError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreIOError,
    StoreLockedError,
    TransactionalError,
)
from transactional.shield import shielded
from transactional.store import BY_LEASE, mint_op_id, this_user
from transactional.stores import sqlite_file, sqlite_patrol, sqlite_scrub
from transactional.stores import sqlite_schema as schema
from transactional.stores.feed import Feed, Row, Rows, event_of, row_of, rows_under
from transactional.stores.last_changes import LastChanges
from transactional.stores.leases import Leases
from transactional.stores.retention import ROW_BYTES, Moments, Retention
from transactional.stores.sqlite_schema import NOTHING, Totals
from transactional.stores.writer_thread import Failure, Job, WriterThread
from transactional.values import (
    LAST_CODE_POINT,
    READ_BYTES_MAX,
    SCAN_KEYS_MAX,
    Applied,
    Capabilities,
    Commit,
    CommitRequest,
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
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

RECENT_COMMITS_MAX: Final = 4096
"""Commits kept in memory for watchers; who is further behind reads the history."""
LOOK_ROWS_MAX: Final = 20_000
"""Most changes that are looked through for a prefix; if there are more, it may have changed."""
CHECKPOINT_BYTES: Final = 32 << 20
"""How large the log may become until it is moved into the database file."""
REST_S_MIN: Final = 0.1
"""Pause after a group that failed, if nobody asks for anything and a lease is due; it doubles."""
REST_S_MAX: Final = 1.0

RENEW_S: Final = 5.0
"""How long a thread waits for a lease to be renewed."""
SCRUB_S: Final = 5.0
"""How long who makes the store forget waits for it to be done; in a large file it goes on."""
SCRUB_AGAIN_S: Final = 10.0
"""Pause before it is tried again, if there was no space or a reader was in the way."""
SCRUB_CLOSING_S: Final = 5.0
"""How long closing goes on with it; the rest is done when the file is opened again."""

CHECK_EVERY_S: Final = sqlite_patrol.EVERY_S
"""How long after the last time all rows are looked at again."""

REMEMBERED_KEYS: Final = 16_384
"""Keys kept in memory for the next compare; all are dropped when there are more."""
REMEMBERED_BYTES: Final = 4096
"""Largest value that is kept in memory."""
REMEMBERED_OPERATIONS: Final = 65_536
"""Op_ids kept in memory: a new one need not be looked for in the file."""
LARGE_BYTES: Final = 64 << 10
"""A larger commit is hashed in the writer's thread."""
FORGET_ROWS: Final = 256
"""Most old values that one group removes, or twice as many as it adds."""
COMPACT_ROWS: Final = 4096
"""The same for one step of ``compact``."""
FORGET_LIGHT: Final = 4
"""How many times as many of the rows without values."""
SLACK: Final = 64
"""Old values are removed when so many, or this part of their bytes, are over the limit."""
FREE_PAGES_MIN: Final = 1024
"""Free pages that are left for what comes; and a quarter of the file, if that is more."""
VACUUM_PAGES: Final = 1024
"""Pages by which the file is cut shorter at a time, after a checkpoint."""
PREFIXES_AT_ONCE: Final = 100
"""Prefixes of which one statement asks; SQLite takes an expression of 1000 levels."""
HISTORY_ROWS: Final = 500
"""About how many rows of history one page reads; a commit is never cut."""
INSERT_ROWS: Final = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows per statement: any count takes at most one of each size below the largest, and they are few
enough for the compiled statements to be found again."""

_Record = tuple[bytes | None, int, bool, int]
"""An operation's content (None: fenced), revision, success and time: plain values, see feed.py."""

_OperationRow = tuple[int, str, bytes | None, int, bool, int, int]
_CheckedRow = tuple[int, str, bytes | None, int | None, str | None, str, int, int]
"""A ``feed.Row`` and its checksum."""

_KEY = f"SELECT {schema.KEY_COLUMNS} FROM keys "
_SMALL_KEY = _KEY.replace(
    " value,", f" CASE WHEN length(value) <= {REMEMBERED_BYTES} THEN value END,"
)

_log = logging.getLogger(__name__)


# --- the store: who asks, in the event loop ------------------------------------------------------


class SQLiteStore:
    """A Store in a file; made by ``open``, belongs to the event loop that opened it."""

    def __init__(
        self,
        file: sqlite_file.OpenFile,
        state: State,
        time: BusinessTime,
        clock: Clock,
        by: str | None,
    ) -> None:
        self._shared = False
        self._by = by or this_user()
        self._file = file
        self._path = Path(file.points.execute("PRAGMA database_list").fetchone()[2])
        self._state = state
        self._time = time
        self._clock = clock
        self._epoch = state.epoch
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(state.revision, commits_max=RECENT_COMMITS_MAX)
        self._closing: asyncio.Task[None] | None = None
        self._rest_s = 0.0
        self._news: deque[_Pending] = deque()
        self._cleaned: set[asyncio.Future[None]] = set()
        self._damage = ""
        """What was found to be damaged, while the file was open."""
        if file.lock.unclean:
            state.scrub_soon()
        self._writer: WriterThread[State] = WriterThread(
            "store-writer",
            self._work_group,
            pause_s=self._pause_s,
            publish=self._publish,
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
        retention: Retention | None = None,
        by: str | None = None,
        accept_clock: bool = False,
        check_s_max: float = sqlite_file.CHECK_S_MAX,
        check_every_s: float = CHECK_EVERY_S,
        **limits: float,
    ) -> SQLiteStore:
        """Open or create the store in ``path``; ``by`` writes where a commit does not say who.

        How long it remembers is told by ``retention``, or by some of its fields as ``limits``.
        The file is checked for what the disk has changed, for no longer than ``check_s_max``; what
        there was no time for is logged, and in ``unchecked``.  All rows are looked at again every
        ``check_every_s``, in steps of about 10 ms between commits, and at once if there was no time
        for them; 0 leaves it.
        ``accept_clock`` says that the wall clock is right, however far it is from the store's last
        time.  If it is behind by more than an hour, time is taken back, and that is another life of
        the store: it has another epoch.

        Raises:
            StoreLockedError: another authority has the file open; nothing was touched.
            UnsafeFilesystemError: the file is on a network file system; nothing was touched.
            CorruptStoreError: the file is damaged or something else; nothing was touched.
            InvalidRequestError: the directory does not exist.
            UnavailableError: the file or its directory cannot be used now.
            ClockJumpedError: the clock is 30 days from the store's last time; nothing was touched.
        """
        clock = clock or Clock()
        time = BusinessTime()
        retention = (retention or Retention()).but(limits)
        if not 0 <= check_every_s <= sqlite_patrol.EVERY_S_MAX:  # NaN is refused as well
            most = sqlite_patrol.EVERY_S_MAX
            raise InvalidRequestError(f"check_every_s is 0 to {most:g}, not {check_every_s!r}")
        opening = asyncio.get_running_loop().run_in_executor(
            None,
            partial(
                sqlite_file.OpenFile.open,
                Path(path),
                clock.wall_us,
                accept_clock=accept_clock,
                check_s_max=check_s_max,
            ),
        )
        file = await shielded(opening, undo=lambda file: asyncio.to_thread(file.close))
        try:
            patrol = sqlite_patrol.Patrol(
                file.patrol, every_s=check_every_s, at_once=bool(file.unchecked)
            )
            state = State(file.writer, clock, time, retention, patrol)
        except sqlite_file.COMPLAINTS as error:
            file.close()
            raise sqlite_file.translate(error) from error
        except BaseException:
            file.close()
            raise
        return cls(file, state, time, clock, by)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What there was no time to check when the file was opened: pages, tables."""
        return self._file.unchecked

    @property
    def epoch(self) -> str:
        """Name of this life of the store."""
        return self._epoch

    @property
    def capabilities(self) -> Capabilities:
        """Durable; shared only through the HTTP authority."""
        return Capabilities("sqlite", durable=True, shared=False, fault_tolerant=False)

    # --- in the writer's thread ---

    def _work_group(self, jobs: Sequence[Job[State]]) -> Sequence[object]:
        if not self._damage:
            return self._write_group(jobs)
        self._rest_after(failed=True)
        return self._refused(jobs)

    def _refused(self, jobs: Sequence[Job[Any]]) -> Sequence[object]:
        return [Failure(CorruptStoreError(self._damage)) for _ in jobs]

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
            why = partial(StoreLockedError, error.reason)
            self._loop.call_soon_threadsafe(self._feed.close, why)
            return [Failure(error) for _ in jobs]
        except Exception as error:  # noqa: BLE001 one poisoned operation must not take 511 along
            state.abandon()
            if isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError):
                told = sqlite_file.translate(error)
                if isinstance(told, CorruptStoreError):
                    return [Failure(told) for _ in jobs]
            return self._isolate(jobs, error)
        try:
            if state.forgets:
                self._file.lock.mark(unclean=True)
            pending = state.finish()
        except (sqlite3.Error, OSError) as error:
            state.abandon()
            self._rest_after(failed=True)
            return [Failure(_commit_failed(error, job)) for job in jobs]
        self._rest_after(failed=False)
        with suppress(OSError):  # what was committed is so; that it says too little is allowed
            self._file.lock.note(state.revision)
        if pending.commits:
            self._news.append(pending)
        return outcomes

    def _isolate(self, jobs: Sequence[Job[State]], error: Exception) -> Sequence[object]:
        """Halve a group that met a bug until the culprit stands alone; the others commit."""
        if len(jobs) == 1:
            return [Failure(error)]
        middle = len(jobs) // 2
        return [*self._write_group(jobs[:middle]), *self._write_group(jobs[middle:])]

    def _pause_s(self) -> float | None:
        pauses: list[float] = []
        if (due_s := self._state.next_deadline_s()) is not None:
            pauses.append(max(self._rest_s, due_s - self._clock.elapsed_s()) + 0.001)
        if (due_s := self._state.scrub_deadline_s()) is not None:
            pauses.append(max(0.0, due_s - monotonic()))
        if (due_s := self._state.patrol.due_s) is not None and not self._damage:
            pauses.append(max(0.0, due_s - monotonic()))
        return min(pauses, default=None)

    def _rest_after(self, *, failed: bool) -> None:
        """Set how long a lease that is due waits for its end: a sick disk is not asked at once."""
        again_s = min(REST_S_MAX, max(REST_S_MIN, 2 * self._rest_s))
        self._rest_s = again_s if failed else 0.0

    def _checkpoint(self) -> None:
        due_s = self._state.scrub_deadline_s()
        if due_s is not None and due_s <= monotonic():
            self._scrub()
        due_s = self._state.patrol.due_s
        if due_s is not None and due_s <= monotonic() and not self._damage:
            self._look_again()
        try:
            self._state.checkpoint_if_due()
        except sqlite3.Error as error:  # the log keeps what it has; the next group tries again
            _log.warning("checkpoint failed: %s", error)

    def _scrub(self) -> None:
        """Go on overwriting what was forgotten; what hinders it is told, and tried again."""
        try:
            if not self._state.scrub():
                return
            self._file.lock.mark(unclean=False)
        except Exception as error:  # noqa: BLE001 whatever it is, the only writer goes on
            _log.warning("forgotten values may still lie in the file, to be tried again: %s", error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._tell_cleaned)

    def _look_again(self) -> None:
        """Look at some more rows; the end of the store's work, if one is not what was written."""
        try:
            self._state.look_again()
        except CorruptStoreError as error:
            self._stop(error)
        except sqlite_file.COMPLAINTS as error:
            told = sqlite_file.translate(error)
            if isinstance(told, CorruptStoreError):
                self._stop(told)
            else:
                _log.warning("rows could not be looked at, to be tried again: %s", told)

    def _stop(self, error: CorruptStoreError) -> None:
        text = f"{self._path}: {error.reason}"
        _log.critical("the store has stopped: %s", text)
        self._damage = text
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._feed.close, partial(CorruptStoreError, text))

    # --- in the loop again, before the group is answered ---

    def _tell_cleaned(self) -> None:
        for future in self._cleaned:
            if not future.done():
                future.set_result(None)
        self._cleaned.clear()

    async def _clean(self) -> None:
        """Wait until nothing of what was forgotten lies in the file, or that takes too long."""
        if self._state.scrub_deadline_s() is None:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._cleaned.add(future)
        try:
            async with asyncio.timeout(SCRUB_S):
                await future
        except TimeoutError:
            _log.warning("forgotten values are being overwritten still; scrub_pages tells how far")
        finally:
            self._cleaned.discard(future)

    def _publish(self) -> None:
        while self._news:
            news = self._news.popleft()
            self._feed.publish(news.commits)
            for revision, forgotten in news.forgotten:
                self._feed.forget(forgotten, revision)

    # --- in the readers' threads ---

    def _reader(self, name: str, connection: sqlite3.Connection) -> WriterThread[Pages]:
        pages = Pages(connection)

        def read_group(jobs: Sequence[Job[Pages]]) -> Sequence[object]:
            if self._damage:
                return self._refused(jobs)
            try:
                pages.begin()
                return [_read(job, pages) for job in jobs]
            except sqlite_file.COMPLAINTS as error:
                return [Failure(sqlite_file.translate(error)) for _ in jobs]
            finally:
                pages.end()

        return WriterThread(name, read_group)

    # --- Store ---

    async def get(self, key: str, *, caller: Caller = OWNER) -> KeyValue | None:
        """Return the key as it stands, None if absent."""
        rules.check_key(key)
        return await self._points.ask(lambda pages: pages.get(key, caller))

    async def get_many(self, keys: Sequence[str], *, caller: Caller = OWNER) -> Snapshot:
        """Return several keys at one revision."""
        rules.check_keys(keys)
        return await self._points.ask(lambda pages: pages.get_many(keys, caller))

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
        return await self._ranges.ask(lambda pages: pages.scan(prefix, after, limit, caller))

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
        asked = CommitRequest(compares, writes, otherwise, op_id, by)
        run, name = self._job(asked, caller)
        done = await self._writer.ask(run, op_id=name)
        if _forgets(asked):
            await self._clean()
        return done

    async def commit_all(
        self, requests: Sequence[CommitRequest], *, caller: Caller = OWNER
    ) -> list[Commit | BaseException]:
        """Decide commits that came together, each alone; see ``TakesCommitsTogether``."""
        outcomes: dict[int, object] = {}
        jobs: dict[int, tuple[Callable[[State], Commit], str]] = {}
        for n, asked in enumerate(requests):
            try:
                jobs[n] = self._job(asked, caller)
            except InvalidRequestError as error:
                outcomes[n] = error
        outcomes |= zip(jobs, await self._writer.ask_all(list(jobs.values())), strict=True)
        if any(map(_forgets, requests)):
            await self._clean()
        return [_raised(outcomes[n]) for n in range(len(requests))]

    def _job(self, asked: CommitRequest, caller: Caller) -> tuple[Callable[[State], Commit], str]:
        """Check a commit; return what the writer is to do, and its op_id."""
        compares, writes, otherwise = asked.compares, asked.writes, asked.otherwise
        size = rules.check_commit(compares, writes, otherwise, asked.op_id, asked.by)
        name, by = asked.op_id or self.mint_op_id(), asked.by or self._by
        if size > LARGE_BYTES:  # milliseconds of hashing, which the loop does not wait for

            def run(state: State) -> Commit:
                content = rules.fingerprint(compares, writes, otherwise)
                return state.commit(asked, name, content, by, caller)

            return run, name
        content = rules.fingerprint(compares, writes, otherwise)
        return lambda state: state.commit(asked, name, content, by, caller), name

    async def resolve(self, op_id: str, *, caller: Caller = OWNER) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        rules.check_op_id(op_id)
        return await self._writer.ask(lambda state: state.resolve(op_id, caller), op_id=op_id)

    async def lease(self, ttl_s: float, *, caller: Caller = OWNER) -> Lease:
        """Grant a lease."""
        rules.check_ttl(ttl_s)
        remote = self._shared
        return await self._writer.ask(lambda state: state.grant(ttl_s, caller, remote=remote))

    def share(self) -> None:
        """Grant leases to other processes from now on: a restart of this one does not end them."""
        self._shared = True

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew."""
        return await self._writer.ask(lambda state: state.renew(lease_id))

    def renew_from_thread(self, lease_id: str) -> None:
        """Start the lease's time anew while the event loop is busy; see ``RenewsFromThreads``."""
        self._writer.ask_from_thread(lambda state: state.renew(lease_id), wait_s=RENEW_S)

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

    async def compact(self) -> int:
        """Remove all that is beyond the limits and give back the free pages; how many rows went.

        A piece at a time: other commits go on in between.
        """
        rows, more = 0, True
        while more:
            removed, more = await self.compact_piece()
            rows += removed
        return rows

    async def compact_piece(self) -> tuple[int, bool]:
        """Remove a piece of it; return how many rows went, and whether there is more."""
        return await self._writer.ask(lambda state: state.compact())

    async def now(self) -> datetime:
        """Return the business time."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        return utc(self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s()))

    def elapsed_s(self) -> float:
        """Return seconds since boot."""
        return self._clock.elapsed_s()

    def figures(self) -> Mapping[str, float]:
        """Return what there is to watch; see ``Measured``."""
        file = self._path.stat().st_size if self._path.exists() else 0
        return {
            "leases": self._state.leases,
            "file_bytes": file,
            "log_bytes": self._state.log_bytes,
            "waiting_commits": self._writer.waiting,
            "watches": self._feed.watches,
            "clock_refused_total": self._time.refused,
            "scrub_pages": self._state.pages_to_scrub,
            "check_age_s": self._state.patrol.age_s,
            "damaged": bool(self._damage),
        }

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
        for thread in (self._points, self._ranges, self._writer):
            await thread.close()
        self._tell_cleaned()
        await asyncio.to_thread(self._close_file)

    def _close_file(self) -> None:
        end_s = monotonic() + SCRUB_CLOSING_S
        self._file.close_readers()
        while self._state.scrub_deadline_s() is not None and monotonic() < end_s:
            self._scrub()
            if self._state.scrub_is_hindered:
                break
        self._file.close()
        self._state.let_go()


def _forgets(asked: CommitRequest) -> bool:
    return rules.forgotten([*asked.writes, *asked.otherwise]) is not None


def _raised(outcome: object) -> Commit | BaseException:
    """Return a commit's outcome, or the error that it would raise."""
    return outcome.error if isinstance(outcome, Failure) else cast("Commit", outcome)


def _attempt(job: Job[State], state: State) -> object:
    try:
        return job.run(state)
    except TransactionalError as error:  # refused before it changed anything
        return Failure(error)


def _read(job: Job[Pages], pages: Pages) -> object:
    """Answer one read; what is wrong with it does not concern its neighbours."""
    try:
        return job.run(pages)
    except sqlite_file.COMPLAINTS as error:
        return Failure(sqlite_file.translate(error))
    except Exception as error:  # noqa: BLE001 a bug must reach its caller, not 511 others
        return Failure(error)


def _commit_failed(error: sqlite3.Error | OSError, job: Job[State]) -> TransactionalError:
    if isinstance(error, OSError):
        return StoreIOError(f"the lock file: {error.strerror}")
    # Any other error left no valid commit frame in the log; after an I/O error there may be one.
    io = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR
    if io and job.op_id is not None:
        return OutcomeUnknownError(job.op_id, f"SQLite: {error}")
    return sqlite_file.translate(error)


# --- what the writer's thread sees ---------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    """What the current group changed and the file does not hold yet, or not durably."""

    keys: dict[str, KeyValue | None] = field(default_factory=dict)
    operations: dict[str, _Record] = field(default_factory=dict)
    commits: list[tuple[int, Rows]] = field(default_factory=list)
    history_rows: list[Row] = field(default_factory=list)  # not in the file yet
    operation_rows: list[_OperationRow] = field(default_factory=list)  # likewise
    forgotten: list[tuple[int, rules.Forgotten]] = field(default_factory=list)
    rows: int = 0  # that were written into the history
    moment: tuple[int, int] | None = None  # that was noted
    clean: dict[str, int] = field(default_factory=dict)  # up to where nothing old is left


class _Standing(NamedTuple):
    """The numbers that a group that fails does not change."""

    revision: int
    compacted: int
    indexed: int
    resolvable: int
    totals: dict[str, Totals]


class State:
    """The whole state of a store, seen and changed by its only writer."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        time: BusinessTime,
        retention: Retention,
        patrol: sqlite_patrol.Patrol,
    ) -> None:
        self._db = connection
        self.patrol = patrol
        self._clock = clock
        self._time = time
        self._retention = retention
        self._retention_us = int(retention.op_id_retention_s * 1e6)
        self._moments = Moments(
            retention, connection.execute("SELECT revision, time_us FROM moments ORDER BY revision")
        )
        meta = schema.Meta.read(connection)
        self.epoch, self.revision, self.compacted, self._indexed, self._resolvable, *_ = meta
        self._totals = meta.totals
        time.resume(meta.time_us, clock.elapsed_s())
        self._last_changes = LastChanges(self.revision)
        self._leases = Leases()
        for lease, ttl_s, remote in connection.execute("SELECT lease, ttl_s, remote FROM leases"):
            # Whoever held a lease in the process that had this file has ended with it.
            self._leases.start(lease, ttl_s, clock.elapsed_s() - (0.0 if remote else ttl_s))
        self._before = self._standing()
        self._read_clocks()
        self._touched: list[tuple[str, float, float]] = []
        self._pending = _Pending()
        self._clean: dict[str, int] = {}
        self._in_file: dict[str, Totals] = {}
        """Of keys that this group met: what the file has of them, for the totals."""
        self._keys: dict[str, KeyValue | None] = {}
        self._operations: OrderedDict[str, _Record] = OrderedDict()  # see last_changes.py
        self._operations_since = self.revision
        """Every record of a later revision than this is in ``_operations``."""
        # A log that begins anew is cut to this, so that its size says how much there is beyond it.
        connection.execute(f"PRAGMA journal_size_limit={CHECKPOINT_BYTES}")
        (_, _, path), *_ = connection.execute("PRAGMA database_list").fetchall()
        self._log_path = Path(path + "-wal")
        self._log_moved = 0
        """How large the log was at the last checkpoint, if it did not begin anew since."""
        self._scrubber = sqlite_scrub.Scrubber(connection, Path(path))
        self._scrub_s: float | None = None
        self.scrub_is_hindered = False

    # --- a group ---

    def begin(self) -> None:
        """Open the transaction of a group and let what is due expire in it.

        Raises:
            StoreLockedError: somebody else wrote to the file.  What is remembered here is void, and
                as revisions never return, each later group will find the same.
        """
        self._before = self._standing()
        self._touched.clear()
        self._pending = _Pending()
        self._in_file.clear()
        self.patrol.begin()
        self._db.execute("BEGIN IMMEDIATE")
        self._read_clocks()
        found = self._db.execute("SELECT epoch, revision FROM meta").fetchone()
        if found != (self.epoch, self.revision):
            raise StoreLockedError("another authority wrote to the file; this one has stopped")
        due = self._leases.due(self._now[1])
        for lease in due:  # all of them first: ending one may fail, and `due` tells each but once
            self._touch(lease)
        for lease in due:
            self._end(lease)

    def finish(self) -> _Pending:
        """Make the group durable and return what it changed; answers go out after it."""
        self._flush()
        if self._pending.forgotten:
            self._forget_values(self._pending.forgotten)
        if self.revision != self._before.revision:
            self._note_moment()
            self._forget(max(FORGET_ROWS, 2 * self._pending.rows))
        if self._standing() != self._before:
            schema.Meta(self.epoch, *self._standing()[:-1], self._time.last_us, self._totals).write(
                self._db
            )
        self._db.execute("COMMIT")
        self._remember()
        for revision, rows in self._pending.commits:
            self._last_changes.note(revision, [row[1] for row in rows])
        self._clean |= self._pending.clean
        if self._pending.moment is not None:
            self._moments.note(*self._pending.moment)
        if self._pending.forgotten:
            self.scrub_soon()
        return self._pending

    def _standing(self) -> _Standing:
        return _Standing(
            self.revision, self.compacted, self._indexed, self._resolvable, self._totals
        )

    def abandon(self) -> None:
        """Undo the whole group, in the file and in memory."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if self._pending.forgotten and self._scrub_s is None:
            self._db.execute("PRAGMA secure_delete=OFF")
        self.revision, self.compacted, self._indexed, self._resolvable, self._totals = self._before
        self.patrol.abandon()
        for lease, ttl_s, started_s in reversed(self._touched):
            if ttl_s:
                self._leases.start(lease, ttl_s, started_s)
            else:
                self._leases.end(lease)

    @property
    def leases(self) -> int:
        """How many leases are alive."""
        return len(self._leases)

    def next_deadline_s(self) -> float | None:
        """Return when the next lease ends, on the boot-time clock."""
        return self._leases.next_deadline_s()

    def checkpoint_if_due(self) -> None:
        """Move the log's content into the database file, if there is enough of it."""
        size = self.log_bytes
        if size < self._log_moved:
            self._log_moved = 0
        # One that a reader holds up does not begin anew; then not after each group.
        if size > max(CHECKPOINT_BYTES, self._log_moved + CHECKPOINT_BYTES // 8):
            self.checkpoint()
            self._log_moved = size

    def checkpoint(self) -> None:
        """Move the log's content into the database file, as far as readers allow."""
        self._scrubber.note_log()
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._cut(VACUUM_PAGES)

    @property
    def log_bytes(self) -> int:
        """How large the log is; up to ``CHECKPOINT_BYTES`` some of it may be of no use any more."""
        try:
            return self._log_path.stat().st_size
        except FileNotFoundError:
            return 0

    def _cut(self, pages_max: int) -> None:
        """Cut the file shorter, if much of it is free."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        pages_max = min(pages_max, free - max(FREE_PAGES_MIN, pages // 4))
        if pages_max > 0:  # a step for each page, of which `execute` would make only the first
            self._db.executescript(f"PRAGMA incremental_vacuum({pages_max})")

    def look_again(self) -> bool:
        """Look at some more rows, between transactions; see ``Patrol.step``."""
        return self.patrol.step(self._totals)

    # --- forgotten values ---

    @property
    def forgets(self) -> bool:
        """Say whether the current group forgets values."""
        return bool(self._pending.forgotten)

    def scrub_soon(self) -> None:
        """Note that there are bytes in the file which must go."""
        if self._scrub_s is None or self.scrub_is_hindered:
            self._scrub_s = monotonic()

    def scrub_deadline_s(self) -> float | None:
        """Return when to go on overwriting, by ``time.monotonic``; None: nothing is left to do."""
        return self._scrub_s

    @property
    def pages_to_scrub(self) -> int:
        """How many pages are still to be looked at."""
        if self._scrub_s is None:
            return 0
        return max(1, self._scrubber.pages_left)

    def scrub(self) -> bool:
        """Do a step, between transactions; say whether nothing is left to do.

        Raises:
            HeldUpError, sqlite3.Error, OSError: it is due again in a while.
        """
        self._scrub_s = monotonic() + SCRUB_AGAIN_S
        self.scrub_is_hindered = True
        try:
            over = self._scrubber.step()
        except sqlite_scrub.NotUnderstoodError as error:
            _log.warning("the file is rebuilt: %s", error)
            over = self._rebuild()
        self.scrub_is_hindered = False
        self._scrub_s = None if over else self._scrubber.next_s
        return over

    def let_go(self) -> None:
        """Let go of the file, when SQLite has."""
        self._scrubber.close()

    def _rebuild(self) -> bool:
        """Write every page anew and cut the log to nothing; O(file), commits wait, readers do not.

        Raises:
            HeldUpError, sqlite3.Error: a reader is in the way; no space.
        """
        self._db.execute("PRAGMA temp_store=FILE")  # as large as the file: not in memory
        try:
            self._db.execute("VACUUM")
        finally:
            self._db.execute("PRAGMA temp_store=MEMORY")
        self._db.execute("PRAGMA secure_delete=OFF")
        (busy, *_), *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise sqlite_scrub.HeldUpError("a reader holds on to the write-ahead log")
        return True

    def _forget_values(self, wanted: Sequence[tuple[int, rules.Forgotten]]) -> None:
        """Replace values in the history that are older than who forgets them; O(history)."""
        found = self._history_of(
            {key for _, forgotten in wanted for key in forgotten.values},
            {prefix for _, forgotten in wanted for prefix in forgotten.prefixes},
        )
        old: list[_CheckedRow] = []
        new: list[_CheckedRow] = []
        for (revision, key), row in found.items():
            later = [f for at, f in wanted if at > revision and f.instead(key) is not None]
            if later:
                changed = (revision, key, later[-1].instead(key), *row[3:-1])
                old.append(row)
                # A row that was damaged stays so, but for the value.
                checksum = schema.row_checksum(*changed) if schema.is_whole(row) else row[-1]
                new.append((*changed, checksum))
                if self.patrol.is_behind("history", (revision, key)):
                    self.patrol.count(_totals_of_rows(new[-1:]), _totals_of_rows(old[-1:]))
        self._db.executemany(
            "UPDATE history SET value = ?, checksum = ? WHERE revision = ? AND key = ?",
            [(row[2], row[-1], row[0], row[1]) for row in new],
        )
        self._count("history", _totals_of_rows(new), _totals_of_rows(old))

    def _history_of(
        self, keys: Collection[str], prefixes: Collection[str]
    ) -> dict[tuple[int, str], _CheckedRow]:
        """Return the rows of the past, by revision and key, that have values; O(history)."""
        rows = f"SELECT {schema.KEY_COLUMNS} FROM history WHERE value IS NOT NULL AND"
        asked = [("key IN (SELECT value FROM json_each(?))", [json.dumps(sorted(keys))])]
        rest = sorted(prefixes)
        while some := rest[:PREFIXES_AT_ONCE]:
            del rest[:PREFIXES_AT_ONCE]
            ends = [end for prefix in some for end in (prefix, prefix + LAST_CODE_POINT)]
            asked.append((" OR ".join(["key >= ? AND key < ?"] * len(some)), ends))
        found: dict[tuple[int, str], _CheckedRow] = {}
        for which, values in asked:
            found |= {(r[0], r[1]): r for r in self._db.execute(f"{rows} ({which})", values)}
        return found

    def _flush(self) -> None:
        """Write what is pending into the transaction."""
        pending = self._pending
        if rows := pending.history_rows:
            checked = [(*row, schema.row_checksum(*row)) for row in rows]
            latest = {row[1]: row for row in checked}
            old = _sum([self._in_file[key] for key in latest])
            _delete_keys(self._db, [key for key, row in latest.items() if row[2] is None])
            put = [row for row in latest.values() if row[2] is not None]
            _insert_rows(self._db, f"REPLACE INTO keys({schema.KEY_COLUMNS})", put)
            _insert_rows(self._db, f"INSERT INTO history({schema.KEY_COLUMNS})", checked)
            self._count("keys", _totals_of_rows(put), old)
            for key, row in latest.items():
                stands = NOTHING if row[2] is None else (1, row[-1], len(row[2]))
                if self.patrol.is_behind("keys", (key,)):
                    self.patrol.count(stands, self._in_file[key])
                self._in_file[key] = stands
            added = _totals_of_rows(checked)
            self._count("history", added)
            pending.rows += added[0]
            pending.history_rows = []
        if records := pending.operation_rows:
            behind = [r for r in records if self.patrol.is_behind("operations", (r[0], r[1]))]
            self.patrol.count(*self._replaced(behind))
            more, old = self._replaced(records)
            _insert_rows(self._db, "REPLACE INTO operations", records)
            self._count("operations", more, old)
            pending.operation_rows = []

    # --- how much there is ---

    def _replaced(self, records: Sequence[_OperationRow]) -> tuple[Totals, Totals]:
        """Return the totals of records, and of those that lie there under the same op_ids."""
        own = [row[1] for row in records if row[0] == schema.OWN]
        among = f"minted = {schema.OWN} AND op_id IN (SELECT value FROM json_each(?))"
        old = NOTHING
        if own:
            old = schema.totals_of(self._db, "operations", among, (json.dumps(own),))
        return (len(records), sum([row[-1] for row in records]), 0), old

    def _count(self, table: str, more: Totals, less: Totals = NOTHING) -> None:
        """Note that a table gained and lost rows."""
        was = self._totals[table]
        rows, checksums, size = (n + m - k for n, m, k in zip(was, more, less, strict=True))
        self._totals = {**self._totals, table: (rows, checksums, size)}

    def _remember(self) -> None:
        """Keep for the next groups what this one, now durable, changed."""
        if len(self._keys) > REMEMBERED_KEYS:
            self._keys.clear()
        for key, item in self._pending.keys.items():
            self._keys[key] = item
            if item is not None and len(item.value) > REMEMBERED_BYTES:
                del self._keys[key]
        self._operations.update(self._pending.operations)
        while len(self._operations) > REMEMBERED_OPERATIONS:
            _, (_, self._operations_since, *_) = self._operations.popitem(last=False)

    # --- forgetting ---

    def compact(self) -> tuple[int, bool]:
        """Remove a piece of what is old, or else free pages; how many rows, and whether to go on.

        It leaves no slack, unlike what is done in passing.
        """
        self._flush()
        before = self._rows
        self._forget(COMPACT_ROWS, slack=False)
        if removed := before - self._rows:
            return removed, True
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(free, VACUUM_PAGES)):  # each cuts one, see `_cut`; allowed in here
            self._db.execute("PRAGMA incremental_vacuum(1)")
        return 0, free > VACUUM_PAGES

    @property
    def _rows(self) -> int:
        """Rows of the tables that are forgotten from; one that is moved counts twice, then once."""
        rows = {name: totals[0] for name, totals in self._totals.items()}
        return 2 * rows["history"] + rows["changes"] + rows["operations"]

    def _note_moment(self) -> None:
        """Write down, now and then, when which revision was the last."""
        if self._moments.due(self._time.last_us):
            self._pending.moment = (self.revision, self._time.last_us)
            row = (*self._pending.moment, schema.moment_checksum(*self._pending.moment))
            self._db.execute("INSERT INTO moments VALUES (?, ?, ?)", row)
            self._count("moments", (1, row[-1], 0))
            self._delete("moments", "revision < ?", self._moments.forget(self._time.last_us))

    def _forget(self, most: int, *, slack: bool = True) -> None:
        """Remove what is beyond the limits; not much more than this group has added."""
        now_us, limits = self._time.last_us, self._retention
        old = self._moments.before(now_us - int(limits.index_retention_s * 1e6))
        self._forget_history(most, old, slack=slack)
        self._indexed = max(self._indexed, min(old, self.compacted))
        past = self._moments.before(now_us - int(limits.minted_retention_s * 1e6))
        self._resolvable = max(self._resolvable, past)
        most *= FORGET_LIGHT
        self._forget_rows("changes", "revision", "revision", self._indexed + 1, most)
        which = "minted >= 0 AND minted"
        self._forget_rows("operations", which, "minted, op_id", self._resolvable, most)
        # Of callers' own there may be an old one at any time: they are looked at once a second.
        second = (now_us - self._retention_us) // 1_000_000 * 1_000_000
        self._forget_rows("operations", "minted < 0 AND time_us", "time_us, op_id", second, most)

    def _forget_history(self, most: int, old: int, *, slack: bool) -> None:
        """Drop the oldest values; which keys they were of is kept, unless it is as old as that."""
        limits = self._retention
        rows, _, size = self._totals["history"]
        over = size + ROW_BYTES * rows - limits.history_bytes_max
        horizon = self.revision - limits.history_commits_max
        spare = min(SLACK, limits.history_commits_max // 8) if slack else 0
        spare_bytes = limits.history_bytes_max // SLACK if slack else 0
        if horizon - self.compacted <= spare and over <= spare_bytes:
            return
        end = self.compacted
        oldest = self._db.execute(
            "SELECT revision, coalesce(length(value), 0) FROM history WHERE revision > ?"
            " ORDER BY revision LIMIT ?",
            (self.compacted, most),
        )
        for revision, length in oldest.fetchall():
            if revision != end and revision > horizon and over <= 0:
                break
            end, over = revision, over - length - ROW_BYTES
        kept = (max(self.compacted, old), end)
        self._db.execute(
            "INSERT INTO changes SELECT revision, key, change_checksum(revision, key) FROM history"
            " WHERE revision > ? AND revision <= ?",
            kept,
        )
        moved = schema.totals_of(self._db, "changes", "revision > ? AND revision <= ?", kept)
        self._count("changes", moved)
        self._delete("history", "revision <= ?", end)
        self.compacted = end

    def _forget_rows(self, table: str, which: str, order: str, floor: int, most: int) -> None:
        """Remove the first rows, in that order, of those below a floor, unless none are left."""
        if self._clean.get(which) == floor:
            return
        below = f"{which} < {floor}"
        last = self._db.execute(
            f"SELECT {order} FROM {table} WHERE {below} ORDER BY {order} LIMIT 1 OFFSET ?",
            (most - 1,),
        ).fetchone()
        if last is None:
            self._pending.clean[which] = floor
            self._delete(table, below)
        else:
            self._delete(table, f"{below} AND ({order}) <= ({','.join('?' * len(last))})", *last)

    def _delete(self, table: str, where: str, *values: object) -> None:
        """Remove rows, and count them."""
        gone = schema.totals_of(self._db, table, where, values)
        if gone[0]:
            if (passed := self.patrol.behind(table)) is not None:
                which = (f"({where}) AND {passed[0]}", (*values, *passed[1]))
                self.patrol.count(NOTHING, schema.totals_of(self._db, table, *which))
            self._db.execute(f"DELETE FROM {table} WHERE {where}", values)
            self._count(table, NOTHING, gone)

    def _read_clocks(self) -> None:  # once per group, whose operations are concurrent
        self._now = (self._clock.wall_us(), self._clock.elapsed_s())

    def _next_us(self) -> int:
        return self._time.next_us(*self._now)

    # --- View: what rules.failed_compares asks ---

    def find(self, key: str) -> KeyValue | None:
        """Return the key as it stands."""
        if key in self._pending.keys:
            return self._pending.keys[key]
        if key in self._keys:
            return self._keys[key]
        row = self._db.execute(_KEY + "WHERE key = ?", (key,)).fetchone()
        found = schema.found_key(row) if row is not None else None
        self._in_file[key] = NOTHING if found is None else (1, row[-1], len(found.value))
        if found is None or len(found.value) <= REMEMBERED_BYTES:
            self._keys[key] = found
        return found

    def _find_all(self, keys: Iterable[str]) -> None:
        """Find those that are not known yet, with few statements; see `_insert_rows` for why.

        Large values and damaged rows are left to `find`.
        """
        known, pending = self._keys, self._pending.keys
        wanted = [key for key in dict.fromkeys(keys) if key not in known and key not in pending]
        if len(wanted) < 2:
            return
        done = 0
        for size in INSERT_ROWS:
            while len(wanted) - done >= size:
                some = wanted[done : done + size]
                done += size
                rows = self._db.execute(
                    f"{_SMALL_KEY} WHERE key IN ({','.join('?' * size)})", some
                ).fetchall()
                there = {row[1]: row for row in rows}
                for key in some:
                    row = there.get(key)
                    if row is None:
                        known[key], self._in_file[key] = None, NOTHING
                    elif row[2] is not None:
                        with suppress(DamagedRowError):
                            known[key] = found = schema.found_key(row)
                            self._in_file[key] = (1, row[-1], len(found.value))

    def _look_up(self, key: str) -> None:
        """Note what the file has of a key that this group has not written yet."""
        item = self.find(key)  # if it is read from there, that notes it
        if key not in self._in_file:
            self._in_file[key] = NOTHING if item is None else _totals_of_rows([_checked(item)])

    def keys_under(self, prefix: str) -> list[str]:
        """Return the keys that start with ``prefix``, in order."""
        self._flush()
        rows = self._db.execute(
            "SELECT key FROM keys WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, prefix + LAST_CODE_POINT),
        )
        return [key for (key,) in rows]

    def changed(self, prefix: str, since: int) -> bool:
        """Say whether anything under ``prefix`` was, or may have been, changed after ``since``."""
        if not self._indexed <= since <= self.revision:
            return True
        for revision, rows in self._pending.commits:
            if revision > since and rows_under(rows, prefix):
                return True
        known = self._last_changes.changed(prefix, since)
        if known is not None:
            return known
        tables = ("history", "changes") if since < self.compacted else ("history",)
        return any(self._changed_in(table, prefix, since) for table in tables)

    def _changed_in(self, table: str, prefix: str, since: int) -> bool:
        some = f"SELECT key FROM {table} WHERE revision > ? ORDER BY revision, key"
        found, looked_at = self._db.execute(
            f"SELECT max(key >= ? AND key < ?), count(*) FROM ({some} LIMIT ?)",
            (prefix, prefix + LAST_CODE_POINT, since, LOOK_ROWS_MAX),
        ).fetchone()
        return bool(found) or looked_at == LOOK_ROWS_MAX  # beyond that it may have been

    def lease_alive(self, lease: str) -> bool:
        """Say whether the lease is alive."""
        return lease in self._leases

    # --- operations ---

    def commit(
        self,
        asked: CommitRequest,
        op_id: str,
        content: bytes,
        by: str,
        caller: Caller,
    ) -> Commit:
        """Decide and write; see ``Store.commit``.  ``content`` is the request's fingerprint."""
        minted = rules.minted_revision(op_id, self.epoch, self.revision)
        record = self._recorded(op_id, minted, caller)
        if record is not None:
            if record[0] != content:
                raise OperationIdReusedError(op_id)
            return replace(_commit_of(record), replayed=True)
        self._find_all(rules.named_keys(asked))
        failed = rules.failed_compares(self, asked.compares)
        if failed and not asked.otherwise:
            current = rules.current_of(self, asked.compares, caller)
            raise ConflictError(failed, current, self.revision)
        chosen = asked.otherwise if failed else asked.writes
        for write in chosen:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise LeaseExpiredError(write.lease)
        time_us = self._next_us()
        if chosen:
            self._write(chosen, by, time_us)
        record = (content, self.revision, not failed, time_us)
        if chosen:
            self._record(op_id, caller, record, minted)
        return _commit_of(record)

    def _write(self, writes: Sequence[Write], by: str, time_us: int) -> None:
        revision = self.revision + 1
        changes = rules.effects(self, writes, revision, by, time_us)
        if (forgotten := rules.forgotten(writes)) is not None:
            if not self._pending.forgotten:
                self._db.execute("PRAGMA secure_delete=ON")  # until the file is scrubbed
            self._pending.forgotten.append((revision, forgotten))
        for change in changes:  # before anything is changed: one may turn out to be damaged
            if change.key not in self._in_file:
                self._look_up(change.key)
        self.revision = revision
        for change in changes:
            self._pending.keys[change.key] = change.current
        rows = tuple([row_of(change, revision, by, time_us) for change in changes])
        self._pending.history_rows += rows
        self._pending.commits.append((revision, rows))

    def _record(self, op_id: str, caller: Caller, record: _Record, minted: int | None) -> None:
        name = rules.operation_of(op_id, caller.role)
        self._pending.operations[name] = record
        row = (schema.OWN if minted is None else minted, name, *record)
        self._pending.operation_rows.append((*row, schema.operation_checksum(*row)))

    def resolve(self, op_id: str, caller: Caller) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        minted = rules.minted_revision(op_id, self.epoch, self.revision)
        try:
            record = self._recorded(op_id, minted, caller)
        except OpIdFencedError:
            return Fenced(op_id)
        if record is not None:
            return Applied(_commit_of(record), record[0])
        # Counted as a revision, so that its record is later than the op_id's own revision.
        self.revision += 1
        self._record(op_id, caller, (None, self.revision, False, self._next_us()), minted)
        return Fenced(op_id)

    def _recorded(
        self, op_id: str, minted: int | None, caller: Caller
    ) -> tuple[bytes, int, bool, int] | None:
        if minted is not None and minted < self._resolvable:
            raise OpIdExpiredError(op_id)
        name = rules.operation_of(op_id, caller.role)
        record = self._pending.operations.get(name) or self._operations.get(name)
        if record is None:
            # Its record would be of a later revision than its own: no need to look further back.
            if minted is not None and minted >= self._operations_since:
                return None
            record = self._recorded_in_file(name, minted)
            if record is None:
                return None
        content, revision, succeeded, time_us = record
        if minted is None:
            now_us = max(self._now[0], self._time.last_us)
            if now_us - time_us > self._retention_us:
                return None  # a caller's own op_id, and as good as forgotten
        if content is None:
            raise OpIdFencedError(op_id)
        return content, revision, succeeded, time_us

    def _recorded_in_file(self, name: str, minted: int | None) -> _Record | None:
        row_id = (schema.OWN if minted is None else minted, name)
        row = self._db.execute(
            "SELECT content, revision, succeeded, time_us, checksum FROM operations"
            " WHERE minted = ? AND op_id = ?",
            row_id,
        ).fetchone()
        if row is None:
            return None
        *record, checksum = row
        if schema.operation_checksum(*row_id, *record) != checksum:
            op_id = name.rpartition("\x1f")[2]
            raise DamagedRowError(op_id, f"the record of {op_id!r} is not what was written")
        content, revision, succeeded, time_us = record
        return content, revision, bool(succeeded), time_us

    # --- leases ---

    def grant(self, ttl_s: float, caller: Caller, *, remote: bool) -> Lease:
        """Grant a lease."""
        self._leases.admit(caller.role)
        lease = Lease(rules.lease_of(caller.role, secrets.token_hex(10)), ttl_s)
        row = (lease.id, float(ttl_s), int(remote))  # as it is read again
        checksum = schema.lease_checksum(*row)
        self._db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (*row, checksum))
        self._count("leases", (1, checksum, 0))
        if self.patrol.is_behind("leases", (lease.id,)):
            self.patrol.count((1, checksum, 0))
        self._leases.start(lease.id, ttl_s, self._clock.elapsed_s())
        self._touched.append((lease.id, 0.0, 0.0))
        return lease

    def renew(self, lease: str) -> Lease:
        """Start the lease's time anew; not written: a restart renews all that are remote."""
        ttl_s = self._leases.ttl_s(lease)
        if ttl_s is None:
            raise LeaseExpiredError(lease)
        self._leases.start(lease, ttl_s, self._clock.elapsed_s())
        return Lease(lease, ttl_s)

    def revoke(self, lease: str) -> None:
        """End the lease and delete its keys."""
        if lease in self._leases:
            self._touch(lease)
            self._end(lease)

    def _end(self, lease: str) -> None:
        self._flush()
        rows = self._db.execute("SELECT key FROM keys WHERE lease = ?", (lease,)).fetchall()
        if rows:
            self._write([Delete(key) for (key,) in rows], BY_LEASE, self._next_us())
        self._delete("leases", "lease = ?", lease)
        self._leases.end(lease)

    def _touch(self, lease: str) -> None:
        """Have ``abandon`` restore the lease, with a deadline that is reached."""
        ttl_s = self._leases.ttl_s(lease) or 0.0
        self._touched.append((lease, ttl_s, self._clock.elapsed_s() - ttl_s))


def _checked(item: KeyValue) -> _CheckedRow:
    """Return a key as it lies in the file."""
    head = (item.revision, item.key, item.value, item.created_revision)
    row = (*head, item.lease, item.by, item.time_us)
    return (*row, schema.row_checksum(*row))


def _sum(totals: Iterable[Totals]) -> Totals:
    rows, checksums, size = NOTHING
    for more in totals:
        rows, checksums, size = rows + more[0], checksums + more[1], size + more[2]
    return rows, checksums, size


def _totals_of_rows(rows: Sequence[_CheckedRow]) -> Totals:
    return len(rows), sum([row[-1] for row in rows]), sum([len(row[2] or b"") for row in rows])


def _commit_of(record: _Record) -> Commit:
    return Commit(record[1], record[2], utc(record[3]))


def _insert_rows(
    connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows of equal length; ``into`` is the statement up to ``VALUES``.

    SQLite gives up Python's lock once per statement, and gets it back only when the event loop lets
    go: a statement per row waits longer than it works (three times slower, measured).
    """
    done = 0
    for size in INSERT_ROWS:
        while len(rows) - done >= size:
            row = "(" + ",".join("?" * len(rows[0])) + ")"
            flat = [cell for row in rows[done : done + size] for cell in row]
            connection.execute(f"{into} VALUES {','.join([row] * size)}", flat)
            done += size


def _delete_keys(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Delete them, with as few statements as `_insert_rows` makes."""
    done = 0
    for size in INSERT_ROWS:
        while len(keys) - done >= size:
            some = keys[done : done + size]
            connection.execute(f"DELETE FROM keys WHERE key IN ({','.join('?' * size)})", some)
            done += size


# --- what a reader's thread sees -----------------------------------------------------------------


class Pages:
    """What a read-only connection reads; one group of reads shares one snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def begin(self) -> None:
        """Take the snapshot."""
        self._db.execute("BEGIN")

    def end(self) -> None:
        """Let go of the snapshot."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _revision(self) -> int:
        (revision,) = self._db.execute("SELECT revision FROM meta").fetchone()
        return int(revision)

    def _find(self, key: str) -> KeyValue | None:
        row = self._db.execute(_KEY + "WHERE key = ?", (key,)).fetchone()
        return schema.found_key(row) if row is not None else None

    def get(self, key: str, caller: Caller) -> KeyValue | None:
        """Return one key."""
        found = self._find(key)
        return None if found is None else next(rules.read_all([found], caller))

    def get_many(self, keys: Sequence[str], caller: Caller) -> Snapshot:
        """Return several keys at one revision."""
        found = (item for key in sorted(set(keys)) if (item := self._find(key)) is not None)
        return Snapshot(
            self._revision(), {item.key: item for item in rules.read_all(found, caller)}
        )

    def scan(self, prefix: str, after: str | None, limit: int, caller: Caller) -> Snapshot:
        """Return one page of keys under ``prefix`` behind ``after``; reads no more rows."""
        first = "key > ?" if after is not None and after >= prefix else "key >= ?"
        rows = self._db.execute(
            f"{_KEY} WHERE {first} AND key < ? ORDER BY key LIMIT ?",
            (max(prefix, after or ""), prefix + LAST_CODE_POINT, limit + 1),
        )
        page, more = rules.page_of(map(schema.found_key, rows), limit, caller)
        rows.close()
        return Snapshot(self._revision(), {item.key: item for item in page}, more=more)

    def history(self, cursor: int, prefix: str) -> tuple[int, list[WatchEvent | Compacted]]:
        """Return (new cursor, events under ``prefix``) for a stretch of commits after ``cursor``.

        The cursor stays where it is when there is nothing more.
        """
        (compacted,) = self._db.execute("SELECT compacted FROM meta").fetchone()
        if cursor < compacted:
            return compacted, [Compacted(cursor, compacted)]
        last = self._db.execute(
            "SELECT revision FROM history WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?",
            (cursor, HISTORY_ROWS - 1),
        ).fetchone()
        end = last[0] if last is not None else self._revision()
        found = self._db.execute(
            f"SELECT {schema.KEY_COLUMNS} FROM history"
            " WHERE revision > ? AND revision <= ? ORDER BY revision, key",
            (cursor, end),
        )
        rows: list[Row] = []
        size = 0
        for row in found:
            if size > READ_BYTES_MAX and row[0] != rows[-1][0]:
                end = rows[-1][0]
                found.close()
                break
            schema.check_row(row)
            rows.append(row[:-1])
            size += len(row[2] or b"")
        commits = (tuple(group) for _, group in groupby(rows, key=itemgetter(0)))
        return end, [event_of(mine) for rows in commits if (mine := rows_under(rows, prefix))]

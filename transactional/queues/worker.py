"""A worker's claim to be alive, and the jobs that rest on it.

A `Session` is one lease and one key that hangs on it.  Every job that is claimed names the session,
and every act on the job compares that its key is still there: when the lease ends, all its jobs can
be taken by others, in one step and without anybody sweeping.  The lease is renewed by a thread
where the engine allows that (`RenewsFromThreads`), so a handler that blocks the event loop for
longer than the lease does not lose its job; elsewhere by a task.

A session lasts as long as somebody works or waits under it, and is ended a while after that, so
`WorkQueue` needs no closing.  A session that was lost is never revived: the next claim opens
another, and what was claimed under the old one is `lost`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol, Self

from transactional.errors import InvalidRequestError, LeaseExpiredError, TransactionalError
from transactional.queues.job import (
    ClaimLostError,
    JobState,
    as_bytes,
    as_json,
    check_error,
    is_number,
)
from transactional.retry import settled_commit
from transactional.shield import shielded
from transactional.store import RenewsFromThreads
from transactional.tokens import nonce
from transactional.values import SCAN_KEYS_MAX, KeyValue, Put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transactional.queues.draft import Claimed, Draft
    from transactional.queues.job import Json, QueueLayout, Record
    from transactional.store import Store
    from transactional.values import Compare, Write

RETRY_IN_S_MAX: Final = 366 * 86_400.0
"""Longest pause before another attempt."""
RENEWALS_PER_LEASE: Final = 3
"""A session survives the loss of all renewals but one."""


Deed = Callable[["Draft", "Record"], Awaitable[object]]
"""What an act does on a draft with the record of the job, which is known to be the worker's."""


class ActsOnJobs(Protocol):
    """The queue, as its jobs know it."""

    def fence_of(self, job: str, session: str, token: int) -> tuple[Compare, ...]:
        """Compares that hold as long as the claim does."""
        ...

    def leave(self, job: Job) -> None:
        """Look after this job no more."""
        ...

    async def act(
        self,
        job: Job,
        kind: str,
        deed: Deed,
        *,
        bytes_more: int = 0,
        writes: Sequence[Write] = (),
        compares: Sequence[Compare] = (),
    ) -> None:
        """Do it in one commit that compares the claim."""
        ...


class Job:
    """A job that a worker has.  End it by `done`, `retry`, `fail` or `release`, once.

    Used as `async with job:` it is retried if the body raises.  A job that is dropped without a
    word (nothing refers to it any more) goes back to the queue, its attempt counted.
    """

    def __init__(
        self, queue: ActsOnJobs, session: str, alive: KeyValue | None, claimed: Claimed, token: int
    ) -> None:
        self._queue = queue
        self.claim = ClaimOf(session, alive, claimed, token)
        """What the claim rests on."""
        self.id: str = claimed.content.id
        self.payload: Json = claimed.content.payload
        self.priority: int = claimed.content.priority
        self.lane: str | None = claimed.content.lane
        self.worker: str = claimed.record.worker
        self.attempt: int = claimed.record.attempts
        """The number of this attempt, from 1."""
        self.checkpointed: Json = claimed.checkpointed
        """What the last `checkpoint`, of whichever worker, wrote down; None: nothing."""
        self.lost = asyncio.Event()
        """Set when the claim is over, or must be assumed to be, without our doing."""
        self.over_by = ""
        """What ended it: `done`, `retry`, `fail`, `release`; empty: nothing did."""

    @property
    def token(self) -> str:
        """Names the claim to another process: `WorkQueue.resume(id, token)`."""
        return f"{self.claim.session}:{self.claim.token}"

    def detach(self) -> str:
        """Leave the claim to another process, and return its token.

        It lasts as long as its lease, which nobody renews once this process has ended.
        """
        self._queue.leave(self)
        return self.token

    @property
    def fence(self) -> tuple[Compare, ...]:
        """Compares that hold as long as the claim does; put them into commits of your own."""
        return self._queue.fence_of(self.id, self.claim.session, self.claim.token)

    async def checkpoint(self, value: Json) -> None:
        """Write down how far you got: the next who claims the job finds it in `checkpointed`.

        Raises:
            ClaimLostError: the job is not ours any more; nothing was written.
            InvalidRequestError: it is not JSON, or too large; nothing was written.
        """
        kept = as_json(value, "checkpoint")
        data = as_bytes(kept)

        async def deed(draft: Draft, _: Record) -> None:
            draft.checkpoint(self.id, data)

        await self._queue.act(self, "checkpoint", deed, bytes_more=len(data))
        self.checkpointed = kept

    async def done(
        self,
        result: Json = None,
        *,
        writes: Sequence[Write] = (),
        compares: Sequence[Compare] = (),
    ) -> None:
        """End the job; `writes` of yours are made in the same commit, or neither is.

        Repeating it is harmless.

        Raises:
            ClaimLostError: the job is not ours any more; nothing was written.
            ConflictError: one of `compares` did not hold; nothing was written, the job is ours.
            InvalidRequestError: the result or a write is not fit; nothing was written.
            OutcomeUnknownError: the store stayed out of reach; say it again.
        """
        kept = as_json(result, "result")
        content, token = self.claim.claimed.content, self.claim.token
        checkpoint = self.claim.claimed.has_checkpoint or self.checkpointed is not None

        async def deed(draft: Draft, record: Record) -> None:
            over = record.over("done")
            over.result = kept
            await draft.over(content, over, JobState.DONE, token=token, checkpoint=checkpoint)

        size = len(as_bytes(kept))
        await self._queue.act(self, "done", deed, bytes_more=size, writes=writes, compares=compares)

    async def fail(self, error: str) -> None:
        """Park the job: no attempt can help, a person must look at it.

        Raises: as `done`.
        """
        check_error(error)
        if not error:
            raise InvalidRequestError("a job fails for a reason")
        content, token = self.claim.claimed.content, self.claim.token

        async def deed(draft: Draft, record: Record) -> None:
            over = record.over("failed", error)
            await draft.over(content, over, JobState.PARKED, token=token)

        await self._queue.act(self, "fail", deed, bytes_more=2 * len(error))

    async def retry(self, error: str = "", *, in_s: float | timedelta = 0.0) -> None:
        """Let the job be tried again, in so many seconds; it is parked after the last attempt.

        Raises: as `done`.
        """
        check_error(error)
        pause_s = in_s.total_seconds() if isinstance(in_s, timedelta) else in_s
        if not is_number(pause_s) or not 0 <= pause_s <= RETRY_IN_S_MAX:  # NaN fails both
            raise InvalidRequestError(f"a retry is in 0 to {RETRY_IN_S_MAX:g} s, not {pause_s!r}")
        content = self.claim.claimed.content

        async def deed(draft: Draft, record: Record) -> None:
            over = record.over("retry", error)
            await draft.give_back(content, over, in_us=int(pause_s * 1e6))

        await self._queue.act(self, "retry", deed, bytes_more=2 * len(error))

    async def release(self) -> None:
        """Give the job back as if it had not been claimed; the attempt is not counted.

        Raises: as `done`.
        """
        content = self.claim.claimed.content

        async def deed(draft: Draft, record: Record) -> None:
            over = record.over("released")
            over.attempts -= 1
            await draft.give_back(content, over)

        await self._queue.act(self, "release", deed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or self.over_by:
            return
        with suppress(TransactionalError):  # the error of the body is the one to be seen
            if isinstance(error, Exception):
                await self.retry(f"{type(error).__name__}: {error}")
            else:
                await shielded(self.release())


@dataclass(frozen=True, slots=True)
class ClaimOf:
    """What a claim rests on, for the queue that made it."""

    session: str
    alive: KeyValue | None
    """The session's key as it was written; None: the claim was made elsewhere."""
    claimed: Claimed
    token: int
    """The revision of the commit that claimed it: the fencing token."""


class Session:
    """One lease of one worker process; made by `open`."""

    def __init__(
        self, store: Store, layout: QueueLayout, name: str, lease: str, lease_s: float
    ) -> None:
        self._store = store
        self._layout = layout
        self.name = name
        self.lease_s = lease_s
        self._lease = lease
        self._good_until_s = store.elapsed_s() + lease_s
        self._jobs: dict[str, weakref.ref[Job]] = {}
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._idle_since_s: float | None = None
        self.key: KeyValue | None = None
        self.waiting = 0
        """How many wait for a job under it."""
        self.lost = False

    @classmethod
    async def open(cls, store: Store, layout: QueueLayout, lease_s: float) -> Session:
        """Take a lease and write the session's key."""
        name = nonce()
        begun_s = store.elapsed_s()
        lease = (await store.lease(lease_s)).id
        session = cls(store, layout, name, lease, lease_s)
        session._good_until_s = begun_s + lease_s
        put = Put(layout.worker(name), b"{}", lease)
        try:
            commit = await settled_commit(store, [], [put])
        except LeaseExpiredError as error:
            raise ClaimLostError("", "", name) from error
        at = commit.revision
        session.key = KeyValue(put.key, put.value, at, at, lease)
        session._task = asyncio.create_task(session._attend(), name=f"queue session {name}")
        if isinstance(store, RenewsFromThreads):
            threading.Thread(
                target=session._renew_from_thread, name=f"queue lease {name}", daemon=True
            ).start()
        return session

    @property
    def jobs(self) -> tuple[str, ...]:
        """Ids of the jobs that somebody works on under it."""
        return tuple(job for job, ref in self._jobs.items() if ref() is not None)

    def take(self, job: Job, dropped: Callable[[str, int], None]) -> None:
        """A job was claimed under it; `dropped` is called in the loop if nobody has it any more."""
        job_id, token, loop = job.id, job.claim.token, self._loop

        def collected(ref: object) -> None:
            if self._jobs.get(job_id) is ref:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(dropped, job_id, token)

        self._jobs[job_id] = weakref.ref(job, collected)
        if self.lost:  # while the claim was on its way: those who had jobs then were told
            job.lost.set()

    def let_go(self, job: Job) -> None:
        """A job is over, or another's."""
        self._jobs.pop(job.id, None)

    async def close(self) -> None:
        """End the lease: what was not ended can be taken by others."""
        self._stop.set()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if not self.lost:
            self.lost = True
            self._tell_jobs()
            with suppress(TransactionalError):
                await self._store.revoke(self._lease)

    # --- renewing -------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Renew, notice what was lost, end when nobody needs it."""
        threaded = isinstance(self._store, RenewsFromThreads)
        while not self.lost:
            await asyncio.sleep(self.lease_s / RENEWALS_PER_LEASE)
            if not threaded:
                await self._renew()
            left_s = self._good_until_s - self._store.elapsed_s()
            if left_s <= 0:
                self._lose()
                return
            with suppress(TransactionalError, TimeoutError):  # a store that hangs is no excuse
                async with asyncio.timeout(left_s):
                    await self._look_at_jobs()
            if self._unused():
                await self.close()
                return

    def _unused(self) -> bool:
        now_s = self._store.elapsed_s()
        if self.waiting or self.jobs:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        return self._idle_since_s is not None and now_s - self._idle_since_s > self.lease_s

    async def _renew(self) -> None:
        now_s = self._store.elapsed_s()
        try:
            async with asyncio.timeout(max(0.05, self._good_until_s - now_s)):
                await self._store.renew(self._lease)
        except LeaseExpiredError:
            self._good_until_s = 0.0
        except (TransactionalError, TimeoutError):
            return  # as long as there is time
        else:
            self._good_until_s = now_s + self.lease_s

    def _renew_from_thread(self) -> None:
        store = self._store
        assert isinstance(store, RenewsFromThreads), "else a task does it"
        while not self._stop.wait(self.lease_s / RENEWALS_PER_LEASE):
            now_s = store.elapsed_s()
            try:
                store.renew_from_thread(self._lease)
            except LeaseExpiredError:
                self._good_until_s = 0.0
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._lose)
                return
            except TransactionalError:
                if self._loop.is_closed():
                    return
            else:
                self._good_until_s = now_s + self.lease_s

    def abandon(self) -> None:
        """Renew it no more: what rests on it goes to others when the lease is over."""
        self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._stop.set()
        self._tell_jobs()

    def _tell_jobs(self) -> None:
        for ref in self._jobs.values():
            job = ref()
            if job is not None:
                job.lost.set()
        self._jobs.clear()

    async def _look_at_jobs(self) -> None:
        """Tell the jobs that somebody took out of the queue, or another's."""
        jobs = [job for ref in self._jobs.values() if (job := ref()) is not None]
        for first in range(0, len(jobs), SCAN_KEYS_MAX):
            part = jobs[first : first + SCAN_KEYS_MAX]
            found = await self._store.get_many([self._layout.claimed(job.id) for job in part])
            for job in part:
                if found.revision_of(self._layout.claimed(job.id)) != job.claim.token:
                    if not job.over_by:
                        job.lost.set()
                    self.let_go(job)

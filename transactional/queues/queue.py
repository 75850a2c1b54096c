"""The work queue: the next ready piece of work, to exactly one worker.

Theory of operation
-------------------
A job's place in the store says its state (`job`), every move of a job is part of one commit that
compares the place that was read (`draft`), and a worker's jobs rest on one lease (`worker`).  So
two workers cannot have the same job, a worker who is gone loses his jobs to whoever claims next,
and what comes with the end of a job is written with it or not at all::

    put --> waiting --> ready --> claimed --> done
               |          ^         |  |
               |          +- retry -+  +----> parked --> requeue, skip
               +-----------------------------> cancelled

Order.  The next job is the ready one with the highest priority, and among those the one that was
put first, by business time.  A lone claimant gets exactly that one.  Claimants of several processes
who meet at the head would refuse each other's commits, so processes that met share it: each looks
at a wider stretch, `WINDOW_MAX` jobs at most, and takes those that fall to it by their ids.  Their
shares are dealt anew each second; for that long a process claims from its share as it saw it, and
need not look before each claim, for what it takes is compared anyway.  Nothing is found missing by
that: only who looked says that there is no job.  A process that has met nobody for a while takes
what is first again.

All that one process asks of the queue at the same time shares commits (`commit_queue`), claims and
ends of jobs alike.  A request whose own compares fail is refused alone; one whose writes make the
commit impossible is found by judging each alone.

Who waits for a job waits in his process, first come first served; one watch, of the keys that make
a job ready, wakes one of them, and he who finds more than he takes wakes the next.

    queue = WorkQueue(store, "tickets")
    await queue.put("T-17", {"title": "refund"}, priority=5, after=["T-3"])
    async for job in queue.claims("ann"):
        await job.done(await work_on(job.payload))
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from transactional import rules
from transactional.clock import BusinessClock, microseconds
from transactional.commit_queue import CommitQueue
from transactional.errors import (
    ConflictError,
    InvalidRequestError,
    OutcomeUnknownError,
    TransactionalError,
    UnavailableError,
)
from transactional.queues.draft import TURN_US, WINDOW_MAX, CommitFull, Draft, Looked, Place, Share
from transactional.queues.job import (
    AFTER_MAX,
    ENDED,
    PRIORITY_MAX,
    ROOT,
    ClaimLostError,
    Content,
    DependencyCycleError,
    JobInfo,
    JobState,
    QueueConfig,
    QueueLayout,
    as_json,
    as_us,
    check_error,
    check_name,
    decode_config,
    decode_content,
    decode_record,
    info_of,
    is_number,
)
from transactional.queues.worker import Deed, Job, Session
from transactional.retry import Decision, decided, settled_commit
from transactional.shield import shielded
from transactional.store import get_all, scan_names
from transactional.values import (
    Compacted,
    Exists,
    KeyValue,
    Put,
    Revision,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from transactional.commit_queue import Group
    from transactional.queues.draft import Kept
    from transactional.queues.job import Json
    from transactional.store import Store
    from transactional.values import Compare, WatchEvent, Write

LEASE_S: Final = 30.0
"""How long a worker who fell silent keeps his jobs."""
COUNTED_MAX: Final = 10_000
"""Up to so many jobs of a state are counted exactly."""
CLAIMED_AT_ONCE_MAX: Final = 32
"""Most jobs of one claim."""
ORPHANS_EVERY_S: Final = 1.0
"""How often claims look for jobs of workers who are gone while others are ready."""
FORGET_EVERY_S: Final = 10.0
"""How often it is looked whether ended jobs are old enough to be removed."""
LINGER_S: Final = 5.0
"""How long the queue is watched on when nobody waits any more."""
LOOK_AGAIN_S: Final = 10.0
"""Who waits looks again after that, whatever he was told."""
WITHOUT_WATCH_S: Final = 0.25
"""Who waits looks again after that, on an engine that cannot be watched."""
ALONE_AFTER: Final = 64
"""After so many groups of claims that met nobody a process takes what is first again."""
LANES_MAX: Final = 1000
"""Most lanes with a limit of their own."""
LANE_MAX: Final = 1000
"""Highest limit of a lane: whose its places are lies in one value."""
ATTEMPTS_MAX: Final = 1_000_000
"""Highest `attempts_max`."""
KEEP_S_MAX: Final = 100 * 366 * 86_400.0
"""Longest `keep_ended_s`."""
ENDS: Final = frozenset({"done", "fail"})
"""Acts after which the job is over: who repeats one is known by his token."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Depth:
    """How many jobs are in a state; `more`: than that."""

    count: int
    more: bool = False

    def __str__(self) -> str:
        return f"more than {self.count}" if self.more else str(self.count)


@dataclass(frozen=True, slots=True)
class JobChange:
    """A job has a new state, by the commit of that revision."""

    id: str
    state: JobState
    worker: str | None
    revision: int


@dataclass(slots=True)
class Request:
    """One request on its way: how it is judged on a draft, and what becomes of the judgement.

    `keys` are read together with those of others, `known` are hints that save the reading: keys as
    they stood when the caller last saw them.  `guards` are the caller's own compares.
    """

    judge: Callable[[Draft], Awaitable[Any]]
    finish: Callable[[Any, int], object]
    answer: asyncio.Future[Any]
    keys: tuple[str, ...] = ()
    known: tuple[KeyValue | str, ...] = ()
    guards: tuple[Compare, ...] = ()
    operations: int = 4
    bytes: int = 0
    claims: Session | None = None
    wanted: int = 0
    """How many jobs it claims, under which session."""
    look: bool = False
    """Whether it sees to the jobs of workers who are gone."""
    timely: bool = False
    """Whether it needs the authority's time exactly, and not as far as it is known."""

    @property
    def alone(self) -> bool:
        """Each may share a commit."""
        return False


@dataclass(slots=True)
class _Round:
    """What one judgement of a group came to."""

    draft: Draft
    judged: list[tuple[Request, object]]
    refused: list[tuple[Request, Exception]]
    postponed: list[Request]


class WorkQueue:
    """One queue of jobs; any number of processes may put and claim.

    `lanes`, `attempts_max` and `keep_ended_s` are of the queue, not of this object: they lie in the
    store, all who use it follow them, and who passes one changes it for all.

    worker: who claims, where a claim does not say.
    lanes: how many jobs of a lane run at once, `{"acme": 1}`; `*` is for lanes that are not named.
    A change holds for jobs that become ready from then on.  None: as before, at first no limits.
    attempts_max: after so many attempts that did not end it a job is parked (5 at first).
    keep_ended_s: so long are jobs kept that were done or cancelled (7 days at first); parked ones
    are kept until somebody deals with them.

    What a job costs: put, claim and end share commits with others; alone each is one commit and one
    or two reads, at any number of jobs.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        worker: str | None = None,
        lanes: Mapping[str, int] | None = None,
        attempts_max: int | None = None,
        keep_ended_s: float | None = None,
    ) -> None:
        self.name = name
        self._worker = worker
        self._layout = QueueLayout(name)
        self._store = store
        self._wanted = _wanted(lanes, attempts_max, keep_ended_s)
        self._config: tuple[QueueConfig, int] | None = None
        self._configuring = asyncio.Lock()
        self._dice = random.Random()  # noqa: S311 it spreads claimants, no secret
        self._clock = BusinessClock(store)
        self._sessions: dict[float, Session] = {}
        self._opening = asyncio.Lock()
        self._bell = _Bell(store, self._layout)
        self._background: set[asyncio.Task[None]] = set()
        self._share: Share | None = None
        self._kept: Kept | None = None
        self._pace = _Pace()
        self._crowded = False
        self._undisturbed = 0
        self._looked_at_s = -math.inf
        self._forgot_at_s = store.elapsed_s()
        self._queue = CommitQueue[Request](
            self._serve,
            what=f"requests to queue {name!r}",
            operations_max=store.capabilities.max_operations,
            bytes_max=store.capabilities.commit_bytes_max // 2,
        )

    # --- putting --------------------------------------------------------------------------------

    async def put(
        self,
        id: str,  # noqa: A002 what everybody calls it
        payload: Json = None,
        *,
        priority: int = 0,
        after: Sequence[str] = (),
        not_before: datetime | None = None,
        lane: str | None = None,
        expected: bool = False,
        compares: Sequence[Compare] = (),
        fence: Sequence[Compare] = (),
    ) -> JobInfo:
        """Put a job; putting the same one again changes nothing and tells how it stands.

        It waits until all of `after` are done and `not_before` has come.  A job of `after` that
        there is not yet is refused, unless `expected`.  If one of them is, or gets, parked or
        cancelled, this one is parked.

        Raises:
            JobExistsError: the id belongs to a job with other content.
            UnknownJobError: one of `after` is not there, or was removed long ago.
            DependencyCycleError: it would wait for itself.
            ConflictError: one of `compares`, or of a `fence`, did not hold.
            InvalidRequestError: a name, the payload or a number is not fit.  Nothing was written.
        """
        check_name(id, "the id of a job")
        if not isinstance(after, list | tuple) or len(after) > AFTER_MAX:
            raise InvalidRequestError(f"after is a list of at most {AFTER_MAX} ids")
        for other in after:
            check_name(other, "the id of a job")
        if lane is not None:
            check_name(lane, "the name of a lane")
        if type(priority) is not int or not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
            raise InvalidRequestError(f"a priority is a whole number up to {PRIORITY_MAX}")
        value = as_json(payload, "payload")
        not_before_us = max(0, as_us(not_before)) if not_before is not None else 0
        waits_for = tuple(dict.fromkeys(after))
        if id in waits_for:
            raise DependencyCycleError(self.name, [id, id])
        _check_brought(compares, ())
        _check_brought(fence, ())
        layout = self._layout

        async def judge(draft: Draft) -> Place:
            asked = Content(id, value, priority, lane, waits_for, not_before_us)
            draft.give((*compares, *fence), ())
            return await draft.put(asked, expected=expected)

        request = self._request(judge, self._info)
        request.keys = (layout.job(id), layout.ended(id), layout.followed(id))
        for other in waits_for:
            request.keys += (layout.job(other), layout.ended(other))
        if lane is not None:
            request.keys += (layout.lane(lane),)
        request.guards = (*compares, *fence)
        request.timely = True
        request.operations = 4 + 3 * len(waits_for) + len(request.guards)
        request.bytes = len(json.dumps(value)) + 200
        info: JobInfo = await self._place(request)
        return info

    # --- claiming -------------------------------------------------------------------------------

    async def claims(
        self, worker: str | None = None, *, lease_s: float = LEASE_S, n: int = 1
    ) -> AsyncIterator[Job]:
        """Claim jobs one after the other, for ever; wait while there is none.

        `n` are claimed at a time, for short jobs.  Whoever breaks off gives back what he was not
        handed yet.  Errors as `claim`; after an UnavailableError iterate anew.
        """
        while True:
            jobs = await self.claim(worker, n=n, lease_s=lease_s, wait_s=None)
            try:
                while jobs:
                    yield jobs.pop(0)
            finally:
                await shielded(self._release_all(jobs))

    @staticmethod
    async def _release_all(jobs: Sequence[Job]) -> None:
        """Give back what nobody was handed: it was not tried."""
        for job in jobs:
            with suppress(TransactionalError):  # then it goes with the lease, or as dropped
                await job.release()

    async def claim(
        self,
        worker: str | None = None,
        *,
        n: int = 1,
        lease_s: float = LEASE_S,
        wait_s: float | None = 0.0,
    ) -> list[Job]:
        """Claim up to `n` jobs; wait for the first up to `wait_s` seconds, None: for ever.

        `lease_s` is how long a worker may fall silent; a process has one lease for all its workers
        with the same `lease_s`, renewed while it lives.

        Raises:
            UnavailableError: the store stayed out of reach; nothing was claimed.
            OutcomeUnknownError: it did so after the claim was sent; what was claimed goes back.
            InvalidRequestError: a name or a number is not fit.
        """
        worker = self._named(worker)
        if type(n) is not int or not 1 <= n <= CLAIMED_AT_ONCE_MAX:
            raise InvalidRequestError(f"a claim is of 1 to {CLAIMED_AT_ONCE_MAX} jobs, not {n!r}")
        rules.check_ttl(lease_s)
        if wait_s is not None and not (is_number(wait_s) and wait_s >= 0):  # NaN included
            raise InvalidRequestError(f"wait_s is a number that is not negative: {wait_s!r}")
        end_s = math.inf if wait_s is None else self._store.elapsed_s() + wait_s
        while True:
            session = await self._session(lease_s)
            session.waiting += 1
            try:
                looked, jobs = await self._claim(worker, session, n)
                if jobs:
                    if looked.more:
                        self._bell.ring()
                    return jobs
                left_s = end_s - self._store.elapsed_s()
                if not looked.again:
                    if left_s <= 0:
                        return []
                    await self._bell.wait(looked.revision, looked.next_us, left_s)
            except ClaimLostError:
                session.abandon()  # it is over: with another one
            except BaseException:
                self._bell.ring()  # it may have been us who was woken: the next one looks
                raise
            finally:
                session.waiting -= 1

    def _named(self, worker: str | None) -> str:
        """Who claims: as the call says, or else this object."""
        named = self._worker if worker is None else worker
        if named is None:
            raise InvalidRequestError("a claim names its worker: claim('ann'), WorkQueue(worker=)")
        check_name(named, "the name of a worker")
        return named

    async def _claim(self, worker: str, session: Session, count: int) -> tuple[Looked, list[Job]]:
        now_s = self._store.elapsed_s()
        look = now_s - self._looked_at_s > ORPHANS_EVERY_S

        async def judge(draft: Draft) -> Looked:
            return await draft.claim(count, worker, session.name, look=look)

        def finish(looked: Looked, revision: int) -> tuple[Looked, list[Job]]:
            if look:
                self._looked_at_s = now_s
            jobs = [
                Job(self, session.name, session.key, claimed, revision) for claimed in looked.jobs
            ]
            self._pace.note(len(jobs), self._store.elapsed_s())
            for job in jobs:
                session.take(job, partial(self._dropped, session.name))
            return looked, jobs

        request = self._request(judge, finish)
        assert session.key is not None, "it was opened"
        request.known, request.keys = (session.key,), (session.key.key,)
        request.operations = 2 * count
        request.claims, request.wanted, request.look = session, count, look
        found: tuple[Looked, list[Job]] = await self._place(request)
        return found

    async def _session(self, lease_s: float) -> Session:
        session = self._sessions.get(lease_s)
        if session is not None and not session.lost:
            return session
        async with self._opening:
            session = self._sessions.get(lease_s)
            if session is None or session.lost:
                session = self._sessions[lease_s] = await Session.open(
                    self._store, self._layout, lease_s
                )
            return session

    def _dropped(self, session: str, job: str, token: int) -> None:
        """A job was claimed and nobody has it any more: give it back."""
        self._start(partial(self._give_back, session, job, token))

    async def _give_back(self, session: str, job: str, token: int) -> None:
        async def judge(draft: Draft) -> object:
            record = await draft.held(job, session, token, "")
            content = await draft.content(job)
            over = record.over("dropped", "the worker let go of it without a word")
            return await draft.give_back(content, over)

        try:
            await self._place(self._request(judge, lambda judged, _: judged))
        except ClaimLostError:
            pass
        except (UnavailableError, OutcomeUnknownError):
            for mine in self._sessions.values():
                if mine.name == session:
                    mine.abandon()  # else it would be with nobody for as long as we live
            raise

    async def resume(self, id: str, token: str) -> Job:  # noqa: A002 as everywhere
        """The job that was claimed under this token, perhaps by another process.

        Its lease is not renewed here.

        Raises:
            ClaimLostError: the claim is over.  UnknownJobError: there is no such job.
        """
        check_name(id, "the id of a job")
        check_name(token, "the token of a claim")
        session, _, revision = token.rpartition(":")
        if not session or not revision.isdecimal() or len(revision) > 20:
            raise InvalidRequestError(f"{token!r} is not the token of a claim")

        async def judge(draft: Draft) -> Looked:
            return await draft.resumed(id, session, int(revision))

        def finish(looked: Looked, _: int) -> Job:
            return Job(self, session, None, looked.jobs[0], int(revision))

        job: Job = await self._place(self._request(judge, finish))
        return job

    # --- what a worker does with a job ----------------------------------------------------------

    def fence_of(self, job: str, session: str, token: int) -> tuple[Compare, ...]:
        """Compares that hold as long as the claim does."""
        layout = self._layout
        return Revision(layout.claimed(job), token), Exists(layout.worker(session))

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
        """Do what a method of `Job` says, in one commit that compares the claim."""
        if job.over_by:
            if job.over_by == kind:
                return
            raise ClaimLostError(self.name, job.id, job.worker)
        claim = job.claim

        async def judge(draft: Draft) -> None:
            try:
                record = await draft.held(
                    job.id, claim.session, claim.token, job.worker, claim.claimed.record
                )
            except ClaimLostError:
                if kind in ENDS and await draft.ended_before(job.id, claim.token):
                    return  # the answer to the first one was lost
                raise
            draft.give(compares, writes)
            await deed(draft, record)

        request = self._request(judge, lambda judged, _: judged)
        layout = self._layout
        request.known = self._known_of(job)
        request.keys = (layout.claimed(job.id), layout.worker(claim.session))
        request.keys += (layout.followed(job.id),)
        if job.lane is not None:
            request.keys += (layout.lane(job.lane),)
        _check_brought(compares, writes)
        request.guards = tuple(compares)
        request.operations = 3 + 2 * (job.lane is not None) + max(len(writes), len(compares))
        request.bytes = 400 + bytes_more
        request.bytes += sum(len(write.value) for write in writes if isinstance(write, Put))
        try:
            await self._place(request)
        except ClaimLostError:
            job.lost.set()
            self.leave(job)
            raise
        if kind != "checkpoint":
            job.over_by = kind
            self.leave(job)

    def _known_of(self, job: Job) -> tuple[KeyValue | str, ...]:
        """What the draft need not read, if it has not moved since the claim."""
        claim, layout = job.claim, self._layout
        if claim.alive is None:
            return ()
        value = claim.claimed.value
        claimed = KeyValue(layout.claimed(job.id), value, claim.token, claim.token)
        return (claimed, claim.alive, claim.claimed.followed or layout.followed(job.id))

    def leave(self, job: Job) -> None:
        """Look after this job no more: it is over, or in other hands."""
        for session in self._sessions.values():
            if session.name == job.claim.session:
                session.let_go(job)

    # --- what people do -------------------------------------------------------------------------

    async def cancel(self, id: str, reason: str = "") -> JobInfo:  # noqa: A002 as everywhere
        """Take a job out of the queue; who has it loses it, who waits for it is parked.

        Raises:
            UnknownJobError: there is no such job.  JobStateError: it is done.
        """
        check_error(reason)
        why = reason or "cancelled by a person"
        return await self._intervene(id, lambda draft: draft.cancel(id, why))

    async def requeue(self, id: str) -> JobInfo:  # noqa: A002 as everywhere
        """Let a parked or cancelled job begin anew, with all its attempts.

        What was parked because of it stays parked until it is requeued, too.

        Raises:
            UnknownJobError: there is no such job.  JobStateError: it is neither, or what it waits
            for is parked or cancelled.
        """
        return await self._intervene(id, lambda draft: draft.requeue(id))

    async def skip(self, id: str, result: Json = None) -> JobInfo:  # noqa: A002 as everywhere
        """Say that a parked job is dealt with: it is done, and who waits for it goes on.

        Raises:
            UnknownJobError: there is no such job.  JobStateError: it is not parked.
        """
        value = as_json(result, "result")
        return await self._intervene(id, lambda draft: draft.skip(id, value))

    async def _intervene(self, job: str, judge: Callable[[Draft], Awaitable[Place]]) -> JobInfo:
        check_name(job, "the id of a job")
        request = self._request(judge, self._info)
        request.keys = (self._layout.job(job),)
        request.operations = 8
        info: JobInfo = await self._place(request)
        return info

    # --- looking --------------------------------------------------------------------------------

    async def get(self, id: str) -> JobInfo | None:  # noqa: A002 as everywhere
        """The job as it stands, None if there is none, or not any more."""
        check_name(id, "the id of a job")

        draft = await self._open_draft(())
        place = await draft.find(id)
        if place is None:
            return None
        return self._info(place, 0, await draft.checkpointed(id))

    async def jobs(self, state: JobState | str) -> AsyncIterator[JobInfo]:
        """The jobs in one state: ready ones as they will be claimed, ended ones by time of that.

        Each page of 1000 is read as it comes; what moves meanwhile may be seen twice or not at all.
        """
        layout, state = self._layout, _state_of(state)
        match state:
            case JobState.READY:
                prefixes = [layout.all_ready, layout.all_queued]
            case JobState.WAITING:
                prefixes = [layout.all_waiting]
            case JobState.CLAIMED:
                prefixes = [layout.all_claimed]
            case ended:
                prefixes = [layout.all_kept_as(ended)]
        for prefix in prefixes:
            after: str | None = None
            while True:
                page = await self._store.scan(prefix, after=after)
                for info in await self._infos(page.items, state):
                    yield info
                if not page.more:
                    break
                after = max(page.items)

    async def _infos(self, items: Mapping[str, KeyValue], state: JobState) -> list[JobInfo]:
        layout = self._layout
        ids = [layout.id_of(key) for key in items]
        contents = await get_all(self._store, [layout.job(job) for job in ids])
        records: dict[str, KeyValue] = dict(zip(ids, items.values(), strict=True))
        if state in ENDED:
            ended = await get_all(self._store, [layout.ended(job) for job in ids])
            records = {job: ended[layout.ended(job)] for job in ids if layout.ended(job) in ended}
        told: list[JobInfo] = []
        for job in ids:
            content = contents.get(layout.job(job))
            place = records.get(job)
            if content is None or place is None:
                continue  # it has moved on
            record = decode_record(place.value)
            if not record.state or record.state == state.value:
                at = place.revision
                told.append(info_of(decode_content(job, content.value), state, record, None, at))
        return told

    async def depths(self) -> dict[JobState, Depth]:
        """How many jobs are in each state; exact up to `COUNTED_MAX`, then "more than"."""
        layout = self._layout
        prefixes = {
            JobState.WAITING: (layout.all_waiting,),
            JobState.READY: (layout.all_ready, layout.all_queued),
            JobState.CLAIMED: (layout.all_claimed,),
        } | {state: (layout.all_kept_as(state),) for state in ENDED}
        return {state: await self._count(*prefixes[state]) for state in JobState}

    async def _count(self, *prefixes: str) -> Depth:
        count = 0
        for prefix in prefixes:
            after: str | None = None
            while True:
                page = await self._store.scan(prefix, after=after)
                count += len(page.items)
                if count > COUNTED_MAX:
                    return Depth(COUNTED_MAX, more=True)
                if not page.more:
                    break
                after = max(page.items)
        return Depth(count)

    async def watch(self, *, after: int | None = None) -> AsyncIterator[JobChange | Compacted]:
        """Yield each change of a job's state behind revision `after` (None: from now on), in order.

        A `Compacted` says that changes are forgotten: look with `jobs`, then go on.
        """
        layout = self._layout
        places = {
            layout.all_ready: JobState.READY,
            layout.all_queued: JobState.READY,
            layout.all_waiting: JobState.WAITING,
            layout.all_claimed: JobState.CLAIMED,
            layout.ended(""): JobState.DONE,
        }
        async with aclosing(self._store.watch(layout.prefix, after=after)) as events:
            async for event in events:
                if isinstance(event, Compacted):
                    yield event
                    continue
                for change in event.changes:
                    for prefix, state in places.items():
                        if change.current is not None and change.key.startswith(prefix):
                            record = decode_record(change.current.value)
                            if not record.content:
                                yield JobChange(
                                    layout.id_of(change.key),
                                    JobState(record.state or state.value),
                                    record.worker or None,
                                    event.revision,
                                )

    async def config(self) -> QueueConfig:
        """What all who use the queue agree on, as this object last saw it."""
        return (await self._configured())[0]

    async def close(self) -> None:
        """Give back at once what is claimed here; nothing needs it, leases end by themselves."""
        for session in list(self._sessions.values()):
            await session.close()
        self._sessions.clear()
        await self._bell.close()
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- how a group is served ------------------------------------------------------------------

    def _request(
        self, judge: Callable[[Draft], Awaitable[Any]], finish: Callable[[Any, int], object]
    ) -> Request:
        return Request(judge, finish, asyncio.get_running_loop().create_future())

    async def _place(self, request: Request) -> Any:
        return await self._queue.put(request)

    def _start(self, work: Callable[[], Awaitable[object]]) -> None:
        task = asyncio.get_running_loop().create_task(self._logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except TransactionalError as error:
            log.warning("queue %s: %s", self.name, error)

    async def _serve(self, group: Group[Request]) -> None:
        async def decide(conflict: ConflictError | None) -> Decision[_Round]:
            if conflict is not None:
                self._met(conflict, group)
            judged = await self._judge(group.waiting, anew=conflict is not None)
            draft = judged.draft
            if draft.writes():
                group.propose([request for request, _ in judged.judged])
            return Decision(judged, draft.compares(), draft.writes())

        try:
            judged, revision = await decided(self._store, decide)
        except OutcomeUnknownError:
            for request in group.doubted():  # what they may have claimed is not known to them
                if request.claims is not None:
                    request.claims.abandon()
            raise
        self._answer(group, judged, revision)

    def _met(self, conflict: ConflictError, group: Group[Request]) -> None:
        """Learn from a conflict; who brought the compare that failed is refused."""
        failed = {compare.key for compare in conflict.failed if isinstance(compare, Revision)}
        if self._layout.config in failed:
            self._config = None
        if any(
            key.startswith((self._layout.all_ready, self._layout.all_claimed)) for key in failed
        ):
            self._crowded, self._undisturbed = True, 0
        for request in group.waiting:
            if any(compare in request.guards for compare in conflict.failed):
                group.refuse(request, conflict)

    async def _judge(self, requests: Sequence[Request], *, anew: bool) -> _Round:
        """Judge one after the other; `anew`: what is remembered is not to be relied on."""
        kept = self._kept
        if anew or any(request.wanted for request in requests):
            self._kept = None  # this draft chooses among them, and may not come to be
        draft = await self._open_draft(() if anew else requests)
        await self._read_for(draft, requests, None if anew else kept)
        judged = _Round(draft, [], [], [])
        for request in requests:
            before = draft.savepoint()
            try:
                result = await request.judge(draft)
                draft.check_room()
            except CommitFull:
                draft.back_to(before)
                if not draft.writes() and not judged.judged:
                    raise InvalidRequestError("this is too much for one commit") from None
                judged.postponed.append(request)
            except (UnavailableError, OutcomeUnknownError):
                raise
            except Exception as error:  # noqa: BLE001 handed to the one whose it is
                draft.back_to(before)
                judged.refused.append((request, error))
            else:
                judged.judged.append((request, result))
        return judged

    async def _open_draft(self, requests: Iterable[Request]) -> Draft:
        config = await self._configured()
        await self._clock.refresh()
        known = [item for request in requests for item in request.known]
        now_us = microseconds(self._clock.now())
        return Draft(self._store, self._layout, config=config, now_us=now_us, known=known)

    async def _read_for(self, draft: Draft, requests: Sequence[Request], kept: Kept | None) -> None:
        """Read together what all of them will look at."""
        wanted = sum(request.wanted for request in requests)
        share = await self._fair_share(draft.now_us // TURN_US, requests) if wanted else None
        keys = [key for request in requests for key in request.keys]
        reads: list[Awaitable[object]] = []
        if keys:
            reads.append(draft.load(keys))
        if any(request.timely for request in requests):
            reads.append(self._tell_time(draft))
        if share is not None:
            look = any(request.look for request in requests)
            if kept is not None and not look and kept.serves(wanted, share, draft.now_us):
                draft.look_at(kept)
            else:
                ahead = min(self._pace.of(self._store.elapsed_s()), WINDOW_MAX // share.of)
                reads.append(draft.look_ahead(wanted, share, ahead, self._dice))
        await asyncio.gather(*reads)

    async def _fair_share(self, turn: int, requests: Sequence[Request]) -> Share:
        """Which of how many claimants we are, by the sessions that are alive."""
        if not self._crowded:
            return Share(turn)
        if self._share is None or self._share.turn != turn:
            sessions = (await self._store.scan(self._layout.all_workers)).items
            mine = next(r.claims for r in requests if r.claims is not None)
            key = self._layout.worker(mine.name)
            self._share = Share(turn)
            if key in sessions:
                self._share = Share(turn, sorted(sessions).index(key), len(sessions))
        return self._share

    async def _tell_time(self, draft: Draft) -> None:
        """Ask for the time; what is known of it otherwise lags by an answer's way."""
        draft.put_us = microseconds(await self._store.now())
        draft.now_us = max(draft.now_us, draft.put_us)

    def _answer(self, group: Group[Request], judged: _Round, revision: int) -> None:
        for request, error in judged.refused:
            group.refuse(request, error)
        claimed = False
        for request, result in judged.judged:
            group.answer(request, request.finish(result, revision))
            claimed = claimed or request.claims is not None
        for request in judged.postponed:
            group.postpone(request)
        if judged.draft.made_ready():
            self._kept = None
        elif claimed and self._crowded:
            self._kept = judged.draft.left_over()
        if claimed and self._crowded:
            self._undisturbed += 1
            if self._undisturbed >= ALONE_AFTER:
                self._crowded, self._kept, self._undisturbed = False, None, 0
        for job in judged.draft.told:
            self._start(partial(self._tell, job))
        if revision and self._store.elapsed_s() - self._forgot_at_s > FORGET_EVERY_S:
            self._forgot_at_s = self._store.elapsed_s()
            self._start(self.forget)

    async def _tell(self, job: str) -> None:
        """Tell the followers of a job that it ended."""
        more = True
        while more:
            request = self._request(lambda draft: draft.tell(job), lambda judged, _: judged)
            request.operations = self._store.capabilities.max_operations // 2
            more = await self._place(request)

    async def forget(self) -> None:
        """Remove jobs that ended longer than `keep_ended_s` ago; done in passing now and then."""
        more = True
        while more:
            request = self._request(lambda draft: draft.forget(), lambda judged, _: judged)
            request.operations = self._store.capabilities.max_operations // 2
            more = await self._place(request)

    def _info(self, place: Place, revision: int, checkpointed: Json = None) -> JobInfo:
        at = place.revision or revision
        return info_of(place.content, place.state, place.record, checkpointed, at)

    # --- what all agree on ----------------------------------------------------------------------

    async def _configured(self) -> tuple[QueueConfig, int]:
        if self._config is None:
            async with self._configuring:
                if self._config is None:
                    self._config = await self._configure()
        return self._config

    async def _configure(self) -> tuple[QueueConfig, int]:
        key = self._layout.config
        while True:
            item = await self._store.get(key)
            stands = decode_config(item.value) if item is not None else QueueConfig()
            wanted = replace(stands, **self._wanted)
            revision = item.revision if item is not None else 0
            if wanted == stands:
                self._wanted = {}
                return stands, revision
            with suppress(ConflictError):
                put = Put(key, wanted.encode())
                commit = await settled_commit(self._store, [Revision(key, revision)], [put])
                self._wanted = {}  # said once; after that whoever says otherwise is followed
                return wanted, commit.revision


def _check_brought(compares: Sequence[Compare], writes: Sequence[Write]) -> None:
    """Raise InvalidRequestError unless a commit may take along what a caller brings."""
    for brought in (compares, writes):
        if not isinstance(brought, list | tuple):
            raise InvalidRequestError(f"writes and compares are lists, not {brought!r}")
    rules.check_commit(compares, writes, (), None)


def _state_of(state: JobState | str) -> JobState:
    try:
        return JobState(state)
    except ValueError as error:
        states = ", ".join(each.value for each in JobState)
        raise InvalidRequestError(f"{state!r} is no state of a job: {states}") from error


def _wanted(
    lanes: Mapping[str, int] | None, attempts_max: int | None, keep_ended_s: float | None
) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if lanes is not None:
        if not isinstance(lanes, Mapping):
            raise InvalidRequestError(f"lanes are a dict of limits by name, not {lanes!r}")
        for lane, limit in lanes.items():
            check_name(lane, "the name of a lane")
            if type(limit) is not int or not 1 <= limit <= LANE_MAX:
                raise InvalidRequestError(f"lane {lane!r} runs 1 to {LANE_MAX} jobs, not {limit!r}")
        if len(lanes) > LANES_MAX:
            raise InvalidRequestError(f"at most {LANES_MAX} lanes are named; `*` is for the others")
        wanted["lanes"] = dict(lanes)
    if attempts_max is not None:
        if type(attempts_max) is not int or not 1 <= attempts_max <= ATTEMPTS_MAX:
            raise InvalidRequestError(f"attempts_max is 1 to {ATTEMPTS_MAX}, not {attempts_max!r}")
        wanted["attempts_max"] = attempts_max
    if keep_ended_s is not None:
        if not is_number(keep_ended_s) or not 0 <= keep_ended_s <= KEEP_S_MAX:
            raise InvalidRequestError(f"keep_ended_s is 0 to {KEEP_S_MAX:g}, not {keep_ended_s!r}")
        wanted["keep_ended_s"] = float(keep_ended_s)
    return wanted


class _Pace:
    """How many jobs a process claims in a second, about."""

    def __init__(self) -> None:
        self._begun_s = -math.inf
        self._count = self._before = 0

    def note(self, count: int, now_s: float) -> None:
        """So many were claimed."""
        self._turn(now_s)
        self._count += count

    def of(self, now_s: float) -> int:
        """As many as in this second or in the one before."""
        self._turn(now_s)
        return max(self._count, self._before)

    def _turn(self, now_s: float) -> None:
        if (passed_s := now_s - self._begun_s) >= 1.0:
            self._before = self._count if passed_s < 2.0 else 0
            self._begun_s, self._count = now_s, 0


# --- waiting -------------------------------------------------------------------------------------


async def queue_names(store: Store) -> tuple[str, ...]:
    """The queues that lie in a store, in order.  One read for each."""
    return tuple([name async for name in scan_names(store, ROOT)])


class _Bell:
    """Wakes those who wait for a job, one at a time, first come first served."""

    def __init__(self, store: Store, layout: QueueLayout) -> None:
        self._store = store
        self._layout = layout
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._news_at = 0
        self._watching: asyncio.Task[None] | None = None
        self._hang_up: asyncio.TimerHandle | None = None
        self._alarm: tuple[int, asyncio.TimerHandle] | None = None

    def ring(self) -> None:
        """Wake the first who waits."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def wait(self, revision: int, next_us: int | None, wait_s: float) -> None:
        """Return when it is worth to look again: news behind `revision`, the time, or `wait_s`."""
        if self._news_at > revision:
            return
        watched = self._store.capabilities.watch
        if watched:
            self._listen(revision)
        patience_s = min(wait_s, LOOK_AGAIN_S if watched else WITHOUT_WATCH_S)
        if next_us is not None:
            await self._set_alarm(next_us)
            if self._news_at > revision:
                return  # they came while the time was asked for, when nobody waited yet
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(patience_s):
                await future
        except TimeoutError:
            pass
        finally:
            if not future.done():
                future.cancel()
            if future in self._waiting:
                self._waiting.remove(future)
            if not self._waiting:
                self._linger()

    def _listen(self, revision: int) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None
        if self._watching is None or self._watching.done() or self._watching.cancelling():
            self._watching = asyncio.create_task(self._watch(revision), name="queue watch")

    def _linger(self) -> None:
        if self._hang_up is None and self._watching is not None:
            loop = asyncio.get_running_loop()
            self._hang_up = loop.call_later(LINGER_S, self._watching.cancel)

    async def _set_alarm(self, next_us: int) -> None:
        if self._alarm is not None:
            if self._alarm[0] == next_us and not self._alarm[1].cancelled():
                return
            self._alarm[1].cancel()
        left_s = (next_us - microseconds(await self._store.now())) / 1e6 + 0.001
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, min(left_s, 3600.0)), self._alarmed)
        self._alarm = (next_us, timer)

    def _alarmed(self) -> None:
        self._alarm = None
        self.ring()

    async def _watch(self, revision: int) -> None:
        while True:
            try:
                async with aclosing(
                    self._store.watch(self._layout.index, after=revision)
                ) as events:
                    async for event in events:
                        revision = event.revision
                        if isinstance(event, Compacted) or self._is_news(event):
                            self._news_at = revision
                            self.ring()
            except UnavailableError as error:
                log.warning("the queue cannot be watched: %s", error)
                await asyncio.sleep(WITHOUT_WATCH_S)
                self.ring()
            else:
                return  # the store was closed

    def _is_news(self, event: WatchEvent) -> bool:
        layout = self._layout
        appeared = (layout.all_ready, layout.all_later, layout.all_told)
        return any(
            change.key.startswith(appeared if change.current is not None else layout.all_workers)
            for change in event.changes
        )

    async def close(self) -> None:
        """Stop listening."""
        for handle in (self._hang_up, self._alarm[1] if self._alarm else None):
            if handle is not None:
                handle.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

"""The recipes for threads: each does what its original does, and blocks its caller meanwhile.

Most methods are the originals' (`awaited`, `called`, `iterated`).  What is told here by hand is
what a thread needs otherwise:

* A *lock* is held by the thread that acquired it: waiting in a circle is noticed between threads as
  it is between tasks.  `grant.lost` can be asked, and waited for.
* A *saga*'s steps that are plain functions run in threads of their own, so they may block, and may
  use this twin.  A thread cannot be stopped: a step that outlives its `timeout_s`, or its worker,
  goes on to its end; what it returns then is not recorded, and it is tried again under the same
  `idempotency_key`.  A step that is a coroutine function runs in the loop, as ever.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, cast

from transactional.blocking.loop_thread import BlockingIterator, awaited, called, iterated
from transactional.events import Delivery, EventLog
from transactional.lock import Grant, Lock, LockLostError, holder
from transactional.queues import LEASE_S, Job, WorkQueue
from transactional.register import Register
from transactional.reservations import Reservations
from transactional.sagas import AwaitSignal, Child, Saga, Sagas, Sleep, Step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType

    from transactional.blocking.loop_thread import LoopThread
    from transactional.events import RecordedEvent
    from transactional.sagas import StepContext
    from transactional.values import Compare

STEP_THREADS_MAX: Final = 32
"""How many steps of one worker run at once in threads; the next one waits, in its own time."""


class BlockingRegister:
    """`Register` for threads."""

    def __init__(self, carrier: LoopThread, inner: Register) -> None:
        self._carrier = carrier
        self._inner = inner

    get = awaited(Register.get)
    set = awaited(Register.set)
    update = awaited(Register.update)


# --- locks ---------------------------------------------------------------------------------------


class BlockingLost:
    """Whether a grant's lease is over, or must be assumed to be."""

    def __init__(self, carrier: LoopThread, inner: asyncio.Event) -> None:
        self._carrier = carrier
        self._inner = inner

    is_set = called(asyncio.Event.is_set)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is; False if the time ran out."""
        return self._carrier.wait(self._waited, timeout_s)

    async def _waited(self, timeout_s: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._inner.wait()
        except TimeoutError:
            return False


class BlockingGrant:
    """A held lock.  Release it once, from any thread; a second release does nothing."""

    def __init__(self, carrier: LoopThread, inner: Grant) -> None:
        self._carrier = carrier
        self._inner = inner
        self.names: tuple[str, ...] = inner.names
        self.id: str = inner.id
        self.token: int = inner.token
        """The fencing token: higher than that of every earlier holder of any of the names."""
        self.fence: tuple[Compare, ...] = inner.fence
        """Compares that hold as long as the lock does; put them into each guarded commit."""

    @property
    def lost(self) -> BlockingLost:
        """Set when the lease is over, or must be assumed to be; see ``Grant.lost``."""
        return BlockingLost(self._carrier, self._carrier.call(lambda: self._inner.lost))

    @property
    def was_lost(self) -> bool:
        """Whether `lost` is set by now; costs nothing, it is one look at a flag."""
        return self._inner.was_lost

    release = awaited(Grant.release)


class BlockingLock:
    """`Lock` for threads: each acquisition is of the thread that made it."""

    def __init__(self, carrier: LoopThread, inner: Lock) -> None:
        self._carrier = carrier
        self._inner = inner

    @contextmanager
    def held(self, *, wait_s: float = 30.0) -> Iterator[BlockingGrant]:
        """Hold the lock for the length of a ``with``; the body never runs unheld.

        Raises:
            LockLostError: at the end, if the lease ended during the body.
            LockBusyError, DeadlockError: see ``acquire``.
        """
        grant = self.acquire(wait_s=wait_s)
        try:
            yield grant
        finally:
            grant.release()
        if grant.was_lost:
            raise LockLostError(grant.names)

    def acquire(self, *, wait_s: float = 30.0) -> BlockingGrant:
        """Wait up to ``wait_s`` seconds for all the names; 0 says at once whether they are free.

        Raises: as ``Lock.acquire``.
        """
        grant = self._carrier.wait(self._acquired, threading.current_thread(), wait_s)
        return BlockingGrant(self._carrier, grant)

    async def _acquired(self, thread: threading.Thread, wait_s: float) -> Grant:
        before = holder.set(thread)
        try:
            return await self._inner.acquire(wait_s=wait_s)
        finally:
            holder.reset(before)


# --- events --------------------------------------------------------------------------------------


class BlockingDelivery:
    """Events that the group has not dealt with; `commit` says that it has."""

    def __init__(self, carrier: LoopThread, inner: Delivery) -> None:
        self._carrier = carrier
        self._inner = inner
        self.events: tuple[RecordedEvent, ...] = inner.events
        self.position: int = inner.position
        self.attempt: int = inner.attempt

    @property
    def committed(self) -> bool:
        """Whether the group has dealt with these events."""
        return self._carrier.call(lambda: self._inner.committed)

    commit = awaited(Delivery.commit)
    give_back = awaited(Delivery.give_back)


class BlockingEventLog:
    """`EventLog` for threads; what it iterates can be read with `take(timeout_s)`, too."""

    def __init__(self, carrier: LoopThread, inner: EventLog) -> None:
        self._carrier = carrier
        self._inner = inner

    append = awaited(EventLog.append)
    append_many = awaited(EventLog.append_many)
    head = awaited(EventLog.head)
    version = awaited(EventLog.version)
    read = iterated(EventLog.read)
    read_all = iterated(EventLog.read_all)
    follow = iterated(EventLog.follow)
    state = awaited(EventLog.state)
    verify = awaited(EventLog.verify)
    erase = awaited(EventLog.erase)
    position_at = awaited(EventLog.position_at)
    parked = awaited(EventLog.parked)
    replay = awaited(EventLog.replay)
    compact = awaited(EventLog.compact)

    def subscribe(
        self,
        group: str,
        *,
        after: int = 0,
        streams: str = "",
        events_max: int = 100,
        partitions: int = 1,
        attempts_max: int | None = 5,
        ttl_s: float = 30.0,
    ) -> BlockingIterator[BlockingDelivery]:
        """Deliver each event once to the consumer group, for ever; `commit` each delivery.

        All as `EventLog.subscribe`: consumers share a group, and what cannot be handled is parked.
        """
        items = self._carrier.call(
            self._inner.subscribe,
            group,
            after=after,
            streams=streams,
            events_max=events_max,
            partitions=partitions,
            attempts_max=attempts_max,
            ttl_s=ttl_s,
        )
        return BlockingIterator(self._carrier, self._wrapped(items))

    async def _wrapped(self, items: AsyncIterator[Delivery]) -> AsyncIterator[BlockingDelivery]:
        async with aclosing(cast("AsyncGenerator[Delivery]", items)) as deliveries:
            async for delivery in deliveries:
                yield BlockingDelivery(self._carrier, delivery)


# --- sagas ---------------------------------------------------------------------------------------


class BlockingSagas:
    """`Sagas` for threads: `with` starts and stops the worker; outside of it, it is a client."""

    def __init__(
        self, carrier: LoopThread, make: Callable[..., Sagas], sagas: Iterable[Saga]
    ) -> None:
        self._carrier = carrier
        self._pool = ThreadPoolExecutor(STEP_THREADS_MAX, thread_name_prefix="step")
        self._inner = carrier.call(make, [self._threaded(saga) for saga in sagas])

    @property
    def name(self) -> str:
        """The worker's name in the store."""
        return self._inner.name

    def __enter__(self) -> Self:
        self._carrier.wait(self._inner.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop in good order: finish compensations, leave the runs to others.

        Steps that run in threads are not waited for.
        """
        self._carrier.wait(self._inner.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    newest = called(Sagas.newest)
    start = awaited(Sagas.start)
    execute = awaited(Sagas.execute)
    wait = awaited(Sagas.wait)
    resume_unfinished = awaited(Sagas.resume_unfinished)
    get = awaited(Sagas.get)
    unfinished = iterated(Sagas.unfinished)
    finished = iterated(Sagas.finished)
    signal = awaited(Sagas.signal)
    signal_with_start = awaited(Sagas.signal_with_start)
    retry = awaited(Sagas.retry)
    skip = awaited(Sagas.skip)
    abandon = awaited(Sagas.abandon)
    compact = awaited(Sagas.compact)

    def _threaded(self, saga: Saga) -> Saga:
        return replace(saga, steps=tuple(self._threaded_step(step) for step in saga.steps))

    def _threaded_step(self, step: Step) -> Step:
        action, undo = step.action, step.compensation
        if not isinstance(action, Sleep | AwaitSignal | Child):
            action = self._in_thread(action)
        return replace(
            step,
            action=action,
            compensation=undo and self._in_thread(undo),
            probe=step.probe and self._in_thread(step.probe),
        )

    def _in_thread(self, function: Callable[[StepContext], Any]) -> Callable[[StepContext], Any]:
        if inspect.iscoroutinefunction(function):
            return function

        async def run(step: StepContext) -> Any:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._pool, function, step)
            return await found if inspect.isawaitable(found) else found

        return run


# --- work queues ---------------------------------------------------------------------------------


class BlockingJob:
    """A job that a worker has.  End it by `done`, `retry`, `fail` or `release`, once.

    Its lease is renewed in the store's thread, however long the worker's own thread is busy.  Used
    as `with job:` it is retried if the body raises.
    """

    def __init__(self, carrier: LoopThread, inner: Job) -> None:
        self._carrier = carrier
        self._inner = inner
        self.id: str = inner.id
        self.payload: Any = inner.payload
        self.priority: int = inner.priority
        self.lane: str | None = inner.lane
        self.worker: str = inner.worker
        self.attempt: int = inner.attempt

    @property
    def checkpointed(self) -> Any:
        """What the last `checkpoint`, of whichever worker, wrote down; None: nothing."""
        return self._inner.checkpointed

    @property
    def over_by(self) -> str:
        """What ended it: `done`, `retry`, `fail`, `release`; empty: nothing did."""
        return self._inner.over_by

    @property
    def lost(self) -> BlockingLost:
        """Set when the claim is over, or must be assumed to be, without our doing."""
        return BlockingLost(self._carrier, self._inner.lost)

    @property
    def token(self) -> str:
        """Names the claim to another process: `resume(id, token)`."""
        return self._inner.token

    @property
    def fence(self) -> tuple[Compare, ...]:
        """Compares that hold as long as the claim does; put them into commits of your own."""
        return self._inner.fence

    checkpoint = awaited(Job.checkpoint)
    done = awaited(Job.done)
    fail = awaited(Job.fail)
    retry = awaited(Job.retry)
    release = awaited(Job.release)
    detach = called(Job.detach)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._carrier.wait(self._inner.__aexit__, kind, error, traceback)


class BlockingWorkQueue:
    """`WorkQueue` for threads; `claims` can be read with `take(timeout_s)`, too."""

    def __init__(self, carrier: LoopThread, inner: WorkQueue) -> None:
        self._carrier = carrier
        self._inner = inner
        self.name: str = inner.name

    put = awaited(WorkQueue.put)
    cancel = awaited(WorkQueue.cancel)
    requeue = awaited(WorkQueue.requeue)
    skip = awaited(WorkQueue.skip)
    get = awaited(WorkQueue.get)
    jobs = iterated(WorkQueue.jobs)
    depths = awaited(WorkQueue.depths)
    watch = iterated(WorkQueue.watch)
    config = awaited(WorkQueue.config)
    forget = awaited(WorkQueue.forget)
    close = awaited(WorkQueue.close)

    def claims(
        self, worker: str | None = None, *, lease_s: float = LEASE_S, n: int = 1
    ) -> BlockingIterator[BlockingJob]:
        """Claim jobs one after the other, for ever; wait while there is none."""
        items = self._carrier.call(self._inner.claims, worker, lease_s=lease_s, n=n)
        return BlockingIterator(self._carrier, self._wrapped(items))

    async def _wrapped(self, items: AsyncIterator[Job]) -> AsyncIterator[BlockingJob]:
        async with aclosing(cast("AsyncGenerator[Job]", items)) as jobs:
            async for job in jobs:
                yield BlockingJob(self._carrier, job)

    def claim(
        self,
        worker: str | None = None,
        *,
        n: int = 1,
        lease_s: float = LEASE_S,
        wait_s: float | None = 0.0,
    ) -> list[BlockingJob]:
        """Claim up to `n` jobs; wait for the first up to `wait_s` seconds, None: for ever.

        Raises: as `WorkQueue.claim`.
        """
        jobs = self._carrier.wait(self._inner.claim, worker, n=n, lease_s=lease_s, wait_s=wait_s)
        return [BlockingJob(self._carrier, job) for job in jobs]

    def resume(self, id: str, token: str) -> BlockingJob:  # noqa: A002 as in the original
        """The job that was claimed under this token, perhaps by another process.

        Raises: as `WorkQueue.resume`.
        """
        return BlockingJob(self._carrier, self._carrier.wait(self._inner.resume, id, token))


# --- reservations --------------------------------------------------------------------------------


class BlockingReservations:
    """`Reservations` for threads."""

    def __init__(self, carrier: LoopThread, inner: Reservations) -> None:
        self._carrier = carrier
        self._inner = inner

    define = awaited(Reservations.define)
    rules = awaited(Reservations.rules)
    get = awaited(Reservations.get)
    hold = awaited(Reservations.hold)
    hold_many = awaited(Reservations.hold_many)
    book = awaited(Reservations.book)
    book_many = awaited(Reservations.book_many)
    confirm = awaited(Reservations.confirm)
    confirm_many = awaited(Reservations.confirm_many)
    extend = awaited(Reservations.extend)
    release = awaited(Reservations.release)
    cancel = awaited(Reservations.cancel)
    move = awaited(Reservations.move)
    current = awaited(Reservations.current)
    agenda = awaited(Reservations.agenda)
    ended = awaited(Reservations.ended)
    resources = awaited(Reservations.resources)
    free = awaited(Reservations.free)
    compact = awaited(Reservations.compact)

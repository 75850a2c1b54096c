"""A thread with a queue that takes all that waits at once: natural group commit.

Blocking work (SQL, fsync) has a thread of its own.  It takes one job, drains what else is
waiting up to ``group_max``, works on the group in one go and then answers everybody.  While it
works the next group gathers, so the group grows with the load and nobody waits for a timer: alone
a job costs one fsync, 256 jobs together cost one fsync as well (Hagmann, SOSP 1987; DeWitt 1984).

A job whose caller was cancelled while it waited is still done: it was accepted.

What a thread waits for most is Python's lock: it is given up at every system call, and got back
only when the event loop rests.  So a group is answered by one call into the loop, and jobs that
come together (``ask_all``) share one future, which saves a task and a wake-up each.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from transactional.errors import (
    StoreClosedError,
    TooManyRequestsError,
    TransactionalError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

R = TypeVar("R")
Resource = TypeVar("Resource")

GROUP_MAX: Final = 512
"""Most jobs in one group; more would make the first wait for the last."""
WAITING_MAX: Final = 16_384
"""Most jobs in a queue; one more is refused with TooManyRequestsError."""


@dataclass(slots=True)
class Job(Generic[Resource]):
    """What to do with the thread's resource, and the op_id that names it if it writes."""

    run: Callable[[Resource], object]
    op_id: str | None
    answer: Callable[[object], None]
    """Takes the outcome, in the event loop."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The outcome of a job that raised."""

    error: BaseException


class _Together:
    """The outcomes of jobs that were asked for together, handed over when the last one is in."""

    def __init__(self, count: int, future: asyncio.Future[list[object]]) -> None:
        self._outcomes: list[object] = [None] * count
        self._missing = count
        self._future = future

    def take(self, place: int, outcome: object) -> None:
        self._outcomes[place] = outcome
        self._missing -= 1
        if not self._missing and not self._future.done():
            self._future.set_result(self._outcomes)


class WriterThread(Generic[Resource]):
    """One thread, one queue; belongs to the event loop that made it.

    ``work`` gets a group and returns one outcome per job, a ``Failure`` to raise.  An empty group
    means that ``pause_s()`` seconds went by without a job.  ``publish`` runs in the loop before the
    answers, ``rest`` in the thread after they were sent.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Job[Resource]]], Sequence[object]],
        *,
        pause_s: Callable[[], float | None] = lambda: None,
        publish: Callable[[], None] = lambda: None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job[Resource] | None] = queue.SimpleQueue()
        self._work = work
        self._pause_s = pause_s
        self._publish = publish
        self._rest = rest
        self._closed = False
        # A daemon: a program that forgets to close its store must still be able to end.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """About how many jobs wait."""
        return self._queue.qsize()

    async def ask(self, run: Callable[[Resource], R], *, op_id: str | None = None) -> R:
        """Have ``run`` done in the thread and return its result.

        Raises:
            StoreClosedError: the thread is closed; the job was not accepted.
            TooManyRequestsError: the queue is full; the job was not accepted.
        """
        self._admit(1)
        future: asyncio.Future[object] = self._loop.create_future()
        self._queue.put(Job(run, op_id, partial(_hand_over, future)))
        return await future  # type: ignore[return-value]  # the outcome of run, see _hand_over

    def ask_from_thread(self, run: Callable[[Resource], R], *, wait_s: float) -> R:
        """Have ``run`` done in the thread, for a caller in another thread than the loop's.

        It answers in the middle of a group: only for what leaves nothing to be committed.

        Raises:
            StoreClosedError, TooManyRequestsError: as ``ask``.
            UnavailableError: it was not done in time; it may be, later.
        """
        self._admit(1)
        done: concurrent.futures.Future[R] = concurrent.futures.Future()

        def attempt(resource: Resource) -> None:
            try:
                done.set_result(run(resource))
            except TransactionalError as error:
                done.set_exception(error)

        self._queue.put(Job(attempt, None, lambda _: None))
        try:
            return done.result(wait_s)
        except concurrent.futures.TimeoutError as error:
            raise UnavailableError(f"the store did not answer within {wait_s:g} s") from error

    async def ask_all(
        self, jobs: Sequence[tuple[Callable[[Resource], object], str | None]]
    ) -> list[object]:
        """Have several (run, op_id) done, in this order; return an outcome or ``Failure`` for each.

        Each succeeds or fails alone.  Errors as ``ask``: then none of them was accepted.
        """
        if not jobs:
            return []
        self._admit(len(jobs))
        future: asyncio.Future[list[object]] = self._loop.create_future()
        take = _Together(len(jobs), future).take
        for place, (run, op_id) in enumerate(jobs):
            self._queue.put(Job(run, op_id, partial(take, place)))
        return await future

    def _admit(self, count: int) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")
        if self._queue.qsize() + count > WAITING_MAX:
            raise TooManyRequestsError(f"{WAITING_MAX} requests are waiting already")

    async def close(self) -> None:
        """Finish what was accepted and end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- in the thread ---

    def _run(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._take()
            try:
                outcomes = self._work(group)
            except BaseException as error:  # noqa: BLE001 a bug must reach the callers, not hang them
                outcomes = [Failure(error)] * len(group)
            try:
                self._loop.call_soon_threadsafe(self._answer, group, outcomes)
            except RuntimeError:
                return  # the loop is closed: nobody is left to hear it
            self._rest()

    def _take(self) -> tuple[list[Job[Resource]], bool]:
        """Take one job and drain the rest; False when it is time to end."""
        group: list[Job[Resource]] = []
        try:
            job = self._queue.get(timeout=self._pause_s())
            while job is not None:
                group.append(job)
                if len(group) == GROUP_MAX:
                    return group, True
                job = self._queue.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    # --- in the loop ---

    def _answer(self, group: Sequence[Job[Resource]], outcomes: Sequence[object]) -> None:
        self._publish()
        for job, outcome in zip(group, outcomes, strict=True):
            job.answer(outcome)


def _hand_over(future: asyncio.Future[object], outcome: object) -> None:
    if future.done():
        return  # cancelled
    if isinstance(outcome, Failure):
        future.set_exception(outcome.error)
    else:
        future.set_result(outcome)

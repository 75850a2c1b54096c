"""A thread with a queue that takes all that waits at once: natural group commit.

Blocking work (SQL, fsync) has a thread of its own, a *lane*.  It takes one job, drains what else is
waiting up to ``group_max``, works on the group in one go and then answers everybody.  While it
works the next group gathers, so the group grows with the load and nobody waits for a timer: alone
a job costs one fsync, 256 jobs together cost one fsync as well (Hagmann, SOSP 1987; DeWitt 1984).

A job whose caller was cancelled while it waited is still done: it was accepted.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from transactional.errors import StoreClosedError, TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

R = TypeVar("R")
Resource = TypeVar("Resource")

GROUP_MAX: Final = 512
"""Most jobs in one group; more would make the first wait for the last."""
WAITING_MAX: Final = 16_384
"""Most jobs in a queue; one more is refused with TooManyRequestsError."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Resource]):
    """What to do with the lane's resource, and the op_id that names it if it writes."""

    run: Callable[[Resource], object]
    future: asyncio.Future[object]
    op_id: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The outcome of a job that raised."""

    error: BaseException


class Lane(Generic[Resource]):
    """One thread, one queue; belongs to the event loop that made it.

    ``work`` gets a group and returns one outcome per job, a ``Failure`` to raise.  An empty group
    means that ``pause_s()`` seconds went by without a job.  ``rest`` runs after the answers.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Job[Resource]]], Sequence[object]],
        *,
        pause_s: Callable[[], float | None] = lambda: None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job[Resource] | None] = queue.SimpleQueue()
        self._work = work
        self._pause_s = pause_s
        self._rest = rest
        self._closed = False
        # A daemon: a program that forgets to close its store must still be able to end.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def ask(self, run: Callable[[Resource], R], *, op_id: str | None = None) -> R:
        """Have ``run`` done in the thread and return its result.

        Raises:
            StoreClosedError: the lane is closed; the job was not accepted.
            TooManyRequestsError: the queue is full; the job was not accepted.
        """
        if self._closed:
            raise StoreClosedError("the store is closed")
        if self._queue.qsize() >= WAITING_MAX:
            raise TooManyRequestsError(f"{WAITING_MAX} requests are waiting already")
        future: asyncio.Future[object] = self._loop.create_future()
        self._queue.put(Job(run, future, op_id))
        return await future  # type: ignore[return-value]  # the outcome of run, see _answer

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
            if group:
                try:
                    self._loop.call_soon_threadsafe(_answer, group, outcomes)
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


def _answer(group: Sequence[Job[Resource]], outcomes: Sequence[object]) -> None:
    for job, outcome in zip(group, outcomes, strict=True):
        if job.future.done():
            continue  # cancelled
        if isinstance(outcome, Failure):
            job.future.set_exception(outcome.error)
        else:
            job.future.set_result(outcome)

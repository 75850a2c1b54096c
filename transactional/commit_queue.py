"""One queue, one commit at a time: requests that wait together are judged and written together.

A recipe whose commits all compare the same key (the log's head) or the same range (a day of a room)
gains nothing from two commits of one process at once: one of them would fail.  So its requests
queue.  While a commit is on its way the next ones gather; then the longest run that fits into one
commit is taken and handed to the recipe, which judges each request on its own, commits what it
accepts, and answers everybody::

    put(a) --+
    put(b) --+--> [a, b, c] --> commit_together([a, b, c]) --> an answer for a, for b, for c
    put(c) --+
    put(d) ...                                                 d is of the next group

So a lone request costs one commit, sixty that wait cost one commit too, and there is no timer: a
group is whatever came while the one before it was being written.

Invariant: every request that was put gets exactly one answer, a result or an error, unless its
caller was cancelled; who is cancelled before his group is taken is left out of it.  What is in a
group, and how one request's failure is kept from the others, is the recipe's to say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from transactional.errors import TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

QUEUE_MAX: Final = 10_000
"""Most requests that wait in one queue; one more is refused with TooManyRequestsError."""


class Request(Protocol):
    """What the queue needs to know of a request: its share of a commit, and who waits for it."""

    answer: asyncio.Future[Any]

    @property
    def operations(self) -> int:
        """About how many compares or writes it adds to a commit."""
        ...

    @property
    def bytes(self) -> int:
        """About how many bytes it adds to a commit."""
        ...

    @property
    def alone(self) -> bool:
        """Whether it must not share a commit."""
        ...


R = TypeVar("R", bound=Request)


class CommitQueue(Generic[R]):
    """Requests of one process for one recipe; `what` names them in errors.

    `commit_together` is given a group and answers each of it, through `answer` and `refuse`; if it
    raises, whoever has no answer yet is given that error.  A group has at most `operations_max`
    operations and `bytes_max` bytes, or is a single request.
    """

    def __init__(
        self,
        commit_together: Callable[[list[R]], Awaitable[None]],
        *,
        what: str,
        operations_max: int,
        bytes_max: int,
    ) -> None:
        self._commit_together = commit_together
        self._what = what
        self._operations_max = operations_max
        self._bytes_max = bytes_max
        self._waiting: deque[R] = deque()
        self._task: asyncio.Task[None] | None = None
        self.busy = asyncio.Lock()
        """Held while a group is served; whoever else holds it commits undisturbed by the queue."""

    def put(self, request: R) -> asyncio.Future[Any]:
        """Queue the request; its answer, to be awaited.

        Raises:
            TooManyRequestsError: `QUEUE_MAX` are waiting; nothing was written.
        """
        if len(self._waiting) >= QUEUE_MAX:
            raise TooManyRequestsError(f"{QUEUE_MAX} {self._what} are waiting")
        self._waiting.append(request)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name=self._what)
        return request.answer

    def put_back(self, requests: Sequence[R]) -> None:
        """These were taken and not answered: they come first in the next group."""
        self._waiting.extendleft(reversed(requests))

    async def _drain(self) -> None:
        while self._waiting:
            async with self.busy:
                group = self._take()
                try:
                    await self._commit_together(group)
                except Exception as error:  # noqa: BLE001 handed to those who wait, each of them
                    refuse(group, error)

    def _take(self) -> list[R]:
        """The longest run of waiting requests that fits into one commit; at least one."""
        operations, size = self._operations_max, self._bytes_max
        group: list[R] = []
        while self._waiting:
            request = self._waiting[0]
            fits = request.operations <= operations and request.bytes <= size
            if group and (request.alone or group[0].alone or not fits):
                break
            self._waiting.popleft()
            if not request.answer.cancelled():
                group.append(request)
                operations -= request.operations
                size -= request.bytes
        return group


def answer(request: Request, result: object) -> None:
    """Give the caller his result, if he still waits for it."""
    if not request.answer.done():
        request.answer.set_result(result)


def refuse(requests: Iterable[Request], error: Exception) -> None:
    """Give each caller who still waits the error."""
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)

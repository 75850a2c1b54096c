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
group is whatever came while the one before it was being written, and what those ask next who were
answered by it.  Without the latter callers in a loop would fall into two halves that never meet:
one is served while the other waits.

Whose fault a failure is.  The recipe refuses a request that it judges wrong, and nobody else hears
of it.  If making the commit fails as a whole, one of the group is to blame and nobody knows which:
each is served alone.  An outage is nobody's fault and is told to all; if it leaves a commit in
doubt, only those that were in that commit are told so, the others wait on.

Invariant: every request that was put gets exactly one answer, a result or an error, unless its
caller was cancelled; who is cancelled before his group is taken is left out of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from transactional.errors import (
    OutcomeUnknownError,
    TooManyRequestsError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

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


class Group(Generic[R]):
    """Requests that share a commit; `waiting` are those that have no answer yet, in order."""

    def __init__(self, requests: Iterable[R]) -> None:
        self._waiting = {id(request): request for request in requests}
        self._proposed: set[int] = set()
        self._postponed: list[R] = []

    @property
    def waiting(self) -> list[R]:
        """Those that have no answer yet."""
        return list(self._waiting.values())

    def propose(self, requests: Iterable[R]) -> None:
        """Note that a commit with these is about to be sent: in doubt, they are in doubt."""
        self._proposed.update(map(id, requests))

    def doubted(self) -> list[R]:
        """Those without an answer that were in a commit."""
        return [request for name, request in self._waiting.items() if name in self._proposed]

    def answer(self, request: R, result: object) -> None:
        """Give the caller his result, if he still waits for it."""
        del self._waiting[id(request)]
        if not request.answer.done():
            request.answer.set_result(result)

    def refuse(self, request: R, error: Exception) -> None:
        """Give the caller the error, if he still waits."""
        del self._waiting[id(request)]
        if not request.answer.done():
            request.answer.set_exception(error)

    def postpone(self, request: R) -> None:
        """Let the request come first in the next group: this one has no room for it."""
        self._postponed.append(self._waiting.pop(id(request)))

    def take_postponed(self) -> list[R]:
        """Those that the next group begins with."""
        postponed, self._postponed = self._postponed, []
        return postponed


class CommitQueue(Generic[R]):
    """Requests of one process for one recipe; `what` names them in errors.

    `commit_together` is given a group and answers each of it, or postpones it.  A group has at most
    `operations_max` operations and `bytes_max` bytes, or is a single request.
    """

    def __init__(
        self,
        commit_together: Callable[[Group[R]], Awaitable[None]],
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

    async def _drain(self) -> None:
        while self._waiting:
            async with self.busy:
                await self._serve(Group(self._take()))
            await asyncio.sleep(0)  # those who were answered ask again, and share the next group

    async def _serve(self, group: Group[R]) -> None:
        try:
            await self._commit_together(group)
        except UnavailableError as error:
            self._refuse(group.waiting, group, error)
        except OutcomeUnknownError as error:
            self._refuse(group.doubted(), group, error)
            for request in group.waiting:  # no commit held them: nothing of theirs is in doubt
                group.postpone(request)
        except Exception as error:  # noqa: BLE001 handed to the one who is to blame
            alone = group.waiting
            if len(alone) == 1:
                group.refuse(alone[0], error)
            else:
                for request in alone:
                    await self._serve(Group([request]))
        self._waiting.extendleft(reversed(group.take_postponed()))

    @staticmethod
    def _refuse(requests: Iterable[R], group: Group[R], error: Exception) -> None:
        for request in requests:
            group.refuse(request, error)

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

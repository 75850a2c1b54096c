"""Work that must not be left half done because its caller was cancelled.

Cancellation arrives at an ``await``.  Where something outside was begun (a file opened in a thread,
a lease asked for), leaving at once would lose the handle on it: nobody could close or end it any
more.  ``shielded`` stays until the work is over, undoes it, and is cancelled then.  It is the
one shield of this package; ``asyncio.shield`` alone leaves at once and abandons the work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


async def shielded(
    work: Awaitable[T],
    *,
    undo: Callable[[T], Awaitable[object]] | None = None,
    patience_s: float | None = None,
) -> T:
    """Return what ``work`` returns; if we are cancelled meanwhile, wait for it all the same.

    Then ``undo(result)`` runs, to its end as well, and the cancellation goes on.  ``patience_s``
    bounds how long a cancellation waits: after it the work is cancelled, too.  Meant for work that
    ends by itself, or whose remains do (a lease runs out).
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            _, late = await asyncio.wait([task], timeout=patience_s if cancelled else None)
            if late:
                task.cancel()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled() and task.exception() is None and undo is not None:
        await shielded(asyncio.ensure_future(undo(task.result())))
    raise cancelled

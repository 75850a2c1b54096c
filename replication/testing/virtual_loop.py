"""An event loop in which waiting takes no time.

Theory of operation. A loop sleeps when nothing is ready, until the next timer. This one moves its
clock to that timer instead (`loop.time()` is what agents live by), so ten minutes of gossip take as
long as their work does, and a time-out never races with a busy machine.

There is one thing to wait for in earnest: work that was handed to a thread, a journal's for
instance. Time stands still until it is done, for at most `WORK_S_MAX`.

Sockets are nothing that it can know of: what is under way on them is overtaken by the next timer.
So agents in virtual time talk over a `Switchboard`.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN_S = 1000.0
TURN_S = 1e-6
"""What a turn of the loop takes: who waits for a moment to be past must not wait for ever."""
WORK_S_MAX = 5.0
"""How long a thread's work holds the clock: work that itself waits for the clock must not."""


class _Jumping:
    """A selector that lets time pass by itself instead of waiting."""

    def __init__(self) -> None:
        self.now_s = BEGIN_S
        self._inner = selectors.DefaultSelector()
        self._at_work = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def time(self) -> float:
        """Seconds, virtual."""
        return self.now_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; if nothing is, it is `timeout` later."""
        self.now_s += TURN_S
        if ready := self._inner.select(0):
            return ready
        if timeout is None:  # only the outside can wake it
            return self._inner.select(None)
        if timeout > 0 and self._at_work and (ready := self._inner.select(WORK_S_MAX)):
            return ready
        self.now_s += max(0.0, timeout)
        return []

    def counting(self, hand_over: Callable[..., asyncio.Future[Any]]) -> Callable[..., Any]:
        """`run_in_executor`, with the work that is under way counted."""

        def done(_: object) -> None:
            self._at_work -= 1

        def counted(*work: Any) -> asyncio.Future[Any]:
            future = hand_over(*work)
            self._at_work += 1
            future.add_done_callback(done)
            return future

        return counted


def virtual_time_loop() -> asyncio.AbstractEventLoop:
    """A fresh one; for `asyncio.Runner(loop_factory=virtual_time_loop)`."""
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(cast("selectors.BaseSelector", selector))
    loop.time = selector.time  # type: ignore[method-assign]  # the loop asks itself by this name
    loop.run_in_executor = selector.counting(loop.run_in_executor)  # type: ignore[method-assign,assignment]  # as above
    end = loop.shutdown_default_executor
    # From Python 3.12 on a runner waits five minutes for threads, and those are over at once.
    loop.shutdown_default_executor = lambda *_, **__: end()  # type: ignore[method-assign]
    return loop

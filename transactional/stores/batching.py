"""Concurrent calls that share a request: coalescing without a timer.

A call joins the queue of its kind.  A courier takes all that waits, up to ``BATCH_MAX`` calls,
delivers it as one batch and comes back for the next.  Alone a call leaves at once; under load the
next batch gathers while the couriers are out, so batches grow with the load and with nothing else.
Two couriers keep one batch on the wire while the authority works on the other.

A call whose caller was cancelled before a courier came is not sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from transactional.errors import (
    OutcomeUnknownError,
    TooManyRequestsError,
    TransactionalError,
    UnavailableError,
)
from transactional.wire import BATCH_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COURIERS: Final = 2
"""Batches of one kind on their way at once."""
SMALL_BATCH: Final = 32
"""So few calls are not worth dividing between couriers."""
BATCH_BYTES: Final = 1 << 15
"""A batch is closed when it is about this large; a larger call travels alone.  One that exceeds the
buffers of a loopback socket waits for acknowledgements, and takes several times as long."""
WAITING_MAX: Final = 16_384
"""Most calls in a queue; one more is refused."""


class Call:
    """One call on its way: the request, who waits, and what a lost answer means to him."""

    __slots__ = ("body", "future", "op_id")

    def __init__(self, body: str, *, op_id: str | None) -> None:
        self.body = body
        self.op_id = op_id  # of a commit; None: sending it twice is the same as once
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def cancelled(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done()

    def answer(self, result: object) -> None:
        """Hand over the result."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: TransactionalError) -> None:
        """Hand over a definite error."""
        if not self.future.done():
            self.future.set_exception(error)

    def lost(self, reason: str) -> None:
        """Nobody knows whether the authority got it."""
        if self.op_id is not None:
            self.fail(OutcomeUnknownError(self.op_id, reason))
        else:
            self.fail(UnavailableError(reason))


class CallQueue:
    """The calls of one kind and the couriers that carry them."""

    def __init__(self, deliver: Callable[[list[Call]], Awaitable[None]]) -> None:
        self._deliver = deliver
        self._waiting: list[Call] = []
        self._couriers: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call) -> Any:
        """Have the call carried and return its answer."""
        if len(self._waiting) >= WAITING_MAX:
            raise TooManyRequestsError(f"{WAITING_MAX} calls are waiting already")
        self._waiting.append(call)
        if len(self._couriers) < COURIERS:
            courier = asyncio.create_task(self._carry())
            self._couriers.add(courier)
            courier.add_done_callback(self._ended)
        return await call.future

    async def _carry(self) -> None:
        """Carry batches until nothing waits.

        A courier signs off in the very turn in which it looked for the last time: a call that came
        while it still counted, but no longer looked, would wait for ever.
        """
        try:
            while self._waiting:
                batch = self._take()
                try:
                    await self._deliver(batch)
                except BaseException:  # a courier that dies must not leave anybody waiting
                    for call in batch:
                        call.lost("the client was stopped")
                    raise
        finally:
            self._couriers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _ended(self, courier: asyncio.Task[None]) -> None:
        """Also of a courier that was cancelled before its first step; others take its place."""
        self._couriers.discard(courier)
        if courier.cancelled() or courier.exception() is not None:
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                call.lost("the client was stopped")

    def _take(self) -> list[Call]:
        self._waiting = [call for call in self._waiting if not call.cancelled]
        # Leave half for the other courier: callers answered together come back together, and in
        # one batch they would wait for each other, client and authority working in turns.
        fair = max(SMALL_BATCH, -(-len(self._waiting) // COURIERS))
        size = count = 0
        for call in self._waiting:
            size += len(call.body)
            if count == min(fair, BATCH_MAX) or (count and size > BATCH_BYTES):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def drain(self) -> None:
        """Wait until every accepted call is answered."""
        while self._couriers:
            await asyncio.wait(self._couriers)

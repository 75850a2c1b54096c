"""Calls that are made at the same time share a request: coalescing without a timer.

A call joins a queue.  A sender takes what waits, up to the limits of a batch, delivers it in one
request and comes back for the next.  Alone a call leaves at once; under load the next batch gathers
while the senders are out, so batches grow with the load and with nothing else.  With two senders
one batch is on the wire while the server works on the other.  A call whose caller was cancelled
before a sender came is not sent.

Invariant: each call that was taken gets exactly one answer, whatever becomes of its sender.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from transactional.errors import (
    OutcomeUnknownError,
    TooManyRequestsError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SENDERS: Final = 2
"""Batches of one kind on their way at once."""
SMALL_BATCH: Final = 32
"""So few calls are not worth dividing between senders."""
BATCH_BYTES: Final = 1 << 15
"""A batch is closed when it is about this large; a larger call travels alone.  One that exceeds the
buffers of a loopback socket waits for acknowledgements, and takes several times as long."""
WAITING_MAX: Final = 16_384
"""Most calls in a queue; one more is refused."""

Body = TypeVar("Body")


class Call(Generic[Body]):
    """One call on its way: the request, who waits, and what a lost answer means to him."""

    __slots__ = ("body", "future", "op_id", "size")

    def __init__(self, body: Body, size: int, *, op_id: str | None) -> None:
        self.body = body
        self.size = size  # bytes, about
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

    def fail(self, error: BaseException) -> None:
        """Hand over a definite error."""
        if not self.future.done():
            self.future.set_exception(error)

    def lost(self, reason: str) -> None:
        """Nobody knows whether the server got it."""
        if self.op_id is not None:
            self.fail(OutcomeUnknownError(self.op_id, reason))
        else:
            self.fail(UnavailableError(reason))


class CallQueue(Generic[Body]):
    """The calls of one kind and the senders that carry them."""

    def __init__(
        self,
        deliver: Callable[[list[Call[Body]]], Awaitable[None]],
        *,
        batch_max: int,
        bytes_max: int = BATCH_BYTES,
        senders: int = SENDERS,
    ) -> None:
        self._deliver = deliver
        self._batch_max = batch_max
        self._bytes_max = bytes_max
        self._senders_max = senders
        self._waiting: list[Call[Body]] = []
        self._senders: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, call: Call[Body]) -> Any:
        """Have the call carried and return its answer."""
        self.put([call])
        return await call.future

    def put(self, calls: list[Call[Body]]) -> None:
        """Have the calls carried; each one's future has its answer.

        Raises:
            TooManyRequestsError: there is no room for all of them; none was accepted.
        """
        if len(self._waiting) + len(calls) > WAITING_MAX:
            raise TooManyRequestsError(f"{WAITING_MAX} calls are waiting already")
        self._waiting += calls
        if self._waiting and len(self._senders) < self._senders_max:
            sender = asyncio.create_task(self._carry())
            self._senders.add(sender)
            sender.add_done_callback(self._ended)

    async def _carry(self) -> None:
        """Carry batches until nothing waits.

        A sender signs off in the very turn in which it looked for the last time: a call that came
        while it still counted, but no longer looked, would wait for ever.
        """
        try:
            while self._waiting:
                batch = self._take()
                try:
                    await self._deliver(batch)
                except BaseException:  # a sender that dies must not leave anybody waiting
                    for call in batch:
                        call.lost("the client was stopped")
                    raise
        finally:
            self._senders.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _ended(self, sender: asyncio.Task[None]) -> None:
        """Also of a sender that was cancelled before its first step; others take its place."""
        self._senders.discard(sender)
        if sender.cancelled() or sender.exception() is not None:
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                call.lost("the client was stopped")

    def _take(self) -> list[Call[Body]]:
        self._waiting = [call for call in self._waiting if not call.cancelled]
        # Leave half for the other sender: callers answered together come back together, and in
        # one batch they would wait for each other, client and server working in turns.
        fair = max(SMALL_BATCH, -(-len(self._waiting) // self._senders_max))
        size = count = 0
        for call in self._waiting:
            size += call.size
            if count == min(fair, self._batch_max) or (count and size > self._bytes_max):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def drain(self) -> None:
        """Wait until every accepted call is answered."""
        while self._senders:
            await asyncio.wait(self._senders)

"""The queue that coalesces calls: nobody is forgotten, whatever becomes of a sender."""

from __future__ import annotations

import asyncio

import pytest

from transactional.errors import OutcomeUnknownError, UnavailableError
from transactional.stores.call_queue import SENDERS, Call, CallQueue


async def test_a_call_in_the_turn_in_which_the_senders_stop_is_carried() -> None:
    """A sender that had looked at the queue for the last time still counted for one more turn.

    With both of them in that turn a new call started no sender, and waited for ever.
    """

    async def deliver(batch: list[Call]) -> None:
        for call in batch:
            call.answer(call.body)

    queue = CallQueue(deliver, batch_max=512)

    async def caller(number: int) -> None:
        for _ in range(50):
            assert await queue.ask(Call(str(number), 1, op_id=None)) == str(number)

    async with asyncio.timeout(10):
        await asyncio.gather(*(caller(number) for number in range(SENDERS + 1)))


async def test_calls_behind_a_sender_that_dies_are_answered() -> None:
    """They were accepted and never sent: each hears that, a commit that its outcome is unknown."""
    started = asyncio.Event()

    async def deliver(_batch: list[Call]) -> None:
        started.set()
        await asyncio.sleep(0.01)
        raise RuntimeError("no such sender")

    queue = CallQueue(deliver, batch_max=512)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    calls = [Call("x", 1, op_id="op" if n % 2 else None) for n in range(50)]
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(queue.ask(call) for call in calls), return_exceptions=True)
    assert {type(answer) for answer in answers} == {OutcomeUnknownError, UnavailableError}
    with pytest.raises(UnavailableError):
        await queue.ask(Call("later", 5, op_id=None))

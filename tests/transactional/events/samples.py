"""Events and a reducer that the tests of the log share."""

from __future__ import annotations

from transactional import (
    EventLog,
    NewEvent,
    Reducer,
)

TOTAL = Reducer("total", lambda: 0, lambda total, event: total + (event.data or 0))


def added(*numbers: int) -> list[NewEvent]:
    return [NewEvent("Added", number) for number in numbers]


async def everything(log: EventLog) -> list:
    return [event async for event in log.read_all()]

"""What the store holds, as a page draws it: bookings by room, sagas step by step, queues by state.

Theory of operation. Nothing is kept here: each look reads the store anew, through the recipes, and
changes nothing. A look at a large store is slow, so the next one of that part waits ten times as
long as the last one took, and a second at least. What is shown is bounded.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any

from transactional import Reservations, Sagas, TransactionalError, WorkQueue, queue_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from transactional import Booking, SagaRun, Store

ROOMS_MAX = 40
BOOKINGS_MAX = 60
"""Of a room, the latest ones."""
RUNS_MAX = 60
"""Of sagas, those that are not over first."""
RUNS_READ_MAX = 300
"""Of sagas that are over, the first by id: a store has them in that order. The latest are shown."""
QUEUES_MAX = 20
JOBS_MAX = 8
STEP_STATES = {
    "intent": "running",
    "done": "done",
    "failed": "failed",
    "refused": "refused",
    "later": "waiting",
    "paused": "waiting",
    "undo": "undoing",
    "undone": "undone",
    "undo_failed": "undoing",
    "probe": "asking",
    "unknown": "asking",
    "skip": "skipped",
}


class Decisions:
    """Looks at a store that may be out of reach, part by part: some are read fast, some slowly."""

    parts = ("rooms", "sagas", "queues")

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    async def look(self, part: str) -> dict[str, Any]:
        """One of the `parts` as JSON; of a store that does not answer, nothing, and why."""
        read = {"rooms": _rooms, "sagas": _runs, "queues": _queues}[part]
        try:
            store = self._store()
            now = await store.now()
            found = await read(store)
        except TransactionalError as error:
            return {part: [], f"{part}_error": str(error)}
        return {"now_ms": round(now.timestamp() * 1000), f"{part}_error": "", **found}


async def _rooms(store: Store) -> dict[str, Any]:
    rooms = Reservations(store)
    names = (await rooms.resources())[:ROOMS_MAX]
    return {"rooms": await asyncio.gather(*(_room(rooms, name) for name in names))}


async def _room(rooms: Reservations, name: str) -> dict[str, Any]:
    agenda, ended = await asyncio.gather(rooms.agenda(name), rooms.ended(name))
    found = sorted((*agenda, *ended), key=lambda booking: (booking.interval.start, booking.id))
    shown = [_booking(booking) for booking in found[-BOOKINGS_MAX:]]
    return {"name": name, "bookings": shown, "left_out": max(0, len(found) - BOOKINGS_MAX)}


def _booking(booking: Booking) -> dict[str, Any]:
    expires = booking.expires_at
    return {
        "id": booking.id,
        "holder": booking.holder,
        "note": booking.note,
        "state": booking.state.value,
        "start_ms": round(booking.interval.start.timestamp() * 1000),
        "end_ms": round(booking.interval.end.timestamp() * 1000),
        "expires_ms": round(expires.timestamp() * 1000) if expires else None,
        "taken_by": booking.taken_by,
    }


async def _runs(store: Store) -> dict[str, Any]:
    sagas, going, over = Sagas(store, []), [], []
    async for run in sagas.unfinished():
        going.append(run)
        if len(going) == RUNS_MAX:
            break
    async for run in sagas.finished():
        over.append(run)
        if len(over) == RUNS_READ_MAX:
            break
    over.sort(key=lambda run: run.history[-1].at, reverse=True)
    return {"sagas": [_run(run) for run in islice((*going, *over), RUNS_MAX)]}


def _run(run: SagaRun) -> dict[str, Any]:
    steps: dict[str, dict[str, Any]] = {}
    for record in run.history:
        state = STEP_STATES.get(record.kind.value)
        if record.step and state is not None:
            step = steps.setdefault(record.step, {"name": record.step, "attempts": 0})
            step["state"] = state
            step["attempts"] += record.kind.value == "intent"
    return {
        "id": run.id,
        "saga": run.saga,
        "state": run.state.value,
        "owner": run.owner.partition("~")[0],
        "started_ms": round(run.started_at.timestamp() * 1000),
        "steps": list(steps.values()),
        "error": run.error,
    }


async def _queues(store: Store) -> dict[str, Any]:
    names = (await queue_names(store))[:QUEUES_MAX]
    return {"queues": await asyncio.gather(*(_queue(store, name) for name in names))}


async def _queue(store: Store, name: str) -> dict[str, Any]:
    queue = WorkQueue(store, name, worker="page")
    try:
        depths = {state.value: str(depth) for state, depth in (await queue.depths()).items()}
        jobs = []
        for state in ("claimed", "parked"):
            count = 0
            async for job in queue.jobs(state):
                jobs.append(
                    {
                        "id": job.id,
                        "state": job.state.value,
                        "worker": job.worker or "",
                        "attempts": job.attempts,
                        "error": job.error,
                    }
                )
                if (count := count + 1) == JOBS_MAX:
                    break
    finally:
        await queue.close()
    return {"name": name, "depths": depths, "jobs": jobs}

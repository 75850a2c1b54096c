"""What the store holds, as a page draws it: bookings by room, sagas step by step, queues by state.

Theory of operation. Nothing is kept here: each look reads the store anew, through the recipes, and
changes nothing. A look at a large store is slow, so the next one waits ten times as long as the
last one took, and a second at least. What is shown is bounded; what is left out is counted.
"""

from __future__ import annotations

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
RUNS_READ_MAX = 2000
"""Of sagas that are over; ids, not times, are in order in a store."""
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
    """Looks at a store that may be out of reach."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    async def look(self) -> dict[str, Any]:
        """Everything as JSON; of a store that does not answer, why."""
        try:
            store = self._store()
            now = await store.now()
            rooms = [await _room(store, name) for name in await _rooms(store)]
            runs, over = await _runs(store)
            queues = [await _queue(store, name) for name in await _queues(store)]
        except TransactionalError as error:
            return {"error": f"{error}", "rooms": [], "sagas": [], "queues": []}
        return {
            "now_ms": round(now.timestamp() * 1000),
            "rooms": rooms,
            "sagas": runs,
            "sagas_over": over,
            "queues": queues,
        }


async def _rooms(store: Store) -> tuple[str, ...]:
    return (await Reservations(store).resources())[:ROOMS_MAX]


async def _room(store: Store, name: str) -> dict[str, Any]:
    rooms = Reservations(store)
    found = [*await rooms.agenda(name), *await rooms.ended(name)]
    found.sort(key=lambda booking: (booking.interval.start, booking.id))
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


async def _runs(store: Store) -> tuple[list[dict[str, Any]], int]:
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
    return [_run(run) for run in islice((*going, *over), RUNS_MAX)], len(over)


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


async def _queues(store: Store) -> tuple[str, ...]:
    return (await queue_names(store))[:QUEUES_MAX]


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

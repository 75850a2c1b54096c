"""The auditor: a process of its own that reads the store when all is over, and tells what is there.

It took no part in the run. Bookings are read as raw records, by the layout that
`transactional/reservations/booking.py` documents, not through the recipe that made the decisions;
notifications are counted where their readers find them, in the inboxes. What it tells is judged by
the pure functions of `verdict`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import transactional
from demos.meetings.programme import load
from demos.meetings.scheduling import stream_of, turned_away
from demos.stage import tell
from transactional import EventLog, Sagas, SagaState, TransactionalError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from demos.meetings.programme import Programme, Talk
    from transactional import SagaRun, Store

READS_AT_ONCE = 64


async def bookings(store: Store) -> tuple[list[list[Any]], list[list[Any]]]:
    """(confirmed bookings, holds that expired), from the raw records under `reservation/of/`."""
    now = (await store.now()).isoformat()
    confirmed: dict[str, list[Any]] = {}
    expired: dict[str, list[Any]] = {}
    after = None
    while True:
        page = await store.scan("reservation/of/", after=after)
        for after, entry in page.items.items():
            _, _, room, kind, *_ = after.split("/")
            if kind == "rules":
                continue
            record = json.loads(entry.value)
            place = [unquote(room), record["start"], record["end"]]
            if kind == "day" and record["state"] == "confirmed":
                talk, _, attempt = record.get("note", "").rpartition("#")
                confirmed[record["id"]] = [talk, record["id"], *place, int(attempt)]
            elif record["state"] == "expired" or (
                kind == "day" and record["state"] == "held" and record["expires_at"] <= now
            ):
                expired[record["id"]] = place
        if not page.more:
            return list(confirmed.values()), list(expired.values())


async def runs(store: Store) -> list[SagaRun]:
    """Every saga, finished or not."""
    sagas = Sagas(store, [])
    open_runs = [run async for run in sagas.unfinished()]
    return open_runs + [run async for run in sagas.finished()]


def reason_of(run: SagaRun) -> str:
    """Why a run was turned back, in the words of the step that refused."""
    return run.error.removeprefix("StepRefused: ")


def wish_of(run: SagaRun, talk: Talk) -> tuple[str, str, str]:
    """(talk, start, end) as that attempt wanted it."""
    slot = run.input.get("slot") or [talk.start.isoformat(), talk.end.isoformat()]
    return talk.id, slot[0], slot[1]


async def streams(log: EventLog, names: Iterable[str]) -> dict[str, list[Any]]:
    """Whole event streams, a bounded number of reads at a time."""
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def one(name: str) -> tuple[str, list[Any]]:
        async with gate:
            return name, [event async for event in log.read(name)]

    return dict(await asyncio.gather(*(one(name) for name in names)))


async def audit(store: Store, programme: Programme) -> dict[str, Any]:
    """Everything that the verdict needs, in JSON's types."""
    log = EventLog(store)
    talks: dict[str, Talk] = {talk.id: talk for talk in programme.talks}
    confirmed, expired = await bookings(store)
    all_runs = await runs(store)
    said = await streams(log, (stream_of(talk) for talk in programme.talks))
    announced = {
        (talk.id, event.data["attempt"])
        for talk in programme.talks
        for event in said[stream_of(talk)]
        if event.type == "booked"
    }
    people = sorted({person for talk in programme.talks for person in talk.people})
    inboxes = await streams(log, (f"inbox/{person}" for person in people))
    notices = Counter(
        (person, event.data["talk"], event.type, event.data["attempt"])
        for person in people
        for event in inboxes[f"inbox/{person}"]
    )
    completed = [run for run in all_runs if run.state is SagaState.COMPLETED]
    compensated = [run for run in all_runs if run.state is SagaState.COMPENSATED]
    cancelled = [
        (run.input["talk"], run.input["attempt"])
        for run in compensated
        if (run.input["talk"], run.input["attempt"]) in announced
    ]
    in_order = sorted(compensated, key=lambda run: int(run.input["attempt"]))
    booked = {row[0] for row in confirmed}
    return {
        "bookings": confirmed,
        "expired": expired,
        "refused": {
            run.input["talk"]: reason_of(run)
            for run in in_order
            if run.input["talk"] in talks and run.input["talk"] not in booked
        },
        "yielded": [
            [*wish_of(run, talks[run.input["talk"]]), reason_of(run)]
            for run in in_order
            if run.input["talk"] in booked and turned_away(run)
        ],
        "cancelled": cancelled,
        "compensated": Counter(map(reason_of, compensated)),
        "ended": [run.id for run in all_runs if run.over],
        "unfinished": len([run for run in all_runs if not run.over]),
        "notices": [[*notice, count] for notice, count in notices.items()],
        "finished_by": {run.id: run.results["confirm"]["by"] for run in completed},
    }


async def play(arguments: argparse.Namespace) -> None:
    """Read, tell, end."""
    async with transactional.open(arguments.store) as store:
        tell("audit", **await audit(store, load(arguments.programme)))


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--programme", type=Path, required=True)
    try:
        asyncio.run(play(parser.parse_args()))
    except TransactionalError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

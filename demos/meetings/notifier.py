"""The notifier: carries what is said in the talks' streams into the inboxes of the persons.

An actor of the meetings demo. It subscribes to the streams `talk/...`; the events for the inboxes
and the subscription's checkpoint are one commit, so each person hears of each change once, whoever
crashes. Counting is left to the auditor, who reads the inboxes as their owners would.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import transactional
from demos.stage import commands, tell
from transactional import EventLog, NewEvent, TransactionalError

if TYPE_CHECKING:
    from transactional import Delivery

GROUP = "inboxes"
GATHER_S = 0.1  # between two deliveries: a mail may wait, and a commit then carries more of them
INBOXES_PER_COMMIT = 50  # each inbox is two writes, and a commit holds at most 128


class Notifier:
    """One consumer of the group; `drained` says how far it must have come."""

    def __init__(self, log: EventLog, events_max: int) -> None:
        self._log = log
        self._events_max = events_max
        self._position = 0
        self._moved = asyncio.Condition()

    async def work(self) -> None:
        """Deliver for ever."""
        subscription = self._log.subscribe(GROUP, streams="talk/", events_max=self._events_max)
        async for delivery in subscription:
            await self._deliver(delivery)
            async with self._moved:
                self._position = delivery.position
                self._moved.notify_all()
            await asyncio.sleep(GATHER_S if len(delivery.events) < self._events_max else 0)

    async def _deliver(self, delivery: Delivery) -> None:
        letters: dict[str, list[NewEvent]] = defaultdict(list)
        for event in delivery.events:
            if event.type in {"booked", "cancelled"}:
                data = {"talk": event.data["talk"], "attempt": event.data["attempt"]}
                for person in event.data["people"]:
                    letters[f"inbox/{person}"].append(NewEvent(event.type, data))
        await delivery.commit(events=letters, actor="notifier")

    async def drained(self) -> None:
        """Wait until everything said up to now is in the inboxes."""
        last = 0
        async for event in self._log.read_all():
            if event.stream.startswith("talk/"):
                last = event.position
        async with self._moved:
            await self._moved.wait_for(lambda: self._position >= last)


async def play(arguments: argparse.Namespace) -> None:
    """Deliver until the standard input ends; say `drain` when the inboxes are complete."""
    events_max = max(INBOXES_PER_COMMIT // arguments.audience, 1)
    async with transactional.open(arguments.store) as store:
        notifier = Notifier(EventLog(store), events_max)
        work = asyncio.create_task(notifier.work())
        tell("ready")
        async for _ in commands():
            done, _ = await asyncio.wait(
                {work, asyncio.ensure_future(notifier.drained())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work in done:
                work.result()
            tell("drain")
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


def main() -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--audience", type=int, required=True, help="most persons of one talk")
    try:
        asyncio.run(play(parser.parse_args()))
    except TransactionalError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The saga that schedules one talk: hold, calendars, notifications, confirm.

    step           kind           action                              compensation
    hold           compensatable  hold the room for `HOLD_TTL_S`      release the hold
    calendars      compensatable  an entry per person, made durable   the later entry `cancelled`
    notifications  compensatable  `booked` in the talk's stream       `cancelled`, if it was booked
    confirm        pivot          the hold becomes a booking          -

A talk that has a rival, and whose slot the rival got, is given another one: the refusal says what
is free, and the next saga is started with it (`elsewhere`).

The room is decided by the store. What follows from it is lazy, and carries the revision of its
decision: a calendar entry is a `MaxRegister` of (revision, state, room, start, end), so that the
later decision wins on every replica, whoever wrote it and in whatever order it arrives. An add-wins
set would keep what a killed organizer added unseen and a colleague compensated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from crdt import LWWRegister, MaxRegister, ORSet, PNCounter
from transactional import (
    Booking,
    BookingConflict,
    BookingEndedError,
    Interval,
    NewEvent,
    OperationIdReusedError,
    Put,
    RetryLater,
    Saga,
    Step,
    StepContext,
    StepKind,
    StepRefused,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping

    from demos.meetings.collisions import Claims
    from demos.meetings.programme import Talk
    from replication import Agent
    from transactional import EventLog, Reservations, SagaRun, Store

NAME = "schedule"
HOLD_TTL_S = 20.0  # far longer than a saga takes, shorter than anyone would wait for a dead one
STALLED_TTL_S = 0.3  # of the sagas that are told to oversleep
LOOK_AGAIN_S = 0.5  # a hold in the way may end long before it expires
DEADLINE_S = 60.0
ELSEWHERE_DAYS = 2  # how far a talk that lost its slot may be moved


def calendar(person: str, talk: Talk) -> str:
    """Name of the document that says when and where a person appears for a talk."""
    return f"calendar/{person}/{talk.key}"


def stream_of(talk: Talk) -> str:
    """Name of the event stream of a talk."""
    return f"talk/{talk.key}"


def run_id(talk: Talk, attempt: int) -> str:
    """Id of the saga for one attempt at a talk."""
    return f"{talk.key}.{attempt}"


def turned_away(run: SagaRun) -> bool:
    """Whether a booking stood in the way of the run's hold."""
    return any(record.step == "hold" and record.kind.value == "refused" for record in run.history)


@dataclass(slots=True)
class Scheduling:
    """The steps of one organizer; what they need is handed in, what they decide is in the store.

    `stalls` sagas sleep past the end of their hold, to show what then happens: the confirmation is
    refused, everything is undone, and the next attempt succeeds.
    """

    name: str
    store: Store
    rooms: Reservations
    log: EventLog
    agent: Agent
    talks: Mapping[str, Talk]
    claims: Claims
    dice: random.Random
    stalls: int = 0
    _offered: dict[str, tuple[Interval, ...]] = field(default_factory=dict)  # by talk: what is free

    def definition(self) -> Saga:
        """The saga; every organizer has the same one, so that each can resume the others' runs."""
        return Saga(
            NAME,
            (
                Step("hold", self.hold, self.release),
                Step("calendars", self.enter, self.clear),
                Step("notifications", self.announce, self.withdraw),
                Step("confirm", self.confirm, kind=StepKind.PIVOT),
            ),
            deadline_s=DEADLINE_S,
        )

    def _talk(self, step: StepContext) -> Talk:
        talk = self.talks[step.input["talk"]]
        if slot := step.input.get("slot"):
            start, end = map(datetime.fromisoformat, slot)
            return replace(talk, start=start, end=end)
        return talk

    # -- hold the room

    async def hold(self, step: StepContext) -> dict[str, Any]:
        """Hold it; while only holds are in the way, look again: they expire, or become bookings."""
        talk, attempt = self._talk(step), step.input["attempt"]
        stalled = attempt == 1 and self.stalls > 0
        self.stalls -= stalled
        try:
            held = await self.rooms.hold(
                talk.room,
                Interval(talk.start, talk.end),
                holder=self.name,
                ttl_s=STALLED_TTL_S if stalled else HOLD_TTL_S,
                note=f"{talk.id}#{attempt}",
                idempotency_key=step.idempotency_key,
            )
        except BookingConflict as conflict:
            standing = [found for found in conflict.blockers if found.expires_at is None]
            if not standing:
                raise RetryLater(str(conflict), after_s=LOOK_AGAIN_S) from conflict
            (blocker, *_) = standing
            self._offered[talk.id] = conflict.free
            raise StepRefused(
                f"{talk.room} is booked {blocker.interval} for talk "
                f"{blocker.note.rpartition('#')[0]} (booking {blocker.id} by {blocker.holder});"
                f" free: {', '.join(map(str, conflict.free)) or 'nothing this week'}"
            ) from conflict
        return {"booking": held.to_json(), "oversleep_s": 2 * STALLED_TTL_S if stalled else 0}

    async def elsewhere(self, talk: Talk) -> list[str] | None:
        """[start, end] of a free slot for a talk that lost its own: of what the refusal offered.

        If all that is wanted by others, or somebody else was refused in its place and knows the
        offer, the store is asked for what is free behind each of the others in turn: in a room that
        few have booked yet, the first free time of a day is another talk's.
        """
        for slot in self._offered.pop(talk.id, ()):
            if self.claims.taken_until(talk, slot.start, slot.end) is None:
                return [slot.start.isoformat(), slot.end.isoformat()]
        start, until = talk.start, talk.end + timedelta(days=ELSEWHERE_DAYS)
        while start < until:
            days = Interval(start, until)
            free = await self.rooms.free(talk.room, days, talk.end - talk.start, count=1)
            if not free:
                break
            taken_until = self.claims.taken_until(talk, free[0].start, free[0].end)
            if taken_until is None:
                return [free[0].start.isoformat(), free[0].end.isoformat()]
            start = taken_until
        return None

    async def release(self, step: StepContext) -> None:
        """Give the room back, if it was held; a hold that expired meanwhile is given back."""
        if step.result is not None:
            await self.rooms.release(Booking.from_json(step.result["booking"]))

    # -- calendars

    async def enter(self, step: StepContext) -> None:
        """Put the talk on every attendee's calendar; recorded as done only once it is on disk."""
        booking = Booking.from_json(step.results["hold"]["booking"])
        await self._write_calendars(self._talk(step), booking.revision, "booked")

    async def clear(self, step: StepContext) -> None:
        """Cancel the entries by a decision of its own, later than the hold."""
        talk = self._talk(step)
        decision = await self.store.commit(
            [],
            [Put(f"cancelled/{step.saga_id}", self.name.encode())],
            op_id=f"{step.saga_id}/clear",
        )
        await self._write_calendars(talk, decision.revision, "cancelled")

    async def _write_calendars(self, talk: Talk, revision: int, state: str) -> None:
        entry = (revision, state, talk.room, talk.start.isoformat(), talk.end.isoformat())
        with self.agent.batch():
            for person in talk.people:
                self.agent.document(calendar(person, talk), MaxRegister).set(entry)
        await self.agent.durable(self.agent.version())

    # -- notifications

    async def announce(self, step: StepContext) -> None:
        """Say `booked` once in the talk's stream; the notifier carries it to the inboxes."""
        talk = self._talk(step)
        await self._say(step, talk, "booked", op_id=f"{step.saga_id}/booked")

    async def withdraw(self, step: StepContext) -> None:
        """Say `cancelled`, if `booked` was said; if it was not, make sure that it never will be.

        An organizer that was only slow may still be about to say it. So its op_id is taken away:
        either `booked` has used it, or nobody can use it for that any more.
        """
        talk = self._talk(step)
        try:
            await self._say(step, talk, "never booked", op_id=f"{step.saga_id}/booked")
        except OperationIdReusedError:
            await self._say(step, talk, "cancelled", op_id=f"{step.saga_id}/cancelled")

    async def _say(self, step: StepContext, talk: Talk, change: str, *, op_id: str) -> None:
        data = {"talk": talk.id, "people": list(talk.people), "attempt": step.input["attempt"]}
        await self.log.append(stream_of(talk), [NewEvent(change, data)], op_id=op_id)

    # -- confirm

    async def confirm(self, step: StepContext) -> dict[str, Any]:
        """Make the hold a booking, or learn that it expired."""
        held = step.results["hold"]
        if held["oversleep_s"]:
            await asyncio.sleep(held["oversleep_s"])
        try:
            booking = await self.rooms.confirm(Booking.from_json(held["booking"]))
        except BookingEndedError as ended:
            raise StepRefused(str(ended)) from ended
        return {"booking": booking.to_json(), "by": self.name}

    # -- what nobody waits for

    def audience(self, talks: Iterable[Talk]) -> None:
        """Votes, answers and preferences around talks: local writes in one batch, no waiting."""
        with self.agent.batch():
            for talk in talks:
                votes = self.agent.document(f"votes/{talk.key}", PNCounter)
                votes.increment(self.dice.randint(1, 9))
                for person in talk.people:
                    answer = self.agent.document(f"answer/{person}/{talk.key}", LWWRegister)
                    answer.set(self.dice.choice(["accepted", "tentative"]))
                    self.agent.document(f"preferences/{person}", ORSet).add(talk.track)

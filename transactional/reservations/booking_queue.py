"""The queue of new bookings: those that wait at the same time are made in one commit.

Every booking of one process joins its queue.  While a commit is on its way the next requests
gather; then all of them are judged in order on one draft schedule, each against the days as they
are remembered and against those before it, and what fits goes into one commit, which compares every
day that was looked at::

    book(a) --+
    hold(b) --+--> [a ok, b ok, c refused for a, d ok] --> commit {a, b, d} --> answers
    book(c) --+
    book(d) --+

A refusal rests on the same compares, so it is given after the commit and holds at that point in
time; if there is nothing to commit, the days are read anew first.  If a rival of another process
wrote to one of the days, nothing is written, that day is read anew and all is judged again.

So a process makes its bookings one group after the other, a lone one costs one commit and no read,
and refusing one costs nobody else anything.  A request that makes a commit impossible (a note of
megabytes) is served on its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from transactional.commit_queue import CommitQueue
from transactional.errors import (
    OperationIdReusedError,
    OutcomeUnknownError,
    UnavailableError,
)
from transactional.reservations.booking import (
    Booking,
    BookingState,
    HoldExpired,
    Wanted,
    decode_made,
    encode_made,
    ids_of,
)
from transactional.reservations.schedule import CommitFull, DraftSchedule, NoCapacity
from transactional.retry import Decision, check_guards, decided
from transactional.values import Absent, Put

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from transactional.commit_queue import Group
    from transactional.errors import ConflictError
    from transactional.reservations.schedule import Schedule
    from transactional.store import Store
    from transactional.values import Compare


@dataclass(slots=True)
class Request:
    """One request on its way: what is wanted, under which name, and who waits for it.

    `ttl_s` None books at once.  `made` is the key under which is kept what it made.  With an
    idempotency `key` its name follows from that.  `guards` are compares that the caller brings: a
    request that has some is served alone, because its neighbours do not rest on them.
    """

    wanted: tuple[Wanted, ...]
    name: str
    made: str
    holder: str
    ttl_s: float | None
    key: str | None
    guards: tuple[Compare, ...]
    answer: asyncio.Future[tuple[Booking, ...]]

    bytes: ClassVar[int] = 0  # a booking is small; one that is not is found out by the store

    @property
    def alone(self) -> bool:
        """Whether it must not share a commit."""
        return bool(self.guards)

    @property
    def operations(self) -> int:
        """About how many compares or writes it adds to a commit; the draft counts exactly."""
        return sum([part.interval.duration.days + 1 for part in self.wanted]) + 1

    @property
    def kind(self) -> str:
        """How it asks: what is repeated under one key asks alike."""
        return "book" if self.ttl_s is None else "hold"

    def drafts(self, now: datetime) -> list[Booking]:
        """The bookings as they would be made at `now`, without buffers."""
        state = BookingState.CONFIRMED if self.ttl_s is None else BookingState.HELD
        expires_at = None if self.ttl_s is None else now + timedelta(seconds=self.ttl_s)
        return [
            Booking(name, w.resource, w.interval, self.holder, state, expires_at, w.note)
            for name, w in zip(ids_of(self.name, len(self.wanted)), self.wanted, strict=True)
        ]


@dataclass(slots=True)
class _Round:
    """What one judgement of a group came to, at `now`."""

    now: datetime
    drafted: DraftSchedule
    accepted: list[tuple[Request, list[Booking]]] = field(default_factory=list)
    refused: list[tuple[Request, NoCapacity]] = field(default_factory=list)
    postponed: list[Request] = field(default_factory=list)


class BookingQueue:
    """Where the bookings of one process are made, a group at a time."""

    def __init__(self, store: Store, schedule: Schedule) -> None:
        self._store = store
        self._schedule = schedule
        self._queue = CommitQueue[Request](
            self._serve,
            what="bookings",
            operations_max=store.capabilities.max_operations,
            bytes_max=0,
        )

    async def place(self, request: Request) -> tuple[Booking, ...]:
        """Queue the request and wait for its answer.

        A caller that is cancelled may still be given what he asked for.
        """
        made: tuple[Booking, ...] = await self._queue.put(request)
        return made

    @property
    def busy(self) -> asyncio.Lock:
        """Held while a group is served; whoever holds it has the days for himself."""
        return self._queue.busy

    async def _serve(self, group: Group[Request]) -> None:
        async def decide(conflict: ConflictError | None) -> Decision[_Round]:
            if conflict is not None:
                self._schedule.doubt(conflict.failed)
                await self._answer_repeats(group, conflict)
                for request in group.waiting:
                    check_guards(conflict, request.guards)
            judged = await self._judge(group.waiting, anew=False)
            if not judged.accepted and judged.refused and judged.drafted.remembered:
                judged = await self._judge(group.waiting, anew=True)
            if not judged.accepted:
                return Decision(judged)
            compares, writes = judged.drafted.compares(), [*judged.drafted.writes.values()]
            group.propose([request for request, _ in judged.accepted])
            for request, drafts in judged.accepted:
                compares += request.guards
                writes.append(Put(request.made, encode_made(request.kind, drafts)))
                if request.key is not None:
                    compares.append(Absent(request.made))
            return Decision(judged, compares, writes)

        judged, revision = await decided(self._store, decide)
        await self._answer_all(group, judged, revision)

    async def _answer_all(self, group: Group[Request], judged: _Round, revision: int) -> None:
        """Answer everybody by the judgement that stands; the postponed go back into the queue."""
        if revision:
            entered = self._schedule.committed(judged.drafted, revision)
            for request, drafts in judged.accepted:
                group.answer(request, tuple(entered[d.id] for d in drafts))
        for request in judged.postponed:
            group.postpone(request)
        refusals = [self._refuse(group, judged, *refused) for refused in judged.refused]
        # All of them end before one that failed is served again: none may answer behind its back.
        for failure in await asyncio.gather(*refusals, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _judge(self, waiting: Sequence[Request], *, anew: bool) -> _Round:
        wanted = [part for request in waiting for part in request.wanted]
        # The time and the days are asked for at once: no compare rests on which was first.
        now, drafted = await asyncio.gather(
            self._store.now(), self._schedule.open(wanted, anew=anew)
        )
        judged = _Round(now, drafted)
        operations_max = self._store.capabilities.max_operations
        for request in waiting:
            entries = [drafted.under_rules(draft) for draft in request.drafts(now)]
            room = operations_max - len(judged.accepted) - 1 - len(request.guards)
            try:
                drafted.enter(entries, now, room=room)
            except NoCapacity as no_capacity:
                judged.refused.append((request, no_capacity))
            except CommitFull:
                judged.postponed.append(request)
            else:
                judged.accepted.append((request, entries))
        return judged

    async def _answer_repeats(self, group: Group[Request], conflict: ConflictError) -> None:
        """Answer those whose idempotency key has made a booking before."""
        for request in group.waiting:
            if request.key is not None and conflict.current.get(request.made) is not None:
                await self._answer_repeat(group, request)

    async def _answer_repeat(self, group: Group[Request], request: Request) -> None:
        try:
            first = await self._first_made(request)
        except (UnavailableError, OutcomeUnknownError):
            raise
        except Exception as error:  # noqa: BLE001 it is his alone
            group.refuse(request, error)
        else:
            group.answer(request, first)

    async def _refuse(
        self, group: Group[Request], judged: _Round, request: Request, why: NoCapacity
    ) -> None:
        if request.key is not None and await self._store.get(request.made) is not None:
            await self._answer_repeat(group, request)  # a repeat is not in its own way
            return
        conflict = await self._schedule.conflict(why, judged.now, judged.drafted)
        group.refuse(request, conflict)

    async def _first_made(self, request: Request) -> tuple[Booking, ...]:
        """What the idempotency key made before, as it stands now: all of it still live.

        Raises:
            OperationIdReusedError: it made something else, or a hold where a booking is asked for.
            HoldExpired, BookingEndedError: of what it made something is not live any more.
        """
        entry = await self._store.get(request.made)
        assert entry is not None, "only a key that was seen is asked"
        kind, first = decode_made(entry.value)
        asked = [(part.resource, part.interval, request.holder) for part in request.wanted]
        if kind != request.kind or [(b.resource, b.interval, b.holder) for b in first] != asked:
            raise OperationIdReusedError(request.key or "")
        stands = [await self._schedule.current(booking) for booking in first]
        now = await self._store.now()
        for booking in stands:
            if booking.lapsed(now):
                raise HoldExpired(booking, None)
        return tuple(stands)

"""Reservations: many agents book the same rooms, and no two bookings ever share an instant.

How a hold is decided
---------------------
Read the day buckets that the wanted interval touches, each at its own revision; decide on what was
read; commit with `Unchanged(bucket, since=that revision)`.  If anything entered or left one of the
buckets in between, the commit fails, nothing is written, and the decision is made anew on the new
state.  So overlap is decided *inside* the commit (snapshot isolation alone would let two different
keys in, a write skew), and rivals on other days or other rooms never meet.

How time enters
---------------
`expires_at` is data, written by the authority's clock; there is no lease and no timer behind it.
Confirm, extend, release and steal all compare the hold's revision, so exactly one of them comes
first, however wrong a clock may be: a clock that runs fast lets a hold be stolen early, and its
owner is then told `HoldExpired`; it can not let two own the same time.

Within one process new bookings share one queue (`booking_queue`), because rivals that share a loop
would only make each other's commits fail; between processes the compares decide.  One hold costs
one commit, and one read of a bucket (a second one only around midnight) unless this process wrote
the bucket last; confirm, release, extend and cancel cost one commit and a look at the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from transactional.errors import InvalidTimeError
from transactional.reservations.booking import (
    Booking,
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    ReservationLayout,
    Resource,
    Wanted,
    days_of,
    decode_made,
    encode,
    encode_rules,
    requests_of,
)
from transactional.reservations.booking_queue import BookingQueue, Request
from transactional.reservations.ends import Ends
from transactional.reservations.schedule import (
    FREE_SLOTS_MAX,
    DraftSchedule,
    NoCapacity,
    Schedule,
    ending,
    too_many_days,
)
from transactional.retry import Decision, check_guards, decided, settled_commit
from transactional.store import scan_names
from transactional.sweeper import RETENTION_S, Sweeper, check_retention
from transactional.tokens import fresh_token
from transactional.values import Put, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from transactional.errors import ConflictError
    from transactional.reservations.interval import Interval
    from transactional.store import Store
    from transactional.values import Compare, Write

HOLD_TTL_S_MAX: Final = 30 * 86_400
"""Longest hold; whoever needs the time for longer books it."""


AnyBooking = Booking | Mapping[str, Any]
"""A booking, or what its `to_json` gave: the result of a saga's step, say."""


class Reservations:
    """Holds and bookings of any number of resources in one store.

    Resources need no registration: one that was never `define`d has capacity 1 and no buffers.
    Every mutation is safe to repeat.  Creation takes an `idempotency_key`, and repeating it returns
    the first booking as it stands, or says that it is over; the others are idempotent by the
    booking's state.  All take `compares=`, and `fence=` of a lock, which hold in the same commit or
    refuse it.  All methods raise UnavailableError if the store could not decide.

    How a booking ended, and what an idempotency key made, is kept for `retention_s` after the end,
    at least 7 days, and is then taken away in passing (`compact` does it at once): its id is then
    unknown, and its key makes a new booking.  Confirmed bookings of the past stay.
    """

    def __init__(
        self,
        store: Store,
        *,
        namespace: str = "reservation",
        new_id: Callable[[], str] = lambda: fresh_token()[:16],
        retention_s: float = RETENTION_S,
    ) -> None:
        check_retention(retention_s)
        self._store = store
        self._layout = layout = ReservationLayout(namespace)
        ends = Ends(store, layout)
        self._sweepers = (
            Sweeper(store, layout.all(), layout.swept("of"), ends.of_bookings, retention_s),
            Sweeper(store, layout.made(), layout.swept("made"), ends.of_requests, retention_s),
        )
        self._new_id = new_id
        self._schedule = Schedule(store, self._layout)
        self._queue = BookingQueue(store, self._schedule)

    # --- rules of a resource --------------------------------------------------------------------

    async def define(self, resource: str, rules: Resource) -> None:
        """Set capacity and buffers for the bookings of `resource` made from now on."""
        key = self._layout.rules(resource)
        await settled_commit(self._store, [], [Put(key, encode_rules(rules))])
        self._schedule.forget_rules()

    async def rules(self, resource: str) -> Resource:
        """The rules in force."""
        self._schedule.forget_rules()
        return await self._schedule.rules(resource)

    # --- making bookings ------------------------------------------------------------------------

    async def hold(
        self,
        resource: str,
        interval: Interval,
        *,
        holder: str,
        ttl_s: float,
        note: str = "",
        idempotency_key: str | None = None,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> Booking:
        """Keep the time for `holder` for `ttl_s` seconds: a semantic lock until `confirm`.

        Raises:
            BookingConflict: the time is taken; nothing was written.
            ConflictError: a compare, or a lock's fence, did not hold; nothing was written.
            OperationIdReusedError: the idempotency key made something else; nothing was written.
            HoldExpired, BookingEndedError: the key made this hold before, and it is over.
        """
        wanted = [Wanted(resource, interval, note)]
        (held,) = await self.hold_many(
            wanted,
            holder=holder,
            ttl_s=ttl_s,
            idempotency_key=idempotency_key,
            compares=compares,
            fence=fence,
        )
        return held

    async def book(
        self,
        resource: str,
        interval: Interval,
        *,
        holder: str,
        note: str = "",
        idempotency_key: str | None = None,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> Booking:
        """Book the time at once, without a hold.  Raises as `hold` does.

        A key under which the time was held is refused: `confirm` makes a hold a booking.
        """
        wanted = (Wanted(resource, interval, note),)
        guards = (*compares, *fence)
        (made,) = await self._place(wanted, holder, None, idempotency_key, guards)
        return made

    async def hold_many(
        self,
        wanted: Sequence[Wanted],
        *,
        holder: str,
        ttl_s: float,
        idempotency_key: str | None = None,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> tuple[Booking, ...]:
        """Hold all these times in one commit, or none: a series, or several resources at once.

        `confirm_many` books them.  Raises as `hold` does, and InvalidRequestError as `book_many`.
        """
        _check_ttl(ttl_s)
        guards = (*compares, *fence)
        return await self._place(tuple(wanted), holder, ttl_s, idempotency_key, guards)

    async def book_many(
        self,
        wanted: Sequence[Wanted],
        *,
        holder: str,
        atomic: bool = True,
        idempotency_key: str | None = None,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> tuple[Booking | BookingConflict | BookingEndedError, ...]:
        """Book several times, of several resources if need be, in the order given.

        With `atomic` all are booked in one commit, or BookingConflict is raised and none is.
        Without, each is decided on its own and the answer holds a Booking or the refusal: a
        BookingConflict, or BookingEndedError where the key booked it before and it was given back.

        Raises:
            InvalidRequestError: with `atomic`, the parts take more days of resources than a commit
                holds: 126 on our engines, less one for each compare.  Nothing was sent.
        """
        guards = (*compares, *fence)
        if atomic:
            return await self._place(tuple(wanted), holder, None, idempotency_key, guards)
        answers: list[Booking | BookingConflict | BookingEndedError] = []
        for number, part in enumerate(wanted):
            key = f"{idempotency_key}/{number}" if idempotency_key is not None else None
            try:
                answers += await self._place((part,), holder, None, key, guards)
            except (BookingConflict, BookingEndedError) as refusal:
                answers.append(refusal)
        return tuple(answers)

    # --- changing bookings ----------------------------------------------------------------------

    async def confirm(
        self, hold: AnyBooking, *, compares: Iterable[Compare] = (), fence: Iterable[Compare] = ()
    ) -> Booking:
        """Make a hold a booking.  A booking that is confirmed already is returned as it is.

        Raises:
            HoldExpired: too late; `taken_by` names whoever took the time.  Nothing was written.
            BookingEndedError: it was released or cancelled.  Nothing was written.
            ConflictError: a compare, or a lock's fence, did not hold.  Nothing was written.
        """
        (made,) = await self.confirm_many([hold], compares=compares, fence=fence)
        return made

    async def confirm_many(
        self,
        holds: Sequence[AnyBooking],
        *,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> tuple[Booking, ...]:
        """Make all these holds bookings, in one commit, or none.  Raises as `confirm` does."""

        def confirmed(current: Booking, now: datetime) -> Booking | None:
            if current.state is BookingState.CONFIRMED:
                return None
            _check_in_time(current, now)
            return replace(current, state=BookingState.CONFIRMED, expires_at=None)

        return await self._change(holds, confirmed, (*compares, *fence))

    async def extend(
        self,
        hold: AnyBooking,
        *,
        ttl_s: float,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> Booking:
        """Let a hold end `ttl_s` seconds from now.  Raises as `confirm` does."""
        _check_ttl(ttl_s)

        def extended(current: Booking, now: datetime) -> Booking | None:
            if current.state is BookingState.CONFIRMED:
                return None
            _check_in_time(current, now)
            return replace(current, expires_at=now + timedelta(seconds=ttl_s))

        (held,) = await self._change([hold], extended, (*compares, *fence))
        return held

    async def release(
        self, hold: AnyBooking, *, compares: Iterable[Compare] = (), fence: Iterable[Compare] = ()
    ) -> bool:
        """Give a hold back.  False, and no effect, if it is not a live hold any more."""

        def released(current: Booking, now: datetime) -> Booking | None:
            if current.state is not BookingState.HELD or current.lapsed(now):
                return None
            return replace(current, state=BookingState.RELEASED)

        return await self._end(hold, released, (*compares, *fence))

    async def cancel(
        self,
        booking: AnyBooking,
        *,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> bool:
        """Give a booking or hold back.  False, and no effect, if it is not live any more."""

        def cancelled(current: Booking, now: datetime) -> Booking | None:
            if current.lapsed(now):
                return None
            held = current.state is BookingState.HELD
            return replace(current, state=BookingState.RELEASED if held else BookingState.CANCELLED)

        return await self._end(booking, cancelled, (*compares, *fence))

    async def move(
        self,
        booking: AnyBooking,
        interval: Interval,
        *,
        resource: str | None = None,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> Booking:
        """Give the booking another time, or another resource, in one commit.

        Its own present time does not stand in its way.  Id, holder, state and expiry stay.

        Raises:
            BookingConflict: the new time is taken; the booking stands where it stood.
            HoldExpired, BookingEndedError, ConflictError: as for `confirm`.
        """
        current = _booking(booking)
        booking_id, target = current.id, resource or current.resource
        guards = (*compares, *fence)

        async def decide(conflict: ConflictError | None) -> Decision[DraftSchedule | Booking]:
            nonlocal current
            check_guards(conflict, guards)
            now = await self._store.now()
            doubtful = conflict is not None or not current.live or current.lapsed(now)
            if doubtful or (current.resource, current.interval) == (target, interval):
                current = await self._schedule.current(current)
                self._schedule.forget_rules()
            if conflict is not None:
                self._schedule.doubt(conflict.failed)
            if (current.resource, current.interval) == (target, interval):
                return Decision(current)
            _check_in_time(current, now)
            token = Revision(self._layout.copies(current)[0], current.revision)
            try:
                drafted = await self._schedule.move(current, target, interval, now)
            except NoCapacity as no_capacity:
                await self._schedule.current(current)  # whether it has ended comes first
                raise await self._schedule.conflict(no_capacity, now) from None
            return Decision(
                drafted, [*drafted.compares(), token, *guards], [*drafted.writes.values()]
            )

        async with self._queue.busy:  # our own bookings would only make the commit fail
            moved, revision = await decided(self._store, decide)
            if isinstance(moved, Booking):
                return moved
            return self._schedule.committed(moved, revision)[booking_id]

    # --- reading --------------------------------------------------------------------------------

    async def get(self, booking_id: str) -> Booking | None:
        """The booking or hold of this id as it stands, wherever it was moved; None if none has it.

        One that is over is returned with its end as its state (a hold whose time is over and which
        nobody has taken is still HELD).  What is returned is the token for `confirm`, `move`, ...
        """
        names = [self._layout.made(name) for name in requests_of(booking_id)]
        for entry in (await self._store.get_many(names)).items.values():
            for first in decode_made(entry.value)[1]:
                if first.id == booking_id:
                    try:
                        return await self._schedule.current(first)
                    except BookingEndedError as end:
                        return end.booking
        return None

    async def current(self, booking: AnyBooking) -> Booking:
        """The booking as it stands, wherever it was moved.

        Raises:
            HoldExpired, BookingEndedError: it is not live any more.
        """
        return await self._schedule.current(_booking(booking))

    async def agenda(
        self, resource: str, within: Interval | None = None, *, lapsed: bool = False
    ) -> tuple[Booking, ...]:
        """Live bookings and holds of `resource` in order of start, those that occupy `within`.

        With `lapsed` also the holds whose time is over and which nobody has taken yet.  Each page
        of 1000 keys is read at one revision of its own.
        """
        return await self._schedule.agenda(resource, within, lapsed=lapsed)

    async def ended(self, resource: str) -> tuple[Booking, ...]:
        """Holds that expired or were released, bookings that were cancelled; in order of start.

        A hold that lapsed and was taken by nobody counts as EXPIRED, with `taken_by` None.
        """
        return await self._schedule.ended(resource)

    async def resources(self) -> tuple[str, ...]:
        """The resources that have bookings, live or ended, in order.  One read for each."""
        names = scan_names(self._store, self._layout.all())
        return tuple([unquote(name) async for name in names])

    async def free(
        self, resource: str, within: Interval, length: timedelta, *, count: int = FREE_SLOTS_MAX
    ) -> tuple[Interval, ...]:
        """The earliest stretch of `length` in each of the next `count` gaps inside `within`.

        Raises:
            InvalidTimeError: the length is none, or the window is longer than ten years.
        """
        now = await self._store.now()
        return await self._schedule.free(resource, within, length, now, count)

    # --- deciding -------------------------------------------------------------------------------

    async def _place(
        self,
        wanted: tuple[Wanted, ...],
        holder: str,
        ttl_s: float | None,
        key: str | None,
        guards: tuple[Compare, ...],
    ) -> tuple[Booking, ...]:
        """The one door through which bookings enter."""
        if not wanted:
            return ()
        days = {(part.resource, day) for part in wanted for day in days_of(part.interval)}
        allowed = self._store.capabilities.max_operations - 2 - len(guards)
        if len(days) > allowed:  # buffers may add more, which the draft will show
            raise too_many_days(len(days), allowed)
        name = self._new_id() if key is None else _name_from(key)
        answer = asyncio.get_running_loop().create_future()
        made = self._layout.made(name)
        request = Request(wanted, name, made, holder, ttl_s, key, guards, answer)
        placed = await self._queue.place(request)
        await self._pass_by()
        return placed

    # --- taking away what is old ----------------------------------------------------------------

    async def compact(self) -> int:
        """Take away all ends, records and lapsed holds that are older than the retention.

        How many; O(bookings and records), a page at a time.
        """
        return sum([await sweeper.sweep() for sweeper in self._sweepers])

    async def _pass_by(self) -> None:
        for sweeper in self._sweepers:
            await sweeper.pass_by()

    # --- changing -------------------------------------------------------------------------------

    async def _change(
        self,
        bookings: Sequence[AnyBooking],
        change: Callable[[Booking, datetime], Booking | None],
        guards: tuple[Compare, ...],
    ) -> tuple[Booking, ...]:
        """Rewrite live bookings in their places or end them; `change` returns None to leave one."""
        stand = [_booking(one) for one in bookings]

        async def decide(conflict: ConflictError | None) -> Decision[list[Booking]]:
            check_guards(conflict, guards)
            now = await self._store.now()
            compares: list[Compare] = [*guards]
            writes: list[Write] = []
            changed = []
            for place, current in enumerate(stand):
                if conflict is not None or not current.live or current.lapsed(now):
                    stand[place] = await self._schedule.current(current)
                after = change(stand[place], now)
                if after is None:
                    stand[place] = await self._schedule.current(stand[place])
                    changed.append(stand[place])
                    continue
                keys = self._layout.copies(stand[place])
                compares.append(Revision(keys[0], stand[place].revision))
                writes += (
                    [Put(key, encode(after)) for key in keys]
                    if after.live
                    else ending(self._layout, after)
                )
                changed.append(after)
            return Decision(changed, compares, writes)

        try:
            changed, revision = await decided(self._store, decide)
        finally:
            for booking in stand:
                self._schedule.changed(booking)
        rewritten = [before is not after for before, after in zip(stand, changed, strict=True)]
        return tuple(
            replace(booking, revision=revision) if new and revision else booking
            for booking, new in zip(changed, rewritten, strict=True)
        )

    async def _end(
        self,
        booking: AnyBooking,
        change: Callable[[Booking, datetime], Booking | None],
        guards: tuple[Compare, ...],
    ) -> bool:
        try:
            (ended,) = await self._change([booking], change, guards)
        except BookingEndedError:
            return False
        return not ended.live


def _booking(booking: AnyBooking) -> Booking:
    """A booking, from its JSON if it came by way of a saga's results or a request."""
    return booking if isinstance(booking, Booking) else Booking.from_json(booking)


def _name_from(idempotency_key: str) -> str:
    """A request's name that repeats with its key, so that a repeat meets the first request."""
    return blake2b(idempotency_key.encode(), digest_size=12).hexdigest()


def _check_ttl(ttl_s: float) -> None:
    if not 0 < ttl_s <= HOLD_TTL_S_MAX:
        raise InvalidTimeError(f"ttl_s lies above 0 and up to {HOLD_TTL_S_MAX}, got {ttl_s}")


def _check_in_time(booking: Booking, now: datetime) -> None:
    if booking.lapsed(now):
        raise HoldExpired(booking, None)

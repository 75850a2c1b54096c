"""The day book: what is entered on the days of a resource, and whether one more entry fits.

This is the reading and deciding half of the reservations.  It reads the day buckets that a draft
touches, each at a revision of its own, fits the draft between the entries, and answers with a
`Decision`: the writes, and the compares that make them fail if any of the buckets (or the rules)
changed since.  It writes nothing itself, so a decision can be thrown away at no cost.

Invariant of a decision: at every instant of a draft's occupied interval, live entries and earlier
drafts of the same decision together are fewer than the capacity.  Holds whose time is over do not
count; those in the way are ended by the same commit that takes their time, and told by whom.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from transactional.booking import (
    Booking,
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    Resource,
    Wanted,
    days_of,
    decode,
    decode_rules,
    encode,
    encode_with_place,
)
from transactional.interval import Interval, day_of, free_slots, fullest_instant
from transactional.settle import Decision
from transactional.store import Delete, Put, Revision, Unchanged, scan_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import datetime

    from transactional.booking import Layout
    from transactional.store import Compare, KeyValue, Snapshot, Store, Write

FREE_SLOTS_MAX: Final = 3
"""How many free stretches a conflict names."""

FREE_DAYS_MAX: Final = 7
"""How many days after the wanted ones are searched before a conflict names no free stretch."""

RULES_CACHED_MAX: Final = 10_000
"""How many resources' rules are remembered; they are compared in each commit, so age is no harm."""


HOPS_MAX: Final = 100
"""How many moves are followed from an old token to where the booking is now."""


class DayBook:
    """Entries of any number of resources, read from the store."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store = store
        self._layout = layout
        self._rules: dict[str, tuple[Resource, int]] = {}

    # --- rules ----------------------------------------------------------------------------------

    async def rules(self, resource: str) -> Resource:
        """The resource's rules, from memory if they were read before."""
        if resource not in self._rules:
            entry = await self._store.get(self._layout.rules(resource))
            if len(self._rules) >= RULES_CACHED_MAX:
                self._rules.clear()
            read = (decode_rules(entry.value), entry.revision) if entry else (Resource(), 0)
            self._rules[resource] = read
        return self._rules[resource][0]

    def forget_rules(self, *resources: str) -> None:
        """Read the rules of these anew when they are next needed."""
        for resource in resources:
            self._rules.pop(resource, None)

    # --- reading --------------------------------------------------------------------------------

    async def live(self, resource: str, within: Interval | None = None) -> AsyncIterator[Booking]:
        """Each entry that occupies some of `within`, once, lapsed holds too; in order of days."""
        prefix = self._layout.live(resource)
        after, last_day = None, "9999-99-99"
        if within is not None:
            days = within.days()
            after, last_day = f"{prefix}{days[0].isoformat()}", days[-1].isoformat()
        seen: set[str] = set()
        while True:
            page = await self._store.scan(prefix, after=after)
            for key, entry in page.items.items():
                if key[len(prefix) : len(prefix) + len(last_day)] > last_day:
                    return
                booking = decode(entry, resource)
                if booking.id not in seen and (within is None or booking.occupied.overlaps(within)):
                    seen.add(booking.id)
                    yield booking
            if not page.more:
                return
            after = list(page.items)[-1]

    async def current(self, booking: Booking) -> Booking:
        """The entry as it stands, wherever it was moved.

        Raises:
            HoldExpired, BookingEndedError: it is not live any more.
        """
        seen = booking
        for _ in range(HOPS_MAX):
            live_key = self._layout.copies(seen)[0]
            ended_key = self._layout.ended(seen.resource, seen.id)
            found = (await self._store.get_many([live_key, ended_key])).items
            if live_key in found:
                return decode(found[live_key], seen.resource)
            if ended_key not in found:
                raise BookingEndedError(booking, "there is no such booking")
            seen = decode(found[ended_key], seen.resource)
            if seen.state is BookingState.EXPIRED:
                raise HoldExpired(seen, seen.taken_by)
            if seen.state is not BookingState.MOVED:
                raise BookingEndedError(seen, f"it was {seen.state.value}")
        raise BookingEndedError(booking, f"it moved more than {HOPS_MAX} times")

    async def agenda(
        self, resource: str, within: Interval | None, *, lapsed: bool
    ) -> tuple[Booking, ...]:
        """Live entries in order of start; `lapsed` holds only if asked for."""
        now = await self._store.now()
        return _in_order(
            [b async for b in self.live(resource, within) if lapsed or not b.lapsed(now)]
        )

    async def ended(self, resource: str) -> tuple[Booking, ...]:
        """How entries ended, in order of start; holds that lapsed count as expired."""
        now = await self._store.now()
        entries = await scan_all(self._store, self._layout.ended(resource))
        ends = [decode(entry, resource) for entry in entries.items.values()]
        ends = [b for b in ends if b.state is not BookingState.MOVED]
        async for booking in self.live(resource):
            if booking.lapsed(now):
                ends.append(replace(booking, state=BookingState.EXPIRED))
        return _in_order(ends)

    async def free(
        self, resource: str, within: Interval, length: timedelta, now: datetime, count: int
    ) -> tuple[Interval, ...]:
        """The earliest stretch of `length` in each gap of `within`, buffers kept free around it."""
        rules = await self.rules(resource)
        window = within.widened(rules.before, rules.after)
        taken = [b.occupied async for b in self.live(resource, window) if not b.lapsed(now)]
        wide = free_slots(
            taken,
            window,
            rules.before + length + rules.after,
            capacity=rules.capacity,
            count=count,
        )
        return tuple(Interval(s.start + rules.before, s.end - rules.after) for s in wide)

    # --- deciding -------------------------------------------------------------------------------

    async def place(
        self, drafts: Sequence[Booking], now: datetime, *, instead_of: Booking | None = None
    ) -> Decision[tuple[Booking, ...]]:
        """Enter the drafts, in order; `instead_of` is an entry that leaves in the same commit.

        One scan per resource and day.

        Raises:
            BookingConflict: one of them does not fit.
        """
        buckets = await self._read(drafts)
        entered: list[Booking] = []
        writes: dict[str, Write] = {}
        for draft in drafts:
            rules = await self.rules(draft.resource)
            there = self._entries(buckets, draft)
            if instead_of is not None:
                there.pop(instead_of.id, None)
            rivals = [b for b in there.values() if b.occupied.overlaps(draft.occupied)]
            live = [b for b in rivals if not b.lapsed(now)]
            mates = [b for b in entered if b.resource == draft.resource]
            blockers = _blockers(draft, [*live, *mates], rules.capacity)
            if blockers:
                free = await self._next_free(draft, now)
                raise BookingConflict(draft.resource, draft.interval, blockers, free)
            for lapsed in (b for b in rivals if b.lapsed(now)):
                stolen = replace(lapsed, state=BookingState.EXPIRED, taken_by=draft.holder)
                writes.update((write.key, write) for write in self.ending(stolen))
            entered.append(draft)
        for draft in entered:
            writes.update((key, Put(key, encode(draft))) for key in self._layout.copies(draft))
        return Decision(tuple(entered), self._compares(buckets, drafts), tuple(writes.values()))

    async def draft(
        self, part: Wanted, booking_id: str, holder: str, expires_at: datetime | None
    ) -> Booking:
        """The entry as it would be made under the present rules."""
        rules = await self.rules(part.resource)
        return Booking(
            id=booking_id,
            resource=part.resource,
            interval=part.interval,
            holder=holder,
            state=BookingState.CONFIRMED if expires_at is None else BookingState.HELD,
            expires_at=expires_at,
            note=part.note,
            before=rules.before,
            after=rules.after,
        )

    async def move(
        self, current: Booking, resource: str, interval: Interval, now: datetime
    ) -> Decision[Booking]:
        """Enter `current` at another place and take it out of its own.

        Raises:
            BookingConflict: it does not fit there.
        """
        rules = await self.rules(resource)
        target = replace(
            current,
            resource=resource,
            interval=interval,
            before=rules.before,
            after=rules.after,
        )
        plan = await self.place([target], now, instead_of=current)
        old, new = self._layout.copies(current), self._layout.copies(target)
        writes = [*plan.writes, *(Delete(key) for key in old if key not in new)]
        if old[0] != new[0]:  # whoever comes with the old token is sent on from the old place
            trace = encode_with_place(replace(target, state=BookingState.MOVED))
            writes.append(Put(self._layout.ended(current.resource, current.id), trace))
        return Decision(target, [*plan.compares, Revision(old[0], current.revision)], writes)

    def ending(self, ended: Booking) -> list[Delete | Put]:
        """Take the entry out of its days and keep how it ended."""
        last = Put(self._layout.ended(ended.resource, ended.id), encode(ended))
        return [*(Delete(key) for key in self._layout.copies(ended)), last]

    def _compares(self, buckets: dict[str, Snapshot], drafts: Sequence[Booking]) -> list[Compare]:
        compares: list[Compare] = [Unchanged(p, read.revision) for p, read in buckets.items()]
        resources = dict.fromkeys(draft.resource for draft in drafts)
        return compares + [Revision(self._layout.rules(r), self._rules[r][1]) for r in resources]

    async def _read(self, drafts: Sequence[Booking]) -> dict[str, Snapshot]:
        prefixes = dict.fromkeys(
            self._layout.day(draft.resource, day)
            for draft in drafts
            for day in days_of(draft.occupied)
        )
        reads = [scan_all(self._store, prefix) for prefix in prefixes]
        pages = [await reads[0]] if len(reads) == 1 else await asyncio.gather(*reads)
        return dict(zip(prefixes, pages, strict=True))

    def _entries(self, buckets: dict[str, Snapshot], draft: Booking) -> dict[str, Booking]:
        found: dict[str, Booking] = {}
        for day in draft.occupied.days():
            entries: Iterable[KeyValue] = buckets[
                self._layout.day(draft.resource, day)
            ].items.values()
            for entry in entries:
                booking = decode(entry, draft.resource)
                found[booking.id] = booking
        return found

    async def _next_free(self, draft: Booking, now: datetime) -> tuple[Interval, ...]:
        """What is free from the wanted start on: on the days wanted, else in the week after."""
        start = draft.interval.start
        last_day = day_of(draft.interval.end.date())
        for further in (0, FREE_DAYS_MAX):
            window = Interval(start, last_day.end + timedelta(days=further))
            found = await self.free(
                draft.resource, window, draft.interval.duration, now, FREE_SLOTS_MAX
            )
            if found:
                return found
        return ()


def _blockers(draft: Booking, others: list[Booking], capacity: int) -> tuple[Booking, ...]:
    """Who is there at the fullest instant of the draft, if that leaves no room; else nobody."""
    count, instant = fullest_instant([b.occupied for b in others], draft.occupied)
    if count < capacity:
        return ()
    there = (b for b in others if b.occupied.contains(instant))
    return _in_order(there)


def _in_order(bookings: Iterable[Booking]) -> tuple[Booking, ...]:
    return tuple(sorted(bookings, key=lambda b: (b.interval, b.id)))

"""The day book: what is entered on the days of resources, read from the store or remembered.

The reading half of the reservations.  It opens the days that drafts touch as a `Sheet`, on which
`day_sheet` decides, follows a booking to where it is by now, lists agendas and looks for free time.
It writes nothing.

A sheet's days may come from memory (`day_cache`): that they are old shows in the commit.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from transactional.reservations.booking import (
    Booking,
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    Resource,
    days_of,
    decode,
    decode_rules,
    encode_with_place,
)
from transactional.reservations.day_cache import DayCache
from transactional.reservations.day_sheet import Full, Sheet, in_order, under
from transactional.reservations.interval import Interval, day_of, free_slots
from transactional.store import scan_all
from transactional.values import Delete, Put, Revision, Unchanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime

    from transactional.reservations.booking import Layout
    from transactional.store import Store
    from transactional.values import Compare

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
        self._days = DayCache(store)

    # --- rules ----------------------------------------------------------------------------------

    async def rules(self, resource: str) -> Resource:
        """The resource's rules, from memory if they were read before."""
        return (await self._known_rules(resource))[0]

    async def _known_rules(self, resource: str) -> tuple[Resource, int]:
        """The rules and the revision that wrote them, 0 if nobody did."""
        known = self._rules.get(resource)
        if known is None:
            entry = await self._store.get(self._layout.rules(resource))
            if len(self._rules) >= RULES_CACHED_MAX:
                self._rules.clear()
            known = (decode_rules(entry.value), entry.revision) if entry else (Resource(), 0)
            self._rules[resource] = known
        return known

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
        return in_order(
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
        return in_order(ends)

    async def free(
        self, resource: str, within: Interval, length: timedelta, now: datetime, count: int
    ) -> tuple[Interval, ...]:
        """The earliest stretch of `length` in each gap of `within`, buffers kept free around it."""
        rules = await self.rules(resource)
        around = _around(within, rules)
        taken = [b.occupied async for b in self.live(resource, around) if not b.lapsed(now)]
        return _free(taken, within, length, rules, count)

    # --- opening days ---------------------------------------------------------------------------

    async def open(self, drafts: Sequence[Booking], *, anew: bool = False) -> Sheet:
        """The days that the drafts occupy, with the buffers that their resources ask for.

        From memory unless `anew`; else one scan for each resource and day.
        """
        names = dict.fromkeys(draft.resource for draft in drafts)
        if anew:
            self.forget_rules(*names)
        remembered = not anew and any(name in self._rules for name in names)
        rules = {name: await self._known_rules(name) for name in names}
        missing: dict[str, str] = {}
        buckets = {}
        for draft in drafts:
            for day in days_of(under(rules[draft.resource][0], draft).occupied):
                prefix = self._layout.day(draft.resource, day)
                known = None if anew or prefix in buckets else self._days.known(prefix)
                if known is not None:
                    buckets[prefix] = known
                elif prefix not in buckets:
                    missing[prefix] = draft.resource
        remembered = remembered or bool(buckets)
        if missing:
            fetched = await self._days.fetch(missing)
            buckets.update((bucket.prefix, bucket) for bucket in fetched)
        return Sheet(self._layout, buckets, rules, remembered)

    def committed(self, sheet: Sheet, revision: int) -> Mapping[str, Booking]:
        """The sheet is in the store as of `revision`; its bookings as they stand there, by id."""
        for bucket in sheet.committed(revision):
            self._days.keep(bucket)
        written = {key.rpartition("/")[0] + "/" for key in sheet.writes}
        self._days.forget(written - sheet.buckets.keys())
        return sheet.entered

    def doubt(self, failed: Iterable[Compare]) -> None:
        """These compares did not hold: what they speak of is read anew when it is next needed."""
        rules = {self._layout.rules(name): name for name in self._rules}
        for compare in failed:
            if isinstance(compare, Unchanged):
                self._days.doubt(compare.prefix)
            elif isinstance(compare, Revision) and compare.key in rules:
                self.forget_rules(rules[compare.key])

    def changed(self, booking: Booking) -> None:
        """The booking was rewritten or ended in its place."""
        self._days.forget([key.rpartition("/")[0] + "/" for key in self._layout.copies(booking)])

    async def move(
        self, current: Booking, resource: str, interval: Interval, now: datetime
    ) -> Sheet:
        """A sheet with `current` entered at another place, and taken out of its own.

        Raises:
            Full: it does not fit there, which is not said on what is remembered.
        """
        draft = replace(current, resource=resource, interval=interval)
        sheet = await self.open([draft])
        try:
            sheet.enter([sheet.under_rules(draft)], now, instead_of=current)
        except Full:
            sheet = await self.open([draft], anew=True)
            sheet.enter([sheet.under_rules(draft)], now, instead_of=current)
        target = sheet.entered[current.id]
        old, new = self._layout.copies(current), self._layout.copies(target)
        sheet.writes.update((key, Delete(key)) for key in old if key not in new)
        if old[0] != new[0]:  # whoever comes with the old token is sent on from the old place
            key = self._layout.ended(current.resource, current.id)
            moved = replace(target, state=BookingState.MOVED)
            sheet.writes[key] = Put(key, encode_with_place(moved))
        return sheet

    # --- free time ------------------------------------------------------------------------------

    async def conflict(
        self, full: Full, now: datetime, sheet: Sheet | None = None
    ) -> BookingConflict:
        """The error that says who is in the way, and what is free in the week from there on.

        The wanted days are looked at on the `sheet` on which it was refused, before any reading.
        """
        draft = full.draft
        start, length = draft.interval.start, draft.interval.duration
        last_day = day_of(draft.interval.end.date())
        free: tuple[Interval, ...] = ()
        if sheet is not None:
            free = self._free_on(sheet, draft.resource, Interval(start, last_day.end), length, now)
        if not free:
            week = Interval(start, last_day.end + timedelta(days=FREE_DAYS_MAX))
            free = await self.free(draft.resource, week, length, now, FREE_SLOTS_MAX)
        return BookingConflict(draft.resource, draft.interval, full.blockers, free)

    def _free_on(
        self, sheet: Sheet, resource: str, window: Interval, length: timedelta, now: datetime
    ) -> tuple[Interval, ...]:
        """What is free in a window of which the sheet has all days; else nothing is known."""
        rules = sheet.rules[resource][0]
        days = [self._layout.day(resource, day) for day in _around(window, rules).days()]
        if not all(day in sheet.buckets for day in days):
            return ()
        there = {b.id: b for day in days for _, _, b in sheet.spans(day).values()}
        taken = [b.occupied for b in there.values() if not b.lapsed(now)]
        return _free(taken, window, length, rules, FREE_SLOTS_MAX)


def _around(window: Interval, rules: Resource) -> Interval:
    return window.widened(rules.before, rules.after)


def _free(
    taken: Iterable[Interval], window: Interval, length: timedelta, rules: Resource, count: int
) -> tuple[Interval, ...]:
    """The earliest stretch of `length` in each gap of `window`, buffers kept free around it."""
    wide = free_slots(
        taken,
        _around(window, rules),
        rules.before + length + rules.after,
        capacity=rules.capacity,
        count=count,
    )
    return tuple(Interval(s.start + rules.before, s.end - rules.after) for s in wide)

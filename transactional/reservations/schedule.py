"""The schedule: what is booked on the days of resources, read or remembered, and does one more fit?

Three things that are always looked at together, from the bottom up:

* a `DayBucket` is the set of live bookings of one resource and one UTC day *as of a revision*;
* a `DraftSchedule` is some days, opened to enter bookings.  It decides, without a store: `enter`
  takes bookings that are to be made together, looks at everything that shares an instant with them,
  and either adds them or says who is in the way (`NoCapacity`).  It takes any number of such
  entries, each judged against the ones before it, and in the end gives the writes, and the compares
  on which all that it said rests: its refusals too, so a refusal is as good as the commit that
  carries its compares;
* the `Schedule` is the reading half of the reservations: it opens the days that drafts touch,
  follows a booking to where it is by now, lists agendas, looks for free time.  It writes nothing.

Invariant: at every instant of an entered booking's occupied interval, live bookings are no more
than the capacity.  Holds whose time is over do not count; those in the way are ended by the same
commit that takes their time, and it is on record who took it.

What is remembered.  A bucket never becomes false, only old, and whoever decides on one compares
`Unchanged(bucket, since=revision)` in the same commit, so a decision on an old bucket is refused by
the store and costs a second try.  What memory saves is the read: a commit that held that compare
and wrote at revision R has shown that nothing else entered or left, so bucket and writes together
are the bucket as of R::

    bucket at 40  --commit(Unchanged(bucket, 40), writes) at 57-->  bucket + writes at 57

A day that rivals in other processes write to as well would be old almost every time.  So one that
proved out of date is not trusted for the next `DOUBTED_READS` readings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from transactional.errors import InvalidRequestError, InvalidTimeError
from transactional.reservations.booking import (
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
from transactional.reservations.interval import (
    Interval,
    day_of,
    free_slots,
    fullest_instant,
    later,
)
from transactional.store import scan_all, scan_pages
from transactional.values import Compare, Delete, KeyValue, Put, Unchanged, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime

    from transactional.reservations.booking import ReservationLayout
    from transactional.store import Store

FREE_SLOTS_MAX: Final = 3
"""How many free stretches a conflict names."""
DAYS_AT_ONCE: Final = 8
"""So many days are read each by a scan of its own, and nothing besides."""
WINDOW_DAYS_MAX: Final = 3_660
"""In how many days free time is looked for at once: ten years."""
FREE_DAYS_MAX: Final = 7
"""How many days after the wanted ones are searched before a conflict names no free stretch."""
RULES_CACHED_MAX: Final = 10_000
"""How many resources' rules are remembered; each commit compares them, so age does no harm."""
HOPS_MAX: Final = 100
"""How many moves are followed from an old token to where the booking is now."""
KEPT_BOOKINGS_MAX: Final = 50_000
"""Most bookings remembered, an empty day counting as one; all are forgotten when there are more."""
DAY_BOOKINGS_MAX: Final = 1000
"""A day with more bookings is read each time."""
DOUBTED_READS: Final = 16
"""How often a day is read anew after it proved to be shared with other processes."""


# --- one day --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DayBucket:
    """The live bookings of one resource and day as of `revision`, by id.

    Each with the ends of what it occupies, which are looked at far more often than the rest.
    """

    prefix: str
    revision: int
    spans: Mapping[str, tuple[datetime, datetime, Booking]]


def span(booking: Booking) -> tuple[datetime, datetime, Booking]:
    """The booking as it lies in a bucket."""
    occupied = booking.occupied
    return occupied.start, occupied.end, booking


# --- deciding on drafts, without a store ----------------------------------------------------------


class NoCapacity(Exception):  # noqa: N818 an answer, which its receiver makes into an error
    """The draft does not fit: those are there at its fullest instant."""

    def __init__(self, draft: Booking, blockers: tuple[Booking, ...]) -> None:
        super().__init__()
        self.draft = draft
        self.blockers = blockers


class CommitFull(Exception):  # noqa: N818 as above
    """The bookings may fit, but not into the same commit as those before them."""


_Spans = dict[str, "tuple[datetime, datetime, Booking]"]


@dataclass(slots=True)
class DraftSchedule:
    """Days and rules as they were read, and what has been entered since.

    The rules are those in force at `rules_at`, a revision.  `remembered` says that some of all this
    came from memory: what is decided on it needs its compares.
    """

    layout: ReservationLayout
    buckets: Mapping[str, DayBucket]
    rules: Mapping[str, Resource]
    rules_at: int
    remembered: bool
    writes: dict[str, Write] = field(default_factory=dict)
    entered: dict[str, Booking] = field(default_factory=dict)
    _days: dict[str, _Spans] = field(default_factory=dict)

    def under_rules(self, draft: Booking) -> Booking:
        """The draft with the buffers that the rules ask for."""
        return under(self.rules[draft.resource], draft)

    def spans(self, prefix: str) -> _Spans:
        """What is on one day by now."""
        spans = self._days.get(prefix)
        if spans is None:
            spans = self._days[prefix] = dict(self.buckets[prefix].spans)
        return spans

    def enter(
        self,
        drafts: Sequence[Booking],
        now: datetime,
        *,
        instead_of: Booking | None = None,
        room: int | None = None,
    ) -> None:
        """Enter all the drafts, or none; `instead_of` is a booking that leaves at the same time.

        `room` is how many compares and how many writes the draft may have in the end.

        Raises:
            NoCapacity: one of them does not fit.
            CommitFull: they are too much for one commit with those before.
            InvalidRequestError: they are too much for any commit.
        """
        if any(draft.id in self.entered for draft in drafts):
            raise CommitFull  # the same request again, which the commit will show
        if room is not None and (needed := self._compares_with(drafts)) > room:
            if not self._days:
                raise too_many_days(needed - 1, room - 1)
            raise CommitFull
        gone = [] if instead_of is None else [instead_of]
        writes: dict[str, Write] = {}
        for number, draft in enumerate(drafts):
            mates = [b for b in drafts[:number] if b.resource == draft.resource]
            for lapsed in self._make_room(draft, mates, now, instead_of):
                gone.append(lapsed)
                stolen = replace(lapsed, state=BookingState.EXPIRED, taken_by=draft.holder)
                writes.update((write.key, write) for write in ending(self.layout, stolen))
        for draft in drafts:
            value = encode(draft)
            for key in self.layout.copies(draft):
                writes[key] = Put(key, value)
        if room is not None and self.writes and len(self.writes) + len(writes) > room:
            raise CommitFull
        self.writes.update(writes)
        self._change(gone, drafts)

    def _change(self, gone: Sequence[Booking], drafts: Sequence[Booking]) -> None:
        for booking in gone:
            for prefix in self.days(booking):
                if prefix in self.buckets:
                    self.spans(prefix).pop(booking.id, None)
        for draft in drafts:
            self.entered[draft.id] = draft
            for prefix in self.days(draft):
                self.spans(prefix)[draft.id] = span(draft)

    def _make_room(
        self, draft: Booking, mates: list[Booking], now: datetime, instead_of: Booking | None
    ) -> list[Booking]:
        """The lapsed holds that the draft takes the time of, if there is room for it otherwise."""
        rivals = self._rivals(draft)
        if instead_of is not None:
            rivals.pop(instead_of.id, None)
        lapsed = [b for b in rivals.values() if b.lapsed(now)]
        others = [*rivals.values(), *mates]
        if lapsed:
            others = [b for b in others if not b.lapsed(now)]
        blockers = _blockers(draft, others, self.rules[draft.resource].capacity)
        if blockers:
            raise NoCapacity(draft, blockers)
        return lapsed

    def _compares_with(self, drafts: Sequence[Booking]) -> int:
        days = {prefix for draft in drafts for prefix in self.days(draft)}
        return len(days | self._days.keys()) + 1

    def compares(self) -> list[Compare]:
        """What everything that was entered or refused rests on."""
        days = [Unchanged(prefix, self.buckets[prefix].revision) for prefix in self._days]
        return [*days, Unchanged(self.layout.all_rules, self.rules_at)]

    def committed(self, revision: int) -> list[DayBucket]:
        """The buckets as of the commit that wrote all of it; `entered` is brought up to date."""
        for name, booking in self.entered.items():
            self.entered[name] = replace(booking, revision=revision)
        for spans in self._days.values():
            for name in self.entered.keys() & spans.keys():
                spans[name] = (*spans[name][:2], self.entered[name])
        return [DayBucket(prefix, revision, spans) for prefix, spans in self._days.items()]

    def days(self, booking: Booking) -> list[str]:
        """The prefixes of the days that it occupies."""
        days = days_of(booking.occupied)
        return [self.layout.day(booking.resource, day) for day in days]

    def _rivals(self, draft: Booking) -> dict[str, Booking]:
        """What shares an instant with the draft, by id."""
        start, end, _ = span(draft)
        return {
            booking.id: booking
            for prefix in self.days(draft)
            for since, until, booking in self.spans(prefix).values()
            if since < end and start < until
        }


def too_many_days(needed: int, allowed: int) -> InvalidRequestError:
    """The refusal of a request that no commit can hold."""
    return InvalidRequestError(
        f"the parts take {needed} days of resources together and one commit holds {allowed}: ask in"
        " several requests, or with atomic=False"
    )


def ending(layout: ReservationLayout, ended: Booking) -> list[Delete | Put]:
    """Take a booking out of its days and keep how it ended."""
    last = Put(layout.ended(ended.resource, ended.id), encode(ended))
    return [*(Delete(key) for key in layout.copies(ended)), last]


def under(rules: Resource, draft: Booking) -> Booking:
    """The draft with the buffers that the rules ask for."""
    if (draft.before, draft.after) == (rules.before, rules.after):
        return draft
    return replace(draft, before=rules.before, after=rules.after)


def in_order(bookings: Iterable[Booking]) -> tuple[Booking, ...]:
    """Bookings in order of their start."""
    return tuple(sorted(bookings, key=lambda b: (b.interval, b.id)))


def _blockers(draft: Booking, others: list[Booking], capacity: int) -> tuple[Booking, ...]:
    """Who is there at the fullest instant of the draft, if that leaves no room; else nobody."""
    if len(others) < capacity:
        return ()
    count, instant = fullest_instant([b.occupied for b in others], draft.occupied)
    if count < capacity:
        return ()
    return in_order(b for b in others if b.occupied.contains(instant))


# --- days that are remembered ---------------------------------------------------------------------


class DayCache:
    """Buckets that were read or written here, and the store behind them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._buckets: dict[str, DayBucket] = {}
        self._size = 0
        self._doubts: dict[str, int] = {}

    def known(self, prefix: str) -> DayBucket | None:
        """The bucket as it is remembered, None if it is not, or not to be trusted."""
        if self._doubts and (left := self._doubts.pop(prefix, 0)):
            self._doubts[prefix] = left - 1
            return None
        return self._buckets.get(prefix)

    async def fetch(self, prefixes: Mapping[str, str]) -> list[DayBucket]:
        """The buckets under `prefixes`, which map to their resources, read from the store."""
        if len(prefixes) == 1:  # a task of its own would cost more than the read
            return [await self._fetch(*pair) for pair in prefixes.items()]
        return await asyncio.gather(*(self._fetch(*pair) for pair in prefixes.items()))

    def keep(self, bucket: DayBucket) -> None:
        """Remember it instead of an older one."""
        self.forget([bucket.prefix])
        if len(bucket.spans) > DAY_BOOKINGS_MAX:
            return
        self._size += 1 + len(bucket.spans)
        if self._size > KEPT_BOOKINGS_MAX:
            self._buckets.clear()
            self._size = 1 + len(bucket.spans)
        self._buckets[bucket.prefix] = bucket

    def forget(self, prefixes: Iterable[str]) -> None:
        """Something was written there without a look at the rest of the day."""
        for prefix in prefixes:
            old = self._buckets.pop(prefix, None)
            if old is not None:
                self._size -= 1 + len(old.spans)

    def doubt(self, prefix: str) -> None:
        """The bucket was out of date when it was decided on."""
        self.forget([prefix])
        if len(self._doubts) >= KEPT_BOOKINGS_MAX:
            self._doubts.clear()
        self._doubts[prefix] = DOUBTED_READS

    async def _fetch(self, prefix: str, resource: str) -> DayBucket:
        page = await scan_all(self._store, prefix)
        bookings = [decode(entry, resource) for entry in page.items.values()]
        bucket = DayBucket(prefix, page.revision, {b.id: span(b) for b in bookings})
        known = self._buckets.get(prefix)
        if known is None or known.revision <= bucket.revision:
            self.keep(bucket)
        return bucket


# --- reading --------------------------------------------------------------------------------------


class Schedule:
    """Entries of any number of resources, read from the store."""

    def __init__(self, store: Store, layout: ReservationLayout) -> None:
        self._store = store
        self._layout = layout
        self._rules: dict[str, Resource] = {}
        self._rules_at = 0  # a revision at which all that is remembered of the rules was in force
        self._days = DayCache(store)

    # --- rules ----------------------------------------------------------------------------------

    async def rules(self, resource: str) -> Resource:
        """The resource's rules, from memory if they were read before."""
        rules, _ = await self._known_rules([resource])
        return rules[resource]

    async def _known_rules(self, resources: Iterable[str]) -> tuple[Mapping[str, Resource], int]:
        """The rules of each, and a revision since which they are in force if none was written."""
        known, known_at = self._rules, self._rules_at
        rules = {name: known[name] for name in resources if name in known}
        keys = {name: self._layout.rules(name) for name in resources if name not in known}
        if not keys:
            return rules, known_at
        page = await self._store.get_many(list(keys.values()))
        read = {name: page.items.get(key) for name, key in keys.items()}
        fresh = {name: decode_rules(e.value) if e else Resource() for name, e in read.items()}
        if self._rules is known and len(known) + len(fresh) <= RULES_CACHED_MAX:
            self._rules_at = min(self._rules_at, page.revision) if known else page.revision
            known.update(fresh)
        else:
            self._rules, self._rules_at = fresh, page.revision
        return rules | fresh, min(known_at, page.revision) if rules else page.revision

    def forget_rules(self) -> None:
        """Read all rules anew when they are next needed."""
        self._rules = {}

    # --- reading --------------------------------------------------------------------------------

    async def live(self, resource: str, within: Interval | None = None) -> AsyncIterator[Booking]:
        """Each entry that occupies some of `within`, once, lapsed holds too; in order of days."""
        seen: set[str] = set()
        async for entry in self._entries(resource, within):
            booking = decode(entry, resource)
            if booking.id not in seen and (within is None or booking.occupied.overlaps(within)):
                seen.add(booking.id)
                yield booking

    async def _entries(self, resource: str, within: Interval | None) -> AsyncIterator[KeyValue]:
        """The keys of the days of `within`, in order: those of other days are not read.

        Few days are scanned each for itself, if that gives them at one revision; else page by page.
        """
        prefix = self._layout.live(resource)
        after, last_day = None, "9999-99-99"
        if within is not None:
            days = within.days()
            after, last_day = f"{prefix}{days[0].isoformat()}", days[-1].isoformat()
            if len(days) <= DAYS_AT_ONCE:
                scan, day = self._store.scan, self._layout.day
                pages = await asyncio.gather(*(scan(day(resource, each)) for each in days))
                if len({page.revision for page in pages}) == 1 and not any(p.more for p in pages):
                    for page in pages:
                        for entry in page.items.values():
                            yield entry
                    return
        while True:
            page = await self._store.scan(prefix, after=after)
            for key, entry in page.items.items():
                if key[len(prefix) : len(prefix) + len(last_day)] > last_day:
                    return
                yield entry
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
        prefix = self._layout.ended(resource)
        ends = [decode(entry, resource) async for entry in scan_pages(self._store, prefix)]
        ends = [b for b in ends if b.state is not BookingState.MOVED]
        async for booking in self.live(resource):
            if booking.lapsed(now):
                ends.append(replace(booking, state=BookingState.EXPIRED))
        return in_order(ends)

    async def free(
        self, resource: str, within: Interval, length: timedelta, now: datetime, count: int
    ) -> tuple[Interval, ...]:
        """The earliest stretch of `length` in each gap of `within`, buffers kept free around it.

        Raises:
            InvalidTimeError: the length is none, or the window is longer than `WINDOW_DAYS_MAX`.
        """
        if length <= timedelta(0):
            raise InvalidTimeError(f"what is looked for needs a positive length, got {length}")
        if within.duration > timedelta(days=WINDOW_DAYS_MAX):
            raise InvalidTimeError(f"{within} is a window of more than {WINDOW_DAYS_MAX} days")
        rules = await self.rules(resource)
        around = _around(within, rules)
        taken = [b.occupied async for b in self.live(resource, around) if not b.lapsed(now)]
        return _free(taken, within, length, rules, count)

    # --- opening days ---------------------------------------------------------------------------

    async def open(
        self, wanted: Sequence[Wanted | Booking], *, anew: bool = False
    ) -> DraftSchedule:
        """The days that these would occupy, with the buffers that their resources ask for.

        From memory unless `anew`; else one scan for each resource and day.
        """
        names = list(dict.fromkeys(part.resource for part in wanted))
        if anew:
            self.forget_rules()
        remembered = any(name in self._rules for name in names)
        rules, rules_at = await self._known_rules(names)
        missing: dict[str, str] = {}
        buckets = {}
        for part in wanted:
            for day in days_of(_around(part.interval, rules[part.resource])):
                prefix = self._layout.day(part.resource, day)
                known = None if anew or prefix in buckets else self._days.known(prefix)
                if known is not None:
                    buckets[prefix] = known
                elif prefix not in buckets:
                    missing[prefix] = part.resource
        remembered = remembered or bool(buckets)
        if missing:
            fetched = await self._days.fetch(missing)
            buckets.update((bucket.prefix, bucket) for bucket in fetched)
        return DraftSchedule(self._layout, buckets, rules, rules_at, remembered)

    def committed(self, drafted: DraftSchedule, revision: int) -> Mapping[str, Booking]:
        """The draft is in the store as of `revision`; its bookings as they stand there, by id."""
        for bucket in drafted.committed(revision):
            self._days.keep(bucket)
        if drafted.rules_at <= self._rules_at:  # the commit has shown that none was written since
            self._rules_at = max(self._rules_at, revision)
        written = {key.rpartition("/")[0] + "/" for key in drafted.writes}
        self._days.forget(written - drafted.buckets.keys())
        return drafted.entered

    def doubt(self, failed: Iterable[Compare]) -> None:
        """These compares did not hold: what they speak of is read anew when it is next needed."""
        for compare in failed:
            if isinstance(compare, Unchanged) and compare.prefix == self._layout.all_rules:
                self.forget_rules()
            elif isinstance(compare, Unchanged):
                self._days.doubt(compare.prefix)

    def changed(self, booking: Booking) -> None:
        """The booking was rewritten or ended in its place."""
        self._days.forget([key.rpartition("/")[0] + "/" for key in self._layout.copies(booking)])

    async def move(
        self, current: Booking, resource: str, interval: Interval, now: datetime
    ) -> DraftSchedule:
        """A draft schedule with `current` entered at another place, and taken out of its own.

        Raises:
            NoCapacity: it does not fit there, which is not said on what is remembered.
        """
        draft = replace(current, resource=resource, interval=interval)
        drafted = await self.open([draft])
        try:
            drafted.enter([drafted.under_rules(draft)], now, instead_of=current)
        except NoCapacity:
            drafted = await self.open([draft], anew=True)
            drafted.enter([drafted.under_rules(draft)], now, instead_of=current)
        target = drafted.entered[current.id]
        old, new = self._layout.copies(current), self._layout.copies(target)
        drafted.writes.update((key, Delete(key)) for key in old if key not in new)
        if old[0] != new[0]:  # whoever comes with the old token is sent on from the old place
            key = self._layout.ended(current.resource, current.id)
            moved = replace(target, state=BookingState.MOVED)
            drafted.writes[key] = Put(key, encode_with_place(moved))
        return drafted

    # --- free time ------------------------------------------------------------------------------

    async def conflict(
        self, no_capacity: NoCapacity, now: datetime, drafted: DraftSchedule | None = None
    ) -> BookingConflict:
        """The error that says who is in the way, and what is free in the week from there on.

        The wanted days are looked at on the draft on which it was refused, before any reading.
        """
        draft = no_capacity.draft
        start, length = draft.interval.start, draft.interval.duration
        last_day = day_of(draft.interval.end.date())
        free: tuple[Interval, ...] = ()
        if drafted is not None:
            free = self._free_on(
                drafted, draft.resource, Interval(start, last_day.end), length, now
            )
        if not free:
            week = Interval(start, later(last_day.end, timedelta(days=FREE_DAYS_MAX)))
            free = await self.free(draft.resource, week, length, now, FREE_SLOTS_MAX)
        return BookingConflict(draft.resource, draft.interval, no_capacity.blockers, free)

    def _free_on(
        self,
        drafted: DraftSchedule,
        resource: str,
        window: Interval,
        length: timedelta,
        now: datetime,
    ) -> tuple[Interval, ...]:
        """What is free in a window of which the draft has all days; else nothing is known."""
        rules = drafted.rules[resource]
        days = [self._layout.day(resource, day) for day in _around(window, rules).days()]
        if not all(day in drafted.buckets for day in days):
            return ()
        there = {b.id: b for day in days for _, _, b in drafted.spans(day).values()}
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

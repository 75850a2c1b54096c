"""A sheet: some days of some resources, opened to enter bookings, and whether one more fits.

The deciding of reservations, without a store: `enter` takes bookings that are to be made together,
looks at everything that shares an instant with them, and either adds them to the sheet or says who
is in the way.  A sheet takes any number of such entries, each judged against the ones before it,
and in the end gives the writes, and the compares on which all that it said rests: its refusals too,
so a refusal is as good as the commit that carries its compares.

Invariant: at every instant of an entered booking's occupied interval, live bookings are no more
than the capacity.  Holds whose time is over do not count; those in the way are ended by the same
commit that takes their time, and told by whom.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from transactional.reservations.booking import Booking, BookingState, days_of, encode
from transactional.reservations.day_cache import Bucket, span
from transactional.reservations.interval import fullest_instant
from transactional.values import Compare, Delete, Put, Revision, Unchanged, Write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from transactional.reservations.booking import Layout, Resource


class Full(Exception):  # noqa: N818 an answer, which its receiver makes into an error
    """The draft does not fit: those are there at its fullest instant."""

    def __init__(self, draft: Booking, blockers: tuple[Booking, ...]) -> None:
        super().__init__()
        self.draft = draft
        self.blockers = blockers


class SheetFull(Exception):  # noqa: N818 as above
    """The bookings may fit, but not into the same commit as those before them."""


_Spans = dict[str, "tuple[datetime, datetime, Booking]"]


@dataclass(slots=True)
class Sheet:
    """Days and rules as they were read, and what has been entered since.

    `remembered` says that some of it came from memory: what is decided on it needs its compares.
    """

    layout: Layout
    buckets: Mapping[str, Bucket]
    rules: Mapping[str, tuple[Resource, int]]
    remembered: bool
    writes: dict[str, Write] = field(default_factory=dict)
    entered: dict[str, Booking] = field(default_factory=dict)
    _days: dict[str, _Spans] = field(default_factory=dict)
    _resources: dict[str, None] = field(default_factory=dict)

    def under_rules(self, draft: Booking) -> Booking:
        """The draft with the buffers that the rules ask for."""
        return under(self.rules[draft.resource][0], draft)

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

        `room` is how many compares and how many writes the sheet may have in the end, if these are
        not the first.

        Raises:
            Full: one of them does not fit.
            SheetFull: they are too much for one commit with those before.
        """
        if any(draft.id in self.entered for draft in drafts):
            raise SheetFull  # the same request again, which the commit is to settle
        if room is not None and self._days and self._compares_with(drafts) > room:
            raise SheetFull
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
            raise SheetFull
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
        self._resources[draft.resource] = None
        rivals = self._rivals(draft)
        if instead_of is not None:
            rivals.pop(instead_of.id, None)
        lapsed = [b for b in rivals.values() if b.lapsed(now)]
        others = [*rivals.values(), *mates]
        if lapsed:
            others = [b for b in others if not b.lapsed(now)]
        blockers = _blockers(draft, others, self.rules[draft.resource][0].capacity)
        if blockers:
            raise Full(draft, blockers)
        return lapsed

    def _compares_with(self, drafts: Sequence[Booking]) -> int:
        days = {prefix for draft in drafts for prefix in self.days(draft)}
        names = {draft.resource for draft in drafts}
        more = len(days - self._days.keys()) + len(names - self._resources.keys())
        return len(self._days) + len(self._resources) + more

    def compares(self) -> list[Compare]:
        """What everything that was entered or refused rests on."""
        compares: list[Compare] = [Unchanged(p, self.buckets[p].revision) for p in self._days]
        rules = [Revision(self.layout.rules(r), self.rules[r][1]) for r in self._resources]
        return compares + rules

    def committed(self, revision: int) -> list[Bucket]:
        """The buckets as of the commit that wrote all of it; `entered` is brought up to date."""
        for name, booking in self.entered.items():
            self.entered[name] = replace(booking, revision=revision)
        for spans in self._days.values():
            for name in self.entered.keys() & spans.keys():
                spans[name] = (*spans[name][:2], self.entered[name])
        return [Bucket(prefix, revision, spans) for prefix, spans in self._days.items()]

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


def ending(layout: Layout, ended: Booking) -> list[Delete | Put]:
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

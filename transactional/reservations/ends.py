"""Which old ends, records of requests and lapsed holds nobody can still ask for.

A booking is found by its id along a chain: what its request made, from there the place where it is
or the note that it was moved, and at last where it stands or how it ended. So the chain is taken
away from its far end: first the end, when it is old; then each note of a move that leads nowhere
any more; then the record of the request, when nothing that it made is there. What belongs to a live
booking stays, however old it is.

A hold that lapsed and that nobody took is no end yet, and lies where it was; it goes when it lapsed
so long ago, with all its copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transactional.clock import utc
from transactional.reservations.booking import decode, decode_made, is_end, named_in_made
from transactional.sweeper import PAGE_KEYS, Removal
from transactional.values import Delete, Revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transactional.reservations.booking import Booking, ReservationLayout
    from transactional.store import Store
    from transactional.values import KeyValue


class Ends:
    """Judges old keys; each method is a sweeper's `judge`."""

    def __init__(self, store: Store, layout: ReservationLayout) -> None:
        self._store = store
        self._layout = layout

    async def of_bookings(self, old: Sequence[KeyValue], before_us: int) -> list[Removal]:
        """Ends, moves that lead nowhere, and holds that lapsed before that time."""
        removals: list[Removal] = []
        moves: list[tuple[KeyValue, Booking]] = []
        for entry in old:
            resource, what = self._layout.parts(entry.key)
            if what == "ended" and is_end(entry.value):
                removals.append(_removal(entry, [entry.key]))
                continue
            booking = decode(entry, resource)
            if what == "ended":
                moves.append((entry, booking))
            elif booking.lapsed(utc(before_us)):
                copies = self._layout.copies(booking)
                if entry.key == copies[0]:
                    removals.append(_removal(entry, copies))
        targets = {entry.key: self._places(booking) for entry, booking in moves}
        there = await self._there(key for places in targets.values() for key in places)
        for entry, _ in moves:
            # In the same room the note of the move is itself under the name of the end.
            if there.isdisjoint(set(targets[entry.key]) - {entry.key}):
                removals.append(_removal(entry, [entry.key]))
        return removals

    async def of_requests(self, old: Sequence[KeyValue], _before_us: int) -> list[Removal]:
        """Records of requests of which nothing is left."""
        # Most have an end, which will go first: that is seen by a name, and nothing more is parsed.
        ends = {
            entry.key: [self._layout.ended(*named) for named in named_in_made(entry.value)]
            for entry in old
        }
        there = await self._there(key for keys in ends.values() for key in keys)
        rest = [entry for entry in old if there.isdisjoint(ends[entry.key])]
        places = {
            entry.key: [key for one in decode_made(entry.value)[1] for key in self._places(one)]
            for entry in rest
        }
        # Both places of each at one revision: it may have ended since.
        there = await self._there(key for keys in places.values() for key in keys)
        return [_removal(e, [e.key]) for e in rest if there.isdisjoint(places[e.key])]

    def _places(self, booking: Booking) -> tuple[str, str]:
        """Where it stands, or where its end or the note of its move does."""
        ended = self._layout.ended(booking.resource, booking.id)
        return self._layout.copies(booking)[0], ended

    async def _there(self, names: Iterable[str]) -> set[str]:
        """Which of these keys there are."""
        keys = list(dict.fromkeys(names))
        found: set[str] = set()
        for first in range(0, len(keys), PAGE_KEYS):
            found.update((await self._store.get_many(keys[first : first + PAGE_KEYS])).items)
        return found


def _removal(entry: KeyValue, keys: Sequence[str]) -> Removal:
    return Removal([Revision(entry.key, entry.revision)], [Delete(key) for key in keys])

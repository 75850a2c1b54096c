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
from transactional.reservations.booking import BookingState, decode, decode_made
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
            booking = decode(entry, resource)
            copies = self._layout.copies(booking)
            if what == "ended" and booking.state is BookingState.MOVED:
                moves.append((entry, booking))
            elif what == "ended":
                removals.append(_removal(entry, [entry.key]))
            elif booking.lapsed(utc(before_us)) and entry.key == copies[0]:
                removals.append(_removal(entry, copies))
        there = await self._there(booking for _, booking in moves)
        for entry, booking in moves:
            # In the same room the note of the move is itself under the name of the end.
            if not there.intersection(self._places(booking)) - {entry.key}:
                removals.append(_removal(entry, [entry.key]))
        return removals

    async def of_requests(self, old: Sequence[KeyValue], _before_us: int) -> list[Removal]:
        """Records of requests of which nothing is left."""
        made = [(entry, decode_made(entry.value)[1]) for entry in old]
        there = await self._there(booking for _, bookings in made for booking in bookings)
        return [
            _removal(entry, [entry.key])
            for entry, bookings in made
            if not any(there.intersection(self._places(booking)) for booking in bookings)
        ]

    def _places(self, booking: Booking) -> tuple[str, str]:
        """Where it stands, or where its end or the note of its move does."""
        ended = self._layout.ended(booking.resource, booking.id)
        return self._layout.copies(booking)[0], ended

    async def _there(self, bookings: Iterable[Booking]) -> set[str]:
        keys = list(dict.fromkeys(key for booking in bookings for key in self._places(booking)))
        found: set[str] = set()
        for first in range(0, len(keys), PAGE_KEYS):
            found.update((await self._store.get_many(keys[first : first + PAGE_KEYS])).items)
        return found


def _removal(entry: KeyValue, keys: Sequence[str]) -> Removal:
    return Removal([Revision(entry.key, entry.revision)], [Delete(key) for key in keys])

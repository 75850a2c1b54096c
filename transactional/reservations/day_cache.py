"""What this process remembers of days: buckets of bookings, each true at a revision.

A bucket is the set of live bookings of one resource and one UTC day *as of a revision*.  That never
becomes false, only old, and whoever decides on one compares `Unchanged(bucket, since=revision)` in
the same commit, so a decision on an old bucket is refused by the store and costs a second try.
What it saves is the read: a commit that held that compare and wrote at revision R has shown that
nothing else entered or left, so bucket and writes together are the bucket as of R::

    bucket at 40  --commit(Unchanged(bucket, 40), writes) at 57-->  bucket + writes at 57

A day that rivals in other processes write to as well would be old almost every time.  So one that
proved out of date is not trusted for the next `DOUBTED_READS` readings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from transactional.reservations.booking import decode
from transactional.store import scan_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from transactional.reservations.booking import Booking
    from transactional.store import Store

KEPT_BOOKINGS_MAX: Final = 50_000
"""Most bookings remembered, an empty day counting as one; all are forgotten when there are more."""
DAY_BOOKINGS_MAX: Final = 1000
"""A day with more bookings is read each time."""
DOUBTED_READS: Final = 16
"""How often a day is read anew after it proved to be shared with other processes."""


@dataclass(frozen=True, slots=True)
class Bucket:
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


class DayCache:
    """Buckets that were read or written here, and the store behind them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._buckets: dict[str, Bucket] = {}
        self._size = 0
        self._doubts: dict[str, int] = {}

    def known(self, prefix: str) -> Bucket | None:
        """The bucket as it is remembered, None if it is not, or not to be trusted."""
        if self._doubts and (left := self._doubts.pop(prefix, 0)):
            self._doubts[prefix] = left - 1
            return None
        return self._buckets.get(prefix)

    async def fetch(self, prefixes: Mapping[str, str]) -> list[Bucket]:
        """The buckets under `prefixes`, which map to their resources, read from the store."""
        if len(prefixes) == 1:  # a task of its own would cost more than the read
            return [await self._fetch(*pair) for pair in prefixes.items()]
        return await asyncio.gather(*(self._fetch(*pair) for pair in prefixes.items()))

    def keep(self, bucket: Bucket) -> None:
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

    async def _fetch(self, prefix: str, resource: str) -> Bucket:
        page = await scan_all(self._store, prefix)
        bookings = [decode(entry, resource) for entry in page.items.values()]
        bucket = Bucket(prefix, page.revision, {b.id: span(b) for b in bookings})
        known = self._buckets.get(prefix)
        if known is None or known.revision <= bucket.revision:
            self.keep(bucket)
        return bucket

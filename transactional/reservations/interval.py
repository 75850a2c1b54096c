"""Half-open stretches of time, and the questions a calendar asks of them.

The question: do two bookings touch?  An interval is `[start, end)` on the UTC line: a meeting that
ends at 10:00 and one that starts at 10:00 share no instant, so back-to-back bookings do not collide
and "do they overlap" is one comparison, `a.start < b.end and b.start < a.end` (Allen, CACM 1983:
the union of nine of his thirteen relations).

Invariant: both ends are aware, in UTC, and `start < end`.  The conversion happens once, at
construction, because Python compares two datetimes of the *same* zone by their wall-clock fields:
in the hour that a zone repeats in autumn, 02:30 before and 02:30 after the change compare equal
although an hour lies between them.  In UTC there is no such hour.

Day buckets: a store finds keys by prefix, so a booking is filed under each UTC day that it touches
(`days()`), and whoever wants an hour reads the day around it instead of a whole calendar.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from transactional.clock import as_utc
from transactional.errors import InvalidTimeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """The instants from `start` (included) to `end` (excluded), in UTC; never empty.

    Raises:
        InvalidTimeError: an end is naive, or `end` is not after `start`.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", as_utc(self.start))
        object.__setattr__(self, "end", as_utc(self.end))
        if self.start >= self.end:
            raise InvalidTimeError(
                f"an interval needs a positive length, got {self.start} to {self.end}"
            )

    @property
    def duration(self) -> timedelta:
        """Elapsed time from start to end; wall-clock changes in between do not alter it."""
        return self.end - self.start

    def overlaps(self, other: Interval) -> bool:
        """Whether some instant lies in both; intervals that merely touch do not overlap."""
        return self.start < other.end and other.start < self.end

    def contains(self, moment: datetime) -> bool:
        """Whether `moment` (aware) lies inside; the end does not."""
        return self.start <= as_utc(moment) < self.end

    def widened(self, before: timedelta, after: timedelta) -> Interval:
        """The interval with `before` and `after` added around it.

        Raises:
            InvalidTimeError: an end lies beyond the years 1 to 9999 then.
        """
        if not before and not after:
            return self
        try:
            return Interval(self.start - before, self.end + after)
        except OverflowError as error:
            raise InvalidTimeError(f"{self} with what is around it is beyond all years") from error

    def days(self) -> tuple[date, ...]:
        """The UTC days that it touches, in order; an end at midnight does not touch the new day."""
        first, last = self.start.date(), self.end.date()
        if first == last:
            return (first,)
        last = (self.end - timedelta.resolution).date()
        return tuple(first + timedelta(days=n) for n in range((last - first).days + 1))

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}/{self.end:%Y-%m-%dT%H:%M:%SZ}"


def day_of(day: date) -> Interval:
    """The whole UTC day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return Interval(midnight, later(midnight, timedelta(days=1)))


def later(moment: datetime, by: timedelta) -> datetime:
    """The instant so much later, or the last one that there is."""
    try:
        return moment + by
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def fullest_instant(taken: Iterable[Interval], window: Interval) -> tuple[int, datetime]:
    """How many of `taken` overlap at the fullest instant of `window`, and the first such instant.

    O(n^2) in the intervals that touch the window, a handful in practice.  The count only rises
    where an interval starts, so those instants and the window's start are the only ones to look at.
    """
    touching = [other for other in taken if other.overlaps(window)]
    instants = sorted({max(other.start, window.start) for other in touching})
    best, at = 0, window.start
    for instant in instants:
        count = sum(other.start <= instant < other.end for other in touching)
        if count > best:
            best, at = count, instant
    return best, at


def gaps(taken: Iterable[Interval], window: Interval, capacity: int = 1) -> Iterator[Interval]:
    """The stretches of `window` in which fewer than `capacity` of `taken` overlap, in order.

    O(n log n): a sweep over starts and ends; at one instant ends go first, for they make room.
    """
    edges: list[tuple[datetime, int]] = []
    for other in taken:
        if other.overlaps(window):
            edges.append((max(other.start, window.start), +1))
            edges.append((other.end, -1))
    open_since: datetime | None = window.start
    count = 0
    for instant, step in sorted(edges):
        count += step
        if step > 0 and count == capacity:
            if open_since is not None and open_since < instant:
                yield Interval(open_since, instant)
            open_since = None
        elif step < 0 and count == capacity - 1:
            open_since = instant
    if open_since is not None and open_since < window.end:
        yield Interval(open_since, window.end)


def free_slots(
    taken: Iterable[Interval], window: Interval, length: timedelta, *, capacity: int = 1, count: int
) -> tuple[Interval, ...]:
    """The earliest stretch of `length` in each gap of `window`, in order, at most `count`."""
    found: list[Interval] = []
    for gap in gaps(taken, window, capacity):
        if len(found) == count:
            break
        if gap.duration >= length:
            found.append(Interval(gap.start, gap.start + length))
    return tuple(found)

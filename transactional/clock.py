"""Time, in one place: the clocks an engine is given, what it makes of them, what others know of it.

Three clocks, from the machine to the recipe::

    Clock           this machine's wall clock and boot time; an argument, so that tests own it
      -> BusinessTime    the authority's: strictly monotone, persisted with commits; a wrong reading
                         of the wall clock does not poison it
           -> BusinessClock    what a recipe knows of it without asking each time

``now()`` of a store is business time.  Nothing exact rests on any of the three: who comes first is
decided by revisions.  A time is an aware datetime in UTC; ``as_utc`` converts it once, where it
comes in, because Python compares two datetimes of the *same* zone by their wall-clock fields:
in the hour that a zone repeats in autumn, two instants an hour apart compare equal.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from transactional.errors import InvalidTimeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transactional.store import Store

JUMP_S_MAX: Final = 3600.0
"""How far the wall clock may run ahead of boot time's pace, all jumps together, to be believed."""
AWAY_S_MAX: Final = 30 * 86_400.0
"""How far the wall clock may be from the last time of a store when that is opened."""
LOOK_AGAIN_S: Final = 60.0
"""Longest nap: a clock that was set right in the meantime is noticed after that."""

_log = logging.getLogger(__name__)
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)


# --- instants ------------------------------------------------------------------------------------


def as_utc(moment: datetime) -> datetime:
    """Return the same instant in UTC.

    Raises:
        InvalidTimeError: the datetime is naive, so it does not name an instant.
    """
    if moment.tzinfo is UTC:
        return moment
    if moment.utcoffset() is None:
        raise InvalidTimeError(f"{moment.isoformat()} has no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        beyond = f"{moment.isoformat()} is beyond the years 1 to 9999 in UTC"
        raise InvalidTimeError(beyond) from error


def utc(time_us: int) -> datetime:
    """Return microseconds since 1970 as an aware UTC datetime, exactly."""
    return _UNIX + timedelta(microseconds=time_us)


def microseconds(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970, exactly."""
    return (moment - _UNIX) // timedelta(microseconds=1)


# --- of this machine -----------------------------------------------------------------------------


def _elapsing() -> Callable[[], float]:
    """Return what counts seconds on in suspend, as a lease must, where the system has it.

    Linux's monotonic clock stops there, and boot time does not; macOS's goes on. A system may have
    neither (Windows), or name one that it has not (a browser's).
    """
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        with suppress(AttributeError, OSError):
            number: int = getattr(time, name)
            time.clock_gettime(number)
            return partial(time.clock_gettime, number)
    return time.monotonic


_elapsed_s: Final = _elapsing()


def _wall_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks an engine is given; tests give it their own."""

    wall_us: Callable[[], int] = _wall_us
    elapsed_s: Callable[[], float] = _elapsed_s


# --- of the authority ----------------------------------------------------------------------------


@dataclass(slots=True)
class BusinessTime:
    """Strictly monotone time: the wall clock's as long as that goes ahead, else boot time's pace.

    A wall clock that is set back must not stop time: holds would not lapse until it has caught up.
    Behind the last time given out, time therefore runs on from there by what has elapsed since
    boot.

    Nor must a wall clock that jumps ahead take time along, for time cannot be taken back: one wrong
    answer of a time server would be for ever.  A reading further than ``JUMP_S_MAX`` ahead of where
    boot time's pace, counted from the first reading of this process, puts it is refused, which is
    logged once: time runs on by that pace, until the wall clock is back within it.
    """

    last_us: int = 0
    refused: int = 0
    """How many readings of the wall clock were refused."""
    _from: tuple[int, float] | None = None  # a time, and the seconds since boot that belong to it
    _pace_us: int | None = None  # the first reading less the boot time then
    _refusing: bool = False
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def resume(self, last_us: int, elapsed_s: float) -> None:
        """Go on behind a time that was given out before, in an earlier life of the process."""
        with self._guard:
            self.last_us = last_us
            self._from = (last_us, elapsed_s)

    def next_us(self, wall_us: int, elapsed_s: float) -> int:
        """Return a time later than every one returned before, in any thread.

        Read the wall clock first and boot time second: a pause between the two must not add to
        the time, which cannot be taken back.
        """
        with self._guard:
            if self._believed(wall_us, elapsed_s) and wall_us > self.last_us:
                self.last_us = wall_us
                self._from = (wall_us, elapsed_s)
            else:
                since_us, since_s = self._from or (self.last_us, elapsed_s)
                self._from = (since_us, since_s)
                ran_us = since_us + int((elapsed_s - since_s) * 1e6)
                self.last_us = max(ran_us, self.last_us + 1)
            return self.last_us

    def _believed(self, wall_us: int, elapsed_s: float) -> bool:
        elapsed_us = int(elapsed_s * 1e6)
        if self._pace_us is None:
            self._pace_us = wall_us - elapsed_us
        ahead_s = (wall_us - elapsed_us - self._pace_us) / 1e6
        if ahead_s <= JUMP_S_MAX:
            self._refusing = False
            return True
        self.refused += 1
        if not self._refusing:
            self._refusing = True
            _log.error(
                "the wall clock jumped %.0f s ahead and is not followed: set it right, or, if it is"
                " right, start the store anew with --accept-clock",
                ahead_s,
            )
        return False


# --- of a recipe ---------------------------------------------------------------------------------


class BusinessClock:
    """The last time heard of the authority, plus the time elapsed since; `refresh` it first.

    A coordinator stamps every record and needs the time for back-offs and deadlines; a round trip
    for each would double its traffic.  So it remembers the last time that it heard (each commit
    carries one) and adds what has elapsed on this machine since.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heard = datetime.min.replace(tzinfo=UTC)
        self._heard_at_s = -math.inf

    def now(self) -> datetime:
        """The present, as far as it is known."""
        return self._heard + timedelta(seconds=self._store.elapsed_s() - self._heard_at_s)

    def hear(self, committed: datetime) -> None:
        """Take in the time that a commit carries."""
        if committed > self.now():
            self._heard = committed
            self._heard_at_s = self._store.elapsed_s()

    async def until(self, moment: datetime) -> None:
        """Return when `moment` has come."""
        while (left_s := (moment - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 time passes
            await asyncio.sleep(min(left_s, LOOK_AGAIN_S))

    async def refresh(self, *, age_s_max: float = LOOK_AGAIN_S) -> None:
        """Ask the store if nothing was heard for `age_s_max`."""
        if self._store.elapsed_s() - self._heard_at_s > age_s_max:
            self._heard = await self._store.now()
            self._heard_at_s = self._store.elapsed_s()

"""The authority's time without asking for it each time.

A coordinator stamps every record and needs the time for back-offs and deadlines; a round trip for
each would double its traffic.  So it remembers the last time that the store told it (a commit
carries its time) and adds what has elapsed on this machine since.  Nothing that must be exact rests
on it: who comes first is decided by revisions.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transactional.store import Store

LOOK_AGAIN_S: Final = 60.0
"""Longest nap: a clock that was set right in the meantime is noticed after that."""


class BusinessClock:
    """The last time heard of the authority, plus the time elapsed since; `refresh` it first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heard = datetime.min.replace(tzinfo=UTC)
        self._heard_at_s = -math.inf

    def now(self) -> datetime:
        """The present, as far as it is known."""
        return self._heard + timedelta(seconds=self._store.elapsed_s() - self._heard_at_s)

    def hear(self, time: datetime) -> None:
        """A commit told its time."""
        if time > self.now():
            self._heard = time
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

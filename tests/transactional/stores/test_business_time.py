"""The authority's time: monotone, whatever is done to the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import transactional as t

if TYPE_CHECKING:
    from tests.transactional.conftest import HandClock


async def test_business_time_never_goes_back_with_the_wall_clock(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """The wall clock goes back an hour: commits and now() still get later and later."""
    first = await timed_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 3_600_000_000
    then = await timed_store.now()
    second = await timed_store.commit([], [t.Put("a", b"")])
    assert first.time < then < second.time
    assert then.tzinfo is UTC
    assert second.time - first.time < datetime.resolution * 10


async def test_business_time_goes_on_though_the_wall_clock_was_set_back(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """An hour back, or a wall clock that was years ahead once: a second still takes a second.

    Holds lapse by this time.  It stood still until the wall clock had caught up.
    """
    first = await timed_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 3_600_000_000
    for elapsed_s in (1, 30, 1800):
        before = await timed_store.now()
        hand_clock.forward(elapsed_s)
        ran_s = (await timed_store.now() - before).total_seconds()
        assert elapsed_s - 0.001 <= ran_s <= elapsed_s + 0.001
    second = await timed_store.commit([], [t.Put("a", b"")])
    assert timedelta(0) <= second.time - first.time - timedelta(seconds=1831) < timedelta(seconds=1)
    hand_clock.forward(7200)  # the wall clock overtakes it and is followed again
    hand_clock.wall_us += 7_200_000_000
    third = await timed_store.commit([], [t.Put("a", b"")])
    assert abs(third.time.timestamp() - hand_clock.wall_us / 1e6) < 0.001

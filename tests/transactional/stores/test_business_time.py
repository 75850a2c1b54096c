"""The authority's time: monotone, whatever is done to the wall clock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import transactional as t
from transactional.stores import sqlite_file
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.transactional.conftest import HandClock


async def test_business_time_never_goes_back_with_the_wall_clock(
    clocked_store: t.Store, hand_clock: HandClock
) -> None:
    """The wall clock goes back an hour: commits and now() still get later and later."""
    first = await clocked_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 3_600_000_000
    then = await clocked_store.now()
    second = await clocked_store.commit([], [t.Put("a", b"")])
    assert first.time < then < second.time
    assert then.tzinfo is UTC
    assert second.time - first.time < datetime.resolution * 10


async def test_business_time_goes_on_though_the_wall_clock_was_set_back(
    clocked_store: t.Store, hand_clock: HandClock
) -> None:
    """An hour back, or a wall clock that was years ahead once: a second still takes a second.

    Holds lapse by this time.  It stood still until the wall clock had caught up.
    """
    first = await clocked_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 3_600_000_000
    for elapsed_s in (1, 30, 1800):
        before = await clocked_store.now()
        hand_clock.forward(elapsed_s)
        ran_s = (await clocked_store.now() - before).total_seconds()
        assert elapsed_s - 0.001 <= ran_s <= elapsed_s + 0.001
    second = await clocked_store.commit([], [t.Put("a", b"")])
    assert timedelta(0) <= second.time - first.time - timedelta(seconds=1831) < timedelta(seconds=1)
    hand_clock.forward(7200)  # the wall clock overtakes it and is followed again
    hand_clock.wall_us += 7_200_000_000
    third = await clocked_store.commit([], [t.Put("a", b"")])
    assert abs(third.time.timestamp() - hand_clock.wall_us / 1e6) < 0.001


YEARS_10_US = 10 * 365 * 86_400 * 1_000_000
DAY_S = 86_400


async def test_a_clock_that_jumps_ahead_takes_no_time_along(
    clocked_store: t.Store, hand_clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One wrong answer of a time server: time runs on by boot time's pace, and the log says why."""
    first = await clocked_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us += YEARS_10_US
    hand_clock.forward(30)
    second = await clocked_store.commit([], [t.Put("a", b"")])
    assert second.time - first.time < timedelta(seconds=31)
    assert (await clocked_store.now()) - second.time < timedelta(seconds=1)
    assert caplog.text.count("--accept-clock") == 1
    hand_clock.wall_us -= YEARS_10_US
    hand_clock.forward(30)
    third = await clocked_store.commit([], [t.Put("a", b"")])
    assert third.time.timestamp() == hand_clock.wall_us / 1e6


async def test_many_small_jumps_are_one_large_one(
    clocked_store: t.Store, hand_clock: HandClock
) -> None:
    """Half an hour is believed; half an hour a hundred times is not."""
    first = await clocked_store.commit([], [t.Put("a", b"")])
    for _ in range(100):
        hand_clock.wall_us += 1_800_000_000
        await clocked_store.commit([], [t.Put("a", b"")])
    assert (await clocked_store.now()) - first.time < timedelta(hours=1, seconds=1)


async def test_a_clock_that_was_behind_at_first_does_not_jump_ahead_later(
    tmp_path: Path, hand_clock: HandClock
) -> None:
    """What is believed is counted from the first reading, also if that was too early to be used."""
    async with opened(tmp_path, hand_clock) as store:
        first = await store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 7_200_000_000
    async with opened(tmp_path, hand_clock) as store:
        await store.commit([], [t.Put("a", b"")])
        hand_clock.wall_us += YEARS_10_US
        second = await store.commit([], [t.Put("a", b"")])
    assert second.time - first.time < timedelta(minutes=1)


@asynccontextmanager
async def opened(
    directory: Path, hand_clock: HandClock, *, accept: bool = False
) -> AsyncIterator[SQLiteStore]:
    clock = hand_clock.clock()
    store = await SQLiteStore.open(directory / "s.db", clock=clock, accept_clock=accept)
    yield store
    await store.close()


@pytest.mark.parametrize("days", [31, -31, 3650, -3650])
async def test_a_clock_that_is_far_off_at_the_start_is_refused(
    tmp_path: Path, hand_clock: HandClock, days: int
) -> None:
    """The error names the way on, and the file is as it was."""
    async with opened(tmp_path, hand_clock) as store:
        await store.commit([], [t.Put("a", b"1")])
    before = (tmp_path / "s.db").read_bytes()
    hand_clock.wall_us += days * DAY_S * 1_000_000
    for _ in range(2):
        with pytest.raises(t.ClockJumpedError) as refused:
            async with opened(tmp_path, hand_clock):
                pass
    assert "--accept-clock" in refused.value.hint
    assert (tmp_path / "s.db").read_bytes() == before
    hand_clock.wall_us -= days * DAY_S * 1_000_000
    async with opened(tmp_path, hand_clock) as store:
        assert (await store.get("a")).value == b"1"


async def test_a_clock_that_went_ahead_is_accepted_in_the_same_life(
    tmp_path: Path, hand_clock: HandClock
) -> None:
    """The file lay unused for a year: with the word of a person it goes on as it was."""
    async with opened(tmp_path, hand_clock) as store:
        await store.commit([], [t.Put("a", b"1")])
        epoch = store.epoch
    hand_clock.forward(365 * DAY_S)
    async with opened(tmp_path, hand_clock, accept=True) as store:
        assert store.epoch == epoch
        made = await store.commit([], [t.Put("a", b"2")])
        assert made.time.timestamp() == hand_clock.wall_us / 1e6
    async with opened(tmp_path, hand_clock) as store:
        assert store.epoch == epoch


async def test_to_take_a_wrong_time_back_is_another_life(
    tmp_path: Path, hand_clock: HandClock
) -> None:
    """What was told in the wrong future, tokens, op_ids, cursors, is refused or unknown now."""
    hand_clock.wall_us += YEARS_10_US  # a new store knows no better
    async with opened(tmp_path, hand_clock) as store:
        wrong = await store.commit([], [t.Put("a", b"1")])
        epoch, op_id = store.epoch, store.mint_op_id()
        await store.commit([], [t.Put("b", b"1")], op_id=op_id)
    hand_clock.wall_us -= YEARS_10_US
    async with opened(tmp_path, hand_clock, accept=True) as store:
        assert store.epoch != epoch
        assert {key: item.value for key, item in (await store.scan("")).items.items()} == {
            "a": b"1",
            "b": b"1",
        }
        right = await store.commit([], [t.Put("a", b"2")])
        assert abs(right.time.timestamp() - hand_clock.wall_us / 1e6) < 0.001
        assert right.revision > wrong.revision + (1 << 32)
        with pytest.raises(t.EpochMismatchError):
            await store.resolve(op_id)
        epoch = store.epoch
    async with opened(tmp_path, hand_clock, accept=True) as store:  # left in a unit file
        assert store.epoch == epoch
        assert (await store.now()) - right.time < timedelta(seconds=1)
    assert sqlite_file.verify(tmp_path / "s.db") == []

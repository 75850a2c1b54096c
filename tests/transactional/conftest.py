"""Fixtures of the store's tests: an engine, a client of it, and clocks that are told the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transactional.engines import ENGINES, TIMED, Engine, parameters
from transactional import sweeper
from transactional.clock import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from transactional.store import Store


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.wall_us = 1_700_000_000_000_000
        self.elapsed_s = 1000.0

    def clock(self) -> Clock:
        return Clock(wall_us=lambda: self.wall_us, elapsed_s=lambda: self.elapsed_s)

    def forward(self, seconds: float) -> None:
        self.wall_us += int(seconds * 1e6)
        self.elapsed_s += seconds


@pytest.fixture(autouse=True)
def nothing_is_swept_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that count calls of a store count from the same call each time."""
    monkeypatch.setattr(sweeper, "first_count", lambda: 0)


@pytest.fixture
def hand_clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=parameters(ENGINES))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """Every engine, on the real clocks."""
    engine = ENGINES[request.param](tmp_path)
    yield engine
    await engine.stop()


@pytest.fixture(params=parameters(ENGINES))
async def clocked_engine(
    request: pytest.FixtureRequest, tmp_path: Path, hand_clock: HandClock
) -> AsyncIterator[Engine]:
    """Every engine, its business time on the hand clock; its leases perhaps on a server's."""
    engine = ENGINES[request.param](tmp_path, hand_clock.clock())
    yield engine
    await engine.stop()


@pytest.fixture(params=parameters(TIMED))
async def timed_engine(
    request: pytest.FixtureRequest, tmp_path: Path, hand_clock: HandClock
) -> AsyncIterator[Engine]:
    """Every engine that can be on the hand clock with its leases, too."""
    engine = ENGINES[request.param](tmp_path, hand_clock.clock())
    yield engine
    await engine.stop()


@pytest.fixture
async def store(engine: Engine) -> Store:
    """A client of every engine."""
    return await engine.client()


@pytest.fixture
async def clocked_store(clocked_engine: Engine) -> Store:
    """A client of every engine, its business time on the hand clock."""
    return await clocked_engine.client()


@pytest.fixture
async def timed_store(timed_engine: Engine) -> Store:
    """A client of every engine that can be on the hand clock with its leases, too."""
    return await timed_engine.client()

"""What an import does not load: a recipe comes without the others, and without an engine."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import transactional
from transactional import clock

ENGINES = ["aiohttp", "asyncpg", "sqlite3"]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import transactional", ["asyncio", "transactional.store", *ENGINES]),
        ("from transactional import TransactionalError", ["asyncio", *ENGINES]),
        ("from transactional import WorkQueue", ["transactional.sagas", *ENGINES]),
        ("from transactional import connect, Reservations", ["transactional.queues", *ENGINES]),
        ("from transactional.cli import COMMANDS", ["asyncio", "rich", *ENGINES]),
    ],
)
def test_a_recipe_is_loaded_without_what_it_does_not_need(statement, absent):
    """Whoever books a room pays for no queue, and for the engine that a URL names alone."""
    program = f"import sys; {statement}; print(*(m for m in {absent} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.split() == []


def test_every_name_of_the_front_door_is_found():
    """Each is looked up when it is asked for; one that is not there is an AttributeError."""
    for name in transactional.__all__:
        assert getattr(transactional, name) is not None
    assert callable(transactional.open)
    with pytest.raises(AttributeError, match="nothing"):
        transactional.nothing  # noqa: B018 - it is looked up


@pytest.mark.parametrize("missing", ["the names", "the clocks"])
def test_leases_are_timed_where_a_system_counts_no_suspend(monkeypatch, missing):
    """Windows has neither name; a browser's Python has the names, and no clock behind them."""
    if missing == "the names":
        monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
        monkeypatch.delattr(time, "CLOCK_MONOTONIC", raising=False)
        monkeypatch.delattr(time, "clock_gettime", raising=False)
    else:

        def refuse(number):
            raise OSError(28, "Invalid argument")

        monkeypatch.setattr(time, "clock_gettime", refuse)
    assert clock._elapsing() is time.monotonic

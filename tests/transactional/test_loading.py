"""What an import does not load: a recipe comes without the others, and without an engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

import transactional

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

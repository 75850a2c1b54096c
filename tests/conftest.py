"""The order of the tests: what takes longest starts first, so that no worker ends alone with it.

Demos run for tens of seconds, tests of real processes for seconds, all others for moments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Demos, then processes, then the rest in its own order."""

    def rank(item: pytest.Item) -> int:
        return next(
            (n for n, mark in enumerate(MARKS) if item.get_closest_marker(mark)), len(MARKS)
        )

    items.sort(key=rank)


MARKS = ("demo", "browser", "processes")

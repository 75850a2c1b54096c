"""The order of the tests, and where their dice begin.

What takes longest starts first, so that no worker ends alone with it: demos run for tens of
seconds, tests of real processes for seconds, all others for moments.

Hypothesis has a profile of its own for a CI, in which every run does the same. Here each begins
elsewhere, there too: `make test` gives a seed by the day and prints it, and a failure its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.scale import BRIEF

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("rotating", derandomize=False, print_blob=True)
settings.register_profile("brief", settings.get_profile("rotating"), max_examples=30)
settings.load_profile("brief" if BRIEF else "rotating")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Demos, then processes, then the rest in its own order."""

    def rank(item: pytest.Item) -> int:
        return next(
            (n for n, mark in enumerate(MARKS) if item.get_closest_marker(mark)), len(MARKS)
        )

    items.sort(key=rank)


MARKS = ("demo", "browser", "processes")


LOGGERS = ("convoca", "replication", "transactional")


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """A command that serves in the test's own process writes its log to the stderr of this test."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [([*each.handlers], each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say last, and once for each engine, that its suite did not run and what brings it."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)}
    for reason in sorted({r.removeprefix("Skipped: ") for r in reasons}):
        if reason.startswith(("engine ", "browser ")):
            terminalreporter.write_line(f"NOT RUN: {reason}", yellow=True, bold=True)

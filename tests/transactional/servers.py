"""Servers that some engines need: started once for each test process, required where they must be.

A suite that needs a program asks ``require``.  Where the program is missing the suite is skipped,
with the command that brings it; where ``CONVOCA_REQUIRE`` names it (``etcd,postgres``), as a CI
does, that is a failure.  What was skipped is said once more at the end of the run.
"""

from __future__ import annotations

import os
from pathlib import Path
from shutil import which

import pytest

INSTALL = {
    "etcd": "apt-get install etcd-server",
    "postgres": "apt-get install postgresql && pip install 'convoca[postgres]'",
}
"""What brings the program of an engine on Debian."""
LIFE_S = 1800
"""No server outlives this, whatever becomes of the process that started it."""


def required(engine: str) -> bool:
    """Say whether ``CONVOCA_REQUIRE`` names the engine."""
    return engine in os.environ.get("CONVOCA_REQUIRE", "").split(",")


def require(engine: str, *programs: str) -> list[Path]:
    """Return where the programs are (names, or absolute paths); skip or fail without them."""
    found = [Path(path) for program in programs if (path := which(program))]
    if len(found) < len(programs):
        missing(engine, f"{', '.join(programs)}: not installed")
    return found


def missing(engine: str, what: str) -> None:
    """Skip the test for want of ``what``, or fail it where the engine is required."""
    reason = f"engine {engine}: {what}; it comes with: {INSTALL[engine]}"
    if required(engine):
        pytest.fail(f"{reason} (CONVOCA_REQUIRE names it)", pytrace=False)
    pytest.skip(reason)

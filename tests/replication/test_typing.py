"""What type checkers know of the twins: more than their tests could see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scale import SOAK

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.processes
@pytest.mark.skipif(not SOAK, reason="a type checker without its cache takes half a minute")
def test_the_twins_are_typed_as_their_originals_are():
    """Results, generics through `document` and `read`, refusals: `typed_twins.py`, strictly."""
    checked = str(ROOT / "tests" / "replication" / "typed_twins.py")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", checked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout

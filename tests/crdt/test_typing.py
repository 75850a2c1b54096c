"""Views under type checkers: parameters are inferred, and what is wrong is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scale import SOAK

ROOT = Path(__file__).resolve().parents[2]
USAGE = "tests/crdt/typed_usage.py"


@pytest.mark.processes
def test_mypy_infers_the_parameters_of_views():
    """In strict mode: each `assert_type` holds, and each ignored error is one."""
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", USAGE],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout


@pytest.mark.processes
@pytest.mark.skipif(not SOAK, reason="takes a while; CONVOCA_SOAK=1")
def test_pyright_infers_the_parameters_of_views():
    """Where it is installed; it brings a runtime of its own, so the environment does not ask it."""
    found = Path(sys.executable).with_name("pyright")
    program = str(found) if found.exists() else shutil.which("pyright")
    if program is None:
        pytest.skip("pyright is not installed")
    command = [program, "--pythonpath", sys.executable, USAGE]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout

"""Members of other tests, and those of this machine's user, are not met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where the members of this test find each other."""
    for name in ("PEERS", "PEER", "STORE", "SECRET", "SECRET_FILE", "TOKEN"):
        monkeypatch.delenv(f"CONVOCA_{name}", raising=False)
    place = tmp_path / "run"
    monkeypatch.setenv("CONVOCA_RUNTIME_DIR", str(place))
    return place

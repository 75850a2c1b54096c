"""A disk that fails on order, under a real program and its real files; see disk_faults.c."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FULL = f"write {errno.ENOSPC}"
"""No space left: what is written is refused, what is there can be read and synced."""

BROKEN = f"sync {errno.EIO}"
"""The drive takes what is written, and fails to make it last."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The files of one program whose paths begin with `prefix`."""

    order: Path
    environment: dict[str, str]

    def fail(self, how: str) -> None:
        """From now on, until `mend`."""
        whole = self.order.with_suffix(".new")
        whole.write_text(how, encoding="ascii")
        whole.rename(self.order)

    def mend(self) -> None:
        """Work again."""
        self.order.unlink(missing_ok=True)


def faulty_disk(directory: Path, prefix: Path) -> Disk:
    """Build the library; a program that runs in `environment` has this disk below `prefix`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a disk that fails on order needs Linux and a C compiler")
    library, order = directory / "faults.so", directory / "fault"
    source = Path(__file__).with_name("disk_faults.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "FAULTS_PREFIX": str(prefix.resolve()),
        "FAULTS_ORDER": str(order.resolve()),
    }
    return Disk(order, environment)

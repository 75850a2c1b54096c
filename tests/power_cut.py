"""What a disk may hold after the power was cut: recorded writes, rebuilt into every kind of image.

A program runs with ``disk_recorder.c`` preloaded, which logs its writes, truncations and syncs on
the files of one directory, in order.  A cut may come after any of them.  What was written before a
file's last sync is on the disk; of what was written since, any part may be, in any order, torn at
512 bytes; a deleted file may be back unless its directory was synced.  The file system and the
drive promise nothing else (Pillai et al., OSDI 2014).  So an image is the synced content plus a
choice of the pending changes: none, all, a prefix, all but one, any subset, the last one torn.

The program tells what it acknowledged by appending a line to the file ``acknowledged`` in the same
directory, *after* the store answered: the log then says what must be in every later image.

The recorder sees calls of the C library, so the program must not write through mmap what has to
last (SQLite's shared-memory index is rebuilt after a crash and left out here).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

SECTOR_BYTES = 512
_HEAD = struct.Struct("<cqII")


@dataclass(frozen=True, slots=True)
class Step:
    """One call on a file.

    ``w`` wrote ``data`` at ``offset``, ``t`` truncated to ``offset``, ``u`` deleted, ``s`` synced;
    syncing the directory, whose name is ``.``, makes deletions last.
    """

    kind: str
    file: str
    offset: int
    data: bytes


def record(program: str, directory: Path, *arguments: str) -> list[Step]:
    """Run Python source ``program`` with the directory as its first argument; return its steps."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("recording a disk needs Linux and a C compiler")
    library, log = directory.with_suffix(".so"), directory.with_suffix(".log")
    source = Path(__file__).with_name("disk_recorder.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    directory.mkdir()
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "RECORD_DIR": str(directory.resolve()),
        "RECORD_LOG": str(log),
    }
    subprocess.run(
        [sys.executable, "-c", program, str(directory), *arguments], check=True, env=environment
    )
    return _parse(log.read_bytes(), directory.resolve())


def _parse(log: bytes, directory: Path) -> list[Step]:
    steps: list[Step] = []
    at = 0
    while at < len(log):
        kind, offset, path_size, data_size = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        path = log[at : at + path_size].decode()
        data = log[at + path_size : at + path_size + data_size]
        at += path_size + data_size
        if not path.endswith("-shm"):
            steps.append(Step(kind.decode(), str(Path(path).relative_to(directory)), offset, data))
    return steps


def acknowledged(steps: Sequence[Step]) -> list[str]:
    """Return the lines that the program had acknowledged by the end of these steps."""
    return b"".join(step.data for step in steps if step.file == "acknowledged").decode().split()


def _apply(files: dict[str, bytearray], step: Step) -> None:
    if step.kind == "u":
        files.pop(step.file, None)
        return
    content = files.setdefault(step.file, bytearray())
    if step.kind == "t":
        del content[step.offset :]
        content.extend(bytes(step.offset - len(content)))
    elif step.kind == "w":
        content.extend(bytes(max(0, step.offset - len(content))))
        content[step.offset : step.offset + len(step.data)] = step.data


def image(steps: Sequence[Step], dice: random.Random) -> dict[str, bytes]:
    """Return one disk that a cut after these steps may leave."""
    files: dict[str, bytearray] = {}
    pending: list[Step] = []
    for step in steps:
        if step.file == "acknowledged":
            continue
        if step.kind == "s":
            lasting = [change for change in pending if _made_to_last(change, step.file)]
            pending = [change for change in pending if not _made_to_last(change, step.file)]
            for change in lasting:
                _apply(files, change)
        else:
            pending.append(step)
    for step in _chosen(pending, dice):
        _apply(files, step)
    return {name: bytes(content) for name, content in files.items()}


def _made_to_last(change: Step, synced: str) -> bool:
    """A deletion lasts with its directory, and with a later file of its name."""
    return synced == change.file or (change.kind == "u" and synced == ".")


def _chosen(pending: Sequence[Step], dice: random.Random) -> Iterator[Step]:
    """Choose which unsynced writes made it to the disk."""
    match dice.randrange(6):
        case 0:
            return
        case 1:
            yield from pending
        case 2:
            yield from pending[: dice.randint(0, len(pending))]
        case 3:
            missing = dice.randrange(len(pending) + 1)
            yield from (step for number, step in enumerate(pending) if number != missing)
        case 4:
            share = dice.random()
            yield from (step for step in pending if dice.random() < share)
        case _:
            yield from pending[:-1]
            if pending and pending[-1].kind == "w":
                last = pending[-1]
                keep = SECTOR_BYTES * dice.randint(0, len(last.data) // SECTOR_BYTES)
                yield Step("w", last.file, last.offset, last.data[:keep])


def write_image(files: dict[str, bytes], directory: Path) -> None:
    """Put an image into an empty directory."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)

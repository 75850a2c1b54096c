"""The SQLite engine after a power cut: whatever the disk kept, what was acknowledged is there."""

from __future__ import annotations

import contextlib
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.power_cut import Step, acknowledged, image, record, write_image
from tests.scale import rounds, seeds
from transactional import errors
from transactional.stores import sqlite_file
from transactional.stores.sqlite import SQLiteStore
from transactional.values import Put

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.processes

PROGRAM = """
import asyncio, sys
from transactional.store import Put
from transactional.stores import sqlite, sqlite_file
sqlite.CHECKPOINT_BYTES = 20_000  # checkpoints and a log that starts over are part of the record
real = sqlite_file.connect_writer
sqlite_file.connect_writer = lambda path, **how: real(path, synchronous=sys.argv[2], **how)
async def main(directory):
    store = await sqlite.SQLiteStore.open(directory + "/s.db")
    said = open(directory + "/acknowledged", "ab", buffering=0)
    async def client(name):
        for number in range(25):
            key = f"{name}/{number % 7}"
            commit = await store.commit([], [Put(key, b"%d" % number * 50)])
            said.write(f"{key}@{commit.revision}\\n".encode())
    await asyncio.gather(*[client(name) for name in "abcd"])
    await store.close()
asyncio.run(main(sys.argv[1]))
"""


async def lost_in(steps: list[Step], dice: random.Random, disk: Path) -> list[str]:
    """Return the acknowledged writes that one image lacks; raise if it is damaged."""
    write_image(image(steps, dice), disk)
    store = await SQLiteStore.open(disk / "s.db")
    found = (await store.scan("")).items
    revision = (await store.get_many([])).revision
    assert (await store.commit([], [Put("alive", b"")])).revision == revision + 1
    await store.close()
    assert sqlite_file.verify(disk / "s.db") == []
    shutil.rmtree(disk)
    promised = [line.rpartition("@") for line in acknowledged(steps)]
    latest = {key: int(number) for key, _, number in promised}
    return [
        key for key, number in latest.items() if key not in found or found[key].revision < number
    ]


async def test_every_acknowledged_commit_survives_a_power_cut(tmp_path: Path) -> None:
    """600 images of cuts at random moments: no acknowledged commit is lost, the file is sound."""
    steps = record(PROGRAM, tmp_path / "run", "FULL")
    first = next(n for n, step in enumerate(steps) if step.file == "acknowledged")
    seed = seeds(1)[0]
    dice = random.Random(seed)
    for number in range(rounds(600, 60)):
        cut = dice.randint(first, len(steps))
        lost = await lost_in(steps[:cut], dice, tmp_path / f"disk{number}")
        assert not lost, f"CONVOCA_SEED={seed}: cut {cut} lost {lost}"


async def test_a_cut_in_a_checkpoint_is_made_good_by_the_log(tmp_path: Path) -> None:
    """Each page of the file torn at three places, as far as the log has it: the store is whole.

    Counterexample: with the page of `meta` torn the epoch read as none of ours, and file and log
    "did not fit together".
    """
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    await store.close()
    store = await SQLiteStore.open(path)  # what is noted of the tables gets longer, and moves
    wanted = {f"k/{number}": b"x" * (37 + number) for number in range(40)}
    for key, value in wanted.items():
        await store.commit([], [Put(key, value)])
    left = {
        suffix: path.with_name(f"s.db{suffix}").read_bytes() for suffix in ("", "-wal", "-lock")
    }
    await store.close()
    log, size = left["-wal"], 4096
    frames = range(32, len(log) - size, size + 24)
    pages = {
        int.from_bytes(log[at : at + 4], "big"): log[at + 24 : at + 24 + size] for at in frames
    }
    torn = [(page, sectors) for page in sorted(pages) for sectors in (1, 4, 7)]
    for page, sectors in torn:
        place = tmp_path / f"torn-{page}-{sectors}"
        place.mkdir()
        begin, middle = (page - 1) * size, (page - 1) * size + sectors * 512
        file = left[""].ljust(page * size, b"\0")
        file = file[:begin] + pages[page][: sectors * 512] + file[middle:]
        for suffix, content in (left | {"": file}).items():
            (place / f"s.db{suffix}").write_bytes(content)
        again = await SQLiteStore.open(place / "s.db")
        values = {key: entry.value for key, entry in (await again.scan("k/")).items.items()}
        assert values == wanted
        await again.close()
        assert sqlite_file.verify(place / "s.db") == []
        shutil.rmtree(place)


async def test_a_cut_while_the_file_is_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """Cut before the first acknowledgement: the file opens, or is plainly refused."""
    steps = record(PROGRAM, tmp_path / "run", "FULL")
    first = next(n for n, step in enumerate(steps) if step.file == "acknowledged")
    dice = random.Random(seeds(1)[0])
    for number in range(rounds(100, 20)):
        with contextlib.suppress(errors.CorruptStoreError):
            await lost_in(steps[: dice.randint(0, first)], dice, tmp_path / f"disk{number}")


async def test_without_full_sync_a_cut_takes_acknowledged_commits(tmp_path: Path) -> None:
    """The control: the same test finds losses at once with synchronous=NORMAL."""
    steps = record(PROGRAM, tmp_path / "run", "NORMAL")
    first = next(n for n, step in enumerate(steps) if step.file == "acknowledged")
    dice = random.Random(1)
    for number in range(60):
        cut = dice.randint(first, len(steps))
        try:
            if await lost_in(steps[:cut], dice, tmp_path / f"disk{number}"):
                return
        except errors.CorruptStoreError:  # so much is missing that the store does not open
            return
    pytest.fail("the recorder does not see what NORMAL leaves out")

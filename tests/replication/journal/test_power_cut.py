"""A replica's journal after a power cut: whatever the disk kept, what was acknowledged is there."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from crdt import ORSet
from replication.errors import JournalUnreadableError
from replication.journal.base import boot
from replication.journal.sqlite import SqliteJournal
from tests.power_cut import Step, acknowledged, image, record, write_image
from tests.scale import rounds, seeds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.processes

PROGRAM = """
import sqlite3, sys
from crdt import ORSet
from replication.journal import sqlite
from replication.journal.base import Entry, boot, leased
from replication.protocol.effects import OWN, Row

class Connection(sqlite3.Connection):  # small logs: checkpoints and fresh starts are recorded too
    def execute(self, statement, *arguments):
        if statement == "PRAGMA synchronous=FULL":
            super().execute("PRAGMA wal_autocheckpoint=20")
            statement = "PRAGMA synchronous=" + sys.argv[2]
        return super().execute(statement, *arguments)

real = sqlite3.connect
sqlite3.connect = lambda *arguments, **options: real(*arguments, factory=Connection, **options)
said = open(sys.argv[1] + "/acknowledged", "ab", buffering=0)
element = 0
for life in range(4):
    journal = sqlite.SqliteJournal(sys.argv[1] + "/a.db")
    booted = boot(journal, f"ada~{life}", None)
    kernel, lease, rows = booted.kernel, booted.lease, []
    kernel.on_delta = lambda delta, change: rows.append(Row(OWN, delta.encode()))
    for _ in range(40):
        kernel.document("set", ORSet).add(element)
        own = kernel.vector[kernel.replica]
        lease = leased(own, lease, 16)
        snapshot = kernel.to_bytes() if element % 13 == 12 else b""
        journal.append(Entry(tuple(rows), dict(kernel.vector), kernel.replica, lease, snapshot))
        rows.clear()
        said.write(f"{element}@{kernel.replica}@{own}\\n".encode())
        element += 1
    journal.close()
"""


def lost_in(steps: list[Step], dice: random.Random, disk: Path) -> list[str]:
    """Return the acknowledged writes that one image lacks; raise if the journal does not start."""
    write_image(image(steps, dice), disk)
    journal = SqliteJournal(disk / "a.db")
    kernel = boot(journal, "ada~after", None).kernel
    assert kernel.replica == "ada~after"  # the disk is another one: no number is used twice
    journal.close()
    shutil.rmtree(disk)
    there = set(kernel.document("set", ORSet))
    lost = []
    for line in acknowledged(steps):
        element, replica, own = line.split("@")
        if int(element) not in there or kernel.vector.get(replica, 0) < int(own):
            lost.append(line)
    return lost


def test_every_acknowledged_write_of_a_replica_survives_a_power_cut(tmp_path: Path) -> None:
    """600 images of cuts in four lives of one journal, snapshots and checkpoints among them."""
    steps = record(PROGRAM, tmp_path / "run", "FULL")
    assert len(acknowledged(steps)) == 160
    first = next(n for n, step in enumerate(steps) if step.file == "acknowledged")
    seed = seeds(1)[0]
    dice = random.Random(seed)
    for number in range(rounds(600, 60)):
        cut = dice.randint(first, len(steps))
        lost = lost_in(steps[:cut], dice, tmp_path / f"disk{number}")
        assert not lost, f"CONVOCA_SEED={seed}: cut {cut} lost {lost}"


def test_a_cut_in_a_journals_first_boot_leaves_one_that_starts(tmp_path: Path) -> None:
    """Nothing was acknowledged yet, so whatever is on the disk, the agent can begin."""
    steps = record(PROGRAM, tmp_path / "run", "FULL")
    first = next(n for n, step in enumerate(steps) if step.file == "acknowledged")
    dice = random.Random(seeds(1)[0])
    for number in range(rounds(100, 20)):
        lost_in(steps[: dice.randint(0, first)], dice, tmp_path / f"disk{number}")


def test_without_full_sync_a_cut_takes_acknowledged_writes(tmp_path: Path) -> None:
    """The control: the same images find losses with synchronous=NORMAL."""
    steps = record(PROGRAM, tmp_path / "run", "NORMAL")
    first = next(n for n, step in enumerate(steps) if step.file == "acknowledged")
    dice = random.Random(1)
    for number in range(60):
        cut = dice.randint(first, len(steps))
        try:
            lost = lost_in(steps[:cut], dice, tmp_path / f"disk{number}")
        except JournalUnreadableError as error:  # the lock file came further than the log
            lost = ["told"] if "were made durable, and" in str(error) else []
        if lost:
            return
    pytest.fail("the recorder does not see what NORMAL leaves out")

"""The disk changes a journal: a start refuses it, or what it brings back is what was written.

Of what cannot be read an origin is kept out, and is told; its events come again from peers. Nothing
else may differ, and an identity that may have lost something of its own is never continued.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from crdt import Kernel, ORSet
from replication.errors import JournalUnreadableError
from replication.journal.base import Booted, Entry, boot
from replication.journal.files import COMPANIONS, beside
from replication.journal.sqlite import SqliteJournal, look
from replication.protocol import DELTA, OWN, Row
from tests.scale import SOAK, rounds, seeds

SECTOR = 512


def elements(kernel: Kernel) -> set[object]:
    return set(kernel.document("set", ORSet).value)


def fill(path: Path) -> None:
    """A snapshot, and rows of three origins behind it; then a clean stop."""
    journal = SqliteJournal(path)
    kernel = boot(journal, "ada~1", None).kernel
    writers = [Kernel(f"{name}~1") for name in ("bob", "cyd")]
    rows: list[Row] = []
    kernel.on_delta = lambda delta, change: rows.append(Row(OWN, delta.encode()))
    for number in range(24):
        kernel.document("set", ORSet).add(("ada~1", number, ""))
        for writer in writers:
            delta = writer.document("set", ORSet).add((writer.replica, number, "x" * 40))
            kernel.apply(delta)
            rows.append(Row(DELTA, delta.encode()))
        own = kernel.vector["ada~1"]
        state = kernel.to_bytes() if number == 8 else b""
        journal.append(Entry(list(rows), dict(kernel.vector), "ada~1", own + 100, state))
        rows.clear()
    journal.close()


class Disk:
    """A journal and its lock on a disk that can be told to hold something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = beside(path, ".lock").read_bytes()
        self.content = path.read_bytes()

    def hold(self, content: bytes) -> Path:
        """Have the same file hold these bytes, as its last life left the rest."""
        for suffix in COMPANIONS:
            beside(self.path, suffix).unlink(missing_ok=True)
        self.path.write_bytes(content)
        beside(self.path, ".lock").write_bytes(self._lock)
        return self.path


@pytest.fixture
def memory(tmp_path: Path):
    """A directory whose syncs cost nothing, where there is one: what is tried is not the disk."""
    if not Path("/dev/shm").is_dir():  # noqa: S108
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def sound(memory: Path):
    """A journal, and what a start brings back from it: all of it, under its own identity."""
    path = memory / "a.db"
    fill(path)
    disk = Disk(path)
    right = started(path)
    assert right is not None
    assert right.kernel.replica == "ada~1"
    assert len(elements(right.kernel)) == 72
    disk.hold(disk.content)
    return disk, right


def started(path: Path) -> Booted | None:
    """A start on what is there; None if it is refused."""
    journal = SqliteJournal(path)
    try:
        booted = boot(journal, "ada~9", None)
    except JournalUnreadableError:
        return None
    journal.close()
    return booted


def mistakes(booted: Booted | None, right: Booted) -> list[str]:
    """What a start brought back that is neither right nor told."""
    if booted is None:
        return []
    found = []
    told = {lost.origin for lost in booted.kept_out}
    whole = dict(right.kernel.vector)
    stands = {o: s for o, s in booted.kernel.vector.items() if o != "ada~9"}
    for origin in whole.keys() | stands.keys():
        if stands.get(origin, 0) > whole.get(origin, 0):
            found.append(f"{origin} has events that were never written")
        if stands.get(origin, 0) < whole.get(origin, 0) and origin not in told:
            found.append(f"{origin} lacks events, and nobody was told")
    wanted = {one for one in elements(right.kernel) if one[1] < stands.get(one[0], 0)}
    if elements(booted.kernel) != wanted:
        found.append("the content differs")
    if told and booted.kernel.replica != "ada~9":
        found.append("an identity goes on that may have lost something")
    return found


def test_each_sector_in_turn(sound):
    """All bits of it turned, or all of it zero: a refusal, or what was written."""
    disk, right = sound
    content = disk.content
    sectors = range(0, len(content), SECTOR)
    dice = random.Random(seeds(1)[0])
    chosen = sectors if SOAK else dice.sample(sectors, max(6, len(sectors) // 20))
    for start in chosen:
        old = content[start : start + SECTOR]
        for new in (bytes(byte ^ 0xFF for byte in old), bytes(SECTOR)):
            bad = content[:start] + new + content[start + SECTOR :]
            booted = started(disk.hold(bad))
            assert not mistakes(booted, right), (start, new[:4])


def test_random_bits(sound):
    """One bit turned: a refusal, or what was written; `look` says the same without a trace."""
    disk, right = sound
    content = disk.content
    seed = seeds(1)[0]
    dice = random.Random(seed)
    refused = kept_out = 0
    for _ in range(rounds(10_000)):
        at, bit = dice.randrange(len(content)), 1 << dice.randrange(8)
        bad = bytearray(content)
        bad[at] ^= bit
        path = disk.hold(bytes(bad))
        try:
            look(path)
        except JournalUnreadableError:
            looked = False
        else:
            looked = True
        assert path.read_bytes() == bad
        booted = started(path)
        assert not mistakes(booted, right), (seed, at, bit)
        assert looked or booted is None, (seed, at, bit)
        refused += booted is None
        kept_out += booted is not None and bool(booted.kept_out)
    assert refused > 10
    assert kept_out > 0  # a row's bit costs its origin, not the start


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE facts SET value = value - 1 WHERE name = 'lease'", "identity"),
        ("UPDATE facts SET value = 'eve~1' WHERE name = 'replica'", "identity"),
        ("DELETE FROM facts WHERE name = 'lease'", "identity"),
        ("UPDATE vector SET seq = seq - 1 WHERE origin = 'bob~1'", "vector"),
        ("DELETE FROM vector WHERE origin = 'bob~1'", "vector"),
        ("UPDATE snapshot SET data = x'00'", "snapshot"),
    ],
)
def test_what_must_not_be_wrong_is_named_and_refused(sound, change, told):
    """A lease that is too small would give numbers out twice; nothing of it is guessed."""
    path = sound[0].path
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(change)
    for ask in (SqliteJournal(path).open, lambda: look(path)):
        with pytest.raises(
            JournalUnreadableError, match=f"{told} is not what was written"
        ) as error:
            ask()
        assert "restore a backup" in error.value.hint


def test_a_row_and_the_vector_lost_together_are_missed(sound):
    """What the facts count is not there."""
    path = sound[0].path
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM rows WHERE number > 30")
        db.execute("UPDATE vector SET seq = 12 WHERE origin = 'bob~1'")
    with pytest.raises(JournalUnreadableError):
        SqliteJournal(path).open()


def test_a_journal_of_the_format_before_is_converted(sound):
    """A start reads it all and goes on under the same identity; `look` says what to do."""
    disk, right = sound
    path = disk.path
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for table in ("rows", "vector", "snapshot"):
            db.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        new = "('origins', 'vector_sum', 'rows', 'rows_sum', 'checksum')"
        db.execute(f"DELETE FROM facts WHERE name IN {new}")
        db.execute("PRAGMA user_version=2")
    with pytest.raises(JournalUnreadableError) as error:
        look(path)
    assert "converts" in error.value.hint
    journal = SqliteJournal(path)
    booted = boot(journal, "ada~9", None)
    assert booted.kernel.replica == "ada~1"
    assert elements(booted.kernel) == elements(right.kernel)
    journal.close()
    assert beside(path, ".lock").exists()
    assert look(path).vector == dict(right.kernel.vector)

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


def fill(path: Path) -> SqliteJournal:
    """A snapshot, and rows of three origins behind it; it is still open."""
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
        if number == 12:  # half is in the file alone, half in the log; behind that lies stale log
            journal._connection().execute("PRAGMA wal_checkpoint(RESTART)")
    return journal


class Disk:
    """The files of a journal, on a disk that can be told to hold something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = {suffix: beside(path, suffix) for suffix in ("", "-wal", ".lock")}
        self.files = {suffix: name.read_bytes() for suffix, name in names.items() if name.exists()}
        self.content = self.files[""]

    def hold(self, content: bytes, suffix: str = "") -> Path:
        """Have the same file hold these bytes, as its last life left the rest."""
        for companion in COMPANIONS:
            beside(self.path, companion).unlink(missing_ok=True)
        for which, left in {**self.files, suffix: content}.items():
            beside(self.path, which).write_bytes(left)
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
    fill(path).close()
    disk = Disk(path)
    right = started(path)
    assert right is not None
    assert right.kernel.replica == "ada~1"
    assert len(elements(right.kernel)) == 72
    disk.hold(disk.content)
    return disk, right


@pytest.fixture
def crashed(memory: Path):
    """What a kill -9 leaves of it: file, log and lock; a start brings back all of that, too."""
    path = memory / "a.db"
    journal = fill(path)
    disk = Disk(path)
    journal.close()
    right = started(disk.hold(disk.content))
    assert right is not None
    assert right.kernel.replica == "ada~9"  # a crash is not proof that nothing was sent
    assert len(elements(right.kernel)) == 72
    assert not right.kept_out
    return disk, right


def started_or_error(path: Path) -> Booted:
    """A start on what is there."""
    journal = SqliteJournal(path)
    booted = boot(journal, "ada~9", None)
    journal.close()
    return booted


def started(path: Path) -> Booted | None:
    """A start on what is there; None if it is refused."""
    try:
        return started_or_error(path)
    except JournalUnreadableError:
        return None


def mistakes(booted: Booted | None, right: Booted) -> list[str]:
    """What a start brought back that is neither right nor told."""
    if booted is None:
        return []
    found = []
    told = {lost.origin for lost in booted.kept_out}
    whole = {o: s for o, s in right.kernel.vector.items() if o != "ada~9"}
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


# ------------------------------------------------------------------------------ the log of a crash


def test_each_sector_of_what_a_crash_leaves_in_turn(crashed):
    """Counterexample: SQLite drops what lies behind a frame that is wrong, and nobody was told."""
    disk, right = crashed
    refused = {"": 0, "-wal": 0, ".lock": 0}
    dice = random.Random(seeds(1)[0])
    for suffix, content in disk.files.items():
        sectors = range(0, len(content), SECTOR)
        chosen = sectors if SOAK else dice.sample(sectors, min(len(sectors), 10))
        for start in chosen:
            old = content[start : start + SECTOR]
            for new in (bytes(byte ^ 0xFF for byte in old), bytes(len(old))):
                bad = content[:start] + new + content[start + SECTOR :]
                booted = started(disk.hold(bad, suffix))
                assert not mistakes(booted, right), (suffix, start, new[:4])
                refused[suffix] += booted is None
    assert refused["-wal"] > 0


def test_random_bits_of_what_a_crash_leaves(crashed):
    """One bit of file, log or lock turned: a refusal, or what was written; `look` says the same."""
    disk, right = crashed
    seed = seeds(1)[0]
    dice = random.Random(seed)
    refused = {"": 0, "-wal": 0, ".lock": 0}
    missed = dict(refused)
    for number in range(rounds(10_000)):
        suffix = (*refused, "-wal")[number % 4]
        bad = bytearray(disk.files[suffix])
        at, bit = dice.randrange(len(bad)), 1 << dice.randrange(8)
        bad[at] ^= bit
        path = disk.hold(bytes(bad), suffix)
        looked = ""
        try:
            look(path)
        except JournalUnreadableError as error:
            looked = str(error)
        left = {**disk.files, suffix: bad}
        assert all(beside(path, which).read_bytes() == left[which] for which in left)
        booted = started(path)
        assert not mistakes(booted, right), (seed, suffix, at, bit)
        assert booted is not None or looked, (seed, suffix, at, bit)
        refused[suffix] += booted is None
        if "were made durable" in looked:  # what lies behind the frame is all there is of them
            assert all(beside(path, which).read_bytes() == left[which] for which in left)
            missed[suffix] += 1
    assert refused["-wal"] >= missed["-wal"] > 10
    assert not list(disk.path.parent.glob("*.aside*"))  # it was the file's own log each time


@pytest.mark.parametrize("frames", [0, 0.1, 0.3])
def test_a_log_that_is_cut_or_gone_is_missed(crashed, frames):
    """The lock file knows how far it had come; without that it is another life, and starts."""
    disk, right = crashed
    log = disk.files["-wal"]
    path = disk.hold(log[: int(len(log) * frames)], "-wal")
    for ask in (lambda: started_or_error(path), lambda: look(path)):
        with pytest.raises(
            JournalUnreadableError, match="were made durable, and file and log come to"
        ):
            ask()
    beside(path, ".lock").unlink()
    booted = started(path)
    assert booted is not None
    assert booted.kernel.replica == "ada~9"
    assert elements(booted.kernel) < elements(right.kernel)


# ------------------------------------------------------------------------------ told by name


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

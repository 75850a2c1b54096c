"""Journals: one suite for every implementation, then what only files can do."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from crdt import Delta, Kernel, LWWRegister, ORSet
from replication.cli.command_line import main
from replication.cli.copies import of_journal
from replication.errors import (
    JournalFailedError,
    JournalHeldError,
    JournalUnreadableError,
    UnhealthyError,
    VectorAheadError,
)
from replication.journal.base import HOW_TO_GO_ON, Booted, Entry, Recovered, boot, rebuild
from replication.journal.memory import MemoryJournal
from replication.journal.sqlite import SqliteJournal, back_up, look
from replication.protocol.effects import DELTA, OWN, Row
from replication.protocol.messages import MemberClaim, Status

if TYPE_CHECKING:
    from pathlib import Path

BOOK = (MemberClaim("bob~1", "h:1", 7, Status.ALIVE),)


@pytest.fixture(params=["memory", "sqlite"])
def journal(request, tmp_path):
    made = MemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "a.db")
    yield made
    made.close()


def written(*elements: str, replica: str = "ada~01") -> tuple[Kernel, list[Row]]:
    """A kernel with some elements in a set, and the rows that wrote them."""
    kernel, rows = Kernel(replica), []
    kernel.on_delta = lambda delta, change: rows.append(Row(OWN, delta.encode()))
    for element in elements:
        kernel.document("set", ORSet).add(element)
    return kernel, rows


def entry(kernel: Kernel, rows: list[Row], lease: int = 0, snapshot: bytes = b"") -> Entry:
    return Entry(rows, dict(kernel.vector), kernel.replica, lease, snapshot, BOOK)


def elements(kernel: Kernel) -> set:
    return set(kernel.document("set", ORSet))


def test_a_new_journal_gives_the_fresh_identity(journal):
    """No journal, no continuity: the replica starts under the id it is offered."""
    booted = boot(journal, "ada~fresh", None)
    assert booted.kernel.replica == "ada~fresh"
    assert (booted.recovered.replica, booted.recovered.boots, booted.lease) == ("", 1, 0)


def test_what_was_appended_comes_back_under_the_same_identity(journal):
    """Rows, vector, lease and address book return; the id goes on."""
    journal.open()
    kernel, rows = written("x", "y")
    journal.append(entry(kernel, rows))
    journal.close()
    booted = boot(journal, "ada~fresh", None)
    assert booted.kernel.replica == "ada~01"
    assert booted.kernel.canonical_bytes() == kernel.canonical_bytes()
    assert booted.recovered.book == BOOK
    assert booted.recovered.boots == 2


def test_a_snapshot_replaces_the_log(journal):
    """After a snapshot only later rows are replayed, and the state is the same."""
    journal.open()
    kernel, rows = written("x", "y")
    journal.append(entry(kernel, rows, snapshot=kernel.to_bytes()))
    kernel.document("set", ORSet).remove("x")
    journal.append(entry(kernel, rows[2:]))
    journal.close()
    booted = boot(journal, "ada~fresh", None)
    assert booted.recovered.snapshot
    assert len(booted.recovered.rows) == 1
    assert elements(booted.kernel) == {"y"}


def test_a_clean_stop_keeps_the_identity_and_a_crash_takes_a_new_one(journal):
    """`close` gives the lease back; a lease beyond the own events is a stop that was none.

    Events of a crashed life stay as a foreign origin's, the next ones carry another id: no number
    is used twice, and no vector hides what a rolled back disk has lost.
    """
    kernel, rows = written("x")
    journal.open()
    journal.append(entry(kernel, rows, lease=1000))
    journal.close()
    assert boot(journal, "ada~fresh", None).kernel.replica == "ada~01"
    journal.append(entry(kernel, [], lease=1000))
    crashed = crash(journal)
    booted = boot(crashed, "ada~fresh", None)
    assert booted.kernel.replica == "ada~fresh"
    booted.kernel.document("set", ORSet).add("y")
    assert dict(booted.kernel.vector) == {"ada~01": 1, "ada~fresh": 2}  # and the end of ada~01
    crashed.close()


def crash(journal):
    """What is left of a journal whose process died."""
    if isinstance(journal, MemoryJournal):
        journal.lose_hold()
        return journal
    journal._written = None
    journal.close()
    return SqliteJournal(journal._path)


def test_a_wall_clock_set_back_does_not_take_stamps_back(journal):
    """Counterexample: NTP moved the clock back a day between two lives of one journal."""
    now_ms = 1_700_086_400_000
    kernel = Kernel("ada~01", clock=lambda: now_ms)
    rows: list[Row] = []
    kernel.on_delta = lambda delta, change: rows.append(Row(OWN, delta.encode()))
    kernel.document("r", LWWRegister).set("today")
    journal.open()
    journal.append(entry(kernel, rows))
    journal.close()
    again = boot(journal, "ada~fresh", lambda: now_ms - 86_400_000).kernel
    again.document("other", LWWRegister).set("yesterday, by the wall clock")
    assert again.clock.last > kernel.clock.last


def test_a_second_opener_is_refused(journal):
    """[replication 9] (in one process) the journal is held until it is closed."""
    journal.open()
    other = journal if isinstance(journal, MemoryJournal) else SqliteJournal(journal._path)
    with pytest.raises(JournalHeldError):
        other.open()


def test_a_journal_of_another_agent_is_refused(journal):
    """A file that was given to the wrong agent is not taken over."""
    journal.open()
    kernel, rows = written("x")
    journal.append(entry(kernel, rows))
    journal.close()
    with pytest.raises(JournalUnreadableError, match="belongs to agent 'ada'"):
        boot(journal, "bob~fresh", None)


# ------------------------------------------------------------------------------ real files


@pytest.fixture
def boot_file():
    """Boots the journal in a file; all are closed in the end."""
    opened: list[SqliteJournal] = []

    def booted(path: Path, fresh: str = "ada~fresh") -> Booted:
        opened.append(SqliteJournal(path))
        return boot(opened[-1], fresh, None)

    yield booted
    for journal in opened:
        journal.close()


def file_with(path: Path, *items: str) -> Kernel:
    journal = SqliteJournal(path)
    journal.open()
    kernel, rows = written(*items)
    journal.append(entry(kernel, rows, lease=1000))
    journal.close()
    return kernel


@pytest.mark.parametrize("with_lock", [True, False])
def test_a_copied_journal_takes_a_new_incarnation(tmp_path, with_lock, boot_file):
    """[replication 8] A restored backup, lock file copied or not, is somebody new."""
    file_with(tmp_path / "a.db", "x")
    (tmp_path / "copy").mkdir()
    for path in tmp_path.glob("a.db*" if with_lock else "a.db"):
        shutil.copy(path, tmp_path / "copy")
    booted = boot_file(tmp_path / "copy/a.db")
    assert booted.kernel.replica == "ada~fresh"
    assert elements(booted.kernel) == {"x"}
    booted.kernel.document("set", ORSet).add("y")
    assert booted.kernel.vector["ada~fresh"] == 1


def test_a_backup_put_back_in_place_takes_a_new_incarnation(tmp_path, boot_file):
    """The file is an older one than the lock file witnessed."""
    file_with(tmp_path / "a.db", "x")
    shutil.copy(tmp_path / "a.db", tmp_path / "backup")
    boot_and_close(tmp_path / "a.db")
    shutil.copy(tmp_path / "backup", tmp_path / "a.db")
    booted = boot_file(tmp_path / "a.db")
    assert booted.kernel.replica == "ada~fresh"


def boot_and_close(path: Path) -> str:
    journal = SqliteJournal(path)
    replica = boot(journal, "ada~other", None).kernel.replica
    journal.close()
    return replica


def test_backup_to_strips_the_identity(tmp_path):
    """A backup made by us is consistent, and whoever opens it is somebody else."""
    file_with(tmp_path / "a.db", "x")
    back_up(tmp_path / "a.db", tmp_path / "b.db")
    assert boot_and_close(tmp_path / "b.db") == "ada~other"
    assert boot_and_close(tmp_path / "a.db") == "ada~01"


def test_an_earlier_moment_written_into_the_original_file_is_refused_until_its_lock_is_moved(
    tmp_path, boot_file
):
    """Counterexample: same inode, same boot, fewer commits than the lock file witnesses."""
    path = tmp_path / "a.db"
    kernel, rows = written("w0")
    journal = SqliteJournal(path)
    journal.open()
    journal.append(entry(kernel, rows))
    journal._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = path.read_bytes()
    kernel.document("set", ORSet).add("lost")
    journal.append(entry(kernel, rows[1:]))
    journal.close()
    with path.open("r+b") as file:  # in place: the inode stays
        file.write(backup)
        file.truncate()
    with pytest.raises(
        JournalUnreadableError, match=r"up to 3 were made durable, and file and log come to 1"
    ):
        look(path)
    with pytest.raises(JournalUnreadableError) as error:
        boot_file(path)
    assert "a.db.lock away" in error.value.hint
    (tmp_path / "a.db.lock").unlink()
    booted = boot_file(path)
    assert booted.kernel.replica == "ada~fresh"
    assert elements(booted.kernel) == {"w0"}


def test_looking_at_a_copy_does_not_make_it_the_original(tmp_path, boot_file):
    """Counterexample: `doctor` on a restored backup wrote a nonce, and continuity was believed."""
    file_with(tmp_path / "a.db", "x")
    shutil.copy(tmp_path / "a.db", tmp_path / "b.db")
    for _ in range(2):
        assert not look(tmp_path / "b.db").continuous
        looker = SqliteJournal(tmp_path / "b.db")
        assert not looker.open().continuous
        looker.close()
    assert boot_file(tmp_path / "b.db").kernel.replica == "ada~fresh"


def test_a_crash_of_the_very_first_boot_leaves_a_journal_that_starts(tmp_path, boot_file):
    """Counterexample: killed after the header was written and before the tables were."""
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("PRAGMA journal_mode=WAL")
    db.close()
    assert (tmp_path / "a.db").stat().st_size > 0
    assert boot_file(tmp_path / "a.db").kernel.replica == "ada~fresh"


@pytest.mark.processes
def test_two_processes_on_one_journal_the_second_refuses(tmp_path):
    """[replication 9] real files, real processes: the second starts not, and says why."""
    journal = SqliteJournal(tmp_path / "a.db")
    journal.open()
    script = (
        "import sys; from replication.journal.sqlite import SqliteJournal\n"
        "from replication.errors import JournalHeldError\n"
        "try: SqliteJournal(sys.argv[1]).open()\n"
        "except JournalHeldError as error: print(error.code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "journal_held"
    journal.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look at" * 10, None], ids=["text", "db"]
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    """Unreadable is a typed error with a hint, and the file keeps its bytes."""
    path = tmp_path / "a.db"
    if content is None:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE other (x)")
        db.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(JournalUnreadableError) as refused:
        SqliteJournal(path).open()
    assert refused.value.hint
    assert path.read_bytes() == before


def test_a_directory_that_is_not_there_is_a_typed_error(tmp_path):
    """The most common typing error of all."""
    with pytest.raises(JournalUnreadableError, match="cannot be opened"):
        SqliteJournal(tmp_path / "nowhere/a.db").open()


def test_a_transaction_that_fails_leaves_nothing_and_can_be_repeated(tmp_path, boot_file):
    """[replication 18] (the journal's part) disk full: typed, atomic, and the retry succeeds."""
    journal = SqliteJournal(tmp_path / "a.db")
    journal.open()
    kernel, rows = written("x")
    journal.append(entry(kernel, rows))
    db = journal._connection()
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count={pages}")
    kernel.document("set", ORSet).add(random.Random(1).randbytes(50_000))
    with pytest.raises(JournalFailedError, match="full"):
        journal.append(entry(kernel, rows[1:]))
    db.execute("PRAGMA max_page_count=1000000")
    journal.append(entry(kernel, rows[1:]))
    journal.close()
    booted = boot_file(tmp_path / "a.db")
    assert booted.kernel.canonical_bytes() == kernel.canonical_bytes()


def test_a_vector_ahead_of_its_rows_is_not_written(journal):
    """Asserted in the transaction: neither rows nor vector of it are there; a snapshot heals it."""
    boot(journal, "ada~01", None)
    kernel, rows = written("a", "b", "c")
    for missing in (rows[:2], rows[1:], [rows[0], rows[2]], []):
        with pytest.raises(VectorAheadError, match="ada~01"):
            journal.append(entry(kernel, missing))
        assert (list(journal.read().rows), dict(journal.read().vector)) == ([], {})
    foreign = Entry(rows, {**kernel.vector, "bob~1": 1}, kernel.replica, 0)
    with pytest.raises(VectorAheadError, match="bob~1 0 -> 1"):
        journal.append(foreign)
    journal.append(entry(kernel, [], snapshot=kernel.to_bytes()))
    assert elements(rebuild(journal.read(), "ada~01", None)) == {"a", "b", "c"}
    kernel, rows = written("a", "b", "c", "d")
    journal.append(entry(kernel, rows[3:]))
    assert elements(rebuild(journal.read(), "ada~01", None)) == {"a", "b", "c", "d"}


def three_origins() -> tuple[Kernel, list[Row]]:
    """A journal's rows: ten events of each of three origins, by turns."""
    kernel, rows = written(replica="ada~01")
    writers = [Kernel(f"{name}~1") for name in ("bob", "cyd")]
    for number in range(10):
        kernel.document("set", ORSet).add(f"ada {number}")
        for writer in writers:
            delta = writer.document("set", ORSet).add(f"{writer.replica} {number}")
            kernel.apply(delta)
            rows.append(Row(DELTA, delta.encode()))
    return kernel, rows


@pytest.mark.parametrize("how", ["damaged", "raises", "gone"])
@pytest.mark.parametrize("origin", ["bob~1", "ada~01"], ids=["a peer's", "its own"])
def test_a_row_that_cannot_be_rebuilt_keeps_only_its_own_origin_out(
    journal, how, origin, monkeypatch
):
    """Counterexample: one row kept the agent from ever starting again."""
    boot(journal, "ada~01", None)
    kernel, rows = three_origins()
    journal.append(entry(kernel, rows, lease=10))
    journal.close()
    bad = next(
        index
        for index, row in enumerate(rows)
        if Delta.decode(row.data).ranges == ((origin, 6, 6),)
    )
    if how == "raises":
        replay, bytes_of = Kernel.replay, rows[bad].data

        def raises(kernel: Kernel, delta: Delta) -> object:
            if delta.encode() == bytes_of:
                raise RecursionError
            return replay(kernel, delta)

        monkeypatch.setattr(Kernel, "replay", raises)
    else:
        left = rows[:bad] + rows[bad + 1 :]
        damaged = [*rows[:bad], Row(DELTA, b"damaged"), *rows[bad + 1 :]]
        shown = damaged if how == "damaged" else left
        read = type(journal).open

        def opened(self) -> Recovered:
            return replace(read(self), rows=shown)

        monkeypatch.setattr(type(journal), "open", opened)
    booted = boot(journal, "ada~02", None)
    (lost,) = booted.kept_out
    assert lost[:3] == (origin, 5, 10)
    assert booted.kernel.replica == "ada~02"  # what was sent may be missing: ada~01 is over
    assert dict(booted.kernel.vector) | {"ada~02": 1} == {**kernel.vector, origin: 5, "ada~02": 1}
    names = ("ada", "bob~1", "cyd~1")
    wanted = {f"{who} {n}" for who in names for n in range(5 if who in origin else 10)}
    assert elements(booted.kernel) == wanted
    assert journal.read().vector[origin] == 5  # a peer that has the rest is asked for it
    booted.kernel.apply(kernel.delta_since(booted.kernel.vector))
    assert elements(booted.kernel) == elements(kernel)


def test_a_damaged_row_is_named_by_doctor_and_by_restore_which_say_how_to_go_on(tmp_path, capsys):
    """Neither stops at it: the file opens, and what is missing is asked of peers."""
    journal = SqliteJournal(tmp_path / "a.db")
    boot(journal, "ada~01", None)
    kernel, rows = three_origins()
    rows[1] = Row(DELTA, b"not a delta", Delta.decode(rows[1].data).ranges)
    journal.append(entry(kernel, rows, lease=10))
    journal.close()
    with pytest.raises(UnhealthyError, match="bob~1 is kept out from event 1 on, of 10") as found:
        of_journal(tmp_path / "a.db")
    assert found.value.hint == HOW_TO_GO_ON
    with pytest.raises(JournalUnreadableError, match="bob~1"):
        back_up(tmp_path / "a.db", tmp_path / "b.db")
    assert main(["restore", str(tmp_path / "a.db"), str(tmp_path / "b.db")]) == 0
    said = capsys.readouterr().out
    assert "bob~1 is kept out from event 1 on" in said
    assert HOW_TO_GO_ON in said
    assert elements(boot(SqliteJournal(tmp_path / "b.db"), "ada~02", None).kernel)

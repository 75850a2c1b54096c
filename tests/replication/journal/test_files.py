"""The files of a journal: one holder by any name, logs that belong to it, copies that open."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crdt import Kernel, ORSet
from replication.errors import ConfigError, JournalHeldError, JournalUnreadableError
from replication.journal.base import Entry, boot, rebuild
from replication.journal.files import beside
from replication.journal.sqlite import SqliteJournal, back_up, look
from replication.protocol.effects import OWN, Row
from tests.scale import rounds, seeds


class Life:
    """One boot of a journal that adds elements to a set, each durable when `add` returns."""

    def __init__(self, path: Path, fresh: str = "ada~1") -> None:
        self.journal = SqliteJournal(path)
        self.kernel = boot(self.journal, fresh, None).kernel
        self._rows: list[Row] = []
        self.kernel.on_delta = lambda delta, change: self._rows.append(Row(OWN, delta.encode()))

    def add(self, *elements: object, padding: int = 0) -> None:
        for element in elements:
            self.kernel.document("set", ORSet).add((element, bytes(padding)))
            own = self.kernel.vector[self.kernel.replica]
            rows, lease = tuple(self._rows), own + 1000
            self.journal.append(Entry(rows, dict(self.kernel.vector), self.kernel.replica, lease))
            self._rows.clear()

    def snapshot(self) -> None:
        kernel = self.kernel
        state = kernel.to_bytes()
        own = kernel.vector[kernel.replica]
        self.journal.append(Entry((), dict(kernel.vector), kernel.replica, own + 1000, state))

    def checkpoint(self) -> None:
        self.journal._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def elements(self) -> set[object]:
        return elements(self.kernel)

    def close(self) -> None:
        self.journal.close()


def elements(kernel: Kernel) -> set[object]:
    return {element for element, _ in kernel.document("set", ORSet)}


@pytest.fixture
def live():
    """Begins lives; all are closed in the end."""
    lives: list[Life] = []

    def begin(path: Path, fresh: str = "ada~1") -> Life:
        lives.append(Life(path, fresh))
        return lives[-1]

    yield begin
    for life in lives:
        life.close()


def crashed(path: Path, directory: Path) -> Path:
    """What a machine holds whose process died now: the files as they are, elsewhere."""
    directory.mkdir(exist_ok=True)
    for suffix in ("", "-wal", ".lock"):
        if beside(path, suffix).exists():
            shutil.copyfile(beside(path, suffix), beside(directory / path.name, suffix))
    return directory / path.name


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# ------------------------------------------------------------------------------ one holder


@pytest.mark.parametrize("way", ["symlink", "directory", "relative", "hard link"])
def test_a_journal_is_held_by_whatever_name_it_is_opened(tmp_path, monkeypatch, live, way):
    """Counterexample: opened through a link it was held twice, and one's rows deleted the other's.

    The first may use any name; closed, it may be opened by the other one and goes on as itself.
    """
    home = tmp_path / "home"
    home.mkdir()
    path = home / "a.db"
    first = live(path)
    first.add("x")
    first.close()
    other = tmp_path / "other.db"
    match way:
        case "symlink":
            other.symlink_to(path)
        case "directory":
            (tmp_path / "link").symlink_to(home)
            other = tmp_path / "link" / "a.db"
        case "relative":
            monkeypatch.chdir(home)
            other = Path("../home/a.db")
        case "hard link":
            other.hardlink_to(path)
    for one, two in ((path, other), (other, path)):
        held = live(one, f"ada~{one.name}")
        with pytest.raises(JournalHeldError):
            SqliteJournal(two).open()
        with pytest.raises(JournalHeldError):
            look(two)
        assert "x" in held.elements()
        held.add(str(one))
        held.close()
    again = live(path, "ada~2")
    assert again.elements() == {"x", str(path), str(other)}
    if way != "hard link":  # whose lock files differ, so continuity is not believed
        assert again.kernel.replica == "ada~1"


@pytest.mark.processes
def test_another_process_is_kept_out_by_the_file_itself(tmp_path, live):
    """A hard link has a lock file of its own; the file is one."""
    held = live(tmp_path / "a.db")
    held.add("x")
    (tmp_path / "b.db").hardlink_to(tmp_path / "a.db")
    script = (
        "import sys; from replication.journal.sqlite import SqliteJournal\n"
        "from replication.errors import JournalHeldError\n"
        "try: SqliteJournal(sys.argv[1]).open()\n"
        "except JournalHeldError as error: print(error.code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "b.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "journal_held"
    held.add("y")  # and the try did not take SQLite's locks from the holder
    held.close()
    assert live(tmp_path / "a.db").elements() == {"x", "y"}


def test_a_journal_left_under_another_name_is_not_opened_without_its_log(tmp_path, live):
    """Its last commits lie beside that name: they would be lost, and then both files damaged."""
    running = live(tmp_path / "a.db")
    running.add("x")
    path = crashed(tmp_path / "a.db", tmp_path / "crashed")
    link = path.with_name("b.db")
    link.hardlink_to(path)
    for refused in (lambda: SqliteJournal(link).open(), lambda: look(link)):
        with pytest.raises(JournalUnreadableError, match="hard links") as error:
            refused()
        assert "-wal" in error.value.hint
    assert live(path, "ada~2").elements() == {"x"}


@pytest.mark.parametrize(
    "path", ["", ":memory:", "file:a.db", "file::memory:?cache=shared", "a\0.db", b"a.db", 7, None]
)
def test_what_is_no_path_of_a_file_is_refused_before_anything_is_made(tmp_path, monkeypatch, path):
    """A typed error with a hint, for what SQLite would take, or take for something else."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        SqliteJournal(path)
    assert refused.value.hint
    assert not list(tmp_path.iterdir())


def test_a_directory_is_no_journal(tmp_path):
    """A typed error, which says what is there."""
    with pytest.raises(JournalUnreadableError, match="Is a directory"):
        SqliteJournal(tmp_path).open()


# ------------------------------------------------------------------------------ what fits together


@pytest.mark.parametrize("inode", ["new", "same"])
def test_a_backup_put_beside_a_left_over_log_is_the_backup(tmp_path, live, inode):
    """Counterexample: SQLite played the crashed life's log into it; "disk image is malformed".

    The log is not lost: it lies aside, under a name that SQLite does not take for a log.
    """
    earlier = live(tmp_path / "a.db")
    earlier.add("x")
    earlier.close()
    backup = tmp_path / "backup.db"
    shutil.copyfile(tmp_path / "a.db", backup)
    later = live(tmp_path / "a.db")
    later.add(*range(200), padding=500)
    path = crashed(tmp_path / "a.db", tmp_path / "crashed")
    if inode == "new":
        path.unlink()
    shutil.copyfile(backup, path)
    restored = live(path, "ada~2")
    assert restored.elements() == {"x"}
    assert restored.kernel.replica == "ada~2"
    assert beside(path, "-wal.aside-1").stat().st_size > 0


def test_the_log_of_a_crash_is_the_files_own(tmp_path, live):
    """What was acknowledged before the crash is there, moved to another disk or not."""
    running = live(tmp_path / "a.db")
    running.add(*range(50), padding=500)
    path = crashed(tmp_path / "a.db", tmp_path / "crashed")
    assert elements(boot_of(look(path))) == set(range(50))
    assert live(path, "ada~2").elements() == set(range(50))
    assert not list(path.parent.glob("*.aside*"))


def boot_of(recovered) -> Kernel:
    return rebuild(recovered, recovered.replica, None)


def test_a_file_that_its_own_log_does_not_fit_is_refused_and_left(tmp_path, live):
    """A file copied while its agent ran, put back beside that agent's later log: both are kept."""
    running = live(tmp_path / "a.db")
    running.add(*range(3), padding=100)
    running.checkpoint()
    backup = (tmp_path / "a.db").read_bytes()
    running.add(*range(3, 100), padding=4000)
    running.checkpoint()
    running.add(*range(100, 120), padding=4000)
    path = crashed(tmp_path / "a.db", tmp_path / "crashed")
    path.write_bytes(backup)
    before = contents(path.parent)
    for refused in (lambda: SqliteJournal(path).open(), lambda: look(path)):
        with pytest.raises(JournalUnreadableError, match="do not add up") as error:
            refused()
        assert "move -wal away" in error.value.hint
    assert {n: d for n, d in contents(path.parent).items() if not n.endswith("-shm")} == before


def test_whatever_is_put_back_beside_whatever_is_left_starts_or_is_refused(tmp_path, live):
    """Copies of any moment, beside logs of any moment: never a file that cannot be told of."""
    dice = random.Random(seeds(1)[0])
    path = tmp_path / "a.db"
    mains: list[bytes] = []
    logs: list[tuple[bytes, bytes]] = []
    for life in range(4):
        running = live(path, f"ada~{life}")
        for step in range(6):
            running.add(*((life, step, n) for n in range(dice.randint(1, 40))), padding=2000)
            if dice.random() < 0.2:
                running.snapshot()
            if dice.random() < 0.4:
                running.checkpoint()
            mains.append(path.read_bytes())
            logs.append((beside(path, "-wal").read_bytes(), beside(path, ".lock").read_bytes()))
        running.close()
    outcomes = {"start": 0, "refused": 0}
    for number in range(rounds(200, 40)):
        place = tmp_path / str(number) / "a.db"
        place.parent.mkdir()
        wal, lock = dice.choice(logs)
        for suffix, data in (("", dice.choice(mains)), ("-wal", wal), (".lock", lock)):
            beside(place, suffix).write_bytes(data)
        try:
            started = Life(place, "ada~9")
        except JournalUnreadableError:
            outcomes["refused"] += 1
            continue
        started.add("goes on")
        started.close()
        assert "goes on" in elements(boot_of(look(place)))
        outcomes["start"] += 1
        shutil.rmtree(place.parent)
    assert outcomes["start"] > outcomes["refused"] > 0


# ------------------------------------------------------------------------------ looking


@pytest.mark.parametrize("state", ["closed", "crashed", "restored beside a log"])
def test_to_look_at_a_journal_leaves_no_trace(tmp_path, live, state):
    """Counterexample: `doctor` counted a boot and wrote a nonce, each time."""
    running = live(tmp_path / "a.db")
    running.add("x")
    running.close()
    path = tmp_path / "a.db"
    old = path.read_bytes()
    if state != "closed":
        running = live(path)
        running.add("y")
        path = crashed(path, tmp_path / "crashed")
    if state == "restored beside a log":
        path.write_bytes(old)
    before = contents(path.parent)
    first, second = look(path), look(path)
    assert (first.boots, first.continuous) == (second.boots, second.continuous)
    assert first.continuous == (state == "closed")
    assert elements(boot_of(first)) == ({"x", "y"} if state == "crashed" else {"x"})
    assert contents(path.parent) == before


def test_what_is_not_there_is_not_made_by_looking(tmp_path):
    """Neither a file nor a lock file."""
    with pytest.raises(JournalUnreadableError, match="does not exist"):
        look(tmp_path / "a.db")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ copies


def test_a_restore_moves_left_over_companions_aside(tmp_path, live):
    """They belonged to the file that is gone; the restored one opens without them."""
    running = live(tmp_path / "a.db")
    running.add("x")
    running.close()
    back_up(tmp_path / "a.db", tmp_path / "backup.db")
    running = live(tmp_path / "a.db")
    running.add(*range(100), padding=500)
    path = crashed(tmp_path / "a.db", tmp_path / "crashed")
    path.unlink()
    beside(path, "-shm").write_bytes(b"of another time")
    moved = back_up(tmp_path / "backup.db", path)
    assert [left.name for left in moved] == ["a.db-wal.aside-1", "a.db-shm.aside-1"]
    restored = live(path, "ada~2")
    assert restored.elements() == {"x"}
    assert restored.kernel.replica == "ada~2"


def test_a_restore_under_a_running_agent_is_refused(tmp_path, live):
    """Its file was removed, and it still holds what it stands on."""
    running = live(tmp_path / "a.db")
    running.add("x")
    running.close()
    back_up(tmp_path / "a.db", tmp_path / "backup.db")
    running = live(tmp_path / "a.db")
    (tmp_path / "a.db").unlink()
    with pytest.raises(JournalHeldError):
        back_up(tmp_path / "backup.db", tmp_path / "a.db")


def test_a_backup_that_does_not_open_is_not_called_restored(tmp_path, live):
    """It is read before its place is taken; nothing is left of the try."""
    running = live(tmp_path / "a.db")
    running.add(*range(100), padding=500)
    running.close()
    damaged = bytearray((tmp_path / "a.db").read_bytes())
    damaged[4096:20_000] = bytes(20_000 - 4096)
    (tmp_path / "backup.db").write_bytes(damaged)
    with pytest.raises(JournalUnreadableError):
        back_up(tmp_path / "backup.db", tmp_path / "new.db")
    assert not [path for path in tmp_path.glob("new.db*") if path.suffix != ".lock"]


def test_the_lock_file_notes_the_port_and_one_without_it_is_as_good(tmp_path):
    """Journals of earlier builds noted none; whoever holds it or not, it can be asked for."""
    place = tmp_path / "ada.db"
    journal = SqliteJournal(place)
    assert journal.port == 0
    journal.port = 4711
    journal.open()
    assert SqliteJournal(place).port == 4711
    journal.close()
    lock = beside(place, ".lock")
    assert SqliteJournal(place).port == 4711
    lock.write_text(" ".join(lock.read_text().split()[:2]) + "\n")
    again = SqliteJournal(place)
    assert again.port == 0
    assert again.open().continuous
    again.close()

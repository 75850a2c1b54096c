"""Files by which members find each other: hostile ones, stale ones, those of others."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import convoca
from convoca.discovery import (
    FILE_BYTES_MAX,
    Whereabouts,
    directory_of,
    everybody,
    runtime_directory,
)
from convoca.processes import is_running, locked, started

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "127.0.0.1:7001"


def claimed(name: str = "ann", team: str = "orders") -> Whereabouts:
    found = Whereabouts(team, name)
    found.claim(ADDRESS, f"{name}~1")
    return found


def doc_of(name: str, team: str = "orders", **other: object) -> dict[str, object]:
    """What a living member of that name would have written."""
    pid = os.getpid()
    doc = {"team": team, "name": name, "address": ADDRESS, "pid": pid, "started": started(pid)}
    return {**doc, "id": f"{name}~1", **other}


def write(name: str, doc: object) -> Path:
    directory = directory_of("orders")
    directory.mkdir(0o700, parents=True, exist_ok=True)
    directory.parent.chmod(0o700)
    place = directory / f"{name}.json"
    place.write_bytes(doc if isinstance(doc, bytes) else json.dumps(doc).encode())
    return place


def test_what_is_written_is_read_by_others_and_taken_away() -> None:
    """A claim is seen under its team, not by itself, and not after `leave`."""
    ann, bob = claimed(), Whereabouts("orders", "bob")
    (found,) = bob.others()
    assert (found.name, found.team, found.address, found.alive) == ("ann", "orders", ADDRESS, True)
    assert ann.others() == []
    assert Whereabouts("another", "bob").others() == []
    assert [each.name for each in everybody()] == ["ann"]
    ann.leave()
    assert bob.others() == everybody() == []


def test_directories_and_files_are_this_users_alone() -> None:
    """0700 and 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        claimed()
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (runtime_directory(), directory_of("orders"))}
    assert modes == {0o700}
    assert stat.S_IMODE((directory_of("orders") / "ann.json").stat().st_mode) == 0o600


def test_the_directory_is_the_systems_for_this_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """$XDG_RUNTIME_DIR where there is one, else one of its own under that for temporary files."""
    monkeypatch.delenv("CONVOCA_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_directory() == tmp_path / "convoca"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert runtime_directory() == tmp_path / f"convoca-{os.getuid()}"


HOSTILE: dict[str, object] = {
    "empty": b"",
    "no JSON": b"{",
    "deep": b"[" * FILE_BYTES_MAX,
    "bytes": b"\xff\xfe",
    "too large": b'{"team": "' + b"x" * FILE_BYTES_MAX,
    "a list": [],
    "another name": doc_of("bob"),
    "another team": doc_of("ann", team="others"),
    "an address elsewhere": doc_of("ann", address="192.0.2.7:7001"),
    "a name that is resolved": doc_of("ann", address="example.org:7001"),
    "no port": doc_of("ann", address="127.0.0.1:0"),
    "a port beyond": doc_of("ann", address="127.0.0.1:65536"),
    "a pid that is text": doc_of("ann", pid=str(os.getpid())),
    "a pid that is true": doc_of("ann", pid=True),
    "a field that lacks": {k: v for k, v in doc_of("ann").items() if k != "started"},
    "an address that is none": doc_of("ann", address=7001),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_is_not_what_a_member_writes_is_left_out(what: str) -> None:
    """It leads nobody anywhere, holds no name, and is left where it is."""
    place = write("ann", HOSTILE[what])
    assert Whereabouts("orders", "bob").others() == []
    assert everybody() == []
    assert place.exists()
    claimed()  # and the name is free


@pytest.mark.parametrize("pid", [0, -1, 1 << 40])
def test_a_number_that_is_no_process_is_stale(pid: int) -> None:
    """It is swept, and no signal is sent to whatever a number below one would mean."""
    place = write("ann", doc_of("ann", pid=pid))
    assert Whereabouts("orders", "bob").others() == []
    assert not place.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Neither as a file, nor a pipe as one, which would hang whoever opens it."""
    real = write("ann", doc_of("ann"))
    real.rename(tmp_path / "ann.json")
    real.symlink_to(tmp_path / "ann.json")
    os.mkfifo(real.with_name("cyd.json"))
    assert Whereabouts("orders", "bob").others() == []


@pytest.mark.parametrize("level", ["all teams", "one team"])
@pytest.mark.parametrize("how", ["a link", "open to others", "a file"])
def test_a_directory_that_is_not_ours_alone_is_refused(
    level: str, how: str, tmp_path: Path
) -> None:
    """Whoever could write there could lead a member astray: nothing is read, nothing written."""
    place = runtime_directory() if level == "all teams" else directory_of("orders")
    place.parent.mkdir(0o700, parents=True, exist_ok=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    if how == "a link":
        place.symlink_to(elsewhere)
    elif how == "a file":
        place.write_text("")
    else:
        place.mkdir()
        place.chmod(0o770)
    with pytest.raises(convoca.RuntimeDirectoryError):
        claimed()
    assert list(elsewhere.iterdir()) == []
    assert everybody() == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("whose", ["directory", "file"])
def test_what_belongs_to_another_user_is_not_believed(whose: str) -> None:
    """His directory is refused; his file in ours is left out."""
    place = write("ann", doc_of("ann"))
    os.chown(place if whose == "file" else place.parent, 65534, 65534)
    if whose == "file":
        assert Whereabouts("orders", "bob").others() == []
    else:
        with pytest.raises(convoca.RuntimeDirectoryError):
            Whereabouts("orders", "bob").others()


async def test_a_member_in_an_unsafe_directory_says_how_to_start(run: Path) -> None:
    """The start fails, tells the two ways out, and one of them works."""
    run.mkdir()
    run.chmod(0o777)
    with pytest.raises(convoca.RuntimeDirectoryError, match=run.name) as refused:
        await convoca.join("ann").start()
    assert "peers=[]" in refused.value.hint
    async with convoca.join("ann", peers=[]):
        pass


@pytest.mark.processes
def test_the_file_of_a_process_that_is_gone_is_swept() -> None:
    """It was killed, so it took nothing away: the next who looks does, and the name is free."""
    program = (
        "from convoca.discovery import Whereabouts; import os, signal;"
        f"Whereabouts('orders', 'ann').claim('{ADDRESS}', 'ann~1'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    place = directory_of("orders") / "ann.json"
    assert place.exists()
    assert Whereabouts("orders", "bob").others() == []
    assert not place.exists()
    claimed()


def test_a_number_that_was_given_to_another_process_is_stale() -> None:
    """The number runs, and began at another time than the file says: it is somebody else."""
    place = write("ann", doc_of("ann", started="long ago"))
    Whereabouts("orders", "ann").check_free()
    assert Whereabouts("orders", "bob").others() == []
    assert not place.exists()


def test_a_zombie_is_gone() -> None:
    """A process that ended and that nobody has asked how: its number is not free yet."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert not is_running(child.pid, "")
    finally:
        child.wait()


def test_of_many_that_claim_a_name_at_once_one_has_it() -> None:
    """A stale file lies in the way, so that all of them sweep and claim."""
    write("ann", doc_of("ann", started="long ago"))
    gate = threading.Barrier(8)

    def claim(_: int) -> bool:
        gate.wait()
        try:
            claimed()
        except convoca.NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


def test_who_left_takes_nothing_of_his_successor_away() -> None:
    """A file that another wrote meanwhile stays."""
    first = claimed()
    place = write("ann", doc_of("ann", address="127.0.0.1:7002"))
    first.leave()
    assert place.exists()


def test_a_lock_that_is_never_let_go_of_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    """A claim waits for a moment, and says why not; it does not hang."""
    claimed("bob")
    monkeypatch.setattr("convoca.processes.LOCK_S", 0.05)
    with locked(directory_of("orders") / ".lock"), pytest.raises(convoca.RuntimeDirectoryError):
        claimed()

"""The SQLite engine against its disk, its rivals and its own past."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.authority import AuthorityProcess
from transactional.stores import sqlite_file
from transactional.stores.sqlite import SQLiteStore
from transactional.stores.writer_thread import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(tmp_path / "s.db")
    yield store
    await store.close()


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    """Keys, revisions, op_ids, business time, epoch and history outlive the process."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    store.share()  # so leases do, too
    lease = await store.lease(60)
    first = await store.commit([], [t.Put("a", b"1"), t.Put("b", b"2", lease.id)], op_id="x")
    epoch, items = store.epoch, (await store.scan("")).items
    await store.close()
    again = await SQLiteStore.open(path)
    assert again.epoch == epoch
    assert (await again.scan("")).items == items
    assert (
        await again.commit([], [t.Put("a", b"1"), t.Put("b", b"2", lease.id)], op_id="x") == first
    )
    assert await again.renew(lease.id) == lease
    second = await again.commit([], [t.Put("c", b"")])
    assert second.revision > first.revision
    assert second.time > first.time
    events = again.watch("", after=0)
    assert [(await anext(events)).revision for _ in range(2)] == [first.revision, second.revision]
    await events.aclose()
    await again.close()
    assert sqlite_file.verify(path) == []


async def test_the_keys_of_a_commit_are_found_and_deleted_together(tmp_path: Path) -> None:
    """Small ones, large ones and some that are not there: few statements, and the right answer."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    sizes = [0, 1, 4096, 4097, 100_000]
    names = [f"k/{n:02}" for n in range(60)]
    values = {name: b"x" * sizes[n % 5] for n, name in enumerate(names) if n % 7}
    made = await store.commit([], [t.Put(name, value) for name, value in values.items()])
    await store.close()
    store = await SQLiteStore.open(path)
    large = sum(len(value) > 4096 for value in values.values())
    said: list[str] = []
    await store._writer.ask(lambda state: state._db.set_trace_callback(said.append))
    compares = [t.Revision(name, made.revision if name in values else 0) for name in names]
    gone = await store.commit(compares, [t.Delete(name) for name in names])
    await store._writer.ask(lambda state: state._db.set_trace_callback(None))
    asked = [line for line in said if " FROM keys WHERE key" in line]
    assert len(asked) <= 2 * large + 2 * 4  # 60 are 32 + 16 + 8 + 4
    assert (await store.scan("k/")).items == {}
    events = store.watch("k/", after=made.revision)
    event = await anext(events)
    assert (event.revision, len(event.changes)) == (gone.revision, len(values))
    await events.aclose()
    with pytest.raises(t.ConflictError) as told:
        await store.commit([t.Exists(names[1]), t.Absent(names[2])], [t.Put(names[3], b"")])
    assert [compare.key for compare in told.value.failed] == [names[1]]
    await store.close()
    assert sqlite_file.verify(path) == []


async def test_a_lease_of_an_embedded_store_ends_with_its_process(tmp_path: Path) -> None:
    """Who held it lived there; who waits for what it protected need not wait for its time."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    mine = await store.lease(60)
    await store.commit([], [t.Put("mine", b"", mine.id)])
    store.share()
    theirs = await store.lease(60)
    await store.commit([], [t.Put("theirs", b"", theirs.id)])
    await store.close()
    again = await SQLiteStore.open(path)
    with pytest.raises(t.LeaseExpiredError):
        await again.renew(mine.id)
    assert await again.renew(theirs.id) == theirs
    assert list((await again.scan("")).items) == ["theirs"]
    await again.close()


async def test_a_poisoned_operation_in_a_group_of_64_fails_alone(store: SQLiteStore) -> None:
    """[transactional 9] An operation that breaks inside the transaction: 63 others commit."""

    def poison(_: object) -> None:
        raise sqlite3.InterfaceError("cannot be bound")

    async def write(number: int) -> object:
        if number == 40:
            return await store._writer.ask(poison)
        return await store.commit([], [t.Put(f"good/{number:02}", b"")])

    results = await asyncio.gather(*map(write, range(64)), return_exceptions=True)
    assert sum(isinstance(result, t.Commit) for result in results) == 63
    assert isinstance(results[40], sqlite3.InterfaceError)
    assert len((await store.scan("good/")).items) == 63


async def test_commits_that_come_in_one_batch_succeed_and_fail_each_alone(
    store: SQLiteStore,
) -> None:
    """[transactional 9] A conflict, a wrong one, a used op_id and two good ones in one hand-over.

    They are decided in their order; an operation that breaks beside them breaks alone.
    """
    await store.commit([], [t.Put("used", b"")], op_id="used")

    def poison(_: object) -> None:
        raise sqlite3.InterfaceError("cannot be bound")

    asked = [
        t.CommitRequest([t.Absent("a")], [t.Put("a", b"1")]),
        t.CommitRequest([], [t.Put("", b"")]),
        t.CommitRequest([t.Absent("a")], [t.Put("a", b"2")]),
        t.CommitRequest([], [t.Put("b", b"")], op_id="used"),
        t.CommitRequest([t.Exists("a")], [t.Put("c", b"")]),
    ]
    outcomes, broken = await asyncio.gather(
        store.commit_all(asked), store._writer.ask_all([(poison, None)])
    )
    kinds = [type(outcome) for outcome in outcomes]
    refusals = [t.InvalidRequestError, t.ConflictError, t.OperationIdReusedError]
    assert kinds == [t.Commit, *refusals, t.Commit]
    assert isinstance(broken[0], Failure)
    assert list((await store.scan("")).items) == ["a", "c", "used"]
    await store.close()
    with pytest.raises(t.StoreClosedError):
        await store.commit_all(asked)


async def test_operations_of_one_group_see_each_other(store: SQLiteStore) -> None:
    """Sixty-four creators of one key in one group: one wins, 63 see the winner's revision."""
    tasks = [t.create(store, "a", b"%d" % number) for number in range(64)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    (winner,) = [result for result in results if isinstance(result, t.Commit)]
    told = {r.current["a"].revision for r in results if isinstance(r, t.ConflictError)}
    assert told == {winner.revision}


@pytest.mark.processes
async def test_kill_in_mid_commit_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """[transactional 10] kill -9 of the authority under load: acknowledged writes are there."""
    path = tmp_path / "s.db"
    authority = AuthorityProcess(path)
    dice = random.Random(seeds(1)[0])
    acknowledged: dict[str, int] = {}
    unknown: dict[str, str] = {}

    async def load(store: t.Store, name: str) -> None:
        number = 0
        while True:
            key, op_id = f"{name}/{number}", store.mint_op_id()
            number += 1
            try:
                commit = await store.commit([], [t.Put(key, b"x")], op_id=op_id)
                acknowledged[key] = commit.revision
            except t.OutcomeUnknownError:
                unknown[key] = op_id
                return
            except t.UnavailableError:
                return

    for attempt in range(rounds(100, 6)):
        await authority.start()
        async with t.open(authority.url) as store:
            tasks = [asyncio.create_task(load(store, f"{attempt}/{n}")) for n in range(16)]
            before = len(acknowledged)
            wanted = before + dice.randint(16, 300)
            while len(acknowledged) < wanted:  # noqa: ASYNC110 progress of many tasks
                await asyncio.sleep(0.002)
            await authority.kill()
            await asyncio.gather(*tasks)
    assert sqlite_file.verify(path) == []
    await authority.start()
    async with t.open(authority.url) as store:
        found = (await t.scan_all(store, "")).items
        lost = {key for key, revision in acknowledged.items() if found[key].revision != revision}
        assert not lost
        for key, op_id in unknown.items():
            outcome = await store.resolve(op_id)
            assert isinstance(outcome, t.Applied) == (key in found)
    assert await authority.stop() == 0


FILL = """
import asyncio, sys, transactional as t
async def main(path):
    async with t.open("sqlite:" + path) as store:
        await store.commit([], [t.Put("small", b"1")])
        written = 0
        try:
            while True:
                await store.commit([], [t.Put(f"big/{written}", b"x" * 500_000)])
                written += 1
        except t.StoreFullError as error:
            assert error.code == "store_full"
        assert (await store.get("small")).value == b"1"
        assert await store.get(f"big/{written}") is None
        assert len((await store.scan("big/")).items) == written > 3
        import os
        os.unlink(sys.argv[2])
        await store.commit([], [t.Put("after", b"")])
        print("recovered", written)
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {made.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.processes
def test_a_full_disk_is_a_definite_error_that_heals(small_disk: Path) -> None:
    """[transactional 11] On a small tmpfs: StoreFullError, nothing written, space back, go on."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 4_000_000)
    filled = subprocess.run(
        [sys.executable, "-c", FILL, str(small_disk / "s.db"), str(ballast)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert filled.stdout.startswith("recovered"), filled.stderr
    assert sqlite_file.verify(small_disk / "s.db") == []


@pytest.mark.processes
async def test_a_disk_without_a_byte_left_is_told_and_nothing_is_left_on_it(
    tmp_path: Path, small_disk: Path
) -> None:
    """Counterexample: a lock file that could not be written stayed, and was locked for good."""
    source = await SQLiteStore.open(tmp_path / "s.db")
    await source.commit([], [t.Put("a", b"1")])
    await source.close()
    shutil.copy(tmp_path / "s.db", small_disk / "copied.db")  # without its lock file
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    before = sorted(path.name for path in small_disk.iterdir())
    for name in ("new.db", "copied.db"):
        with pytest.raises(t.StoreFullError, match="No space left"):
            await SQLiteStore.open(small_disk / name)
    with pytest.raises(t.StoreFullError, match="No space left"):
        sqlite_file.backup(tmp_path / "s.db", small_disk / "backup.db")
    assert sqlite_file.verify(small_disk / "copied.db") == []
    assert sqlite_file.stats(small_disk / "copied.db")
    sqlite_file.backup(small_disk / "copied.db", tmp_path / "saved.db")
    assert sorted(path.name for path in small_disk.iterdir()) == before
    ballast.unlink()
    sqlite_file.backup(tmp_path / "s.db", small_disk / "backup.db")
    for name in ("new.db", "copied.db", "backup.db"):
        store = await SQLiteStore.open(small_disk / name)
        await store.commit([], [t.Put("b", b"2")])
        await store.close()


async def test_a_disk_that_is_full_at_the_start_is_told_and_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counterexample: a bare OSError, and the file stayed locked by the process that met it."""
    path = tmp_path / "s.db"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as scarce:
        scarce.setattr(sqlite_file, "write_at", full)
        with pytest.raises(t.StoreFullError, match="No space left"):
            await SQLiteStore.open(path)
    store = await SQLiteStore.open(path)
    await store.close()
    with monkeypatch.context() as scarce:
        scarce.setattr(sqlite_file, "write_at", full)
        with pytest.raises(t.StoreFullError, match="No space left"):
            sqlite_file.backup(path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    sqlite_file.backup(path, tmp_path / "copy.db")


async def test_a_foreign_lock_makes_the_store_unavailable_and_nothing_else(
    store: SQLiteStore, tmp_path: Path
) -> None:
    """[transactional 12] Another program locks the file: definitely unavailable, then healed.

    Each commit waits out the busy timeout of a second, so three of them see a lock of 3 s.
    """
    foreign = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    for number in range(3):
        with pytest.raises(t.UnavailableError):
            await store.commit([], [t.Put("a", b"")], op_id=f"x{number}")
        assert await store.get("a") is None
    foreign.execute("ROLLBACK")
    foreign.close()
    for number in range(3):
        assert await store.resolve(f"x{number}") == t.Fenced(f"x{number}")
    await store.commit([], [t.Put("a", b"")])


async def test_a_second_authority_on_one_file_fails_at_once(
    store: SQLiteStore, tmp_path: Path
) -> None:
    """[transactional 13] StoreLockedError names the owner's process; the first one goes on."""
    with pytest.raises(t.StoreLockedError, match=str(os.getpid())):
        await SQLiteStore.open(tmp_path / "s.db")
    await store.commit([], [t.Put("a", b"")])


async def test_a_restored_backup_is_another_life(tmp_path: Path) -> None:
    """[transactional 15] Op_ids, clients and tokens of the old life are refused."""
    from transactional.server.admission import Listen
    from transactional.server.server import Authority
    from transactional.stores.http import HTTPStore

    path, copy = tmp_path / "s.db", tmp_path / "copy.db"
    old = await SQLiteStore.open(path)
    before = await old.commit([], [t.Put("a", b"1")])
    sqlite_file.backup(path, copy)  # while it is in use
    late = await old.commit([], [t.Put("a", b"2")])
    op_id = old.mint_op_id()
    authority = Authority(old, Listen(port=0))
    await authority.start()
    client = await HTTPStore.open(authority.url)
    await authority.stop()

    restored = await SQLiteStore.open(copy)
    found = await restored.get("a")
    assert found is not None
    assert (found.value, found.revision) == (b"1", before.revision)
    assert restored.epoch != old.epoch
    with pytest.raises(t.EpochMismatchError):
        await restored.commit([], [t.Put("a", b"3")], op_id=op_id)
    fresh = await restored.commit([], [t.Put("a", b"3")])
    assert fresh.revision > late.revision + 1_000_000  # no token of the old life can match
    again = Authority(restored, Listen(port=authority.port))
    await again.start()
    with pytest.raises(t.EpochMismatchError):
        await client.get("a")
    await client.close()
    await again.stop()


async def test_what_is_compacted_is_said_to_be(tmp_path: Path) -> None:
    """A watcher whose values are gone is told, and reads on behind them."""
    store = await SQLiteStore.open(tmp_path / "s.db", history_commits_max=50)
    for number in range(400):
        await store.commit([], [t.Put(f"n{number % 7}", b"")])
    await store.close()
    store = await SQLiteStore.open(tmp_path / "s.db", history_commits_max=50)
    events = store.watch("", after=1)
    first = await anext(events)
    assert isinstance(first, t.Compacted)
    assert (await anext(events)).revision == first.revision + 1
    await events.aclose()
    await store.close()
    assert sqlite_file.verify(tmp_path / "s.db") == []


async def test_callers_op_ids_are_forgotten_after_their_retention(
    tmp_path: Path, hand_clock
) -> None:
    """After op_id_retention_s the same idempotency key is a new operation."""
    store = await SQLiteStore.open(
        tmp_path / "s.db", clock=hand_clock.clock(), op_id_retention_s=100
    )
    first = await store.commit([], [t.Put("a", b"1")], op_id="mine")
    hand_clock.forward(99)
    assert await store.commit([], [t.Put("a", b"1")], op_id="mine") == first
    hand_clock.forward(2)
    again = await store.commit([], [t.Put("a", b"1")], op_id="mine")
    assert again.revision > first.revision
    await store.close()


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /data rw - nfs4 h:/x rw\n", "nfs4"),
        ("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /database rw - nfs4 h:/x rw\n", "ext4"),
        ("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /data rw,x shared:1 - fuse.sshfs s rw\n",
         "fuse.sshfs"),
    ],
)  # fmt: skip
def test_the_file_system_of_a_path_is_found(mounts: str, kind: str) -> None:
    """The longest mount point that holds the path decides; look-alikes do not."""
    assert sqlite_file.filesystem_of(PurePath("/data/x"), mounts) == kind
    assert bool(sqlite_file.NETWORK_FILESYSTEMS.fullmatch(kind)) == (kind != "ext4")


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\1" * 99]
)
async def test_a_file_that_is_none_of_ours_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A foreign file is refused as corrupt and not changed by a byte."""
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises((t.CorruptStoreError, t.UnavailableError)):
        await SQLiteStore.open(path)
    assert path.read_bytes() == content


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """A sound SQLite file with other tables is not taken over."""
    path = tmp_path / "s.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs(x)")
    with pytest.raises(t.CorruptStoreError):
        await SQLiteStore.open(path)
    with pytest.raises(t.InvalidRequestError, match="not a directory"):
        await SQLiteStore.open(tmp_path / "absent" / "s.db")


async def test_verify_names_what_is_wrong(store: SQLiteStore, tmp_path: Path) -> None:
    """Damage of each kind is found and named; a sound file gives no problem."""
    await store.commit([], [t.Put("a", b"1"), t.Put("b", b"2")])
    await store.close()
    path = tmp_path / "s.db"
    assert sqlite_file.verify(path) == []
    for damage in (
        "UPDATE keys SET value = x'00' WHERE key = 'a'",
        "UPDATE keys SET revision = 99 WHERE key = 'a'",
        "UPDATE keys SET lease = 'gone' WHERE key = 'b'",
        "DELETE FROM keys WHERE key = 'b'",
    ):
        broken = tmp_path / "broken.db"
        shutil.copy(path, broken)
        with contextlib.closing(sqlite3.connect(broken, isolation_level=None)) as connection:
            connection.execute(damage)
        assert sqlite_file.verify(broken), damage
        broken.unlink()


async def test_backup_overwrites_nothing(store: SQLiteStore, tmp_path: Path) -> None:
    """An existing target is refused; a missing source, too."""
    (tmp_path / "there").write_bytes(b"precious")
    with pytest.raises(t.InvalidRequestError):
        sqlite_file.backup(tmp_path / "s.db", tmp_path / "there")
    with pytest.raises(t.InvalidRequestError):
        sqlite_file.backup(tmp_path / "absent.db", tmp_path / "new.db")
    assert (tmp_path / "there").read_bytes() == b"precious"


async def crash_image(path: Path, directory: Path) -> Path:
    """What a machine holds whose authority died in the midst of work."""
    store = await SQLiteStore.open(path)
    for number in range(60):
        await store.commit([], [t.Put(f"late/{number % 20}", bytes(2000))])
    directory.mkdir()
    for suffix in ("", "-wal", "-lock"):
        shutil.copyfile(f"{path}{suffix}", directory / (path.name + suffix))
    await store.close()
    return directory / path.name


async def test_a_backup_put_beside_the_log_of_a_lost_store_is_the_backup(tmp_path: Path) -> None:
    """Counterexample: SQLite played the old life's log into it, and the copy was damaged."""
    path, copy = tmp_path / "s.db", tmp_path / "copy.db"
    store = await SQLiteStore.open(path)
    await store.commit([], [t.Put("a", b"1")])
    await store.close()
    epoch = sqlite_file.backup(path, copy)
    for way in ("over it", "in its place", "by backup"):
        lost = await crash_image(path, tmp_path / way)
        if way == "over it":
            shutil.copyfile(copy, lost)
        elif way == "in its place":
            lost.unlink()
            shutil.copyfile(copy, lost)
        else:
            lost.unlink()
            epoch = sqlite_file.backup(copy, lost)
        restored = await SQLiteStore.open(lost)
        assert restored.epoch == epoch
        assert list((await restored.scan("")).items) == ["a"]
        await restored.commit([], [t.Put("b", b"2")])
        await restored.close()
        assert sqlite_file.verify(lost) == []
        assert (lost.parent / "s.db-wal.aside-1").stat().st_size > 0


async def test_the_log_of_a_crash_is_the_stores_own(tmp_path: Path) -> None:
    """Never checkpointed, or checkpointed and moved to another disk: nothing is lost."""
    for life in range(2):
        lost = await crash_image(tmp_path / "s.db", tmp_path / str(life))
        found = await SQLiteStore.open(lost)
        assert len((await found.scan("late/")).items) == 20
        await found.close()
        assert not list(lost.parent.glob("*.aside*"))


async def test_a_file_that_its_own_log_does_not_fit_is_refused_and_left(tmp_path: Path) -> None:
    """Copied by hand while it was served, and put back beside a later log of the same life."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    await store.commit([], [t.Put("a", b"1")])
    await store.close()
    old = path.read_bytes()
    store = await SQLiteStore.open(path)
    for number in range(300):
        await store.commit([], [t.Put(f"more/{number}", bytes(2000))])
    await store.close()
    lost = await crash_image(path, tmp_path / "lost")
    lost.write_bytes(old)
    log = lost.with_name("s.db-wal").read_bytes()
    for _ in range(2):  # and the first refusal does not change the second
        with pytest.raises(t.CorruptStoreError, match="do not fit together"):
            await SQLiteStore.open(lost)
    assert (lost.read_bytes(), lost.with_name("s.db-wal").read_bytes()) == (old, log)


async def test_a_damaged_store_is_not_backed_up(tmp_path: Path) -> None:
    """A copy that would not open gets no name, and nothing is left of it."""
    path = tmp_path / "s.db"
    await crash_image(path, tmp_path / "unused")
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 : 4096 * 8] = bytes(4096 * 5)
    path.write_bytes(damaged)
    with pytest.raises(t.CorruptStoreError):
        sqlite_file.backup(path, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db")) + list(tmp_path.glob("*.part"))

"""The disk changes what was written: an error that says so, or the right answer, and never another.

One small store is made and closed, and copies of it are damaged in turn: each sector, random bits,
lost rows, an older log. Of each copy everything is asked, and what is answered is compared with
what the sound one says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import SOAK, rounds, seeds
from transactional.stores import sqlite_file
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

SECTOR = 512


async def fill(store: SQLiteStore) -> dict[str, str]:
    """Keys small and large, leases, deletions, op_ids of both kinds, a fence; the op_ids."""
    store.share()
    lease = await store.lease(3600)
    minted = store.mint_op_id()
    await store.commit([], [t.Put("leased", b"", lease.id)], op_id=minted)
    await store.commit([], [t.Put("mine", b"once")], op_id="invoice-17")
    for number in range(30):
        name, size = f"k/{number % 12:02}", 40 if number % 5 else 6000
        await store.commit([], [t.Put(name, bytes([number]) * size)], by=f"agent-{number % 3}")
    await store.commit([], [t.Delete("k/03")])
    fenced = store.mint_op_id()
    await store.resolve(fenced)
    return {"lease": lease.id, "minted": minted, "fenced": fenced}


async def asked(answer: Awaitable[object]) -> object:
    """What is answered, or that it is refused with one of our errors."""
    try:
        given = await answer
    except t.TransactionalError as error:
        return type(error)
    return (given.revision, given.succeeded) if isinstance(given, t.Commit) else given


async def all_events(store: SQLiteStore, count: int) -> list[object]:
    events = store.watch("", after=0)
    try:
        return [
            (event.revision, event.changes) for event in [await anext(events) for _ in range(count)]
        ]
    finally:
        await events.aclose()


async def interrogate(path: Path, names: dict[str, str]) -> dict[str, object]:
    """Everything that can be asked of a store; one that does not open refuses all of it."""
    try:
        store = await SQLiteStore.open(path)
    except t.TransactionalError as error:
        return {"open": type(error)}
    try:
        answers: dict[str, object] = {}
        for key in [*(f"k/{number:02}" for number in range(12)), "leased", "mine", "nobody"]:
            answers[key] = await asked(store.get(key))
        answers["scan"] = await asked(store.scan(""))
        answers["some"] = await asked(store.get_many(["k/01", "k/05", "nobody"]))
        answers["minted"] = await asked(store.resolve(names["minted"]))
        answers["fenced"] = await asked(store.resolve(names["fenced"]))
        once = store.commit([], [t.Put("mine", b"once")], op_id="invoice-17")
        answers["invoice"] = await asked(once)
        answers["lease"] = await asked(store.renew(names["lease"]))
        answers["watch"] = await asked(asyncio.wait_for(all_events(store, 33), 5))
        for prefix, since in (("k/", 30), ("k/1", 33), ("mine", 2), ("leased", 0)):
            compare = [t.Unchanged(prefix, since)]
            answers[f"unchanged {prefix}"] = await asked(store.commit(compare, []))
        revision = answers["k/07"].revision if isinstance(answers["k/07"], t.KeyValue) else 1
        written = await asked(store.commit([t.Revision("k/07", revision)], [t.Put("k/07", b"new")]))
        answers["write"] = written
        answers["written"] = getattr(await asked(store.get("k/07")), "value", None)
        return answers
    finally:
        await asked(store.close())


def wrong(answers: dict[str, object], right: dict[str, object]) -> dict[str, object]:
    """The answers that are neither right nor a refusal."""
    found = {}
    for what, answer in answers.items():
        refused = isinstance(answer, type) and issubclass(answer, t.TransactionalError)
        if what == "written" and refused_write(answers):
            continue
        if answer != right.get(what) and not refused:
            found[what] = answer
    return found


def refused_write(answers: dict[str, object]) -> bool:
    return isinstance(answers.get("write"), type)


@pytest.fixture
async def sound(tmp_path: Path):
    """A sound file, the names in it, and what it answers."""
    path = tmp_path / "sound" / "s.db"
    path.parent.mkdir()
    store = await SQLiteStore.open(path)
    names = await fill(store)
    await store.close()
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    right = await interrogate(copy, names)
    assert not [answer for answer in right.values() if answer is t.CorruptStoreError]
    return path, names, right


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


async def outcome(content: bytes, place: Path, names, right) -> tuple[bool, dict[str, object]]:
    """Whether a damaged file was refused as a whole; its wrong answers."""
    place.write_bytes(content)
    answers = await interrogate(place, names)
    for companion in place.parent.glob(place.name + "-*"):
        companion.unlink()
    return "open" in answers, wrong(answers, right)


async def test_each_sector_in_turn(sound, tmp_path: Path) -> None:
    """All bits of it turned, or all of it zero: refused, or every answer is right."""
    path, names, right = sound
    content = path.read_bytes()
    sectors = range(0, len(content), SECTOR)
    chosen = (
        sectors if SOAK else sorted(random.Random(seeds(1)[0]).sample(sectors, len(sectors) // 20))
    )
    refused = 0
    for start in chosen:
        old = content[start : start + SECTOR]
        for new in (bytes(byte ^ 0xFF for byte in old), bytes(SECTOR)):
            damaged = content[:start] + new + content[start + SECTOR :]
            whole, mistakes = await outcome(damaged, tmp_path / "d.db", names, right)
            assert not mistakes, (start, new[:4])
            refused += whole
    assert refused > len(chosen) / 2  # the test does meet something


async def test_random_bits(sound, tmp_path: Path) -> None:
    """One bit turned: refused, or every answer is right."""
    path, names, right = sound
    content = path.read_bytes()
    seed = seeds(1)[0]
    dice = random.Random(seed)
    refused = 0
    for _ in range(rounds(10_000)):
        at, bit = dice.randrange(len(content)), 1 << dice.randrange(8)
        damaged = bytearray(content)
        damaged[at] ^= bit
        whole, mistakes = await outcome(bytes(damaged), tmp_path / "d.db", names, right)
        assert not mistakes, (seed, at, bit)
        refused += whole
    assert refused > 10


async def test_a_turned_bit_is_told_with_its_key(sound, tmp_path: Path) -> None:
    """When it is read, if there was no time to check; when it is opened, if there was."""
    path, _, _ = sound
    content = path.read_bytes()
    value = bytes([29]) * 40  # of k/05, which was written last; it lies in the history as well
    damaged = tmp_path / "d.db"
    damaged.write_bytes(content.replace(value, value[:-1] + b"\x1c"))
    with pytest.raises(t.CorruptStoreError, match="k/05"):
        await SQLiteStore.open(damaged)
    store = await SQLiteStore.open(damaged, check_s_max=0, check_every_s=0)
    assert "keys" in store.unchecked
    with pytest.raises(t.DamagedRowError) as told:
        await store.get("k/05")
    assert told.value.key == "k/05"
    with pytest.raises(t.DamagedRowError):
        await store.scan("k/")
    with pytest.raises(t.DamagedRowError):
        await store.commit([t.Exists("k/05")], [t.Put("other", b"")])
    with pytest.raises(t.DamagedRowError):
        await store.commit([], [t.DeletePrefix("k/0")])
    before = await store.get("k/04")
    with pytest.raises(t.DamagedRowError) as told:  # found together with its neighbours
        await store.commit([], [t.Put(f"k/{n:02}", b"") for n in range(10)])
    assert told.value.key == "k/05"
    assert await store.get("k/04") == before
    assert (await store.get("k/04")) is not None  # the others are served
    await store.commit([], [t.Put("other", b"")])
    await store.close()
    assert any("k/05" in line for line in sqlite_file.verify(damaged))
    with pytest.raises(t.CorruptStoreError, match="k/05"):
        sqlite_file.backup(damaged, tmp_path / "copy2.db")


@pytest.mark.parametrize(
    ("table", "which"),
    [
        ("keys", "key = 'k/04'"),
        ("history", "revision = 20"),
        ("operations", "op_id = 'invoice-17'"),
        ("leases", "TRUE"),
        ("moments", "TRUE"),
    ],
)
async def test_a_lost_row_is_found(sound, tmp_path: Path, table: str, which: str) -> None:
    """A row that is gone, or one of the past in the place of the present: the sums tell."""
    path, _, _ = sound
    lost = tmp_path / "l.db"
    changes = [f"DELETE FROM {table} WHERE {which}"]
    if table == "keys":  # an older row, whole in itself, came back
        changes.append(
            "REPLACE INTO keys SELECT key, value, revision, created_revision, lease, by, time_us,"
            " checksum FROM history WHERE key = 'k/04' ORDER BY revision LIMIT 1"
        )
    for change in changes:
        shutil.copy(path, lost)
        with closing(sqlite3.connect(lost, isolation_level=None)) as connection:
            connection.execute(change)
        with pytest.raises(t.CorruptStoreError, match=f"rows of {table} are lost"):
            await SQLiteStore.open(lost)
        assert any(f"rows of {table} are lost" in line for line in sqlite_file.verify(lost))


# --- the log of a crash --------------------------------------------------------------------------


@pytest.fixture
async def crashed(tmp_path: Path):
    """What lies there after a kill -9: file, log and lock; the names in it, and what it answers."""
    path = tmp_path / "crashed" / "s.db"
    path.parent.mkdir()
    store = await SQLiteStore.open(path)
    names = await fill(store)
    images = {
        suffix: path.with_name(f"s.db{suffix}").read_bytes() for suffix in ("", "-wal", "-lock")
    }
    await store.close()

    async def after(log: bytes) -> dict[str, object]:
        place = tmp_path / "after"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for suffix, content in {**images, "-wal": log}.items():
            place.joinpath(f"s.db{suffix}").write_bytes(content)
        return await interrogate(place / "s.db", names)

    return images["-wal"], after, await after(images["-wal"])


async def test_each_sector_of_a_log_in_turn(crashed) -> None:
    """SQLite plays a log as far as it is whole: what was acknowledged behind that is missed."""
    log, after, right = crashed
    assert isinstance(right["write"], tuple)
    sectors = range(0, len(log), SECTOR)
    dice = random.Random(seeds(1)[0])
    chosen = sectors if SOAK else dice.sample(sectors, len(sectors) // 20)
    for start in chosen:
        turned = bytes(byte ^ 0xFF for byte in log[start : start + SECTOR])
        answers = await after(log[:start] + turned + log[start + SECTOR :])
        assert not wrong(answers, right), start


async def test_a_log_that_is_cut_or_gone_is_missed(crashed) -> None:
    """The lock file knows how far the store had come."""
    log, after, _ = crashed
    for shorter in (b"", log[: len(log) // 2], log[: len(log) - 4120 * 2]):
        assert await after(shorter) == {"open": t.CorruptStoreError}


# --- no traces -----------------------------------------------------------------------------------


async def test_verify_and_backup_leave_no_lock_file(sound, tmp_path: Path) -> None:
    """Where there was none; that of the last owner, which is a witness, stays as it is."""
    path, _, _ = sound
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(path, alone / "s.db")
    assert sqlite_file.verify(alone / "s.db") == []
    sqlite_file.stats(alone / "s.db")
    sqlite_file.backup(alone / "s.db", alone / "copy.db")
    assert sorted(file.name for file in alone.iterdir()) == ["copy.db", "s.db"]
    lock = path.with_name("s.db-lock").read_bytes()
    assert sqlite_file.verify(path) == []
    pid = 10
    assert path.with_name("s.db-lock").read_bytes()[pid:] == lock[pid:]


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that others may enter."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@contextlib.contextmanager
def as_a_reader(*places: Path) -> Iterator[None]:
    """Let this process write in none of these directories, root or not."""
    root = os.geteuid() == 0
    for place in places:
        for file in place.iterdir():
            file.chmod(0o444)
        place.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place in places:
            place.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="rights are others there")
async def test_what_cannot_be_written_is_verified_and_copied_all_the_same(open_place: Path) -> None:
    """Counterexample: "cannot use s.db-lock: Permission denied" of a snapshot of a store."""
    closed, crash, free = (open_place / name for name in ("closed", "crash", "free"))
    for place in (closed, crash, free):
        place.mkdir()
    free.chmod(0o777)
    store = await SQLiteStore.open(closed / "s.db")
    await fill(store)
    for suffix in ("", "-wal", "-lock"):
        shutil.copy(closed / f"s.db{suffix}", crash)
    log = (crash / "s.db-wal").read_bytes()
    await store.close()
    for place in (closed, crash):
        before = {file.name: file.read_bytes() for file in place.iterdir()}
        with as_a_reader(place):
            assert sqlite_file.verify(place / "s.db") == []
            assert sqlite_file.stats(place / "s.db")[0].what == "file"
            sqlite_file.backup(place / "s.db", free / f"{place.name}.db")
        assert {file.name: file.read_bytes() for file in place.iterdir()} == before
    (crash / "s.db-wal").chmod(0o644)
    (crash / "s.db-wal").write_bytes(log[: len(log) // 2])
    with as_a_reader(crash):
        assert any("made durable" in line for line in sqlite_file.verify(crash / "s.db"))
    store = await SQLiteStore.open(closed / "s.db")  # in use, by who may write
    await store.commit([], [t.Put("more", b"")])
    with as_a_reader(closed):
        assert sqlite_file.verify(closed / "s.db") == []
    await store.close()


async def test_a_log_that_lacks_commits_is_left_as_it_is(crashed, tmp_path: Path) -> None:
    """Counterexample: the refused start, and `verify`, cut what lies behind the damaged frame."""
    log, after, _ = crashed
    at = len(log) - 4120 * 2  # in the last frame but one
    bad = log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]
    assert await after(bad) == {"open": t.CorruptStoreError}
    path = tmp_path / "after" / "s.db"
    assert any("made durable" in line for line in sqlite_file.verify(path))
    with pytest.raises(t.CorruptStoreError, match="made durable"):
        sqlite_file.backup(path, tmp_path / "b.db")
    assert path.with_name("s.db-wal").read_bytes() == bad


async def test_an_older_file_that_was_put_back_is_not_taken_for_the_newer_one(
    sound, tmp_path
) -> None:
    """Its revisions would be issued again; `backup` makes it another life, and the hint says so."""
    path, _, _ = sound
    old = path.read_bytes()
    store = await SQLiteStore.open(path)
    await store.commit([], [t.Put("k/01", b"newer")])
    await store.close()
    path.write_bytes(old)
    with pytest.raises(t.CorruptStoreError, match="backup"):
        await SQLiteStore.open(path)
    path.rename(tmp_path / "old.db")
    sqlite_file.backup(tmp_path / "old.db", path)
    await (await SQLiteStore.open(path)).close()

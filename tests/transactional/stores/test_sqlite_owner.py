"""One owner per file, whatever way leads to it; and what an owner does when its disk misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

import transactional as t
from transactional.errors import CorruptStoreError, StoreLockedError, UnsafeFilesystemError
from transactional.stores import sqlite_file
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transactional.conftest import HandClock


class Faulty:
    """A connection whose statements raise while ``when(statement)`` says so."""

    def __init__(self, real: sqlite3.Connection, code: int) -> None:
        self._real = real
        self._error = sqlite3.OperationalError("injected")
        self._error.sqlite_errorcode = code
        self.broken = ""
        self.met = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if self.broken and statement.startswith(self.broken):
            self.met += 1
            raise self._error
        return self._real.execute(statement, *values)


def spoil(store: SQLiteStore, code: int = sqlite3.SQLITE_FULL) -> Faulty:
    store._state._db = faulty = Faulty(store._state._db, code)  # type: ignore[assignment]
    return faulty


async def test_a_symbolic_link_is_no_second_file(tmp_path: Path) -> None:
    """Opened by a link, relative or chained, the file is locked; alone, a link is as good."""
    store = await SQLiteStore.open(tmp_path / "a.db")
    (tmp_path / "l.db").symlink_to("a.db")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "m.db").symlink_to("../l.db")
    for way in (tmp_path / "l.db", tmp_path / "deep" / "m.db", tmp_path / "deep" / ".." / "a.db"):
        with pytest.raises(StoreLockedError):
            await SQLiteStore.open(way)
    await store.commit([], [t.Put("room", b"free")])
    await store.close()
    by_link = await SQLiteStore.open(tmp_path / "deep" / "m.db")
    assert await by_link.get("room") is not None
    await by_link.close()


async def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    """A hard link would have a log of its own: neither name may be opened until one is gone."""
    await (await SQLiteStore.open(tmp_path / "a.db")).close()
    os.link(tmp_path / "a.db", tmp_path / "h.db")
    for name in ("a.db", "h.db"):
        with pytest.raises(UnsafeFilesystemError):
            await SQLiteStore.open(tmp_path / name)
    (tmp_path / "h.db").unlink()
    await (await SQLiteStore.open(tmp_path / "a.db")).close()


async def test_an_owner_whose_lock_file_was_removed_never_overwrites_the_next_owner(
    tmp_path: Path,
) -> None:
    """Two authorities on one file: the one that did not write last is stopped for good.

    Somebody removes ``a.db-lock`` while it is held, so another authority gets in and books the
    room.  The first one remembers the room as free; it must not issue that revision again.
    """
    first = await SQLiteStore.open(tmp_path / "a.db")
    free = await first.commit([], [t.Put("room", b"free")])
    events = first.watch("room")
    waiting = asyncio.ensure_future(anext(events))
    (tmp_path / "a.db-lock").unlink()
    second = await SQLiteStore.open(tmp_path / "a.db")
    await second.commit([t.Revision("room", free.revision)], [t.Put("room", b"bob")])
    for _ in range(2):
        with pytest.raises(StoreLockedError):
            await first.commit([], [t.Put("other", b"")])
        with pytest.raises(StoreLockedError):
            await first.commit([t.Revision("room", free.revision)], [t.Put("room", b"ann")])
    with pytest.raises(StoreLockedError):  # nobody waits for news that cannot come
        await waiting
    found = await second.get("room")
    assert found is not None
    assert found.value == b"bob"
    await first.close()
    await second.close()
    assert sqlite_file.verify(tmp_path / "a.db") == []


async def test_a_restored_copy_knows_the_operations_whose_effects_it_holds(tmp_path: Path) -> None:
    """A caller's own op_id, repeated against the copy, changes nothing: its effect is in there."""
    store = await SQLiteStore.open(tmp_path / "a.db")
    writes = [t.Put("invoice", b"17")]
    await store.commit([], writes, op_id="invoice-17")
    minted = store.mint_op_id()
    await store.commit([], [t.Put("x", b"")], op_id=minted)
    sqlite_file.backup(tmp_path / "a.db", tmp_path / "b.db")
    await store.close()
    copy = await SQLiteStore.open(tmp_path / "b.db")
    assert (await copy.commit([], writes, op_id="invoice-17")).replayed
    with pytest.raises(t.EpochMismatchError):
        await copy.commit([], [t.Put("x", b"")], op_id=minted)
    await copy.close()
    assert sqlite_file.verify(tmp_path / "b.db") == []


async def test_an_opening_that_was_cancelled_leaves_the_file_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on opening when its caller is cancelled; what it opened is closed again."""
    inside, go_on = threading.Event(), threading.Event()
    real = sqlite_file.connect_writer

    def slow(path: Path, **how: bool) -> sqlite3.Connection:
        inside.set()
        go_on.wait()
        return real(path, **how)

    monkeypatch.setattr(sqlite_file, "connect_writer", slow)
    opening = asyncio.create_task(SQLiteStore.open(tmp_path / "a.db"))
    await asyncio.to_thread(inside.wait)
    for _ in range(3):  # however often
        opening.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    monkeypatch.undo()
    await (await SQLiteStore.open(tmp_path / "a.db")).close()


async def test_a_close_that_was_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    """Every caller of close returns when the file is free, the cancelled one included."""
    store = await SQLiteStore.open(tmp_path / "a.db")
    closing = [asyncio.create_task(store.close()) for _ in range(3)]
    await asyncio.sleep(0)
    closing[0].cancel()
    results = await asyncio.gather(*closing, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, type(None), type(None)]
    await (await SQLiteStore.open(tmp_path / "a.db")).close()


async def test_leases_that_could_not_be_ended_end_later(
    tmp_path: Path, hand_clock: HandClock
) -> None:
    """An error while leases expire: none of them is forgotten, each ends with the next group.

    The table of deadlines tells a due lease once; rolled back, it must be told again.
    """
    store = await SQLiteStore.open(tmp_path / "a.db", clock=hand_clock.clock())
    for number in range(3):
        lease = await store.lease(1.0)
        await store.commit([], [t.Put(f"lock/{number}", b"", lease.id)])
    faulty = spoil(store)
    faulty.broken = "SELECT key FROM keys WHERE lease"
    hand_clock.forward(2.0)
    with pytest.raises(t.StoreFullError):
        await store.commit([], [t.Put("x", b"")])
    faulty.broken = ""
    await store.commit([], [t.Put("x", b"")])
    assert list((await store.scan("")).items) == ["x"]
    await store.close()
    assert sqlite_file.verify(tmp_path / "a.db") == []


async def test_a_full_disk_with_a_due_lease_is_asked_less_and_less_often(
    tmp_path: Path, hand_clock: HandClock
) -> None:
    """Groups that fail without a caller pause 0.1, 0.2 ... 1 s; one that succeeds forgets it."""
    store = await SQLiteStore.open(tmp_path / "a.db", clock=hand_clock.clock(), check_every_s=0)
    lease = await store.lease(1.0)
    await store.commit([], [t.Put("lock", b"", lease.id)])
    faulty = spoil(store)
    faulty.broken = "COMMIT"
    hand_clock.forward(2.0)
    pauses_s = []
    for met in range(1, 7):
        with pytest.raises(t.StoreFullError):
            await store.commit([], [t.Put("x", b"")])
        assert faulty.met >= met
        pauses_s.append(store._pause_s())
    assert pauses_s == sorted(pauses_s)  # type: ignore[type-var]  # there is a deadline
    assert pauses_s[0] is not None
    assert pauses_s[0] > 0.1
    assert pauses_s[-1] == pytest.approx(1.001)
    faulty.broken = ""
    await store.commit([], [t.Put("x", b"")])
    assert list((await store.scan("")).items) == ["x"]
    assert store._pause_s() is None
    await store.close()


async def test_an_odd_read_fails_alone(tmp_path: Path) -> None:
    """Readers share a snapshot, not their errors: one that breaks leaves the others' answers."""
    store = await SQLiteStore.open(tmp_path / "a.db")
    await store.commit([], [t.Put("a", b"1")])

    def broken(_: object) -> None:
        raise TypeError("odd")

    thread = store._ranges
    results = await asyncio.gather(
        store.scan(""), thread.ask(broken), store.scan(""), return_exceptions=True
    )
    assert isinstance(results[1], TypeError)
    assert [type(results[number]) for number in (0, 2)] == [t.Snapshot, t.Snapshot]
    with pytest.raises(t.InvalidRequestError):
        await store.scan("", limit=1.5)  # type: ignore[arg-type]  # the point
    await store.close()


async def test_a_database_of_somebody_else_is_left_as_it_was(tmp_path: Path) -> None:
    """Open, verify and backup refuse it, and not a byte of it changes, journal mode included."""
    path = tmp_path / "theirs.db"
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE contacts(name)")
    theirs.commit()
    theirs.close()
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(CorruptStoreError):
        await SQLiteStore.open(path)
    with pytest.raises(CorruptStoreError):
        sqlite_file.verify(path)
    with pytest.raises(CorruptStoreError):
        sqlite_file.backup(path, tmp_path / "copy.db")
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be read" * 99])
def test_verify_and_backup_make_no_store_of_what_is_none(tmp_path: Path, content: bytes) -> None:
    """An empty file and a text: told as what they are, and unchanged."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CorruptStoreError):
        sqlite_file.backup(path, tmp_path / "copy")
    if content:
        assert sqlite_file.verify(path)
    else:
        with pytest.raises(CorruptStoreError):
            sqlite_file.verify(path)
    assert path.read_bytes() == content

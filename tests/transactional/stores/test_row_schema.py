"""What a row says besides its value - by whom, when - and a file of the format before."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import transactional as t
from transactional.clock import utc
from transactional.store import this_user
from transactional.stores import sqlite_file, sqlite_schema
from transactional.stores.sqlite import SQLiteStore

GOLDEN = Path(__file__).parent / "golden"


async def first_event(store: t.Store, after: int) -> t.WatchEvent:
    events = store.watch("", after=after)
    try:
        return await anext(events)
    finally:
        await events.aclose()


async def test_a_key_says_who_wrote_it_and_when(store: t.Store) -> None:
    """In a get, a scan, a conflict and a watch alike; a deletion says it in the event."""
    commit = await store.commit([], [t.Put("a", b"1")], by="ann")
    seen = [
        await store.get("a"),
        (await store.scan("")).items["a"],
        (await store.get_many(["a"])).items["a"],
        (await first_event(store, 0)).changes[0].current,
    ]
    with pytest.raises(t.ConflictError) as conflict:
        await store.commit([t.Absent("a")], [t.Put("a", b"2")])
    seen.append(conflict.value.current["a"])
    assert {(item.by, item.time) for item in seen if item is not None} == {("ann", commit.time)}
    await store.commit([], [t.Delete("a")], by="bob")
    event = await first_event(store, commit.revision)
    assert (event.by, event.changes) == ("bob", (t.KeyChange("a", None),))


async def test_who_does_not_say_is_this_user(store: t.Store) -> None:
    """Recipes and callers that give no name write as ``local:USER``; one may be set for a store."""
    await store.commit([], [t.Put("a", b"1")])
    found = await store.get("a")
    assert found is not None
    assert found.by == this_user()
    assert found.by.startswith("local:")


async def test_what_a_lease_took_along_was_deleted_by_the_lease(store: t.Store) -> None:
    """Nobody asked for it just then."""
    lease = await store.lease(60)
    commit = await store.commit([], [t.Put("a", b"1", lease.id)], by="ann")
    await store.revoke(lease.id)
    assert (await first_event(store, commit.revision)).by == "lease"


async def test_a_repeat_by_another_name_is_a_repeat(store: t.Store) -> None:
    """The name is beside the operation, not part of it: a token may be exchanged in between."""
    first = await store.commit([], [t.Put("a", b"1")], op_id="once", by="ann")
    again = await store.commit([], [t.Put("a", b"1")], op_id="once", by="ann-2")
    assert (again, again.replayed) == (first, True)
    found = await store.get("a")
    assert found is not None
    assert found.by == "ann"


@pytest.mark.parametrize("by", ["", "x" * 129, "a\nb", 7])
async def test_a_name_that_is_none_is_refused(store: t.Store, by: object) -> None:
    """Empty, too long, a line break, no text: nothing is written."""
    with pytest.raises(t.InvalidRequestError):
        await store.commit([], [t.Put("a", b"1")], by=by)  # type: ignore[arg-type]  # the point
    assert await store.get("a") is None


async def test_a_store_has_a_name_of_its_own_for_who_does_not_say(tmp_path: Path) -> None:
    """Over a restart the rows keep theirs."""
    store = await SQLiteStore.open(tmp_path / "s.db", by="planner")
    commit = await store.commit([], [t.Put("a", b"1")])
    await store.commit([], [t.Put("b", b"1")], by="ann")
    await store.close()
    store = await SQLiteStore.open(tmp_path / "s.db", by="another")
    found = (await store.scan("")).items
    assert {key: item.by for key, item in found.items()} == {"a": "planner", "b": "ann"}
    assert found["a"].time == commit.time
    await store.close()


# --- a file of the format before -----------------------------------------------------------------


@pytest.fixture
def before(tmp_path: Path) -> tuple[Path, dict]:
    """A store that the commit before the conversion made, and what it said was in there."""
    path = tmp_path / "s.db"
    path.write_bytes(gzip.decompress((GOLDEN / "store_format_2.db.gz").read_bytes()))
    return path, json.loads((GOLDEN / "store_format_2.json").read_text())


async def test_a_store_of_the_format_before_is_converted(before, hand_clock) -> None:
    """Keys, revisions, leases, op_ids of both kinds, history, floors, time and epoch are there."""
    path, facts = before
    hand_clock.forward(100)  # the file's time is 25 s behind the clock's first
    store = await SQLiteStore.open(path, clock=hand_clock.clock())
    found = await store.scan("")
    rows = [
        [k.key, k.value.hex(), k.revision, k.created_revision, k.lease]
        for k in found.items.values()
    ]
    assert (store.epoch, found.revision, rows) == (
        facts["epoch"],
        facts["revision"],
        facts["keys"],
    )
    assert {item.by for item in found.items.values()} == {""}
    assert found.items["last"].time == utc(1_700_000_025_000_000)
    assert found.items["old/1"].time is None  # its history was forgotten
    assert (await store.renew(facts["lease"])).ttl_s == 3600
    repeated = await store.commit([], [t.Put("mine", b"once")], op_id="invoice-17")
    assert repeated.replayed
    applied = await store.resolve(facts["minted"])
    assert isinstance(applied, t.Applied)
    assert applied.commit.revision == found.items["näme"].revision
    assert await store.resolve(facts["fenced"]) == t.Fenced(facts["fenced"])
    with pytest.raises(t.OpIdExpiredError):
        await store.resolve(f"op:{store.epoch}:3:{'0' * 24}")
    events = store.watch("secret", after=11)
    values = [(await anext(events)).changes[0].current.value for _ in range(2)]
    await events.aclose()
    assert values == [b"gone", b"gone"]
    assert (await store.now()) > utc(facts["time_us"])
    new = await store.commit([], [t.Put("mine", b"twice")], by="ann")
    assert new.revision == facts["revision"] + 1
    await store.close()
    assert sqlite_file.verify(path) == []


async def test_a_conversion_is_all_or_nothing(
    before, monkeypatch: pytest.MonkeyPatch, hand_clock
) -> None:
    """Broken off at its end, it leaves the file as it was, and the next open converts it."""
    path, facts = before
    with closing(sqlite3.connect(path)) as connection:
        content = list(connection.iterdump())

    def full(*_: object) -> tuple[int, int, int]:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_schema, "totals_of", full)
        with pytest.raises(t.UnavailableError):
            await SQLiteStore.open(path, clock=hand_clock.clock())
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == content
    store = await SQLiteStore.open(path, clock=hand_clock.clock())
    assert (await store.get_many([])).revision == facts["revision"]
    await store.close()


async def test_a_store_of_the_format_before_is_copied_and_checked(
    before, tmp_path: Path, hand_clock
) -> None:
    """A backup before the upgrade can be made by either version; verify says what to do."""
    path, facts = before
    content = path.read_bytes()
    sqlite_file.backup(path, tmp_path / "copy.db")
    assert sqlite_file.verify(tmp_path / "copy.db") == []
    (told,) = sqlite_file.verify(path)
    assert "convert" in told
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    shutil.copy(tmp_path / "copy.db", path)
    assert path.read_bytes() != content
    store = await SQLiteStore.open(path, clock=hand_clock.clock())
    assert len((await store.scan("")).items) == len(facts["keys"])
    await store.close()


async def test_a_format_yet_to_come_is_refused(tmp_path: Path) -> None:
    """The file is left alone, and the message names what this program reads."""
    path = tmp_path / "s.db"
    await (await SQLiteStore.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=4")
    content = path.read_bytes()
    with pytest.raises(t.NewerFormatError, match="format 4; this program knows 3"):
        await SQLiteStore.open(path)
    assert path.read_bytes() == content


def test_a_file_of_the_format_before_is_not_called_damaged(tmp_path: Path) -> None:
    """Counterexample: `stats` said that its `meta` was not what was written, restore a backup."""
    path = tmp_path / "s.db"
    with gzip.open(GOLDEN / "store_format_2.db.gz") as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    with pytest.raises(t.InvalidRequestError, match="has format 2: `serve` it once"):
        sqlite_file.stats(path)
    (told,) = sqlite_file.verify(path)
    assert "has format 2: `serve` it once" in told


async def test_what_is_no_store_is_called_that_and_nothing_is_left_beside_it(
    tmp_path: Path,
) -> None:
    """Another program's database: not of an older format, and its folder stays as it was."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as foreign, foreign:
        foreign.execute("CREATE TABLE keys(key)")
    content = path.read_bytes()
    for look in (sqlite_file.verify, sqlite_file.stats):
        with pytest.raises(t.CorruptStoreError, match="not a store of ours"):
            look(path)
    with pytest.raises(t.CorruptStoreError, match="not a store of ours"):
        sqlite_file.backup(path, tmp_path / "copy.db")
    with pytest.raises(t.CorruptStoreError, match="not a store of ours"):
        await SQLiteStore.open(path)
    assert [each.name for each in tmp_path.iterdir()] == ["s.db"]
    assert path.read_bytes() == content

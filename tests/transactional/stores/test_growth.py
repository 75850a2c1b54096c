"""A store that is written to for ever: what goes, what stays, and that it keeps up."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds
from transactional.stores import sqlite_file
from transactional.stores.memory import MemoryStore
from transactional.stores.retention import Retention
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

MINUTE_S = 60
HOUR_S = 3600


@pytest.fixture(params=["memory", "sqlite"])
async def small(request: pytest.FixtureRequest, tmp_path: Path, hand_clock):
    """An engine with room for ten commits of history, on a clock that is moved by hand."""
    if request.param == "memory":
        store = MemoryStore(clock=hand_clock.clock(), history_commits_max=10)
    else:
        store = await SQLiteStore.open(
            tmp_path / "s.db", clock=hand_clock.clock(), history_commits_max=10
        )
    yield store
    await store.close()


async def write(store: t.Store, count: int, prefix: str = "noise") -> None:
    for number in range(count):
        await store.commit([], [t.Put(f"{prefix}/{number % 7}", b"x" * 10)])


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


# --- three floors --------------------------------------------------------------------------------


async def test_an_outcome_is_told_for_an_hour_however_busy_the_store(small, hand_clock) -> None:
    """Counterexample: op_ids went with the history, within a second of a busy store.

    The answer to a commit was lost; the caller asks after 59 minutes and thousands of commits.
    """
    applied, never = small.mint_op_id(), small.mint_op_id()
    first = await small.commit([], [t.Put("a", b"1")], op_id=applied)
    for _ in range(59):
        await write(small, rounds(40, 4))
        hand_clock.forward(MINUTE_S)
    outcome = await small.resolve(applied)
    assert isinstance(outcome, t.Applied)
    assert outcome.commit == first
    assert await small.resolve(never) == t.Fenced(never)
    assert (await small.commit([], [t.Put("a", b"1")], op_id=applied)).replayed


async def test_an_op_id_that_is_too_old_is_not_called_unapplied(small, hand_clock) -> None:
    """Two hours later nothing is known of it, and the error says so, on the wire as well."""
    from transactional import wire

    op_id = small.mint_op_id()
    await small.commit([], [t.Put("a", b"1")], op_id=op_id)
    for _ in range(2 * 60):
        hand_clock.forward(MINUTE_S)
        await write(small, 1)
    for ask in (small.resolve(op_id), small.commit([], [t.Put("a", b"1")], op_id=op_id)):
        with pytest.raises(t.OpIdExpiredError, match="an earlier one may") as expired:
            await ask
    assert "(nothing was written)" not in str(expired.value)
    assert wire.dump_error(expired.value)["applied"] is None


async def test_a_range_is_compared_long_after_its_values_are_forgotten(small, hand_clock) -> None:
    """Read 14 minutes and hundreds of commits ago, and nothing changed there: it holds.

    What changed there does not hold, and after the quarter of an hour nothing is said to.
    """
    await small.commit([], [t.Put("quiet/1", b"")])
    seen = await small.scan("quiet/")
    for _ in range(14):
        await write(small, 20)
        hand_clock.forward(MINUTE_S)
    await small.commit([t.Unchanged("quiet/", seen.revision)], [t.Put("loud/1", b"")])
    await write(small, 20)
    with pytest.raises(t.ConflictError):
        await small.commit([t.Unchanged("loud/", seen.revision)], [t.Put("x", b"")])
    await small.commit([], [t.Delete("quiet/1")])
    await write(small, 20)
    with pytest.raises(t.ConflictError):
        await small.commit([t.Unchanged("quiet/", seen.revision)], [t.Put("x", b"")])
    now = (await small.get_many([])).revision
    for _ in range(40):
        hand_clock.forward(MINUTE_S)
        await write(small, 1)
    with pytest.raises(t.ConflictError):
        await small.commit([t.Unchanged("nowhere/", now)], [t.Put("x", b"")])


async def test_the_floors_are_kept_over_a_restart(tmp_path: Path, hand_clock) -> None:
    """What was compared and resolved before it is so after it."""
    how = {"clock": hand_clock.clock(), "history_commits_max": 10}
    store = await SQLiteStore.open(tmp_path / "s.db", **how)
    op_id = store.mint_op_id()
    await store.commit([], [t.Put("quiet/1", b"")], op_id=op_id)
    seen = await store.scan("quiet/")
    for _ in range(10):
        await write(store, 20)
        hand_clock.forward(MINUTE_S)
    await store.close()
    store = await SQLiteStore.open(tmp_path / "s.db", **how)
    await store.commit([t.Unchanged("quiet/", seen.revision)], [t.Put("x", b"")])
    assert isinstance(await store.resolve(op_id), t.Applied)
    hand_clock.forward(50 * MINUTE_S)
    await write(store, 20)
    hand_clock.forward(2 * HOUR_S)
    await write(store, 20)
    with pytest.raises(t.OpIdExpiredError):
        await store.resolve(op_id)
    await store.close()
    assert sqlite_file.verify(tmp_path / "s.db") == []


# --- keeping up ----------------------------------------------------------------------------------


async def test_forgetting_keeps_up_with_full_groups(tmp_path: Path) -> None:
    """Counterexample: groups of 512 commits left 42,983 rows where 1,000 were allowed."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path, history_commits_max=1000)
    for _ in range(rounds(400, 20)):
        puts = [t.CommitRequest([], [t.Put(f"k{n % 100}", b"v")]) for n in range(512)]
        await store.commit_all(puts)
    assert rows(path, "history") <= 1000 + 512 + 64
    await store.close()
    assert sqlite_file.verify(path) == []


async def test_values_of_the_past_are_bounded_in_bytes(tmp_path: Path) -> None:
    """Counterexample: one key of 100 kB, overwritten 2,000 times, made a file of 206 MB."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path, history_bytes_max=2_000_000)
    for _ in range(rounds(2000, 200)):
        await store.commit([], [t.Put("a", b"x" * 100_000)])
    assert rows(path, "history") <= 21
    await store.close()
    assert path.stat().st_size < 10_000_000
    assert sqlite_file.verify(path) == []


async def test_records_and_moments_go_with_their_floor(tmp_path: Path, hand_clock) -> None:
    """Days of a steady trickle: what is kept is what an hour, or a quarter of one, brought."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(
        path, clock=hand_clock.clock(), history_commits_max=10, op_id_retention_s=HOUR_S
    )
    for number in range(rounds(10_000, 500)):
        op_id = f"mine-{number}" if number % 2 else None
        await store.commit([], [t.Put(f"n{number % 7}", b"")], op_id=op_id)
        hand_clock.forward(5 * MINUTE_S)
    assert rows(path, "operations") < 40
    assert rows(path, "changes") < 20
    assert rows(path, "moments") < 20
    await store.close()
    assert sqlite_file.verify(path) == []


async def test_the_file_shrinks_when_most_of_it_is_free(tmp_path: Path) -> None:
    """Twenty megabytes are deleted: a few checkpoints later the file is small, and still right."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path, history_bytes_max=100_000)
    for number in range(200):
        await store.commit([], [t.Put(f"big/{number}", b"x" * 100_000)])
    store._state.checkpoint()
    large = path.stat().st_size
    await store.commit([], [t.DeletePrefix("big/")])
    for _ in range(12):
        await store.commit([], [t.Put("a", b"x" * 1000)])
        store._state.checkpoint()  # as the writer does after eight megabytes
    await store.close()
    assert path.stat().st_size < large / 3
    assert sqlite_file.verify(path) == []


@pytest.mark.parametrize("size", [10, 3000, 100_000])
async def test_the_log_beside_the_file_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Counterexample: it was estimated by rows, and grew to four times as much with small ones.

    Keys far apart, so that each is a page of the log; or one page that is large.
    """
    monkeypatch.setattr("transactional.stores.sqlite.CHECKPOINT_BYTES", 1 << 20)
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    await store.commit([], [t.Put(f"k/{n:04}", b"x" * 3000) for n in range(0, 500, 5)])
    for number in range(100):
        keys = [f"k/{(number * 7 + n * 31) % 500:04}" for n in range(16 if size < 10_000 else 2)]
        await store.commit([], [t.Put(key, b"x" * size) for key in set(keys)])
        assert store.figures()["log_bytes"] < 4 << 20
    await store.close()


# --- options -------------------------------------------------------------------------------------


async def test_the_floors_are_options_of_the_url(tmp_path: Path) -> None:
    """Each engine takes them; a wrong one is told with the right ones."""
    path = tmp_path / "s.db"
    async with t.open(f"sqlite:{path}?history_commits_max=8&minted_retention_s=7200") as store:
        assert store._state._retention == Retention(
            history_commits_max=8, minted_retention_s=7200.0
        )
    async with t.open("memory:?history_bytes_max=1000") as store:
        assert store._retention.history_bytes_max == 1000
    for wrong in ("history_bytes=1", "history_bytes_max=many", "history_commits_max=0"):
        with pytest.raises(t.InvalidRequestError):
            await t.connect(f"sqlite:{path}?{wrong}")
    for wrong in ("index_retention_s=899", "minted_retention_s=60", "minted_retention_s=nan"):
        with pytest.raises(t.InvalidRequestError, match=r"is \d+ or more"):
            await t.connect(f"memory:?{wrong}")
    async with t.open(f"sqlite:{tmp_path}/odd%3Fname.db"):
        assert (tmp_path / "odd?name.db").exists()


@pytest.mark.processes
async def test_the_floors_are_options_of_serve(tmp_path: Path) -> None:
    """`serve --history-commits-max 8`: a watch from the start is told what is forgotten."""
    from tests.transactional.authority import AuthorityProcess

    authority = AuthorityProcess(tmp_path / "s.db", "--history-commits-max", "8")
    await authority.start()
    async with t.open(authority.url) as store:
        await write(store, 30)
    await authority.stop()
    assert rows(tmp_path / "s.db", "history") <= 10


# --- by hand -------------------------------------------------------------------------------------


async def test_compact_removes_all_that_is_beyond_the_limits(tmp_path: Path) -> None:
    """Opened with smaller limits than before: one call, and the file is as small as it can be."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    for number in range(rounds(4000, 300)):
        await store.commit([], [t.Put(f"n{number % 7}", b"x" * 20_000)])
    await store.close()
    large = path.stat().st_size
    store = await SQLiteStore.open(path, history_bytes_max=0)
    seen = await store.scan("")
    assert await store.compact() > 0
    assert await store.compact() == 0
    assert (await store.scan("")).items == seen.items
    await store.commit([t.Unchanged("n", seen.revision)], [t.Put("n0", b"")])
    await store.close()
    assert rows(path, "history") <= 1
    assert path.stat().st_size < large / 10
    assert sqlite_file.verify(path) == []


async def test_stats_say_what_takes_how_much(tmp_path: Path) -> None:
    """Tables by their pages, keys by kind: half of the file is one recipe's ends."""
    path = tmp_path / "s.db"
    store = await SQLiteStore.open(path)
    for number in range(50):
        name = f"reservation/of/room%20{number % 3}/ended/{number}"
        await store.commit([], [t.Put(name, b"x" * 100), t.Put(f"saga/done/{number}", b"x" * 10)])
    await store.commit([], [t.Put("alone", b""), t.Put("top/one", b"")])
    found = {share.what: share for share in sqlite_file.stats(path)}  # while it is in use
    assert found["table keys"].rows == 102
    assert found["table history"].rows == 102
    assert found["table operations"].rows == 51
    assert found["keys reservation/of/*/ended/"].rows == 50
    assert 50 * 130 < found["keys reservation/of/*/ended/"].bytes < 50 * 150
    assert found["keys saga/done/"].rows == 50
    assert found["keys top/"].rows == found["keys (no name before a /)"].rows == 1
    await store.commit([], [t.Put(f"n{number}/x/y", b"") for number in range(120)])
    many = sqlite_file.stats(path)  # counterexample: a line for each name that a user thought of
    kinds = [share for share in many if share.what.startswith("keys ")]
    assert (len(kinds), sum(share.rows for share in kinds)) == (101, 222)
    await store.close()
    tables = sum(s.bytes for s in sqlite_file.stats(path) if s.what.startswith("table "))
    assert 0 < tables < path.stat().st_size

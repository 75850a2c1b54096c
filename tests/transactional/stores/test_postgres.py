"""What PostgreSQL alone can do to a store: many processes, other servers, poolers, its settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.ports import free_ports
from tests.scale import rounds
from tests.transactional import postgres
from tests.transactional.authority import AuthorityProcess
from tests.transactional.engines import PostgresEngine
from tests.transactional.postgres import Cluster, _as_owner
from tests.transactional.servers import memory, require
from transactional.__main__ import main as command
from transactional.stores import feed as feeds
from transactional.values import READ_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

asyncpg = pytest.importorskip("asyncpg", reason="pip install 'convoca[postgres]'")

from transactional.stores import postgres as engine_module  # noqa: E402 needs asyncpg
from transactional.stores import postgres_schema as schema  # noqa: E402
from transactional.stores.postgres import Address, PostgresStore  # noqa: E402

pytestmark = pytest.mark.processes


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[PostgresEngine]:
    engine = PostgresEngine(tmp_path)
    yield engine
    await engine.stop()


@pytest.fixture
async def store(engine: PostgresEngine) -> PostgresStore:
    return await engine.client()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many statements were sent, by what they do: each is two round trips."""
    counted: Counter[str] = Counter()
    fetch = engine_module._Link.fetch

    async def counting(link: engine_module._Link, text: str, *values: object) -> object:
        kinds = {"write": "write_", "ranges": "r.most", "points": "ANY(", "history": "lead("}
        counted[next((kind for kind, part in kinds.items() if part in text), "other")] += 1
        return await fetch(link, text, *values)

    monkeypatch.setattr(engine_module._Link, "fetch", counting)
    return counted


async def sql(store: PostgresStore, statement: str, *values: object) -> list[asyncpg.Record]:
    """Do something to the store's tables behind its back."""
    connection, _ = await store._hosts.connect()
    try:
        await connection.execute(f'SET search_path TO "{store._sql.schema}"')
        return await connection.fetch(statement, *values)
    finally:
        await connection.close()


# --- the URL -------------------------------------------------------------------------------------


def test_a_url_names_hosts_a_database_and_options() -> None:
    """Several hosts, IPv6, escapes; what is not given is asyncpg's to find, as with libpq."""
    found = Address.parse(
        "postgresql://an%40n:p%3Aw%2F@one:1,[::1]:2,three/db?schema=s&weak=fsync&history_bytes_max=9"
    )
    assert found.hosts == (("one", 1), ("::1", 2), ("three", 5432))
    assert (found.user, found.password, found.database) == ("an@n", "p:w/", "db")
    assert (found.schema, found.weak, found.limits["history_bytes_max"]) == ("s", {"fsync"}, 9)
    assert Address.parse("postgresql://").hosts == (("localhost", 5432),)
    assert Address.parse("postgresql:///db?host=/run/postgresql").hosts == (
        ("/run/postgresql", 5432),
    )


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://u:hunter2@h:0/db", t.UnknownSchemeError),
        ("postgresql://u:hunter2@h:99999/db", t.UnknownSchemeError),
        ("postgresql://u:hunter2@a b:c:d/db", t.UnknownSchemeError),
        ("postgresql://u:hunter2@h/db?colour=red", t.InvalidRequestError),
        ("postgresql://u:hunter2@h/db?weak=everything", t.InvalidRequestError),
        ("postgresql://u:hunter2@h/db?reads=anywhere", t.InvalidRequestError),
        ("postgresql://u:hunter2@h/db?sslmode=perhaps", t.InvalidRequestError),
        ("postgresql://u:hunter2@h/db?history_bytes_max=many", t.InvalidRequestError),
        ("postgresql://u:hunter2@127.0.0.1:9/db", t.UnavailableError),
    ],
)
async def test_no_error_tells_the_password(url: str, error: type[Exception]) -> None:
    """A URL that is wrong, or leads nowhere: typed, and nothing of the secret in text or data."""
    with pytest.raises(error) as refused:
        await t.connect(url)
    chain: BaseException | None = refused.value
    while chain is not None:
        assert "hunter2" not in f"{chain!r} {chain} {getattr(chain, '__notes__', '')}"
        chain = chain.__cause__
    with contextlib.suppress(t.TransactionalError):
        assert "hunter2" not in repr(Address.parse(url))


async def test_a_wrong_user_is_denied(engine: PostgresEngine) -> None:
    """Not "try again": it will not help."""
    await engine.client()
    with pytest.raises(t.AccessDeniedError):
        await t.connect(engine.url.replace("convoca@", "nobody@"))
    with pytest.raises(t.AccessDeniedError):
        await t.connect(engine.url.replace("/postgres?", "/no_such_database?"))


# --- tables --------------------------------------------------------------------------------------


async def test_a_schema_that_is_not_ours_is_left_alone(engine: PostgresEngine) -> None:
    """Somebody else's, or changed behind our back: told as what it is, and as it was."""
    store = await engine.client()
    await store.commit([], [t.Put("a", b"")])
    await sql(store, "ALTER TABLE keys RENAME COLUMN value TO what")
    with pytest.raises(t.CorruptStoreError):
        await store.get("a")
    with pytest.raises(t.CorruptStoreError):
        await store.commit([], [t.Put("a", b"")])
    await sql(store, "DROP TABLE meta CASCADE")
    before = await sql(store, "SELECT what FROM keys")
    with pytest.raises(t.InvalidRequestError, match="holds something else already"):
        await t.connect(engine.url)
    assert await sql(store, "SELECT what FROM keys") == before


async def test_eight_who_come_first_make_one_store(engine: PostgresEngine) -> None:
    """All at once on an empty database: the same life, and everybody's commits."""
    engine.url = await postgres.new_schema()
    stores = await asyncio.gather(*[engine.client() for _ in range(8)])
    assert len({store.epoch for store in stores}) == 1
    await asyncio.gather(*[s.commit([], [t.Put(f"k{n}", b"")]) for n, s in enumerate(stores)])
    assert len((await stores[0].scan("")).items) == 8


async def test_tables_of_a_later_version_are_refused(
    engine: PostgresEngine, store: PostgresStore
) -> None:
    """By type, with the two numbers, and nothing is changed."""
    await store.commit([], [t.Put("a", b"1")])
    await sql(store, "UPDATE meta SET format = 2")
    with pytest.raises(t.NewerFormatError, match="format 2; this program knows 1"):
        await engine.client()
    await sql(store, "UPDATE meta SET format = 1")
    assert (await (await engine.client()).get("a")).value == b"1"


async def test_two_versions_of_the_functions_use_one_store(
    engine: PostgresEngine, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade by as little as a number: each brings its own functions to the same tables."""
    monkeypatch.setattr(schema, "FORGET_AFTER", schema.FORGET_AFTER + 1)
    other = await engine.client()
    assert other._sql.write_name != store._sql.write_name
    first = await store.commit([t.Absent("a")], [t.Put("a", b"1")])
    await other.commit([t.Revision("a", first.revision)], [t.Put("a", b"2")])
    assert (await store.get("a")).value == b"2"


async def test_a_row_that_was_changed_is_not_read(store: PostgresStore) -> None:
    """A value, and the record of an operation: the error names it, and so does verify."""
    await store.commit([], [t.Put("a", b"1"), t.Put("b", b"1")], op_id="mine")
    assert await store.verify() == []
    await sql(store, "UPDATE keys SET value = 'x' WHERE key = 'a'")
    await sql(store, "UPDATE operations SET revision = 7")
    with pytest.raises(t.DamagedRowError, match="'a'"):
        await store.get("a")
    with pytest.raises(t.DamagedRowError, match="'a'"):
        await store.scan("")
    with pytest.raises(t.DamagedRowError, match="'mine'"):
        await store.resolve("mine")
    assert (await store.get("b")).value == b"1"
    assert {line.split("'")[1] for line in await store.verify()} == {"a", "mine"}


async def test_the_command_verifies_the_rows_of_a_server(
    engine: PostgresEngine, store: PostgresStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify URL` as for a file: sound, or each damaged row named and the exit status."""
    await store.commit([], [t.Put("a", b"1")])
    assert await asyncio.to_thread(command, ["verify", engine.url]) == 0
    assert capsys.readouterr().out == "the store on PostgreSQL: sound\n"
    await sql(store, "UPDATE keys SET value = 'x' WHERE key = 'a'")
    assert await asyncio.to_thread(command, ["verify", engine.url, "-o", "json"]) == 1
    told = capsys.readouterr()
    assert "'a'" in json.loads(told.out)["problem"]
    assert json.loads(told.err)["code"] == "corrupt"


# --- order ---------------------------------------------------------------------------------------


async def test_whoever_follows_sees_every_commit_once_in_order(engine: PostgresEngine) -> None:
    """[transactional 27] Sixteen writers and a tailer that reads all the time: nothing skipped.

    Over the numbers of a sequence, which become visible in any order, 433 of 8,000 were.
    """
    stores = [await engine.client() for _ in range(16)]
    total = rounds(8000, 640)
    seen: list[int] = []

    async def write(store: t.Store, number: int) -> None:
        for n in range(total // 16):
            await store.commit([], [t.Put(f"w{number}/{n}", b"")])

    async def tail(store: PostgresStore) -> None:
        cursor = 0
        while len(seen) < total:  # in one query after the other, as fast as they come
            _, cursor, commits = await store._commits_after(store._readers[1], "", cursor)
            seen.extend(revision for revision, _ in commits)

    await asyncio.gather(tail(await engine.client()), *map(write, stores, range(16)))
    assert seen == list(range(1, total + 1))


async def test_who_waits_together_shares_a_statement(store: PostgresStore) -> None:
    """256 commits at once are a few transactions; each is decided alone, in its order."""
    statements = 0
    fetch = store._writer.fetch

    async def counted(*given: object) -> list[asyncpg.Record]:
        nonlocal statements
        statements += 1
        return await fetch(*given)

    store._writer.fetch = counted
    made = await asyncio.gather(
        *[store.commit([t.Absent("one")], [t.Put("one", b"%d" % n)]) for n in range(256)],
        return_exceptions=True,
    )
    assert isinstance(made[0], t.Commit)
    assert all(isinstance(other, t.ConflictError) for other in made[1:])
    assert {other.current["one"].value for other in made[1:]} == {b"0"}
    assert statements <= 3


async def test_what_the_server_cannot_judge_harms_only_itself(store: PostgresStore) -> None:
    """[transactional 9] One of 64 breaks the statement: it is found, and the others are made."""
    await sql(store, "ALTER TABLE keys ADD CHECK (key <> 'bad')")
    made = await asyncio.gather(
        *[store.commit([], [t.Put("bad" if n == 40 else f"good/{n}", b"")]) for n in range(64)],
        return_exceptions=True,
    )
    assert [n for n, one in enumerate(made) if not isinstance(one, t.Commit)] == [40]
    assert isinstance(made[40], asyncpg.CheckViolationError)
    assert len((await store.scan("good/")).items) == 63


@pytest.mark.parametrize("rows", [500, 8, 1])
@pytest.mark.parametrize("compacted", [0, 10**9])
async def test_a_range_is_compared_whichever_way_is_shorter(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch, rows: int, compacted: int
) -> None:
    """By its few keys, by the few rows written since, or by all its keys: always what was done."""
    monkeypatch.setattr(schema, "LOOK_ROWS", rows)
    store = await engine.client()
    dice = random.Random(7)
    touched: list[set[str]] = []
    keys = [f"{prefix}/{n}" for prefix in "pqr" for n in range(8)]
    there: set[str] = set()
    for _ in range(40):
        chosen = set(dice.sample(keys, dice.choice([1, 1, 1, 9])))
        gone = {key for key in chosen & there if dice.random() < 0.5}
        await store.commit([], [t.Delete(k) if k in gone else t.Put(k, b"") for k in chosen])
        there = (there | chosen) - gone
        touched.append(chosen)
    await sql(store, f"UPDATE meta SET compacted = {compacted}")  # beyond: no history is looked at
    asked = [(prefix, since) for prefix in ("", "p/", "q", "r/1", "s") for since in range(42)]
    found = await sql(
        store,
        f"SELECT changed_{store._sql.hash}(m, prefix, since)"
        " FROM meta m, unnest($1::text[], $2::bigint[]) WITH ORDINALITY a(prefix, since, n)"
        " ORDER BY n",
        *map(list, zip(*asked, strict=True)),
    )
    for (prefix, since), (changed,) in zip(asked, found, strict=True):
        later = set[str]().union(*touched[since:])
        yet_to_come = since > len(touched)
        assert changed is (yet_to_come or any(k.startswith(prefix) for k in later)), (prefix, since)


async def test_numbers_beyond_those_of_the_server_are_compared(store: t.Store) -> None:
    """A revision of twenty digits is one that no key has, not an error of the line."""
    await store.commit([], [t.Put("a", b"")])
    for compare in (t.Revision("a", 1 << 70), t.Unchanged("b", 1 << 70)):
        with pytest.raises(t.ConflictError):
            await store.commit([compare], [t.Put("a", b"x")])


# --- reading -------------------------------------------------------------------------------------


async def test_who_reads_together_shares_a_statement(
    store: PostgresStore, statements: Counter[str]
) -> None:
    """A hundred ranges in one, keys and the time in another; each is what it is alone."""
    items = [f"{day:02}/{n}" for day in range(100) for n in range(day % 5)]
    for first in range(0, len(items), 100):
        await store.commit([], [t.Put(key, key.encode()) for key in items[first : first + 100]])
    prefixes = [f"{day:02}/" for day in range(100)]
    statements.clear()
    pages = await asyncio.gather(*[store.scan(prefix) for prefix in prefixes])
    assert statements == {"ranges": 1}
    assert [list(page.items) for page in pages] == [
        [key for key in items if key.startswith(prefix)] for prefix in prefixes
    ]
    assert len({page.revision for page in pages}) == 1
    assert not any(page.more for page in pages)
    statements.clear()
    one, many, none, _ = await asyncio.gather(
        store.get(items[0]), store.get_many(items[3:60]), store.get("nothing"), store.now()
    )
    assert statements == {"points": 1}
    assert one.value == items[0].encode()
    assert list(many.items) == items[3:60]
    assert none is None


async def test_a_long_range_keeps_nobody_from_a_short_answer_of_its_own(
    store: PostgresStore, statements: Counter[str]
) -> None:
    """What is too long to share a statement is read once more, alone, whole or to its limit."""
    long = [f"long/{n:04}" for n in range(engine_module.SHARED_ROWS + 20)]
    for first in range(0, len(long), 100):
        await store.commit([], [t.Put(key, b"") for key in long[first : first + 100]])
    await store.commit([], [t.Put("short/1", b"")])
    statements.clear()
    whole, behind, some, short, empty = await asyncio.gather(
        store.scan("long/"),
        store.scan("long/", after=long[30]),
        store.scan("long/", limit=10),
        store.scan("short/"),
        store.scan("none/"),
    )
    assert statements == {"ranges": 2}
    assert (list(whole.items), whole.more) == (long, False)
    assert (list(behind.items), behind.more) == (long[31:], False)
    assert (list(some.items), some.more) == (long[:10], True)
    assert (list(short.items), list(empty.items)) == (["short/1"], [])


async def test_bookings_made_at_once_are_a_handful_of_statements(
    store: PostgresStore, statements: Counter[str]
) -> None:
    """The time with the rules, all days, and one commit; refusals read the weeks that are free."""
    rooms = t.Reservations(store)
    day = datetime(2026, 1, 5, 9, tzinfo=UTC)

    async def book(hour: int) -> list[t.Booking | BaseException]:
        start = day + timedelta(hours=hour)
        wanted = t.Interval(start, start + timedelta(hours=1))
        asked = [rooms.book(f"room {n}", wanted, holder=f"agent {n}") for n in range(60)]
        return await asyncio.gather(*asked, return_exceptions=True)

    statements.clear()
    assert all(isinstance(made, t.Booking) for made in await book(0))
    assert statements == {"points": 1, "ranges": 1, "write": 1}
    statements.clear()  # the days are known by now
    assert all(isinstance(made, t.Booking) for made in await book(2))
    assert statements["ranges"] <= 2  # of those that take away what is old, in passing
    assert statements["write"] == 1
    statements.clear()
    refused = await book(2)
    assert all(isinstance(no, t.BookingConflict) and no.free for no in refused)
    assert statements["ranges"] <= 5
    assert statements["write"] == 0


async def test_reads_of_large_values_are_limited_where_they_are_made(store: PostgresStore) -> None:
    """Nine megabytes: gets bring them in pieces, one snapshot is refused, a scan has pages."""
    large = b"x" * (1 << 20)
    for n in range(9):
        await store.commit([], [t.Put(f"big/{n}", large)])
    found = await asyncio.gather(*[store.get(f"big/{n}") for n in range(9)])
    assert all(item is not None and item.value == large for item in found)
    every = [f"big/{n}" for n in range(9)]
    with pytest.raises(t.AnswerTooLargeError):
        await store.get_many(every)
    many = [store.get_many(part) for part in (every, every[:2], every[7:], every, ["none"])]
    first, *snapshots, last, none = await asyncio.gather(*many, return_exceptions=True)
    assert isinstance(first, t.AnswerTooLargeError)
    assert isinstance(last, t.AnswerTooLargeError)
    assert [list(found.items) for found in snapshots] == [every[:2], every[7:]]
    assert none.items == {}
    page = await store.scan("big/")
    assert page.more
    assert 0 < sum(len(item.value) for item in page.items.values()) <= READ_BYTES_MAX
    again, tail = await asyncio.gather(store.scan("big/"), store.scan("big/", after="big/6"))
    assert (list(again.items), again.more) == (list(page.items), True)
    assert (list(tail.items), tail.more) == (every[7:], False)
    assert len((await t.scan_all(store, "big/")).items) == 9
    events = store.watch("big/", after=0)
    assert [(await anext(events)).revision for _ in range(9)] == list(range(1, 10))
    await events.aclose()


async def test_a_watch_that_fell_behind_what_is_remembered_is_told(
    engine: PostgresEngine, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both a cursor from before, and a feed whose connection was away for too long."""
    url = f"{engine.url}&history_commits_max=10"
    small = await PostgresStore.open(url)
    watched = store.watch("k", after=0)
    waiting = asyncio.ensure_future(anext(watched))
    await asyncio.sleep(0)
    first = await store.commit([], [t.Put("k", b"")])
    assert (await waiting).revision == first.revision
    gate = asyncio.Event()
    publish = store._publish

    async def late(feed: feeds.Feed) -> None:
        await gate.wait()
        await publish(feed)

    monkeypatch.setattr(store, "_publish", late)
    for n in range(300):
        await small.commit([], [t.Put(f"n{n}", b"")])
    gate.set()
    behind = await anext(watched)
    assert isinstance(behind, t.Compacted)
    assert behind.asked_after >= first.revision
    assert behind.revision > 200
    last = await small.commit([], [t.Put("k", b"again")])
    assert (await anext(watched)).revision == last.revision
    await watched.aclose()
    ((rows,),) = await sql(store, "SELECT count(*) FROM history")
    assert rows <= 10 + 2 * schema.FORGET_AFTER
    await small.compact()
    ((rows,),) = await sql(store, "SELECT count(*) FROM history")
    assert rows <= 10
    await small.close()


async def test_who_follows_asks_once_for_each_commit_it_heard_of(
    engine: PostgresEngine, statements: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither once more to see that there is no more, nor because of what the question told."""
    monkeypatch.setattr(schema, "NOTIFY_US", 10**12)  # told once, and then by its own commits
    monkeypatch.setattr(engine_module, "POLL_S", 60.0)  # a look that is on its way would count
    store = await engine.client()
    async with aclosing(store.watch("k", after=0)) as events:
        await store.commit([], [t.Put("k", b"")])
        await anext(events)
        await store.commit([], [t.Put("k", b"")])
        await anext(events)  # by who follows
        statements.clear()
        for n in range(10):
            waiting = asyncio.ensure_future(anext(events))
            made = await store.commit([], [t.Put("k", b"%d" % n)])
            assert (await waiting).revision == made.revision
        assert statements["write"] == 10
        assert statements["history"] <= 11  # one may be left of the beginning


async def test_changes_are_told_though_nobody_notifies(
    engine: PostgresEngine, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications only save time: without one, and with the listener's connection cut."""
    monkeypatch.setattr(store, "_notified", lambda *_: None)
    monkeypatch.setattr(engine_module, "POLL_S", 0.02)
    other = await engine.client()
    async with aclosing(store.watch("k", after=0)) as events:
        for n in range(6):
            made = await other.commit([], [t.Put("k", b"%d" % n)])
            assert (await anext(events)).revision == made.revision
            if n == 2:
                store._follower.drop()


# --- errors --------------------------------------------------------------------------------------


async def test_a_lock_that_is_not_to_be_had_is_definite(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[transactional 12] Somebody holds the row: nothing is written, and later it goes on."""
    monkeypatch.setattr(engine_module, "LOCK_S", 0.05)
    store = await engine.client()
    connection, _ = await store._hosts.connect()
    async with connection.transaction():
        await connection.execute(f"SELECT FROM {store._sql.meta} FOR UPDATE")
        with pytest.raises(t.UnavailableError):
            await store.commit([], [t.Put("a", b"1")], op_id="once")
        assert await store.get("a") is None  # who reads does not wait
    await connection.close()
    assert not (await store.commit([], [t.Put("a", b"1")], op_id="once")).replayed


async def test_a_stricter_isolation_by_default_is_waited_out(engine: PostgresEngine) -> None:
    """The role's default is SERIALIZABLE: waits for the lock fail, and are tried again."""
    url = f"{await postgres.new_database(await asyncio.to_thread(postgres.shared))}"
    first = await PostgresStore.open(url)
    database = url.rpartition("/")[2]
    await sql(first, f"ALTER DATABASE {database} SET default_transaction_isolation = serializable")
    await first.close()
    stores = [await PostgresStore.open(url) for _ in range(3)]

    async def add(store: t.Store) -> None:
        for _ in range(10):
            await t.update(store, "n", lambda value: b"%d" % (int(value or b"0") + 1))

    await asyncio.gather(*map(add, stores))
    assert (await stores[0].get("n")).value == b"30"
    for store in stores:
        await store.close()


async def test_a_server_that_lost_commits_has_another_life(
    engine: PostgresEngine, store: PostgresStore
) -> None:
    """An asynchronous standby was promoted: no revision may mean two things."""
    for n in range(5):
        await store.commit([], [t.Put("a", b"%d" % n)])
    await sql(store, "UPDATE meta SET revision = 3")
    with pytest.raises(t.UnavailableError, match="behind"):
        await store.get("a")
    with pytest.raises(t.EpochMismatchError):
        await store.commit([], [t.Put("a", b"x")])
    with pytest.raises(t.EpochMismatchError):
        await store.get("a")
    again = await engine.client()
    assert again.epoch != store.epoch
    assert (await again.commit([], [t.Put("a", b"y")])).revision > 5 + (1 << 31)


async def test_a_restored_database_is_given_another_life_by_hand(
    engine: PostgresEngine, store: PostgresStore
) -> None:
    """[transactional 15] `SELECT another_life()`: op_ids of the former one are refused."""
    op_id = store.mint_op_id()
    await store.commit([], [t.Put("a", b"1")], op_id=op_id)
    ((epoch,),) = await sql(store, "SELECT another_life()")
    with pytest.raises(t.EpochMismatchError):
        await store.resolve(op_id)
    again = await engine.client()
    assert again.epoch == epoch
    with pytest.raises(t.EpochMismatchError):
        await again.resolve(op_id)


async def test_a_schema_that_is_gone_is_said_to_be(store: PostgresStore) -> None:
    """Dropped while in use: a definite error that names it."""
    await sql(store, f'DROP SCHEMA "{store._sql.schema}" CASCADE')
    for ask in (store.get("a"), store.commit([], [t.Put("a", b"")])):
        with pytest.raises(t.CorruptStoreError):
            await ask


async def test_a_lease_can_be_renewed_while_the_loop_is_busy(store: PostgresStore) -> None:
    """On a connection of its own, from a thread; what is over stays so."""
    lease = await store.lease(60)
    ((before,),) = await sql(store, "SELECT deadline_us FROM leases")
    await asyncio.to_thread(store.renew_from_thread, lease.id)
    ((after,),) = await sql(store, "SELECT deadline_us FROM leases")
    assert after > before
    await store.revoke(lease.id)
    with pytest.raises(t.LeaseExpiredError):
        await asyncio.to_thread(store.renew_from_thread, lease.id)


# --- an engine says only what its server does ----------------------------------------------------


async def test_a_server_that_may_lose_commits_is_refused(
    engine: PostgresEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """`synchronous_commit=off` for a role: refused, used if named, and not called durable."""
    store = await engine.client()
    assert store.capabilities.durable
    assert not store.capabilities.fault_tolerant
    role = f"weak_{secrets.token_hex(4)}"
    await sql(store, f"CREATE ROLE {role} LOGIN SUPERUSER")
    await sql(store, f"ALTER ROLE {role} SET synchronous_commit = off")
    url = engine.url.replace("convoca@", f"{role}@")
    with pytest.raises(t.WeakServerError, match="synchronous_commit=off") as refused:
        await t.connect(url)
    assert refused.value.settings == ("synchronous_commit",)
    with pytest.raises(t.WeakServerError):
        await t.connect(f"{url}&weak=fsync")
    async with t.open(f"{url}&weak=synchronous_commit") as weak:
        assert not weak.capabilities.durable
        await weak.commit([], [t.Put("a", b"")])
    asked = ["doctor", "--store", f"{url}&weak=synchronous_commit", "-o", "plain"]
    assert await asyncio.to_thread(command, asked) == 1
    said = capsys.readouterr().out
    assert "set synchronous_commit=on" in said
    assert await asyncio.to_thread(command, ["doctor", "--store", engine.url]) == 0
    await sql(store, f"DROP OWNED BY {role} CASCADE")


async def test_an_authority_can_stand_before_it(engine: PostgresEngine) -> None:
    """`serve postgresql://…`: roles, batches and watches over HTTP; the URL is not printed."""
    direct = await engine.client()
    secret = engine.url.replace("convoca@", "convoca:hunter2@")
    authority = AuthorityProcess(secret)
    await authority.start()
    try:
        async with t.open(authority.url) as client:
            assert client.capabilities.engine == "http+postgresql"
            assert client.capabilities.durable
            async with aclosing(client.watch("k", after=0)) as events:
                made = await asyncio.gather(
                    *[client.commit([], [t.Put(f"k{n}", b"")]) for n in range(40)]
                )
                seen = [(await anext(events)).revision for _ in range(40)]
            assert seen == sorted(commit.revision for commit in made)
        assert len((await direct.scan("k")).items) == 40
    finally:
        assert await authority.stop() == 0
    assert "hunter2" not in authority.said


# --- servers of a test's own ---------------------------------------------------------------------


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Cluster, Cluster]]:
    """A primary, and a standby that every commit waits for."""
    directory = memory() / f"convoca-pair-{secrets.token_hex(4)}"
    primary = Cluster(directory / "one", "synchronous_standby_names=*")
    standby = Cluster(directory / "two")
    directory.mkdir()
    directory.chmod(0o755)
    try:
        await asyncio.to_thread(primary.make)
        await asyncio.to_thread(primary.start)
        standby.directory.mkdir()
        if not os.getuid():
            os.chown(standby.directory, *[_as_owner()[k] for k in ("user", "group")])
        await asyncio.to_thread(
            primary._run, "pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-h", "127.0.0.1",
            "-p", str(primary.port), "-U", "convoca", "-D", str(standby.data),
        )  # fmt: skip
        await asyncio.to_thread(standby.start)
        yield primary, standby
    finally:
        for cluster in (primary, standby):
            await asyncio.to_thread(cluster.remove)
        directory.rmdir()


async def test_a_synchronous_standby_takes_over_and_nothing_acknowledged_is_lost(
    pair: tuple[Cluster, Cluster],
) -> None:
    """The primary falls, the standby is promoted: the same URL goes on in the same life.

    A standby is read from only if the URL asks for it by name.
    """
    primary, standby = pair
    hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    url = f"postgresql://convoca@{hosts}/postgres"
    store = await PostgresStore.open(url)
    stale = await PostgresStore.open(f"{url}?reads=standby")
    assert store.capabilities.fault_tolerant
    assert store._hosts.server.host.endswith(f":{primary.port}")
    acknowledged: list[int] = []
    unknown: list[str] = []
    stop, more = asyncio.Event(), asyncio.Condition()

    async def some(count: int) -> None:
        async with asyncio.timeout(60), more:
            await more.wait_for(lambda: len(acknowledged) >= count)

    async def write(number: int) -> None:
        n = 0
        while not stop.is_set():
            op_id, n = store.mint_op_id(), n + 1
            try:
                made = await store.commit([], [t.Put(f"w{number}/{n}", b"")], op_id=op_id)
                async with more:
                    acknowledged.append(made.revision)
                    more.notify_all()
            except t.OutcomeUnknownError:
                unknown.append(op_id)
            except t.UnavailableError:
                await asyncio.sleep(0.02)

    writers = [asyncio.create_task(write(n)) for n in range(8)]
    await some(100)
    in_recovery = await stale._readers[1].fetch("SELECT pg_is_in_recovery()")
    assert in_recovery[0][0] is True
    await stale.get("w0/1")
    assert (await store._readers[1].fetch("SELECT pg_is_in_recovery()"))[0][0] is False
    await asyncio.to_thread(primary.stop, signal.SIGQUIT)
    await asyncio.to_thread(standby._run, "pg_ctl", "promote", "-w", "-D", str(standby.data))
    before = len(acknowledged)
    await some(before + 100)
    stop.set()
    await asyncio.gather(*writers)
    assert len(set(acknowledged)) == len(acknowledged)
    kept = {item.revision for item in (await t.scan_all(store, "w")).items.values()}
    assert set(acknowledged) <= kept
    applied = [await store.resolve(op_id) for op_id in unknown]
    found = {one.commit.revision for one in applied if isinstance(one, t.Applied)}
    assert kept - set(acknowledged) == found
    assert not store.capabilities.fault_tolerant  # nobody follows the new one
    await store.close()
    await stale.close()


async def test_behind_a_transaction_pooler_everything_works(engine: PostgresEngine) -> None:
    """PgBouncer gives each transaction another connection: commits, reads, watches, leases."""
    (program,) = require("pgbouncer", which("pgbouncer") or "/usr/sbin/pgbouncer")
    direct = await engine.client()
    host, _, rest = engine.url.removeprefix("postgresql://convoca@").partition(":")
    (port,) = free_ports(1)
    directory = Path(tempfile.mkdtemp())  # not pytest's, which only its owner may enter
    directory.chmod(0o755)
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npostgres = host={host} port={rest.partition('/')[0]} user=convoca\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nunix_socket_dir =\n"
        "logfile = /dev/null\n"
    )
    settings.chmod(0o644)
    with settings.with_suffix(".log").open("wb") as log:
        pooler = subprocess.Popen(
            [program, str(settings)], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            **_as_owner(),
        )  # fmt: skip
    try:
        pooled = f"{engine.url.partition('@')[0]}@127.0.0.1:{port}/{rest.partition('/')[2]}"
        stores: list[PostgresStore] = []
        async with asyncio.timeout(20):
            while len(stores) < 6:
                try:
                    stores.append(await PostgresStore.open(pooled))
                except t.UnavailableError:
                    await asyncio.sleep(0.05)
        async with aclosing(stores[0].watch("n", after=0)) as events:

            async def add(store: t.Store) -> None:
                for _ in range(20):
                    await t.update(store, "n", lambda value: b"%d" % (int(value or b"0") + 1))

            await asyncio.gather(*map(add, stores))
            values = [(await anext(events)).changes[0].current.value for _ in range(120)]
        assert values == [b"%d" % n for n in range(1, 121)]
        assert not any(store._hosts.server.told for store in stores)
        lease = await stores[1].lease(60)
        await stores[2].commit([t.LeaseAlive(lease.id)], [t.Put("leased", b"", lease.id)])
        await stores[3].revoke(lease.id)
        assert await direct.get("leased") is None
        for store in stores:
            await store.close()
    finally:
        pooler.terminate()
        pooler.wait()
        shutil.rmtree(directory)

"""What was altered, cut off or erased: the chain tells, and holds."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import transactional
from tests.scale import seeds
from tests.transactional.events.samples import added
from transactional import (
    Delete,
    EventLog,
    NewEvent,
    OperationIdReusedError,
    Put,
    Reducer,
)
from transactional.stores import sqlite_file

if TYPE_CHECKING:
    from pathlib import Path

    from transactional import Store


@pytest.mark.parametrize("seed", seeds(3))
async def test_one_tampered_event_is_named(store, seed):
    """[transactional 30] Whatever is altered in whichever copy, `verify` names that event."""
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    log = EventLog(store)
    for number in range(12):
        await log.append_many({"a": added(number, 7), f"b{number % 3}": added(1)}, actor="ann")
    assert await log.verify() == ()
    pages = list((await store.scan(log.layout.at())).items.values())
    entry = dice.choice(pages)
    clean = json.loads(entry.value)
    batch = dice.randrange(len(clean["batches"]))
    row = dice.randrange(len(clean["batches"][batch]["events"]))
    for field, value in ((0, "Removed"), (1, 2), (2, 8_000_000)):
        data = json.loads(entry.value)
        data["batches"][batch]["events"][row][field] = value
        await store.commit([], [Put(entry.key, json.dumps(data).encode())])
        findings = await log.verify()
        victim = data["batches"][batch]
        named = {(f.stream, f.version) for f in findings}
        assert named == {(victim["stream"], victim["version"] + row)}
        assert any("altered" in f.problem for f in findings)
    await store.commit([], [Put(entry.key, entry.value)])
    assert await log.verify() == ()
    # The other copy, the one that is read by stream:
    target = await store.get(log.layout.stream("a", 3))
    data = json.loads(target.value)
    data["events"][1][2] = -1
    await store.commit([], [Put(target.key, json.dumps(data).encode())])
    (finding,) = await log.verify()
    assert (finding.stream, finding.version) == ("a", 4)


async def test_a_log_that_was_cut_short_is_noticed(store):
    """Removing the last commit leaves a head that points behind the end."""
    log = EventLog(store)
    for number in range(4):
        await log.append("s", added(number))
    for junk in (b'{"hash":"","batches":[]}', b"\xff", b'{"batches":[{"stream":1}]}'):
        await store.commit([], [Put(log.layout.at(4), junk)])
        assert "the commit cannot be read" in [finding.problem for finding in await log.verify()]
    await store.commit([], [Delete(log.layout.at(4)), Delete(log.layout.stream("s", 4))])
    (finding,) = await log.verify()
    assert "end should be at 4" in finding.problem


async def test_erased_data_is_gone_and_the_chain_holds(store):
    """Data, salt and snapshots go; envelope, order and hashes stay; a repeat is recognised."""
    log = EventLog(store)
    keep = Reducer("list", list, lambda names, event: [*names, event.data], snapshot_every=1)
    for name in ("ann", "bob", "cid"):
        await log.append("people", [NewEvent("Joined", name)], op_id=f"join {name}", actor="desk")
    assert (await log.state("people", keep)).state == ["ann", "bob", "cid"]
    assert await log.erase("people", versions={2}) == 1
    assert await log.erase("people", versions={2}) == 0
    assert (await log.state("people", keep)).state == ["ann", None, "cid"]
    erased = [event async for event in log.read("people")][1]
    assert (erased.erased, erased.data, erased.origin.actor) == (True, None, "desk")
    assert await log.verify() == ()
    after = await store.scan("log/")
    assert not [key for key, item in after.items.items() if b'"bob"' in item.value]
    assert (await log.append("people", [NewEvent("Joined", "bob")], op_id="join bob")).repeated


SECRET = "Ada Lovelace"


async def _erased_everywhere(store: Store) -> None:
    """No key and no event of a watch from the beginning tells the secret; its put is still told."""
    page = await store.scan("")
    assert not page.more
    assert [key for key, item in page.items.items() if SECRET.encode() in item.value] == []
    told = {}
    events = store.watch("", after=0)
    async for event in events:
        for change in event.changes:
            value = change.current.value if change.current else b""
            assert SECRET.encode() not in value, change.key
            told[change.key] = told.get(change.key, 0) + 1
        if event.revision == page.revision:
            break
    await events.aclose()
    assert told["log/stream/person/000000000001"] == 2


async def test_erased_data_is_in_no_watch_snapshot_or_record(store):
    """Streams, both copies, snapshots past and present, op records: a watch from before too."""
    log = EventLog(store)
    keep = Reducer("list", list, lambda names, event: [*names, event.data], snapshot_every=1)
    await log.append("person", [NewEvent("Joined", SECRET)], op_id="join")
    await log.state("person", keep)
    await log.append_many(
        {"person": [NewEvent("Moved", [SECRET, n]) for n in range(3)], "other": added(7)}
    )
    await log.state("person", keep)
    for number in range(60):
        await log.append("person", [NewEvent("Wrote", f"{number} {SECRET}")])
    assert await log.erase("person") == 64
    await _erased_everywhere(store)
    assert await log.verify() == ()
    assert [event.data async for event in log.read("other")] == [7]
    assert (await log.append("person", [NewEvent("Joined", SECRET)], op_id="join")).repeated
    with pytest.raises(OperationIdReusedError):
        await log.append_many(
            {"person": [NewEvent("Joined", SECRET)], "other": added(1)}, op_id="join"
        )
    with pytest.raises(OperationIdReusedError):
        await log.append(
            "person", [NewEvent("Joined", SECRET)], op_id="join", writes=[Put("more", b"")]
        )


async def test_a_watcher_under_way_is_not_told_what_is_erased_meanwhile(store):
    """It was given the first event; the rest, already gathered for it, comes without data."""
    if store.capabilities.shared:
        pytest.skip("what is on its way to another process is beyond recall")
    log = EventLog(store)
    for number in range(5):
        await log.append("person", [NewEvent("Wrote", f"{number} {SECRET}")])
    events = store.watch("log/stream/", after=0)
    await anext(events)
    await log.erase("person")
    rest = [await anext(events) for _ in range(5)]
    assert not [e for e in rest if SECRET.encode() in e.changes[0].current.value]
    await events.aclose()


async def test_a_reader_that_began_before_writes_no_erased_data_back(store):
    """Its snapshot is of a stream that is no more; it is not kept."""
    log = EventLog(store)
    await log.append("person", [NewEvent("Joined", SECRET), NewEvent("Left", "x")])
    begun, erased = asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        async def commit(self, *arguments: object, **options: object) -> object:
            begun.set()
            await erased.wait()
            return await store.commit(*arguments, **options)

    keep = Reducer("list", list, lambda names, event: [*names, event.data], snapshot_every=1)
    reading = asyncio.create_task(EventLog(Slow()).state("person", keep))
    await begun.wait()
    await log.erase("person", versions={1})
    erased.set()
    assert (await reading).state == [SECRET, "x"]  # it had read it
    assert await store.get(log.layout.snapshot("person", "list")) is None
    assert (await log.state("person", keep)).state == [None, "x"]


def _in_files(directory: Path, secret: bytes) -> int:
    return sum(path.read_bytes().count(secret) for path in directory.iterdir())


async def test_erased_data_is_in_no_page_of_the_file(tmp_path):
    """Not in the database, whose pages keep bytes of rows that moved, nor in the log beside it."""
    dice = random.Random(5)
    async with transactional.open(f"sqlite:{tmp_path}/s.db") as store:
        log = EventLog(store)
        keep = Reducer("all", list, lambda kept, event: [*kept, event.data][-40:], snapshot_every=1)
        for _ in range(300):
            size = dice.choice((10, 300, 900, 5000))
            if dice.random() < 0.3:
                await log.append("person", [NewEvent("Wrote", SECRET + "-" * size)])
                await log.state("person", keep)
            else:
                await log.append(f"s{dice.randrange(99)}", [NewEvent("Wrote", "y" * size)])
        assert _in_files(tmp_path, SECRET.encode()) > 100
        await log.erase("person")
        assert _in_files(tmp_path, SECRET.encode()) == 0
        await log.append("s", added(1))
        assert await log.verify() == ()
    assert _in_files(tmp_path, SECRET.encode()) == 0
    assert sqlite_file.verify(tmp_path / "s.db") == []


async def test_what_a_reader_from_outside_holds_on_to_is_overwritten_later(tmp_path):
    """A backup under way keeps the log's old frames; they go when it is over."""
    path = tmp_path / "s.db"
    async with transactional.open(f"sqlite:{path}") as store:
        log = EventLog(store)
        await log.append("person", [NewEvent("Joined", SECRET)])
        with closing(sqlite_file.connect_reader(path)) as outside:
            outside.execute("BEGIN")
            outside.execute("SELECT * FROM meta").fetchall()
            await log.erase("person")
            assert _in_files(tmp_path, SECRET.encode()) > 0
    assert _in_files(tmp_path, SECRET.encode()) == 0

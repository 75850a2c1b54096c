"""What was altered, cut off or erased: the chain tells, and holds."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import transactional
from tests.scale import seeds
from tests.transactional.events.samples import added
from transactional import (
    Compacted,
    Delete,
    DeletePrefix,
    EventLog,
    Head,
    InvalidRequestError,
    NewEvent,
    OperationIdReusedError,
    Put,
    Reducer,
)
from transactional.events import state
from transactional.events.event import digest_of
from transactional.events.layout import StreamEnd
from transactional.stores import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable
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


async def _grown(store: Store) -> EventLog:
    log = EventLog(store)
    for number in range(20):
        await log.append_many({"a": added(number, 7), f"b{number % 3}": added(1)})
    return log


async def _changed(store: Store, key: str, **changes: object) -> bytes:
    """The bytes of a stream's batch with something else in it."""
    return json.dumps(json.loads((await store.get(key)).value) | changes).encode()


async def test_whatever_was_added_or_removed_is_found(store):
    """In a stream, behind the head, under a false name, as a false end: none is passed over."""
    log = await _grown(store)
    lay = log.layout
    key, end = lay.stream("a", 39), lay.end("a")
    event = json.loads((await store.get(key)).value)["events"][0]
    bare_but_not = [*event[:3], "", event[4], digest_of(event[3], "19")]
    ahead = await _changed(store, key, version=41, position=61)
    head = Head.decode((await store.get(lay.head)).value)
    forgeries: dict[str, list[Put | Delete]] = {
        "an event of its own": [Put(lay.stream("c", 1), ahead.replace(b'"a"', b'"c"'))],
        "an event at the end": [Put(lay.stream("a", 41), ahead)],
        "far ahead": [
            Put(lay.stream("a", 99), await _changed(store, key, version=99, position=999))
        ],
        "between": [Put(lay.stream("a", 40), await _changed(store, key, version=40))],
        "under a false name": [Put(lay.stream("b0", 99), (await store.get(key)).value)],
        "no batch": [Put(lay.stream("a", 50), b"[]")],
        "no number": [Put(lay.stream("a") + "x", (await store.get(key)).value)],
        "a type that is none": [Put(key, await _changed(store, key, version="39"))],
        "gone from the stream": [Delete(key)],
        "gone from the order": [Delete(lay.at(30))],
        "gone from both": [Delete(lay.at(60)), Delete(key), Delete(lay.stream("b1", 7))],
        "gone from the middle": [Delete(lay.at(30)), Delete(lay.stream("a", 19))],
        "a whole stream gone": [DeletePrefix(lay.stream("b2"))],
        "a commit behind the head": [Put(lay.at(63), (await store.get(lay.at(60))).value)],
        "a commit twice": [Put(lay.at(59), (await store.get(lay.at(60))).value)],
        "a commit of no position": [Put(lay.at() + "x", (await store.get(lay.at(60))).value)],
        "a head that is behind": [Put(lay.head, Head(57, head.at, head.hash).encode())],
        "a head of another hash": [Put(lay.head, Head(60, head.at, "0" * 64).encode())],
        "an end too far": [Put(end, StreamEnd(44, event[4]).encode())],
        "an end too near": [Put(end, StreamEnd(1, event[4]).encode())],
        "no end": [Put(end, b"{}")],
        "no end at all": [Put(lay.end("c"), StreamEnd(1, event[4]).encode())],
        "erased, and yet there": [
            Put(key, await _changed(store, key, events=[bare_but_not, event]))
        ],
    }
    for name, writes in forgeries.items():
        before = (await store.scan("log/")).items
        await store.commit([], writes)
        assert await log.verify() != (), name
        after = (await store.scan("log/")).items
        await store.commit(
            [],
            [Delete(key) for key in after if key not in before]
            + [Put(key, e.value) for key, e in before.items() if after.get(key) != e],
        )
        assert await log.verify() == (), name


async def test_data_beside_its_own_digest_is_found(store):
    """Erased in the chain's eyes, told to readers: forged in both copies it is told by nobody."""
    log = EventLog(store)
    await log.append("s", added(10))
    for key in (log.layout.at(1), log.layout.stream("s", 1)):
        data = json.loads((await store.get(key)).value)
        (event,) = (data["batches"][0] if "batches" in data else data)["events"]
        event += [digest_of(event[3], "10")]
        event[2:4] = [1_000_000, ""]
        await store.commit([], [Put(key, json.dumps(data).encode())])
    assert [event.data async for event in log.read("s")] == [None]
    (finding,) = await log.verify()
    assert "altered" in finding.problem


async def test_a_log_that_grows_meanwhile_is_sound(store):
    """Verification follows appends that come while it walks; none is taken for a forgery."""
    log = await _grown(store)

    async def grow() -> None:
        for number in range(60):
            await log.append(f"s{number % 3}", added(number))

    growing = asyncio.create_task(grow())
    while not growing.done():
        assert await EventLog(store).verify() == ()
        await asyncio.sleep(0)
    await growing


async def _cut(store: Store, log: EventLog, position: int) -> None:
    """Take the last commit away, of one event of stream s, as if it had never been."""
    head = await log.head()
    commit = json.loads((await store.get(log.layout.at(position))).value)
    await store.commit(
        [],
        [
            Delete(log.layout.at(position + 1)),
            Delete(log.layout.stream("s", position + 1)),
            Put(log.layout.head, Head(position, head.at, commit["hash"]).encode()),
        ],
    )


async def test_a_log_that_was_cut_and_grew_again_is_found_by_a_noted_head(store):
    """Nothing in the store tells; a head that was noted does, whole or as its hash, by any way."""
    log = EventLog(store)
    await log.append("s", added(1))
    early = await log.head()
    await log.append("s", added(2))
    late = await log.head()
    assert await log.verify(noted=[Head(), early, late]) == ()
    await _cut(store, log, 1)
    (finding,) = await log.verify(noted=late)
    assert "noted at 2" in finding.problem
    await EventLog(store).append("s", added(20))
    await EventLog(store).append("s", added(30))
    assert await log.verify(noted=early) == await log.verify() == ()
    for noted in (late, str(late), late.hash, [early, late]):
        (finding,) = await log.verify(noted=noted)
        assert "noted" in finding.problem
    for text in ("x:y", "1:abc", ":" + late.hash):
        with pytest.raises(InvalidRequestError):
            await log.verify(noted=text)


async def test_a_log_that_was_rewritten_consistently_is_found_by_a_noted_head(store):
    """Another log of the same length in its place: sound in itself, and not the one noted."""
    log = EventLog(store)
    for number in range(3):
        await log.append("s", added(number))
    noted = str(await log.head())
    await store.commit([], [DeletePrefix("log/")])
    for number in range(9):
        await EventLog(store).append("s", added(number * 100))
    assert await log.verify() == ()
    (finding,) = await log.verify(noted=noted)
    assert finding.position == 3


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
        if isinstance(event, Compacted):
            assert not store.capabilities.forgets_in_place
            await events.aclose()
            return
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


async def test_erased_data_is_in_no_page_of_the_file(tmp_path, monkeypatch):
    """Not in the database, whose pages keep bytes of rows that moved, nor in the log beside it."""
    monkeypatch.setattr("transactional.stores.sqlite.SCRUB_S", 60.0)  # on a busy machine, too
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


TOTAL = Reducer("total", lambda: 0, lambda state, event: state + event.data, snapshot_every=2)


async def with_snapshot(store: Store) -> EventLog:
    log = EventLog(store)
    await log.append("a", added(1, 2, 3), op_id="first")
    assert (await log.state("a", TOTAL)).state == 6
    assert await log.verify(reducers=[TOTAL]) == ()
    return log


async def rewritten(store: Store, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    entry = await store.get(key)
    assert entry is not None
    data = json.loads(entry.value)
    change(data)
    await store.commit([], [Put(key, json.dumps(data).encode())])


@pytest.mark.parametrize(
    ("field", "value"),
    [("first", 2), ("last", 9), ("versions", {"a": 2}), ("parts", {"a": ["0", "0"]}), ("parts", 7)],
    ids=["first", "last", "versions", "content", "nonsense"],
)
async def test_what_is_kept_beside_the_events_is_judged_too(
    store: Store, field: str, value: object
) -> None:
    """An op_id's record that tells something else than its append did, an altered snapshot."""
    log = await with_snapshot(store)
    await rewritten(store, log.layout.op("first"), lambda data: data.update({field: value}))
    await rewritten(store, log.layout.snapshot("a", "total"), lambda data: data.update(state=7))
    snapshot, operation = await log.verify()
    assert (snapshot.stream, "altered" in snapshot.problem) == ("a", True)
    assert "'first'" in operation.problem


async def test_a_forged_snapshot_is_found_by_folding_again(store: Store) -> None:
    """With a digest of its own a snapshot is believed, and only its reducer can tell."""
    log = await with_snapshot(store)

    def forge(data: dict[str, Any]) -> None:
        del data["digest"]
        data["state"] = 1_000
        data["digest"] = state._digest(data)

    await rewritten(store, log.layout.snapshot("a", "total"), forge)
    assert (await log.state("a", TOTAL)).state == 1_000
    assert await log.verify() == ()
    (finding,) = await log.verify(reducers=[TOTAL])
    assert (finding.stream, finding.version) == ("a", 3)

    def elsewhere(data: dict[str, Any]) -> None:
        forge(data)
        data["version"] = 2
        del data["digest"]
        data["digest"] = state._digest(data)

    await rewritten(store, log.layout.snapshot("a", "total"), elsewhere)
    (finding,) = await log.verify()
    assert "not taken at this event" in finding.problem


async def test_a_record_of_what_was_erased_is_still_judged_by_its_shape(store: Store) -> None:
    """After an erasure the record of the op_id is no finding."""
    log = await with_snapshot(store)
    await log.erase("a", versions={2})
    assert await log.verify(reducers=[TOTAL]) == ()

"""The event log on every engine: one order, answers that do not change, nothing altered unseen."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.scale import rounds, seeds
from transactional import (
    NO_STREAM,
    STREAM_EXISTS,
    ConflictError,
    Delete,
    EventLog,
    InvalidRequestError,
    InvalidTimeError,
    NewEvent,
    OperationIdReusedError,
    Position,
    Put,
    Reducer,
    Revision,
    WrongVersionError,
)

TICK = timedelta(microseconds=1)
TOTAL = Reducer("total", lambda: 0, lambda total, event: total + (event.data or 0))


def added(*numbers: int) -> list[NewEvent]:
    return [NewEvent("Added", number) for number in numbers]


async def everything(log: EventLog) -> list:
    return [event async for event in log.read_all()]


async def test_two_appenders_of_one_version(store):
    """[transactional 25] Of those who saw the same version one appends, the others are told."""
    logs = [EventLog(store) for _ in range(5)]
    await logs[0].append("account", added(1), expected=NO_STREAM)
    answers = await asyncio.gather(
        *(log.append("account", added(n), expected=1) for n, log in enumerate(logs)),
        return_exceptions=True,
    )
    lost = [answer for answer in answers if isinstance(answer, WrongVersionError)]
    assert len(lost) == 4
    assert {(error.stream, error.expected, error.actual) for error in lost} == {("account", 1, 2)}
    assert await logs[0].version("account") == 2
    with pytest.raises(WrongVersionError):
        await logs[0].append("new", added(1), expected=STREAM_EXISTS)
    with pytest.raises(WrongVersionError):
        await logs[0].append("new", added(1), guards={"account": 1})
    await logs[0].append("new", added(1), guards={"account": 2}, expected=NO_STREAM)


async def test_a_repeated_append_is_the_first(store):
    """[transactional 26] The same op_id gives the same positions; a part of it is refused."""
    log, other = EventLog(store), EventLog(store)
    first = await log.append("s", added(1, 2, 3), op_id="import-7", expected=NO_STREAM)
    await other.append("t", added(9))
    await other.append("s", added(4))
    for again in (log, other, EventLog(store)):
        repeat = await again.append("s", added(1, 2, 3), op_id="import-7", expected=NO_STREAM)
        assert repeat == first
        assert repeat.repeated
        for part in (added(1, 2), added(1, 2, 4), added(1, 2, 3, 4)):
            with pytest.raises(OperationIdReusedError):
                await again.append("s", part, op_id="import-7")
    at_once = await asyncio.gather(
        *(log.append("u", added(5), op_id="same") for _ in range(10)),
        *(other.append("u", added(5), op_id="same") for _ in range(10)),
    )
    assert len({answer.first_position for answer in at_once}) == 1
    assert len(await everything(log)) == 6


async def test_a_tailer_sees_each_event_once_in_order(store):
    """[transactional 27] Sixteen writers, a tailer that follows: nothing twice, nothing lost."""
    count = rounds(8000)
    per_writer = count // 16
    logs = [EventLog(store) for _ in range(4)]
    seen = []

    async def tail() -> None:
        async for event in EventLog(store).follow():
            seen.append(event)
            if len(seen) == per_writer * 16:
                return

    async def write(number: int) -> None:
        for sequence in range(per_writer):
            await logs[number % 4].append(f"writer {number}", added(sequence))

    tailer = asyncio.create_task(tail())
    await asyncio.gather(*(write(number) for number in range(16)))
    await asyncio.wait_for(tailer, 60)
    assert [event.position for event in seen] == list(range(1, per_writer * 16 + 1))
    for number in range(16):
        mine = [event for event in seen if event.stream == f"writer {number}"]
        assert [event.data for event in mine] == list(range(per_writer))
        assert [event.version for event in mine] == list(range(1, per_writer + 1))
    assert all(one.at <= other.at for one, other in pairwise(seen))


async def test_a_question_about_the_past_has_one_answer(store):
    """[transactional 28] At T, at T - 1 us, before and after later appends, at any position."""
    log = EventLog(store)
    moments = []
    for number in range(1, 30):
        await log.append("s", added(number))
        await log.append("noise", added(number))
        (event,) = [e async for e in log.read("s", after=number - 1)]
        moments.append((event.at, number * (number + 1) // 2))
    now = await store.now()
    fixed = await log.state("s", TOTAL, at=now)
    await asyncio.gather(*(EventLog(store).append("s", added(1000)) for _ in range(5)))
    assert await log.state("s", TOTAL, at=now) == fixed
    assert fixed.state == moments[-1][1]
    for number, (moment, total) in enumerate(moments, start=1):
        assert (await log.state("s", TOTAL, at=moment)).state == total
        before = await log.state("s", TOTAL, at=moment - TICK)
        assert before.state == total - number
        assert (await log.state("s", TOTAL, at=number)).state == total
        assert (await log.state("s", TOTAL, at=Position(number * 2 - 1))).state == total
    assert (await log.state("s", TOTAL)).version == 34
    with pytest.raises(InvalidTimeError):
        await log.state("s", TOTAL, at=now + timedelta(days=1))
    with pytest.raises(InvalidTimeError):
        await log.position_at(now.replace(tzinfo=None))


async def test_time_that_was_asked_about_stays_closed(timed_store, hand_clock):
    """[transactional 28] After a question about T, events are later than T on any clock."""
    log, other = EventLog(timed_store), EventLog(timed_store)
    await log.append("s", added(1))
    await other.append("s", added(2))
    hand_clock.forward(10)
    moment = await timed_store.now()
    assert await log.position_at(moment) == 2
    await other.append("s", added(3))  # by a clock that was last heard before the question
    assert await log.position_at(moment) == 2
    hand_clock.forward(1)
    assert await log.position_at(moment + timedelta(seconds=1)) == 3


async def _snapshot(log: EventLog, store) -> dict:
    return json.loads((await store.get(log.layout.snapshot("s", "total"))).value)


async def test_snapshots_that_do_not_fit_are_ignored(store):
    """[transactional 29] Stale, of another schema, corrupt, ahead or of another past: ignored."""
    log = EventLog(store)
    counted = Reducer("total", lambda: 0, lambda t, e: t + e.data, snapshot_every=5)
    await log.append("s", added(*range(10)))
    assert not (await log.state("s", counted)).from_snapshot
    assert await log.state("s", counted) == (await log.state("s", counted))
    assert (await log.state("s", counted)).from_snapshot
    good = await _snapshot(log, store)
    assert (good["version"], good["state"]) == (10, 45)

    await log.append("s", added(100))
    stale = await log.state("s", counted)
    assert (stale.state, stale.from_snapshot) == (145, True)  # old, and a good beginning
    assert (await log.state("s", counted, at=4)).state == 6  # ahead of what is asked for
    newer = Reducer("total", lambda: 0, lambda t, e: t + 2 * e.data, schema=2, snapshot_every=99)
    assert (await log.state("s", newer)).state == 290

    def forged(**changes) -> bytes:
        from transactional.events.state import _digest

        body = {k: v for k, v in (good | changes).items() if k != "digest"}
        return json.dumps(body | {"digest": _digest(body)}).encode()

    key = log.layout.snapshot("s", "total")
    for value in (
        b"\xff not json",
        b"{}",
        json.dumps(good | {"state": 46}).encode(),  # its digest tells
        forged(version=500, position=500),  # ahead of the stream
        forged(state=7, hash="0" * 64),  # grown from another past
    ):
        await store.commit([], [Put(key, value)])
        found = await log.state("s", counted)
        assert (found.state, found.from_snapshot) == (145, False), value


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
    target = await store.get(log.layout.stream("a", 4))
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


async def test_old_events_are_read_in_the_newest_schema(store):
    """Upcasters bring data forward step by step; what is stored stays as it was."""
    old = EventLog(store)
    await old.append("s", [NewEvent("Named", {"name": "Ada Lovelace"})])
    await old.append("s", [NewEvent("Named", {"first": "Alan", "last": "Turing"}, schema=2)])
    new = EventLog(
        store,
        upcasters={
            "Named": [
                lambda d: dict(zip(("first", "last"), d["name"].split(), strict=True)),
                lambda d: d | {"title": ""},
            ]
        },
    )
    events = [event async for event in new.read("s")]
    assert [event.schema for event in events] == [3, 3]
    assert [event.data["last"] for event in events] == ["Lovelace", "Turing"]
    assert events[0].data["title"] == ""
    assert await new.verify() == ()


async def test_who_and_why_travel_with_every_event(store):
    """Actor, op_id, causation and correlation are on record and in the chain."""
    log = EventLog(store)
    await log.append("s", added(1), actor="ann", correlation="order 17", op_id="o")
    (first,) = await everything(log)
    await log.append("s", added(2), actor="bob", causation=first.id, correlation="order 17")
    events = await everything(log)
    assert [e.origin.actor for e in events] == ["ann", "bob"]
    assert events[1].origin.causation == "s@1"
    assert {e.origin.correlation for e in events} == {"order 17"}


async def test_a_group_handles_each_event_once(store):
    """Two consumers share a group: each effect once, for effect and checkpoint are one commit."""
    log = EventLog(store)
    count = 60

    async def produce() -> None:
        for number in range(count):
            await log.append(f"topic/{number % 3}", added(number))

    async def consume(name: str) -> None:
        async for delivery in EventLog(store).subscribe("mailer", streams="topic/1", events_max=3):
            mails = {
                f"inbox/{event.data}": [NewEvent("Mail", event.id)] for event in delivery.events
            }
            await delivery.commit(events=mails, actor=name)

    consumers = [asyncio.create_task(consume(name)) for name in ("one", "two")]
    await produce()
    mails: list = []
    async for event in log.follow():
        mails += [event] if event.type == "Mail" else []
        if len(mails) == count // 3:
            break
    await log.append("end", added(0))
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    mails = [event for event in await everything(log) if event.type == "Mail"]
    assert sorted(event.data for event in mails) == sorted(f"topic/1@{n}" for n in range(1, 21))
    assert all(event.origin.causation.startswith("topic/1@") for event in mails)


async def test_what_was_not_committed_comes_again(store):
    """A consumer that dies between handling and commit leaves no effect and no checkpoint."""
    log = EventLog(store)
    await log.append("s", added(1, 2))
    async for delivery in log.subscribe("group"):
        assert [event.data for event in delivery.events] == [1, 2]
        break  # it dies here
    async for delivery in log.subscribe("group"):
        assert not delivery.committed
        with pytest.raises(ConflictError):
            await delivery.commit(compares=[Revision("effect", 5)], writes=[Put("effect", b"x")])
        assert await delivery.commit(writes=[Put("effect", b"done")])
        assert await delivery.commit(writes=[Put("effect", b"twice")]) is False
        break
    assert (await store.get("effect")).value == b"done"


async def test_a_refused_append_spoils_nobody(store):
    """In a group of many one wrong version, one foreign compare: the others are in the log."""
    log = EventLog(store)
    await log.append("s0", added(0))
    answers = await asyncio.gather(
        *(log.append(f"s{n}", added(n), expected=NO_STREAM) for n in range(20)),
        log.append("x", added(1), compares=[Revision("absent", 9)]),
        log.append("y", added(1), writes=[Put("beside", b"1")]),
        return_exceptions=True,
    )
    assert isinstance(answers[0], WrongVersionError)
    assert type(answers[20]) is ConflictError
    assert sum(isinstance(answer, Exception) for answer in answers) == 2
    assert (await store.get("beside")).value == b"1"
    positions = [event.position for event in await everything(log)]
    assert positions == list(range(1, len(positions) + 1))


async def test_what_cannot_be_an_event_is_refused_before_it_is_sent(store):
    """No events, no JSON, no name, too large: definite, and nothing is in the log."""
    log = EventLog(store)
    for stream, events in (
        ("s", []),
        ("", added(1)),
        ("s", [NewEvent("", 1)]),
        ("s", [NewEvent("T", {1, 2})]),
        ("s", [NewEvent("T", float("nan"))]),
        ("s", [NewEvent("T", "\ud800")]),
        ("s", [NewEvent("T", "x" * 300_000)]),
    ):
        with pytest.raises(InvalidRequestError):
            await log.append(stream, events)
    await log.append("s", [NewEvent("T", {1: "a", "1": "b", "ß": [1.5, None, True]})])
    assert await log.verify() == ()
    assert len(await everything(log)) == 1

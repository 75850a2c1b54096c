"""Reading on every engine: each event once and in order, a question about the past once for all."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.scale import rounds
from tests.transactional.events.samples import TOTAL, added
from transactional import (
    EventLog,
    InvalidTimeError,
    NewEvent,
    Position,
)

TICK = timedelta(microseconds=1)


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


async def test_time_that_was_asked_about_stays_closed(clocked_store, hand_clock):
    """[transactional 28] After a question about T, events are later than T on any clock."""
    log, other = EventLog(clocked_store), EventLog(clocked_store)
    await log.append("s", added(1))
    await other.append("s", added(2))
    hand_clock.forward(10)
    moment = await clocked_store.now()
    assert await log.position_at(moment) == 2
    await other.append("s", added(3))  # by a clock that was last heard before the question
    assert await log.position_at(moment) == 2
    hand_clock.forward(1)
    assert await log.position_at(moment + timedelta(seconds=1)) == 3


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

"""Consumer groups: effect and checkpoint are one commit."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.events.samples import added, everything
from transactional import (
    ConflictError,
    EventLog,
    NewEvent,
    Put,
    Revision,
)


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


async def test_consumers_of_other_streams_lose_nothing(store):
    """One group, two prefixes: what one consumer passes over the other is still given."""
    log = EventLog(store)
    for number in range(6):
        await log.append(f"{'ab'[number % 2]}/{number}", added(number))
    seen = {}
    for prefix in ("a/", "b/"):
        async for delivery in log.subscribe("group", streams=prefix):
            seen[prefix] = [event.data for event in delivery.events]
            assert await delivery.commit()
            break
    assert seen == {"a/": [0, 2, 4], "b/": [1, 3, 5]}

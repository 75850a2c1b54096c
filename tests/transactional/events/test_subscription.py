"""Consumer groups: effect and checkpoint are one commit."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.events.samples import added, everything
from transactional import (
    ConflictError,
    EventLog,
    InvalidRequestError,
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


async def test_consumers_of_a_group_share_its_events(store):
    """Four consumers, twenty events: twenty deliveries, in order, and none works for nothing."""
    log = EventLog(store)
    for number in range(20):
        await log.append(f"s{number % 4}", added(number))
    handled, done = [], asyncio.Event()

    async def consume() -> None:
        async for delivery in EventLog(store).subscribe("group", events_max=1):
            handled.extend(event.data for event in delivery.events)
            await asyncio.sleep(0)
            assert await delivery.commit()
            if len(handled) == 20:
                done.set()

    consumers = [asyncio.create_task(consume()) for _ in range(4)]
    await asyncio.wait_for(done.wait(), 30)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    assert handled == list(range(20))


async def test_partitions_are_handled_at_the_same_time_each_stream_in_order(store):
    """Two handlers meet in their work; what one stream tells comes in its order, once."""
    log = EventLog(store)
    for number in range(30):
        await log.append_many({f"s{n}": added(number) for n in range(6)})
    handled: dict[str, list[int]] = {f"s{n}": [] for n in range(6)}
    both, done = asyncio.Barrier(2), asyncio.Event()

    async def consume() -> None:
        met = False
        async for delivery in EventLog(store).subscribe("g", partitions=4, events_max=7):
            if not met:
                await asyncio.wait_for(both.wait(), 30)  # while both hold a delivery
                met = True
            for event in delivery.events:
                handled[event.stream].append(event.data)
            assert await delivery.commit()
            if sum(map(len, handled.values())) == 180:
                done.set()

    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    await asyncio.wait_for(done.wait(), 60)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    assert handled == {f"s{n}": list(range(30)) for n in range(6)}
    with pytest.raises(InvalidRequestError, match="4 partitions"):
        await anext(log.subscribe("g", partitions=3))


async def test_the_turn_of_a_consumer_that_died_goes_to_the_next(timed_store, hand_clock):
    """After its lease; should it live after all, its commit changes nothing."""
    log = EventLog(timed_store)
    await log.append("s", added(1))
    dead = log.subscribe("group")
    late = await anext(dead)
    heir = log.subscribe("group")
    waiting = asyncio.create_task(anext(heir))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    hand_clock.forward(31)
    await timed_store.commit([], [Put("tick", b"")])  # a store notices the time when it is used
    delivery = await asyncio.wait_for(waiting, 20)
    assert (delivery.events, delivery.attempt) == (late.events, 2)
    assert await late.commit(writes=[Put("effect", b"late")]) is False
    assert await delivery.commit(writes=[Put("effect", b"heir")])
    assert (await timed_store.get("effect")).value == b"heir"
    await dead.aclose()
    await heir.aclose()


async def test_a_poison_event_is_parked_counted_and_replayed(store):
    """It is found among its neighbours, which are all handled; mended, it is delivered again."""
    log = EventLog(store)
    for number in range(5):
        await log.append("s", added(number))
    handled, tried, broken = [], [], True

    async def consume(until: int) -> None:
        async for delivery in log.subscribe("group", attempts_max=3):
            data = [event.data for event in delivery.events]
            tried.append((data, delivery.attempt))
            if broken and 3 in data:
                if len(handled) == 3 and delivery.attempt == 3:
                    break  # as if it took the process with it
                continue  # not committed
            handled.extend(data)
            assert await delivery.commit()
            if len(handled) == until:
                break

    await asyncio.wait_for(consume(4), 30)
    await asyncio.wait_for(consume(4), 30)
    assert tried == [
        ([0, 1, 2, 3, 4], 1),
        ([0], 1),
        ([1], 1),
        ([2], 1),
        *[([3], n) for n in (1, 2, 3)],
        ([4], 1),
    ]
    assert handled == [0, 1, 2, 4]
    (parked,) = await log.parked("group")
    assert (parked.stream, parked.version, parked.position, parked.attempts) == ("s", 4, 4, 3)
    assert await log.replay("group", positions=[1]) == 0
    assert await log.replay("group") == 1
    assert await log.parked("group") == ()
    broken = False
    await asyncio.wait_for(consume(5), 30)
    assert handled == [0, 1, 2, 4, 3]


async def test_a_lost_compare_of_the_handler_is_no_attempt(store):
    """Another wrote what it had read: it is delivered again however often, and never parked."""
    log = EventLog(store)
    await log.append("s", added(1))
    lost = 0
    async for delivery in log.subscribe("group", attempts_max=1):
        try:
            assert await delivery.commit(compares=[Revision("mine", 0 if lost == 4 else 9)])
        except ConflictError:
            lost += 1
        else:
            break
    assert lost == 4
    assert await log.parked("group") == ()


async def test_what_no_subscription_can_be_is_refused(store):
    """Limits of a group, before anything is sent."""
    log = EventLog(store)
    for wrong in (
        {"after": -1},
        {"events_max": 0},
        {"partitions": 0},
        {"partitions": 65},
        {"attempts_max": 0},
        {"ttl_s": 0},
    ):
        with pytest.raises(InvalidRequestError):
            log.subscribe("group", **wrong)

"""Appends on every engine: one order, expected versions, repeats, groups, limits."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from tests.scale import rounds, seeds
from tests.transactional.events.samples import added, everything
from tests.transactional.trouble import BadLine
from transactional import (
    NO_STREAM,
    STREAM_EXISTS,
    Absent,
    ConflictError,
    CorruptStoreError,
    Delete,
    EventLog,
    InvalidRequestError,
    NewEvent,
    OperationIdReusedError,
    OutcomeUnknownError,
    Put,
    Revision,
    UnavailableError,
    WrongVersionError,
)
from transactional.stores.memory import MemoryStore


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


@pytest.mark.parametrize("seed", seeds(rounds(60, 4)))
async def test_an_acknowledged_event_is_never_overwritten(seed: int) -> None:
    """Rivals on one stream over lines that are cut anywhere: each event stays where it was said.

    It was not so: a read that failed while an appender caught up left it with a fresh head and old
    ends, and the next append took a version that was taken.
    """
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    plain = MemoryStore()
    acknowledged: dict[tuple[str, int], str] = {}
    positions: dict[int, str] = {}

    async def rival(name: int) -> None:
        log = EventLog(BadLine(plain, dice, odds=0.15))
        for step in range(25):
            stream = f"s{dice.randrange(2)}"
            data = [f"{name}.{step}.{n}" for n in range(dice.randint(1, 5))]
            with suppress(UnavailableError, OutcomeUnknownError, WrongVersionError):
                made = await log.append(
                    stream, [NewEvent("E", each) for each in data], op_id=f"{name}.{step}"
                )
                first = made.versions[stream] - len(data) + 1
                acknowledged.update(((stream, first + n), each) for n, each in enumerate(data))
                positions.update((made.first_position + n, each) for n, each in enumerate(data))

    await asyncio.gather(*(rival(name) for name in range(4)))
    log = EventLog(plain)
    assert await log.verify() == ()
    by_position = {event.position: event.data for event in await everything(log)}
    assert positions.items() <= by_position.items()
    for stream in ("s0", "s1"):
        events = [event async for event in log.read(stream)]
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        mine = {(stream, event.version): event.data for event in events}
        assert {at: each for at, each in acknowledged.items() if at[0] == stream}.items() <= (
            mine.items()
        )
        # From any version on, in the middle of a batch too:
        for after in range(len(events) + 1):
            assert [e.version async for e in log.read(stream, after=after)] == list(
                range(after + 1, len(events) + 1)
            )


async def test_nothing_is_refused_on_memory(store):
    """What a rival did since is known to a refusal: of a version, a guard, a stream that exists."""
    log, rival = EventLog(store), EventLog(store)
    await log.append("s", added(1))
    await log.append("t", added(1))
    with pytest.raises(WrongVersionError):
        await log.append("new", added(1), expected=STREAM_EXISTS)
    await rival.append("s", added(2))
    await log.append("t", added(2), guards={"s": 2}, expected=1)
    await rival.append("s", added(3))
    assert (await log.append("s", added(4), expected=3)).versions == {"s": 4}
    await rival.append("new", added(1))
    await log.append("new", added(2), expected=STREAM_EXISTS, guards={"s": STREAM_EXISTS})
    with pytest.raises(WrongVersionError) as told:
        await log.append("s", added(5), expected=3)
    assert told.value.actual == 4


async def test_a_repeat_is_answered_before_its_compares_are_looked_at(store):
    """They are false because it was applied; something else under its op_id is refused."""
    log = EventLog(store)
    once = {
        "op_id": "pay",
        "compares": [Absent("paid")],
        "writes": [Put("paid", b"1")],
        "expected": NO_STREAM,
    }
    first = await log.append("s", added(1), **once)
    for again in (log, EventLog(store)):
        repeat = await again.append("s", added(1), **once)
        assert (repeat, repeat.repeated) == (first, True)
        for other in ({"writes": ()}, {"writes": [Put("paid", b"2")]}):
            with pytest.raises(OperationIdReusedError):
                await again.append("s", added(1), **(once | other))
    two = await log.append_many({"a": added(1), "b": added(2)}, op_id="two")
    assert (await log.append_many({"b": added(2), "a": added(1)}, op_id="two")) == two
    for fewer in ({"a": added(1)}, {"b": added(2)}, {"a": added(1), "b": added(2), "c": added(3)}):
        with pytest.raises(OperationIdReusedError):
            await log.append_many(fewer, op_id="two")
    with pytest.raises(ConflictError) as told:
        await log.append("s", added(2), op_id="other", compares=[Absent("paid")])
    assert told.value.failed == (Absent("paid"),)


async def test_what_lies_where_the_log_goes_on_is_not_overwritten(store):
    """A head that was set back by hand: an append is refused for good, and says where to look."""
    log = EventLog(store)
    await log.append("s", added(1))
    before = await store.get(log.layout.head)
    await log.append("s", added(2, 3))
    await store.commit([], [Put(log.layout.head, before.value), Delete(log.layout.end("s"))])
    for each in (log, EventLog(store)):
        with pytest.raises(CorruptStoreError, match="log verify"):
            await each.append("t", added(4, 5))
    assert [event.data async for event in log.read("s")] == [1, 2, 3]


async def test_a_name_that_fits_nowhere_spoils_no_group(store):
    """Keys that are too long, texts that are none: refused alone, before anything is sent."""
    log = EventLog(store)
    bad = [
        log.append("é" * 200, added(1)),
        log.append("\ud800", added(1)),
        log.append("s", added(1), actor="\ud800"),
        log.append("s", added(1), op_id="é" * 200),
        log.append("s", added(1), guards={"é" * 200: 1}),
        log.append("s", added(1), guards={"": 1}),
        log.append("s", added(1), expected=-1),
        log.append("s", [NewEvent("\ud800")]),
        log.append_many({"s": added(1)}, expected={"t": 0}),
    ]
    answers = await asyncio.gather(
        *bad, *(log.append(f"s{n}", added(n)) for n in range(9)), return_exceptions=True
    )
    assert all(isinstance(answer, InvalidRequestError) for answer in answers[: len(bad)])
    assert not [answer for answer in answers[len(bad) :] if isinstance(answer, Exception)]


async def test_the_limit_of_an_append_is_what_its_caller_counts(store):
    """256 KiB of data, 4096 events: up to there it is taken, one more is refused."""
    log = EventLog(store)
    await log.append("many", [NewEvent("E")] * 4096)
    await log.append("large", [NewEvent("E", "x" * ((256 << 10) - 2))])
    for events in ([NewEvent("E")] * 4097, [NewEvent("E", "x" * ((256 << 10) - 1))]):
        with pytest.raises(InvalidRequestError, match="allowed"):
            await log.append("s", events)
    assert [event.version async for event in log.read("many", after=4000)][-1] == 4096
    assert await log.version("many") == 4096

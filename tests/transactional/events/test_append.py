"""Appends on every engine: one order, expected versions, repeats, groups, limits."""

from __future__ import annotations

import asyncio

import pytest

from tests.transactional.events.samples import added, everything
from transactional import (
    NO_STREAM,
    STREAM_EXISTS,
    ConflictError,
    EventLog,
    InvalidRequestError,
    NewEvent,
    OperationIdReusedError,
    Put,
    Revision,
    WrongVersionError,
)


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

"""The commit queue: what waits together is taken together, and everybody is answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from transactional import OutcomeUnknownError, TooManyRequestsError, UnavailableError, commit_queue
from transactional.commit_queue import CommitQueue, Group


@dataclass
class Ask:
    name: str
    operations: int = 1
    bytes: int = 0
    alone: bool = False
    answer: asyncio.Future = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Groups:
    """A queue that writes down its groups and answers each request with its name."""

    def __init__(self, operations_max: int = 10, bytes_max: int = 10) -> None:
        self.seen: list[str] = []
        self.queue = CommitQueue[Ask](
            self.serve, what="asks", operations_max=operations_max, bytes_max=bytes_max
        )

    async def serve(self, group: Group[Ask]) -> None:
        names = "".join(ask.name for ask in group.waiting)
        self.seen.append(names)
        await asyncio.sleep(0)
        if "~" in names:
            raise UnavailableError("away")
        if "?" in names:  # those in lower case are in a commit whose answer is lost
            group.propose([ask for ask in group.waiting if ask.name.islower() or ask.name == "?"])
            raise OutcomeUnknownError("op", "lost")
        for ask in group.waiting:
            if ask.name == "!":
                raise ValueError("broken")
            group.answer(ask, ask.name)

    async def ask(self, *asks: Ask) -> list:
        return await asyncio.gather(*map(self.queue.put, asks), return_exceptions=True)


async def test_what_waits_together_is_one_group():
    """Those that come while a group is served are the next one, in their order."""
    groups = Groups()
    first = groups.queue.put(Ask("a"))
    await asyncio.sleep(0)
    assert await groups.ask(Ask("b"), Ask("c")) == ["b", "c"]
    assert (await first, groups.seen) == ("a", ["a", "bc"])


async def test_a_group_fits_into_one_commit():
    """Operations and bytes are bounded; one that is too large for any group goes by itself."""
    groups = Groups()
    await groups.ask(Ask("a", 4), Ask("b", 6), Ask("c", 1), Ask("d", 99), Ask("e"))
    await groups.ask(Ask("f", bytes=6), Ask("g", bytes=6), Ask("h", bytes=4))
    assert groups.seen == ["ab", "c", "d", "e", "f", "gh"]


async def test_who_must_be_alone_is_alone():
    """Nobody before or behind it shares its commit."""
    groups = Groups()
    await groups.ask(Ask("a"), Ask("b", alone=True), Ask("c"), Ask("d"))
    assert groups.seen == ["a", "b", "cd"]


async def test_one_that_breaks_its_group_is_alone_with_it():
    """Who was answered before keeps his answer, the others are served alone; the queue goes on."""
    groups = Groups()
    first, broken, late = await groups.ask(Ask("a"), Ask("!"), Ask("b"))
    assert (first, late) == ("a", "b")
    assert isinstance(broken, ValueError)
    assert await groups.ask(Ask("c")) == ["c"]
    assert groups.seen == ["a!b", "!", "b", "c"]


async def test_an_outage_is_told_to_all():
    """Nobody is to blame, so nobody is tried alone."""
    groups = Groups()
    answers = await groups.ask(Ask("a"), Ask("~"), Ask("b"))
    assert all(isinstance(answer, UnavailableError) for answer in answers)
    assert groups.seen == ["a~b"]


async def test_who_was_in_no_commit_is_not_in_doubt():
    """A commit's answer is lost: those that it held are told so, the others come next, in order."""
    groups = Groups()
    a, b, c, lost, d = await groups.ask(*(Ask(name) for name in ("A", "b", "C", "?", "d")))
    assert (a, c) == ("A", "C")
    assert all(isinstance(answer, OutcomeUnknownError) for answer in (b, lost, d))
    assert groups.seen == ["AbC?d", "AC"]


async def test_callers_in_a_loop_stay_together():
    """Some ask while others are served: from then on all of them are one group."""
    groups = Groups()

    async def ask(name: str, times: int) -> None:
        for _ in range(times):
            await groups.queue.put(Ask(name))

    early = [asyncio.create_task(ask(name, 5)) for name in "ab"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert groups.seen == ["ab"]
    late = [asyncio.create_task(ask(name, 5)) for name in "cd"]
    await asyncio.gather(*early, *late)
    assert ["".join(sorted(names)) for names in groups.seen[1:5]] == ["abcd"] * 4


async def test_who_was_cancelled_is_left_out():
    """A request whose caller has gone before its group is taken is not served."""
    groups = Groups()
    first, gone = Ask("a"), Ask("b")
    gone.answer.cancel()
    await groups.ask(first, gone)
    assert groups.seen == ["a"]


async def test_what_is_postponed_comes_first():
    """What a group had no room for is served before those that came later."""
    groups = Groups(operations_max=2)
    serve = groups.serve

    async def without_b(group: Group[Ask]) -> None:
        for ask in group.waiting:
            if ask.name == "b":
                ask.name = "B"
                group.postpone(ask)
        await serve(group)

    groups.queue._commit_together = without_b
    await groups.ask(*(Ask(name) for name in "abcd"))
    assert groups.seen == ["a", "Bc", "d"]


async def test_nobody_is_served_while_another_holds_the_queue():
    """`busy` keeps a commit of another kind undisturbed."""
    groups = Groups()
    async with groups.queue.busy:
        waiting = groups.queue.put(Ask("a"))
        await asyncio.sleep(0.001)
        assert groups.seen == []
    assert await waiting == "a"


async def test_one_too_many_is_refused(monkeypatch):
    """The queue is bounded, and says so before anything is written."""
    monkeypatch.setattr(commit_queue, "QUEUE_MAX", 2)
    groups = Groups()
    asks = [groups.queue.put(Ask(name)) for name in "ab"]
    with pytest.raises(TooManyRequestsError):
        groups.queue.put(Ask("c"))
    assert await asyncio.gather(*asks) == ["a", "b"]

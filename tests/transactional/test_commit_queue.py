"""The commit queue: what waits together is taken together, and everybody is answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from transactional import TooManyRequestsError, commit_queue
from transactional.commit_queue import CommitQueue


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

    async def serve(self, group: list[Ask]) -> None:
        self.seen.append("".join(ask.name for ask in group))
        await asyncio.sleep(0)
        for ask in group:
            if ask.name == "!":
                raise ValueError("broken")
            commit_queue.answer(ask, ask.name)

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


async def test_a_group_that_fails_leaves_nobody_without_an_answer():
    """Who was answered before keeps his answer, the rest are given the error; the queue goes on."""
    groups = Groups()
    first, broken, late = await groups.ask(Ask("a"), Ask("!"), Ask("b"))
    assert first == "a"
    assert isinstance(broken, ValueError)
    assert broken is late
    assert await groups.ask(Ask("c")) == ["c"]


async def test_who_was_cancelled_is_left_out():
    """A request whose caller has gone before its group is taken is not served."""
    groups = Groups()
    first, gone = Ask("a"), Ask("b")
    gone.answer.cancel()
    await groups.ask(first, gone)
    assert groups.seen == ["a"]


async def test_what_is_put_back_comes_first():
    """What a group had no room for is served before those that came later."""
    groups = Groups(operations_max=2)
    asks = [Ask(name) for name in "abc"]
    for ask in asks:
        groups.queue.put(ask)
    groups.queue.put_back([Ask("x"), Ask("y")])
    await asks[-1].answer
    assert groups.seen == ["xy", "ab", "c"]


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

"""Other threads: what an agent refuses there, what may be looked at, and what both change."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from crdt import EWFlag, LWWMap, ORMap, ORSet, ResettableCounter
from replication import Agent, BlockingAgent, WrongThreadError
from replication.testing import equal, local_agents

REFUSED = {
    "a write": lambda ada, tags: tags.add("x"),
    "a removal": lambda ada, tags: tags.clear(),
    "a batch": lambda ada, tags: ada.batch(lambda: None),
    "a batch of a document": lambda ada, tags: tags.batch().__enter__(),
    "an import": lambda ada, tags: tags.import_value({"x"}),
    "an iteration": lambda ada, tags: list(tags),
    "a whole value": lambda ada, tags: tags.value,
    "making a document": lambda ada, tags: ada.counter("fresh"),
    "making a child": lambda ada, tags: ada_map(ada)["fresh", ORSet],
    "the kernel": lambda ada, tags: ada.kernel,
    "a token": lambda ada, tags: ada.version(),
    "a watch": lambda ada, tags: ada.watch(),
    "a wait": lambda ada, tags: asyncio.run(ada.durable()),
    "a close in another loop": lambda ada, tags: asyncio.run(ada.close()),
    "operating": lambda ada, tags: ada.members(),
}
MAPS = {}


def ada_map(ada):
    return MAPS[id(ada)]


@pytest.mark.parametrize("use", REFUSED)
async def test_whatever_changes_or_waits_is_refused_in_another_thread(use):
    """Before anything changes, with the way that works."""
    async with local_agents("ada") as (ada,):
        tags, MAPS[id(ada)] = ada.orset("tags"), ada.map("map")
        tags.add("kept")
        before = ada.kernel.to_bytes(), set(ada.kernel.writer.state.live._known)
        with pytest.raises(WrongThreadError, match="another thread") as caught:
            await asyncio.to_thread(REFUSED[use], ada, tags)
        assert "BlockingAgent" in caught.value.hint
        assert (ada.kernel.to_bytes(), set(ada.kernel.writer.state.live._known)) == before
        tags.add("on")
        await ada.durable()


async def test_a_single_look_is_welcome_from_any_thread_while_the_agent_writes():
    """Counters, registers, flags, sets, maps: some moment of each, and nothing is changed by it."""
    async with local_agents("ada") as (ada,):
        count, last, tags = ada.counter("n"), ada.register("last"), ada.orset("tags")
        items, flag = ada.document("items", LWWMap), ada.document("flag", EWFlag)
        last.set(0)
        items["k"] = 0
        over, seen, wrong = threading.Event(), [0], []

        def looks() -> None:
            while not over.is_set():
                seen[0] += 1
                try:
                    moment = (count.value, last.value, items["k"], len(tags), flag.value)
                    assert 0 not in tags or len(tags) >= 1
                    assert all(type(each) in {int, bool} for each in moment)
                except BaseException as error:
                    wrong.append(error)
                    return

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            looking = threading.Thread(target=looks)
            looking.start()
            for number in range(2000):
                count.increment(1)
                last.set(number)
                items["k"] = number
                tags.add(number % 50)
                flag.enable()
                if not number % 100:
                    await asyncio.sleep(0)
            over.set()
            await asyncio.to_thread(looking.join)
        finally:
            sys.setswitchinterval(interval)
        assert not wrong
        assert seen[0]
        ada.kernel._check()


async def test_a_look_from_another_thread_while_a_batch_is_open_is_refused():
    """It would show half of it; and it may not roll it back from there."""
    async with local_agents("ada") as (ada,):
        count, total = ada.counter("n"), ada.document("total", ResettableCounter)

        def looks(view) -> None:
            refused = []

            def look() -> None:
                try:
                    _ = view.value
                except WrongThreadError as error:
                    refused.append(error)

            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            assert refused

        with ada.batch():
            count.increment(1)
            total.increment(1)
            looks(count)
            looks(total)
            count.increment(1)
        assert (count.value, total.value) == (2, 1)


async def test_threads_that_insist_leave_state_journal_and_peers_whole(tmp_path):
    """They used to lose increments, to part the agents for good, and to ruin the journal."""
    refused = []
    async with (
        Agent("ada", journal=tmp_path / "ada.db") as ada,
        Agent("bob", peers=[ada.address]) as bob,
    ):
        count, tags = ada.counter("n"), ada.orset("tags")

        def insists(number: int) -> None:
            for each in range(200):
                for write in (count.increment, lambda each=each: tags.add((number, each))):
                    try:
                        write()
                    except WrongThreadError as error:
                        refused.append(error)

        work = [asyncio.to_thread(insists, number) for number in range(4)]
        writing = asyncio.gather(*work)
        for _ in range(100):
            count.increment(1)
            await asyncio.sleep(0)
        await writing
        assert len(refused) == 4 * 200 * 2
        assert count.value == 100
        await equal(ada, bob)
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as ada:
        assert ada.counter("n").value == 100
        assert not ada.document("map", ORMap)


def test_the_twin_does_from_threads_what_the_agent_refuses():
    """What the hint says works."""
    with BlockingAgent("ada", listen="") as ada:

        def works() -> None:
            for _ in range(50):
                ada.counter("n").increment(1)

        threads = [threading.Thread(target=works) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ada.counter("n").value == 200

"""A member: two halves behind one handle, that find their team on this host."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import convoca
import transactional as t
from replication import (
    Agent,
    AlreadyStartedError,
    JournalHeldError,
    WrongLoopError,
    WrongThreadError,
)
from tests.ports import free_ports
from transactional.server import Authority, Listen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "a secret of the team"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is awaited is another member's
            await asyncio.sleep(0.01)


async def test_members_of_a_team_find_each_other_on_this_host() -> None:
    """Nobody names an address; a third one of another team stays a stranger."""
    async with (
        convoca.join("ann") as ann,
        convoca.join("bob") as bob,
        convoca.join("cyd", team="another") as cyd,
    ):
        ann.counter("stock").increment(5)
        await until(lambda: bob.counter("stock").value == 5)
        assert cyd.agent.members() == []


async def test_members_that_start_at_once_find_each_other() -> None:
    """Whoever reads first was written down first, so of two at least one sees the other."""
    members = [convoca.join(f"m{n}") for n in range(6)]
    await asyncio.gather(*(member.start() for member in members))
    try:
        members[0].counter("c").increment()
        await until(lambda: all(member.counter("c").value == 1 for member in members))
    finally:
        await asyncio.gather(*(member.close() for member in members))


@pytest.mark.parametrize("how", ["argument", "environment"])
async def test_peers_that_are_named_are_asked_instead(
    how: str, monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    """`peers=`, else $CONVOCA_PEERS: then nothing is written down, or looked for, on this host."""
    async with Agent("hub") as hub, Agent("other") as other:
        monkeypatch.setenv("CONVOCA_PEERS", f"{hub.address}, {other.address}")
        peers = [hub.address] if how == "argument" else None
        async with convoca.join("ann", peers=peers) as ann:
            ann.counter("c").increment()
            await until(lambda: hub.counter("c").value == 1)
            met = {member.name for member in ann.agent.members()}
    assert met == ({"hub"} if how == "argument" else {"hub", "other"})
    assert not run.exists()


async def test_a_member_works_on_both_halves() -> None:
    """A value that merges, a job, a booking, a lock and a log, from one handle."""
    async with convoca.join("ann", store="memory:") as ann:
        ann.set("tags").add("x")
        await ann.queue("tickets").put("T-1", {"n": 1})
        async for job in ann.queue("tickets").claims():
            assert (job.id, job.worker) == ("T-1", "ann")
            await job.done()
            break
        async with ann.lock("door").held() as grant:
            assert grant.names == ("door",)
        await ann.log.append("s", [t.NewEvent("begun", {})])
        assert await ann.rooms.agenda("turing") == ()
        assert [run async for run in ann.sagas().unfinished()] == []


def test_the_twin_works_on_both_halves(tmp_path: Path) -> None:
    """The same without `await`, from several threads at once."""
    with convoca.join_sync("ann", store=f"sqlite:{tmp_path / 'a.db'}") as ann:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: ann.counter("c").increment(), range(20)))
        assert ann.counter("c").value == 20
        ann.queue("tickets").put("T-1", {"n": 1})
        (job,) = ann.queue("tickets").claim()
        assert job.worker == "ann"
        job.done()
        with ann.lock("door").held() as grant:
            assert grant.names == ("door",)
        ann.log.append("s", [t.NewEvent("begun", {})])
        assert ann.rooms.agenda("turing") == ()


async def test_a_member_and_a_twin_are_one_team() -> None:
    """A thread's member and a loop's share state as any two do."""
    async with convoca.join("ann") as ann:
        bob = await asyncio.to_thread(convoca.join_sync("bob").start)
        await asyncio.to_thread(lambda: bob.counter("c").increment())
        await until(lambda: ann.counter("c").value == 1)
        await asyncio.to_thread(bob.close)


# --- [agents 15]: what is missing, out of reach, wrong ------------------------------------------


async def test_without_a_store_an_eager_call_says_what_to_pass() -> None:
    """[agents 15] The lazy half is whole; the error names the argument."""
    async with convoca.join("ann") as ann:
        ann.counter("c").increment()
        for eager in (
            lambda: ann.rooms,
            lambda: ann.log,
            lambda: ann.queue("q"),
            lambda: ann.lock("l"),
            ann.sagas,
            lambda: ann.store,
        ):
            with pytest.raises(convoca.NoStoreError) as refused:
                eager()
            assert "store=" in refused.value.hint
            assert refused.value.state == "unchanged"
        assert ann.counter("c").value == 1


def test_without_a_store_the_twin_says_the_same() -> None:
    """[agents 15] And its lazy half is whole, too."""
    with convoca.join_sync("ann") as ann:
        ann.counter("c").increment()
        with pytest.raises(convoca.NoStoreError, match="ann"):
            _ = ann.rooms


@pytest.mark.processes
async def test_a_store_out_of_reach_is_opened_when_it_is_there(tmp_path: Path) -> None:
    """[agents 15] The lazy half works meanwhile, and an eager call says what the last try met."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    async with convoca.join("ann", store=url) as ann, convoca.join("bob") as bob:
        ann.counter("c").increment()
        await until(lambda: bob.counter("c").value == 1)
        with pytest.raises(t.UnavailableError, match=str(port)):
            _ = ann.rooms
        with pytest.raises(t.UnavailableError, match=str(port)):
            await ann.store_ready(timeout_s=0)
        store = await t.connect(f"sqlite:{tmp_path / 'a.db'}")
        authority = Authority(store, Listen("127.0.0.1", port))
        await authority.start()
        try:
            await ann.store_ready(timeout_s=20)
            assert await ann.rooms.agenda("turing") == ()
        finally:
            await authority.stop()


@pytest.mark.processes
def test_a_file_that_another_has_is_opened_when_it_is_free(tmp_path: Path) -> None:
    """[agents 15] For the twin: an eager call tries again, and says who has it."""
    url = f"sqlite:{tmp_path / 'a.db'}"
    with t.open_sync(url), convoca.join_sync("ann", store=url) as ann:
        ann.counter("c").increment()
        with pytest.raises(t.UnavailableError, match="belongs to process"):
            _ = ann.rooms
    with convoca.join_sync("ann", store=url) as ann:
        assert ann.store_ready(timeout_s=20) is ann.store


@pytest.mark.parametrize("url", ["sqlte:a.db", "http://user:word@127.0.0.1:1", ""])
async def test_a_store_that_no_second_try_opens_fails_the_start(url: str) -> None:
    """[agents 15] A URL that names nothing is no store out of reach; nothing goes on running."""
    ann = convoca.join("ann", store=url)
    with pytest.raises(t.UnknownSchemeError):
        await ann.start()
    async with convoca.join("ann"):  # the name is free again
        pass
    with pytest.raises(t.UnknownSchemeError), convoca.join_sync("ann", store=url):
        pass


@pytest.mark.parametrize(
    ("theirs", "ours"), [(SECRET, "another secret"), (SECRET, None), (None, SECRET)]
)
@pytest.mark.parametrize("found", ["on this host", "named"])
async def test_a_wrong_secret_is_told_at_the_start(
    theirs: str | None, ours: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[agents 15] Another one, none, or one too many: to gossip it would just be out of reach."""
    for half in ("member", "sync_member"):  # who is asked is as slow as this machine
        monkeypatch.setattr(f"convoca.{half}.PROVE_S", 20.0)
    async with convoca.join("ann", secret=theirs) as ann:
        peers = [ann.agent.address] if found == "named" else None
        with pytest.raises(convoca.WrongSecretError) as refused:
            await convoca.join("bob", secret=ours, peers=peers).start()
        assert refused.value.addresses == (ann.agent.address,)
        with pytest.raises(convoca.WrongSecretError):
            await asyncio.to_thread(convoca.join_sync("bob", secret=ours, peers=peers).start)
        async with convoca.join("bob", secret=theirs, peers=peers) as bob:
            ann.counter("c").increment()
            await until(lambda: bob.counter("c").value == 1)


async def test_one_who_shares_the_secret_is_enough() -> None:
    """A stranger among the peers, or one that is silent, keeps nobody from his team."""
    strangers = Agent("eve", secret="a secret of others")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # whoever connects is never accepted
        nobody = [f"127.0.0.1:{port}" for port in (silent.getsockname()[1], *free_ports(1))]
        async with Agent("ann", secret=SECRET) as ann, strangers as eve:
            for peers in ([eve.address, ann.address], nobody[:1], nobody[1:]):
                async with convoca.join("bob", secret=SECRET, peers=peers):
                    pass


async def test_two_members_of_one_name_on_one_host_are_refused() -> None:
    """[agents 15] The error says which process has the name, and where; other teams do not mind."""
    async with convoca.join("ann") as ann:
        for again in (convoca.join("ann").start(), asyncio.to_thread(sync_ann)):
            with pytest.raises(convoca.NameTakenError) as refused:
                await again
            assert refused.value.address == ann.agent.address
        async with convoca.join("ann", team="another"):
            ann.counter("c").increment()
    async with convoca.join("ann"):
        pass


def sync_ann() -> None:
    convoca.join_sync("ann").start()


async def test_a_journal_in_use_is_told_and_leaves_nothing(tmp_path: Path, run: Path) -> None:
    """What the agent refuses the member refuses, and its name is free."""
    async with convoca.join("ann", journal=tmp_path / "a.db"):
        with pytest.raises(JournalHeldError):
            await convoca.join("bob", journal=tmp_path / "a.db").start()
        assert [place.name for place in run.glob("*/*.json")] == ["ann.json"]


async def test_a_second_start_leaves_the_first_one_running() -> None:
    """It is refused, and the member goes on; after a close it may be started again."""
    ann = convoca.join("ann", store="memory:")
    async with ann:
        with pytest.raises(AlreadyStartedError):
            await ann.start()
        ann.counter("c").increment()
    async with ann:
        assert await ann.rooms.agenda("turing") == ()


# --- [agents 19]: threads ------------------------------------------------------------------------


async def test_a_tool_in_a_thread_is_refused_with_a_hint() -> None:
    """[agents 19] Whatever it asks of the member of a loop; nothing changed, and it is told how."""
    async with convoca.join("ann", store="memory:") as ann:
        counter = ann.counter("c")
        tools: list[Callable[[], object]] = [
            lambda: ann.counter("c"),
            lambda: ann.set("s").add("x"),
            lambda: ann.batch(lambda: None),
            lambda: ann.rooms,
            lambda: ann.queue("q"),
            lambda: ann.log,
            lambda: ann.lock("l"),
            lambda: ann.store,
            lambda: asyncio.run(ann.store_ready()),
        ]
        for tool in tools:
            with pytest.raises(WrongThreadError) as refused:
                await asyncio.to_thread(tool)
            assert "join_sync" in refused.value.hint
        with pytest.raises(WrongLoopError):
            await asyncio.to_thread(counter.increment)
        assert counter.value == 0
        assert ann.agent.documents() == []


async def test_a_tool_in_a_thread_uses_a_twin_of_its_own() -> None:
    """[agents 19] What it wrote is seen by the member of the loop, each of it once."""
    async with convoca.join("ann") as ann:
        tools = await asyncio.to_thread(convoca.join_sync("ann.tools").start)

        def tool(_: int) -> None:
            tools.counter("calls").increment()

        await asyncio.gather(*(asyncio.to_thread(tool, n) for n in range(20)))
        await until(lambda: ann.counter("calls").value == 20)
        await asyncio.to_thread(tools.close)
    assert not [each for each in threading.enumerate() if "ann.tools" in each.name]

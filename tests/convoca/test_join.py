"""A member: two halves behind one handle, that find their team on this host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import convoca
import transactional as t

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _host_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of other tests and of this machine's user are not met."""
    monkeypatch.setenv("CONVOCA_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("CONVOCA_PEERS", raising=False)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
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


async def test_a_member_works_on_both_halves() -> None:
    """A value that merges, a job, a booking, a lock and a log, from one handle."""
    async with convoca.join("ann", store="memory:") as ann:
        ann.set("tags").add("x")
        await ann.queue("tickets").put("T-1", {"n": 1})
        async for job in ann.queue("tickets").claims():
            assert (job.id, job.worker) == ("T-1", "ann")  # who claims is the member
            await job.done()
            break
        async with ann.lock("door").held() as grant:
            assert grant.names == ("door",)
        await ann.log.append("s", [t.NewEvent("begun", {})])
        assert await ann.rooms.agenda("turing") == ()


async def test_without_a_store_an_eager_call_says_what_to_pass() -> None:
    """The lazy half is whole; the error names the argument."""
    async with convoca.join("ann") as ann:
        ann.counter("c").increment()
        with pytest.raises(convoca.NoStoreError) as refused:
            _ = ann.rooms
        assert "store=" in refused.value.hint
        assert refused.value.state == "unchanged"

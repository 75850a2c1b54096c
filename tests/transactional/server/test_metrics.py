"""What an authority tells of itself: the names that its operators were told, and true figures."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest

import transactional as t
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores.http import HTTPStore
from transactional.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.processes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


async def figures(url: str, headers: dict[str, str] | None = None) -> dict[str, float]:
    async with (
        aiohttp.ClientSession() as web,
        web.get(f"{url}/metrics", headers=headers) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_the_figures_are_those_of_the_page_and_true(tmp_path: Path) -> None:
    """Each name is in the table and each of the table is told; they count what happened."""
    store = await SQLiteStore.open(tmp_path / "s.db")
    authority = Authority(store, Listen(port=0))
    await authority.start()
    client = await HTTPStore.open(authority.url)
    lease = await client.lease(60)
    made = await client.commit([], [t.Put("a", b"", lease.id)])
    with pytest.raises(t.ConflictError):
        await t.create(client, "a", b"")
    events = client.watch("a", after=made.revision - 1)
    await anext(events)
    found = await figures(authority.url)
    names = {name.partition("{")[0] for name in found}
    page = PAGE.read_text(encoding="utf-8")
    assert names == set(re.findall(r"`(convoca_store_\w+)", page))
    assert found["convoca_store_revision"] == made.revision
    assert found["convoca_store_leases"] == 1
    assert found['convoca_store_answers_total{code="conflict"}'] == 1
    assert found['convoca_store_answers_total{code="ok"}'] == 3  # who is there, a lease, a commit
    assert found["convoca_store_watch_connections"] == 1
    assert found["convoca_store_shared_watches"] == 1
    assert found["convoca_store_file_bytes"] + found["convoca_store_log_bytes"] > 4096
    await events.aclose()
    await client.close()
    await authority.stop()


async def test_figures_are_for_those_who_may_come(tmp_path: Path) -> None:
    """With a token it is asked for, as everywhere."""
    store = await SQLiteStore.open(tmp_path / "s.db")
    authority = Authority(store, Listen(port=0, token="secret"))
    await authority.start()
    async with aiohttp.ClientSession() as web, web.get(f"{authority.url}/metrics") as answer:
        assert answer.status == 401
    found = await figures(authority.url, {"Authorization": "Bearer secret"})
    assert found['convoca_store_answers_total{code="unauthorized"}'] == 1
    await authority.stop()

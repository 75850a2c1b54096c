"""What an operator sees of an agent: endpoints, metrics, and who may read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp

from replication import Agent
from replication.agent.admin import FAMILIES, exposition

ROOT = Path(__file__).resolve().parents[3]


async def test_operators_read_pages_from_this_machine():
    """/status is JSON, /metrics is Prometheus' text: every line is a comment or a sample."""
    async with Agent("ada", secret="a shared secret") as ada, aiohttp.ClientSession() as session:
        ada.counter("n").increment(1)
        async with session.get(f"http://{ada.address}/status") as response:
            page = json.loads(await response.text())
        assert page["id"] == ada.id
        assert page["state"]["entries"] == 1
        async with session.get(f"http://{ada.address}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = [line for line in lines if not line.startswith("#")]
        assert all(
            line.startswith("convoca_") and float(line.rsplit(" ", 1)[1]) >= 0 for line in samples
        )
        assert "secret" not in "\n".join(lines) + json.dumps(page)


async def test_every_metric_is_documented_and_told() -> None:
    """The operations guide names each family; an agent tells each; and nothing else is named."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`convoca_(\w+?)(?:\{[^`]*)?`", page))
    assert documented == {*FAMILIES, "convergence_seconds"}
    async with Agent("ada") as ada, Agent("bob", peers=[ada.address]) as bob:
        ada.counter("n").increment(1)
        await ada.replicated(ada.version(), 1, 10)
        text = exposition(ada)
        assert f'convoca_member_lag_events{{agent="ada",member="{bob.id}"}} 0' in text
        assert re.search(r'bytes_total\{agent="ada",direction="sent",kind="\w+"\} [1-9]', text)
        assert re.search(r'convergence_seconds_count\{agent="ada"\} [1-9]', text)
    for family in documented:
        assert f"# TYPE convoca_{family} " in text


async def test_a_cut_is_seen_as_lag_of_members_and_of_origins() -> None:
    """The writer sees its member behind; the member, told through another, sees what it lacks."""
    async with (
        Agent("ada") as ada,
        Agent("bob", peers=[ada.address]) as bob,
    ):
        ada.counter("n").increment(1)
        await ada.replicated(ada.version(), 1, 10)
        ada.block("bob")
        for _ in range(3):
            ada.counter("n").increment(1)
        await ada.durable()
        assert ada.lag() == {bob.id: 3}
        assert f'convoca_member_lag_events{{agent="ada",member="{bob.id}"}} 3' in exposition(ada)
        assert ada.vitals.converging_s > 0
        ada.unblock("bob")
        await bob.seen(ada.version(), 20)
        assert bob.behind() == {}

"""What an operator sees of an agent: endpoints, metrics, and who may read them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crdt import LWWMap
from replication import Agent, NotYetError, UnknownPeerError
from replication.agent.admin import FAMILIES, ORDER_TIMEOUT_S_MAX, AdminHandlers, exposition, plain
from replication.errors import OrderRefusedError
from replication.journal.memory import MemoryJournal
from replication.testing import local_agents

ROOT = Path(__file__).resolve().parents[3]


async def test_operators_read_pages_from_this_machine():
    """/status is JSON, /metrics is Prometheus' text: every line is a comment or a sample."""
    async with (
        Agent("ada", journal=MemoryJournal(), secret="a shared secret") as ada,
        aiohttp.ClientSession() as session,
    ):
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
    named = set(re.findall(r"`convoca_(\w+?)(?:\{[^`]*)?`", page))
    documented = {name for name in named if not name.startswith("store_")}  # an authority's
    assert documented == {*FAMILIES, "convergence_seconds"}
    async with (
        Agent("ada", journal=MemoryJournal()) as ada,
        Agent("bob", journal=MemoryJournal(), peers=[ada.address]) as bob,
    ):
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
        Agent("ada", journal=MemoryJournal()) as ada,
        Agent("bob", journal=MemoryJournal(), peers=[ada.address]) as bob,
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


def test_values_are_shown_as_json_can_show_them():
    """Sets in one order, bytes as hex, times as text; what JSON knows stays as it is."""
    value = {"a": {3, 1, 2}, "b": (b"\x00\xff", None, 1.5, True)}
    assert plain(value) == {"a": [1, 2, 3], "b": ["00ff", None, 1.5, True]}
    assert plain({1: "int", "1": "text"}) == [[1, "int"], ["1", "text"]]  # two keys stay two
    assert plain({("a", 1): {b"k": 2.0}}) == [[["a", 1], [["6b", 2.0]]]]
    odd = [float("nan"), float("inf"), {-float("inf")}]
    assert plain(odd) == ["NaN", "Infinity", ["-Infinity"]]


async def test_pages_show_whatever_can_be_stored():
    """Counterexample: NaN made a page that is not JSON, and keys 1 and "1" were shown as one."""
    longest = 1 << (8 * 1000)  # a little below what a kernel takes
    async with Agent("ada") as ada, aiohttp.ClientSession() as session:
        ada.register("nan").set(float("nan"))
        ada.counter("huge").increment(longest)
        ada.document("map", LWWMap).put(1, float("inf"))
        ada.document("map", LWWMap).put("1", longest)
        ada.orset("set").add((longest, b"x"))
        assert repr(ada.counter("huge")).startswith("PNCounter(")

        async def page(path: str) -> Any:
            async with session.get(f"http://{ada.address}{path}") as response:
                assert response.status == 200, path
                return json.loads(await response.text(), parse_constant=pytest.fail)

        assert await page("/documents?name=nan") == {"LWWRegister": "NaN"}
        assert await page("/documents?name=huge") == {"PNCounter": longest}
        assert await page("/documents?name=map") == {"LWWMap": [[1, "Infinity"], ["1", longest]]}
        assert await page("/documents?name=set") == {"ORSet": [[longest, "78"]]}
        for name in ("nan", "huge", "map", "set"):
            assert await page(f"/explain?name={name}")
        await page("/status")


async def test_an_order_is_the_agents_own_write_and_durable_when_it_is_answered():
    """Each verb writes its type of document; the answer names the writer and a token."""
    async with local_agents("ada") as (ada,):
        handlers = AdminHandlers(ada)
        for order in (
            {"verb": "set", "name": "status", "value": "paid"},
            {"verb": "add", "name": "tags", "value": ["a", 1]},
            {"verb": "add", "name": "tags", "value": "gone"},
            {"verb": "remove", "name": "tags", "value": "gone"},
            {"verb": "inc", "name": "stock", "value": -2},
        ):
            answer = await handlers.execute(order)
        assert answer == {
            "writer": ada.id,
            "version": ada.version().encode(),
            "durable": True,
            "copies": {"on_disk": 0, "in_memory": 0},
        }
        assert ada.register("status").value == "paid"
        assert set(ada.orset("tags")) == {("a", 1)}
        assert ada.counter("stock").value == -2


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"verb": "fly", "name": "x"},
        {"verb": "set", "value": 1},
        {"verb": "set", "name": "", "value": 1},
        {"verb": "inc", "name": "n", "value": True},
        {"verb": "inc", "name": "n", "value": "1"},
        {"verb": "add", "name": "tags", "value": {"a": 1}},
        {"verb": "cut"},
        {"verb": "inc", "name": "n", "value": 1, "copies": 1.5},
        {"verb": "inc", "name": "n", "value": 1, "copies": -1},
        {"verb": "inc", "name": "n", "value": 1, "timeout_s": float("nan")},
        {"verb": "inc", "name": "n", "value": 1, "timeout_s": ORDER_TIMEOUT_S_MAX + 1},
    ],
)
async def test_an_order_that_makes_no_sense_changes_nothing(order):
    """A typed refusal; the agent's vector stays where it was."""
    async with local_agents("ada") as (ada,):
        with pytest.raises(OrderRefusedError):
            await AdminHandlers(ada).execute(order)
        assert ada.version().vector == {}


async def test_an_order_to_an_agent_without_a_journal_says_that_it_is_in_memory(say):
    """It is carried out, and a copy on a peer's disk is a copy; a warning is not a failure."""
    async with (
        Agent("ada") as ada,
        Agent("bob", peers=[ada.address], journal=MemoryJournal()) as bob,
    ):
        to = ["--peer", ada.address]
        code, out, err = await say("inc", "n", "1", "--copies", "1", *to)
        assert (code, out) == (0, "")
        assert err == f"note: {ada.id} keeps no journal: this is in its memory only"
        code, out, err = await say("inc", "n", "1", "--copies", "1", *to, "-o", "json")
        assert json.loads(out)["durable"] is False
        assert json.loads(out)["copies"] == {"on_disk": 1, "in_memory": 0}
        assert bob.counter("n").value == 2
        code, _, err = await say("inc", "n", "1", "--copies", "2", "--timeout", "0.2", *to)
        assert code == 5
        assert "1 of 2 others have it on disk after 0.2 s; it knows 1 others in all" in err
        code, _, err = await say("inc", "n", "1", "--timeout", "1000", *to)
        assert code == 1
        assert "an order waits for at most 600 s" in err
        assert ada.counter("n").value == 3


async def test_no_order_is_taken_inside_of_a_batch():
    """It would become part of what its author may yet roll back."""
    async with local_agents("ada") as (ada,):
        with ada.batch(), pytest.raises(OrderRefusedError, match="batch"):
            await AdminHandlers(ada).execute({"verb": "set", "name": "x", "value": 1})


async def test_an_order_whose_copies_do_not_come_stands():
    """NotYetError says how far it got; the write is there."""
    async with local_agents("ada") as (ada,):
        order = {"verb": "inc", "name": "n", "value": 1, "copies": 1, "timeout_s": 0.05}
        with pytest.raises(NotYetError):
            await AdminHandlers(ada).execute(order)
        assert ada.counter("n").value == 1


async def test_what_an_agent_does_not_know_cannot_be_cut_healed_or_retired(say):
    """It is a mistake of the operator, who is told who is known, by a status that is not zero."""
    async with Agent("ada") as ada, Agent("bob", peers=[ada.address]) as bob:
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)
        handlers = AdminHandlers(bob)
        for verb in ("cut", "heal", "retire"):
            with pytest.raises(UnknownPeerError):
                await handlers.execute({"verb": verb, "peer": "adda"})
            code, out, err = await say(verb, "adda", "--peer", bob.address)
            assert (code, out) == (1, "")
            assert "'adda' is not" in err
            assert "Traceback" not in err
        assert bob.blocked() == []
        assert (await say("cut", "ada", "--peer", bob.address))[0] == 0
        assert (await say("heal", ada.id, "--peer", bob.address))[0] == 0

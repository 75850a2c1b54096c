"""docs/guarantees.md and docs/operations.md name tests and metrics; here they are held to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from replication import Agent
from replication.agent.admin import FAMILIES, exposition

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROWS = [
    line
    for line in (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").splitlines()
    if "::test_" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.strip("| ").partition(" |")[0])
def test_each_failure_names_a_test_that_exists(row: str) -> None:
    """A renamed or deleted test leaves no promise behind that nothing shows."""
    named = NAMED.findall(row)
    assert named
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in defined, f"{path} has no {name}"


def test_the_table_of_failures_is_there() -> None:
    """The rows above were found at all."""
    assert len(ROWS) >= 20


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

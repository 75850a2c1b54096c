"""docs/security.md says who can do what to which thing: no cell is empty, each line has a test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

WHO = ("A stranger", "An eavesdropper without TLS", "A leaf", "A client of the authority")
AT_STAKE = (
    "state",
    "shares",
    "doors",
    "frames",
    "members",
    "names and rules",
    "orders",
    "authority",
    "time",
    "files and screens",
)


def lines() -> list[tuple[str, list[str]]]:
    """(who, cells) of each line of the four lists."""
    found, who = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            who = line.lstrip("# ")
        elif who in WHO and line.startswith("|") and not line.startswith(("| at stake", "|---")):
            found.append((who, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


LINES = lines()


def name_of(row: tuple[str, list[str]]) -> str:
    return f"{row[0]}, {row[1][0]}: {(row[1][2] or row[1][1])[:40]}"


@cache
def _tests_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_no_cell_is_missing() -> None:
    """Each of the four has a line for each thing at stake."""
    missing = {(who, thing) for who in WHO for thing in AT_STAKE}
    missing -= {(who, cells[0]) for who, cells in LINES}
    assert not missing


@pytest.mark.parametrize("row", LINES, ids=name_of)
def test_a_line_says_something_and_names_a_test_that_exists(row: tuple[str, list[str]]) -> None:
    """Known words, a power or a limit, and at least one test that is there."""
    thing, can, cannot, shown = row[1]
    assert thing in AT_STAKE
    assert can or cannot
    named = NAMED.findall(shown)
    assert named
    for path, name in named:
        assert name.startswith("test_")
        assert name in _tests_in(path), f"{path} has no {name}"

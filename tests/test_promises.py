"""README.md and docs/guarantees.md: no promise without a test, and no test that is not there.

A page of promises is true on the day it is written. So each row of its tables that says what
happens, and each point of its lists, names at least one test, and that test exists and runs: one
that is always skipped shows nothing.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def items(page: str) -> list[str]:
    """Rows of tables, heads left out, and points of lists, each in one line."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    points = re.findall(r"^\* .*?(?=^\* |^## |^$|\Z)", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    heads = {
        index + step
        for index, row in enumerate(rows)
        if set(row) <= set("|-: ")
        for step in (-1, 0)
    }
    kept = [row for index, row in enumerate(rows) if index not in heads]
    return [" ".join(item.split()) for item in (*kept, *points)]


README = (ROOT / "README.md").read_text(encoding="utf-8")
ITEMS = [*items(README.partition("## What is promised")[2].partition("\n## ")[0]), *items(PAGE)]


@cache
def functions(path: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.strip("|* ")[:60])
def test_each_promise_names_a_test_that_runs(item: str) -> None:
    """A renamed, deleted or skipped test leaves no promise behind that nothing shows."""
    named = [(path, name) for path, name in NAMED.findall(item) if name]
    assert named, "names no test"
    for path, name in named:
        test = functions(path).get(name)
        assert test is not None, f"{path} has no {name}"
        marks = [ast.unparse(mark) for mark in test.decorator_list]
        assert not [mark for mark in marks if "mark.skip(" in mark or mark.endswith("mark.skip")]


def test_the_promises_are_found_at_all() -> None:
    """The tables of promises and of failures, and both lists."""
    assert len(ITEMS) >= 110
    assert sum(item.startswith("*") for item in ITEMS) >= 20

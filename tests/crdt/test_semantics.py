"""The page about semantics says what the code does, and every scenario has its test."""

import re
from pathlib import Path

from crdt.kernel.kind import KINDS
from tests.crdt.semantics import BEGIN, CASES, END, PAGE, tables

TESTS = Path(__file__).parent


def test_the_tables_of_the_page_are_what_the_types_do():
    """The page shows the results of executing every pair (python -m tests.crdt.semantics)."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == tables()


def test_the_page_speaks_of_every_type():
    """No type is left out of the tables."""
    assert {case.kind.__name__ for case in CASES} == set(KINDS)


def test_every_scenario_is_named_by_a_test():
    """The 27 scenarios of docs/scenarios.md stand in docstrings, and no others."""
    named = {
        int(number)
        for path in TESTS.rglob("test_*.py")
        for numbers in re.findall(r"\[crdt ([\d, ]+)\]", path.read_text(encoding="utf-8"))
        for number in numbers.split(",")
    }
    assert named == set(range(1, 28))

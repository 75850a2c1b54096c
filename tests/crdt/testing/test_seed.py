"""Laws and histories begin where Hypothesis says, and tell where they failed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from crdt.testing import fuzz, laws
from crdt.testing.seed import examples_of_the_run, seed_of_the_run
from tests.crdt.testing.wrong_sets import RightSet

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = "_hypothesis_pytestplugin"
TESTS = """
from crdt.testing import fuzz, laws
from tests.crdt.testing.wrong_sets import RightSet

class Stubborn(RightSet):
    def merge(self, other):
        pass

test_laws = laws(Stubborn, operate=lambda dice, replica: replica.add(dice.choice("abcdefgh")))

def test_fuzz():
    outcome = fuzz(RightSet, examples=1)
    raise AssertionError(f"fuzz began with seed={outcome.seed}")
"""


def seeds_of(tmp_path: Path, *options: str) -> list[str]:
    """The seeds that pytest prints for a law and for a campaign, both failing."""
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    pytest_of_a_user = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", PLUGIN, *options]
    run = subprocess.run(
        [sys.executable, *pytest_of_a_user, "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 failed" in run.stdout, run.stdout + run.stderr
    found = [
        re.search(r"replay: .*laws\(Stubborn, examples=1, seed=(\d+)\)\(\)", run.stdout),
        re.search(r"AssertionError: fuzz began with seed=(\d+)", run.stdout),
    ]
    return [each[1] for each in found]


@pytest.mark.processes
def test_one_option_says_for_a_whole_run_where_to_begin(tmp_path, monkeypatch):
    """`--hypothesis-seed` gives the same seeds again, and otherwise they are others each time."""
    monkeypatch.delenv("CI", raising=False)  # for which Hypothesis has a profile that is fixed
    option = "--hypothesis-seed=7"
    assert seeds_of(tmp_path, option) == seeds_of(tmp_path, option) != seeds_of(tmp_path)
    one, other = (seeds_of(tmp_path)[1] for _ in range(2))
    assert one != other


def test_a_profile_may_fix_the_seed():
    """One with `derandomize`, as the one that Hypothesis loads where it finds a CI."""
    before = settings.get_current_profile_name()
    settings.register_profile("fixed", derandomize=True)
    settings.load_profile("fixed")
    try:
        assert seed_of_the_run() == seed_of_the_run()
    finally:
        settings.load_profile(before)


def test_the_number_of_examples_of_a_law_is_that_of_the_profile(monkeypatch):
    """And as many as its caller says, if it says so."""
    checked = []
    monkeypatch.setattr("crdt.testing.law._algebra", lambda *_: checked.append(1))
    assert examples_of_the_run(60) == settings().max_examples
    laws(RightSet)()
    assert len(checked) == settings().max_examples
    laws(RightSet, examples=2)()
    assert len(checked) == settings().max_examples + 2


def test_a_seed_that_is_given_is_used():
    """The first history has it; without one, it is another in each run, or the run's own."""
    assert fuzz(RightSet, examples=1, seed=5).seed == 5
    assert 0 <= seed_of_the_run() < 1 << 32


def test_without_hypothesis_there_is_one_seed(monkeypatch):
    """The extra is not there: 0, and the number of examples that the caller knows."""
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert (seed_of_the_run(), examples_of_the_run(60)) == (0, 60)

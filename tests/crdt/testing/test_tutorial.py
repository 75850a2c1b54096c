"""docs/fuzzing.md followed to the letter in an empty folder, and the command line it speaks of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from crdt.testing.__main__ import main

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "fuzzing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(TAGS,) = [block for block in BLOCKS if block.startswith("# tags.py\n")]
(MENDED,) = [block for block in BLOCKS if block.startswith("# tags.py: merge, mended\n")]
(DRAWN,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python as a user starts it, in a folder of theirs."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.processes
def test_a_type_written_from_the_tutorial_is_caught_drawn_and_mended(tmp_path):
    """The wrong set, the command, the picture, the written test: red before the fix, green after.

    (The Python blocks of the page in their order are run by tests/test_docs.py.)
    """
    (tmp_path / "tags.py").write_text(TAGS, encoding="utf-8")
    fuzzed = run(tmp_path, "-m", "crdt.testing", "fuzz", "tags:Tags")
    assert fuzzed.returncode == 1, fuzzed.stderr
    complaint, drawn = DRAWN.split("\n     a  ")
    assert complaint in fuzzed.stdout
    assert f"shrunk to 3 steps:\n     a  {drawn}" in fuzzed.stdout, "the page shows another picture"
    ET.fromstring((tmp_path / "test_tags_counterexample.svg").read_bytes())  # noqa: S314 - ours
    regression = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tags_counterexample.py"]
    before = run(tmp_path, *regression)
    assert before.returncode == 1
    assert "has to show set()" in before.stdout
    (tmp_path / "tags.py").write_text(TAGS + MENDED, encoding="utf-8")
    after = run(tmp_path, *regression)
    assert after.returncode == 0, after.stdout
    fuzzed = run(tmp_path, "-m", "crdt.testing", "fuzz", "tags:Tags", "--examples", "60")
    assert fuzzed.returncode == 0, fuzzed.stdout


def test_a_type_of_ours_is_fuzzed_by_its_name(capsys):
    """No complaint, exit code 0, and what was generated."""
    assert main(["fuzz", "EWFlag", "--examples", "30", "--seed", "5", "--replicas", "4"]) == 0
    printed = capsys.readouterr().out
    assert "EWFlag: 30 histories in" in printed
    assert "no complaint" in printed
    assert re.search(r"steps: .*merge \d+.*write \d+", printed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fuzz", "Bag"], "no type 'Bag' (hint: one of GCounter, "),
        (["fuzz", "no.such.module:Bag"], "cannot import 'no.such.module'"),
        (["fuzz", "collections:Bag"], "'collections' has no 'Bag'"),
        (["fuzz", "collections:Counter"], "crdt.testing.register(Counter, ...)"),
        (["fuzz", "ORSet", "--examples", "0"], "--examples 0 (hint: 1 to"),
        (["fuzz", "ORSet", "--replicas", "1"], "--replicas 1 (hint: 2 to"),
        (["fuzz", "ORSet", "--seed", "-1"], "--seed -1 (hint: a natural number)"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_answered_in_one_line(arguments, said, capsys):
    """Exit code 2, what is wrong, and how it would be right; no traceback."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1

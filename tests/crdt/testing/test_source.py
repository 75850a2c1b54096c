"""What is written down runs: arguments of any kind as source, regression tests, replay lines."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crdt import ORSet
from crdt.testing import Choice, HistoryError, fuzz, laws, register, run_histories
from crdt.testing.__main__ import main
from crdt.testing.source import Source, UnwritableError, replay_line
from tests.crdt.testing import awkward_types
from tests.crdt.testing.awkward_types import ARGUMENTS, FirstComer, Secret, SecretFirstComer
from tests.crdt.testing.planted_types import SlowClock
from tests.crdt.testing.wrong_sets import UnionSet

ROOT = Path(__file__).resolve().parents[3]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python as a user starts it, where this repository can be imported."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("argument", ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_an_argument_is_written_as_source_that_gives_an_equal_one(argument):
    """By name, by fields, by a repr that is a call, or pickled; with the imports that it needs."""
    source = Source()
    text = source.write(argument)
    names: dict[str, object] = {}
    exec(source.imports(), names)  # noqa: S102 - what was just written
    again = eval(text, names)  # noqa: S307 - as above
    assert again == argument
    assert type(again) is type(argument)


def test_two_classes_of_one_name_are_kept_apart():
    """The second one is imported under another name."""

    class Elsewhere:
        Room = type("Room", (), {"__module__": "elsewhere", "__qualname__": "Room"})

    sys.modules["elsewhere"] = Elsewhere
    try:
        source = Source()
        assert source.write([awkward_types.Room, Elsewhere.Room]) == "[Room, Room_2]"
        assert "from elsewhere import Room as Room_2" in source.imports()
    finally:
        del sys.modules["elsewhere"]


def test_what_cannot_be_imported_cannot_be_written():
    """Neither a class inside of a function nor what refuses to be pickled."""

    class Local:
        pass

    for value in (Local, Local(), Secret("x"), [lambda: 1]):
        with pytest.raises(UnwritableError):
            Source().write(value)
    assert replay_line(Local, "laws", "seed=1") == "laws(Local, seed=1)"


@pytest.mark.processes
@pytest.mark.parametrize("kind", [FirstComer, SecretFirstComer], ids=lambda kind: kind.__name__)
def test_a_regression_test_runs_and_fails_whatever_its_arguments_are(kind, tmp_path):
    """The shrunk history, or where that cannot be written, its seed and the reason."""
    outcome = fuzz(kind, examples=20, seed=0)
    written = outcome.regression_test()
    ast.parse(written)
    assert ("# The seed, and not the shrunk history" in written) is (kind is SecretFirstComer)
    path = tmp_path / "test_it.py"
    path.write_text(written, encoding="utf-8")
    failed = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    assert "1 failed" in failed.stdout, failed.stdout + failed.stderr
    assert "replicas differ" in failed.stdout


def test_a_type_inside_of_a_function_has_no_regression_test():
    """It could not be imported by one."""

    class Inside(UnionSet):
        pass

    register(Inside, Choice(1, "add", (lambda dice, size: "x",)), oracle=lambda _visible: {"no"})
    outcome = fuzz(Inside, examples=2, seed=0)
    assert outcome.script is not None
    with pytest.raises(ValueError, match="cannot be imported"):
        outcome.regression_test()


@pytest.mark.processes
@pytest.mark.parametrize("name", ["FirstComer", "SecretFirstComer"])
def test_the_replay_lines_that_the_command_prints_run_as_printed(name, tmp_path, capsys):
    """One for Python and one for the shell, from a folder that did not exist before."""
    folder = tmp_path / "of" / "findings"
    command = ["fuzz", f"tests.crdt.testing.awkward_types:{name}", "--out", str(folder)]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert {path.suffix for path in folder.iterdir()} == {".py", ".svg"}
    (line,) = re.findall(r"^replay: (.*)$", printed, re.MULTILINE)
    again = run(tmp_path, "-c", line)
    assert again.returncode == 1
    assert "HistoryError: replicas differ" in again.stderr
    (line,) = re.findall(r"^or: python (.*)$", printed, re.MULTILINE)
    again = run(tmp_path, *line.split(), "--out", str(tmp_path))
    assert again.returncode == 1
    assert f"{name}: wrong after 1 histories" in again.stdout


@pytest.mark.parametrize("kind", [SlowClock, UnionSet])
def test_a_failure_says_how_to_see_it_again(kind):
    """The line of a law and that of a history, both with what they import."""
    line = fuzz(kind, examples=40, seed=100).replay
    assert line.startswith("from tests.crdt.testing.")
    assert f"import {kind.__name__}; from crdt.testing import " in line
    with pytest.raises(AssertionError, match=r"does not read its own write|has to show"):
        exec(line, {})  # noqa: S102 - what was just printed


def test_the_lines_of_our_own_types_import_them_from_the_front_door(monkeypatch):
    """As a user would."""
    monkeypatch.setattr("crdt.testing.histories.History.complaint", lambda _run: "wrong")
    with pytest.raises(HistoryError, match=r"replay: from crdt import ORSet; from crdt\.testing"):
        run_histories(ORSet, seed=3, count=1)
    assert laws(ORSet, examples=1, seed=0)() is None


def test_a_place_where_no_folder_can_be_made_is_an_error_of_the_command_line(tmp_path, capsys):
    """A file is in the way: said before anything is searched for."""
    (tmp_path / "file").write_text("")
    assert main(["fuzz", "ORSet", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "cannot be made" in capsys.readouterr().err

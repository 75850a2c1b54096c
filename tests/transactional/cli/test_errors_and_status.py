"""What a program that calls the command line sees: JSON on both streams, and exit statuses."""

from __future__ import annotations

import json
import sys

import pytest

from transactional.__main__ import main


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path / 'store.db'}"


def told(capsys):
    """The lines of both streams, read as JSON."""
    streams = capsys.readouterr()
    return [[json.loads(line) for line in text.splitlines()] for text in streams]


def test_an_error_is_json_where_results_are(url, capsys):
    """Code, message, hint and what happened to the state; a file that is not there as well."""
    assert main(["get", "k", "--store", url, "-o", "json"]) == 1
    _, (error,) = told(capsys)
    assert (error["code"], error["applied"]) == ("not_found", False)
    assert {"message", "hint", "details"} <= error.keys()
    assert main(["cas", "k", "v", "--expected", "7", "--store", url, "-o", "json"]) == 1
    assert told(capsys)[1][0]["code"] == "conflict"
    assert main(["room", "show", "nobody", "--store", url, "-o", "json"]) == 1
    assert told(capsys)[1][0]["code"] == "not_found"


def test_a_backup_and_its_verdict_are_json_too(tmp_path, url, capsys):
    """`backup` and `verify` in the forms of all the others; problems are rows, then the error."""
    assert main(["put", "k", "v", "--store", url, "-o", "json"]) == 0
    told(capsys)
    file, copy = str(tmp_path / "store.db"), str(tmp_path / "copy.db")
    assert main(["backup", file, copy, "-o", "json"]) == 0
    (row,), _ = told(capsys)
    assert row["copy"] == copy
    assert row["sound"] is True
    assert main(["verify", copy, "-o", "json"]) == 0
    assert told(capsys)[0] == [{"file": copy, "sound": True}]
    (tmp_path / "junk.db").write_bytes(b"no database" * 1000)
    assert main(["verify", str(tmp_path / "junk.db"), "-o", "json"]) == 1
    _, (error,) = told(capsys)
    assert error["code"] == "corrupt"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("program", "status"),
    [("raise SystemExit(0)", 0), ("raise SystemExit(42)", 42)],
    ids=["success", "status"],
)
def test_a_program_under_a_lock_ends_the_command_as_it_ends(url, program, status):
    """The exit status is the program's own."""
    assert main(["lock", "deploy", "--store", url, "--", sys.executable, "-c", program]) == status


@pytest.mark.processes
def test_a_program_that_a_signal_ended_is_told_as_a_shell_tells_it(url):
    """128 and the signal's number; the lock is free afterwards."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert main(["lock", "deploy", "--store", url, "--", sys.executable, "-c", program]) == 143
    assert main(["lock", "deploy", "--wait", "0", "--store", url, "--", "true"]) == 0

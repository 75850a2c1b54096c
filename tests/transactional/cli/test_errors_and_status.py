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
    assert (error["code"], error["state"]) == ("not_found", "unchanged")
    assert error.keys() == {"code", "message", "state", "hint", "details"}
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


@pytest.mark.parametrize(
    ("command", "url", "instead"),
    [
        ("backup", "postgresql://u:hunter2@h/db", "pg_dump"),
        ("stats", "postgres://u:hunter2@h/db", "psql"),
        ("backup", "etcd://u:hunter2@h:2379/shop", "etcdctl snapshot save"),
        ("verify", "etcds://u:hunter2@h:2379/shop", "etcdctl endpoint hashkv"),
        ("stats", "etcd://u:hunter2@h:2379/shop", "etcdctl endpoint status"),
        ("verify", "https://h:7700?token=hunter2", "where it lives"),
        ("backup", "memory:", "ends with its process"),
        ("verify", "mysql://u:hunter2@h/db", "a URL"),
    ],
)
def test_what_is_done_to_files_is_done_otherwise_to_servers(
    command, url, instead, tmp_path, capsys
):
    """Refused with what does the same there, the URL's secrets untold and nothing made."""
    copy = [str(tmp_path / "copy.db")] if command == "backup" else []
    assert main([command, url, *copy, "-o", "json"]) == 1
    streams = capsys.readouterr()
    error = json.loads(streams.err)
    assert error["code"] == "invalid_request"
    assert instead in error["message"]
    assert "hunter2" not in streams.err + streams.out
    assert not list(tmp_path.iterdir())


def test_a_copy_is_not_made_on_a_server_either(tmp_path, url, capsys):
    """A URL in the place of the new file; and a file may be named as the store's URL names it."""
    assert main(["put", "k", "v", "--store", url]) == 0
    assert main(["backup", url, "postgresql://u:hunter2@h/db"]) == 1
    assert "hunter2" not in capsys.readouterr().err
    assert main(["backup", url, f"sqlite:{tmp_path / 'copy.db'}"]) == 0
    assert main(["verify", f"sqlite:{tmp_path / 'copy.db'}"]) == 0


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

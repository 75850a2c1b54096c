"""What is on disk is its owner's, copies overwrite nothing, screens obey nobody, secrets stay."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

import transactional as t
from replication import Agent
from replication.cli.command_line import main as replication_main
from replication.cli.command_line import shown
from replication.cli.logs import LineFormatter
from replication.errors import ReplicationError
from replication.journal import back_up
from replication.protocol.keyring import Keyring
from replication.transport import AdminClient
from transactional.cli import main as transactional_main
from transactional.server import Listen
from transactional.stores import backup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEERING = "\x1b]0;owned\x07\x1b[31m\nforged\tcell\r\x9b2J\u202egpj\u2028\x00\x7f"
OBEYED = set("\x1b\x07\r\x9b\u202e\u2028\x00\x7f")
SECRET = "TOP-SECRET-0123456789"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of a careless user, of most, and one that would take away even our own right to write."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


# --- files ---------------------------------------------------------------------------------------


async def test_what_is_made_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    """Journal, store, their logs, locks and copies: 0600 under every umask."""
    agent = Agent("ada", journal=tmp_path / "ada.db")
    store = await _store(tmp_path / "s.db")
    async with agent:
        agent.register("k").set("v")
        await agent.durable()
        await store.commit([], [t.Put("a", b"1")])
        made = {path.name: mode(path) for path in tmp_path.iterdir() if path.is_file()}
        assert {"ada.db", "ada.db.lock", "ada.db-wal", "s.db", "s.db-wal", "s.db-lock"} <= set(made)
        assert set(made.values()) == {0o600}
        backup(tmp_path / "s.db", tmp_path / "s.copy")
    await store.close()
    back_up(tmp_path / "ada.db", tmp_path / "ada.copy")
    left = {path.name: mode(path) for path in tmp_path.iterdir()}
    assert {"ada.copy", "s.copy"} <= set(left)
    assert set(left.values()) == {0o600}
    assert {name for name in left if "." in name[:1] or name.endswith("part")} == set()


async def _store(path: Path) -> t.Store:
    return await t.connect(f"sqlite:{path}")


async def test_a_file_that_somebody_widened_stays_so(tmp_path: Path) -> None:
    """Whoever let a group read a store had a reason; its copies are private again."""
    path = tmp_path / "s.db"
    await (await _store(path)).close()
    path.chmod(0o640)
    await (await _store(path)).close()
    assert mode(path) == 0o640
    backup(path, tmp_path / "copy.db")
    assert mode(tmp_path / "copy.db") == 0o600


@pytest.mark.parametrize("kind", ["file", "empty", "dangling", "link", "directory", "fifo"])
@pytest.mark.parametrize("what", ["journal", "store"])
async def test_a_copy_overwrites_nothing_and_follows_no_link(
    tmp_path: Path, what: str, kind: str
) -> None:
    """Whatever stands under the name is left as it was, and so is what a link points to."""
    source, target, victim = tmp_path / "source.db", tmp_path / "target.db", tmp_path / "victim"
    if what == "journal":
        async with Agent("ada", journal=source) as agent:
            agent.register("k").set("v")
    else:
        await (await _store(source)).close()
    match kind:
        case "file":
            target.write_bytes(b"precious")
        case "empty":
            target.touch()
        case "dangling":
            target.symlink_to(victim)
        case "link":
            victim.write_bytes(b"precious")
            target.symlink_to(victim)
        case "directory":
            target.mkdir()
        case "fifo":
            os.mkfifo(target)
    before = target.lstat()
    with pytest.raises((ReplicationError, t.TransactionalError), match="exists"):
        _copy(what, source, target)
    after = target.lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )
    assert victim.exists() == (kind == "link")
    if kind == "link":
        assert victim.read_bytes() == b"precious"


def _copy(what: str, source: Path, target: Path) -> None:
    if what == "journal":
        back_up(source, target)
    else:
        backup(source, target)


@pytest.mark.parametrize("what", ["journal", "store"])
async def test_no_name_beside_a_copy_is_a_trap(tmp_path: Path, what: str) -> None:
    """What somebody laid under the names that a copy might use meanwhile is not followed."""
    source, victim = tmp_path / "source.db", tmp_path / "victim"
    if what == "journal":
        async with Agent("ada", journal=source) as agent:
            agent.register("k").set("v")
    else:
        await (await _store(source)).close()
    for suffix in (".part", ".part-wal", ".part-journal", ".tmp"):
        (tmp_path / f"target.db{suffix}").symlink_to(victim)
    _copy(what, source, tmp_path / "target.db")
    assert not victim.exists()
    assert (tmp_path / "target.db").stat().st_nlink == 1


# --- screens -------------------------------------------------------------------------------------


def _is_harmless(text: str, lines: int | None = None) -> None:
    assert not OBEYED & set(text), repr(text)
    if lines is not None:
        assert len(text.splitlines()) == lines, repr(text)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
def test_a_store_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """Values in every form, an error that quotes its key, and the name of a file."""
    url = f"sqlite:{tmp_path / 's.db'}"
    assert transactional_main(["put", "k\u202ekey", STEERING, "--store", url]) == 0
    capsys.readouterr()
    for verb in (["get", "k\u202ekey"], ["scan"], ["watch", "--after", "0", "--count", "1"]):
        assert transactional_main([*verb, "--store", url, "-o", form]) == 0
        out = capsys.readouterr().out
        _is_harmless(out, 1 + (form == "table"))
        if form == "plain":
            assert "forged\\tcell" in out
        if form == "json":
            assert json.loads(out)["value"] == STEERING
    for verb in (["get", STEERING], ["cas", "k\u202ekey", "x", "--expected", "7"]):
        assert transactional_main([*verb, "--store", url, "-o", form]) == 1
        _is_harmless(capsys.readouterr().err, 1)
    assert transactional_main(["verify", str(tmp_path / STEERING.replace("\x00", "")), "-o", form])
    _is_harmless(capsys.readouterr().err, 1)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
def test_an_agent_steers_no_terminal(form: str) -> None:
    """A value, a list, a status, and a table whose cells come from other agents."""
    for answer, lines in (
        (STEERING, 1),
        ([STEERING, STEERING], 2),
        ({"a": 1, STEERING: STEERING}, 2),
        ([{"id": STEERING, "address": STEERING}, {"id": "a", "address": "b"}], 3),
    ):
        text = shown(answer, form)
        if form == "json":
            _is_harmless(text, 1)
            assert json.loads(text) == answer
        else:
            headless = form == "plain" and isinstance(answer, list) and isinstance(answer[0], dict)
            _is_harmless(text, lines - headless)


def test_errors_of_the_agents_command_steer_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A path, an address and a value come back in an error, on one line."""
    for arguments in (["doctor", STEERING.replace("\x00", "")], ["set", "k", STEERING, "--json"]):
        more = ["--peer", "127.0.0.1:9"] if arguments[0] == "set" else []
        assert replication_main([*arguments, *more]) == 1
        _is_harmless(capsys.readouterr().err, 1)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_line_stays_a_line(form: str) -> None:
    """Facts, the event itself and an error's text."""
    record = logging.LogRecord("replication", 30, "", 0, STEERING, (), None)
    record.facts = {"member": STEERING, "count": 1}
    try:
        raise ValueError(STEERING)
    except ValueError:
        record.exc_info = sys.exc_info()
    line = LineFormatter(form).format(record)
    _is_harmless(line, 1)
    if form == "json":
        assert json.loads(line)["member"] == STEERING


# --- secrets -------------------------------------------------------------------------------------


def test_no_repr_shows_a_secret() -> None:
    """Of whatever holds one: tracebacks with locals and debuggers print reprs."""
    key = SECRET.encode()
    for holder in (
        Keyring((key,)),
        Keyring(own=(key,)),
        Keyring(principals={"leaf": (key,)}),
        AdminClient("127.0.0.1:9", (key,)),
        Listen(token=SECRET),
        Agent("ada", secret=SECRET),
    ):
        assert SECRET not in repr(holder)
        assert SECRET not in str(holder)


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:1?token={SECRET}",
        f"http://:0?token={SECRET}",
        f"https://127.0.0.1:99999?token={SECRET}",
        f"htp://x?token={SECRET}",
        f"{SECRET}",
        f"http://user:{SECRET}@127.0.0.1:1",
        f"http://user:{SECRET}@127.0.0.1:1?token={SECRET}",
        f"http://{SECRET}@127.0.0.1:1",
        f"http://[{SECRET}?token={SECRET}",
        f"sqlite:/no/such/folder?token={SECRET}",
        f"memory:?token={SECRET}",
    ],
    ids=range(11),
)
def test_no_error_of_a_url_tells_its_secret(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is typed, whatever is wrong with the URL; neither its text, its notes nor the command."""

    async def opened() -> None:
        async with t.open(url):
            pass

    with pytest.raises(t.TransactionalError) as caught:
        asyncio.run(opened())
    assert SECRET not in str(caught.value)
    assert f"'{SECRET}" not in "".join(traceback.format_exception(caught.value, chain=True))
    assert transactional_main(["get", "a", "--store", url]) in {1, 3}
    assert SECRET not in capsys.readouterr().err


def test_no_command_line_holds_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--store with a token is refused and says what to use; in the environment it is as before."""
    url = f"http://127.0.0.1:9?token={SECRET}"
    assert transactional_main(["get", "a", "--store", url]) == 1
    said = capsys.readouterr().err
    assert "--token-file" in said
    assert SECRET not in said
    monkeypatch.setenv("CONVOCA_STORE", url)
    assert transactional_main(["get", "a"]) == 3
    assert SECRET not in capsys.readouterr().err


def test_help_does_not_tell_what_the_environment_holds() -> None:
    """`--help` names the variable, not what is in it; nor does any option take a secret itself."""
    environment = os.environ | {
        "CONVOCA_STORE": f"http://h:1?token={SECRET}%(prog)s%",
        "CONVOCA_TOKEN": SECRET,
        "CONVOCA_SECRET": SECRET,
    }
    for module, verb in (
        ("transactional", "get"),
        ("transactional", "serve"),
        ("replication", "up"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, verb, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert SECRET not in done.stdout + done.stderr
        for option in ("--token ", "--secret ", "--key ", "token="):
            assert option not in done.stdout


def test_the_secret_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """CONVOCA_SECRET is what a --secret-file would hold; one that is too short is refused."""
    monkeypatch.setenv("CONVOCA_SECRET", "short")
    assert replication_main(["status", "--peer", "127.0.0.1:9"]) == 1
    assert "a secret has at least" in capsys.readouterr().err
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert replication_main(["status", "--peer", "127.0.0.1:9", "--secret-file", str(file)]) == 3
    assert "a secret has" not in capsys.readouterr().err

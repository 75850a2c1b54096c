"""The command as a suspicious stranger uses it: odd outputs, odd locales, files that are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import convoca
from convoca.cli.screen import CLOSED
from replication.errors import ConfigError
from replication.transport import AdminClient
from tests.convoca.test_command import say, until

if TYPE_CHECKING:
    from tests.convoca.test_command import Say

__all__ = ["say"]
FULL = Path("/dev/full")
SAYING = [["convoca", "completion", "zsh"], ["transactional", "token"], ["replication", "--help"]]
"""Commands that ask nobody; the last is said by argparse, which takes no notice of an error."""


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}
    return subprocess.run([sys.executable, "-m", *words], check=False, **(given | options))


@pytest.mark.processes
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", SAYING, ids=" ".join)
def test_an_output_that_is_closed_early_is_no_error(words: list[str], unbuffered: str) -> None:
    """As by `| head -1`: nothing on stderr, and the status of a program that SIGPIPE ended."""
    read, write = os.pipe()
    os.close(read)
    try:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = run(words, stdout=write, env=environment)
    finally:
        os.close(write)
    ignored = unbuffered and words[-1] == "--help"
    assert (done.returncode, done.stderr) == (0 if ignored else CLOSED, b"")


@pytest.mark.processes
async def test_whoever_watches_until_he_has_seen_enough_sees_no_error() -> None:
    """The first line is read and the pipe closed: the next change ends the command."""
    async with convoca.join("ann") as ann:
        watching = subprocess.Popen(
            [sys.executable, "-m", "convoca", "watch", "--peer", ann.agent.address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert watching.stdout is not None
        assert watching.stderr is not None
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(None, watching.stdout.readline)
        while not first.done():
            ann.counter("n").increment()
            await asyncio.sleep(0.05)
        assert b"PNCounter" in await first
        watching.stdout.close()
        ended = loop.run_in_executor(None, watching.wait, 20)
        while not ended.done():
            ann.counter("n").increment()
            await asyncio.sleep(0.05)
        assert (await ended, watching.stderr.read()) == (CLOSED, b"")
        watching.stderr.close()


@pytest.mark.processes
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", SAYING, ids=" ".join)
def test_a_disk_that_is_full_is_one_line_and_a_status(words: list[str]) -> None:
    """And no complaint of the interpreter about it at its end."""
    with FULL.open("wb") as full:
        done = run(words, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": ""})
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"No space left" in done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_that_an_output_has_no_bytes_for_is_written_as_json_does(
    tmp_path: Path, encoding: str
) -> None:
    """JSON stays JSON, with the same value; a table shows the escape."""
    file = ["--store", f"sqlite:{tmp_path / 'a.db'}"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    put = ["transactional", "queue", "put", "q", "j", r'"Gr\u00fc\u00dfe \u2602"', *file]
    for words in (put, ["convoca", "queue", "show", "q", "j", *file]):
        done = run([*words, "-o", "json"], env=environment)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.decode(encoding))["payload"]
        assert (json.loads(told) if words is put else told) == "Grüße ☂"
    table = run(["convoca", "queue", "show", "q", "j", *file], env=environment)
    assert table.returncode == 0, table.stderr
    assert ("☂" if encoding == "utf-8" else r"\u2602") in table.stdout.decode(encoding)


async def test_a_name_that_is_not_text_is_refused_and_not_shortened() -> None:
    """A URL is made without halves of characters: the document `n` would have been shown."""
    async with convoca.join("ann") as ann:
        ann.counter("n").increment()
        client = AdminClient(ann.agent.address)
        for path in ("/documents", "/explain"):
            with pytest.raises(ConfigError, match="not text"):
                await client.get(path, name="n\udcc3")
        with pytest.raises(ConfigError, match="not text"):
            await anext(client.changes("n\udcc3"))


async def test_a_file_of_secrets_that_is_wrong_is_told(say: Say, tmp_path: Path) -> None:
    """No text, too short, not there: an error of one line. Readable by everybody: a note."""
    async with convoca.join("ann"):
        for content, words in ((b"\xff\xfe", "holds no text"), (b"short", "8 bytes")):
            (tmp_path / "secret").write_bytes(content)
            status, _, err = await say("get", "x", "--secret-file", str(tmp_path / "secret"))
            assert (status, words in err, "Traceback" in err) == (1, True, False)
        status, _, err = await say("get", "x", "--secret-file", str(tmp_path / "nothing"))
        assert (status, "No such file" in err) == (1, True)
    (tmp_path / "secret").write_text("a secret of the team")
    (tmp_path / "secret").chmod(0o644)
    async with convoca.join("ann", secret="a secret of the team") as ann:
        ann.register("x").set(1)
        words = ("get", "x", "--secret-file", str(tmp_path / "secret"))
        status, out, err = await say(*words)
        assert (status, out, "everybody here can read" in err) == (0, "1", True)
        (tmp_path / "secret").chmod(0o600)
        assert "can read" not in (await say(*words))[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["get", "x", "--peer", "http://127.0.0.1:9"], "leave out the scheme"),
        (["get", "x", "--peer", "127.0.0.1"], "'127.0.0.1' is no HOST:PORT"),
        (["get", "x", "--peer", "127.0.0.1:9"], "Connection refused"),
        (
            ["queue", "list", "q", "--store", "http://127.0.0.1:9"],
            "9: Connection refused",
        ),
        (["queue", "claim", "q", "--store", "memory:", "--", "true"], "--wait SECONDS"),
        (["room", "free", "r", "2030-03-01T09:00", "2030-03-02T09:00"], "2030-03-01T09:00Z"),
        (["-o", "json", "get", "x"], "behind the verb"),
    ],
    ids=["scheme", "no-port", "nobody", "no-store", "no-job", "no-offset", "option-first"],
)
async def test_what_was_wrong_is_said_in_words_of_the_command(
    say: Say, words: list[str], told: str
) -> None:
    """Whoever types it is told what to type instead, for both halves."""
    status, _, err = await say(*words)
    assert (status != 0, told in err) == (True, True), err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["get", "nothing"], "unknown_document"),
        (["explain", "nothing"], "unknown_document"),
        (["cut", "zoe"], "unknown_peer"),
        (["retire", "bob"], "member_alive"),
        (["inc", "n", "1.5"], "config"),
        (["set", "n", "x", "--secret-file", "SECRET"], "order_refused"),
        (["get", "--peer", "zoe"], "no_member"),
        (["partition", "ann", "/", "zoe"], "no_member"),
        (["partition", "ann"], "partition"),
        (["journal", "backup", "no.db", "copy.db"], "journal_unreadable"),
        (["store", "verify", "no.db"], "invalid_request"),
        (["room", "book", "r", "nine", "ten", "--holder", "ann"], "invalid_time"),
        (["queue", "done", "q", "j", "--claim", "x", "--store", "memory:"], "invalid_request"),
        (["lock", "l", "--store", "sqlite:no/no.db", "--", "true"], "invalid_request"),
        (["serve", "t.db", "--listen", "nowhere"], "invalid_request"),
        (["queue", "put", "q", "j", "--token-file", "no"], "os"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else value,
)
async def test_a_program_is_told_what_was_met_by_whoever_met_it(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: str
) -> None:
    """One object on stderr and nothing else, with the code of the error, also of another process.

    Counterexample: what an agent refused was `order_refused` whatever it had met, and a file of a
    secret that others can read put a line of text before the object.
    """
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("of another team, and long enough")
    secret.chmod(0o644)
    words = [str(secret) if word == "SECRET" else word for word in words]
    at = words.index("--") if "--" in words else len(words)
    async with convoca.join("ann") as ann, convoca.join("bob") as bob:
        await until(lambda: bool(ann.agent.members() and bob.agent.members()))
        status, out, err = await say(*words[:at], "-o", "json", *words[at:])
    told = json.loads(err)
    assert (told["code"], told["state"], out) == (code, "unchanged", "")
    assert told.keys() == {"code", "message", "state", "hint", "details"}
    assert status in {1, 3}


async def test_the_doctor_says_who_answered_and_none_is_a_dash(say: Say) -> None:
    """Every answer says who gave it; where there is no journal nothing is durable."""
    async with convoca.join("ann") as ann:
        ann.register("x").set(1)
        assert f"answered by {ann.agent.id}" in (await say("doctor"))[2]
        told = json.loads((await say("explain", "x", "-o", "json"))[1])
        assert [row["durable here"] for row in told["answer"]] == ["-"]
        assert "None" not in (await say("members"))[1]

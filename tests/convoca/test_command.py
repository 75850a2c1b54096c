"""The command: verbs of both halves under one roof, said to whom, answered by whom."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import convoca
import transactional as t
from convoca.cli import main
from convoca.cli.completion import SCRIPTS, candidates
from convoca.cli.main import parser
from convoca.cli.partition import parts_of
from convoca.discovery import Whereabouts
from convoca.errors import PartitionError
from crdt import LWWRegister
from replication import Agent
from replication.cli import doctor
from tests.convoca.test_join import until
from tests.ports import free_ports
from transactional.server import Authority, Listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Say = Callable[..., Awaitable[tuple[int, str, str]]]

Said = tuple[int, str, str]
SECRET = "a secret of the team"


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Run the command in a thread with a loop of its own: (status, stdout, stderr)."""

    async def said(*words: str) -> Said:
        def run() -> int:
            try:
                return main(words)
            except SystemExit as end:
                return int(end.code or 0)

        status = await asyncio.to_thread(run)
        out, err = capfd.readouterr()
        return status, out.strip(), err.strip()

    return said


async def test_any_member_on_this_host_is_asked_and_says_who_it_is(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No address is typed: a value is set, and read from another one, by its name."""
    monkeypatch.setattr(doctor, "LOOP_LAG_S", 60.0)  # the members' loop loads the command here
    async with convoca.join("ann") as ann, convoca.join("bob") as bob:
        status, out, err = await say("set", "order/42", "paid")
        assert (status, out) == (0, "")
        assert f"answered by {ann.agent.id}" in err
        await until(lambda: bob.register("order/42").value == "paid")
        status, out, err = await say("get", "order/42", "--peer", "bob")
        assert (status, out, err) == (0, "paid", f"answered by {bob.agent.id}")
        status, out, err = await say("get", "order/42", "-o", "json", "--peer", "bob")
        assert json.loads(out) == {"by": bob.agent.id, "answer": "paid"}
        assert err == ""
        status, out, _ = await say("members", "-o", "json", "--peer", ann.agent.address)
        rows = json.loads(out)["answer"]
        assert [row["id"] for row in rows] == [ann.agent.id, bob.agent.id]
        assert (await say("diff", "ann", "bob"))[1] == "equal"
        status, out, err = await say("doctor")
        assert status == 0, out + err


async def test_the_environment_says_whom_to_ask(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """$CONVOCA_PEER, and an argument that says otherwise."""
    async with convoca.join("ann"), convoca.join("bob") as bob, Agent("hub") as hub:
        monkeypatch.setenv("CONVOCA_PEER", "bob")
        assert bob.agent.id in (await say("get"))[2]
        assert hub.id in (await say("get", "--peer", hub.address))[2]
        monkeypatch.setenv("CONVOCA_PEER", hub.address)
        assert hub.id in (await say("get"))[2]


@pytest.mark.parametrize("how", ["CONVOCA_SECRET_FILE", "--secret-file", "CONVOCA_SECRET"])
async def test_a_secret_comes_from_a_file_or_the_environment(
    say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Never from an argument; without it the member refuses, and says what to pass."""
    place = tmp_path / "secret"
    place.write_text(SECRET)
    words: list[str] = []
    async with convoca.join("ann", secret=SECRET) as ann:
        ann.counter("c").increment()
        status, _, err = await say("get", "c")
        assert (status, "--secret-file" in err) == (1, True)
        if how.startswith("--"):
            words = [how, str(place)]
        else:
            monkeypatch.setenv(how, SECRET if how == "CONVOCA_SECRET" else str(place))
        assert (await say("get", "c", *words))[:2] == (0, "1")


async def test_whom_to_ask_is_told_where_it_cannot_be_guessed(say: Say) -> None:
    """Nobody here, nobody of that name, several teams: a status, and what to say instead."""
    status, _, err = await say("get", "x")
    assert (status, "convoca up" in err) == (3, True)
    async with convoca.join("ann"), convoca.join("bob", team="orders") as bob:
        status, _, err = await say("get", "--peer", "zoe")
        assert (status, "ann, bob" in err) == (3, True)
        status, _, err = await say("get")
        assert (status, "--team" in err, "orders" in err) == (3, True, True)
        assert (await say("get", "--team", "orders"))[2] == f"answered by {bob.agent.id}"


async def test_watch_prints_values(tmp_path: Path) -> None:
    """What a document reads now; of a set or map what changed; a long value is cut, and says so."""
    async with convoca.join("ann") as ann:
        command = [sys.executable, "-m", "convoca", "watch", "-o", "json"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            lines: asyncio.Queue[dict[str, object]] = asyncio.Queue()

            async def read() -> None:
                assert process.stdout is not None
                async for line in process.stdout:
                    lines.put_nowait(json.loads(line))

            reading = asyncio.create_task(read())
            begun = ann.counter("begun")
            async with asyncio.timeout(30):
                while lines.empty():  # it takes a while until it watches
                    begun.increment()
                    await asyncio.sleep(0.05)
                while (await lines.get())["value"] != begun.value:
                    pass
                ann.register("order").set("paid")
                line = await lines.get()
                assert (line["name"], line["value"], line["cut"]) == ("order", "paid", False)
                assert line["by"] == ann.agent.id
                ann.set("tags").add("a")
                assert (await lines.get())["value"] == {"added": ["a"], "removed": []}
                ann.set("tags").remove("a")
                assert (await lines.get())["value"] == {"added": [], "removed": ["a"]}
                ann.map("m").child("k", LWWRegister).set(7)
                assert (await lines.get())["value"] == {"k": 7}
                ann.register("long").set("x" * 5000)
                line = await lines.get()
                assert (line["value"], line["cut"]) == (None, True)
        finally:
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            await reading


# --- partition and heal --------------------------------------------------------------------------


async def test_a_team_is_cut_into_parts_and_heals(say: Say) -> None:
    """Two parts diverge, a third member outside is told of, and one command makes all equal."""
    async with (
        convoca.join("ann") as ann,
        convoca.join("bob") as bob,
        convoca.join("cyd") as cyd,
    ):
        await until(lambda: all(len(m.agent.members()) == 2 for m in (ann, bob, cyd)))
        status, out, _ = await say("partition", "ann,", "bob", "/", "cyd")
        assert (status, "nobody" in out) == (0, False)
        assert [sorted(m.agent.blocked()) for m in (ann, bob, cyd)] == [
            ["cyd"],
            ["cyd"],
            ["ann", "bob"],
        ]
        ann.register("r").set("left")
        cyd.register("r").set("right")
        await until(lambda: bob.register("r").value == "left")
        assert cyd.register("r").value == "right"
        status, out, _ = await say("heal", "-o", "json")
        assert status == 0
        healed = {row["member"]: row["heal"] for row in json.loads(out)["answer"]}
        assert healed == {"ann": "cyd", "bob": "cyd", "cyd": "ann, bob"}
        assert not any(m.agent.blocked() for m in (ann, bob, cyd))
        await until(lambda: len({m.register("r").value for m in (ann, bob, cyd)}) == 1)
        assert (await say("heal"))[1] == "nothing was cut"
        status, out, _ = await say("partition", "ann/bob")
        assert "cyd" in out.splitlines()[-1]
        assert "reaches every part" in out.splitlines()[-1]


async def test_a_partition_of_somebody_unknown_cuts_nobody(say: Say) -> None:
    """All names are found before anybody is told."""
    async with convoca.join("ann") as ann, convoca.join("bob") as bob:
        await until(lambda: bool(ann.agent.members()))
        status, _, err = await say("partition", "ann", "/", "bob,zoe")
        assert (status, "zoe" in err, "nothing was cut" in err) == (3, True, True)
        assert ann.agent.blocked() == bob.agent.blocked() == []


@pytest.mark.parametrize("words", [["a"], ["a", "/"], ["/", "a"], ["a,b/b"], ["a/b//c"], [","]])
def test_parts_that_make_no_sense_are_refused(words: list[str]) -> None:
    """One part, an empty one, or a name that stands twice."""
    with pytest.raises(PartitionError):
        parts_of(words)


def test_parts_are_read_with_commas_and_spaces() -> None:
    """As people type them."""
    assert parts_of(["ada,bob", "/", "cyd", "dee"]) == [["ada", "bob"], ["cyd", "dee"]]
    assert parts_of(["ada/bob/cyd"]) == [["ada"], ["bob"], ["cyd"]]


# --- the eager half ------------------------------------------------------------------------------


@pytest.fixture
async def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Authority]:
    """One that $CONVOCA_STORE names."""
    store = await t.connect(f"sqlite:{tmp_path / 'team.db'}")
    served = Authority(store, Listen("127.0.0.1", 0))
    await served.start()
    monkeypatch.setenv("CONVOCA_STORE", served.url)
    yield served
    await served.stop()


SLOT = ["2026-03-01T09:00Z", "2026-03-01T10:00Z"]


async def test_a_room_is_booked_and_a_job_is_claimed(say: Say, authority: Authority) -> None:
    """Each answer says which store gave it: on stderr for people, in `by` for programs."""
    status, out, err = await say("room", "book", "turing", *SLOT, "--holder", "ann", "-o", "json")
    booked = json.loads(out)
    assert (status, booked["holder"], err) == (0, "ann", "")
    assert authority.url in booked["by"]
    status, out, err = await say("room", "agenda", "turing")
    assert booked["id"] in out, "what must be pasted elsewhere is not cut short"
    assert f"answered by {authority.url}" in err
    status, _, err = await say("room", "book", "turing", *SLOT, "--holder", "bob", "-o", "json")
    refused = json.loads(err)
    assert (status, refused["code"], refused["state"]) == (1, "booking_conflict", "unchanged")
    assert (await say("queue", "put", "tickets", "T-1", "{}"))[0] == 0
    status, out, _ = await say("queue", "claim", "tickets")
    claim = json.loads(out)
    assert (claim["id"], authority.url in claim["by"]) == ("T-1", True)
    assert (await say("queue", "done", "tickets", "T-1", "--claim", claim["claim"]))[0] == 0
    assert (await say("store", "put", "k", "v"))[0] == 0
    status, out, _ = await say("store", "get", "k", "-o", "json")
    assert (status, json.loads(out)["value"]) == (0, "v")


async def test_a_store_out_of_reach_says_how_to_start_one(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address was nobody's choice, so the hint is to serve a file, or to say where."""
    (port,) = free_ports(1)
    monkeypatch.setattr("transactional.cli.command.DEFAULT_STORE", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("convoca.cli.store.DEFAULT_STORE", f"http://127.0.0.1:{port}")
    status, _, err = await say("queue", "list", "q")
    assert (status, "convoca serve" in err) == (3, True)


@pytest.mark.processes
def test_up_and_serve_tell_programs_where_they_are(tmp_path: Path) -> None:
    """One line of JSON each; a signal ends them in good order; the member has the store."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "convoca"]
    serve = [*command, "serve", "team.db", "--listen", f"127.0.0.1:{port}", "-o", "json"]
    up = [*command, "up", "ann", "--store", f"http://127.0.0.1:{port}", "-o", "json"]
    running = []
    try:
        for words in (serve, up):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=tmp_path)
            running.append(process)
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            assert "url" in facts if words is serve else facts["team"] == "convoca"
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            process.stdout.close()


# --- usage, completion, demos --------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["gte", "-o", "json"], ["get", "--nope", "-o", "json"], ["up", "--output=json"]]
)
async def test_a_command_line_that_makes_no_sense_is_told_in_the_form_that_was_asked_for(
    say: Say, words: list[str]
) -> None:
    """Status 2; JSON for programs."""
    status, out, err = await say(*words)
    assert (status, out) == (2, "")
    assert json.loads(err)["code"] == "usage"


async def test_every_verb_has_help_and_no_option_takes_a_secret(say: Say) -> None:
    """What a process was started with is for all eyes."""
    top = parser()
    (choices,) = [a.choices for a in top._actions if a.choices and "up" in a.choices]
    for verb in choices:
        if verb not in {"complete", "demo"}:
            status, out, _ = await say(verb, "--help")
            assert (status, "usage: convoca" in out) == (0, True)
            assert "--secret " not in out
            assert "--token " not in out


COMPLETED = [
    (["g"], ["get"]),
    (["room", "bo"], ["book"]),
    (["queue", "cl"], ["claim"]),
    (["store", "sc"], ["scan"]),
    (["up", "ann", "--tea"], ["--team"]),
    (["get", "--output", "j"], ["json"]),
    (["get", "x", "-o", "pl"], ["plain"]),
    (["get", "--peer", ""], ["ann", "bob"]),
    (["diff", "ann", "b"], ["bob"]),
    (["get", "--team", "o"], ["orders"]),
    (["completion", "z"], ["zsh"]),
    (["lock", "name", "--", "gr"], []),
    (["nothing", "x"], []),
    (["up", ""], []),
]


@pytest.mark.parametrize(("words", "found"), COMPLETED, ids=lambda value: "-".join(value) or "none")
def test_what_may_stand_next_is_offered(words: list[str], found: list[str]) -> None:
    """Verbs, options, their choices; names of members and teams on this host."""
    for name in ("ann", "bob"):
        Whereabouts("orders", name).claim("127.0.0.1:7001", f"{name}~1")
    assert candidates(parser(), words) == found


def test_a_verb_of_shells_is_offered_to_nobody() -> None:
    """`complete` is called, and not typed."""
    assert "complete" not in candidates(parser(), [""])
    assert "completion" in candidates(parser(), [""])


@pytest.mark.processes
def test_a_real_bash_completes(tmp_path: Path) -> None:
    """The script as it is generated, sourced by bash, asked as bash asks on a tab."""
    Whereabouts("orders", "ann").claim("127.0.0.1:7001", "ann~1")
    program = tmp_path / "convoca"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m convoca "$@"\n')
    program.chmod(0o755)
    script = f"""
{SCRIPTS["bash"]}
complete -p convoca
tab() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _convoca; echo "${{COMPREPLY[@]}}"; }}
tab convoca par
tab convoca get --peer ''
tab convoca room "bo"
"""
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    registered, *found = done.stdout.splitlines()
    assert "-F _convoca convoca" in registered
    assert found == ["partition", "ann", "book"]


ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'autoload -U compinit; compinit -D -u; source {script}; print load''ed'
while zpty -r z line; do [[ $line == *loaded* ]] && break; done
zpty -w -n z $'{typed}\t'
repeat 200; do
    zpty -r -t z line && print -rn -- $line
    [[ $line == *{wanted}* ]] && break
    sleep 0.05
done
zpty -d z
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("convoca par", "partition"), ("convoca room bo", "book"), ("convoca get --peer a", "ann")],
)
@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_a_real_fish_and_a_real_zsh_complete(
    tmp_path: Path, shell: str, typed: str, wanted: str
) -> None:
    """The script as it is generated: fish is asked what a tab offers, zsh is given one."""
    if shutil.which(shell) is None:
        reason = f"engine {shell}: not installed; it comes with: apt-get install {shell}"
        if shell in os.environ.get("CONVOCA_REQUIRE", "").split(","):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    Whereabouts("orders", "ann").claim("127.0.0.1:7001", "ann~1")
    program = tmp_path / "convoca"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m convoca "$@"\n')
    program.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    asked = ["--no-config", "-c", f"source {script}; complete -C '{typed}'"]
    if shell == "zsh":
        asked = ["-f", "-c", ZSH.format(script=script, typed=typed, wanted=wanted)]
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "xterm",
    }  # fmt: skip
    done = subprocess.run(
        [shell, *asked], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    offered = done.stdout.split() if shell == "fish" else done.stdout
    assert wanted in offered, done.stdout + done.stderr


@pytest.mark.processes
def test_a_demo_is_run_from_a_checkout(tmp_path: Path) -> None:
    """Without a name they are listed; where none are installed that is said."""
    command = [sys.executable, "-m", "convoca", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "meetings" in done.stdout + done.stderr

"""What a verb loads: the half that it asks, and no sockets where there is nobody to ask."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from convoca.cli.verbs import ROOMS
from replication.cli import ASKING, DOCTOR
from transactional.cli import COMMANDS

NOBODY = "127.0.0.1:9"
TIMES = ("2030-03-01T09:00Z", "2030-03-01T10:00Z")
STORE = ("--store", f"http://{NOBODY}")
SERVERS = ["aiohttp.web", "sqlite3"]
LIGHT = ["aiohttp", "crdt", "replication", "transactional", "asyncio", "rich", "ssl"]
OF_A_MEMBER = ["transactional", "replication.agent", "replication.journal", "rich", *SERVERS]
OF_A_STORE = ["replication", "transactional.blocking", "transactional.queues", "rich", *SERVERS]


@pytest.mark.parametrize(
    ("words", "status", "absent"),
    [
        (["--help"], 0, LIGHT),
        (["--version"], 0, LIGHT),
        (["completion", "zsh"], 0, LIGHT),
        (["complete", "--", "g"], 0, LIGHT),
        (["get", "--help"], 0, ["aiohttp", *OF_A_MEMBER]),
        (["get", "x", "--peer", NOBODY], 3, OF_A_MEMBER),
        (["watch", "--peer", NOBODY], 3, OF_A_MEMBER),
        (["doctor", "--peer", NOBODY], 3, OF_A_MEMBER),
        (["diff", NOBODY, NOBODY], 3, OF_A_MEMBER),
        (["partition", "a", "/", "b", "--peer", NOBODY], 3, OF_A_MEMBER),
        (["room", "free", "turing", *TIMES, *STORE], 3, OF_A_STORE),
        (["lock", "a", *STORE, "--", "true"], 3, [*OF_A_STORE, "transactional.reservations"]),
        (["log", "read", "a", *STORE], 3, [*OF_A_STORE, "transactional.reservations"]),
        (["store", "get", "a", *STORE], 3, [*OF_A_STORE, "transactional.reservations"]),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_verb_loads_what_it_needs(words: list[str], status: int, absent: list[str]) -> None:
    """Counted in the modules of a fresh process; whether anybody answers is another question."""
    program = (
        "import sys; from convoca.cli import main\n"
        f"try: status = main({words})\n"
        "except SystemExit as end: status = end.code or 0\n"
        f"print(status, *(m for m in {absent} if m in sys.modules))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONVOCA")}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines()[-1].split() == [str(status)], run.stderr


def test_the_list_of_verbs_says_what_the_halves_say() -> None:
    """It stands beside them so that a list loads neither."""
    of_stores = {command.name: command.help for command in COMMANDS}
    of_members = {**ASKING, "doctor": DOCTOR}
    assert ROOMS["store"].items() - of_stores.items() == {("store", ROOMS["store"]["store"])}
    assert of_members.keys() - ROOMS["lazy"].keys() == {"heal"}
    assert {v: t for v, t in ROOMS["lazy"].items() if v in of_members} == {
        verb: text for verb, text in of_members.items() if verb != "heal"
    }

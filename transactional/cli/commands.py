"""The commands of ``python -m transactional``: what each is for, and where it is.

Theory of operation.  A command line runs one command and lists the others.  So a room of this wing,
and the recipe that it needs, is loaded for the command that was chosen; the others are names and
texts of this table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from transactional.cli.screen import EXAMPLE, Parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence


class Listed(NamedTuple):
    """A command as it is listed; its arguments and what it does are in a room of this wing."""

    name: str
    help: str
    room: str
    example: str | None = None
    """What may stand behind it; None if it has verbs with examples of their own."""


LOCK: Final = "nightly -- ./backup.sh"
OP_ID: Final = "order-42-paid"
BENCH: Final = "--callers 16 --seconds 5"
FILE: Final = "team.db"
COMMANDS: Final = (
    Listed("token", "draw a token for a client, and its hash", "serve", ""),
    Listed("serve", "share a database file over HTTP", "serve", "team.db"),
    Listed("get", "print one key", "store", "config/limit"),
    Listed("put", "set a key", "store", "config/limit 5"),
    Listed(
        "cas",
        "set a key if its revision is as expected",
        "store",
        "config/limit 6 --expected 1",
    ),
    Listed("scan", "print the keys under a prefix", "store", "config/"),
    Listed("watch", "print commits as they happen", "store", "config/"),
    Listed("lock", "run a program while holding a lock", "store", LOCK),
    Listed("resolve", "settle an operation of unknown outcome", "store", OP_ID),
    Listed("doctor", "say what a store promises, and what to change", "store", ""),
    Listed("bench", "measure compare-and-swap on a store", "store", BENCH),
    Listed("backup", "copy a database that may be in use", "files", "team.db copy.db"),
    Listed("verify", "check a database file, or a store on PostgreSQL", "files", FILE),
    Listed("stats", "say what takes how much in a file", "files", FILE),
    Listed("compact", "take away what is kept no longer", "compact", ""),
    Listed("log", "read, append to and verify an event log", "recipes"),
    Listed("saga", "look at sagas and speak to them", "recipes"),
    Listed("room", "agendas, free time, bookings", "rooms"),
    Listed("queue", "give work to exactly one worker each", "queues"),
)


def parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the command line: whole, or as much of it as these words need."""
    top = Parser(
        prog="python -m transactional",
        description="Serve, read, change, watch and repair a linearizable store.",
    )
    choices = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands(choices, COMMANDS, words)
    return top


def add_commands(choices: Any, commands: Iterable[Listed], words: Sequence[str] | None) -> None:
    """Add commands to the choices of a parser; with words, arguments to the one that they choose.

    (Before the name of a command stand options without a value.)
    """
    chosen = next((word for word in words or () if not word.startswith("-")), None)
    for command in commands:
        sub = choices.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=None if command.example is None else f"{EXAMPLE}{command.example}",
        )
        if words is None or command.name == chosen:
            room = import_module(f"transactional.cli.{command.room}")
            arguments, run = room.COMMANDS[command.name]
            arguments(sub)
            sub.set_defaults(run=run)


def parsed_options(top: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; what follows a `--` is the program of a command that may run one.

    (argparse takes an optional list of positionals for empty as soon as an option follows.)
    """
    words = list(arguments)
    program: list[str] = []
    if "--" in words and words[:1] == ["queue"]:
        at = words.index("--")
        words, program = words[:at], words[at + 1 :]
    options = top.parse_args(words)
    if program:
        if not hasattr(options, "program"):
            top.error("this command runs no program: leave out what follows the --")
        options.program = program
    return options

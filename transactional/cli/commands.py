"""The commands of ``python -m transactional``: what each is for, and where it is.

Theory of operation.  A command line runs one command and lists the others.  So a room of this wing,
and the recipe that it needs, is loaded for the command that was chosen; the others are names and
texts of this table.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Listed(NamedTuple):
    """A command as it is listed; its arguments and what it does are in a room of this wing."""

    name: str
    help: str
    room: str


COMMANDS: Final = (
    Listed("token", "draw a token for a client, and its hash", "serve"),
    Listed("serve", "share a database file over HTTP", "serve"),
    Listed("get", "print one key", "store"),
    Listed("put", "set a key", "store"),
    Listed("cas", "set a key if its revision is as expected", "store"),
    Listed("scan", "print the keys under a prefix", "store"),
    Listed("watch", "print commits as they happen", "store"),
    Listed("lock", "run a program while holding a lock", "store"),
    Listed("resolve", "settle an operation of unknown outcome", "store"),
    Listed("doctor", "say what a store keeps, and what to change", "store"),
    Listed("bench", "measure compare-and-swap on a store", "store"),
    Listed("backup", "copy a database that may be in use", "files"),
    Listed("verify", "check a database file, or a store on PostgreSQL", "files"),
    Listed("stats", "say what takes how much in a file", "files"),
    Listed("compact", "take away what is kept no longer", "compact"),
    Listed("log", "read, append to and verify an event log", "recipes"),
    Listed("saga", "look at sagas and speak to them", "recipes"),
    Listed("room", "agendas, free time, bookings", "rooms"),
    Listed("queue", "give work to exactly one worker each", "queues"),
)


def parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the command line: whole, or as much of it as these words need."""
    top = argparse.ArgumentParser(
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
        sub = choices.add_parser(command.name, help=command.help, description=command.help)
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

"""What `python -m transactional` does: one module of verbs per topic, one list of them.

`commands` lists every command with its room, and parses; a command is arguments and a coroutine
(`command`).  `serve` shares a file, `store` looks into a store, `files` copies and checks a file,
`compact` takes away, `recipes` shows logs and sagas, `rooms` books, `queues` gives work.
Nothing here decides anything: each verb is a call or two of the library, printed.

What is handed on besides is for a command that has these commands among others.  A name is looked
up when it is first asked for, so that a list of commands loads no store.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transactional.cli.command import DEFAULT_STORE, complain, token_of
    from transactional.cli.command_line import main
    from transactional.cli.commands import COMMANDS, add_commands, parsed_options

ROOMS = {
    "COMMANDS": "commands",
    "DEFAULT_STORE": "command",
    "add_commands": "commands",
    "complain": "command",
    "main": "command_line",
    "parsed_options": "commands",
    "token_of": "command",
}

__all__ = [
    "COMMANDS",
    "DEFAULT_STORE",
    "add_commands",
    "complain",
    "main",
    "parsed_options",
    "token_of",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    return found

"""What `python -m transactional` does: one module of verbs per topic, one list of them in `main`.

A command is a name, its arguments and a coroutine (`command.py`).  `serve` shares a file, `store`
looks into a store, `files` copies and checks a file, `recipes` shows logs and sagas, `rooms` books.
Nothing here decides anything: each verb is a call or two of the library, printed.

What is handed on besides is for a command that has these commands among others.
"""

from transactional.cli.command import (
    DEFAULT_STORE,
    Command,
    add_commands,
    complain,
    parsed_options,
    token_of,
)
from transactional.cli.main import COMMANDS, main

__all__ = [
    "COMMANDS",
    "DEFAULT_STORE",
    "Command",
    "add_commands",
    "complain",
    "main",
    "parsed_options",
    "token_of",
]

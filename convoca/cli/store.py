"""The verbs that ask a store: those of `python -m transactional`.

The recipes stand beside the verbs of members (`room`, `log`, `saga`, `lock`, `queue`, and `serve`
and `token`). What looks into a store by hand, and would share a name with something else (`get`,
`watch`, `backup`), stands under `store`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from convoca.cli.screen import printable
from convoca.cli.verbs import ROOMS
from transactional import TransactionalError, UnavailableError
from transactional import cli as transactional
from transactional.cli import DEFAULT_STORE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def add_verb(verb: str, verbs: Any, words: Sequence[str] | None) -> None:
    """Add one of them to the parser of the command, with as much below it as the words need."""
    known = {command.name: command for command in transactional.COMMANDS}
    if verb in known:
        transactional.add_commands(verbs, [known[verb]], None)
        return
    text = ROOMS["store"][verb]
    below = verbs.add_parser(verb, help=text, description=text)
    choices = below.add_subparsers(dest="command", required=True, metavar="COMMAND")
    rest = [command for name, command in known.items() if name not in ROOMS["store"]]
    transactional.add_commands(choices, rest, words)


def main(top: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Read the words, do what they say, or say why not; the exit status."""
    options = transactional.parsed_options(top, words)
    try:
        return asyncio.run(run(options)) or 0
    except (TransactionalError, OSError) as error:
        return transactional.complain(error, output=getattr(options, "output", "table"))


async def run(options: argparse.Namespace) -> int | None:
    """Run what the options say."""
    options.tells_by = True
    try:
        status: int | None = await options.run(options)
    except UnavailableError as error:
        if getattr(options, "store", None) == DEFAULT_STORE:
            error.hint = (
                "start one: `convoca serve FILE`; or say where it is: --store, $CONVOCA_STORE"
            )
        raise
    if getattr(options, "by", None) and options.output != "json":
        sys.stdout.flush()
        print(f"answered by {printable(options.by)}", file=sys.stderr)
    return status

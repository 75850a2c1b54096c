"""The verbs that ask a store: those of `python -m transactional`.

The recipes stand beside the verbs of members (`room`, `log`, `saga`, `lock`, `queue`, and `serve`
and `token`). What looks into a store by hand, and would share a name with something else (`get`,
`watch`, `backup`), stands under `store`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from replication.cli import shown
from transactional import UnavailableError
from transactional import cli as transactional
from transactional.cli import DEFAULT_STORE

if TYPE_CHECKING:
    import argparse

BESIDE = ("serve", "token", "room", "log", "saga", "lock", "queue")


def add_verbs(verbs: Any) -> None:
    """Add them to the parser of the command."""
    by_name = {command.name: command for command in transactional.COMMANDS}
    transactional.add_commands(verbs, (by_name.pop(name) for name in BESIDE))
    below = verbs.add_parser("store", help="look into a store by hand, copy and check its file")
    choices = below.add_subparsers(dest="command", required=True, metavar="COMMAND")
    transactional.add_commands(choices, by_name.values())


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
        print(f"answered by {shown(options.by, 'plain')}", file=sys.stderr)
    return status

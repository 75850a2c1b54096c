"""All the commands in one list, and the exit status of the one that was asked for."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from transactional.cli import command as cli
from transactional.cli import compact, files, queues, recipes, rooms, serve, store
from transactional.errors import TransactionalError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = [
    *serve.COMMANDS,
    *store.COMMANDS,
    *files.COMMANDS,
    *compact.COMMANDS,
    *recipes.COMMANDS,
    *rooms.COMMANDS,
    *queues.COMMANDS,
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = cli.parsed_options(
        cli.parser(COMMANDS), sys.argv[1:] if arguments is None else arguments
    )
    try:
        status: int | None = asyncio.run(options.run(options))
    except (TransactionalError, OSError) as error:
        return cli.complain(error, output=getattr(options, "output", "table"))
    except KeyboardInterrupt:
        return 130
    return status or 0

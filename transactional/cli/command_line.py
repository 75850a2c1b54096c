"""Reads the arguments, runs the command that they choose, and ends with its exit status."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from transactional.cli.commands import parsed_options, parser
from transactional.cli.screen import Parser, to_the_end
from transactional.errors import TransactionalError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    return to_the_end(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    Parser.heed(words)
    options = parsed_options(parser(words), words)
    try:
        status: int | None = asyncio.run(options.run(options))
    except (TransactionalError, OSError) as error:
        from transactional.cli.command import complain  # noqa: PLC0415 - help needs no store

        return complain(error, output=getattr(options, "output", "table"))
    except KeyboardInterrupt:
        return 130
    return status or 0

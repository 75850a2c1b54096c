"""Reads the arguments of `convoca`, and runs what they ask for."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from convoca.cli import up
from crdt import ConvocaError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="convoca", description="Shared state for teams of agents.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    sub = verbs.add_parser("up", help="a member of a team, until it is stopped")
    sub.add_argument("--secret-file", type=Path)
    up.arguments(sub)
    sub.set_defaults(run=up.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = parser().parse_args(arguments)
    try:
        asyncio.run(options.run(options))
    except ConvocaError as error:
        print(f"error: {error} (hint: {error.hint})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0

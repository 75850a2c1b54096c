"""The commands `backup`, `verify` and `stats`: copy, check and look into a database file.

It may be in use or not.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from transactional.cli import command as cli
from transactional.cli.screen import printable
from transactional.errors import CorruptStoreError
from transactional.stores import backup, stats, verify

if TYPE_CHECKING:
    import argparse


def _backup_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a database, in use or not")
    sub.add_argument("copy", type=Path, help="the new file; serve it to restore")
    cli.add_output(sub)


async def _backup(options: argparse.Namespace) -> None:
    epoch = await asyncio.to_thread(backup, options.file, options.copy)
    if options.output == "table":
        print(f"{printable(options.copy)}: sound copy, epoch {epoch}")
    else:
        cli.show(options, [{"copy": str(options.copy), "sound": True, "epoch": epoch}])


def _verify_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a database, in use or not")
    cli.add_output(sub)


async def _verify(options: argparse.Namespace) -> None:
    problems = await asyncio.to_thread(verify, options.file)
    table = options.output == "table"
    for problem in problems:
        print(printable(problem)) if table else cli.show(options, [{"problem": problem}])
    if problems:
        raise CorruptStoreError(f"{options.file} has {len(problems)} problems")
    if table:
        print(f"{printable(options.file)}: sound")
    else:
        cli.show(options, [{"file": str(options.file), "sound": True}])


def _stats_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a database, in use or not")
    cli.add_output(sub)


async def _stats(options: argparse.Namespace) -> None:
    found = await asyncio.to_thread(stats, options.file)
    cli.show(options, [{"what": s.what, "rows": s.rows, "bytes": s.bytes} for s in found])


COMMANDS: Final[dict[str, cli.Command]] = {
    "backup": (_backup_arguments, _backup),
    "verify": (_verify_arguments, _verify),
    "stats": (_stats_arguments, _stats),
}

"""The commands `backup`, `verify` and `stats`: copy, check and look into a database file.

It may be in use or not.  A store on a server has no such file here: its rows are verified where the
engine can do that (PostgreSQL), and for the rest the refusal names the server's own program.  No
message repeats a URL, which may hold a password.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from transactional.cli import command as cli
from transactional.cli.screen import printable
from transactional.errors import CorruptStoreError, InvalidRequestError
from transactional.store import Verifies
from transactional.stores import backup, connect, stats, verify

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_POSTGRES: Final = {
    "backup": "use pg_dump --schema=SCHEMA, and after a restore SELECT SCHEMA.another_life()",
    "stats": "ask psql for \\dt+ SCHEMA.*",
}
_ETCD: Final = {
    "backup": "use etcdctl snapshot save FILE (docs/etcd.md says how it is restored)",
    "verify": "use etcdctl endpoint hashkv --cluster, or etcdctl snapshot status on a snapshot",
    "stats": "use etcdctl endpoint status --cluster -w table",
}
_AUTHORITY: Final = dict.fromkeys(
    ("backup", "verify", "stats"), "run this where it lives, with what it serves"
)
_MEMORY: Final = dict.fromkeys(("backup", "verify", "stats"), "it ends with its process")
_ELSEWHERE: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "postgresql": ("on PostgreSQL", _POSTGRES),
    "postgres": ("on PostgreSQL", _POSTGRES),
    "etcd": ("on etcd", _ETCD),
    "etcds": ("on etcd", _ETCD),
    "http": ("behind an authority", _AUTHORITY),
    "https": ("behind an authority", _AUTHORITY),
    "memory": ("in memory", _MEMORY),
}
"""Where a URL of the scheme leads, and what there does the work of a command."""


def _file(text: str, command: str) -> Path:
    """Return the path that is named, by itself or as `sqlite:PATH`.

    Raises:
        InvalidRequestError: it is a URL of something else; says what does the same there.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "sqlite" and colon:
        return Path(unquote(rest.partition("?")[0]))
    if scheme in _ELSEWHERE and (rest.startswith("//") or scheme == "memory"):
        where, instead = _ELSEWHERE[scheme]
        raise InvalidRequestError(
            f"{command} takes a database file, and this is a store {where}: {instead[command]}"
        )
    if rest.startswith("//"):
        raise InvalidRequestError(f"{command} takes a database file, and this is a URL")
    return Path(text)


def _backup_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", metavar="FILE", help="a database, in use or not")
    sub.add_argument("copy", metavar="COPY", help="the new file; serve it to restore")
    cli.add_output(sub)


async def _backup(options: argparse.Namespace) -> None:
    source, copy = _file(options.file, "backup"), _file(options.copy, "backup")
    epoch = await asyncio.to_thread(backup, source, copy)
    if options.output == "table":
        print(f"{printable(copy)}: sound copy, epoch {epoch}")
    else:
        cli.show(options, [{"copy": str(copy), "sound": True, "epoch": epoch}])


def _verify_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "file",
        metavar="FILE",
        help="a database, in use or not, or the URL of a store on PostgreSQL",
    )
    cli.add_output(sub)


async def _verify(options: argparse.Namespace) -> None:
    if options.file.startswith(("postgresql://", "postgres://")):
        what, problems = "the store on PostgreSQL", await _verify_server(options.file)
    else:
        file = _file(options.file, "verify")
        what, problems = str(file), await asyncio.to_thread(verify, file)
    table = options.output == "table"
    for problem in problems:
        print(printable(problem)) if table else cli.show(options, [{"problem": problem}])
    if problems:
        raise CorruptStoreError(f"{what} has {len(problems)} problems")
    if table:
        print(f"{printable(what)}: sound")
    else:
        cli.show(options, [{"file": what, "sound": True}])


async def _verify_server(url: str) -> list[str]:
    store = await connect(url)
    try:
        assert isinstance(store, Verifies)
        return await store.verify()
    finally:
        await store.close()


def _stats_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", metavar="FILE", help="a database, in use or not")
    cli.add_output(sub)


async def _stats(options: argparse.Namespace) -> None:
    found = await asyncio.to_thread(stats, _file(options.file, "stats"))
    cli.show(options, [{"what": s.what, "rows": s.rows, "bytes": s.bytes} for s in found])


COMMANDS: Final[dict[str, cli.Command]] = {
    "backup": (_backup_arguments, _backup),
    "verify": (_verify_arguments, _verify),
    "stats": (_stats_arguments, _stats),
}

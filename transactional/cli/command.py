"""What every command of ``python -m transactional`` shares: the store it talks to, output, errors.

A command is a function that adds its arguments, and a coroutine.  It prints its result on stdout in
one of three forms, ``table`` for people, ``plain`` (tab-separated, no heading) for the shell and
``json`` for programs; none of them sends a terminal what it would obey (`screen.py`).  A failure is
one line on
stderr and an exit status that says what it did to the state: 1 refused or in conflict (nothing
written), 3 unavailable (nothing written), 4 outcome unknown, 5 it stands (docs/errors.md); with
``json`` it is an object on one line.  ``lock`` ends as the program that it ran does.

A command that has these among others says so by ``tells_by``: then each object of JSON says which
store gave it, in a field ``by``, and ``options.by`` says it to the command.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from transactional.cli.screen import EXAMPLE, complaint, json_line, note_readers, printable
from transactional.clock import as_utc
from transactional.errors import (
    InvalidRequestError,
    InvalidTimeError,
    TransactionalError,
)
from transactional.stores import open as open_
from transactional.wire import dump_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from transactional.store import Store
    from transactional.values import KeyValue

    Verb = Callable[[argparse.Namespace], Awaitable[int | None]]
    """Does it; the exit status is what it returns, 0 for None."""
    Command = tuple[Callable[[argparse.ArgumentParser], None], Verb]
    """Fills the parser of a command, and does it."""

DEFAULT_STORE: Final = "http://127.0.0.1:7700"
TABLE_COLUMNS_MAX: Final = 100_000

Cell = str | int | float | bool | None


def add_store(sub: argparse.ArgumentParser) -> None:
    """Give a command the options that every client of a store has."""
    sub.add_argument(
        "--store",
        default=os.environ.get("CONVOCA_STORE", DEFAULT_STORE),
        metavar="URL",
        # What the variable holds is not told: a URL may have a token in it.
        help="sqlite:PATH, http://HOST:PORT, etcd://HOST:PORT,HOST:PORT/NAME or"
        " postgresql://USER@HOST:PORT,HOST:PORT/DATABASE"
        f" (default: $CONVOCA_STORE, or {DEFAULT_STORE})",
    )
    sub.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="token for the authority (default: $CONVOCA_TOKEN)",
    )
    add_output(sub)


def add_output(sub: argparse.ArgumentParser) -> None:
    """Give a command the option that says in which form it prints, errors too."""
    sub.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "plain"),
        default="table",
        help="form of the answer and of errors: for people, programs, or shells (default: table)",
    )


def verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Verb,
    example: str,
) -> argparse.ArgumentParser:
    """Add a verb that every store option fits; `run_verb` is the command's coroutine then."""
    sub = verbs.add_parser(name, help=text, description=text, epilog=f"{EXAMPLE}{example}")
    sub.set_defaults(verb=run)
    add_store(sub)
    return sub


async def run_verb(options: argparse.Namespace) -> int | None:
    """Run the verb that was given."""
    status: int | None = await options.verb(options)
    return status


def amount(most: float) -> Callable[[str], float]:
    """Return a type of arguments: a number from 0 to `most`, which infinity and NaN are not."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number <= most:
            raise argparse.ArgumentTypeError(f"a number from 0 to {most:g}, not {text!r}")
        return number

    return read


seconds: Final = amount(1e9)
"""Type of an argument in seconds; what of them is too long is for the recipe to say."""
minutes: Final = amount(1e6)
"""Type of an argument in minutes: two years at most."""


def wall_clock(text: str) -> datetime:
    """Read a time on the clocks of a zone that is given elsewhere."""
    time = local(text)
    if time.tzinfo is not None:
        raise InvalidTimeError(f"{text!r} is read on the clocks of the zone: leave out its offset")
    return time


def local(text: str) -> datetime:
    """Read a time; with or without an offset."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidTimeError(f"{text!r} is not a time like 2025-02-01T09:00:00+01:00") from error


def moment(text: str) -> datetime:
    """Read a time that names an instant."""
    return as_utc(local(text))


def parsed(text: str) -> object:
    """Read JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"{text!r} is not JSON: {error}") from error


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[Store]:
    """Open the store that ``--store`` names."""
    url: str = options.store
    if "token=" in url.partition("?")[2] and url != os.environ.get("CONVOCA_STORE"):
        raise InvalidRequestError(
            "--store takes no token, for a command line is for all eyes; use --token-file"
        )
    async with open_(url, token=token_of(options.token_file, options.output)) as store:
        if getattr(options, "tells_by", False):
            options.by = f"{shown_url(url)} (epoch {store.epoch})"
        yield store


def shown_url(url: str) -> str:
    """Return a store's URL without what may be a token or a password in it."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def emit(options: argparse.Namespace, doc: Mapping[str, object]) -> None:
    """Print an object of JSON on a line of its own; it says by whom, if that is wanted."""
    by = getattr(options, "by", None)
    sys.stdout.write(json_line({**doc, **({"by": by} if by else {})}) + "\n")
    sys.stdout.flush()


def token_of(file: Path | None, output: str) -> str | None:
    """Return the token in the file, or else in the environment: a command line is for all eyes.

    That others can read the file is noted for people; for a program stderr is an error or nothing.

    Raises:
        InvalidRequestError: the file holds no token.
    """
    if file is None:
        return os.environ.get("CONVOCA_TOKEN") or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{file} holds no text") from error
    if not token:
        raise InvalidRequestError(f"{file} is empty, so it holds no token")
    if output != "json":
        note_readers(file)
    return token


def show(options: argparse.Namespace, rows: Sequence[Mapping[str, Cell]]) -> None:
    """Print rows with equal columns in the form that was asked for; a JSON row is one line."""
    if options.output == "json":
        for row in rows:
            emit(options, row)
    elif options.output == "plain":
        for row in rows:
            sys.stdout.write("\t".join(map(_cell, row.values())) + "\n")
    elif rows:
        from rich.console import Console  # noqa: PLC0415 - for people only
        from rich.table import Table  # noqa: PLC0415 - as above

        shown = [name for n, name in enumerate(rows[0]) if n == 0 or _says(rows, name)]
        table = Table(*map(printable, shown), box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(_cell(row[name]) for name in shown))
        console = Console(width=TABLE_COLUMNS_MAX, soft_wrap=True, highlight=False, markup=False)
        with console.capture() as shown_table:  # rich would end the process if nobody reads
            console.print(table)  # as wide as it is: a key that is cut short is of no use
        sys.stdout.write(shown_table.get())
    sys.stdout.flush()


def _says(rows: Sequence[Mapping[str, Cell]], name: str) -> bool:
    """Return whether a column of a table holds anything at all."""
    return any(row[name] is not None and row[name] != "" for row in rows)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value)


def row_of(item: KeyValue) -> dict[str, Cell]:
    """Return a key as a row; bytes that are no text are shown escaped."""
    return {
        "key": item.key,
        "value": item.value.decode(errors="backslashreplace"),
        "revision": item.revision,
        "created": item.created_revision,
        "lease": item.lease,
    }


def value_argument(given: str) -> bytes:
    """Return the bytes that a VALUE argument means; ``-`` reads standard input."""
    if given == "-":
        return sys.stdin.buffer.read()
    try:
        return given.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("the value is not text; pass - and pipe it in") from error


def complain(error: TransactionalError | OSError, *, output: str = "table") -> int:
    """Print an error as one line, as JSON if results are; return the exit status."""
    if isinstance(error, BrokenPipeError):
        raise error  # nobody is left to complain to
    code, state, hint = "os", "unchanged", "check the path, your rights, and what room is left"
    details: object = {}
    if isinstance(error, TransactionalError):
        code, state, hint = error.code, error.state, error.hint
        details = dump_error(error)["details"]
    words = printable(" ".join(str(error).split()))
    if output == "json":
        doc = complaint(code, words, hint=hint, state=state, details=details)
        sys.stderr.write(json_line(doc) + "\n")
    else:
        sys.stderr.write(f"error: {words} (hint: {printable(hint)})\n")
    return error.exit_status if isinstance(error, TransactionalError) else 1

"""Reads the arguments of `convoca`, runs what they ask for, and ends with a status.

Exit statuses: 0 ok, 1 refused, 2 usage, 3 nobody could be asked, 4 it may have happened, 5 it
stands and what was waited for did not come in time, 130 interrupted (docs/errors.md). An error is a
line on stderr; with `-o json` it is an object, one about the command line, too.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from convoca.cli import completion, demo, lazy, partition, store, up
from crdt import ConvocaError
from replication import cli as replication
from transactional import TransactionalError
from transactional import cli as transactional

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    Run = Callable[[argparse.Namespace], Coroutine[Any, Any, int | None]]

DESCRIPTION = "Shared state for teams of agents: values that merge, decisions that are made once."
FIRST = """\
first steps:
  convoca up ann                     a member of a team; start another one in a second terminal
  convoca set order/42 paid          asks any member on this host
  convoca get order/42
  convoca serve team.db              a store for what must be decided once
  convoca room book turing 2026-03-01T09:00Z 2026-03-01T10:00Z --holder ann
  convoca queue put tickets T-1 '{"title": "refund"}'
  convoca queue claim tickets

environment:
  CONVOCA_PEER         the member to ask          CONVOCA_STORE        the store's URL
  CONVOCA_SECRET_FILE  the team's secret          CONVOCA_TOKEN        for the store's authority
  CONVOCA_PEERS        members to join
"""


class _Parser(argparse.ArgumentParser):
    """One that complains in the form that answers have."""

    as_json: ClassVar[bool] = False
    """Whether the words that are parsed ask for it: what cannot be parsed cannot say so."""

    def error(self, message: str) -> NoReturn:
        if not self.as_json:
            super().error(message)
        doc = {
            "message": message,
            "code": "usage",
            "state": "unchanged",
            "hint": self.format_usage(),
        }
        self.exit(2, replication.shown(doc, "json") + "\n")


def _ask_for_json(words: Sequence[str]) -> bool:
    return any(
        word in {"-ojson", "--output=json"}
        or (word in {"-o", "--output"} and words[at + 1 : at + 2] == ["json"])
        for at, word in enumerate(words)
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="convoca",
        description=DESCRIPTION,
        epilog=FIRST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"convoca {_version()}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    shared = replication.shared_options()
    up.add_verb(verbs, shared)
    shared.set_defaults(run=lazy.run)
    lazy.add_verbs(verbs, shared)
    partition.add_verbs(verbs, shared)
    store.add_verbs(verbs)
    demo.add_verb(verbs)
    completion.add_verbs(verbs)
    return top


def _version() -> str:
    from convoca import __version__  # noqa: PLC0415 - the face is above its wings

    return __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _Parser.as_json = _ask_for_json(words)
    top = parser()
    if words[:2] == ["complete", "--"]:
        print(*completion.candidates(top, words[2:]), sep="\n")
        return 0
    if words[:1] == ["demo"]:  # its words are the demo's own
        options = argparse.Namespace(words=words[1:], runs_alone=demo.run, output="table")
    else:
        options = transactional.parsed_options(top, words)
    try:
        return _run(options) or 0
    except TransactionalError as error:
        return transactional.complain(error, output=getattr(options, "output", "table"))
    except (ConvocaError, OSError) as error:
        return replication.complain(error, getattr(options, "output", "table"))
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int | None:
    alone: Any = getattr(options, "runs_alone", None)
    if alone is not None:
        status: int | None = alone(options)
        return status
    asks_a_member = hasattr(options, "answered")
    run: Run = options.run if asks_a_member else store.run
    return asyncio.run(run(options))

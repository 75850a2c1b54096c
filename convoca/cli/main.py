"""Reads the arguments of `convoca`, runs what they ask for, and ends with a status.

Only the room of the verb that is asked for is loaded: it adds the verb's arguments to the parser,
and its `main` reads the words and does what they say. All other verbs are names (`verbs`).

Exit statuses: 0 ok, 1 refused, 2 usage, 3 nobody could be asked, 4 it may have happened, 5 it
stands and what was waited for did not come in time, 130 interrupted (docs/errors.md). An error is a
line on stderr; with `-o json` it is an object, one about the command line, too.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from convoca.cli.screen import Parser, to_the_end
from convoca.cli.verbs import ROOM_OF, ROOMS, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The command line: whole, or with the arguments of the one verb that these words choose.

    (Before a verb stand options without a value.)
    """
    top = Parser(
        prog="convoca",
        usage="convoca [-h] [--version] VERB ...",
        description=f"{DESCRIPTION}\n{listing()}",
        epilog=FIRST,
    )
    top.add_argument("--version", action="version", version=f"convoca {_version()}")
    verbs = top.add_subparsers(
        prog=top.prog,
        dest="verb",
        required=True,
        metavar="VERB",
        help=argparse.SUPPRESS,  # they are listed above
    )
    chosen = _verb_of(words or ())
    for verb, room in ROOM_OF.items():
        if words is None or verb == chosen:
            _room(room).add_verb(verb, verbs, None if words is None else words[1:])
        else:
            verbs.add_parser(verb, help=ROOMS[room][verb])
    return top


def _verb_of(words: Sequence[str]) -> str | None:
    return next((word for word in words if not word.startswith("-")), None)


def _room(name: str) -> Any:
    return import_module(f"convoca.cli.{name}")


def _version() -> str:
    from convoca import __version__  # noqa: PLC0415 - the face is above its wings

    return __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    return to_the_end(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    Parser.heed(words)
    if words[:2] == ["complete", "--"]:  # a shell asks
        room, top = "completion", parser(words[2:])
    else:
        room, top = ROOM_OF.get(_verb_of(words) or "", ""), parser(words)
    try:
        if room:
            status: int = _room(room).main(top, words)
            return status
        top.parse_args(words)  # help, the version, or what is wrong: it exits
    except KeyboardInterrupt:
        return 130
    return 2

"""The verbs that ask a member: those of `python -m replication`, with somebody found to ask.

Answers go to stdout as ever; who gave them goes to stderr, so that `$(convoca get x)` is the value.
As JSON both are one object, `{"by": ..., "answer": ...}`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from convoca.cli.asked import add_peer, add_team, address_of
from convoca.cli.screen import printable
from convoca.cli.verbs import ROOMS
from crdt import ConvocaError
from replication import cli as replication

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

EXAMPLES = {"cut": "bob --peer ann", "diff": "ann bob"}
"""Where another example is plainer than that of `python -m replication`: members have names."""


def add_verb(verb: str, verbs: Any, words: Sequence[str] | None) -> None:  # noqa: ARG001
    """Add one of them to the parser of the command."""
    shared = replication.shared_options()
    shared.set_defaults(run=run)
    example = EXAMPLES.get(verb) or replication.EXAMPLES.get(verb, "")
    if verb == "doctor":
        replication.add_doctor(verbs, shared, add_peer, example)
    elif verb == "journal":
        text = ROOMS["lazy"][verb]
        journal = verbs.add_parser(verb, help=text, description=text)
        below = journal.add_subparsers(dest="verb", required=True, metavar="VERB")
        of_files = replication.output_options()
        of_files.set_defaults(run=run)
        replication.add_verbs_of_files(below, of_files)
    else:
        peer = add_team if verb == "diff" else add_peer
        replication.add_verb(verb, verbs, shared, peer, example=example, whom="MEMBER")


def main(top: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Read the words, do what they say, or say why not; the exit status."""
    options = top.parse_args(words)
    try:
        asyncio.run(options.run(options))
    except (ConvocaError, OSError) as error:
        return replication.complain(error, options.output)
    return 0


async def run(options: argparse.Namespace) -> None:
    """Ask, and show the answer and who gave it."""
    team = getattr(options, "team", None)
    if options.verb == "diff":
        options.one, options.other = (address_of(p, team) for p in (options.one, options.other))
    elif "peer" in options and getattr(options, "journal", None) is None:
        options.peer = address_of(options.peer, team)
    options.answered = []
    answer = await replication.run(options)
    show(options, answer, options.answered)


def show(options: argparse.Namespace, answer: Any, by: list[str]) -> None:
    """Print an answer, and who gave it."""
    said = ", ".join(by)
    if options.output == "json":
        print(replication.shown({"by": said, "answer": answer}, "json"))
        return
    if answer is not None:
        print(replication.shown(answer, options.output), flush=True)
    if by:
        print(f"answered by {printable(said)}", file=sys.stderr)

"""The verbs that ask a member: those of `python -m replication`, with somebody found to ask.

Answers go to stdout as ever; who gave them goes to stderr, so that `$(convoca get x)` is the value.
As JSON both are one object, `{"by": ..., "answer": ...}`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from convoca.cli.asked import add_peer, address_of
from replication import cli as replication

if TYPE_CHECKING:
    import argparse

ASIDE = {"heal"}
"""Verbs that this command has with another meaning; see `partition`."""


def add_verbs(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add them to the parser of the command."""
    replication.add_verbs(verbs, shared, add_peer, without=ASIDE)
    replication.add_doctor(verbs, shared, add_peer)
    journal = verbs.add_parser("journal", help="copies of a member's journal")
    replication.add_verbs_of_files(
        journal.add_subparsers(dest="verb", required=True, metavar="VERB"), shared
    )


async def run(options: argparse.Namespace) -> int | None:
    """Ask, and show the answer and who gave it."""
    team = getattr(options, "team", None)
    if options.verb == "diff":
        options.one, options.other = (address_of(p, team) for p in (options.one, options.other))
    elif "peer" in options and getattr(options, "journal", None) is None:
        options.peer = address_of(options.peer, team)
    options.answered = []
    answer = await replication.run(options)
    show(options, answer, options.answered)
    return None


def show(options: argparse.Namespace, answer: Any, by: list[str]) -> None:
    """Print an answer, and who gave it."""
    said = ", ".join(by)
    if options.output == "json":
        print(replication.shown({"by": said, "answer": answer}, "json"))
        return
    if answer is not None:
        print(replication.shown(answer, options.output), flush=True)
    if by:
        print(f"answered by {replication.shown(said, 'plain')}", file=sys.stderr)

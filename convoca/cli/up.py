"""The verb `up`: a member until SIGTERM or Ctrl-C.

It is an agent as `python -m replication up` runs one, that finds its team on this host, and keeps
the store at hand that was named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convoca.cli.lazy import main
from convoca.cli.screen import EXAMPLE
from convoca.cli.verbs import ROOMS
from convoca.joining import TEAM, join
from replication.cli import running_options, secret_of, shown, tls_of
from transactional.cli import token_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["add_verb", "main"]


def add_verb(verb: str, verbs: Any, words: Sequence[str] | None) -> None:  # noqa: ARG001
    """Add it to the parser of the command."""
    text, example = ROOMS["up"][verb], f"{EXAMPLE}ann --journal ann.db --ui"
    sub = verbs.add_parser(
        verb, parents=[running_options()], help=text, description=text, epilog=example
    )
    sub.add_argument("name", metavar="NAME", help="of the member, one of its name in a team")
    sub.add_argument(
        "--team", default=TEAM, help="who shares state with whom (default: %(default)s)"
    )
    sub.add_argument("--journal", type=Path, metavar="FILE", help="remembers what it knows")
    sub.add_argument(
        "--store",
        default=os.environ.get("CONVOCA_STORE") or None,
        metavar="URL",
        help="where the team decides (default: $CONVOCA_STORE)",
    )
    sub.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="token for the store's authority (default: $CONVOCA_TOKEN)",
    )
    sub.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="port 0 is a free one (default: %(default)s)",
    )
    sub.add_argument(
        "--address", default="", metavar="HOST:PORT", help="where peers reach it, if elsewhere"
    )
    sub.add_argument(
        "--peer",
        action="append",
        metavar="HOST:PORT",
        help="a member to join (default: $CONVOCA_PEERS, or the team on this host)",
    )
    sub.add_argument(
        "--ui",
        nargs="?",
        const=True,
        default=False,
        metavar="HOST:PORT",
        help="serve its page, on a free port of this host if none is said",
    )
    sub.set_defaults(run=run)


async def run(options: argparse.Namespace) -> None:
    """Run a member; the first SIGTERM or SIGINT closes it, a second one stops at once."""
    stop = stopped()
    server_tls, client_tls = tls_of(options)
    member = join(
        options.name,
        team=options.team,
        journal=options.journal,
        store=options.store,
        token=token_of(options.token_file, options.output),
        peers=options.peer,
        secret=secret_of(options),
        listen=options.listen,
        address=options.address,
        server_tls=server_tls,
        client_tls=client_tls,
        ui=options.ui,
    )
    async with member:
        facts = {
            "id": member.agent.id,
            "address": member.agent.address,
            "team": options.team,
            "page": member.page,
        }
        if options.output == "json":
            print(shown(facts, "json"), flush=True)
        else:
            page = f", page {member.page}" if member.page else ""
            told = "{id} of team {team!r} listens at {address}".format(**facts)
            print(shown(told + page, "plain"), flush=True)
        await stop.wait()


def stopped() -> asyncio.Event:
    """An event that is set by the first signal to end; the next one has its default effect."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
        stop.set()

    for number in numbers:
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C interrupts the run
            loop.add_signal_handler(number, on_signal)
    return stop

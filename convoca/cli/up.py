"""The verb `up`: a member until SIGTERM or Ctrl-C.

It is an agent as `python -m replication up` runs one, that finds its team on this host, and keeps
the store at hand that was named.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

from convoca.joining import TEAM, join
from replication.cli import secret_of

if TYPE_CHECKING:
    import argparse


def arguments(sub: argparse.ArgumentParser) -> None:
    """Fill the parser of the verb."""
    sub.add_argument("name", help="of the member")
    sub.add_argument("--team", default=TEAM, help="who shares state with whom (%(default)s)")
    sub.add_argument("--journal", metavar="FILE", help="remembers what it knows")
    sub.add_argument(
        "--store", default=os.environ.get("CONVOCA_STORE"), metavar="URL", help="$CONVOCA_STORE"
    )
    sub.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    sub.add_argument("--address", default="", metavar="HOST:PORT", help="where peers reach it")
    sub.add_argument("--peer", action="append", metavar="HOST:PORT", help="else: this host's team")
    sub.add_argument("--ui", nargs="?", const=True, default=False, metavar="HOST:PORT")


async def run(options: argparse.Namespace) -> None:
    """Run a member; the first SIGTERM or SIGINT closes it, a second one stops at once."""
    stop = stopped()
    member = join(
        options.name,
        team=options.team,
        journal=options.journal,
        store=options.store,
        token=os.environ.get("CONVOCA_TOKEN") or None,
        peers=options.peer,
        secret=secret_of(options),
        listen=options.listen,
        address=options.address,
        ui=options.ui,
    )
    async with member:
        facts: dict[str, Any] = {"id": member.agent.id, "address": member.agent.address}
        if member.page:
            facts["page"] = member.page
        print(json.dumps(facts), flush=True)
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

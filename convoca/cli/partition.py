"""The verbs `partition` and `heal`: cut a running team into parts, and let it be one again.

    convoca partition ada,bob / cyd,dee

Theory of operation. Every named member is told to cut off every member of the other parts, as
`python -m replication cut` tells one: exchanges fail as if the network were partitioned, and orders
of people still arrive. Nothing is told to anybody before all are found; whoever does not answer
then is named, and `heal` ends what was done. Who is in no part reaches all of them, and carries
news between them: that is said. Members are found by asking one of them, and on this host.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from convoca.cli.asked import add_peer, address_of, on_this_host
from convoca.cli.lazy import main, show
from convoca.cli.screen import EXAMPLE
from convoca.cli.verbs import ROOMS
from convoca.errors import NoMemberError, PartitionError
from replication import cli as replication
from replication.errors import ReplicationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["add_verb", "main"]

GONE = {"dead", "left", "retired"}


def add_verb(verb: str, verbs: Any, words: Sequence[str] | None) -> None:  # noqa: ARG001
    """Add one of them to the parser of the command."""
    shared, text = replication.shared_options(), ROOMS["partition"][verb]
    example = "ada,bob / cyd,dee" if verb == "partition" else ""
    sub = verbs.add_parser(
        verb,
        parents=[shared],
        help=text,
        description=text,
        epilog=f"{EXAMPLE}{example}",
    )
    if verb == "partition":
        sub.add_argument(
            "parts", nargs="+", metavar="A,B / C,D", help="names, a / between two parts"
        )
        sub.set_defaults(run=partition)
    else:
        sub.add_argument(
            "other",
            nargs="?",
            metavar="MEMBER",
            help="only that --peer cuts this one off; a name, id or address",
        )
        sub.set_defaults(run=heal)
    add_peer(sub)


def parts_of(words: list[str]) -> list[list[str]]:
    """The names of each part.

    Raises:
        PartitionError: fewer than two parts, an empty one, or a name that stands twice.
    """
    parts = [part.replace(",", " ").split() for part in " ".join(words).split("/")]
    names = [name for part in parts for name in part]
    if len(parts) < 2 or not all(parts) or len(names) != len(set(names)):
        raise PartitionError(f"{' '.join(words)!r} is not two parts or more of different members")
    return parts


async def partition(options: argparse.Namespace) -> None:
    """Cut every part off from every other one."""
    parts = parts_of(options.parts)
    team, by = await _team(options)
    named = [name for part in parts for name in part]
    if unknown := sorted(set(named) - set(team)):
        raise NoMemberError(
            f"{', '.join(unknown)}: not in this team",
            hint=f"known: {', '.join(sorted(team)) or 'nobody'}; nothing was cut",
        )
    orders = [
        (name, other) for part in parts for name in part for other in named if other not in part
    ]
    rows = await _tell(options, team, "cut", orders)
    outside = sorted(set(team) - set(named))
    if outside:
        rows.append({"member": ", ".join(outside), "cut": "nobody: reaches every part"})
    _report(options, rows, by)


async def heal(options: argparse.Namespace) -> None:
    """End the cuts of all members; with a name, that of one by the member that is asked."""
    if options.other is not None:
        options.peer = address_of(options.peer, options.team)
        options.answered = []
        show(options, await replication.run(options), options.answered)
        return
    team, by = await _team(options)
    pages = await asyncio.gather(
        *(_status(options, address) for address in team.values()), return_exceptions=True
    )
    orders = [
        (name, other)
        for name, page in zip(team, pages, strict=True)
        if isinstance(page, dict)
        for other in page["cut"]
    ]
    rows = await _tell(options, team, "heal", orders)
    rows += [
        {"member": name, "heal": f"failed: {page}"}
        for name, page in zip(team, pages, strict=True)
        if isinstance(page, BaseException)
    ]
    _report(options, rows, by)


async def _status(options: argparse.Namespace, address: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(await replication.client_of(options, address).get("/status"))
    return page


async def _team(options: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """Name -> address of the members that one of them knows, and of those on this host."""
    options.answered = []
    address = address_of(options.peer, options.team)
    page = await _status(options, address)
    team = {page["name"]: address}
    for member in page["members"]:
        if member["address"] and member["status"] not in GONE:
            team.setdefault(member["id"].partition("~")[0], member["address"])
    known = set(team.values())
    teams = {each.team for each in on_this_host(None) if each.address in known}
    team |= {each.name: each.address for each in on_this_host(None) if each.team in teams}
    return team, list(options.answered)


async def _tell(
    options: argparse.Namespace, team: dict[str, str], verb: str, orders: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Have each member cut others off, or heal; a row per member."""
    said: dict[str, list[str]] = {}
    for name, other in orders:
        try:
            await replication.client_of(options, team[name]).order(verb, peer=other)
        except ReplicationError as error:
            said.setdefault(name, []).append(f"failed: {other}: {error}")
        else:
            said.setdefault(name, []).append(other)
    return [{"member": name, verb: ", ".join(others)} for name, others in said.items()]


def _report(options: argparse.Namespace, rows: list[dict[str, Any]], by: list[str]) -> None:
    """Show what was done, and fail if something was not.

    Raises:
        PartitionError: some could not be told; it says who.
    """
    show(options, rows or "nothing was cut", by)
    failed = [row["member"] for row in rows if "failed: " in str(row)]
    if failed:
        raise PartitionError(f"{', '.join(failed)} could not be told; the others were", partly=True)

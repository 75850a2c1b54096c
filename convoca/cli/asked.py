"""Whom a verb asks: the member that was named, or one that is found on this host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from convoca.discovery import Found, everybody
from convoca.errors import NoMemberError

if TYPE_CHECKING:
    import argparse


def add_peer(sub: argparse.ArgumentParser) -> None:
    """Give a verb the options that say whom it asks."""
    sub.add_argument(
        "--peer",
        default=os.environ.get("CONVOCA_PEER") or None,
        metavar="MEMBER",
        help="HOST:PORT, or a name on this host (default: $CONVOCA_PEER, or any member here)",
    )
    add_team(sub)


def add_team(sub: argparse.ArgumentParser) -> None:
    """Give a verb the option that says of which team."""
    sub.add_argument("--team", help="whose members here are meant, if there are several teams")


def address_of(peer: str | None, team: str | None) -> str:
    """The address of a member: as given, or of the name, or of any member of the team.

    Raises:
        NoMemberError: nobody here is called so, nobody is here at all, or it could be one of
            several teams.
    """
    if peer is not None and ":" in peer:
        return peer
    here = on_this_host(team)
    found = [each for each in here if peer in {None, each.name}]
    teams = sorted({each.team for each in found})
    if len(teams) > 1:
        raise NoMemberError(f"there are members of {', '.join(teams)} here", hint="--team TEAM")
    if not found:
        named = "no member" if peer is None else f"no member called {peer!r}"
        names = ", ".join(each.name for each in here) or "nobody"
        neither = "" if peer is None else f", and {peer!r} is no HOST:PORT"
        raise NoMemberError(f"{named} is found on this host (here: {names}){neither}")
    return found[0].address


def on_this_host(team: str | None) -> list[Found]:
    """Who is here, of that team or of all."""
    return [each for each in everybody() if team in {None, each.team}]

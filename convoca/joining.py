"""How a member is made: who it is, whom it asks, and where it decides.

Theory of operation. `join` and `join_sync` take the same arguments and differ in what they make.
Peers are those that are given; else those of `$CONVOCA_PEERS` (addresses with commas or spaces
between them); else, for a member that listens on loopback, the members of its team on this host
(`discovery`). Whoever passes `peers=[]` is alone until somebody comes to him.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from convoca.discovery import Whereabouts
from convoca.member import Member
from convoca.sync_member import BlockingMember
from replication.addresses import is_loopback

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable
    from pathlib import Path

    from replication import AccessPolicy, Config
    from replication.credentials import Secret
    from transactional import BlockingStore, Store

TEAM = "convoca"


def join(
    name: str,
    *,
    team: str = TEAM,
    journal: str | Path | None = None,
    store: Store | str | None = None,
    token: str | None = None,
    peers: Iterable[str] | None = None,
    secret: Secret | None = None,
    listen: str = "127.0.0.1:0",
    address: str = "",
    rules: AccessPolicy | None = None,
    config: Config | None = None,
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
    ui: bool | str = False,
) -> Member:
    """A member of a team, to be used in `async with`; it starts there.

    Args:
        name: 1 to 64 letters, digits, `-`, `_` or `.`; one living member on a host has it.
        team: who shares state with whom; members of other teams are strangers.
        journal: a file that remembers what this member knows; without one it forgets with its end.
        store: the URL of the team's store (`http://HOST:PORT`, `sqlite:PATH`, `memory:`), or an
            open one; None: the lazy half only.
        token: for the authority of a store.
        peers: addresses of members; None: see above.
        secret: of the team; required off loopback.
        listen: `host:port`, as of `Agent`.
        address: where peers reach it, if not where it listens.
        rules: who may bring and write what.
        config: the knobs of the agent.
        server_tls: for those who dial this member.
        client_tls: for those that it dials, the authority of an `https` URL among them.
        ui: serve the page about this team.

    For what is not here, make an `Agent` and give it to `Member`.

    Raises:
        ConfigError: an argument is refused; nothing was started.
    """
    from replication import Agent  # noqa: PLC0415 - sockets are loaded when something is opened

    options, asked, whereabouts = _settled(name, team, peers, listen)
    agent = Agent(
        name,
        journal=journal,
        secret=secret,
        address=address,
        rules=rules,
        config=config,
        server_tls=server_tls,
        client_tls=client_tls,
        **options,
    )
    return Member(
        agent, store, token=token, tls=client_tls, peers=asked, whereabouts=whereabouts, ui=ui
    )


def join_sync(
    name: str,
    *,
    team: str = TEAM,
    journal: str | Path | None = None,
    store: BlockingStore | str | None = None,
    token: str | None = None,
    peers: Iterable[str] | None = None,
    secret: Secret | None = None,
    listen: str = "127.0.0.1:0",
    address: str = "",
    rules: AccessPolicy | None = None,
    config: Config | None = None,
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
) -> BlockingMember:
    """The same for threads and code without a loop, to be used in `with`.

    Any number of threads may share it. It takes what `join` takes, but for the page.
    """
    from replication import BlockingAgent  # noqa: PLC0415 - as above

    options, asked, whereabouts = _settled(name, team, peers, listen)
    agent = BlockingAgent(
        name,
        journal=journal,
        secret=secret,
        address=address,
        rules=rules,
        config=config,
        server_tls=server_tls,
        client_tls=client_tls,
        **options,
    )
    return BlockingMember(
        agent, store, token=token, tls=client_tls, peers=asked, whereabouts=whereabouts
    )


def _settled(
    name: str, team: str, peers: Iterable[str] | None, listen: str
) -> tuple[dict[str, Any], list[str], Whereabouts | None]:
    """What both of them pass to an agent, its peers, and how it is found on this host."""
    if peers is None:
        peers = os.environ.get("CONVOCA_PEERS", "").replace(",", " ").split() or None
    given = [peers] if isinstance(peers, str) else list(peers or ())
    alone = peers is not None or not is_loopback(listen.rpartition(":")[0])
    options = {"cluster": team, "listen": listen, "peers": given}
    return options, given, None if alone else Whereabouts(team, name)

"""Addresses of agents as text: `host:port`, with an optional path behind it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from replication.errors import ConfigError

PATH = "/_replica"
"""Where an agent answers its peers, unless its address says otherwise."""


PORT_MAX = 65_535
_HOST = re.compile(r"[\w.%:-]+")
_PATH = re.compile(r"[\w./~@:+-]*", re.ASCII)
"""What needs no quoting in a URL, and is no pattern to whoever routes it."""


def split_address(address: str) -> tuple[str, int, str]:
    """`host:port[/path]` as (host, port, path); an IPv6 host comes without its brackets.

    Raises:
        ConfigError: it is not of that form.
    """
    if "://" in address:
        raise ConfigError(
            f"{address!r} is not an address",
            hint="leave out the scheme: host:port",
        )
    place, slash, path = address.partition("/")
    host, colon, port = place.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not colon or not host or not 0 <= number <= PORT_MAX or not _PATH.fullmatch(path):
        raise ConfigError(
            f"{address!r} is not an address", hint="write host:port, e.g. 127.0.0.1:7001"
        )
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in host and inside == host:
        raise ConfigError(
            f"{address!r}: an IPv6 address stands in brackets", hint=f"write [{host}]:{port}"
        )
    if not _HOST.fullmatch(inside):
        raise ConfigError(f"{address!r}: {host!r} is neither a name nor an IP address")
    return inside, number, slash + path if slash else PATH


def port_of(address: str) -> int:
    """The port of an address, 0 if it has none."""
    port = address.partition("/")[0].rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() else 0


def joined_address(host: str, port: int, path: str = PATH) -> str:
    """The address of these, as `split_address` reads it."""
    return f"{f'[{host}]' if ':' in host else host}:{port}" + ("" if path == PATH else path)


def checked_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Addresses without the empty ones.

    Raises:
        ConfigError: one is not an address, or they are not a list of those.
    """
    if isinstance(addresses, str | bytes) or not isinstance(addresses, Iterable):
        raise ConfigError(
            f"addresses come as a list, not as {addresses!r:.80}", hint="['127.0.0.1:7001']"
        )
    given = tuple(addresses)
    for address in given:
        if not isinstance(address, str):
            raise ConfigError(f"{address!r:.80} is not an address", hint="'127.0.0.1:7001'")
        if address:
            split_address(address)
    return tuple(address for address in given if address)


def is_loopback(host: str) -> bool:
    """Whether a host name or address never leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

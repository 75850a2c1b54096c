"""Who may talk to an authority: on loopback anybody, elsewhere who shows a bearer token.

With one token there is one principal, and whoever has it may do everything; with a list of clients
(`clients.py`) each has a token of its own.

A page in a browser can make requests to this machine, under its own name by DNS rebinding.  So
without a token the ``Host`` that was asked for must be loopback too.  And it can post to any
address without reading the answer, which is enough to fence an op_id; a browser then names the
page's ``Origin``, and an origin that is not the authority's own is refused.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transactional.errors import InvalidRequestError, UnauthorizedError
from transactional.server.clients import ANYBODY, Client

if TYPE_CHECKING:
    import ssl

    from transactional.server.clients import ClientList

_BEARER: Final = b"Bearer "


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, and who may come."""

    host: str = "127.0.0.1"
    port: int = 7700
    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    clients: ClientList | None = None

    def __post_init__(self) -> None:
        if self.token is not None and self.clients is not None:
            raise InvalidRequestError("one token for all, or a list of clients; not both")
        if self.token is None and self.clients is None and not is_loopback(self.host):
            raise InvalidRequestError(
                f"{self.host} is not loopback: a bearer token is required to listen there"
            )

    def admit(
        self, host: str, authorization: str | None = None, origin: str | None = None
    ) -> Client:
        """Return whose request it is that has these headers.

        ``host`` is the Host header, port and all; bytes that are no text come as surrogates.

        Raises:
            UnauthorizedError: it may not pass.
        """
        shown = (authorization or "").encode(errors="surrogateescape")
        client = ANYBODY
        if self.clients is not None:
            if not shown.startswith(_BEARER):
                raise UnauthorizedError("the bearer token is missing or wrong")
            client = self.clients.client_of(shown.removeprefix(_BEARER))
        elif self.token is not None:
            if not hmac.compare_digest(shown, _BEARER + self.token.encode()):
                raise UnauthorizedError("the bearer token is missing or wrong")
        elif not is_loopback(_name_of(host)):
            raise UnauthorizedError(f"host {host!r} is not loopback")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise UnauthorizedError(f"the page of {origin!r} may not ask for {host!r}")
        return client


def _name_of(host: str) -> str:
    """Return a Host header without its port; of anything else, something that is not a name."""
    name, bracket, rest = host.partition("]")
    if bracket:
        return name + bracket if not rest or rest.startswith(":") else ""
    name, _, port = host.partition(":")
    return name if not port or port.isdecimal() else ""


def is_loopback(host: str) -> bool:
    """Say whether ``host``, a name or an address without port, is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

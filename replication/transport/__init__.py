"""How frames travel. A transport moves bytes; it knows nothing of what they say.

Theory of operation. `Transport` is the port: one request, one answer, every wait bounded.
`MemoryTransport`s talk within a process, over a `Switchboard`. `HttpTransport` posts, and keeps
WebSockets to hubs (`websocket`), so that an agent behind a NAT can be asked in turn; `circuit` says
how much of it an address that fails may hold. Its server also answers operators (`admin`, asked by
an `AdminClient`), who are not peers and never become members.

A name is looked up when it is first asked for: sockets are loaded by who opens one, a server by who
serves.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replication.transport.admin import BoundedLog
    from replication.transport.admin_client import AdminClient
    from replication.transport.base import Endpoint, LineNews, Serve, Traffic, Transport
    from replication.transport.circuit import Circuits
    from replication.transport.http import Application, HttpTransport
    from replication.transport.memory import MemoryTransport, Switchboard

ROOMS = {
    "AdminClient": "admin_client",
    "Application": "http",
    "BoundedLog": "admin",
    "Circuits": "circuit",
    "Endpoint": "base",
    "HttpTransport": "http",
    "LineNews": "base",
    "MemoryTransport": "memory",
    "Serve": "base",
    "Switchboard": "memory",
    "Traffic": "base",
    "Transport": "base",
}

__all__ = [
    "AdminClient",
    "Application",
    "BoundedLog",
    "Circuits",
    "Endpoint",
    "HttpTransport",
    "LineNews",
    "MemoryTransport",
    "Serve",
    "Switchboard",
    "Traffic",
    "Transport",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    return found

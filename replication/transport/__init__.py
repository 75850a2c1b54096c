"""How frames travel. A transport moves bytes; it knows nothing of what they say.

Theory of operation. `Transport` is the port: one request, one answer, every wait bounded.
`MemoryTransport`s talk within a process, over a `Switchboard`. `HttpTransport` posts, and keeps
WebSockets to hubs (`websocket`), so that an agent behind a NAT can be asked in turn; `circuit` says
how much of it an address that fails may hold. Its server also answers operators (`admin`), who are
not peers and never become members.
"""

from replication.transport.admin import AdminClient, BoundedLog, Endpoint
from replication.transport.base import (
    PATH,
    LineNews,
    Serve,
    Traffic,
    Transport,
    port_of,
    split_address,
)
from replication.transport.circuit import Circuits
from replication.transport.http import Application, HttpTransport, checked_addresses
from replication.transport.memory import MemoryTransport, Switchboard

__all__ = [
    "PATH",
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
    "checked_addresses",
    "port_of",
    "split_address",
]

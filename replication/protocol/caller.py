"""Who sent a request, as far as whoever carried it can tell.

Theory of operation. A frame says who its sender claims to be. Two more facts are known only to the
connection that it came over: where its sender can be asked in turn while that connection lasts
(`via`; the only way to an agent behind a NAT), and which names a client certificate proves.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The far end of a connection.

    Attributes:
        via: while it stays connected, requests to it may be sent there; "" for nowhere.
        names: that its client certificate proves; empty without one.
    """

    via: str = ""
    names: frozenset[str] = frozenset()


SOMEBODY = Caller()

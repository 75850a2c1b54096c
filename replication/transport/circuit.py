"""How much is risked on an address that keeps failing: an exchange now and then, a few at a time.

Theory of operation. A circuit breaker (Nygard 2007) without a sleep of its own. When to ask whom is
the protocol's business: it tries a dead member as rarely as is good for the network, and a breaker
that slept for half a minute on top of that made every heal wait for both. What is left to guard
here is what exchanges with such an address *hold*: connections, places among those under way, each
up to the total timeout. Once an address failed `FAILURES_MAX` times in a row its circuit is open:

    failures in a row      under way there     since the last began      another exchange
    < FAILURES_MAX         any                 any                       goes
    >= FAILURES_MAX        < PROBES_MAX        `pace_s` or more          goes, and probes it
    >= FAILURES_MAX        else                else                      is refused, unsent

Any answer closes it. More than one probe may be out, because what hung when a network healed hangs
on until it times out, and where half of all frames are lost three failures in a row mean nothing.
Pure: the simulator puts the same circuits before its network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FAILURES_MAX = 3
PROBES_MAX = 4
CIRCUITS_MAX = 4096
"""Addresses remembered as failing; beyond them the one that failed first is tried afresh."""


@dataclass(slots=True)
class Circuit:
    """How an address behaves: failures since its last answer, exchanges that are out."""

    failures: int = 0
    under_way: int = 0
    began_s: float = -math.inf


@dataclass(slots=True)
class Circuits:
    """The circuits of one agent. Nothing is remembered of an address that answers."""

    pace_s: float
    """Between two probes of an open circuit, at least."""
    _by_address: dict[str, Circuit] = field(default_factory=dict)

    def failures(self, address: str) -> int:
        """How often in a row it failed."""
        circuit = self._by_address.get(address)
        return 0 if circuit is None else circuit.failures

    def begin(self, address: str, now_s: float) -> bool:
        """Whether an exchange with it may go now; if so, `end` has to follow."""
        circuit = self._by_address.get(address)
        if circuit is None:
            self._forget_one()
            circuit = self._by_address[address] = Circuit()
        if circuit.failures >= FAILURES_MAX and (
            circuit.under_way >= PROBES_MAX or now_s - circuit.began_s < self.pace_s
        ):
            return False
        circuit.under_way += 1
        circuit.began_s = now_s
        return True

    def end(self, address: str, *, answered: bool) -> None:
        """An exchange that began is over; whatever was answered, an answer closes the circuit."""
        circuit = self._by_address[address]
        circuit.under_way -= 1
        circuit.failures = 0 if answered else circuit.failures + 1
        if not circuit.failures and not circuit.under_way:
            del self._by_address[address]

    def _forget_one(self) -> None:
        if len(self._by_address) >= CIRCUITS_MAX:
            at_rest = (a for a, circuit in self._by_address.items() if not circuit.under_way)
            if (oldest := next(at_rest, None)) is not None:
                del self._by_address[oldest]

"""What an address that keeps failing may hold; the tables of `transport.circuit`, row by row."""

from __future__ import annotations

from replication.transport import circuit
from replication.transport.circuit import FAILURES_MAX, PROBES_MAX, Circuits

PACE_S = 0.5


def failing(circuits: Circuits, address: str, times: int = FAILURES_MAX) -> None:
    for _ in range(times):
        assert circuits.begin(address, 0.0)
        circuits.end(address, answered=False)


def test_an_open_circuit_is_probed_whenever_its_address_is_due():
    """Once per pace, however long it failed before: it does not sleep on top of that."""
    circuits = Circuits(PACE_S)
    failing(circuits, "a:1")
    for probe in range(1, 100):
        assert not circuits.begin("a:1", probe * PACE_S - 0.01)
        assert circuits.begin("b:1", probe * PACE_S), "others do not pay for it"
        assert circuits.begin("a:1", probe * PACE_S)
        circuits.end("a:1", answered=False)
    assert circuits.failures("a:1") == FAILURES_MAX + 99


def test_what_hangs_there_is_bounded_and_does_not_block_the_next_probe():
    """A probe that was out when the network healed hangs on; the next one finds that out."""
    circuits = Circuits(PACE_S)
    failing(circuits, "a:1")
    gone = [circuits.begin("a:1", second) for second in range(1, 10)]
    assert gone == [True] * PROBES_MAX + [False] * (9 - PROBES_MAX)
    circuits.end("a:1", answered=False)
    assert circuits.begin("a:1", 10.0)
    circuits.end("a:1", answered=True)
    assert all(circuits.begin("a:1", 10.0) for _ in range(9)), "an answer closes it at once"


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch):
    """One that answers leaves nothing; of many that fail the first to fail is forgotten."""
    monkeypatch.setattr(circuit, "CIRCUITS_MAX", 10)
    circuits = Circuits(PACE_S)
    for number in range(100):
        assert circuits.begin(f"well:{number}", 0.0)
        circuits.end(f"well:{number}", answered=True)
    assert circuits._by_address == {}
    assert circuits.begin("out:1", 0.0)
    for number in range(100):
        failing(circuits, f"ill:{number}")
    assert len(circuits._by_address) == 10
    assert "out:1" in circuits._by_address, "an exchange is out there: it has to find its circuit"
    assert circuits.failures("ill:0") == 0
    assert circuits.failures("ill:99") == FAILURES_MAX

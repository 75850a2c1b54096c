"""The synchronous twin: what the agent does, from a thread that knows no loop."""

from __future__ import annotations

import pytest

from crdt import PNCounter
from replication import (
    NotYetError,
    UnknownPeerError,
    Version,
)
from replication.agent import BlockingAgent


def test_the_synchronous_twin_does_the_same_without_await(tmp_path):
    """Counters, sets, batches, tokens and restarts from a thread that knows no loop."""
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        ada.counter("n").increment(2)
        ada.batch(lambda agent: (agent.orset("tags").add("x"), agent.orset("tags").add("y")))
        ada.durable(ada.version(), timeout_s=10)
        assert set(ada.orset("tags")) == {"x", "y"}
        assert "x" in ada.orset("tags")
        assert len(ada.orset("tags")) == 2
        with BlockingAgent("bob", peers=[ada.address]) as bob:
            bob.seen(ada.version(), timeout_s=10)
            assert bob.counter("n").value == 2
            assert [member.name for member in bob.members()] == ["ada"]
            assert bob.digest() == ada.digest()
        before = ada.id
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        assert (ada.id, ada.counter("n").value) == (before, 2)


def test_the_synchronous_twin_reads_at_least_and_resumes():
    """The same tokens from threads without a loop; a watch ends with its agent."""
    with BlockingAgent("ada") as ada, BlockingAgent("bob", peers=[ada.address]) as bob:
        watch = bob.watch("n")
        ada.counter("n").increment(3)
        seen = bob.read("n", PNCounter, at_least=ada.version(), timeout_s=10)
        assert seen.value == 3
        event = watch.take(timeout_s=10)
        assert [d.name for d in event.documents] == ["n"]
        with pytest.raises(TimeoutError):
            watch.take(timeout_s=0.05)
        token = watch.token
        watch.close()
        assert list(watch) == []
        bob.counter("n").increment(1)
        again = bob.watch("n", after=token)
        assert next(again).cause == "resume"
        with pytest.raises(NotYetError):
            ada.read("n", PNCounter, at_least=Version({"nobody~1": 9}), timeout_s=0.05)
        assert bob.quarantine() == {}
        with pytest.raises(UnknownPeerError):
            bob.skip(ada.id)

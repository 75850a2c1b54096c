"""Knobs: each within its range, and in agreement with its neighbours."""

from __future__ import annotations

from dataclasses import fields

import pytest

from crdt import ORSet, PNCounter
from replication import Config, ConfigError
from replication.config import LEAST, MAY_BE_ZERO, least_of
from replication.testing import Simulation

KIB = 1024


def test_the_defaults_agree_with_each_other():
    """And every knob is a number with its unit last in its name, or a count."""
    assert all(isinstance(getattr(Config(), knob.name), int | float) for knob in fields(Config))


@pytest.mark.parametrize(
    "knobs",
    [
        {"fanout": 0},
        {"fanout": -1},
        {"gossip_interval_s": "1"},
        {"gossip_interval_s": True},
        {"gossip_interval_s": 0.0},
        {"gossip_interval_s": 9.0},
        {"outbox_bytes_max": 511 * KIB},
        {"body_bytes_max": 511 * KIB},
        {"batch_bytes_max": 1024 * KIB},
        {"delta_bytes_max": 128 * KIB},
        {"delta_bytes_max": 512 * KIB - 1},
        {"connect_timeout_s": 20.0},
        {"read_timeout_s": 20.0},
        {"probe_timeout_s": 2.0},
        {"gossip_jitter": 1.0},
        {"fanout": 1.5},
        {"chunk_bytes": 1024.0},
        {"members_max": 1},
        {"gossip_interval_max_s": float("inf")},
        {"bandwidth_bytes_per_s": float("nan")},
    ],
    ids=lambda knobs: "-".join(map(str, *knobs.items())),
)
def test_a_knob_that_cannot_be_is_refused(knobs):
    """Out of range, or contradicting a neighbour: before anything is started."""
    with pytest.raises(ConfigError):
        Config(**knobs)


def test_a_constant_cannot_be_set():
    """What nobody has had a reason to set is not a knob."""
    with pytest.raises(TypeError):
        Config(members_per_frame=9)


@pytest.mark.parametrize("knob", fields(Config), ids=lambda knob: knob.name)
def test_no_knob_takes_what_agents_cannot_work_with(knob):
    """Counterexample: 0 exchanges at once passed; agents started and never replicated. And NaN."""
    wrong = [float("nan"), float("inf"), -1, "1", None, True]
    if knob.name not in MAY_BE_ZERO:
        wrong += [0, 0.0]
    for value in wrong:
        with pytest.raises(ConfigError, match=knob.name) as refused:
            Config(**{knob.name: value})
        assert str(knob.default) in refused.value.hint


SMALL = {
    "delta_bytes_target": LEAST["delta_bytes_target"],
    "batch_bytes_max": LEAST["batch_bytes_max"],
    "chunk_bytes": LEAST["chunk_bytes"],
}
PARTNERS = {
    "delta_bytes_max": SMALL,
    "body_bytes_max": SMALL,
    "outbox_bytes_max": SMALL,
    "gossip_interval_max_s": {"gossip_interval_s": 0.001},
    "total_timeout_s": {"read_timeout_s": 0.1, "connect_timeout_s": 0.001},
    "probe_interval_s": {"probe_timeout_s": 0.001},
}
IN_THE_SHELL = {
    "journal_retry_s",
    "stalled_s",
    "subscription_events_max",
    "lines_max",
    "replaced_bytes_max",
}


@pytest.mark.parametrize(
    "knob",
    [knob for knob in fields(Config) if knob.name not in IN_THE_SHELL],
    ids=lambda knob: knob.name,
)
def test_with_each_knob_at_its_least_agents_still_replicate(knob):
    """So a configuration that passes works; slower, perhaps. One that joins late gets all, too."""
    config = Config(**{knob.name: least_of(knob)}, **PARTNERS.get(knob.name, {}))
    sim = Simulation(("ada", "bob", "cyd"), seed=1, config=config)
    sim.run(2)
    for number in range(20):
        sim["ada"].document("set", ORSet).add(f"{number:050d}")
        sim["bob"].document("n", PNCounter).increment(1)
    assert sim.settle(60)
    sim.add("dan")
    assert sim.settle(60)
    assert sim["dan"].document("n", PNCounter).value == 20

"""Knobs: each within its range, and in agreement with its neighbours."""

from __future__ import annotations

from dataclasses import fields

import pytest

from replication import Config, ConfigError

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
        {"connect_timeout_s": 20.0},
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

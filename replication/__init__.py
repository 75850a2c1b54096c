"""Agents with local replicas, kept equal by gossip.

The front door: an `Agent` per process (or several), its errors, and the simulation that tests the
same machine in virtual time. `replication.protocol` is the sans-IO half; see docs/protocol.md.
"""

import logging

from replication.agent.admin import MemberView
from replication.agent.agent import Agent
from replication.agent.bounded import Bounded
from replication.agent.watch import ChangeEvent, Touched
from replication.config import Config
from replication.errors import (
    ClosedError,
    ConfigError,
    ForbiddenWriteError,
    JournalError,
    JournalFailedError,
    JournalHeldError,
    JournalUnreadableError,
    ListenError,
    NotYetError,
    ReplicationError,
    SecretRequiredError,
    UnacknowledgedError,
    UnknownDocumentTypeError,
    UnknownPeerError,
)
from replication.protocol.rules import Rules
from replication.testing.simulation import Faults, Simulation
from replication.version import Version

logging.getLogger("replication").addHandler(logging.NullHandler())  # quiet unless asked

__all__ = [
    "Agent",
    "Bounded",
    "ChangeEvent",
    "ClosedError",
    "Config",
    "ConfigError",
    "Faults",
    "ForbiddenWriteError",
    "JournalError",
    "JournalFailedError",
    "JournalHeldError",
    "JournalUnreadableError",
    "ListenError",
    "MemberView",
    "NotYetError",
    "ReplicationError",
    "Rules",
    "SecretRequiredError",
    "Simulation",
    "Touched",
    "UnacknowledgedError",
    "UnknownDocumentTypeError",
    "UnknownPeerError",
    "Version",
]

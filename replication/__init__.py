"""Agents with local replicas, kept equal by gossip.

The front door: an `Agent` per process (or several), its errors, and the simulation that tests the
same machine in virtual time. `replication.protocol` is the sans-IO half; see docs/protocol.md.

A name is looked up when it is first asked for: the pytest plugin lies behind this door, too, and
must not load sockets into every test run of a machine.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__distribution__ = "convoca"

if TYPE_CHECKING:
    from replication.agent import (
        Agent,
        BlockingAgent,
        BlockingBatch,
        BlockingBounded,
        BlockingWatch,
        Bounded,
        ChangedDocument,
        ChangeEvent,
        MemberView,
    )
    from replication.config import Config
    from replication.errors import (
        AlreadyStartedError,
        AwaitedBatchError,
        BatchExpiredError,
        ClosedError,
        ConfigError,
        ForbiddenWriteError,
        ForkedError,
        JournalError,
        JournalFailedError,
        JournalHeldError,
        JournalUnreadableError,
        ListenError,
        LoopEndedError,
        MemberAliveError,
        NotYetError,
        ReentrantCallError,
        ReplicationError,
        SecretRequiredError,
        UnacknowledgedError,
        UnknownDocumentTypeError,
        UnknownPeerError,
        WrongLoopError,
        WrongThreadError,
    )
    from replication.protocol import AccessPolicy
    from replication.testing import Faults, Simulation
    from replication.version import Version

logging.getLogger("replication").addHandler(logging.NullHandler())  # quiet unless asked

ROOMS = {
    "AccessPolicy": "protocol",
    "Agent": "agent",
    "AlreadyStartedError": "errors",
    "AwaitedBatchError": "errors",
    "BatchExpiredError": "errors",
    "BlockingAgent": "agent",
    "BlockingBatch": "agent",
    "BlockingBounded": "agent",
    "BlockingWatch": "agent",
    "Bounded": "agent",
    "ChangeEvent": "agent",
    "ChangedDocument": "agent",
    "ClosedError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "DocumentNameError": "errors",
    "Faults": "testing",
    "ForbiddenWriteError": "errors",
    "ForkedError": "errors",
    "JournalError": "errors",
    "JournalFailedError": "errors",
    "JournalHeldError": "errors",
    "JournalUnreadableError": "errors",
    "ListenError": "errors",
    "LoopEndedError": "errors",
    "MemberAliveError": "errors",
    "MemberView": "agent",
    "NoAnswerError": "errors",
    "NoJournalError": "errors",
    "NotYetError": "errors",
    "Reached": "protocol",
    "ReentrantCallError": "errors",
    "ReplicationError": "errors",
    "SecretRequiredError": "errors",
    "Simulation": "testing",
    "UnacknowledgedError": "errors",
    "UncopyableAgentError": "errors",
    "UnknownDocumentTypeError": "errors",
    "UnknownPeerError": "errors",
    "Version": "version",
    "WrongLoopError": "errors",
    "WrongThreadError": "errors",
}

__all__ = [
    "AccessPolicy",
    "Agent",
    "AlreadyStartedError",
    "AwaitedBatchError",
    "BatchExpiredError",
    "BlockingAgent",
    "BlockingBatch",
    "BlockingBounded",
    "BlockingWatch",
    "Bounded",
    "ChangeEvent",
    "ChangedDocument",
    "ClosedError",
    "Config",
    "ConfigError",
    "Faults",
    "ForbiddenWriteError",
    "ForkedError",
    "JournalError",
    "JournalFailedError",
    "JournalHeldError",
    "JournalUnreadableError",
    "ListenError",
    "LoopEndedError",
    "MemberAliveError",
    "MemberView",
    "NotYetError",
    "ReentrantCallError",
    "ReplicationError",
    "SecretRequiredError",
    "Simulation",
    "UnacknowledgedError",
    "UnknownDocumentTypeError",
    "UnknownPeerError",
    "Version",
    "WrongLoopError",
    "WrongThreadError",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

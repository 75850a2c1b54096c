"""The agent: a replica with socket, disk and clock. Here is the only event loop of the package.

Theory of operation. The protocol is a pure machine; this wing gives it a body of I/O and an author
an object to call. What each room is for:

    agent       what an author calls: documents, waiting, watching, what operators decide
    runtime     what runs between `start` and `close`: the loop that executes `Effects`
    assembly    how a machine is put together from a journal, for agents and simulations alike
    watch       published changes, to each subscriber at its own pace
    admin       what operators see and do, metrics included
    vitals      delays, queues and arrivals, as measured
    bounded     the document whose mutator waits for the disk
    read_only   documents that the rules keep from this agent
    blocking    the synchronous twin, for threads and code without a loop
    proxy       documents that live in the twin's thread, as other threads use them
    loop_thread an event loop in a thread, and the calls that are carried to it
"""

from replication.agent.admin import MemberView
from replication.agent.agent import Agent
from replication.agent.assembly import SEED_BYTES, ReplicaSettings, assemble
from replication.agent.blocking import BlockingAgent, BlockingBounded, BlockingWatch
from replication.agent.bounded import Bounded
from replication.agent.proxy import BlockingBatch
from replication.agent.watch import ChangedDocument, ChangeEvent

__all__ = [
    "SEED_BYTES",
    "Agent",
    "BlockingAgent",
    "BlockingBatch",
    "BlockingBounded",
    "BlockingWatch",
    "Bounded",
    "ChangeEvent",
    "ChangedDocument",
    "MemberView",
    "ReplicaSettings",
    "assemble",
]

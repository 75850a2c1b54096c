"""What operators decide about a running agent: whom it talks to, who is gone, what is given up.

Theory of operation. None of this happens by itself. A verdict of the failure detector steers
traffic only; that a member is gone for good, or an event not worth waiting for, is somebody's
decision, and each is refused if it names what this agent does not know. Cutting a peer off is of
this agent and this run; retiring and skipping are told to everybody and never taken back.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from replication.errors import ForbiddenWriteError, UnknownPeerError
from replication.protocol.messages import Status
from replication.protocol.policy import SKIPPED, agent_of

if TYPE_CHECKING:
    from replication.agent.driver import Driver
    from replication.protocol.replica import Replica


def retire(driver: Driver, replica: Replica, peer: str) -> None:
    """Declare every member of that name, id or address gone for good."""
    found = replica.members.find(peer)
    if not found:
        raise UnknownPeerError(f"{peer!r} is no known member")
    for member in found:
        driver.call(partial(replica.leave, status=Status.RETIRED, who=member.replica))


def unblock(replica: Replica, peer: str, now_s: float) -> None:
    """End a block, and talk soon."""
    if peer not in replica.exchanges.blocked:
        raise UnknownPeerError(f"{peer!r} is not blocked")
    replica.exchanges.blocked.discard(peer)
    replica.scheduler.hurry(now_s)


def quarantine(replica: Replica) -> dict[str, str]:
    """Origin -> the events before which it stands, and why."""
    told = {}
    for origin, held in replica.gossip.intake.quarantine.items():
        first, last = held.span
        told[origin] = f"{first}-{last}: {held.why}"
    return told


def skip(replica: Replica, origin: str) -> None:
    """Give up the event before which an origin stands."""
    if origin not in replica.gossip.intake.quarantine:
        raise UnknownPeerError(f"{origin!r} is not in quarantine")
    name = agent_of(replica.id)
    if not replica.policy.may_write(name, SKIPPED):
        raise ForbiddenWriteError(f"the rules do not let {name} take back what others wrote")
    replica.skip(origin)

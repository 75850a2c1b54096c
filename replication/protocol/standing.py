"""Who has what, as told by the members themselves: the arithmetic behind tokens and lag.

Theory of operation. `Peer.known` is what a member told of its own disk, never what it is believed
to have; so counts made here may lag behind the truth and never run ahead of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replication.protocol.membership import Membership
    from replication.protocol.peers import EagerPush


def lag(members: Membership, eager: EagerPush, mine: Mapping[str, int]) -> dict[str, int]:
    """Per current member: events of `mine` that it is not known to have; O(members x origins)."""
    behind = {}
    for member in members.current():
        known = eager.peer(member.replica).known
        behind[member.replica] = sum(max(0, s - known.get(o, 0)) for o, s in mine.items())
    return behind


def holders(members: Membership, eager: EagerPush, wanted: Mapping[str, int]) -> int:
    """How many current members told that they durably have these events; O(members x origins)."""
    known = (eager.peer(member.replica).known for member in members.current())
    return sum(all(k.get(o, 0) >= s for o, s in wanted.items()) for k in known)


def stable(members: Membership, eager: EagerPush, mine: Mapping[str, int]) -> dict[str, int]:
    """The events of `mine` that every current member, dead ones included, told to have durably."""
    vector = dict(mine)
    for member in members.current():
        known = eager.peer(member.replica).known
        vector = {origin: min(seq, known.get(origin, 0)) for origin, seq in vector.items()}
    return vector

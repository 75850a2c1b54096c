"""A peer as its observers are told of it: a snapshot, not the row that gossip works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replication.protocol.membership import Member
    from replication.protocol.messages import Status


@dataclass(frozen=True, slots=True)
class MemberView:
    """A peer as this agent sees it. `heard_s` is seconds since its last frame."""

    id: str
    name: str
    address: str
    status: Status
    heard_s: float

    @classmethod
    def of(cls, member: Member, now_s: float) -> MemberView:
        """The view of a row at a moment."""
        heard_s = now_s - member.heard_s
        return cls(member.replica, member.name, member.address, member.status, heard_s)

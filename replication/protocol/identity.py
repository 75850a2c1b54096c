"""Whether this replica may go on writing under its id, and whether a peer may.

Theory of operation. A replica id belongs to one life of one journal. Three observations prove that
two lives share it, and each makes its owner take a new incarnation at once:

    a frame under our id that another boot made    it names our challenge, so that boot lives now
    a peer knows more of our events than we do     our disk was rolled back
    a peer met a later boot of our id              it says so in answer to a question of ours

The last two are a peer's word, and count if it may speak for others: of a leaf only its own events
are believed. None of them costs an id because somebody repeats what he recorded: a question that is
not fresh is not looked at, and an answer answers one question (`freshness`). Boots are ordered by
their ids, which begin with how often the journal was opened. So a frame that was held back since
before a restart, and is fresh still, is known to be of the former boot: it is refused, and the
later one goes on.

What was written before stays where it is, as events of a foreign origin; nothing is merged away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.errors import ForbiddenError, IdentityConflictError
from replication.protocol.policy import agent_of
from replication.protocol.shares import Shares

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from crdt import Kernel
    from replication.protocol.membership import Dice, Membership

BOOTS_MAX = 4096
BOOTS_PER_NAME_MAX = 64
"""Ids of one agent whose boots are remembered."""
RENEW_WAIT_S = 1.0
RENEW_WAIT_S_MAX = 3600.0
"""Between two new incarnations: the first is taken at once, then the wait doubles."""


@dataclass(slots=True)
class Identity:
    """One per replica."""

    kernel: Kernel
    members: Membership
    dice: Dice
    counts: Counter[str]
    _renewed_s: float = -math.inf
    _wait_s: float = 0.0
    _boots: Shares[str, bytes] = field(
        default_factory=lambda: Shares(BOOTS_PER_NAME_MAX, BOOTS_MAX)
    )
    """replica id -> the latest of its boots that was met."""

    def admit(self, replica: str, boot: bytes) -> None:
        """Check the sender of a frame.

        Raises:
            IdentityConflictError: it uses our id, or is of a boot before the latest one.
        """
        if replica == self.kernel.replica:
            raise IdentityConflictError("the sender uses the id of this replica")
        if boot < self._boots.get(replica, boot):
            raise IdentityConflictError(f"a later boot of {replica} was met here")
        self._boots[replica] = boot

    @staticmethod
    def vouch(replica: str, principal: str, certified: frozenset[str] | None = None) -> None:
        """Check that a sender uses the name that its key, and its certificate, speak for.

        `certified` are the names of its certificate, None where these are not asked for.

        Raises:
            ForbiddenError: it uses somebody else's.
        """
        name = agent_of(replica)
        if principal and name != principal:
            raise ForbiddenError(f"the key of {principal} does not speak for {name}")
        if certified is not None and name not in certified:
            raise ForbiddenError(f"no client certificate speaks for {name}")

    def outrun(self, vector: Mapping[str, int]) -> bool:
        """Whether a peer knows more of our own events than we do."""
        me = self.kernel.replica
        return vector.get(me, 0) > self.kernel.vector.get(me, 0)

    def renew(self, now_s: float) -> tuple[str, str] | None:
        """Go on under a new incarnation, if one is due; the old id and the new one.

        Views of documents stay valid.

        Each costs every vector an origin, so a peer that keeps claiming impossible events of ours
        is believed ever more rarely.
        """
        if now_s - self._renewed_s < self._wait_s:
            self.counts["re-incarnation:too-soon"] += 1
            return None
        self.counts["re-incarnated"] += 1
        self._renewed_s = now_s
        self._wait_s = min(max(2 * self._wait_s, RENEW_WAIT_S), RENEW_WAIT_S_MAX)
        old = self.kernel.replica
        fresh = f"{agent_of(old)}~{self.dice.getrandbits(64):016x}"
        self.kernel.reincarnate(fresh)
        self.members.reincarnated(fresh, now_s)
        return old, fresh

"""How much of a version vector a message has to carry.

Theory of operation. The vector is the digest (van Renesse et al. 2008), and sent whole it would be
most of the traffic of an idle cluster. Three tiers: when nothing changed since the last exchange
with a peer, 16 bytes of hash; when something did, the origins that changed; every tenth time, and
when we never met, all of it - which repairs whatever a lost answer made us believe wrongly.
A receiver turns any tier into "what the peer certainly has" (a lower bound), so a stale belief
costs redundant bytes and never an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication.protocol.messages import Digest, Tier
from replication.protocol.wire import vector_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replication.protocol.eager import Peer


def opening(mine: Mapping[str, int], peer: Peer, full_every: int) -> Digest:
    """The digest that opens an exchange with `peer`; O(origins)."""
    peer.exchanges += 1
    if peer.exchanges % full_every == 1:
        return full(mine)
    changed = {o: s for o, s in mine.items() if peer.shown.get(o, 0) != s}
    if not changed:
        return Digest(vector_hash(mine))
    return Digest(vector_hash(mine), Tier.CHANGED, changed)


def answering(mine: Mapping[str, int], peer: Peer, request: Digest) -> Digest:
    """The digest that answers `request`: a hash if equal, else what the peer needs to compare."""
    digest = vector_hash(mine)
    if digest == request.hash or request.tier is Tier.WANTED:
        return Digest(digest)
    if request.tier is Tier.CHANGED:
        named = {o: mine.get(o, 0) for o in request.vector}
        changed = {o: s for o, s in mine.items() if peer.shown.get(o, 0) != s}
        return Digest(digest, Tier.CHANGED, named | changed)
    return full(mine)


def full(mine: Mapping[str, int]) -> Digest:
    """The whole vector."""
    return Digest(vector_hash(mine), Tier.FULL, dict(mine))


def lower_bound(request: Digest, mine: Mapping[str, int], peer: Peer) -> dict[str, int]:
    """What the sender of `request` certainly has, for origins that I have events of; O(origins)."""
    if request.tier is Tier.FULL:
        return dict(request.vector)
    if request.tier is Tier.WANTED:
        return {**mine, **request.vector}
    return {**peer.known, **request.vector}

"""How much of a version vector a message has to carry.

Theory of operation. The vector is the digest (van Renesse et al. 2008), and sent whole it would be
most of the traffic of an idle cluster. Three tiers: when nothing changed since the last exchange
with a peer, 16 bytes of hash; when something did, the origins that changed; every tenth time, and
when we never met, all of it - which repairs whatever a lost answer made us believe wrongly.

Entries of a vector are never pruned, and every crash leaves one behind. So between agents that met,
"all of it" names the origins of current members and what changed since; the many others, closed for
good, stand together as one hash. Whoever finds another hash over what was not named to it answers
with its whole vector.

A receiver turns any tier into "what the peer certainly has" (a lower bound), so a stale belief
costs redundant bytes and never an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication.protocol.messages import Digest, Tier
from replication.protocol.wire import vector_hash

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from crdt import VersionVector
    from replication.protocol.peers import Peer


FROZEN_LEAST = 16
"""Fewer unnamed origins are named: a hash of them would save nothing."""


def opening(mine: VersionVector, peer: Peer, full_every: int, current: Collection[str]) -> Digest:
    """The digest that opens an exchange with `peer`; `current` members' ids. O(origins)."""
    if peer.greeted() % full_every == 1:
        return whole(mine, peer, current)
    changed = _changed(mine, peer)
    if not changed:
        return Digest(vector_hash(mine))
    return Digest(vector_hash(mine), Tier.CHANGED, changed)


def answering(mine: VersionVector, peer: Peer, request: Digest, current: Collection[str]) -> Digest:
    """The digest that answers `request`: a hash if equal, else what the peer needs to compare."""
    digest = vector_hash(mine)
    if digest == request.hash or request.tier is Tier.WANTED:
        return Digest(digest)
    if request.tier is Tier.HASH:
        return whole(mine, peer, current)
    if request.tier is Tier.CHANGED or _is_rest_equal(request, mine):
        named = {o: mine.get(o, 0) for o in request.vector}
        return Digest(digest, Tier.CHANGED, named | _changed(mine, peer))
    return full(mine)


def whole(mine: VersionVector, peer: Peer, current: Collection[str]) -> Digest:
    """The whole vector, with what is not of now as one hash, if they met. O(what is of now)."""
    named = _changed(mine, peer) | {o: mine[o] for o in current if o in mine}
    if len(mine) - len(named) < FROZEN_LEAST or not peer.introduced:
        return full(mine)
    return Digest(vector_hash(mine), Tier.CURRENT, named, mine.digest_without(named))


def _changed(mine: VersionVector, peer: Peer) -> dict[str, int]:
    return mine.changed(peer.shown)


def full(mine: Mapping[str, int]) -> Digest:
    """The whole vector."""
    return Digest(vector_hash(mine), Tier.FULL, dict(mine))


def joining(mine: Mapping[str, int]) -> Digest:
    """The whole vector of one who is being given a state."""
    return Digest(vector_hash(mine), Tier.JOINING, dict(mine))


def reported(request: Digest, mine: VersionVector) -> Mapping[str, int]:
    """What `request` says of the vector of its sender, with what its hash of the rest proves."""
    return mine.replaced(request.vector) if _is_rest_equal(request, mine) else request.vector


def lower_bound(request: Digest, mine: VersionVector, peer: Peer) -> Mapping[str, int]:
    """What the sender of `request` certainly has, for origins that I have events of.

    O(origins that it names).
    """
    if request.tier in {Tier.FULL, Tier.JOINING}:
        return request.vector
    if request.tier is Tier.WANTED or _is_rest_equal(request, mine):
        return mine.replaced(request.vector)
    return peer.known.replaced(request.vector)


def _is_rest_equal(request: Digest, mine: VersionVector) -> bool:
    """Whether all that the request left out is here, and the same."""
    return request.tier is Tier.CURRENT and mine.digest_without(request.vector) == request.rest

"""How much of a vector each digest carries, and what its reader makes of it."""

from __future__ import annotations

from crdt import VersionVector
from replication.protocol.digest import (
    FROZEN_LEAST,
    answering,
    full,
    lower_bound,
    opening,
    reported,
)
from replication.protocol.messages import Digest, Tier
from replication.protocol.peers import Peer


def test_a_lost_origin_is_found_under_the_hash():
    """Two that differ only in what is not named learn so by the hash, and exchange all of it."""
    mine = VersionVector(
        {f"old~{number}": 5 for number in range(FROZEN_LEAST)} | {"ada~1": 9, "bob~1": 3}
    )
    theirs, now = mine.replaced({"bob~1": 4}), {"ada~1", "bob~1"}
    peer = Peer(shown=mine, introduced=True)
    peer.exchanges = 10
    digest = opening(mine, peer, 10, now)
    assert (digest.tier, digest.vector) == (Tier.CURRENT, {"ada~1": 9, "bob~1": 3})
    other = Peer(shown=mine, introduced=True)
    assert reported(digest, theirs) == lower_bound(digest, theirs, other) == mine
    assert answering(theirs, other, digest, now).vector == {"ada~1": 9, "bob~1": 4}
    theirs = theirs.replaced({"old~0": 6})
    assert reported(digest, theirs) == {"ada~1": 9, "bob~1": 3}
    assert lower_bound(digest, theirs, other) == {"ada~1": 9, "bob~1": 3}
    answer = answering(theirs, other, digest, now)
    assert (answer.tier, answer.vector) == (Tier.FULL, theirs)


def test_a_newcomer_and_a_small_cluster_get_every_origin_by_name():
    """Before two met, and while a hash would save nothing."""
    mine = VersionVector({f"old~{number}": 5 for number in range(FROZEN_LEAST)})
    assert opening(mine, Peer(), 10, ()).tier is Tier.FULL
    peer = Peer(shown=mine, introduced=True)
    assert opening(VersionVector(dict(list(mine.items())[1:])), peer, 10, ()).tier is Tier.FULL
    peer = Peer(shown=mine, introduced=True)
    assert opening(mine, peer, 10, ()).tier is Tier.CURRENT


def test_equal_vectors_are_a_hash_each_way():
    """The idle case: nothing changed since they met, and nothing is missing."""
    mine = VersionVector({"ada~1": 3, "bob~1": 4})
    peer = Peer(shown=mine, introduced=True)
    peer.exchanges = 1
    digest = opening(mine, peer, 10, ())
    assert (digest.tier, digest.vector) == (Tier.HASH, {})
    assert answering(mine, peer, digest, ()) == Digest(digest.hash)


def test_every_tenth_exchange_names_all_and_the_others_what_changed():
    """What a lost answer made us believe is repaired sooner or later."""
    mine = VersionVector({"ada~1": 3, "bob~1": 4})
    peer = Peer(shown=mine.replaced({"ada~1": 2}), introduced=True)
    tiers = [opening(mine, peer, 10, ()).tier for _ in range(20)]
    assert [n for n, tier in enumerate(tiers) if tier is Tier.FULL] == [0, 10]
    assert set(tiers) == {Tier.FULL, Tier.CHANGED}
    assert opening(mine, peer, 100, ()).vector == {"ada~1": 3}


def test_any_tier_is_read_as_a_lower_bound():
    """A stale belief costs redundant bytes and never an event."""
    mine = VersionVector({"ada~1": 9, "bob~1": 9})
    peer = Peer(known=VersionVector({"ada~1": 5}))
    assert lower_bound(full({"bob~1": 2}), mine, peer) == {"bob~1": 2}
    assert lower_bound(Digest(b"", Tier.CHANGED, {"bob~1": 2}), mine, peer) == {
        "ada~1": 5,
        "bob~1": 2,
    }
    assert lower_bound(Digest(b"", Tier.WANTED, {"bob~1": 2}), mine, peer) == {
        "ada~1": 9,
        "bob~1": 2,
    }

"""Leases and the keys that go with them, on every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.transactional.counting import calls
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.transactional.conftest import HandClock


async def test_keys_go_with_their_lease(timed_store: t.Store, hand_clock: HandClock) -> None:
    """At its deadline a lease takes its keys along, in one commit; others stay."""
    lease = await timed_store.lease(10)
    await timed_store.commit([], [t.Put("a", b"", lease.id), t.Put("b", b"", lease.id)])
    await timed_store.commit([], [t.Put("c", b"")])
    hand_clock.forward(9.9)
    await timed_store.commit([t.LeaseAlive(lease.id)], [t.Put("proof", b"")])
    hand_clock.forward(0.1)
    with pytest.raises(t.LeaseExpiredError):
        await timed_store.commit([], [t.Put("d", b"", lease.id)])
    assert list((await timed_store.scan("")).items) == ["c", "proof"]


async def test_a_renewed_lease_lives_on_and_a_dead_one_stays_dead(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[transactional 20] Renewal starts the time anew; at the deadline it is too late, for ever."""
    lease = await timed_store.lease(10)
    for _ in range(3):
        hand_clock.forward(9)
        assert await timed_store.renew(lease.id) == lease
    hand_clock.forward(10)
    for _ in range(2):
        with pytest.raises(t.LeaseExpiredError):
            await timed_store.renew(lease.id)
    with pytest.raises(t.ConflictError):
        await timed_store.commit([t.LeaseAlive(lease.id)], [t.Put("a", b"")])


async def test_revoking_ends_a_lease_at_once_and_twice_is_fine(store: t.Store) -> None:
    """Revoke deletes the keys now; revoking what is over has no effect."""
    lease = await store.lease(60)
    await store.commit([], [t.Put("a", b"", lease.id)])
    await store.revoke(lease.id)
    await store.revoke(lease.id)
    assert await store.get("a") is None
    with pytest.raises(t.LeaseExpiredError):
        await store.renew(lease.id)


async def test_a_put_without_lease_detaches_the_key(store: t.Store) -> None:
    """The last put decides whether a key is leased."""
    lease = await store.lease(60)
    await store.commit([], [t.Put("a", b"1", lease.id)])
    await store.commit([], [t.Put("a", b"2")])
    await store.revoke(lease.id)
    assert await store.get("a") is not None


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 1e9])
async def test_a_lease_of_no_sensible_length_is_refused(store: t.Store, ttl_s: float) -> None:
    """ttl_s has limits on both sides."""
    with pytest.raises(t.InvalidRequestError):
        await store.lease(ttl_s)


async def test_the_end_of_a_lease_costs_its_own_keys(hand_clock: HandClock) -> None:
    """In memory, too: beside ten keys of others and beside ten thousand."""
    costs = []
    for others in (10, 10_000):
        store = MemoryStore(clock=hand_clock.clock())
        kept = await store.lease(60)
        for first in range(0, others, 100):
            many = range(first, min(first + 100, others))
            await store.commit([], [t.Put(f"k{n}", b"", kept.id) for n in many])
        lease = await store.lease(60)
        await store.commit([], [t.Put("mine/1", b"", lease.id), t.Put("mine/2", b"", lease.id)])
        await store.commit([], [t.Put("mine/2", b"", kept.id)])  # it has another one now
        with calls() as made:
            await store.revoke(lease.id)
        assert list((await store.scan("mine/")).items) == ["mine/2"]
        costs.append(made[0])
        await store.close()
    assert costs[0] == costs[1]

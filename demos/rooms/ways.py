"""Five ways to book one room for one slot, each as an agent would write it.

An agent looks whether the room is free, thinks for a moment, as agents do, and books. Whatever
happens while it thinks is what the five ways differ in:

    way                       looks at          books by                    while it thinks
    naive shared dict         the dict          an assignment               others see it free
    LWW register              its own replica   a write that merges         others see it free
    compare-and-swap, retried the store         a write that compares the   the first write wins,
                                                revision it saw             the others look again
    lock with fence           the store, once   a write that compares the   others wait for the lock
                              it has the lock   lock's fence
    hold and confirm          the store         a hold, then a booking      others see it held

The third thing that an agent does is to fail, and two of the ways show what comes of it. Whoever
has the lock first sleeps through its lease, like a laptop whose lid is shut, and writes late;
whoever holds first is killed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from demos.stage import tell
from transactional import (
    BookingConflict,
    BookingEndedError,
    ConflictError,
    Interval,
    Lock,
    Put,
    Register,
    Reservations,
    create,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, MutableMapping

    from replication import Agent
    from transactional import Store

ROOM = "turing"
SLOT = Interval(datetime(2030, 1, 7, 14, tzinfo=UTC), datetime(2030, 1, 7, 15, tzinfo=UTC))
DICT, LWW, CAS, LOCK, HOLD = (
    "naive shared dict",
    "LWW register",
    "compare-and-swap, retried",
    "lock with fence",
    "hold and confirm",
)
NAIVE = (DICT, LWW)
THINK_S = (0.02, 0.06)
LEASE_S = 1.0
HOLD_S = 1.5
LOCK_WAIT_S = 30.0
KILLED_WITHIN_S = 60.0
"""How long the one that is to be killed waits for it."""


@dataclass(frozen=True, slots=True)
class Means:
    """What an agent has: its name and dice, and each place where a room may be written down."""

    name: str
    dice: random.Random
    shared: MutableMapping[str, str]
    agent: Agent
    store: Store

    async def think(self) -> None:
        """Take the time that an agent takes between looking and acting."""
        await asyncio.sleep(self.dice.uniform(*THINK_S))

    async def first(self, what: str) -> bool:
        """Whether nobody was here before; one agent of all is told yes."""
        try:
            await create(self.store, f"first/{what}", self.name.encode())
        except ConflictError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent tells whoever sent it, how often it tried to write, and how often too late."""

    booked: bool
    attempts: int
    late: int = 0


def place(way: str) -> str:
    """The key of the room in the store, for the ways that write it there themselves."""
    return f"room/{way}/{ROOM}"


async def naive_dict(means: Means) -> Answer:
    """Look into the dict that all share, think, write into it."""
    if means.shared.get(ROOM) is not None:
        return Answer(booked=False, attempts=0)
    await means.think()
    means.shared[ROOM] = means.name
    return Answer(booked=True, attempts=1)


async def lww_register(means: Means) -> Answer:
    """The same with a replicated register: it converges, and of all writes it keeps the last."""
    room = means.agent.register(f"room/{ROOM}")
    if room.value is not None:
        return Answer(booked=False, attempts=0)
    await means.think()
    room.set(means.name)
    return Answer(booked=True, attempts=1)


async def compare_and_swap(means: Means) -> Answer:
    """Write only if the room still is at the revision that was seen; else look again."""
    room, attempts = Register(means.store, place(CAS), by=means.name), 0
    while True:
        seen = await room.get()
        if seen.value is not None:
            return Answer(booked=False, attempts=attempts)
        await means.think()
        attempts += 1
        try:
            await room.set(means.name, expected=seen.revision)
        except ConflictError:
            continue
        return Answer(booked=True, attempts=attempts)


async def lock_with_fence(means: Means) -> Answer:
    """Only the holder of the lock looks and writes, and its write proves that it holds it still."""
    grant = await Lock(means.store, ROOM, owner=means.name, ttl_s=LEASE_S).acquire(
        wait_s=LOCK_WAIT_S
    )
    try:
        if await means.store.get(place(LOCK)) is not None:
            return Answer(booked=False, attempts=0)
        if await means.first(LOCK):
            time.sleep(2 * LEASE_S)  # noqa: ASYNC251 - the whole process: nothing renews the lease
        await means.think()
        try:
            await means.store.commit([*grant.fence], [Put(place(LOCK), means.name.encode())])
        except ConflictError:
            return Answer(booked=False, attempts=1, late=1)
        return Answer(booked=True, attempts=1)
    finally:
        await grant.release()


async def hold_and_confirm(means: Means) -> Answer:
    """Hold the slot, think, confirm; while a hold of somebody else is in the way, wait for it."""
    rooms, attempts = Reservations(means.store), 0
    while True:
        attempts += 1
        try:
            held = await rooms.hold(ROOM, SLOT, holder=means.name, ttl_s=HOLD_S)
        except BookingConflict as taken:
            if taken.retry_at is None:
                return Answer(booked=False, attempts=attempts)
            wait = taken.retry_at - await means.store.now()
            await asyncio.sleep(max(0.0, wait.total_seconds()) + means.dice.uniform(*THINK_S))
            continue
        if await means.first(HOLD):
            tell("holding")
            await asyncio.sleep(KILLED_WITHIN_S)
        await means.think()
        try:
            await rooms.confirm(held)
        except BookingEndedError:
            continue
        return Answer(booked=True, attempts=attempts)


WAYS: dict[str, Callable[[Means], Awaitable[Answer]]] = {
    DICT: naive_dict,
    LWW: lww_register,
    CAS: compare_and_swap,
    LOCK: lock_with_fence,
    HOLD: hold_and_confirm,
}

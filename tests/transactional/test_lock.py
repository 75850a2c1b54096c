"""Locks: queues, leases, fences, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from transactional import lock
from transactional.lock import (
    DeadlockError,
    Entry,
    Lock,
    LockBusyError,
    LockLostError,
    blockers,
    find_cycle,
)
from transactional.stores.etcd import EtcdStore
from transactional.stores.etcd_txn import get_range, kvs
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.transactional.conftest import HandClock
    from tests.transactional.engines import Engine


class Halting:
    """A store that gives up the loop before and after each call: every call can be cut."""

    def __init__(self, store: t.Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        if name in {"watch", "elapsed_s", "mint_op_id", "epoch", "capabilities"}:
            return found

        async def call(*arguments: object, **options: object) -> object:
            await asyncio.sleep(0)
            result = await found(*arguments, **options)
            await asyncio.sleep(0)
            return result

        return call


async def entries(store: t.Store) -> list[str]:
    return list((await store.scan("lock/")).items)


async def until_queued(store: t.Store, count: int) -> None:
    while len(await entries(store)) < count:  # noqa: ASYNC110 another process may be the one
        await asyncio.sleep(0.005)


async def leases_of(store: t.Store) -> int:
    """How many leases are alive in an engine that can be looked into."""
    if store.capabilities.engine == "postgresql":
        asked = f"SELECT count(*) FROM {store._sql.leases}"
        ((count,),) = await store._apart(asked)
        return count
    if isinstance(store, EtcdStore):
        _, answer = await store._one(get_range(*store._layout.heartbeats))
        return len(kvs(answer))
    state = getattr(store, "_state", store)
    return len(state._leases)


# --- decisions -----------------------------------------------------------------------------------


def entry(name: str, who: str, place: int, *, shared: bool = False, holding: str = "") -> Entry:
    return Entry(name, who + str(place), who, shared, tuple(holding.split()), place)


def test_exclusive_waits_for_all_ahead_and_shared_for_the_exclusive_ones() -> None:
    """Blockers gives those ahead that are in the way, the nearest last."""
    queue = [entry("r", "c", 3, shared=True), entry("r", "a", 1, shared=True), entry("r", "b", 2)]
    assert [e.owner for e in blockers(queue, 4, shared=False)] == ["a", "b", "c"]
    assert [e.owner for e in blockers(queue, 4, shared=True)] == ["b"]
    assert [e.owner for e in blockers(queue, 2, shared=False)] == ["a"]
    assert not blockers(queue, 1, shared=False)


def test_a_circle_of_three_is_found_by_whoever_closes_it() -> None:
    """A holds x wants y, b holds y wants z, c holds z wants x: c sees the circle, b did not."""
    held = [entry("x", "a", 1), entry("y", "b", 2), entry("z", "c", 3)]
    waits = [entry("y", "a", 4, holding="a1"), entry("z", "b", 5, holding="b2")]
    assert not find_cycle([*held, *waits], waits[-1])
    last = entry("x", "c", 6, holding="c3")
    cycle = find_cycle([*held, *waits, last], last)
    assert [e.owner for e in cycle] == ["c", "a", "b"]


def test_a_long_wait_that_is_no_circle_is_none() -> None:
    """Chains and a holder that waits for nothing are no deadlock."""
    held = [entry("x", "a", 1), entry("y", "b", 2)]
    waiting = entry("y", "a", 3, holding="a1")
    assert not find_cycle([*held, waiting], waiting)


def test_a_chain_of_many_thousand_waiters_is_followed_to_its_end() -> None:
    """Each holds one name and waits for the next one's: no depth is too deep, circle or not."""
    count = 5000
    held = [entry(f"n{number}", "h", number + 1) for number in range(count)]
    waits = [
        entry(f"n{number + 1}", "w", count + number + 1, holding=f"h{number + 1}")
        for number in range(count - 1)
    ]
    entries = [*held, *reversed(waits)]
    straight = entry("n0", "last", 3 * count, holding="elsewhere")
    assert not find_cycle([*entries, straight], straight)
    closing = entry("n0", "last", 3 * count, holding=f"h{count}")
    assert len(find_cycle([*entries, closing], closing)) == count


# --- on every engine -----------------------------------------------------------------------------


async def test_a_busy_lock_says_so_at_once_and_leaves_nothing(store: t.Store) -> None:
    """[transactional 17] wait_s=0 names the holder; no waiter, no lease stays behind."""
    async with Lock(store, "a", "b", owner="ann").held():
        before = await entries(store)
        with pytest.raises(LockBusyError) as caught:
            await Lock(store, "b", "c", owner="bob").acquire(wait_s=0)
        assert (caught.value.name, caught.value.holder) == ("b", "ann")
        assert await entries(store) == before
    assert not await entries(store)
    if not isinstance(store, t.stores.http.HTTPStore):
        assert await leases_of(store) == 0


async def test_of_many_that_do_not_wait_one_gets_it(engine: Engine) -> None:
    """[transactional 17] Fifty callers with wait_s=0 at once: one holds, the others are told."""
    clients = [await engine.client() for _ in range(3)]
    # Each has two seconds; with a round of a log for every step, a busy machine needs them.
    callers = 15 if isinstance(clients[0], EtcdStore) else 50

    async def attempt(number: int) -> object:
        try:
            return await Lock(clients[number % 3], "a", owner=str(number)).acquire(wait_s=0)
        except LockBusyError as error:
            return error

    results = await asyncio.gather(*map(attempt, range(callers)))
    assert sum(not isinstance(result, LockBusyError) for result in results) == 1
    assert len(await entries(clients[0])) == 1


async def test_waiters_are_served_in_the_order_they_came(engine: Engine) -> None:
    """[transactional 18] FIFO over several clients, and one wake-up per release."""
    clients = [await engine.client() for _ in range(3)]
    served: list[int] = []
    first = await Lock(clients[0], "a", owner="first").acquire()

    async def wait(number: int) -> None:
        async with Lock(clients[number % 3], "a", owner=str(number)).held(wait_s=60):
            served.append(number)

    tasks = []
    for number in range(12):
        tasks.append(asyncio.create_task(wait(number)))
        await until_queued(clients[0], number + 2)
    await first.release()
    await asyncio.gather(*tasks)
    assert served == list(range(12))


async def test_a_release_wakes_one_waiter(store: t.Store) -> None:
    """[transactional 18] Each waiter watches the one ahead: a release ends exactly one watch."""
    watched: list[str] = []
    real_watch = type(store).watch

    class Counting(Halting):
        def watch(self, prefix: str, *, after: int | None = None) -> object:
            watched.append(prefix)
            return real_watch(store, prefix, after=after)

    counting = Counting(store)
    first = await Lock(store, "a", owner="first").acquire()

    async def wait(number: int) -> None:
        async with Lock(counting, "a", owner=str(number)).held(wait_s=60):
            pass

    tasks = []
    for number in range(6):
        tasks.append(asyncio.create_task(wait(number)))
        await until_queued(store, number + 2)
        while len(watched) < number + 1:  # noqa: ASYNC110 the watch is set up behind a socket
            await asyncio.sleep(0.005)
    await first.release()
    await asyncio.gather(*tasks)
    assert len(watched) == len(set(watched)) == 6


class Counting(Halting):
    """A store that counts what is asked of it: calls, and the keys that were read."""

    def __init__(self, store: t.Store) -> None:
        super().__init__(store)
        self.made = self.keys = self.watches = 0

    def __getattr__(self, name: str) -> object:
        self.made += name not in {"elapsed_s", "mint_op_id", "epoch", "capabilities"}
        self.watches += name == "watch"
        return super().__getattr__(name)

    async def scan(self, prefix: str, **options: object) -> t.Snapshot:
        self.made += 1
        page = await self._store.scan(prefix, **options)
        self.keys += len(page.items)
        return page


async def line_of_waiters(store: Counting, count: int, *, shared: bool) -> list[asyncio.Task]:
    """So many waiters for a lock that is held, each in its place before the next one comes."""
    waits = []
    for number in range(count):
        waiting = Lock(store, "a", owner=str(number), ttl_s=3600, shared=shared and number % 2 == 0)
        waits.append(asyncio.create_task(waiting.acquire(wait_s=3600)))
        while store.watches <= number:  # noqa: ASYNC110 a condition of the store
            await asyncio.sleep(0)
    return waits


@pytest.mark.parametrize("shared", [False, True])
async def test_a_hand_over_costs_the_same_before_few_waiters_and_many(
    shared: bool,
) -> None:
    """In calls and in keys that are read: to the first, to one in the middle, and to enter."""
    costs = []
    for count in (80, 400):
        store = Counting(MemoryStore())
        first = await Lock(store, "a", owner="first", ttl_s=3600).acquire()
        waits = await line_of_waiters(store, count, shared=shared)
        cost = []
        for leaving in (first, None):
            before, keys = store.made, store.keys
            if leaving is None:  # somebody in the middle gives up: the next one looks further ahead
                waits[count // 2].cancel()
                await asyncio.gather(waits[count // 2], return_exceptions=True)
            else:
                await leaving.release()
                await waits[0]
            for _ in range(50):
                await asyncio.sleep(0)
            cost.append((store.made - before, store.keys - keys))
        before, keys = store.made, store.keys
        with pytest.raises(LockBusyError) as busy:
            await Lock(store, "a", owner="hasty").acquire(wait_s=0)
        assert busy.value.holder == "0"
        cost.append((store.made - before, store.keys - keys))
        costs.append(cost)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await store.close()
    assert costs[0] == costs[1]


async def test_many_who_come_at_once_are_served_in_the_order_of_their_tokens(
    engine: Engine,
) -> None:
    """More than a page of them, exclusive and shared, some of whom give up: nobody overtakes."""
    dice = random.Random(seed := seeds(1)[0])
    print(f"replay: CONVOCA_SEED={seed}")
    clients = [await engine.client() for _ in range(3)]
    first = await Lock(clients[0], "a", owner="first").acquire()
    held: dict[int, bool] = {}
    served: list[tuple[int, bool]] = []

    async def use(number: int) -> None:
        shared = number % 3 == 0
        lock_ = Lock(clients[number % 3], "a", owner=str(number), shared=shared)
        with contextlib.suppress(LockBusyError, t.UnavailableError):
            grant = await lock_.acquire(wait_s=0.01 if number % 7 == 0 else 60)
            assert all(shared and other for other in held.values()), held
            held[grant.token] = shared
            served.append((grant.token, shared))
            await asyncio.sleep(dice.random() * 0.002)
            del held[grant.token]
            await grant.release()

    tasks = [asyncio.create_task(use(number)) for number in range(60)]
    await until_queued(clients[0], 50)
    await first.release()
    await asyncio.gather(*tasks)
    exclusive = [token for token, shared in served if not shared]
    assert exclusive == sorted(exclusive)
    for number, (token, shared) in enumerate(served):
        ahead = [other for other, kind in served[:number] if not (shared and kind)]
        assert all(other < token for other in ahead)
    assert len(served) > 45
    assert not await entries(clients[0])


async def test_a_crowd_enters_by_turns(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin together: few have a lease and no place in the line yet, whoever comes later."""
    monkeypatch.setattr(lock, "ENTERING_MAX", 8)
    count = rounds(400, 40)
    store = Crowd(await engine.client())
    first = await Lock(store, "a", owner="first", ttl_s=60).acquire()
    served: list[int] = []

    async def use(number: int) -> None:
        grant = await Lock(store, "a", owner=str(number), ttl_s=60).acquire(wait_s=3600)
        served.append(grant.token)
        await grant.release()

    tasks = [asyncio.create_task(use(number)) for number in range(count)]
    while store.lined_up < count:  # noqa: ASYNC110 a condition of the store
        await asyncio.sleep(0.01)
    await first.release()
    await asyncio.gather(*tasks)
    assert store.entering_most <= lock.ENTERING_MAX
    assert served == sorted(served)
    assert len(served) == count
    assert not await entries(store)


class Crowd:
    """A store that counts the acquisitions with a lease and without a place in a line."""

    def __init__(self, store: t.Store) -> None:
        self._store = store
        self.leases = self.lined_up = self.entering_most = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def lease(self, ttl_s: float) -> t.Lease:
        self.leases += 1
        # The first one has the lock, and lines up never.
        self.entering_most = max(self.entering_most, self.leases - 1 - self.lined_up)
        return await self._store.lease(ttl_s)

    async def commit(self, compares, writes, *given, **named) -> t.Commit:
        made = await self._store.commit(compares, writes, *given, **named)
        self.lined_up += any(isinstance(w, t.Put) and "/wait/" in w.key for w in writes)
        return made


async def test_who_cannot_even_enter_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once if too many wait to enter, else when his time is over; the store heard nothing."""
    monkeypatch.setattr(lock, "ENTERING_MAX", 1)
    monkeypatch.setattr(lock, "GATE_MAX", 1)
    mute = Mute(MemoryStore())
    mute.dead = frozenset({"lease"})
    entering = asyncio.create_task(Lock(mute, "a", owner="ann").acquire(wait_s=3600))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(Lock(mute, "b", owner="bob").acquire(wait_s=0.05))
    await asyncio.sleep(0)
    with pytest.raises(t.TooManyRequestsError, match="wait to enter"):
        await Lock(mute, "c", owner="cyd").acquire(wait_s=3600)
    with pytest.raises(t.TooManyRequestsError, match="before it was our turn"):
        await waiting
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    mute.dead = frozenset()
    async with Lock(mute, "b", owner="bob").held():
        pass
    assert not await entries(mute)
    await mute.close()


async def test_shared_holders_share_and_an_exclusive_one_waits_his_turn(store: t.Store) -> None:
    """Readers together; a writer waits for them; readers behind the writer wait for him."""
    one = await Lock(store, "a", owner="r1", shared=True).acquire()
    two = await Lock(store, "a", owner="r2", shared=True).acquire()
    writer = asyncio.create_task(Lock(store, "a", owner="w").acquire(wait_s=60))
    await until_queued(store, 3)
    with pytest.raises(LockBusyError):
        await Lock(store, "a", owner="r3", shared=True).acquire(wait_s=0)
    await one.release()
    assert not writer.done()
    await two.release()
    await (await writer).release()


async def test_a_sleeper_cannot_write_with_his_old_fence(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[transactional 19] Paused past his lease, another acquires: the first one's write fails."""
    sleeper = await Lock(timed_store, "a", owner="sleeper", ttl_s=10).acquire()
    await timed_store.commit([*sleeper.fence], [t.Put("room", b"sleeper")])
    hand_clock.forward(11)
    await timed_store.commit([], [t.Put("tick", b"")])
    successor = await Lock(timed_store, "a", owner="successor", ttl_s=10).acquire(wait_s=0)
    assert successor.token > sleeper.token
    await timed_store.commit([*successor.fence], [t.Put("room", b"successor")])
    with pytest.raises(t.ConflictError):
        await timed_store.commit([*sleeper.fence], [t.Put("room", b"sleeper again")])
    found = await timed_store.get("room")
    assert found is not None
    assert found.value == b"successor"
    await successor.release()
    await sleeper.release()


async def test_wall_clock_jumps_mean_nothing_and_suspend_loses_the_lock(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[transactional 21] +-1 h of wall clock: still held; boot time past the ttl: lost at once."""
    grant = await Lock(timed_store, "a", owner="ann", ttl_s=1).acquire()
    for hour_us in (3_600_000_000, -7_200_000_000):
        hand_clock.wall_us += hour_us
        await timed_store.commit([*grant.fence], [t.Put("room", b"")])
    assert not grant.lost.is_set()
    hand_clock.elapsed_s += 1.0
    await asyncio.wait_for(grant.lost.wait(), 10)
    with pytest.raises(t.ConflictError):
        await timed_store.commit([*grant.fence], [t.Put("room", b"")])
    await grant.release()


async def test_losing_the_lock_inside_the_body_is_told_at_its_end(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[transactional 21] The async with ends with LockLostError."""

    async def sleep_too_long() -> None:
        async with Lock(timed_store, "a", owner="ann", ttl_s=1).held() as grant:
            hand_clock.elapsed_s += 2.0
            await grant.lost.wait()

    with pytest.raises(LockLostError):
        await sleep_too_long()


async def test_a_lock_held_for_many_ttls_is_renewed(store: t.Store) -> None:
    """[transactional 20] The keeper renews: after several ttls the same grant still holds."""
    async with Lock(store, "a", owner="ann", ttl_s=1.0).held() as grant:
        start_s = store.elapsed_s()
        while store.elapsed_s() - start_s < 2.5:
            await store.commit([*grant.fence], [t.Put("room", b"")])
            await asyncio.sleep(0.05)


async def test_several_names_together_never_deadlock(engine: Engine) -> None:
    """[transactional 22] A: r1, r2 and B: r2, r1, together: all finish, one at a time."""
    clients = [await engine.client() for _ in range(2)]
    inside = 0

    async def work(number: int) -> None:
        nonlocal inside
        dice = random.Random(number)
        for _ in range(rounds(60, 6)):
            names = dice.sample(["r1", "r2", "r3"], 2)
            async with Lock(clients[number % 2], *names, owner=str(number)).held(wait_s=60):
                inside += 1
                assert inside == 1  # any two of three names share one
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(*map(work, range(8)))
    assert not await entries(clients[0])


async def test_names_taken_apart_deadlock_and_one_is_told(store: t.Store) -> None:
    """[transactional 22] A holds r1 wants r2, B holds r2 wants r1: one DeadlockError, one wins."""
    both = asyncio.Barrier(2)

    async def work(owner: str, first: str, second: str) -> str:
        async with Lock(store, first, owner=owner).held():
            await both.wait()
            try:
                async with Lock(store, second, owner=owner).held(wait_s=60):
                    return "won"
            except DeadlockError as error:
                return f"deadlock {sorted(error.owners)} {sorted(error.names)}"

    results = await asyncio.gather(work("A", "r1", "r2"), work("B", "r2", "r1"))
    assert sorted(results) == ["deadlock ['A', 'B'] ['r1', 'r2']", "won"]
    assert not await entries(store)


async def test_giving_up_after_the_wait_names_the_holder_and_leaves_nothing(
    store: t.Store,
) -> None:
    """[transactional 23] wait_s over: LockBusyError with the holder, the queue is as before."""
    async with Lock(store, "a", owner="ann").held():
        waiting = asyncio.create_task(Lock(store, "a", owner="bob").acquire(wait_s=1))
        with pytest.raises(LockBusyError) as caught:
            await waiting
        assert caught.value.holder == "ann"
        assert len(await entries(store)) == 1


async def test_a_task_that_waits_for_itself_is_told(store: t.Store) -> None:
    """[transactional 22] Locks are not reentrant: the circle of one is a deadlock, too."""
    async with Lock(store, "a", owner="ann").held():
        with pytest.raises(DeadlockError):
            await Lock(store, "a", owner="ann").acquire(wait_s=60)
        assert len(await entries(store)) == 1


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
async def test_cancelling_at_any_moment_leaves_no_orphan(engine: Engine, busy: bool) -> None:
    """[transactional 23] Cut while acquiring, waiting or releasing: no entry and no lease stay."""
    real = await engine.client()
    halting = Halting(real)
    held = await Lock(real, "a", owner="ann").acquire() if busy else None
    expected = len(await entries(real))

    async def use() -> None:
        async with Lock(halting, "a", "b", owner="bob").held(wait_s=60):
            pass

    for steps in range(rounds(60, 40)):
        task = asyncio.create_task(use())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert len(await entries(real)) == expected, f"cut after {steps} steps"
    if held is not None:
        await held.release()
    async with Lock(real, "a", "b", owner="cyd").held(wait_s=0):
        pass
    if not isinstance(real, t.stores.http.HTTPStore):
        assert await leases_of(real) == 0


HOLDER = """
import asyncio, sys, transactional
async def main():
    async with transactional.open(sys.argv[1]) as store:
        async with transactional.Lock(store, "a", owner="child", ttl_s=1.0).held():
            print("held", flush=True)
            await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.mark.processes
async def test_the_next_one_gets_the_lock_when_its_holder_is_killed(tmp_path) -> None:
    """[transactional 24] kill -9 of the holder: the waiter holds within ttl + 1 s."""
    from tests.transactional.engines import HTTPEngine

    engine = HTTPEngine(tmp_path)
    store = await engine.client()
    assert engine.authority is not None
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, engine.authority.url, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"held\n"
    waiting = asyncio.create_task(Lock(store, "a", owner="heir").acquire(wait_s=2.0))
    await until_queued(store, 2)
    child.kill()
    await child.wait()
    grant = await waiting
    await grant.release()
    await engine.stop()


async def test_any_key_text_can_name_a_lock(store: t.Store) -> None:
    """Names with slashes do not meet in each other's queues."""
    async with (
        Lock(store, "a", owner="ann").held(wait_s=0),
        Lock(store, "a/b", owner="bob").held(wait_s=0),
        Lock(store, "a%2Fb", owner="cyd").held(wait_s=0),
    ):
        assert len(await entries(store)) == 3


@pytest.mark.parametrize("names", [(), ("",), ("x" * 2000,), tuple(map(str, range(61)))])
async def test_names_that_cannot_be_are_refused(store: t.Store, names: tuple[str, ...]) -> None:
    """No name, an empty, an overlong one and too many of them are InvalidRequestError."""
    with pytest.raises(t.InvalidRequestError):
        Lock(store, *names, owner="ann")


@pytest.mark.parametrize("wait_s", [float("nan"), -1.0])
async def test_a_wait_that_is_no_time_is_refused(store: t.Store, wait_s: float) -> None:
    """NaN compares with nothing: it must not be let through to a lock that somebody holds."""
    async with Lock(store, "a", owner="ann").held():
        with pytest.raises(t.InvalidRequestError):
            await Lock(store, "a", owner="bob").acquire(wait_s=wait_s)
        assert len(await entries(store)) == 1


async def test_a_deadlock_over_the_second_name_is_found_while_the_first_is_busy(
    store: t.Store,
) -> None:
    """[transactional 22] t1 holds r and wants (a, b); x holds a; t2 holds b and wants r: told.

    The look started from the first name that was blocked, a, whose holder waits for nobody.
    """
    x = await asyncio.create_task(Lock(store, "a", owner="x").acquire())  # another's, not ours
    holds_b = asyncio.Event()

    async def second() -> None:
        async with Lock(store, "b", owner="t2").held():
            holds_b.set()
            async with Lock(store, "r", owner="t2").held(wait_s=60):
                pass

    async def first() -> list[str]:
        async with Lock(store, "r", owner="t1").held():
            other = asyncio.create_task(second())
            await holds_b.wait()
            await until_queued(store, 4)  # a, r, b, and t2 in the queue for r
            with pytest.raises(DeadlockError) as caught:
                await Lock(store, "a", "b", owner="t1").acquire(wait_s=60)
        await other
        return sorted(caught.value.names)

    assert await first() == ["b", "r"]
    await x.release()
    assert not await entries(store)


class Mute(Halting):
    """A store that has stopped to answer to the calls that are named in ``dead``."""

    dead: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> object:
        if name not in self.dead:
            return getattr(self._store, name)

        async def call(*_: object, **__: object) -> object:
            return await asyncio.Event().wait()

        return call


@pytest.mark.parametrize("dead", ["lease", "commit", "revoke scan scan_at", "lease revoke commit"])
async def test_a_store_that_does_not_answer_does_not_stretch_the_wait(
    store: t.Store, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wait_s bounds the entering, too, and a cancellation is heeded while the store is silent."""
    monkeypatch.setattr(lock, "LET_GO_S", 0.05)
    mute = Mute(store)
    mute.dead = frozenset(dead.split())
    with pytest.raises(t.UnavailableError):
        async with asyncio.timeout(20):
            await Lock(mute, "a", owner="ann", ttl_s=0.5).acquire(wait_s=0.05)
    waiting = asyncio.create_task(Lock(mute, "a", owner="ann", ttl_s=0.5).acquire(wait_s=3600))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(20):
            await waiting
    while await entries(store):  # noqa: ASYNC110 what could not be ended runs out
        await asyncio.sleep(0.01)


async def test_a_lease_that_somebody_else_ended_is_noticed_at_once(store):
    """`lost` does not wait for the next renewal, which is ten seconds away here."""
    grant = await Lock(store, "room", owner="ann", ttl_s=30).acquire()
    lost = grant.lost
    assert not lost.is_set()
    (entry,) = (await store.scan("lock/")).items.values()
    await store.revoke(entry.lease)
    await asyncio.wait_for(lost.wait(), 5)
    assert grant.was_lost
    await grant.release()


async def test_a_lease_that_ends_before_the_queue_was_entered_is_a_lost_lock(store):
    """A commit slower than the lease: a documented error, and nothing is left behind."""
    slow_s = 4.5 if isinstance(store, EtcdStore) else 0.6  # etcd's live two seconds at least

    class Slow:
        """A store whose commits take longer than the lease lives, and which renews nothing."""

        def __getattr__(self, name):
            return getattr(store, name)

        async def commit(self, *given, **named):
            await asyncio.sleep(slow_s)
            return await store.commit(*given, **named)

        async def renew(self, lease):
            raise t.UnavailableError("away")

    with pytest.raises((LockLostError, t.UnavailableError)):
        await Lock(Slow(), "room", owner="ann", ttl_s=0.3).acquire(wait_s=5)
    assert (await store.scan("lock/")).items == {}


async def test_a_lost_answer_at_the_door_of_a_queue_is_documented(store):
    """Whether the place was taken is not known; the lease ends, and the place with it."""

    class Mute:
        """A store whose commits are applied and never answered."""

        def __getattr__(self, name):
            return getattr(store, name)

        async def commit(self, *given, op_id=None, **named):
            await store.commit(*given, op_id=op_id, **named)
            raise t.OutcomeUnknownError(op_id or "", "cut")

        async def resolve(self, op_id):
            raise t.UnavailableError("away")

    with pytest.raises(t.UnavailableError):
        await Lock(Mute(), "room", owner="ann", ttl_s=5).acquire(wait_s=1)
    assert (await store.scan("lock/")).items == {}

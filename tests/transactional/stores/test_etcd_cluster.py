"""Three members of etcd in trouble: nothing acknowledged is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import transactional as t
from tests.scale import SOAK, rounds, seeds
from tests.transactional.authority import Relay
from tests.transactional.etcd_cluster import EtcdCluster, Trouble
from tests.transactional.workloads import WORKLOADS, anomaly, run
from transactional.stores.etcd import EtcdStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("etcd cluster")]

PATIENT = t.Retry(attempts_max=100_000, deadline_s=60.0)
KINDS = ["kill", "pause", "isolate", "slow_down"]
SAMPLED = [workload for workload in WORKLOADS if workload != "queue"]
"""Without soak: of a queue's history in so much trouble no sample was short enough."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    cluster = EtcdCluster()
    cluster.start()
    yield cluster
    cluster.stop()


async def opened(url: str) -> EtcdStore:
    """Open a store though members are in trouble."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await EtcdStore.open(url)
            except t.UnavailableError:
                await asyncio.sleep(0.1)


class Ledger:
    """Writers that each add their own entries, and what each of them was told of every one."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.doubtful: dict[str, str] = {}
        self.refused: set[str] = set()
        self._ended = False

    async def write(self, store: t.Store, name: str, *, pause_s: float = 0.0) -> None:
        number = 0
        while not self._ended:
            number += 1
            key = f"entry/{name}/{number:06}"
            op_id = store.mint_op_id()
            # A counter beside it would show an entry that was made twice.
            try:
                commit = await store.commit([t.Absent(key)], [t.Put(key, b"")], op_id=op_id)
                self.acknowledged[key] = commit.revision
                await asyncio.sleep(pause_s)
            except t.OutcomeUnknownError:
                self.doubtful[key] = op_id
            except t.UnavailableError:
                self.refused.add(key)
                await asyncio.sleep(0.02)

    def end(self) -> None:
        self._ended = True

    async def check(self, store: t.Store) -> Counter[str]:
        """Compare what writers were told with what is there and with what a watch tells."""
        applied: dict[str, int] = {}
        for key, op_id in self.doubtful.items():
            outcome = await store.resolve(op_id)
            if isinstance(outcome, t.Applied):
                applied[key] = outcome.commit.revision
        found = (await t.scan_all(store, "entry/")).items
        there = {key: item.revision for key, item in found.items()}
        assert there == self.acknowledged | applied
        assert not self.refused & there.keys()
        told: Counter[str] = Counter()
        async for event in store.watch("entry/", after=0):
            assert isinstance(event, t.WatchEvent)
            told.update(change.key for change in event.changes)
            if event.revision >= max(there.values()):
                break
        assert told == Counter(there.keys())  # each exactly once
        return Counter(
            acknowledged=len(self.acknowledged),
            unknown=len(self.doubtful),
            applied=len(applied),
            refused=len(self.refused),
        )


@pytest.mark.parametrize("deed", ["kill", "pause"])
async def test_the_leader_falls_under_load(cluster: EtcdCluster, deed: str) -> None:
    """[transactional 16] SIGKILL and SIGSTOP: acknowledged-lost 0, applied-twice 0, all resolved.

    Fifty rounds of both together under soak.
    """
    url = cluster.url()
    stores = [await opened(url) for _ in range(4)]
    ledger = Ledger()
    writers = [asyncio.create_task(ledger.write(stores[n % 4], f"w{n}")) for n in range(16)]
    for _ in range(rounds(25, 2)):
        before = len(ledger.acknowledged)
        leader = await asyncio.to_thread(cluster.leader)
        undo = getattr(cluster, deed)(leader)
        await asyncio.sleep(0.3)
        async with asyncio.timeout(30):  # a majority is whole: writes go on
            while len(ledger.acknowledged) < before + 50:  # noqa: ASYNC110 writers go on
                await asyncio.sleep(0.02)
        undo()
        await asyncio.to_thread(cluster.settle)
    ledger.end()
    await asyncio.gather(*writers)
    counted = await ledger.check(stores[0])
    print(deed, dict(counted))
    for store in stores:
        await store.close()
    assert counted["acknowledged"] > 100


async def test_a_minority_acknowledges_nothing(cluster: EtcdCluster) -> None:
    """[transactional 16] A member that is cut off from the others, and its clients with it."""
    url = cluster.url()
    name = url.rpartition("/")[2].partition("?")[0]
    alone = await asyncio.to_thread(cluster.leader)
    inside = await opened(cluster.again(name, only=[alone]))
    outside = await opened(cluster.again(name, only=[n for n in range(3) if n != alone]))
    await inside.commit([], [t.Put("a", b"before")])
    undo = cluster.isolate(alone)
    await asyncio.sleep(0.2)
    try:
        doubts = []
        for number in range(2):
            op_id = inside.mint_op_id()
            with pytest.raises((t.OutcomeUnknownError, t.UnavailableError)) as failed:
                await inside.commit([], [t.Put("a", b"minority")], op_id=op_id)
            if isinstance(failed.value, t.OutcomeUnknownError):
                doubts.append(op_id)
            with pytest.raises(t.UnavailableError):
                await inside.get("a")
            await t.update(outside, "b", plus_one, retry=PATIENT)
            assert (await outside.get("b")).value == b"%d" % (number + 1)
    finally:
        undo()
    await asyncio.to_thread(cluster.settle)
    for op_id in doubts:
        assert await outside.resolve(op_id) == t.Fenced(op_id)
    assert (await inside.get("a")).value == b"before"
    await inside.close()
    await outside.close()


@pytest.mark.parametrize("workload", WORKLOADS if SOAK else SAMPLED)
async def test_histories_in_trouble_are_linearizable(
    cluster: EtcdCluster, workload: str, tmp_path: Path
) -> None:
    """Leader killed, stopped, cut off, a member a hundred times slower: an order explains it."""
    for seed in seeds(rounds(20, 1)):
        print(f"replay: CONVOCA_SEED={seed}")
        url = cluster.url()
        stores = [await opened(url) for _ in range(5)]
        async with Trouble(cluster, random.Random(seed), KINDS) as trouble:
            log = await run(
                workload, stores, seed, steps=12, settle=partial(trouble.__aexit__, None)
            )
        log.save(tmp_path / f"{workload}-{seed}.jsonl")
        for store in stores:
            await store.close()
        print(workload, Counter(trouble.deeds))
        assert anomaly(workload, log.events) is None, f"CONVOCA_SEED={seed}"


async def test_answers_that_are_dropped_after_the_commit(cluster: EtcdCluster) -> None:
    """[transactional 7] Cut on the way there or back: resolve knows, a repeat changes nothing."""
    relay = Relay(cluster.members[0].client)
    await relay.start()
    name = cluster.url().rpartition("/")[2].partition("?")[0]
    behind = await opened(f"etcd://127.0.0.1:{relay.port}/{name}?request_s=2")
    beside = await opened(cluster.again(name, only=[1, 2]))
    fates: Counter[str] = Counter()
    await behind.commit([], [t.Put("warm", b"")])  # it has its lease for records
    for number in range(rounds(200, 10)):
        loses = "lose_answers" if number % 2 else "lose_requests"
        op_id = behind.mint_op_id()
        put = t.Put(f"k/{number:03}", b"")
        lost = relay.lost
        setattr(relay, loses, True)
        with pytest.raises((t.OutcomeUnknownError, t.UnavailableError)):
            await behind.commit([], [put], op_id=op_id)
        setattr(relay, loses, False)
        assert relay.lost > lost
        outcome = await beside.resolve(op_id)
        assert (await beside.get(put.key) is not None) is isinstance(outcome, t.Applied)
        fates[type(outcome).__name__] += 1
        if isinstance(outcome, t.Applied):
            repeat = await beside.commit([], [put], op_id=op_id)
            assert repeat.replayed
            assert repeat == outcome.commit
        else:
            with pytest.raises(t.OpIdFencedError):
                await beside.commit([], [put], op_id=op_id)
    assert min(fates["Applied"], fates["Fenced"]) > 0, fates
    await behind.close()
    await beside.close()
    await relay.stop()


async def test_clients_get_on_though_the_rest_stays_broken(cluster: EtcdCluster) -> None:
    """Liveness: random faults, then two members whole and one broken for good: all get on.

    Each of six clients, under a lock, writing and watching, makes two steps within a minute.
    """
    for seed in seeds(rounds(20, 1)):
        dice = random.Random(seed)
        url = cluster.url()
        stores = [await opened(url) for _ in range(4)]
        ledger = Ledger()
        writers = [
            asyncio.create_task(ledger.write(stores[n], f"w{n}", pause_s=0.1)) for n in range(4)
        ]
        async with Trouble(cluster, dice, KINDS) as trouble:
            await asyncio.sleep(3)
        victim = dice.randrange(3)
        for_good = getattr(cluster, dice.choice(["kill", "pause", "isolate"]))(victim)
        print(f"replay: CONVOCA_SEED={seed}", trouble.deeds, victim)

        async def one(number: int, stores: list[EtcdStore] = stores) -> None:
            store = stores[number % 4]
            for step in range(2):
                await insisting(partial(turn, store, number))
                seen = await insisting(partial(store.scan, "wake/"))
                woken = partial(wake, store, number, seen.revision)
                waiting = asyncio.create_task(insisting(woken))
                key = f"wake/{number}"
                await t.update(store, key, lambda _, step=step: b"%d" % step, retry=PATIENT)
                await waiting

        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*[one(number) for number in range(6)])
        finally:
            ledger.end()
            for_good()
        await asyncio.gather(*writers)
        await asyncio.to_thread(cluster.settle)
        assert int((await stores[0].get("steps")).value) >= 12
        await ledger.check(stores[0])
        for store in stores:
            await store.close()


async def turn(store: EtcdStore, number: int) -> None:
    """Add one to a count under a lock."""
    async with t.Lock(store, "turn", owner=f"c{number}", ttl_s=3).held(wait_s=60):
        await t.update(store, "steps", plus_one, retry=PATIENT)


async def insisting(act: Callable[[], Awaitable[Any]]) -> Any:
    """Try until it is done, as who is told that nothing was written, or not whether, may."""
    while True:
        try:
            return await act()
        except (t.UnavailableError, t.OutcomeUnknownError, t.LockLostError):
            await asyncio.sleep(0.1)


def plus_one(value: bytes | None) -> bytes:
    return b"%d" % (int(value or 0) + 1)


async def wake(store: EtcdStore, number: int, after: int) -> None:
    """Wait until one's own key is written."""
    async for event in store.watch(f"wake/{number}", after=after):
        if isinstance(event, t.WatchEvent):
            return


async def test_a_watch_leaves_a_member_that_was_cut_off(cluster: EtcdCluster) -> None:
    """Its stream is silent, not broken: the watch goes on at another member, missing nothing."""
    name = cluster.url().rpartition("/")[2].partition("?")[0]
    writer = await opened(cluster.again(name))
    leader = await asyncio.to_thread(cluster.leader)
    victim = (leader + 1) % 3
    others = [n for n in range(3) if n != victim]
    watcher = await opened(cluster.again(name, only=[victim, *others]))
    endpoints = watcher._gateway.endpoints
    endpoints.sort(key=lambda e: not e.url.endswith(cluster.members[victim].address))
    first = await writer.commit([], [t.Put("w/0", b"")])
    events = watcher.watch("w/", after=first.revision - 1)
    assert (await anext(events)).revision == first.revision
    undo = cluster.isolate(victim)
    try:
        for number in range(1, 6):
            await t.update(writer, f"w/{number}", lambda _: b"", retry=PATIENT)
        told = []
        async with asyncio.timeout(30):
            while len(told) < 5:
                event = await anext(events)
                told += [change.key for change in event.changes]
        assert told == [f"w/{number}" for number in range(1, 6)]
    finally:
        undo()
        await asyncio.to_thread(cluster.settle)
    await events.aclose()
    await writer.close()
    await watcher.close()


async def test_the_engine_says_what_the_cluster_keeps(cluster: EtcdCluster) -> None:
    """Three members that call fsync; and of which version they are, with the one to move to."""
    store = await opened(cluster.url())
    assert store.capabilities.fault_tolerant
    assert store.capabilities.durable
    assert store.facts.members == 3
    await store.close()
    part = await opened(cluster.url(only=[0]))
    assert part.capabilities.fault_tolerant
    assert not part.capabilities.durable  # of two members nothing is known
    assert any("name all in the URL" in line for line in part.facts.advice())
    await part.close()


if SOAK:
    KINDS = [*KINDS, "kill", "pause"]

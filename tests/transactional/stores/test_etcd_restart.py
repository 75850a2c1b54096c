"""All three members of etcd end at once, with their data on a disk, and come back under load."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds
from tests.transactional.etcd_cluster import EtcdCluster
from tests.transactional.stores.test_etcd_cluster import Ledger, opened, plus_one

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("etcd cluster")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"))
    cluster.start()
    yield cluster
    cluster.stop()


class Counting:
    """Clients that count with the patience that all have, and are told of no outage."""

    def __init__(self, stores: list[t.Store]) -> None:
        self.made = [0] * len(stores)
        self._ended = False
        self._tasks = [asyncio.create_task(self._count(n, s)) for n, s in enumerate(stores)]

    async def _count(self, number: int, store: t.Store) -> None:
        while not self._ended:
            await t.update(store, f"count/{number}", plus_one)
            self.made[number] += 1

    async def go_on(self, steps: int) -> None:
        """Wait until each has made so many more."""
        wanted = [made + steps for made in self.made]
        while any(made < least for made, least in zip(self.made, wanted, strict=True)):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)


async def heard(store: t.Store, prefix: str, told: list[tuple[int, str]]) -> None:
    """Note what one watch tells, from the beginning on and through all that happens."""
    async with aclosing(store.watch(prefix, after=0)) as events:
        async for event in events:
            assert isinstance(event, t.WatchEvent)
            told += [(event.revision, change.key) for change in event.changes]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_all_members_restart_under_load(cluster: EtcdCluster, how: signal.Signals) -> None:
    """Nothing acknowledged is lost or made twice; clients, watches and a held lock go on.

    Twenty rounds of each under soak.
    """
    url = cluster.url()
    stores = [await opened(url) for _ in range(4)]
    told: list[tuple[int, str]] = []
    watching = asyncio.create_task(heard(stores[1], "entry/", told))
    held = await t.Lock(stores[2], "held", owner="ann", ttl_s=60).acquire(wait_s=10)
    ledger, counting = Ledger(), Counting(stores)
    writers = [asyncio.create_task(ledger.write(stores[n % 4], f"w{n}")) for n in range(8)]
    for _ in range(rounds(20, 1)):
        await counting.go_on(5)
        await asyncio.to_thread(cluster.fall, how)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(cluster.start)
        async with asyncio.timeout(30):
            await counting.go_on(5)
    ledger.end()
    await asyncio.gather(*writers)
    await counting.end()
    counted = await ledger.check(stores[0])
    print(how.name, dict(counted), counting.made)
    for number, made in enumerate(counting.made):
        found = await stores[0].get(f"count/{number}")
        assert found is not None
        assert int(found.value) == made
    there = (await t.scan_all(stores[0], "entry/")).items
    async with asyncio.timeout(30):
        while len(told) < len(there):  # noqa: ASYNC110 the watch is told in its time
            await asyncio.sleep(0.02)
    assert told == sorted((item.revision, key) for key, item in there.items())
    assert Counter(key for _, key in told).most_common(1)[0][1] == 1
    assert not held.was_lost
    await stores[3].commit([*held.fence], [t.Put("guarded", b"")])
    await held.release()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    for store in stores:
        await store.close()

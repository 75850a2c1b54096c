"""PostgreSQL in trouble under load: restarted, its backends killed and stopped, answers lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import SOAK, rounds, seeds
from tests.transactional import postgres
from tests.transactional.authority import Relay
from tests.transactional.histories.fork_server import ForkServer
from tests.transactional.histories.trouble import CLIENTS, Scene
from tests.transactional.servers import memory
from tests.transactional.workloads import WORKLOADS, anomaly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.transactional.histories.trouble import Deed

asyncpg = pytest.importorskip("asyncpg", reason="pip install 'convoca[postgres]'")

pytestmark = pytest.mark.processes
PROGRAMS = "tests.transactional.histories.programs"
PATIENCE_S = 60.0
OURS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'convoca'"


@pytest.fixture
async def cluster() -> AsyncIterator[postgres.Cluster]:
    """A server of the test's own, that may be ill-treated."""
    directory = memory() / f"convoca-faults-{secrets.token_hex(4)}"
    cluster = postgres.Cluster(directory)
    try:
        await asyncio.to_thread(cluster.make)
        await asyncio.to_thread(cluster.start)
        yield cluster
    finally:
        await asyncio.to_thread(cluster.remove)


@pytest.fixture
async def relay(cluster: postgres.Cluster) -> AsyncIterator[Relay]:
    """A line to the server that can be cut."""
    relay = Relay(cluster.port)
    await relay.start()
    yield relay
    await relay.stop()


class Trouble:
    """What can be done to a server."""

    def __init__(self, cluster: postgres.Cluster, dice: random.Random) -> None:
        self.cluster = cluster
        self.dice = dice

    async def asked(self, statement: str) -> list[asyncpg.Record]:
        """Ask the server, as soon as it answers."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    connection = await asyncpg.connect(self.cluster.url())
                    try:
                        return await connection.fetch(statement)
                    finally:
                        await connection.close()
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.sleep(0.02)

    async def restart(self) -> None:
        """Who works is cut off, and what was begun is rolled back."""
        await asyncio.to_thread(self.cluster.stop, signal.SIGINT)
        await asyncio.to_thread(self.cluster.start)

    async def fall(self) -> None:
        """Without a word to anybody: it comes back from its log."""
        await asyncio.to_thread(self.cluster.stop, signal.SIGQUIT)
        await asyncio.to_thread(self.cluster.start)

    async def terminate_backends(self) -> None:
        await self.asked(OURS.replace("pid", "pg_terminate_backend(pid)", 1))

    async def kill_backend(self) -> None:
        """Kill -9: the postmaster ends all the others, and recovers."""
        pid = await self._one()
        if pid is not None and _signalled(pid, signal.SIGKILL):
            await self.asked("SELECT 1")

    async def stop_backend(self) -> None:
        """For a moment: in the midst of a commit it holds up all the others."""
        pid = await self._one()
        if pid is not None and _signalled(pid, signal.SIGSTOP):
            await asyncio.sleep(self.dice.uniform(0.03, 0.3))
            _signalled(pid, signal.SIGCONT)

    async def _one(self) -> int | None:
        pids = [row[0] for row in await self.asked(OURS)]
        return self.dice.choice(pids) if pids else None


def _signalled(pid: int, number: signal.Signals) -> bool:
    """Whether it was still there to be signalled: its client may have gone in the meantime."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


# --- acknowledged, doubled, unknown --------------------------------------------------------------


class Ledger:
    """Clients that write keys of which each may be written once, and what they were told."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.resolved: dict[str, bool] = {}
        self.count = 0
        self.over = asyncio.Event()

    async def client(self, store: t.Store, name: str) -> None:
        while not self.over.is_set():
            self.count += 1
            key, op_id = f"{name}/{self.count}", store.mint_op_id()
            try:
                await store.commit([], [t.Put(key, b"")], op_id=op_id)
                self.acknowledged.add(key)
            except t.OutcomeUnknownError:
                self.resolved[key] = isinstance(await self.settled(store, op_id), t.Applied)
            except t.UnavailableError:
                await asyncio.sleep(0.02)

    async def settled(self, store: t.Store, op_id: str) -> t.Applied | t.Fenced:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await store.resolve(op_id)
                except t.UnavailableError:
                    await asyncio.sleep(0.02)

    async def some_more(self, count: int) -> None:
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < wanted:  # noqa: ASYNC110 clients are many tasks
                await asyncio.sleep(0.005)


async def test_nothing_acknowledged_is_lost_or_doubled_and_every_outcome_is_found(
    cluster: postgres.Cluster, relay: Relay
) -> None:
    """[transactional 7, 10] Rounds of trouble under load, each kind in turn: 0 lost, 0 doubled.

    Clients make progress again after each; each unknown outcome is resolved, and rightly.
    """
    (seed, *_) = seeds(1)
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    trouble = Trouble(cluster, dice)

    async def lose_answers() -> None:
        relay.lost, relay.lose_answers = 0, True
        async with asyncio.timeout(PATIENCE_S):
            while not relay.lost:  # noqa: ASYNC110 the relay has no event for it
                await asyncio.sleep(0.002)
        relay.lose_answers = False

    deeds = [
        trouble.fall,
        lose_answers,
        trouble.kill_backend,
        trouble.restart,
        trouble.terminate_backends,
        trouble.stop_backend,
    ]
    url = cluster.url().replace(f":{cluster.port}/", f":{relay.port}/")
    stores = [await t.connect(url) for _ in range(4)]
    ledger = Ledger()
    clients = [asyncio.create_task(ledger.client(stores[n % 4], f"client{n}")) for n in range(8)]
    done: Counter[str] = Counter()
    start = dice.randrange(len(deeds))
    for number in range(rounds(50, 6)):
        await ledger.some_more(dice.randint(5, 60))
        deed = deeds[(start + number) % len(deeds)]
        await deed()
        done[deed.__name__] += 1
    await ledger.some_more(50)
    ledger.over.set()
    await asyncio.gather(*clients)
    store = stores[0]
    written = set((await t.scan_all(store, "client")).items)
    applied = {key for key, was_applied in ledger.resolved.items() if was_applied}
    assert ledger.acknowledged <= written, "an acknowledged commit was lost"
    assert ledger.resolved.keys() & written == applied
    assert written == ledger.acknowledged | applied
    twice = await trouble.asked("SELECT key FROM convoca.history GROUP BY key HAVING count(*) > 1")
    assert not twice, "a commit was made twice"
    print(
        f"{dict(done)}; {len(ledger.acknowledged)} acknowledged, none of them lost or made twice;"
    )
    print(f"{len(ledger.resolved)} unknown, all resolved: {len(applied)} applied, the rest never")
    assert ledger.resolved, "no outcome was unknown: little was tested"
    for each in stores:
        await each.close()


# --- recorded histories --------------------------------------------------------------------------


class PostgresScene(Scene):
    """One server, eight client processes, a line between them."""

    def __init__(
        self, server: ForkServer, directory: Path, workload: str, seed: int, cluster
    ) -> None:
        super().__init__(server, directory, workload, seed, None)
        self._trouble_of = Trouble(cluster, self.dice)
        self._schema = f"h_{secrets.token_hex(6)}"
        self.port = cluster.port

    def url(self, port: int) -> str:
        return f"postgresql://convoca@127.0.0.1:{port}/postgres?schema={self._schema}"

    async def raise_authority(self) -> None:
        async with t.open(self.url(self.port)):
            pass  # makes the tables

    async def end_authority(self) -> None:
        await self._trouble_of.asked(f"DROP SCHEMA {self._schema} CASCADE")

    async def _away(self, deed: Deed) -> None:
        away = self.directory / "away"
        away.touch()
        await deed()
        away.unlink()

    async def restart(self) -> None:
        await self._away(self._trouble_of.restart)

    async def fall(self) -> None:
        await self._away(self._trouble_of.fall)

    async def kill_backend(self) -> None:
        await self._away(self._trouble_of.kill_backend)

    async def terminate_backends(self) -> None:
        await self._trouble_of.terminate_backends()

    async def stop_backend(self) -> None:
        await self._trouble_of.stop_backend()

    def trouble_of_the_server(self) -> dict[Deed, int]:
        return {
            self.restart: 1,
            self.fall: 1,
            self.kill_backend: 1,
            self.terminate_backends: 2,
            self.stop_backend: 3,
        }

    def most(self) -> dict[str, int]:
        return super().most() | {"restart": 1, "fall": 1, "kill_backend": 1}


async def test_eight_processes_on_a_server_in_trouble_are_linearizable(
    tmp_path: Path, cluster: postgres.Cluster
) -> None:
    """Clients killed, stopped and cut off, the server as well: every history has an order.

    One workload after the other; where a sample begins rotates with the day.
    """
    done: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    workloads, start = [*WORKLOADS], seeds(1)[0]
    async with ForkServer(PROGRAMS) as server:
        for number, seed in enumerate(seeds(rounds(54, 3))):
            workload = workloads[(start + number) % len(workloads)]
            print(f"replay: CONVOCA_SEED={seed} ({workload})")
            where = tmp_path / str(seed)
            where.mkdir()
            scene = PostgresScene(server, where, workload, seed, cluster)
            history = await scene.recorded()
            (where / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in history))
            assert anomaly(workload, history) is None, f"CONVOCA_SEED={seed}, {workload}, {where}"
            assert len({event["process"] for event in history}) >= CLIENTS
            done += scene.deeds
            kinds.update(
                "away" if event.get("result") == "unavailable" else event["type"]
                for event in history
            )
    print(dict(done), dict(kinds))
    assert kinds["ok"] > kinds["away"], "the trouble was too much: little was tested"
    if SOAK:
        assert len(done) == 9, f"some trouble never came: {done}"

"""Real agents in real processes: equal after kill -9, nothing acknowledged lost, no dot reused."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from replication import Agent, Config, NotYetError
from replication.protocol.exchanges import SYNCS_MAX
from replication.transport.circuit import FAILURES_MAX
from tests.replication.processes import Worker, start, team
from tests.scale import rounds, seeds

pytestmark = pytest.mark.processes
NAMES = ["ada", "bob", "cyd", "dan", "eve"]


LIMIT_S = 240
"""Of a wait for a condition: only a cluster that is stuck takes so long, on any machine."""


async def all_equal(workers: dict[str, Worker]) -> dict:
    """Wait until all state is equal; it."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            states = [await worker.do("state") for worker in workers.values()]
            if len({state["digest"] for state in states}) == 1:
                return states[0]
            await asyncio.sleep(0.05)


async def all_met(workers: dict[str, Worker]) -> None:
    """Wait until each knows each other as a live member, not only the one it was told of."""
    async with asyncio.timeout(LIMIT_S):
        for name, worker in workers.items():
            others = {other: "ALIVE" for other in workers if other != name}
            while await worker.do("members") != others:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)


async def test_five_processes_are_equal_after_one_was_killed(tmp_path):
    """[replication 19] (one round) kill -9 while all write: the rest goes on, it returns, equal."""
    async with team(tmp_path, NAMES) as workers:
        for number in range(20):
            await asyncio.gather(*(w.do("add", value=f"{n}{number}") for n, w in workers.items()))
        await workers["cyd"].do("durable")
        await workers["cyd"].kill()
        rest = {n: w for n, w in workers.items() if n != "cyd"}
        await asyncio.gather(*(w.do("add", value=f"{n}-later") for n, w in rest.items()))
        await all_equal(rest)
        seed = workers["ada"].address
        workers["cyd"] = await start("cyd", journal=str(tmp_path / "cyd"), peers=[seed])
        await all_equal(workers)
        wanted = {f"{n}{number}" for n in NAMES for number in range(20)}
        wanted |= {f"{n}-later" for n in rest}
        for name, worker in workers.items():
            state = await worker.do("state")
            lost = sorted(wanted - set(state["set"]))
            told = f"{name} as {state['id']}: n={state['n']} {lost=} at {state['vector']}"
            assert (state["n"], lost) == (len(wanted), []), told


async def test_kill_minus_nine_at_random_loses_nothing_acknowledged(tmp_path):
    """[replication 19] kill -9 at a random moment of a burst, again and again (200 in soak).

    After each restart: what was acknowledged is there, the vector is not ahead of the data (start
    would refuse), and in the end both agents are equal - a dot used twice would show as a lost add.
    """
    seed = seeds(1)[0]
    dice = random.Random(seed)
    print(f"replay: CONVOCA_SEED={seed} pytest {__file__}")
    async with team(tmp_path, ["ada", "bob"]) as workers:
        acknowledged: set[str] = set()
        for life in range(rounds(200, 10)):
            bob = workers["bob"]
            burst = [f"{life}-{n}" for n in range(dice.randint(1, 30))]
            for value in burst:
                await bob.do("add", value=value)
                if dice.random() < 0.2:
                    await bob.do("durable")
                    acknowledged.update(burst[: burst.index(value) + 1])
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random() * 0.02)  # a kill within a commit or a push
            await bob.kill()
            workers["bob"] = await start(
                "bob", journal=str(tmp_path / "bob"), peers=[workers["ada"].address]
            )
            state = await workers["bob"].do("state")
            assert acknowledged <= set(state["set"])
        state = await all_equal(workers)
        assert acknowledged <= set(state["set"])
        assert state["n"] == len(state["set"])


async def test_a_partition_made_with_block_heals_after_unblock(tmp_path):
    """Each member of one side blocks every member of the other: two worlds, then one again."""
    left, right = NAMES[:1], NAMES[1:3]
    async with team(tmp_path, NAMES[:3]) as workers:
        await all_met(workers)
        pairs = [(a, b) for a in left for b in right] + [(b, a) for a in left for b in right]
        for a, b in pairs:
            await workers[a].do("block", peer=b)
        await workers["ada"].do("add", value="left")
        await workers["cyd"].do("add", value="right")
        await all_equal({n: workers[n] for n in left})
        await all_equal({n: workers[n] for n in right})
        assert (await workers["ada"].do("state"))["set"] == ["left"]
        assert (await workers["bob"].do("state"))["set"] == ["right"]
        for a, b in pairs:
            await workers[a].do("unblock", peer=b)
        assert (await all_equal(workers))["set"] == ["left", "right"]


async def test_a_process_that_hangs_costs_the_others_nothing(tmp_path, until):
    """[replication 14] (agents) SIGSTOP: the system still takes connections for it, nobody answers.

    Its exchanges run out of time and open its circuit, while every write reaches the other agent.
    Counterexample: `replicated` hurries a round each time; 63 of 64 exchanges hung.
    """
    config = Config(
        connect_timeout_s=0.2,
        read_timeout_s=0.3,
        total_timeout_s=0.4,
        gossip_interval_s=0.1,
        gossip_interval_max_s=0.2,
    )
    options = {"secret": "a shared secret", "config": config}
    eve = await start("eve", journal=str(tmp_path / "eve"))
    try:
        async with (
            Agent("ada", peers=[eve.address], journal=tmp_path / "ada", **options) as ada,
            Agent("bob", peers=[ada.address], journal=tmp_path / "bob", **options) as bob,
        ):
            ada.counter("n").increment(1)
            assert await ada.replicated(ada.version(), 2, LIMIT_S) == 2
            os.kill(eve.process.pid, signal.SIGSTOP)
            circuits = ada._transport._circuits
            written, waiting = 1, []
            while circuits.failures(eve.address) < FAILURES_MAX + 2 or written < 20:
                ada.orset("set").add(str(written))
                ada.counter("n").increment(1)
                written += 1
                await ada.replicated(ada.version(), 1, LIMIT_S)
                under_way = ada._runtime.replica.exchanges._open.values()
                waiting.append(sum(opened.address == eve.address for opened in under_way))
            assert bob.counter("n").value == written
            assert max(waiting) <= SYNCS_MAX + 6, "syncs, a push, probes, questions"
            with pytest.raises(NotYetError):
                await ada.stable(ada.version(), 0.01)
            os.kill(eve.process.pid, signal.SIGCONT)
            await ada.stable(ada.version(), LIMIT_S)
            assert (await eve.do("state"))["n"] == written
            await until(lambda: circuits.failures(eve.address) == 0, LIMIT_S)
    finally:
        await eve.kill()

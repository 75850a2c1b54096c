"""Two agents that heard the same and hold something else: what an operator sees of it."""

from __future__ import annotations

import json

from crdt import Kernel, LWWRegister
from replication import Agent
from replication.cli import doctor
from replication.config import Config
from replication.protocol.effects import DELTA, Row
from replication.transport import AdminClient
from replication.transport.memory import Switchboard

FAST = Config(gossip_interval_s=0.05, gossip_interval_max_s=0.1)


def tell(agent: Agent, value: str) -> None:
    """What a leaf would tell this agent, and no other, under its first number."""
    delta = Kernel("leaf~01").document("order", LWWRegister).set(value)
    machine = agent._running().replica
    machine._pending.merge(Row(DELTA, delta.encode(), delta.ranges), machine.kernel.apply(delta))
    machine.on_write()


async def test_one_number_told_twice_is_seen_counted_and_named_at_both(until, caplog):
    """[security] Both hubs report the dot: by the API, in metrics, status, doctor and log."""
    ada = Agent("ada", config=FAST)
    async with ada, Agent("bob", peers=[ada.address], config=FAST) as bob:
        await until(lambda: len(ada.members()) == len(bob.members()) == 1)
        tell(ada, "pay 1")
        tell(bob, "pay 1000")
        named = [("leaf~01:1",)]
        for agent in (ada, bob):
            await until(
                lambda agent=agent: (
                    [found.contradicted for found in agent.differences().values()] == named
                )
            )
            assert agent.counts()["state:conflict"] == 1
            assert agent.counts()["state:differs"] == 1
            client = AdminClient(agent.address, (), 5)
            metrics = await client.get("/metrics")
            assert f'convoca_differing_peers{{agent="{agent.name}"}} 1' in metrics
            assert f'convoca_contradicted_dots{{agent="{agent.name}"}} 1' in metrics
            status = json.loads(await client.get("/status"))
            assert [found["blocks"] for found in status["differing"].values()] == [1]
            found = [line for line in doctor.findings_of(status) if "another entry here" in line]
            assert ["leaf~01:1" in line for line in found] == [True]
        assert ada.register("order").value == "pay 1"
        assert bob.register("order").value == "pay 1000"
        messages = [record.getMessage() for record in caplog.records]
        assert messages.count("contradicted") == 2
        ada.register("order").set("pay 2")  # who overwrites it ends the difference
        await until(lambda: bob.register("order").value == "pay 2")
        await until(lambda: not ada.differences() and not bob.differences())


async def test_a_mended_difference_is_reported_no_longer(until):
    """What one agent holds though the other knows that it is dead goes, and so does the report."""
    board = Switchboard()
    ada = Agent("ada", transport=board.transport("ada:1"), config=FAST)
    bob = Agent("bob", transport=board.transport("bob:1"), peers=["ada:1"], config=FAST)
    async with ada, bob:
        for number in range(5):
            ada.orset("s").add(number)
        await until(lambda: set(bob.orset("s")) == {0, 1, 2, 3, 4})
        live = bob.kernel._state.live
        (container,) = [each for each in live.containers.values() if each.rows]
        live.kill(container, 3, container.rows[3][0])  # as if a removal had been heard of
        await until(lambda: set(ada.orset("s")) == {0, 1, 2, 4})
        await until(lambda: not ada.differences() and not bob.differences())
        assert ada.counts()["state:mended"] == 1

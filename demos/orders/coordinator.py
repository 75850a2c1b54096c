"""The coordinator: drives the sagas of all orders; it is killed, and goes on where it fell.

An actor of the orders demo. What it has to go on with stands in the store (the sagas' histories)
and in its own journal (the mugs, the notes about them, the statuses).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

import transactional
from demos.orders.plan import COUNTER_SHARE, MUG, STOCK, plan
from demos.orders.steps import NAME, Processing, stock_key
from demos.stage import commands, tell
from replication import Agent, ReplicationError
from transactional import EventLog, Sagas, TransactionalError

LEASE_S = 1.0
RECOVER_S = 0.25
ORDERS_AT_ONCE = 8


async def play(arguments: argparse.Namespace) -> None:
    """Open the agent and the store, then obey."""
    orders = plan(arguments.orders, arguments.seed)
    agent = Agent(
        "coordinator", listen=arguments.listen, peers=arguments.peers, journal=arguments.journal
    )
    async with transactional.open(arguments.store) as store, agent:
        processing = Processing.of(agent, store, EventLog(store), arguments.world_port)
        worker = Sagas(
            store,
            [processing.definition()],
            worker="coordinator",
            lease_ttl_s=LEASE_S,
            recover_every_s=RECOVER_S,
            runs_max=ORDERS_AT_ONCE,
        )
        starting: set[asyncio.Task[None]] = set()

        async def start_all(sagas: Sagas) -> None:
            for order in orders:
                await sagas.start(NAME, order.id, order.to_json())

        async with worker as sagas:
            tell("ready", id=agent.id)
            async for command in commands():
                match command["do"]:
                    case "stock":
                        mugs = agent.bounded(stock_key(MUG))
                        mugs.increment(STOCK[MUG])
                        mugs.transfer(COUNTER_SHARE, command["counter"])
                        await agent.durable()
                        tell("stock")
                    case "go":
                        starting.add(asyncio.create_task(start_all(sagas)))
                    case "look":
                        tell("look", digest=agent.digest().hex())


def main() -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--store", required=True)
    add("--world-port", type=int, required=True)
    add("--listen", required=True)
    add("--peers", nargs="*", default=[])
    add("--journal", type=Path, required=True)
    add("--orders", type=int, required=True)
    add("--seed", type=int, required=True)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(play(parser.parse_args()))
    except (TransactionalError, ReplicationError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

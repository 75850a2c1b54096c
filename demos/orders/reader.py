"""Fulfilment and customer service: agents that read what they need from replicas of their own.

Neither asks anybody: where an order is stands in a register here, as new as gossip has brought it.
Fulfilment also sells mugs over the counter, out of its own share, while the coordinator sells them
out of the rest. An actor of the orders demo.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from crdt import InsufficientRightsError, MaxRegister
from demos.orders.plan import MUG
from demos.orders.steps import status_of, stock_key
from demos.stage import commands, tell
from replication import Agent, ReplicationError

READ_EVERY_S = 0.05
SELL_EVERY_S = 0.1


async def read(agent: Agent, seen: dict[str, int]) -> None:
    """Look at all statuses, again and again; how often one is older than what was read before."""
    newest: dict[str, int] = {}
    while True:
        for name, _ in agent.documents(status_of("")):
            version = (agent.document(name, MaxRegister).value or (0, ""))[0]
            seen["reads"] += 1
            seen["backwards"] += version < newest.get(name, 0)
            newest[name] = version
        await asyncio.sleep(READ_EVERY_S)


async def sell(agent: Agent, walk_ins: int) -> tuple[int, int]:
    """One mug to each who comes in, while there are any in our share; (sold, sent away)."""
    mugs, sold = agent.bounded(stock_key(MUG)), 0
    for _ in range(walk_ins):
        with contextlib.suppress(InsufficientRightsError):
            await mugs.decrement()
            sold += 1
        await asyncio.sleep(SELL_EVERY_S)
    return sold, walk_ins - sold


async def play(arguments: argparse.Namespace) -> None:
    """Read, and sell, and tell about it when asked."""
    agent = Agent(
        arguments.name, listen=arguments.listen, peers=arguments.peers, journal=arguments.journal
    )
    async with agent:
        tell("ready", id=agent.id)
        seen = {"reads": 0, "backwards": 0}
        reading = asyncio.create_task(read(agent, seen))
        selling: asyncio.Task[tuple[int, int]] | None = None
        async for command in commands():
            match command["do"]:
                case "sell":
                    selling = asyncio.create_task(sell(agent, command["walk_ins"]))
                case "sold" if selling is not None:
                    sold, sent_away = await selling
                    tell("sold", sold=sold, sent_away=sent_away)
                case "look":
                    tell("look", digest=agent.digest().hex())
                case "read":
                    statuses = {
                        name: agent.document(name, MaxRegister).value
                        for name, _ in agent.documents(status_of(""))
                    }
                    mugs = agent.bounded(stock_key(MUG)).value
                    tell("read", statuses=statuses, mugs=mugs, **seen)
        reading.cancel()


def main() -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--name", required=True)
    add("--listen", required=True)
    add("--peers", nargs="*", default=[])
    add("--journal", type=Path, required=True)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(play(parser.parse_args()))
    except (ReplicationError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

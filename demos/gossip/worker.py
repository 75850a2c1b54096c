"""A node: an agent with its replica and journal, that writes all the time and says what.

An actor of the gossip demo; `processes` directs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

from demos.gossip import load
from demos.stage import commands, tell
from replication import Agent, ReplicationError, Version


async def play(arguments: argparse.Namespace) -> None:
    """Open the agent, then write until told to finish, and answer what the director asks."""
    agent = Agent(
        arguments.name,
        listen=f"127.0.0.1:{arguments.port}",
        address=arguments.address,
        peers=arguments.peers,
        journal=arguments.journal,
    )
    async with agent:
        tell("ready", id=agent.id)
        writing: asyncio.Task[None] | None = None
        async for command in commands():
            match command["do"]:
                case "go":
                    writing = asyncio.create_task(_write(agent, arguments))
                case "finish":
                    if writing is not None:
                        writing.cancel()
                        await asyncio.gather(writing, return_exceptions=True)
                    await agent.durable(agent.version())
                    tell("finish")
                case "look":
                    tell("look", **_look(agent))
                case "reach":
                    with contextlib.suppress(ReplicationError):
                        await agent.seen(Version(command["vector"]), command["within_s"])
                    tell("reach")
                case "values":
                    tell("values", values=load.values(agent.document))


async def _write(agent: Agent, arguments: argparse.Namespace) -> None:
    number = 0
    while True:
        number += 1
        tell("wrote", life=arguments.life, number=number)
        if number != arguments.drop:
            with agent.batch():
                place = (arguments.name, arguments.life, number)
                load.carry_out(load.write(arguments.seed, place), agent.document)
        await agent.durable(agent.version())
        tell("acked", life=arguments.life, number=number)
        await asyncio.sleep(arguments.pause_s)


def _look(agent: Agent) -> dict[str, Any]:
    counts = agent.counts()
    return {
        "digest": agent.digest().hex(),
        "vector": dict(agent.version().vector),
        "values": load.shown(load.values(agent.document)),
        "members": len(agent.members()),
        "bytes_sent": agent.bytes_sent,
        "deltas": sum(n for kind, n in counts.items() if kind.startswith("delta:")),
        "state_bytes": len(agent.kernel.to_bytes()),
    }


def main() -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--name", required=True)
    add("--life", type=int, required=True)
    add("--port", type=int, required=True)
    add("--address", required=True)
    add("--peers", nargs="*", default=[])
    add("--journal", type=Path, required=True)
    add("--seed", type=int, required=True)
    add("--pause-s", type=float, required=True)
    add("--drop", type=int, default=0)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(play(parser.parse_args()))
    except (ReplicationError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A node: an agent with its replica and journal, that writes all the time and says what.

An actor of the gossip demo; `processes` directs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import transactional
from crdt import explain
from demos.gossip import load
from demos.stage import Told, commands, tell
from replication import Agent, ReplicationError, Version
from transactional import BookingConflict, Interval, Reservations, TransactionalError


async def play(arguments: argparse.Namespace) -> None:
    """Open the agent, then write until told to finish, and answer what the director asks."""
    agent = Agent(
        arguments.name,
        listen=f"127.0.0.1:{arguments.port}",
        address=arguments.address,
        peers=arguments.peers,
        journal=arguments.journal,
    )
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(agent)
        rooms: Reservations | None = None
        if arguments.store:
            store = await stack.enter_async_context(transactional.open(arguments.store))
            rooms = Reservations(store)
        tell("ready", id=agent.id)
        writer = Writer(agent, arguments)
        tasks: set[asyncio.Task[None]] = set()
        async for command in commands():
            match command["do"]:
                case "go":
                    tasks.add(asyncio.create_task(writer.go_on()))
                case "burst":
                    tasks.add(asyncio.create_task(writer.burst(command["writes"])))
                case "finish":
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    await agent.durable(agent.version())
                    tell("finish")
                case "book" if rooms is not None:
                    tasks.add(asyncio.create_task(_book(rooms, arguments.name, command)))
                case _:
                    await _answer(agent, command)


async def _answer(agent: Agent, command: Told) -> None:
    """What the director wants to know."""
    match command["do"]:
        case "look":
            tell("look", **_look(agent))
        case "reach":
            with contextlib.suppress(ReplicationError):
                await agent.seen(Version(command["vector"]), command["within_s"])
            tell("reach")
        case "values":
            tell("values", values=load.values(agent.document))
        case "explain":
            tell("explain", lines=_explained(agent, command["name"]))


class Writer:
    """Makes the writes of this life, one after the other, and says of each that it was made."""

    def __init__(self, agent: Agent, arguments: argparse.Namespace) -> None:
        self._agent = agent
        self._arguments = arguments
        self._number = 0

    async def go_on(self) -> None:
        """Write for ever, with a pause in between."""
        while True:
            await self._write()
            await asyncio.sleep(self._arguments.pause_s)

    async def burst(self, writes: int) -> None:
        """Write so often, without a pause."""
        for _ in range(writes):
            await self._write()

    async def _write(self) -> None:
        arguments, agent = self._arguments, self._agent
        self._number += 1
        number = self._number
        tell("wrote", life=arguments.life, number=number)
        if number != arguments.drop:
            with agent.batch():
                place = (arguments.name, arguments.life, number)
                load.carry_out(load.write(arguments.seed, place), agent.document)
        await agent.durable(agent.version())
        tell("acked", life=arguments.life, number=number)


async def _book(rooms: Reservations, name: str, command: Told) -> None:
    """Hold a slot, think, and confirm it or fall silent; tell who has it."""
    start = datetime.fromisoformat(command["start"])
    slot = Interval(start, start + timedelta(hours=1))
    try:
        held = await rooms.hold(command["room"], slot, holder=name, ttl_s=command["ttl_s"])
        if command["silent"]:
            tell("book", booked=False, holder=name)
            return
        await asyncio.sleep(command["think_s"])
        await rooms.confirm(held)
        tell("book", booked=True, holder=name)
    except BookingConflict as taken:
        tell("book", booked=False, holder=taken.holder)
    except TransactionalError as error:
        tell("book", booked=False, holder="", why=str(error))


def _explained(agent: Agent, name: str) -> list[dict[str, Any]]:
    """Every known write of a document, as the page shows it."""
    return [
        {
            "type": line.type,
            "place": line.place,
            "value": "" if line.value is None else str(line.value),
            "fate": line.fate,
            "writer": line.dot.replica,
            "seq": line.dot.seq,
            "written_ms": line.written_ms,
            "durable_here_ms": agent.vitals.arrived_ms(line.dot.replica, line.dot.seq),
            "by": f"{line.by.replica}:{line.by.seq}" if line.by else "",
            "missing": line.missing and f"{line.missing} here",
        }
        for line in explain(agent.kernel, name)
    ]


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
    add("--store", default="")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(play(parser.parse_args()))
    except (ReplicationError, TransactionalError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The world outside: a bank and a carrier, which know nothing of stores and replicas.

Both take a request under a key and do once what is asked for under it: a repeat is told what came
of the first. Both may fail before they have done anything, after they have (the connection breaks),
or say no. One line of JSON each way, over a connection of its own:

    {"do": "charge", "key": "...", "order": "017", "customer": "customer-3", "amount": 40}
    {"done": true}   or   {"refused": "the card is declined"}   or the end of the connection

An actor of the orders demo; what it did is its own ledger, told when it is asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from demos.orders.plan import BALANCE, CUSTOMERS, SHOP, plan
from demos.stage import commands, tell

LINE_BYTES_MAX = 64 * 1024
REFUSALS = {"charge": "the card is declined", "ship": "nobody delivers to that address"}


@dataclass(slots=True)
class World:
    """Accounts, shipments, and what was done under which key."""

    troubles: dict[str, str]
    forgetful: bool
    balances: dict[str, int] = field(
        default_factory=lambda: {
            SHOP: 0,
            **{f"customer-{number}": BALANCE for number in range(1, CUSTOMERS + 1)},
        }
    )
    effects: list[tuple[str, str, str]] = field(default_factory=list)  # key, what, order
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    repeats: int = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Do what is asked for, once; None: the answer is lost."""
        do, key, order = request["do"], request["key"], request["order"]
        if do == "find":
            return {"found": self.answers.get(key)}
        trouble = self.troubles.get(order, "")
        if key in self.answers:
            self.repeats += 1
            if not self.forgetful:
                return self.answers[key]
        if trouble == f"{do} before" and key not in self.failed:
            self.failed.add(key)
            return None
        if trouble == f"{do} refused":
            self.answers[key] = {"refused": REFUSALS[do]}
            return self.answers[key]
        if do in {"charge", "refund"}:
            giver, taker = (
                (request["customer"], SHOP) if do == "charge" else (SHOP, request["customer"])
            )
            self.balances[giver] -= request["amount"]
            self.balances[taker] += request["amount"]
        self.effects.append((key, do, order))
        self.answers[key] = {"done": True}
        if trouble == f"{do} after" and key not in self.failed:
            self.failed.add(key)
            return None
        return self.answers[key]


async def ask(port: int, do: str, **request: Any) -> dict[str, Any]:
    """Ask the world for something.

    Raises:
        ConnectionError: no answer; it may have been done, or not.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_BYTES_MAX)
    try:
        writer.write(json.dumps({"do": do, **request}).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise ConnectionError(f"no answer to {do!r}")
    answer: dict[str, Any] = json.loads(line)
    return answer


async def play(arguments: argparse.Namespace) -> None:
    """Serve, and tell the ledger when it is asked for."""
    orders = plan(arguments.orders, arguments.seed)
    world = World({order.id: order.trouble for order in orders}, arguments.forgetful)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if line and (answer := world.ask(json.loads(line))) is not None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # whoever asked was killed meanwhile
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=LINE_BYTES_MAX)
    tell("ready", port=server.sockets[0].getsockname()[1])
    async for command in commands():
        if command["do"] == "ledger":
            tell(
                "ledger",
                balances=world.balances,
                effects=world.effects,
                repeats=world.repeats,
                failures=len(world.failed),
            )
    server.close()


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--orders", type=int, required=True)
    add("--seed", type=int, required=True)
    add("--forgetful", action="store_true")
    asyncio.run(play(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""An agent in a process of its own, driven by JSON lines on stdin, answering on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from crdt import ORSet
from replication import Agent, Version
from replication.protocol import Status


async def obey(agent: Agent, order: dict[str, Any]) -> Any:
    match order["do"]:
        case "add":
            agent.orset("set").add(order["value"])
            agent.counter("n").increment(1)
        case "bulk":
            for _ in range(order["batches"]):
                with agent.batch():
                    for number in range(order["size"]):
                        agent.register(f"{order['prefix']}/{number}").set(number)
                await agent.durable()
        case "durable":
            await agent.durable()
            return agent.version().encode()
        case "seen":
            await agent.seen(Version.decode(order["token"]), 30)
        case "state":
            return {
                "id": agent.id,
                "digest": agent.digest().hex(),
                "set": sorted(agent.document("set", ORSet)),
                "n": agent.counter("n").value,
                "vector": dict(agent.kernel.vector),
            }
        case "block":
            agent.block(order["peer"])
        case "unblock":
            agent.unblock(order["peer"])
        case "members":
            return {m.name: m.status.name for m in agent.members()}
        case "peers":
            members = [m for m in agent.members() if m.status < Status.LEFT]
            return {"members": {m.id: m.status.name for m in members}, "lag": agent.lag()}
        case "stable":
            return await agent.stable(agent.version(), 30)
    return None


async def main() -> None:
    options = json.loads(sys.argv[1])
    async with Agent(**options) as agent:
        print(json.dumps({"address": agent.address}), flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            try:
                answer = {"ok": await obey(agent, json.loads(line))}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

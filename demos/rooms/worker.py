"""An agent that is sent to book a room: a process with a replica, a store and a shared dict.

An actor of the rooms demo; `story` directs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
from pathlib import Path

import transactional
from demos.rooms import shared_dict
from demos.rooms.ways import CAS, ROOM, WAYS, Means
from demos.stage import commands, tell
from replication import Agent, ReplicationError
from transactional import TransactionalError


async def play(arguments: argparse.Namespace) -> None:
    """Open all places where rooms are written down, then obey."""
    shared = shared_dict.connect(arguments.dict_port, arguments.key_file)
    agent = Agent(arguments.name, listen=arguments.listen, peers=arguments.peers)
    async with transactional.open(arguments.store) as store, agent:
        dice = random.Random(f"{arguments.name} {arguments.seed}")
        means = Means(arguments.name, dice, shared, agent, store)
        tell("ready")
        async for command in commands():
            match command["do"]:
                case "book":
                    answer = await WAYS[command["way"]](means)
                    lies = arguments.lies and command["way"] == CAS and not answer.booked
                    lies = lies and await means.first("lie")
                    tell(
                        "book",
                        booked=answer.booked or lies,
                        attempts=answer.attempts,
                        late=answer.late,
                    )
                case "look":
                    tell(
                        "look",
                        digest=agent.digest().hex(),
                        members=len(agent.members()),
                        register=agent.register(f"room/{ROOM}").value,
                        shared=shared.get(ROOM),
                    )


def main() -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--name", required=True)
    add("--store", required=True)
    add("--listen", required=True)
    add("--peers", nargs="*", default=[])
    add("--dict-port", type=int, required=True)
    add("--key-file", type=Path, required=True)
    add("--seed", type=int, required=True)
    add("--lies", action="store_true")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(play(parser.parse_args()))
    except (TransactionalError, ReplicationError, OSError, EOFError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

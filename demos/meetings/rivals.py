"""The rivals: they grab slots that others want, and abandon them.

An actor of the meetings demo. On `grab` it holds a seeded sample of the slots it is given, for a
short time, and never confirms one. Nobody sweeps after it: a hold that expired blocks nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path

import transactional
from demos.meetings.programme import load
from demos.stage import commands, tell
from transactional import BookingConflict, Interval, Reservations


async def play(arguments: argparse.Namespace) -> None:
    """Grab on command until the standard input ends."""
    talks = {talk.id: talk for talk in load(arguments.programme).talks}
    dice = random.Random(f"rivals {arguments.seed}")
    async with transactional.open(arguments.store) as store:
        rooms = Reservations(store)
        tell("ready")
        async for command in commands():
            wanted = [talks[name] for name in command["among"]]
            chosen = dice.sample(wanted, min(command["count"], len(wanted)))
            grabbed = 0
            for number, talk in enumerate(chosen):
                try:
                    await rooms.hold(
                        talk.room,
                        Interval(talk.start, talk.end),
                        holder=f"rival/{number}",
                        ttl_s=arguments.hold_s,
                    )
                    grabbed += 1
                except BookingConflict:  # somebody was faster; a rival does not insist
                    continue
            tell("grab", count=grabbed)


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--programme", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--hold-s", type=float, required=True)
    asyncio.run(play(parser.parse_args()))


if __name__ == "__main__":
    main()

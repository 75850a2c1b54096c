"""The nodes of a run as the page shows them, and the buttons of the page.

What is drawn is what the director sees: he looks at every node, and it is his network. Buttons make
the steps that a script would, one at a time, in the loop of the story. Beside the replicas there is
a store: `Book twice` has two nodes want one slot of one room at the same time, and one of them gets
it; whoever wins every third time falls silent, and the hold expires.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from convoca.page import Link, Picture, Refused, Replica
from demos.gossip.hands import step_of
from demos.gossip.load import KEYS, KINDS
from demos.gossip.script import Step
from demos.stage import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from demos.gossip.processes import Processes
    from demos.gossip.story import Story

ROOMS = ("turing", "hopper", "lovelace")
FIRST_SLOT = datetime(2030, 1, 7, 9, tzinfo=UTC)
THINK_S, HOLD_S = 5.0, 15.0
SILENT_EVERY = 3
BURST_WRITES = 8
TYPES = {key: KINDS[key.partition("/")[0]].__name__ for key in KEYS}


class Shown:
    """Pictures of a run, and orders to it."""

    orders = ("burst", "book", "partition", "slow", "kill", "heal")

    def __init__(self, cluster: Processes, seed: int) -> None:
        self._cluster = cluster
        self._dice = random.Random(f"page {seed}")
        self._steps: deque[Step] = deque()
        self._remarks = 0
        self._told: list[tuple[float, str]] = []
        self._booked = 0
        self._booking: set[asyncio.Task[None]] = set()
        self.story: Story | None = None

    def hand(self, _now_s: float) -> Step | None:
        """The next step that somebody asked for; the story calls it all the time."""
        return self._steps.popleft() if self._steps else None

    def end(self) -> None:
        """Let nobody write any more, and close with the checks."""
        self._steps.append(Step(self._cluster.now_s, "end"))

    async def close(self) -> None:
        """Wait for nobody who books."""
        for task in self._booking:
            task.cancel()
        await asyncio.gather(*self._booking, return_exceptions=True)

    # -- seeing

    async def look(self) -> Picture:
        """As the director looked last."""
        story = self._story()
        looks, names = story.outcome.looks, self._cluster.names
        replicas = [
            Replica(
                name,
                "alive",
                look.digest,
                look.values,
                look.bytes_sent,
            )
            if (look := looks.get(name)) is not None
            else Replica(name, "down")
            for name in names
        ]
        network, links = self._cluster.network, []
        for number, one in enumerate(names):
            for other in names[number + 1 :]:
                state, delay_s = network.state(one, other)
                used = network.carried[frozenset((one, other))]
                links.append(Link(one, other, state, used, round(1000 * delay_s)))
        for _, text in story.outcome.remarks[self._remarks :]:
            self._tell(text)
        self._remarks = len(story.outcome.remarks)
        return Picture(replicas, links, TYPES, tuple(self._told))

    async def explain(self, replica: str, name: str) -> Sequence[Mapping[str, Any]]:
        """As that node tells it."""
        if replica not in self._cluster.names or name not in KEYS:
            raise Refused(f"no node is called {replica!r}, or no document {name!r}")
        try:
            told = await self._cluster.ask(replica, "explain", name=name)
        except StageError as error:
            raise Refused(str(error)) from error
        lines: list[Mapping[str, Any]] = told["lines"]
        return lines

    def _story(self) -> Story:
        if self.story is None:
            raise Refused("the nodes do not run yet")
        return self.story

    # -- doing

    async def execute(self, verb: str) -> str:
        """Make a step of it, for the story to carry out at its next look."""
        story, cluster = self._story(), self._cluster
        now_s, names = cluster.now_s, cluster.names
        if verb == "burst":
            cluster.burst(BURST_WRITES)
            return f"every node that runs writes {BURST_WRITES} times"
        if verb == "book":
            return self._book()
        key = {"partition": "p", "slow": "s", "kill": "k", "heal": "h"}[verb]
        step = step_of(key, now_s, names, story.down)
        if step is None:
            raise Refused("somebody has to stay alive")
        if verb == "partition" and story.cut:
            raise Refused("the network is cut already; heal it first")
        self._steps.append(step)
        if verb != "heal":
            return str(step)
        self._steps += [Step(now_s, "return", ((name,),)) for name in sorted(story.down)]
        back = f", and back: {' '.join(sorted(story.down))}" if story.down else ""
        return f"heal every link{back}"

    def _book(self) -> str:
        """Two of those who run want the same slot, from both sides of a cut if there is one."""
        up = self._cluster.up()
        if len(up) < 2:
            raise Refused("two have to live who want the same slot")
        pairs = [(a, b) for a in up for b in up if a < b]
        cut = [pair for pair in pairs if self._cluster.network.state(*pair)[0] == "cut"]
        pair = self._dice.choice(cut or pairs)
        number, self._booked = self._booked, self._booked + 1
        room = ROOMS[number % len(ROOMS)]
        start = FIRST_SLOT + timedelta(hours=number // len(ROOMS))
        silent = number % SILENT_EVERY == SILENT_EVERY - 1
        task = asyncio.create_task(self._both(pair, room, start, silent=silent))
        self._booking.add(task)
        task.add_done_callback(self._booking.discard)
        return f"{pair[0]} and {pair[1]} both want {room} at {start:%H:%M}"

    async def _both(
        self, pair: tuple[str, str], room: str, start: datetime, *, silent: bool
    ) -> None:
        wanted = {"room": room, "start": start.isoformat(), "ttl_s": HOLD_S}
        wanted |= {"think_s": THINK_S, "silent": silent}
        slot = f"{room} {start:%H:%M}"
        self._tell(f"{slot}: {pair[0]} and {pair[1]} want it")
        try:
            answers = await asyncio.gather(
                *(self._cluster.ask(name, "book", **wanted) for name in pair)
            )
        except StageError as error:
            self._tell(f"{slot}: {error}")
            return
        for name, told in zip(pair, answers, strict=True):
            if told["booked"]:
                self._tell(f"{slot}: {name} has it")
            elif told["holder"] == name:
                self._tell(f"{slot}: {name} holds it and falls silent")
            else:
                self._tell(f"{slot}: {name} was refused, {told['holder'] or 'nobody'} has it")

    def _tell(self, text: str) -> None:
        self._told.append((time.time(), text))

"""What is done to an authority, its clients and the lines between them while a history is recorded.

One deed after the other, drawn by dice.  Between two the clients get on by a few answers: counted
in what they write down, so that on a slow machine, too, trouble comes in the midst of work.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING

import transactional as t
from tests.transactional.authority import Relay
from tests.transactional.histories.programs import merged
from tests.transactional.linearizability import Recorder
from tests.transactional.workloads import look_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    from tests.transactional.histories.fork_server import Child, ForkServer

    Deed = Callable[[], Awaitable[None]]

CLIENTS = 8
STEPS = {"queue": 20, "register": 30, "append": 16, "lock": 15, "reservation": 20, "log": 12}
EVENT_BYTES = 130
"""About what one event takes in a record."""
FALLS_MAX = 3
"""The authority falls so often in one history: each start gives every lease its whole time anew."""
KILLED_MAX = 4
"""So many clients are killed in one history; each leaves one operation whose end nobody knows."""


class Scene:
    """One authority, eight clients, a line between them, and what they wrote down."""

    def __init__(
        self, server: ForkServer, directory: Path, workload: str, seed: int, fault: str | None
    ) -> None:
        self.server = server
        self.directory = directory
        self.workload = workload
        self.fault = fault
        self.dice = random.Random(seed)
        self.deeds: Counter[str] = Counter()
        self.records: list[Path] = []
        self.clients: list[Child] = []
        self.authority: Child | None = None
        self.port = 0
        self.relay = Relay(0)

    # --- who is there ---

    def url(self, port: int) -> str:
        """Where the store is, seen through a port."""
        return f"http://127.0.0.1:{port}"

    async def end_authority(self) -> None:
        assert self.authority is not None
        self.authority.signal(signal.SIGKILL)
        await self.authority.ended

    async def raise_authority(self) -> None:
        out = self.directory / "authority.out"
        given = (str(self.directory / "store.db"), self.port, self.fault)
        self.authority = self.server.start("authority", *given, out=out)
        while not (out.exists() and (said := out.read_text()).endswith("\n")):
            assert not self.authority.ended.done(), "the authority did not start"
            await asyncio.sleep(0.002)
        self.port = int(said.split()[2].rpartition(":")[2])

    def send_in_a_client(self) -> None:
        number = len(self.records) + 1
        record = self.directory / f"client{number}.jsonl"
        record.touch()
        self.records.append(record)
        seed, steps = self.dice.randrange(1 << 30), STEPS[self.workload]
        given = (self.url(self.relay.port), self.workload, seed, number, steps, str(record))
        out = self.directory / f"client{number}.out"
        self.clients.append(self.server.start("client", *given, out=out))

    # --- what is done to them ---

    async def kill_authority(self) -> None:
        away = self.directory / "away"
        away.touch()
        await self.end_authority()
        await self.raise_authority()
        away.unlink()

    async def stop_authority(self) -> None:
        assert self.authority is not None
        await self._stopped(self.authority, self.dice.uniform(0.03, 0.3))

    async def kill_client(self) -> None:
        victim = self.dice.choice(self._running())
        victim.signal(signal.SIGKILL)
        await victim.ended
        self.send_in_a_client()

    async def stop_client(self) -> None:
        # Now and then for longer than a lock's lease: a holder that wakes up must be fenced off.
        pause_s = self.dice.choice([0.05, 0.2, 1.2 if self.workload == "lock" else 0.3])
        await self._stopped(self.dice.choice(self._running()), pause_s)

    async def cut_before(self) -> None:
        await self._lines_lose("lose_requests")

    async def cut_after(self) -> None:
        await self._lines_lose("lose_answers")

    async def _stopped(self, child: Child, pause_s: float) -> None:
        child.signal(signal.SIGSTOP)
        await asyncio.wait([child.ended], timeout=pause_s)
        child.signal(signal.SIGCONT)

    async def _lines_lose(self, what: str) -> None:
        """Until one was lost: requests before they arrive, or answers of what was done."""
        lost = self.relay.lost
        setattr(self.relay, what, True)
        for _ in range(100):
            if self.relay.lost >= lost + self.dice.randint(1, 4) or not self._running():
                break
            await asyncio.sleep(0.002)
        setattr(self.relay, what, False)

    def _running(self) -> list[Child]:
        return [client for client in self.clients if not client.ended.done()]

    async def _some_answers(self) -> None:
        wanted = self._written() + self.dice.randint(2, 24) * 2 * EVENT_BYTES
        for _ in range(200):
            if self._written() >= wanted or not self._running():
                return
            await asyncio.sleep(0.002)

    def _written(self) -> int:
        return sum(record.stat().st_size for record in self.records)

    def trouble_of_the_server(self) -> dict[Deed, int]:
        """What may happen to the server, and how often in proportion."""
        return {self.stop_authority: 2, self.kill_authority: 2}

    def most(self) -> dict[str, int]:
        """What may happen only so often."""
        return {"kill_authority": FALLS_MAX, "kill_client": KILLED_MAX}

    async def _trouble(self) -> None:
        odds = {
            self.cut_after: 4,
            self.cut_before: 4,
            self.stop_client: 2,
            self.kill_client: 2,
        } | self.trouble_of_the_server()
        most = self.most()
        while True:
            await self._some_answers()
            if not self._running():
                return
            (deed,) = self.dice.choices([*odds], [*odds.values()])
            if self.deeds[deed.__name__] < most.get(deed.__name__, 1000):
                self.deeds[deed.__name__] += 1
                await deed()

    # --- the history ---

    async def recorded(self) -> list[dict[str, Any]]:
        """Play it; return the one history that all the records together are."""
        await self.raise_authority()
        self.relay = Relay(self.port)
        await self.relay.start()
        for _ in range(CLIENTS):
            self.send_in_a_client()
        await self._trouble()
        statuses = Counter([await client.ended for client in self.clients])
        assert set(statuses) <= {0, -signal.SIGKILL}, statuses
        await self.relay.stop()
        last = Recorder()
        async with t.open(self.url(self.port)) as store:
            await look_back(self.workload, store, last)
        await self.end_authority()
        events = merged(self.records)
        return events + [
            {**event, "index": event["index"] + len(events), "process": 0} for event in last.events
        ]


async def record_history(
    server: ForkServer, directory: Path, workload: str, seed: int, fault: str | None = None
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Record one history in trouble; return it with what was done, and how often."""
    directory.mkdir()
    scene = Scene(server, directory, workload, seed, fault)
    return await scene.recorded(), scene.deeds

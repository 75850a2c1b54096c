"""Directs a run of the rooms demo: sends all agents at once, way by way, and looks who has it.

What an agent was told is its own answer; what really stands is looked up where the way keeps it,
when nothing moves any more: in the dict, on every replica, in the store. Nothing is assumed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import transactional
from demos.rooms.ways import CAS, DICT, HOLD, LOCK, LWW, ROOM, SLOT, WAYS, place
from demos.stage import Actor, StageError, Told, free_addresses
from transactional import Register, Reservations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transactional import Store

READY_S_MAX = 60.0
ANSWER_S_MAX = 60.0
EQUAL_S_MAX = 30.0
PEERS = 3


@dataclass(slots=True)
class Row:
    """One way: who was told "booked", who has the room in the end, and what it took."""

    way: str
    told: list[str]
    stands: list[str]
    attempts: int
    late: int
    took_s: float

    @property
    def kept(self) -> int:
        """Of those who were told "booked", how many have the room."""
        return sum(name in self.stands for name in self.told)

    @property
    def double(self) -> int:
        """How many were told "booked" and do not have it."""
        return len(self.told) - self.kept


@dataclass(slots=True)
class Outcome:
    """What was counted."""

    rows: list[Row] = field(default_factory=list)
    replicas: int = 0
    digests: set[str] = field(default_factory=set)
    killed: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    """Who held the room until the hold expired, by the store's record."""


class Story:
    """One run, from the first process to the last."""

    def __init__(
        self,
        agents: int,
        seed: int,
        folder: Path,
        remark: Callable[[str], None],
        *,
        lie: bool = False,
    ) -> None:
        self.outcome = Outcome()
        self._seed = seed
        self._folder = folder
        self._remark = remark
        self._names = [f"agent-{number:02}" for number in range(1, agents + 1)]
        self._lie = ["--lies"] if lie else []
        self._authority = Actor("authority", self._heard, obeys=False)
        self._dict = Actor("shared dict", self._heard, obeys=False)
        self._agents = {name: Actor(name, self._heard) for name in self._names}
        self._holding: asyncio.Queue[str] = asyncio.Queue()

    def _heard(self, name: str, told: Told) -> None:
        if told["tell"] == "holding":
            self._holding.put_nowait(name)

    async def play(self) -> Outcome:
        """The whole run; no process is left behind when it returns.

        Raises:
            StageError: a process did not start or answer.
        """
        try:
            return await self._play()
        finally:
            await asyncio.gather(*(agent.stop() for agent in self._agents.values()))
            await asyncio.gather(self._authority.stop(), self._dict.stop())

    async def _play(self) -> Outcome:
        url = await self._start()
        async with transactional.open(url) as store:
            for way in WAYS:
                self.outcome.rows.append(await self._send(way, store))
            await self._look_at_holds(store)
        return self.outcome

    async def _start(self) -> str:
        key_file = self._folder / "key"
        key_file.write_bytes(secrets.token_bytes(32))
        file = str(self._folder / "store.db")
        await self._authority.start(
            "transactional", "serve", file, "--listen", "127.0.0.1:0", greeting="line"
        )
        await self._dict.start("demos.rooms.shared_dict", str(key_file))
        line = await self._authority.hear("line", timeout_s=READY_S_MAX)
        served = await self._dict.hear("ready", timeout_s=READY_S_MAX)
        url = str(line["text"]).split()[2]
        addresses = free_addresses(len(self._names))
        for number, (name, agent) in enumerate(self._agents.items()):
            others = [*addresses[number + 1 :], *addresses[:number]][:PEERS]
            await agent.start(
                "demos.rooms.worker",
                *("--name", name, "--store", url, "--listen", addresses[number]),
                *("--peers", *others),
                *("--dict-port", str(served["port"]), "--key-file", str(key_file)),
                *("--seed", str(self._seed)),
                *self._lie,
            )
        for agent in self._agents.values():
            await agent.hear("ready", timeout_s=READY_S_MAX)
        await self._until(lambda look: look["members"] == len(self._names) - 1, "met")
        self._remark(f"{len(self._names)} agents, each a process, are there")
        return url

    async def _send(self, way: str, store: Store) -> Row:
        """Send all agents off at once; what they were told, and what stands."""
        began_s = time.monotonic()
        asked = {
            name: asyncio.create_task(
                agent.ask("book", timeout_s=ANSWER_S_MAX, way=way), name=f"{name} books"
            )
            for name, agent in self._agents.items()
        }
        try:
            if way == HOLD:
                victim = await asyncio.wait_for(self._holding.get(), ANSWER_S_MAX)
                await self._agents[victim].kill()
                self.outcome.killed.append(victim)
                self._remark(f"SIGKILL to {victim}, which holds the room")
                await asyncio.gather(asked.pop(victim), return_exceptions=True)
            answers = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        except TimeoutError:
            raise StageError("nobody held the room") from None
        finally:
            for task in asked.values():
                task.cancel()
        took_s = time.monotonic() - began_s
        row = Row(
            way=way,
            told=[name for name, told in answers.items() if told["booked"]],
            stands=await self._standing(way, store),
            attempts=sum(told["attempts"] for told in answers.values()),
            late=sum(told["late"] for told in answers.values()),
            took_s=took_s,
        )
        self._remark(
            f'{way}: {len(row.told)} told "booked", {" ".join(row.stands) or "nobody"} has it'
        )
        return row

    async def _standing(self, way: str, store: Store) -> list[str]:
        """Who has the room, by what is written where this way writes it."""
        if way == DICT:
            look = await self._agents[self._names[0]].ask("look", timeout_s=ANSWER_S_MAX)
            return [look["shared"]] if look["shared"] else []
        if way == LWW:
            looks = await self._until_equal()
            self.outcome.replicas = len(looks)
            self.outcome.digests = {look["digest"] for look in looks}
            return sorted({look["register"] for look in looks if look["register"]})
        if way == CAS:
            value = (await Register(store, place(way), by="director").get()).value
            return [value] if value else []
        if way == LOCK:
            found = await store.get(place(way))
            return [found.value.decode()] if found else []
        agenda = await Reservations(store).agenda(ROOM, SLOT)
        return [booking.holder for booking in agenda if booking.expires_at is None]

    async def _look_at_holds(self, store: Store) -> None:
        ended = await Reservations(store).ended(ROOM)
        self.outcome.expired = [hold.holder for hold in ended if hold.state.value == "expired"]

    async def _looks(self) -> list[Told]:
        agents = self._agents.values()
        return await asyncio.gather(*(a.ask("look", timeout_s=ANSWER_S_MAX) for a in agents))

    async def _until(self, holds: Callable[[Told], bool], what: str) -> None:
        deadline_s = time.monotonic() + READY_S_MAX
        while not all(map(holds, await self._looks())):
            if time.monotonic() > deadline_s:
                raise StageError(f"the agents have not {what} in {READY_S_MAX:g} s")
            await asyncio.sleep(0.1)

    async def _until_equal(self) -> list[Told]:
        """Every replica's look, once all are equal; after `EQUAL_S_MAX` as they are."""
        deadline_s = time.monotonic() + EQUAL_S_MAX
        while True:
            looks = await self._looks()
            if len({look["digest"] for look in looks}) == 1 or time.monotonic() > deadline_s:
                return looks
            await asyncio.sleep(0.1)

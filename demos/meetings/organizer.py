"""An organizer: an agent with its replica and journal, and a worker for the sagas of its talks.

An actor of the meetings demo; `story` directs it. It drives the sagas of its own tracks, resumes
those of an organizer that fell, and answers what the director asks about its replica.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transactional
from crdt import LWWRegister, MaxRegister
from demos.meetings.collisions import Claims, shares
from demos.meetings.programme import load
from demos.meetings.scheduling import NAME, Scheduling, run_id, turned_away
from demos.stage import commands, tell
from replication import Agent, ReplicationError, Version
from transactional import EventLog, Reservations, Sagas, SagaState, TransactionalError

if TYPE_CHECKING:
    from demos.meetings.programme import Programme, Talk

SAGAS_AT_ONCE = 16
# At one talk: an attempt ends because a rival has the slot, its hold expired, the store was away.
ATTEMPTS_MAX = 8
REACTION_S = 0.25  # votes and answers come in bursts, each burst is one batch
WORKER_LEASE_S = 2.0  # after that a dead organizer's sagas are free to be resumed


class Organizer:
    """Answers the director and drives sagas; one per process."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        programme: Programme,
        work: Scheduling,
        sagas: Sagas,
    ) -> None:
        self._name: str = arguments.name
        self._back: bool = arguments.back
        self._work = work
        self._sagas = sagas
        self._agent = work.agent
        self._share = shares(programme, arguments.names)[self._name]
        self._gate = asyncio.Semaphore(SAGAS_AT_ONCE)
        self._jobs: list[asyncio.Task[None]] = []
        self._booked: list[Talk] = []  # whose audience has not reacted yet

    async def obey(self) -> None:
        """Carry out commands until the standard input ends."""
        audience = asyncio.create_task(self._audience())
        async for command in commands():
            match command.pop("do"):
                case "go":
                    self._agent.document(f"presence/{self._name}", LWWRegister).set("working")
                    self._jobs = [asyncio.create_task(self._schedule(talk)) for talk in self._share]
                case "finish":
                    await asyncio.gather(*self._jobs)
                    audience.cancel()
                    self._react()
                    self._agent.document(f"presence/{self._name}", LWWRegister).set("done")
                    await self._agent.durable(self._agent.version())
                    tell("finish")
                case what:
                    tell(what, **await getattr(self, f"_on_{what}")(**command))

    # -- what nobody waits for

    async def _audience(self) -> None:
        while True:
            await asyncio.sleep(REACTION_S)
            self._react()

    def _react(self) -> None:
        if self._booked:
            self._work.audience(self._booked)
            self._booked = []

    # -- sagas

    async def _schedule(self, talk: Talk) -> None:
        """Give the talk its room: attempt after attempt, elsewhere if it lost its slot to a rival.

        A hold that expired under a slow saga, a deadline, a store that could not be reached: the
        room may still be free, so the talk is tried anew. A booking in the way is the one end that
        another attempt at the same slot would not change.
        """
        slot: list[str] | None = None
        async with self._gate:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                name = run_id(talk, attempt)
                found = await self._sagas.get(name) if self._back else None
                wish = {"talk": talk.id, "attempt": attempt, "slot": slot}
                if found:
                    wish = dict(found.input)
                began = time.perf_counter()
                run = await self._sagas.execute(NAME, name, wish)
                ms = None if found else 1000 * (time.perf_counter() - began)
                if run.state is not SagaState.COMPENSATED:
                    break
                if turned_away(run):
                    slot = await self._work.elsewhere(talk) if talk.rival else None
                    if slot is None:
                        break
        if run.state is SagaState.COMPLETED:
            self._booked.append(talk)
        outcome = {SagaState.COMPLETED: "booked", SagaState.COMPENSATED: "refused"}
        tell(
            "settled",
            talk=talk.id,
            outcome=outcome.get(run.state, run.state.value),
            reason=run.error if run.state is not SagaState.COMPLETED else "",
            attempt=attempt,
            ms=ms,
        )

    # -- the director's questions; each answer is told under the question's name

    async def _on_block(self, peers: list[str]) -> dict[str, Any]:
        for peer in peers:
            self._agent.block(peer)
        return {}

    async def _on_unblock(self, peers: list[str]) -> dict[str, Any]:
        for peer in peers:
            self._agent.unblock(peer)
        return {}

    async def _on_digest(self) -> dict[str, Any]:
        return {
            "digest": self._agent.digest().hex(),
            "vector": dict(self._agent.version().vector),
        }

    async def _on_reach(self, vector: dict[str, int], within_s: float) -> dict[str, Any]:
        await self._agent.seen(Version(vector), within_s)
        return {}

    async def _on_calendars(self) -> dict[str, Any]:
        entries = []
        for name, kind in self._agent.kernel.documents():
            if name.startswith("calendar/") and kind is MaxRegister:
                _, person, talk = name.split("/")
                if (latest := self._agent.document(name, MaxRegister).value) is not None:
                    entries.append([person, talk, *latest[1:]])
        return {"entries": entries}

    async def _on_figures(self) -> dict[str, Any]:
        return {
            "figures": {
                "bytes sent": self._agent.bytes_sent,
                "bytes received": self._agent.bytes_received,
            }
        }


async def play(arguments: argparse.Namespace) -> None:
    """Open the agent and the store, then obey."""
    programme = load(arguments.programme)
    agent = Agent(
        arguments.name,
        listen=arguments.listen,
        peers=arguments.peers,
        journal=arguments.journal,
        seed=arguments.seed,
    )
    async with transactional.open(arguments.store) as store, agent:
        work = Scheduling(
            name=arguments.name,
            store=store,
            rooms=Reservations(store),
            log=EventLog(store),
            agent=agent,
            talks={talk.id: talk for talk in programme.talks},
            claims=Claims(programme.talks),
            dice=random.Random(f"{arguments.name} {arguments.seed}"),
            stalls=arguments.stalls,
        )
        worker = Sagas(
            store, [work.definition()], worker=arguments.name, lease_ttl_s=WORKER_LEASE_S
        )
        async with worker as sagas:
            tell("ready", id=agent.id)
            await Organizer(arguments, programme, work, sagas).obey()


def main() -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--name", required=True)
    add("--names", nargs="+", required=True)
    add("--store", required=True)
    add("--listen", required=True)
    add("--peers", nargs="*", default=[])
    add("--journal", type=Path, required=True)
    add("--programme", type=Path, required=True)
    add("--seed", type=int, required=True)
    add("--stalls", type=int, default=0)
    add("--back", action="store_true", help="restarted: some runs may be there already")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(play(parser.parse_args()))
    except (TransactionalError, ReplicationError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

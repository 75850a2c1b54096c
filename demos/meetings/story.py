"""Directs a run of the meetings demo: who starts when, which trouble comes, when it is over.

The order of events, all of it on real processes:

    authority, rivals, notifier, organizers start
    rivals hold a sample of slots                  they abandon them; the holds expire
    go: every organizer drives its talks' sagas    those that collide: one is refused, and moved
    at a third: rivals grab again, among what is still open
    at two fifths: partition                       two organizers on one side, the rest on the other
    at three fifths: heal                          measured until everyone has what everyone had
    at three quarters: SIGKILL to one organizer    while its sagas are in flight; they are resumed
                                                   by others, or by itself
    all talks settled, inboxes drained, replicas equal

What is true at the end is not asked of those who took part: `audit` recomputes it from the store.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import transactional
from demos.meetings.collisions import made_to_collide, shares
from demos.meetings.programme import save
from demos.page import page_of_store
from demos.servers import ENGINES
from demos.stage import Actor, StageError, Told, free_addresses
from transactional import Sagas

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from demos.meetings.programme import Programme

NAMES = ("ada", "bob", "cyd", "dee", "eve", "fay", "gus", "hal", "ida", "jon")
READY_S_MAX = 30.0
SERVERS_S_MAX = 90.0  # until the servers of an engine answer that are made for the run
EQUAL_S_MAX = 30.0
PARTITION_S_MIN = 2.0  # shorter is no partition: an exchange in flight would bridge it
DEAD_S = 1.0  # between the kill and the restart; others may resume its sagas meanwhile
RIVAL_HOLD_S = 2.0  # how long a rival keeps others waiting for what it will abandon
LOOK_AGAIN_S = 0.02  # between two looks for an organizer with sagas in flight


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told; every figure of it can be repeated from these."""

    folder: Path
    agents: int
    seed: int
    collisions: int
    rivals: int
    stalls: int
    trouble: bool
    run_s_max: float
    ui: str = ""
    store: str = ""
    """The engine whose servers are started for the run, or a store's URL; empty: an authority."""


@dataclass(slots=True)
class Outcome:
    """What the director saw; the audit judges what is true."""

    story: list[tuple[float, str]] = field(default_factory=list)
    settled: dict[str, Told] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    calendars: dict[str, list[list[str]]] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    busy_s: float = 0.0
    converged_s: float | None = None
    rivals_held: int = 0
    trouble: bool = False  # whether the run was told to have some
    killed: str = ""
    left_by_killed: list[str] = field(default_factory=list)  # ids of its sagas in flight


async def _check_empty(url: str) -> None:
    """Raise StageError unless a store can be used by many, and nothing is in it."""
    if url.partition(":")[0] in {"memory", "sqlite"}:
        raise StageError(
            "that store is for one process, and the demo has many",
            "leave --store out, or give the URL of an authority, etcd or PostgreSQL",
        )
    try:
        async with transactional.open(url) as store:
            found = await store.scan("", limit=1)
    except transactional.TransactionalError as error:
        raise StageError(f"the store cannot be used: {error}", error.hint) from None
    if found.items:
        raise StageError(
            "the store is not empty, and the demo counts what is in there",
            "give another one: etcd://…/NEW, postgresql://…/DATABASE?schema=NEW",
        )


class Story:
    """One run, from the first process to the last.

    Args:
        options: what the run is told.
        programme: the talks as they were read; some of them are made to collide here.
        progress: is called with (settled, remark) whenever something happens.
    """

    def __init__(
        self,
        options: Options,
        programme: Programme,
        progress: Callable[[int, str], None],
    ) -> None:
        self.outcome = Outcome(trouble=options.trouble)
        self.store_url = ""
        self.replicas = options.agents
        self._options = options
        self._progress = progress
        self._names = NAMES[: options.agents]
        self._addresses = dict(zip(self._names, free_addresses(options.agents), strict=True))
        dice = random.Random(f"collisions {options.seed}")
        share = shares(programme, self._names)
        self.programme = made_to_collide(programme, share, options.collisions, dice)
        self.programme_file = options.folder / "programme.json"
        self._organizers = {name: Actor(name, self._heard) for name in self._names}
        own = options.store in ENGINES
        self._authority = Actor(options.store if own else "authority", self._heard, obeys=own)
        self._rivals = Actor("rivals", self._heard)
        self._notifier = Actor("notifier", self._heard)
        self._started = time.monotonic()
        self._went = self._started
        self._abandoned_at = self._started
        self._news = asyncio.Event()

    # -- hearing and telling

    def _heard(self, _name: str, told: Told) -> None:
        if told["tell"] == "settled" and told["talk"] not in self.outcome.settled:
            self.outcome.settled[told["talk"]] = told
            self.outcome.busy_s = time.monotonic() - self._went
            self._progress(len(self.outcome.settled), "")
        self._news.set()

    def remark(self, text: str) -> None:
        """Add a line to the story, with its second."""
        self.outcome.story.append((time.monotonic() - self._started, text))
        self._progress(len(self.outcome.settled), text)

    @property
    def _actors(self) -> list[Actor]:
        return [*self._organizers.values(), self._rivals, self._notifier, self._authority]

    # -- the run

    async def play(self) -> Outcome:
        """The whole run; whatever happens, no process is left behind when it returns.

        Raises:
            StageError: an actor failed, or the run took longer than `run_s_max`.
        """
        try:
            async with asyncio.timeout(self._options.run_s_max):
                await self._open()
                async with page_of_store("meetings", self.store_url, self._options.ui, self.remark):
                    trouble = self._trouble() if self._options.trouble else self._until_settled(1.0)
                    await trouble
                    await self._until_settled(1.0)
                    await self._close()
        except TimeoutError:
            settled = f"{len(self.outcome.settled)} of {len(self.programme.talks)} talks settled"
            raise StageError(
                f"the run took longer than {self._options.run_s_max:g} s; {settled}"
            ) from None
        return self.outcome

    async def end(self) -> None:
        """Stop every process; the authority last, because the others talk to it."""
        for actors in (self._actors[:-1], [self._authority]):
            await asyncio.gather(*(actor.stop() for actor in actors))

    async def _open(self) -> None:
        save(self.programme_file, self.programme)
        await self._open_store()
        await self._rivals.start(
            "demos.meetings.rivals",
            *("--store", self.store_url, "--programme", str(self.programme_file)),
            *("--seed", str(self._options.seed), "--hold-s", str(RIVAL_HOLD_S)),
        )
        audience = str(max((len(talk.people) for talk in self.programme.talks), default=1) or 1)
        notifier = ("demos.meetings.notifier", "--store", self.store_url, "--audience", audience)
        await self._notifier.start(*notifier)
        await asyncio.gather(*(self._start_organizer(name) for name in self._names))
        for actor in (self._rivals, self._notifier):
            await actor.hear("ready", timeout_s=READY_S_MAX)
        deciding = self._options.store if self._options.store in ENGINES else "the authority"
        here = f" and {deciding}" if self._authority.running else ", on a store that was there,"
        self.remark(f"{len(self._names)} organizers, rivals, notifier{here} are up")
        if pairs := self.programme.pairs:
            self.remark(f"{len(pairs)} pairs of talks of two organizers want one slot each")
        if self._options.rivals:
            await self._grab(self._options.rivals)
        self._went = time.monotonic()
        for organizer in self._organizers.values():
            organizer.say("go")
        self.remark("go")

    async def _open_store(self) -> None:
        """Start what decides, or use what is there."""
        engine = self._options.store
        if engine in ENGINES:
            folder = self._options.folder / "servers"
            folder.mkdir()
            await self._authority.start("demos.servers", engine, str(folder))
            self.store_url = (await self._authority.hear("ready", timeout_s=SERVERS_S_MAX))["url"]
        elif engine:
            self.store_url = engine
            await _check_empty(engine)
        else:
            (address,) = free_addresses(1)
            database = self._options.folder / "rooms.db"
            serve = ("transactional", "serve", str(database), "--listen", address)
            await self._authority.start(*serve, greeting="line")
            await self._authority.hear("line", timeout_s=READY_S_MAX)
            self.store_url = f"http://{address}"

    async def _start_organizer(self, name: str, *more: str) -> None:
        peers = [address for other, address in self._addresses.items() if other != name]
        await self._organizers[name].start(
            "demos.meetings.organizer",
            *("--name", name, "--names", *self._names, "--store", self.store_url),
            *("--listen", self._addresses[name], "--peers", *peers),
            *("--journal", str(self._options.folder / f"{name}.db")),
            *("--programme", str(self.programme_file), "--seed", str(self._options.seed)),
            *("--stalls", str(self._options.stalls if name == self._names[0] else 0)),
            *more,
        )
        await self._organizers[name].hear("ready", timeout_s=READY_S_MAX)

    async def _grab(self, count: int) -> None:
        open_talks = [
            talk.id for talk in self.programme.talks if talk.id not in self.outcome.settled
        ]
        told = await self._rivals.ask("grab", timeout_s=READY_S_MAX, among=open_talks, count=count)
        self.outcome.rivals_held += told["count"]
        self._abandoned_at = time.monotonic() + RIVAL_HOLD_S
        self.remark(
            f"rivals hold {told['count']} slots for {RIVAL_HOLD_S:g} s and will abandon them"
        )

    # -- trouble

    async def _trouble(self) -> None:
        await self._until_settled(1 / 3)
        if self._options.rivals:
            await self._grab(self._options.rivals)
        await self._until_settled(2 / 5)
        if self._options.store == "etcd":
            await self._until_settled(1 / 2)
            told = await self._authority.ask("kill_leader", timeout_s=READY_S_MAX)
            self.remark(f"SIGKILL to {told['name']}, the leader of three members of etcd")
        if len(self._names) > 1:
            await self._partition()
        await self._until_settled(3 / 4)
        await self._kill_one()

    async def _partition(self) -> None:
        half = max(len(self._names) * 2 // 5, 1)
        sides = (self._names[:half], self._names[half:])
        for side, others in (sides, sides[::-1]):
            blocked = [self._addresses[other] for other in others]
            for name in side:
                await self._organizers[name].ask("block", timeout_s=READY_S_MAX, peers=blocked)
        self.remark(f"partition: {' '.join(sides[0])} | {' '.join(sides[1])}")
        before = len(self.outcome.settled)
        await asyncio.sleep(PARTITION_S_MIN)
        await self._until_settled(3 / 5)
        during = len(self.outcome.settled) - before
        for side, others in (sides, sides[::-1]):
            blocked = [self._addresses[other] for other in others]
            for name in side:
                await self._organizers[name].ask("unblock", timeout_s=READY_S_MAX, peers=blocked)
        healed = time.monotonic()
        self.remark(f"healed; {during} talks were settled meanwhile, on both sides")
        await self._everyone_reaches_everyone()
        self.outcome.converged_s = time.monotonic() - healed
        self.remark(f"all replicas have what each had: {self.outcome.converged_s:.2f} s after heal")

    async def _everyone_reaches_everyone(self) -> None:
        """Until each replica has all that any replica had at this moment."""
        states = await self._ask_all("digest")
        union: Counter[str] = Counter()
        for told in states.values():
            union |= Counter(told["vector"])
        await self._ask_all("reach", vector=dict(union), within_s=EQUAL_S_MAX - 1)

    async def _kill_one(self) -> None:
        """SIGKILL to an organizer that has sagas in flight: the wait for one ends with the talks.

        It is stopped before it is looked at: what is in flight then is in flight when it dies.
        """
        async with transactional.open(self.store_url) as store:
            sagas = Sagas(store, [])
            while len(self.outcome.settled) < len(self.programme.talks):
                busy = await self._in_flight(sagas)
                for victim in sorted(busy, key=lambda name: -len(busy[name]))[:1]:
                    self._organizers[victim].freeze()
                    left = (await self._in_flight(sagas)).get(victim, [])
                    if left:
                        await self._organizers[victim].kill()
                        await self._bury(victim, left)
                        return
                    self._organizers[victim].thaw()
                await asyncio.sleep(LOOK_AGAIN_S)
        self.remark("nobody was killed: all talks were settled before a saga was seen in flight")

    async def _bury(self, victim: str, left: list[str]) -> None:
        self.outcome.killed, self.outcome.left_by_killed = victim, left
        self.remark(f"SIGKILL to {victim}: {len(left)} sagas in flight")
        await asyncio.sleep(DEAD_S)
        await self._start_organizer(victim, "--back")
        self._organizers[victim].say("go")
        self.remark(f"{victim} is back on its journal")

    async def _in_flight(self, sagas: Sagas) -> dict[str, list[str]]:
        """The ids of the unfinished sagas of each organizer that has some."""
        found: dict[str, list[str]] = {}
        async for run in sagas.unfinished():
            organizer = run.owner.partition("~")[0]
            if organizer in self._organizers:
                found.setdefault(organizer, []).append(run.id)
        return found

    # -- waiting

    async def _until_settled(self, share: float) -> None:
        """Until this share of the talks has an end; a process that ended unasked ends the wait."""
        goal = share * len(self.programme.talks)
        while len(self.outcome.settled) < goal:
            for actor in self._actors:
                if actor.failure:
                    raise StageError(actor.failure)
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 1.0)

    async def _ask_all(self, do: str, **fields: Any) -> dict[str, Told]:
        answers = await asyncio.gather(
            *(
                organizer.ask(do, timeout_s=EQUAL_S_MAX, **fields)
                for organizer in self._organizers.values()
            )
        )
        return dict(zip(self._organizers, answers, strict=True))

    async def _close(self) -> None:
        """Drain the inboxes, let the replicas become equal, take what they hold."""
        await asyncio.sleep(self._abandoned_at - time.monotonic())  # the last of their holds too
        await self._rivals.stop()
        await self._ask_all("finish")
        await self._notifier.ask("drain", timeout_s=EQUAL_S_MAX)
        self.remark("all talks settled, all inboxes drained")
        await self._everyone_reaches_everyone()
        for name, told in (await self._ask_all("digest")).items():
            self.outcome.digests[name] = told["digest"]
        for name, told in (await self._ask_all("calendars")).items():
            self.outcome.calendars[name] = told["entries"]
        for name, told in (await self._ask_all("figures")).items():
            self.outcome.figures[name] = told["figures"]
        self.remark("all replicas have told their calendars")

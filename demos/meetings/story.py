"""Directs a run of the meetings demo: who starts when, which trouble comes, when it is over.

The order of events, all of it on real processes:

    authority, rivals, notifier, organizers start
    rivals hold a sample of slots                  they abandon them; the holds expire
    go: every organizer drives its talks' sagas
    at a third: rivals grab again, among what is still open
    at two fifths: partition                       two organizers on one side, the rest on the other
    at three fifths: heal                          measured until everyone has what everyone had
    at three quarters: SIGKILL to one organizer    its sagas are resumed by others, or by itself
    all talks settled, inboxes drained, replicas equal

What is true at the end is not asked of those who took part: `audit` recomputes it from the store.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import transactional
from demos.stage import Actor, StageError, Told, free_addresses
from transactional import Sagas

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from demos.meetings.programme import Programme, Talk

NAMES = ("ada", "bob", "cyd", "dee", "eve", "fay", "gus", "hal", "ida", "jon")
READY_S_MAX = 30.0
EQUAL_S_MAX = 30.0
PARTITION_S_MIN = 2.0  # shorter is no partition: an exchange in flight would bridge it
DEAD_S = 1.0  # between the kill and the restart; others may resume its sagas meanwhile


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told; every figure of it can be repeated from these."""

    input: Path
    folder: Path
    agents: int
    seed: int
    rivals: int
    stalls: int
    trouble: bool
    run_s_max: float


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
    left_by_killed: list[str] = field(default_factory=list)


def shares(programme: Programme, names: Sequence[str]) -> dict[str, list[Talk]]:
    """Each track goes whole to one organizer: the largest first, to who has the least so far."""
    tracks: dict[str, list[Talk]] = {}
    for talk in programme.talks:
        tracks.setdefault(talk.track, []).append(talk)
    share: dict[str, list[Talk]] = {name: [] for name in names}
    for track in sorted(tracks, key=lambda name: (-len(tracks[name]), name)):
        least = min(names, key=lambda name: len(share[name]))
        share[least] += tracks[track]
    return share


class Story:
    """One run, from the first process to the last.

    Args:
        options: what the run is told.
        programme: the talks, read once by the caller to say early what is malformed.
        progress: is called with (settled, booked, refused, remark) whenever something happens.
    """

    def __init__(
        self,
        options: Options,
        programme: Programme,
        progress: Callable[[int, str], None],
    ) -> None:
        self.outcome = Outcome()
        self.store_url = ""
        self.input = options.input
        self.replicas = options.agents
        self._options = options
        self._programme = programme
        self._progress = progress
        self._names = NAMES[: options.agents]
        self._addresses = dict(zip(self._names, free_addresses(options.agents), strict=True))
        self._share = shares(programme, self._names)
        self._organizers = {name: Actor(name, self._heard) for name in self._names}
        self._authority = Actor("authority", self._heard, obeys=False)
        self._rivals = Actor("rivals", self._heard)
        self._notifier = Actor("notifier", self._heard)
        self._started = time.monotonic()
        self._went = self._started
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
                trouble = self._trouble() if self._options.trouble else self._until_settled(1.0)
                await trouble
                await self._until_settled(1.0)
                await self._close()
        except TimeoutError:
            settled = f"{len(self.outcome.settled)} of {len(self._programme.talks)} talks settled"
            raise StageError(
                f"the run took longer than {self._options.run_s_max:g} s; {settled}"
            ) from None
        return self.outcome

    async def end(self) -> None:
        """Stop every process; the authority last, because the others talk to it."""
        for actors in (self._actors[:-1], [self._authority]):
            await asyncio.gather(*(actor.stop() for actor in actors))

    async def _open(self) -> None:
        (address,) = free_addresses(1)
        database = self._options.folder / "rooms.db"
        serve = ("transactional", "serve", str(database), "--listen", address)
        await self._authority.start(*serve, greeting="line")
        await self._authority.hear("line", timeout_s=READY_S_MAX)
        self.store_url = f"http://{address}"
        common = ("--store", self.store_url, "--input", str(self._options.input))
        seed = ("--seed", str(self._options.seed))
        await self._rivals.start("demos.meetings.rivals", *common, *seed)
        audience = str(max((len(talk.people) for talk in self._programme.talks), default=1) or 1)
        notifier = ("demos.meetings.notifier", "--store", self.store_url, "--audience", audience)
        await self._notifier.start(*notifier)
        await asyncio.gather(*(self._start_organizer(name) for name in self._names))
        for actor in (self._rivals, self._notifier):
            await actor.hear("ready", timeout_s=READY_S_MAX)
        self.remark(f"{len(self._names)} organizers, rivals, notifier and the authority are up")
        if self._options.rivals:
            await self._grab(self._options.rivals)
        self._went = time.monotonic()
        for organizer in self._organizers.values():
            organizer.say("go")
        self.remark("go")

    async def _start_organizer(self, name: str, *more: str) -> None:
        peers = [address for other, address in self._addresses.items() if other != name]
        await self._organizers[name].start(
            "demos.meetings.organizer",
            *("--name", name, "--names", *self._names, "--store", self.store_url),
            *("--listen", self._addresses[name], "--peers", *peers),
            *("--journal", str(self._options.folder / f"{name}.db")),
            *("--input", str(self._options.input), "--seed", str(self._options.seed)),
            *("--stalls", str(self._options.stalls if name == self._names[0] else 0)),
            *more,
        )
        await self._organizers[name].hear("ready", timeout_s=READY_S_MAX)

    async def _grab(self, count: int) -> None:
        open_talks = [
            talk.id for talk in self._programme.talks if talk.id not in self.outcome.settled
        ]
        told = await self._rivals.ask("grab", timeout_s=READY_S_MAX, among=open_talks, count=count)
        self.outcome.rivals_held += told["count"]
        self.remark(f"rivals hold {told['count']} slots for 2 s and will abandon them")

    # -- trouble

    async def _trouble(self) -> None:
        await self._until_settled(1 / 3)
        if self._options.rivals:
            await self._grab(self._options.rivals)
        await self._until_settled(2 / 5)
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
        remaining = {
            name: sum(talk.id not in self.outcome.settled for talk in talks)
            for name, talks in self._share.items()
        }
        victim = max(remaining, key=lambda name: (remaining[name], name))
        await self._organizers[victim].kill()
        self.outcome.left_by_killed = await self._runs_of(victim)
        self.remark(
            f"SIGKILL to {victim}: {len(self.outcome.left_by_killed)} sagas in mid-air,"
            f" {remaining[victim]} of its talks open"
        )
        await asyncio.sleep(DEAD_S)
        await self._start_organizer(victim, "--back")
        self._organizers[victim].say("go")
        self.remark(f"{victim} is back on its journal")

    async def _runs_of(self, organizer: str) -> list[str]:
        async with transactional.open(self.store_url) as store:
            open_runs = [run async for run in Sagas(store, []).unfinished()]
        return [run.id for run in open_runs if run.owner.startswith(f"{organizer}~")]

    # -- waiting

    async def _until_settled(self, share: float) -> None:
        """Until this share of the talks has an end; a process that ended unasked ends the wait."""
        goal = share * len(self._programme.talks)
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

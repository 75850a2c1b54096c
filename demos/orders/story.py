"""Directs a run of the orders demo, and reads from the store what came of it.

    authority, bank and carrier, fulfilment, customer service, coordinator start
    the orders are placed                     the counter sells mugs meanwhile
    at record 23, 51, ... of all sagas        SIGKILL to the coordinator, which is started again
    half of the orders are over               it is noted where each order is, and what time it is
    all are over                              the ledgers are read

A record is a commit of the store; the director sees each as it is made (`Store.watch`) and kills at
those that the seed names.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import transactional
from demos.orders.plan import CHAIR, STOCK, WALK_INS, Order, kills_at, plan
from demos.orders.steps import stock_key, stream_of
from demos.page import page_of_store
from demos.stage import Actor, StageError, Told, free_addresses
from transactional import (
    Compacted,
    EventLog,
    Put,
    RecordedEvent,
    Reducer,
    Sagas,
    Store,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

READY_S_MAX = 60.0
ANSWER_S_MAX = 60.0
EQUAL_S_MAX = 30.0
LAST: Reducer[str] = Reducer("last", lambda: "", lambda _, event: event.type)
"""Where an order is: what happened to it last."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told."""

    folder: Path
    orders: int
    kills: int
    seed: int
    forgetful: bool
    run_s_max: float
    ui: str = ""


@dataclass(slots=True)
class Outcome:
    """What the store, the world outside and the replicas say."""

    orders: list[Order]
    ends: dict[str, str] = field(default_factory=dict)
    """Order -> `completed`, `compensated`, or the state of a saga that did not end."""
    records: int = 0
    killed: int = 0
    chairs_left: int = 0
    ledger: Told = field(default_factory=dict)
    sold: Told = field(default_factory=dict)
    read: dict[str, Told] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    last: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Order -> (version, what happened last), by the log."""
    at: datetime | None = None
    seen_then: dict[str, str] = field(default_factory=dict)
    said_now: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    busy_s: float = 0.0


class Story:
    """One run, from the first process to the last."""

    def __init__(self, options: Options, remark: Callable[[int, str], None]) -> None:
        self.outcome = Outcome(plan(options.orders, options.seed))
        self._options = options
        self._remark = remark
        self._over: set[str] = set()
        self._authority = Actor("authority", self._heard, obeys=False)
        self._world = Actor("outside", self._heard)
        self._coordinator = Actor("coordinator", self._heard)
        self._readers = {name: Actor(name, self._heard) for name in ("fulfilment", "service")}
        names = ("coordinator", *self._readers)
        self._addresses = dict(zip(names, free_addresses(len(names)), strict=True))
        self._began_s = time.monotonic()

    def _heard(self, _name: str, _told: Told) -> None:
        """Nothing is heard that was not asked for."""

    async def play(self) -> Outcome:
        """The whole run; no process is left behind when it returns.

        Raises:
            StageError: a process did not start, or the orders were not over in time.
        """
        try:
            async with asyncio.timeout(self._options.run_s_max):
                return await self._play()
        except TimeoutError:
            left = len(self.outcome.orders) - len(self._over)
            raise StageError(f"{left} orders were not over in time") from None
        finally:
            actors = [self._coordinator, self._world, *self._readers.values()]
            await asyncio.gather(*(actor.stop() for actor in actors))
            await self._authority.stop()

    async def _play(self) -> Outcome:
        url = await self._start()
        async with (
            page_of_store("orders", url, self._options.ui, lambda text: self._remark(0, text)),
            transactional.open(url) as store,
        ):
            chairs = Put(stock_key(CHAIR), str(STOCK[CHAIR]).encode())
            revision = (await store.commit([], [chairs])).revision
            self._began_s = time.monotonic()
            self._coordinator.say("go")
            self._readers["fulfilment"].say("sell", walk_ins=WALK_INS)
            await self._follow(store, url, revision)
            self.outcome.busy_s = time.monotonic() - self._began_s
            await self._look(store)
        return self.outcome

    # -- the processes

    async def _start(self) -> str:
        file = str(self._options.folder / "store.db")
        await self._authority.start(
            "transactional", "serve", file, "--listen", "127.0.0.1:0", greeting="line"
        )
        await self._world.start(
            "demos.orders.outside",
            *("--orders", str(self._options.orders), "--seed", str(self._options.seed)),
            *(["--forgetful"] if self._options.forgetful else []),
        )
        for name, reader in self._readers.items():
            await reader.start("demos.orders.reader", "--name", name, *self._place(name))
        line = await self._authority.hear("line", timeout_s=READY_S_MAX)
        url = str(line["text"]).split()[2]
        self._port = (await self._world.hear("ready", timeout_s=READY_S_MAX))["port"]
        await self._start_coordinator(url)
        ids = {
            name: (await reader.hear("ready", timeout_s=READY_S_MAX))["id"]
            for name, reader in self._readers.items()
        }
        counter = ids["fulfilment"]
        await self._coordinator.ask("stock", timeout_s=ANSWER_S_MAX, counter=counter)
        self._remark(0, "authority, bank and carrier, coordinator, fulfilment and service are up")
        return url

    def _place(self, name: str) -> tuple[str, ...]:
        peers = (address for other, address in self._addresses.items() if other != name)
        journal = str(self._options.folder / f"{name}.db")
        return ("--listen", self._addresses[name], "--journal", journal, "--peers", *peers)

    async def _start_coordinator(self, url: str) -> None:
        await self._coordinator.start(
            "demos.orders.coordinator",
            *("--store", url, "--world-port", str(self._port)),
            *("--orders", str(self._options.orders), "--seed", str(self._options.seed)),
            *self._place("coordinator"),
        )
        await self._coordinator.hear("ready", timeout_s=READY_S_MAX)

    # -- the run

    async def _follow(self, store: Store, url: str, revision: int) -> None:
        """See every record of every saga, and kill at some of them, until all orders are over."""
        ahead = kills_at(self._options.kills, self._options.orders, self._options.seed)
        half = len(self.outcome.orders) // 2
        layout = Sagas(store, []).layout
        watch = store.watch("saga/", after=revision)
        try:
            async for event in watch:
                if isinstance(event, Compacted):
                    raise StageError("the store forgot records before they were seen")
                live = [change.key for change in event.changes if change.current is not None]
                over = {key for key in live if key.startswith(layout.done())}
                self.outcome.records += any(key.startswith(layout.open()) for key in live)
                self.outcome.records += bool(over)
                self._over |= over
                self._remark(len(self._over), "")
                if self._coordinator.failure:
                    raise StageError(self._coordinator.failure)
                if len(self._over) == len(self.outcome.orders):
                    return
                if self.outcome.at is None and len(self._over) >= half:
                    await self._note(store)
                if ahead and self.outcome.records >= ahead[0]:
                    ahead.pop(0)
                    await self._kill(url)
        finally:
            await watch.aclose()

    async def _kill(self, url: str) -> None:
        await self._coordinator.kill()
        self.outcome.killed += 1
        self._remark(len(self._over), f"record {self.outcome.records}: SIGKILL to the coordinator")
        await self._start_coordinator(url)
        self._coordinator.say("go")

    async def _note(self, store: Store) -> None:
        """Write down where each order is, and when that is: the log closes that time."""
        log = EventLog(store)
        self.outcome.at = now = await store.now()
        upto = await log.position_at(now)
        last: dict[str, str] = {}
        async for event in log.read_all(upto=upto):
            last[event.stream] = event.type
        streams = (stream_of(order.id) for order in self.outcome.orders)
        self.outcome.seen_then = {stream: last.get(stream, "") for stream in streams}
        self._remark(len(self._over), f"T is {now:%H:%M:%S.%f}, and where each order is is noted")

    # -- what came of it

    async def _look(self, store: Store) -> None:
        found, log = self.outcome, EventLog(store)
        found.sold = await self._readers["fulfilment"].ask("sold", timeout_s=ANSWER_S_MAX)
        await self._until_equal()
        for name, reader in self._readers.items():
            found.read[name] = await reader.ask("read", timeout_s=ANSWER_S_MAX)
        found.ledger = await self._world.ask("ledger", timeout_s=ANSWER_S_MAX)
        sagas = Sagas(store, [])
        async for run in sagas.unfinished():
            found.ends[run.id] = run.state.value
        async for run in sagas.finished():
            found.ends[run.id] = run.state.value
        left = await store.get(stock_key(CHAIR))
        found.chairs_left = int(left.value) if left else 0
        versions: Counter[str] = Counter()
        async for event in log.read_all():
            versions[event.stream] += 1
            found.last[event.stream] = _last(event)
        for order in found.orders:
            stream = stream_of(order.id)
            found.said_now[stream] = (await log.state(stream, LAST, at=found.at)).state
        found.findings = [str(finding) for finding in await log.verify()]

    async def _until_equal(self) -> None:
        """Until all replicas are equal; after `EQUAL_S_MAX` as they are."""
        actors = [self._coordinator, *self._readers.values()]
        deadline_s = time.monotonic() + EQUAL_S_MAX
        while time.monotonic() < deadline_s:
            looks = await asyncio.gather(*(a.ask("look", timeout_s=ANSWER_S_MAX) for a in actors))
            self.outcome.digests = {look["digest"] for look in looks}
            if len(self.outcome.digests) == 1:
                return
            await asyncio.sleep(0.1)


def _last(event: RecordedEvent) -> tuple[int, str]:
    return event.version, event.type


def statuses(read: Told) -> dict[str, tuple[int, str]]:
    """Where a replica says that the orders are."""
    found: dict[str, Any] = read["statuses"]
    return {name: (int(value[0]), str(value[1])) for name, value in found.items()}

"""The worker: starts runs, keeps itself known to be alive, takes over the runs of dead workers.

It also lets people look at runs and intervene in them.  What a run does next is `history`'s to say
and `driver`'s to perform.

One coordinator at a time: a worker's key hangs on its lease.  A run names its owner.  Whoever finds
the owner's key gone writes its own name into the run, in a commit that compares both the absence of
that key and the run's revision; that same write fences the old owner off, should it only have been
asleep.  So two workers may both believe that they own a run, but only one can record.

Who drives what.  A run without an owner lies in the index of what is due (see `run`): new runs of
clients, runs that another worker let go of, parked ones whose time or news has come.  Every worker
watches that index and takes what is due, as long as it drives fewer than `runs_max`; the first
commit wins.  Runs that only wait are parked and cost no worker anything.  Runs whose owner died are
found by looking, every `recover_every_s`, at who drives what and who lives.

    async with Sagas(store, [order], worker="fulfilment") as sagas:
        run = await sagas.execute("order", "order-17", {"item": "book", "pieces": 2})
        assert run.state is SagaState.COMPLETED, run.error
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from transactional.clock import BusinessClock, utc
from transactional.errors import (
    ConflictError,
    InvalidRequestError,
    LeaseExpiredError,
    TransactionalError,
)
from transactional.retry import Decision, check_guards, decided, settled_commit
from transactional.sagas.driver import (
    INPUT_BYTES_MAX,
    RESULT_BYTES_MAX,
    Driver,
    SagaFencedError,
    as_json,
)
from transactional.sagas.history import Record, RecordKind, in_doubt, past_pivot
from transactional.sagas.run import (
    NOW,
    SagaExistsError,
    SagaLayout,
    SagaRun,
    SagaStateError,
    UnknownSagaError,
    due_at,
    read_run,
    writes_of,
)
from transactional.shield import shielded
from transactional.store import next_change, scan_all, scan_pages
from transactional.sweeper import RETENTION_S, Removal, Sweeper, check_retention
from transactional.tokens import fresh_token
from transactional.values import Absent, Delete, DeletePrefix, Exists, Put, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from datetime import datetime
    from types import TracebackType

    from transactional.sagas.saga import Json, Saga
    from transactional.store import Store
    from transactional.values import Compare, KeyValue, Lease, Write

SIGNALS_MAX: Final = 1000
"""Most signals of one name that a run is sent."""
LOOK_AT_MOST_S: Final = 60.0
"""How long a worker sleeps at most before it looks again at what is due."""
LEFT_MAX: Final = 100_000
"""Most runs of unknown definitions that are remembered as not for this worker."""

log = logging.getLogger(__name__)


class Sagas:
    """A worker for the sagas it was given the definitions of; `async with` starts and stops it.

    Outside of `async with` it is a client: what it starts, looks at and intervenes in is driven by
    workers elsewhere, which are woken at once.  `runs_max` bounds the runs driven at once, those
    that only wait not counted; `start` waits for room.  A worker that dies is noticed after at most
    `lease_ttl_s`; whoever has the definitions takes its runs over within `recover_every_s` (half of
    that, if not given).

    A run that is over is kept for `retention_s`, at least 7 days, and is then taken away in passing
    (`compact` does it at once): its id is then free for a new run.
    """

    def __init__(
        self,
        store: Store,
        definitions: Iterable[Saga],
        *,
        worker: str = "worker",
        namespace: str = "saga",
        lease_ttl_s: float = 10.0,
        recover_every_s: float | None = None,
        runs_max: int = 1000,
        retention_s: float = RETENTION_S,
    ) -> None:
        check_retention(retention_s)
        self.store = store
        self.layout = layout = SagaLayout(namespace)
        self._sweeper = Sweeper(store, layout.done(), layout.swept, self._old_runs, retention_s)
        self.name = f"{worker}~{secrets.token_hex(4)}"
        self._definitions = {(saga.name, saga.version): saga for saga in definitions}
        self._lease_ttl_s = lease_ttl_s
        self._recover_every_s = recover_every_s or lease_ttl_s / 2
        self._room = asyncio.Semaphore(runs_max)
        self._driving: dict[str, asyncio.Task[SagaRun]] = {}
        self._claimed: set[str] = set()  # those, and the ones whose first commit is under way
        self._left: dict[
            str, int
        ] = {}  # runs of unknown definitions, and the key that told of them
        self._freed = asyncio.Event()  # a place among the `runs_max` became free
        self._duties: list[asyncio.Task[None]] = []
        self._lease: Lease | None = None
        self._clock: BusinessClock | None = None

    # --- the worker's own life ------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._register()
        self._duties = [
            asyncio.create_task(self._keep_lease(), name=f"{self.name} lease"),
            asyncio.create_task(self._recover(), name=f"{self.name} recovery"),
            asyncio.create_task(self._attend(), name=f"{self.name} runs that are due"),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop in good order: pause actions, finish compensations, leave the runs to others."""
        tasks: list[asyncio.Task[None] | asyncio.Task[SagaRun]] = [*self._duties]
        tasks += self._driving.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(TransactionalError):
                await self.store.revoke(lease.id)

    @property
    def clock(self) -> BusinessClock:
        """The authority's time, as this worker knows it."""
        if self._clock is None:
            raise SagaStateError("a worker drives sagas inside of `async with` only")
        return self._clock

    async def _register(self) -> None:
        if self._clock is None:
            self._clock = BusinessClock(self.store)
        await self._clock.refresh()
        lease = await self.store.lease(self._lease_ttl_s)
        key = Put(self.layout.worker(self.name), b"{}", lease.id)
        await settled_commit(self.store, [], [key])
        self._lease = lease  # not before: one without its key would be renewed and protect nothing

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._lease_ttl_s / 3)
            try:
                if self._lease is not None:
                    await self.store.renew(self._lease.id)
            except LeaseExpiredError:
                # Runs that others took meanwhile fence us off one by one; the rest stay ours.
                with suppress(TransactionalError):
                    await self._register()
            except TransactionalError as error:
                log.warning("worker %s cannot renew its lease: %s", self.name, error)

    async def _recover(self) -> None:
        while True:
            try:
                await self.resume_unfinished()
            except TransactionalError as error:
                log.warning("worker %s cannot look for unfinished sagas: %s", self.name, error)
            await asyncio.sleep(self._recover_every_s)

    async def _attend(self) -> None:
        """Take what is due, when it is due, as long as there is room."""
        while True:
            try:
                revision, next_at = await self._take_due()
                await self._sleep_until(next_at, revision)
            except TransactionalError as error:
                log.warning("worker %s cannot look for what is due: %s", self.name, error)
                await asyncio.sleep(min(1.0, self._recover_every_s))

    async def _take_due(self) -> tuple[int, datetime | None]:
        """Take the runs that are due now; the revision looked at, and when the next one is due."""
        await self.clock.refresh(age_s_max=LOOK_AT_MOST_S)
        now, after, revision = due_at(self.clock.now()), None, None
        self._freed.clear()
        while True:
            page = await self.store.scan(self.layout.due(), after=after)
            revision = page.revision if revision is None else revision
            for entry in page.items.values():
                after = entry.key
                due, run_id = self.layout.due_of(entry.key)
                if due > now:
                    return revision, utc(int(due))
                if self._room.locked():
                    return revision, None  # `_freed` tells when to go on
                if run_id not in self._claimed and self._left.get(run_id) != entry.revision:
                    try:
                        await self._take(run_id, entry)
                    except Exception as error:
                        if isinstance(error, TransactionalError):
                            raise
                        self._leave(run_id, entry.revision, error)
            if not page.more:
                return revision, None

    async def _take(self, run_id: str, told: KeyValue) -> None:
        """Drive a run that is due, if it is for us; tidy the key away if it is for nobody."""
        entry = await self.store.get(self.layout.open(run_id))
        run = read_run(entry) if entry is not None else None
        definition = self._definitions.get((run.saga, run.version)) if run is not None else None
        if run is not None and definition is None:
            self._leave(run_id, told.revision)
            return
        if run is None or definition is None or run.owner or run.stopped:
            # Over, or in somebody's hands, who looks himself before he parks it: the key is done.
            still = Revision(self.layout.open(run_id), entry.revision if entry is not None else 0)
            writes: list[Write] = [Delete(told.key)]
            if definition is None or not definition.takes_signals:  # what it told nobody will ask
                writes.append(DeletePrefix(self.layout.signal(run_id)))
            with suppress(ConflictError):
                seen = Revision(told.key, told.revision)
                await settled_commit(self.store, [still, seen], writes)
            return
        driver = Driver(self, definition, run)
        compares = [Revision(self.layout.open(run_id), run.revision)]
        new = not run.history and told.revision == run.revision  # nobody can have told it anything
        news = told.key == self.layout.due(NOW, run_id) and not new
        with suppress(ConflictError):  # somebody else was faster
            await self._launch(driver, partial(driver.begin, compares, news=news), self._room)

    def _leave(self, run_id: str, revision: int, error: Exception | None = None) -> None:
        """Pass a run by until there is other news of it: no definition, or no reading it."""
        if error is not None:
            text = "worker %s cannot read saga %s, and leaves it alone"
            log.error(text, self.name, run_id, exc_info=error)
        if len(self._left) >= LEFT_MAX:
            self._left.clear()
        self._left[run_id] = revision

    async def _sleep_until(self, moment: datetime | None, revision: int) -> None:
        """Sleep until something becomes due, or room; `moment` is when the next known one does."""
        left_s = LOOK_AT_MOST_S
        if moment is not None:
            left_s = min(left_s, max(0.0, (moment - self.clock.now()).total_seconds()))
        waits = [
            asyncio.ensure_future(next_change(self.store, self.layout.due(), revision)),
            asyncio.ensure_future(self._freed.wait()),
        ]
        try:
            done, _ = await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # --- starting and waiting -------------------------------------------------------------------

    async def start(
        self,
        saga: str,
        run_id: str,
        given: Json = None,
        *,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> SagaRun:
        """Begin a run, on the newest version known; it goes on in the background.

        Starting the same run again returns it as it is.  `compares`, and the `fence` of a lock's
        grant, hold in the commit that begins it, or refuse it.

        Raises:
            SagaExistsError: the id belongs to another run.
            ConflictError: a compare did not hold; nothing was begun.
            UnknownSagaError: there is no definition of that name.
        """
        run = await self._start(saga, run_id, given, (*compares, *fence))
        await self._sweeper.pass_by()
        return run

    async def signal_with_start(
        self,
        saga: str,
        run_id: str,
        given: Json,
        name: str,
        value: Json = None,
        *,
        key: str | None = None,
    ) -> SagaRun:
        """Begin the run if it is not there yet, and give it a signal; so a signal may come first.

        Raises: as `start` and `signal`.
        """
        run = await self.start(saga, run_id, given)
        await self.signal(run_id, name, value, key=key)
        return run

    async def execute(self, saga: str, run_id: str, given: Json = None) -> SagaRun:
        """Begin a run, or find it, and return it when it is over or waits for a person."""
        run = await self.start(saga, run_id, given)
        return run if run.over else await self.wait(run_id)

    async def wait(self, run_id: str) -> SagaRun:
        """Return the run when it is over or waits for a person, whoever drives it.

        Raises:
            UnknownSagaError: there is no such run.
        """
        if self._lease is None and not (await self.store.scan(self.layout.worker(), limit=1)).items:
            log.warning("%s waits for saga %r, and no worker drives any", self.name, run_id)
        while True:
            task = self._driving.get(run_id)
            if task is not None:
                await asyncio.wait([task])
                if not task.cancelled():  # else the worker closed, and others go on
                    with suppress(SagaFencedError):
                        driven = task.result()
                        if driven.over or driven.stopped:
                            return driven
            run, revision = await self._look(run_id)
            if run is None:
                raise UnknownSagaError(f"there is no saga {run_id!r}")
            if run.over or run.stopped:
                return run
            await next_change(self.store, self.layout.open(run_id), revision)

    async def _start(
        self, saga: str, run_id: str, given: Json, guards: tuple[Compare, ...]
    ) -> SagaRun:
        if not run_id or "/" in run_id:
            raise SagaExistsError(f"{run_id!r} is not an id for a saga: it is empty or has a '/'")
        definition = self.newest(saga)
        given = as_json(given, "input", INPUT_BYTES_MAX)
        now = self._clock.now() if self._clock else await self.store.now()
        run = SagaRun(run_id, saga, definition.version, given, now)
        absent = [Absent(self.layout.open(run_id)), Absent(self.layout.done(run_id))]
        compares: list[Compare] = [*absent, *guards]
        try:
            if self._lease is None:
                run = replace(run, due=NOW)
                await settled_commit(self.store, compares, writes_of(run, self.layout))
                return run
            driver = Driver(self, definition, run)
            await self._launch(driver, lambda: driver.begin(compares), self._room)
        except ConflictError as conflict:
            if not any(failed in absent for failed in conflict.failed):
                raise
            return await self._same_run(run)
        return driver.run

    async def _same_run(self, asked: SagaRun) -> SagaRun:
        found, _ = await self._look(asked.id)
        if found is None or (found.saga, found.input) != (asked.saga, asked.input):
            raise SagaExistsError(f"saga id {asked.id!r} belongs to another run")
        return found

    def newest(self, saga: str) -> Saga:
        """The newest definition of that name that this worker has.

        Raises:
            UnknownSagaError: it has none.
        """
        versions = [version for name, version in self._definitions if name == saga]
        if not versions:
            raise UnknownSagaError(f"no saga {saga!r} is defined here")
        return self._definitions[saga, max(versions)]

    async def _launch(
        self,
        driver: Driver,
        begin: Callable[[], Coroutine[None, None, None]],
        room: asyncio.Semaphore,
    ) -> None:
        """Make the run ours and drive it in a task of its own, once there is room."""
        await room.acquire()
        run_id = driver.run.id
        claimed_here = run_id not in self._claimed
        self._claimed.add(run_id)  # recovery may see the run before `begin` returns
        try:
            await shielded(begin(), undo=lambda _: driver.let_go())
        except BaseException:
            if claimed_here:
                self._claimed.discard(run_id)
            room.release()
            self._freed.set()  # what was passed over meanwhile, for want of room or as ours, is due
            raise
        task = asyncio.create_task(driver.drive(), name=f"saga {run_id}")
        self._driving[run_id] = task

        def ended(task: asyncio.Task[SagaRun]) -> None:
            room.release()
            self._freed.set()
            del self._driving[run_id]
            self._claimed.discard(run_id)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.warning("worker %s let go of saga %s: %s", self.name, run_id, error)

        task.add_done_callback(ended)

    # --- recovery -------------------------------------------------------------------------------

    async def resume_unfinished(self) -> tuple[str, ...]:
        """Take over the runs of workers that are gone and drive them; returns their ids.

        One scan of the workers and one of the index of who drives what.  Runs of versions that are
        not defined here are left alone.
        """
        alive = (await scan_all(self.store, self.layout.worker())).items
        resumed = []
        for key, told in (await scan_all(self.store, self.layout.owned())).items.items():
            worker, run_id = self.layout.owned_of(key)
            alone = worker == self.name or self.layout.worker(worker) not in alive
            if not alone or run_id in self._claimed or self._left.get(run_id) == told.revision:
                continue
            try:
                if await self._resume(run_id, worker):
                    resumed.append(run_id)
            except Exception as error:
                if isinstance(error, TransactionalError):
                    raise
                self._leave(run_id, told.revision, error)
        return tuple(resumed)

    async def _resume(self, run_id: str, worker: str) -> bool:
        """Take a run over from a worker that is gone, or from ourselves; whether it was there."""
        entry = await self.store.get(self.layout.open(run_id))
        run = read_run(entry) if entry is not None else None
        if run is None or run.owner != worker:
            return False  # it went on meanwhile
        definition = self._definitions.get((run.saga, run.version))
        if definition is None:
            return False
        compares = [Revision(self.layout.open(run.id), run.revision)]
        if worker != self.name:
            compares.append(Revision(self.layout.worker(worker), 0))
        driver = Driver(self, definition, run)
        with suppress(ConflictError):  # somebody else was faster
            await self._launch(driver, partial(driver.begin, compares), self._room)
            return True
        return False

    # --- looking --------------------------------------------------------------------------------

    async def get(self, run_id: str) -> SagaRun | None:
        """The run as it stands, None if there is none."""
        return (await self._look(run_id))[0]

    async def unfinished(self) -> AsyncIterator[SagaRun]:
        """Runs that are not over, in order of id; each page of 1000 is read at its own revision."""
        async for run in self._runs(self.layout.open()):
            yield run

    async def finished(self) -> AsyncIterator[SagaRun]:
        """Runs that were completed or compensated, in order of id."""
        async for run in self._runs(self.layout.done()):
            yield run

    async def _runs(self, prefix: str) -> AsyncIterator[SagaRun]:
        async for entry in scan_pages(self.store, prefix):
            yield read_run(entry)

    async def compact(self) -> int:
        """Take away all runs that were over before the retention; how many.  O(finished runs)."""
        return await self._sweeper.sweep()

    async def _old_runs(self, old: Sequence[KeyValue], _before_us: int) -> list[Removal]:
        """Of runs that have been over for long those whose parent, if they have one, is too."""
        parents = {entry.key: read_run(entry).parent for entry in old}
        names = {self.layout.open(parent) for parent in parents.values() if parent}
        going_on = (await self.store.get_many(sorted(names))).items if names else {}
        return [
            Removal([Revision(entry.key, entry.revision)], [Delete(entry.key)])
            for entry in old
            if self.layout.open(parents[entry.key]) not in going_on
        ]

    async def _look(self, run_id: str) -> tuple[SagaRun | None, int]:
        keys = [self.layout.open(run_id), self.layout.done(run_id)]
        seen = await self.store.get_many(keys)
        entry = next(iter(seen.items.values()), None)
        return (read_run(entry) if entry is not None else None), seen.revision

    # --- intervening -----------------------------------------------------------------------------

    async def signal(
        self,
        run_id: str,
        name: str,
        value: Json = None,
        *,
        key: str | None = None,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> bool:
        """Tell a run something that one of its steps waits for, now or later.

        Each call is a signal of its own, taken by one step; with a `key`, repeating it is harmless.
        False if the run is over, or a signal with this key was given before: nothing was written.

        Raises:
            UnknownSagaError: there is no such run; `signal_with_start` begins it.
            InvalidRequestError: the value or the names are not fit, or `SIGNALS_MAX` were given.
            ConflictError: one of `compares`, or a lock's `fence`, failed; nothing was written.
        """
        guards = (*compares, *fence)
        if not name or key == "":
            raise InvalidRequestError("a signal has a name, and its key is not empty")
        text = json.dumps(as_json(value, "signal", RESULT_BYTES_MAX))
        run = await self.get(run_id)
        if run is None:
            raise UnknownSagaError(f"there is no saga {run_id!r}")
        given = await scan_all(self.store, self.layout.signal(run_id, name))
        if len(given.items) >= SIGNALS_MAX:
            raise InvalidRequestError(f"saga {run_id!r} was sent {SIGNALS_MAX} signals {name!r}")
        place = self.layout.signal(run_id, name, key or fresh_token()[:16])
        writes = [Put(place, text.encode()), Put(self.layout.due(NOW, run_id), b"")]
        try:
            unheard = (Absent(place), Exists(self.layout.open(run_id)))
            await settled_commit(self.store, [*unheard, *guards], writes)
        except ConflictError as conflict:
            if not any(failed in unheard for failed in conflict.failed):
                raise
            return False
        return True

    async def retry(
        self,
        run_id: str,
        *,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> SagaRun:
        """Let a stopped run try again where it stopped; its counts start anew.

        Raises:
            SagaStateError: it is not stopped.  UnknownSagaError: there is no such open run.
            ConflictError: one of `compares`, or a lock's `fence`, failed; nothing was written.
        """
        guards = (*compares, *fence)
        return await self._intervene(
            run_id, lambda run: self._unstop(run, RecordKind.RETRY, None), guards
        )

    async def skip(
        self,
        run_id: str,
        result: Json = None,
        *,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> SagaRun:
        """Say that the step at which a run stopped is dealt with, forwards with this result.

        Raises: as `retry`.
        """
        value = as_json(result, "result", RESULT_BYTES_MAX)
        guards = (*compares, *fence)
        return await self._intervene(
            run_id, lambda run: self._unstop(run, RecordKind.SKIP, value), guards
        )

    async def abandon(
        self,
        run_id: str,
        *,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> SagaRun:
        """Turn a run back: what it has done is compensated, at the latest after the present step.

        A run that waits turns at once.  A pivot that cannot be undone and is under way decides by
        its result.  Of a run that is stuck at its pivot this says that the pivot had no effect.

        Raises:
            SagaStateError: the run is past its pivot or over.  UnknownSagaError: as `retry`.
        """

        def turned(run: SagaRun) -> Record:
            definition = self._definitions.get((run.saga, run.version))
            if definition is None:
                raise UnknownSagaError(f"{run.saga!r} version {run.version} is not defined here")
            if run.over or past_pivot(definition, run.progress):
                raise SagaStateError(f"saga {run_id!r} cannot turn back any more")
            stuck_at = run.history[-1].step if run.stopped else ""
            if stuck_at and not in_doubt(definition.step(stuck_at), run.progress):
                stuck_at = ""
            why = "abandoned by a person"
            return Record(RecordKind.ABANDON, run.started_at, stuck_at, error=why)

        return await self._intervene(run_id, turned, (*compares, *fence))

    @staticmethod
    def _unstop(run: SagaRun, kind: RecordKind, value: Json) -> Record:
        if not run.stopped:
            raise SagaStateError(f"saga {run.id!r} is {run.state.value}, not stopped")
        if run.progress.turned:
            value = None  # of a step that is undone there is no result
        return Record(kind, run.history[-1].at, run.history[-1].step, value=value)

    async def _intervene(
        self,
        run_id: str,
        record_of: Callable[[SagaRun], Record],
        guards: tuple[Compare, ...],
    ) -> SagaRun:
        async def decide(conflict: ConflictError | None) -> Decision[SagaRun]:
            check_guards(conflict, guards)
            run, _revision = await self._look(run_id)
            if run is None:
                raise UnknownSagaError(f"there is no saga {run_id!r}")
            record = replace(record_of(run), at=await self.store.now())
            changed = run.extended([record], run.owner, due="" if run.owner else NOW).with_room()
            compare = Revision(self.layout.open(run_id), run.revision)
            return Decision(changed, [compare, *guards], writes_of(changed, self.layout, run))

        run, revision = await decided(self.store, decide)
        return replace(run, revision=revision)

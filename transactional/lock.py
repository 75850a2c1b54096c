"""Locks with a queue, a lease and a fence.

Theory of operation
-------------------
Acquiring is entering a queue under a lease and waiting until nobody ahead is in the way.  A waiter
watches the entry just ahead of it and nothing else, so a release wakes one::

    lock/turing/ids:   [ann 41] <--watch-- [bob 44] <--watch-- [cyd 51]
                        holds               next

Releasing, giving up, cancellation and death all end the same way: the lease ends and takes the
entries along, by ``revoke`` or by itself after ``ttl_s``.  There is no state in which an entry
outlives its maker for longer.

A lease is a promise about time, and time cannot be trusted (a process may sleep between looking at
the clock and writing), so a lock alone is *advisory*.  What makes a guarded write safe is the
fence: ``grant.fence`` are compares that hold as long as the entries exist, to be put into the same
commit as the write (Gray & Cheriton, SOSP 1989; the revision is the fencing token)::

    async with Lock(store, "turing", owner="ann").held(wait_s=5) as grant:
        await store.commit([*grant.fence], [Put("rooms/turing", b"...")])

The holder renews on the boot-time clock, which runs on in suspend; ``grant.lost`` is set when the
lease is over, or must be assumed to be.

Order and deadlock
------------------
An entry is a key ``lock/<name>/<id>``; its created revision is its place.  All entries of one
acquisition, one per name, are made in one commit and share that revision, so any two acquisitions
stand in the same order in every queue they meet in.  The oldest acquisition of all is first in each
of its queues: several names at once cannot deadlock (Havender 1968, with revisions for the order).

Names acquired one *after* the other can.  An entry therefore tells which ids its maker already
held when it started to wait, and ``find_cycle`` follows: I wait for an entry ahead of me, whoever
holds it waits, too, for an entry ahead of him, and so on until it is one of those I hold.  Queues
ahead of an entry only shrink, so a cycle is complete when its last member enters, and he finds it
if he starts from each of his entries: he may be blocked in one queue now and for ever in another.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from transactional import rules
from transactional.errors import (
    ForbiddenError,
    InvalidRequestError,
    LeaseExpiredError,
    NotNowError,
    OutcomeUnknownError,
    RetriesExhaustedError,
    TransactionalError,
    UnavailableError,
)
from transactional.retry import DEFAULT_RETRY, Decision, propose
from transactional.shield import shielded
from transactional.store import scan_all
from transactional.values import Absent, Compacted, Put, Revision, Unchanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence

    from transactional.store import Store
    from transactional.values import Compare, KeyValue

ROOT: Final = "lock/"
NAMES_MAX: Final = 60
"""Most names of one lock: two compares each must fit into a commit of 128."""
RENEWALS_PER_TTL: Final = 3
"""A grant survives the loss of all renewals but one."""
AT_ONCE_S: Final = 2.0
"""Most time that an acquisition takes that does not wait."""
LET_GO_S: Final = 2.0
"""How long the end of a lease is asked for; after that it is left to run out."""
LOOKS_PER_TTL: Final = 20
"""How often per ttl the keeper looks at the boot-time clock: suspend is noticed this soon."""

holder: ContextVar[object | None] = ContextVar("holder", default=None)
"""Who acquires, if not the task that runs: the thread for which a task does it."""
_held_here: ContextVar[tuple[tuple[object, str], ...]] = ContextVar("held", default=())


# --- the queue: pure decisions over the entries that are in the store ----------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One acquisition's place in the queue for one name."""

    name: str
    id: str
    owner: str
    shared: bool
    holding: tuple[str, ...]
    """Ids that the maker of this entry held when he started to wait."""
    place: int
    """Created revision: the lower one was first."""


def queue_of(name: str) -> str:
    """Return the prefix of the queue for ``name``, which may contain any character of a key."""
    if not name:
        raise InvalidRequestError("a lock's name is not empty")
    return f"{ROOT}{quote(name, safe='')}/"


def key_of(name: str, entry_id: str) -> str:
    """Return the key of an entry."""
    return queue_of(name) + entry_id


def _encode(owner: str, *, shared: bool, holding: Sequence[str]) -> bytes:
    """Return an entry's value."""
    doc = {"owner": owner, "shared": shared, "holding": list(holding)}
    return json.dumps(doc, separators=(",", ":")).encode()


def _decode(item: KeyValue) -> Entry:
    """Return the entry that a key holds.

    Raises:
        InvalidRequestError: somebody else wrote under ``lock/``.
    """
    try:
        name, entry_id = item.key.removeprefix(ROOT).rsplit("/", 1)
        doc: dict[str, Any] = json.loads(item.value)
        return Entry(
            unquote(name),
            entry_id,
            str(doc["owner"]),
            bool(doc["shared"]),
            tuple(str(held) for held in doc["holding"]),
            item.created_revision,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"{item.key!r} is not an entry of a lock") from error


def blockers(queue: Iterable[Entry], place: int, *, shared: bool) -> list[Entry]:
    """Return the entries that somebody at ``place`` must wait for, the nearest last.

    Exclusive waits for all ahead; shared for the exclusive ones ahead.
    """
    ahead = [entry for entry in queue if entry.place < place and not (shared and entry.shared)]
    return sorted(ahead, key=lambda entry: entry.place)


def find_cycle(entries: Sequence[Entry], mine: Entry) -> tuple[Entry, ...]:
    """Return the waiting entries of a deadlock that ``mine`` completes, empty if there is none.

    Younger entries are left out of account: whoever made the youngest is the one to be told.
    """
    queues: dict[str, list[Entry]] = {}
    waiting_with: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.place > mine.place:
            continue
        queues.setdefault(entry.name, []).append(entry)
        for held in entry.holding:
            waiting_with.setdefault(held, []).append(entry)
    path: list[Entry] = []
    branches: list[Iterator[Entry]] = [iter((mine,) if mine.holding else ())]
    visited: set[tuple[str, str]] = set()
    while branches:  # depth first; no recursion, a chain may be long
        try:
            entry = next(branches[-1])
        except StopIteration:
            branches.pop()
            if path:
                path.pop()
            continue
        if (entry.name, entry.id) in visited:
            continue
        visited.add((entry.name, entry.id))
        path.append(entry)
        ahead = blockers(queues.get(entry.name, ()), entry.place, shared=entry.shared)
        if any(blocker.id in mine.holding for blocker in ahead):
            return tuple(path)
        branches.append(iter([e for blocker in ahead for e in waiting_with.get(blocker.id, ())]))
    return ()


def _readable_queues(reads: Sequence[str]) -> list[str]:
    """Return the prefixes under which all queues lie that may be read, none inside another."""
    parts = {max(prefix, ROOT, key=len) for prefix in reads}
    parts = {part for part in parts if part.startswith(ROOT)}
    if any(ROOT.startswith(prefix) for prefix in reads):
        return [ROOT]
    return sorted(
        part for part in parts if not any(part != p and part.startswith(p) for p in parts)
    )


# --- what can go wrong ---------------------------------------------------------------------------


class LockBusyError(NotNowError):
    """The lock is held by somebody else: it was not acquired, no place in the queue is kept."""

    code = "locked"
    hint = "wait (wait_s=…), or ask the holder"

    def __init__(self, name: str, holder: str, waited_s: float) -> None:
        after = f" (waited {waited_s:g} s)" if waited_s else ""
        super().__init__(f"lock {name!r} is held by {holder!r}{after}")
        self.name = name
        self.holder = holder
        self.waited_s = waited_s

    def details(self) -> dict[str, str | int | float]:
        """Return which lock, who holds it and how long it was waited for."""
        return {"name": self.name, "holder": self.holder, "waited_s": self.waited_s}


class DeadlockError(NotNowError):
    """Waiting would never end: the lock was not acquired, what was held before is still held."""

    code = "deadlock"
    hint = "release what you hold and start again, or acquire all the names in one go"

    def __init__(self, cycle: Sequence[Entry]) -> None:
        waits = " -> ".join(f"{entry.owner!r} waits for {entry.name!r}" for entry in cycle)
        super().__init__(f"deadlock: {waits}")
        self.owners = tuple(entry.owner for entry in cycle)
        self.names = tuple(entry.name for entry in cycle)

    def details(self) -> dict[str, str | int | float]:
        """Return the owners and names of the cycle."""
        return {"owners": ", ".join(self.owners), "names": ", ".join(self.names)}


class LockLostError(NotNowError):
    """The lease of the lock ended before it was released: somebody else may hold it by now.

    What was committed with ``grant.fence`` was safe; the last of it may have been refused.
    """

    code = "lock_lost"
    hint = "compare grant.fence in each guarded commit; use a longer ttl_s"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the lease of lock {', '.join(names)!r} ended before its release")
        self.names = tuple(names)


# --- holding -------------------------------------------------------------------------------------


class Grant:
    """A held lock.  Release it once; a second release does nothing."""

    def __init__(self, keeper: _LeaseKeeper, names: tuple[str, ...], token: int) -> None:
        self._keeper = keeper
        self.names = names
        self.id = keeper.id
        self.token = token
        """The fencing token: higher than that of every earlier holder of any of the names."""
        self.fence: tuple[Compare, ...] = tuple(
            Revision(key_of(name, self.id), token) for name in names
        )
        """Compares that hold as long as the lock does; put them into each guarded commit."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when the lease is over, or must be assumed to be.

        From the first look at it on a watch tells at once that somebody else ended the lease;
        without one the next renewal does, within a third of `ttl_s`.
        """
        self._keeper.look_after(key_of(self.names[0], self.id), self.token)
        return self._keeper.lost

    @property
    def was_lost(self) -> bool:
        """Whether `lost` is set by now; costs nothing."""
        return self._keeper.lost.is_set()

    async def release(self) -> None:
        """Give the lock to the next in the queue; cancellation does not stop it half-way."""
        _held_here.set(tuple(held for held in _held_here.get() if held[1] != self.id))
        await shielded(self._keeper.end())


class Lock:
    """One name or several, to be held together; ``shared`` locks share with each other.

    ``owner`` names the holder to those who find the lock busy.  One object may be used by many
    tasks; each acquisition is a holder of its own (no reentrance).
    """

    def __init__(
        self, store: Store, *names: str, owner: str, ttl_s: float = 10.0, shared: bool = False
    ) -> None:
        self._names = tuple(sorted(set(names)))  # the canonical order
        if not 1 <= len(self._names) <= NAMES_MAX:
            raise InvalidRequestError(f"a lock has 1 to {NAMES_MAX} names, not {len(names)}")
        for name in self._names:
            rules.check_key(queue_of(name))
        rules.check_ttl(ttl_s)
        self._store = store
        self._owner = owner
        self._ttl_s = ttl_s
        self._shared = shared

    @asynccontextmanager
    async def held(self, *, wait_s: float = 30.0) -> AsyncIterator[Grant]:
        """Hold the lock for the length of an ``async with``; the body never runs unheld.

        Raises:
            LockLostError: at the end, if the lease ended during the body.
            LockBusyError, DeadlockError: see ``acquire``.
        """
        grant = await self.acquire(wait_s=wait_s)
        try:
            yield grant
        finally:
            await grant.release()
        if grant.was_lost:
            raise LockLostError(self._names)

    async def acquire(self, *, wait_s: float = 30.0) -> Grant:
        """Wait up to ``wait_s`` seconds for all the names; 0 says at once whether they are free.

        ``wait_s`` bounds all of it, a store that does not answer included; ending takes up to
        ``LET_GO_S`` more, and what could not be ended then runs out with its lease.

        Raises:
            LockBusyError: not free in time; names the holder.  Nothing is left behind.
            DeadlockError: the wait would be for ever; whoever completes the circle is told.
            LockLostError: our own lease ended while we waited, or before we had entered.
            UnavailableError: the store did not answer in time, or its answer was lost.  If a place
                in the queue was taken, it goes with the lease.
            InvalidRequestError: `wait_s` is negative, or the lease is one that the store refuses.
        """
        if not wait_s >= 0:  # NaN included
            raise InvalidRequestError(f"wait_s is not negative: {wait_s}")
        at_once = wait_s == 0
        if at_once:
            await self._refuse_if_busy(0.0)
        keeper = _LeaseKeeper(self._store, self._ttl_s)
        try:
            async with asyncio.timeout(AT_ONCE_S if at_once else wait_s):
                token = await self._enter(keeper, at_once=at_once, wait_s=wait_s)
                if not at_once:
                    await self._wait(keeper, token)
        except BaseException as error:
            await shielded(keeper.end(), patience_s=LET_GO_S)
            if isinstance(error, TimeoutError):
                raise keeper.too_late(wait_s) from error
            if isinstance(error, LeaseExpiredError):
                raise LockLostError(self._names) from error
            if isinstance(error, OutcomeUnknownError | RetriesExhaustedError):
                raise UnavailableError(f"the queue could not be entered: {error}") from error
            raise
        _held_here.set((*_held_here.get(), (keeper.holder, keeper.id)))
        return Grant(keeper, self._names, token)

    async def _enter(self, keeper: _LeaseKeeper, *, at_once: bool, wait_s: float) -> int:
        """Enter all the queues in one commit; return the place."""
        # Cut off here, the lease's id would be lost; later the lease's end takes the entries along.
        await shielded(keeper.start(), patience_s=LET_GO_S)
        value = _encode(self._owner, shared=self._shared, holding=keeper.holding)
        keys = [key_of(name, keeper.id) for name in self._names]
        writes = [Put(key, value, keeper.lease) for key in keys]

        async def decide(_: object) -> Decision[None]:
            compares: list[Compare] = [Absent(key) for key in keys]
            if at_once:  # enter only if nobody is in the way
                compares += await self._refuse_if_busy(0.0)
            return Decision(None, compares, writes)

        deadline_s = AT_ONCE_S if at_once else min(wait_s, DEFAULT_RETRY.deadline_s)
        retry = replace(DEFAULT_RETRY, deadline_s=deadline_s)
        _, commit = await propose(self._store, decide, retry=retry)
        return commit.revision

    async def _queue(self, name: str) -> tuple[list[Entry], int]:
        snapshot = await scan_all(self._store, queue_of(name))
        return [_decode(item) for item in snapshot.items.values()], snapshot.revision

    async def _refuse_if_busy(self, waited_s: float) -> list[Compare]:
        """Raise LockBusyError if somebody is in the way; else return compares that say so."""
        free: list[Compare] = []
        for name in self._names:
            queue, revision = await self._queue(name)
            if ahead := blockers(queue, revision + 1, shared=self._shared):
                raise LockBusyError(name, ahead[0].owner, waited_s)
            free.append(Unchanged(queue_of(name), revision))
        return free

    async def _wait(self, keeper: _LeaseKeeper, place: int) -> None:
        """Return when nobody is ahead in any of the queues."""
        checked = False
        for name in self._names:
            while True:
                queue, revision = await self._queue(name)
                if all(entry.id != keeper.id for entry in queue):
                    raise LockLostError(self._names)
                ahead = blockers(queue, place, shared=self._shared)
                if not ahead:
                    break
                keeper.blocked_by = (name, ahead[0].owner)
                if not checked:
                    await self._refuse_deadlock(keeper)
                    checked = True
                await keeper.unless_lost(self._gone(ahead[-1], revision), self._names)

    async def _refuse_deadlock(self, keeper: _LeaseKeeper) -> None:
        """Look once, from each of our entries: whoever closes a circle sees all of it.

        All that he may see of it: a circle through queues that he may not read ends with the wait.
        """
        if keeper.holding:
            entries: list[Entry] = []
            for prefix in _readable_queues(self._store.capabilities.reads):
                with suppress(ForbiddenError):  # taken away since we connected
                    snapshot = await scan_all(self._store, prefix)
                    entries += [_decode(item) for item in snapshot.items.values()]
            for mine in [entry for entry in entries if entry.id == keeper.id]:
                if cycle := find_cycle(entries, mine):
                    raise DeadlockError(cycle)

    async def _gone(self, entry: Entry, revision: int) -> None:
        """Wait until an entry that was there at ``revision`` is deleted."""
        key = key_of(entry.name, entry.id)
        async with aclosing(self._store.watch(key, after=revision)) as events:
            async for event in events:
                if isinstance(event, Compacted):
                    return  # what we missed may have been it: look again
                if any(change.key == key and change.current is None for change in event.changes):
                    return
        raise UnavailableError("the store was closed")


class _LeaseKeeper:
    """One acquisition's lease: granted, renewed, noticed when lost, ended once."""

    def __init__(self, store: Store, ttl_s: float) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._renewing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._good_until_s = 0.0
        self.id = secrets.token_hex(8)
        self.lease: str | None = None
        self.lost = asyncio.Event()
        self.blocked_by: tuple[str, str] | None = None
        """Which name we wait for, and who holds it."""
        self.holder = holder.get() or asyncio.current_task()
        self.holding = tuple(held for who, held in _held_here.get() if who is self.holder)

    async def start(self) -> None:
        """Take the lease and keep renewing it."""
        # Counted from before the request: the authority may start later, never earlier.
        self._good_until_s = self._store.elapsed_s() + self._ttl_s
        self.lease = (await self._store.lease(self._ttl_s)).id
        self._renewing = asyncio.create_task(self._keep(self.lease))

    async def _keep(self, lease: str) -> None:
        renew_at_s = self._store.elapsed_s() + self._ttl_s / RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(self._ttl_s / LOOKS_PER_TTL)
            now_s = self._store.elapsed_s()
            if now_s >= self._good_until_s:
                self.lost.set()
                return
            if now_s < renew_at_s:
                continue
            try:
                async with asyncio.timeout(self._good_until_s - now_s):
                    await self._store.renew(lease)
            except LeaseExpiredError:
                self.lost.set()
                return
            except (TransactionalError, TimeoutError):
                continue  # as long as there is time
            self._good_until_s = now_s + self._ttl_s
            renew_at_s = now_s + self._ttl_s / RENEWALS_PER_TTL

    def look_after(self, key: str, revision: int) -> None:
        """Notice at once, by a watch, that somebody else took an entry of ours away."""
        if self._watching is None and self.lease is not None and self._store.capabilities.watch:
            self._watching = asyncio.create_task(self._watch(key, revision))

    async def _watch(self, key: str, revision: int) -> None:
        with suppress(TransactionalError):  # the renewals notice it too, later
            async with aclosing(self._store.watch(key, after=revision)) as events:
                async for event in events:
                    if isinstance(event, Compacted):
                        gone = await self._store.get(key) is None
                    else:
                        gone = any(c.key == key and c.current is None for c in event.changes)
                    if gone:
                        self.lost.set()
                        return

    async def unless_lost(self, waiting: Coroutine[None, None, None], names: Sequence[str]) -> None:
        """Await ``waiting``, but not beyond the loss of the lease."""
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self.lost.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.is_set():
                raise LockLostError(names)
            await tasks[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def too_late(self, waited_s: float) -> TransactionalError:
        """Return the error of a wait that is over."""
        if self.blocked_by is not None:
            return LockBusyError(*self.blocked_by, waited_s)
        return UnavailableError("the store did not answer in time")

    async def end(self) -> None:
        """Stop renewing and let go of the entries; if the store is away, the lease runs out."""
        tasks = [task for task in (self._renewing, self._watching) if task is not None]
        self._renewing = self._watching = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.lease is not None:
            lease, self.lease = self.lease, None
            with suppress(TransactionalError, TimeoutError):
                async with asyncio.timeout(LET_GO_S):
                    await self._store.revoke(lease)

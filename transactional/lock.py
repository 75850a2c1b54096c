"""Locks with a queue, a lease and a fence.

Theory of operation
-------------------
Acquiring is entering a queue under a lease and waiting until nobody ahead is in the way.  A waiter
watches the entry just ahead of it and nothing else, so a release wakes one::

    lock/turing/...:   [ann 41] <--watch-- [bob 44] <--watch-- [cyd 51]
                        holds               next

One's place is the revision of the commit that entered, and is known only after it.  So an entry is
made under ``enter/ID``; who has to wait moves it to ``wait/x/PLACE-ID`` (``s`` for a shared one),
where entries lie in the order of their places.  The front of the queue, and whoever is just ahead,
are then found by a few short scans, however long it is.  Who looks, looks into ``enter/`` first:
entries move only from there to ``wait/``, so none slips by.  What is ahead of a place only goes
away, so a look need not be of the present: one at the revision of our own entry or later will do,
and is cheaper where one machine of several can answer it alone (``ReadsThePast``).

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
All entries of one
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
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote
from weakref import WeakValueDictionary

from transactional import rules
from transactional.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    LeaseExpiredError,
    NotNowError,
    OutcomeUnknownError,
    RetriesExhaustedError,
    TooManyRequestsError,
    TransactionalError,
    UnavailableError,
)
from transactional.retry import DEFAULT_RETRY, Decision, propose, settled_commit
from transactional.shield import shielded
from transactional.store import ReadsThePast, scan_all
from transactional.values import (
    SCAN_KEYS_MAX,
    Absent,
    Compacted,
    Delete,
    Put,
    Revision,
    Unchanged,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence

    from transactional.store import Store
    from transactional.values import Compare, KeyValue, Snapshot, Write

ROOT: Final = "lock/"
NAMES_MAX: Final = 60
"""Most names of one lock: two compares or writes each must fit into a commit of 128."""
PAGE: Final = 16
"""So many entries of a queue are read at first; a queue that is shorter is then known whole."""
RENEWALS_PER_TTL: Final = 3
"""A grant survives the loss of all renewals but one."""
STRETCH: Final = 8
"""How much further back a waiter looks each time, until he finds somebody."""
LAST_PLACE: Final = 10**16 - 1
"""A place behind all others."""
ID_BYTES: Final = 8
ENTERING_MAX: Final = 128
"""So many acquisitions of one store enter at once; the others have no lease to keep yet."""
GATE_MAX: Final = 16_384
"""So many may wait until they enter; one more is refused."""
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
    """Revision of the commit that entered: the lower one was first."""
    key: str = ""
    """Where it lies now."""


def queue_of(name: str) -> str:
    """Return the prefix of the queue for ``name``, which may contain any character of a key."""
    if not name:
        raise InvalidRequestError("a lock's name is not empty")
    return f"{ROOT}{quote(name, safe='')}/"


def key_of(name: str, entry_id: str) -> str:
    """Return the key under which an entry is made."""
    return f"{queue_of(name)}enter/{entry_id}"


def line_of(name: str, *, shared: bool) -> str:
    """Return the prefix of those who wait for ``name``, in the order of their places."""
    return f"{queue_of(name)}wait/{'s' if shared else 'x'}/"


def waiting_key_of(name: str, entry_id: str, place: int, *, shared: bool) -> str:
    """Return the key of an entry that waits."""
    return f"{line_of(name, shared=shared)}{place:016}-{entry_id}"


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
        name, stage, *_, last = item.key.removeprefix(ROOT).split("/")
        place, _, entry_id = last.rpartition("-")
        doc: dict[str, Any] = json.loads(item.value)
        return Entry(
            unquote(name),
            entry_id,
            str(doc["owner"]),
            bool(doc["shared"]),
            tuple(str(held) for held in doc["holding"]),
            int(place) if stage == "wait" else item.created_revision,
            item.key,
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
    state = "stands"
    hint = "compare grant.fence in each guarded commit; use a longer ttl_s"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the lease of lock {', '.join(names)!r} ended before its release")
        self.names = tuple(names)


# --- entering ------------------------------------------------------------------------------------


class _Gate:
    """Who enters the queues of one store: `ENTERING_MAX` at once, in the order in which they came.

    To enter takes several calls under a lease.  Ten thousand that begin together would keep each
    other's calls waiting until the leases have run out, and all would be sent away.
    """

    def __init__(self, store: Store) -> None:
        self._store = store  # as long as there is a gate its id is nobody else's
        self._free = asyncio.Semaphore(ENTERING_MAX)
        self._waiting = 0

    @classmethod
    def of(cls, store: Store) -> _Gate:
        """Return the store's gate; it is there as long as somebody holds on to it."""
        gate = _gates.get(id(store))
        if gate is None:
            gate = _gates[id(store)] = cls(store)
        return gate

    @asynccontextmanager
    async def entering(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the length of an ``async with``.

        Raises:
            TooManyRequestsError: too many wait for theirs.
        """
        if self._waiting >= GATE_MAX:
            raise TooManyRequestsError(f"{GATE_MAX} acquisitions wait to enter their queues")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


_gates: WeakValueDictionary[int, _Gate] = WeakValueDictionary()


# --- holding -------------------------------------------------------------------------------------


class Grant:
    """A held lock.  Release it once; a second release does nothing."""

    def __init__(self, keeper: _LeaseKeeper, names: tuple[str, ...], token: int) -> None:
        self._keeper = keeper
        self.names = names
        self.id = keeper.id
        self.token = token
        """The fencing token: higher than that of every earlier holder of any of the names."""
        self.fence: tuple[Compare, ...] = tuple(keeper.entries)
        """Compares that hold as long as the lock does; put them into each guarded commit."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when the lease is over, or must be assumed to be.

        From the first look at it on a watch tells at once that somebody else ended the lease;
        without one the next renewal does, within a third of `ttl_s`.
        """
        self._keeper.look_after()
        return self._keeper.lost

    @property
    def was_lost(self) -> bool:
        """Whether `lost` is set by now; costs nothing."""
        return self._keeper.lost.is_set()

    async def release(self) -> None:
        """Give the lock to the next in the queue; cancellation does not stop it half-way."""
        _held_here.set(tuple(held for held in _held_here.get() if held[1] != self.id))
        await shielded(self._keeper.end())


@dataclass(frozen=True, slots=True)
class _Look:
    """Who is ahead in a queue: the first of all, and the nearest, who was there at ``seen_at``.

    If nobody is (both None), nobody will ever be again; ``revision`` is from before the look.
    """

    revision: int
    first: Entry | None = None
    nearest: Entry | None = None
    seen_at: int = 0

    def behind(self, ahead: Sequence[Entry], seen_at: int) -> _Look:
        """Add entries that are ahead, in the order of their places."""
        if not ahead:
            return self
        first, nearest = ahead[0], ahead[-1]
        if self.first is not None and self.first.place < first.place:
            first = self.first
        if self.nearest is not None and self.nearest.place > nearest.place:
            nearest, seen_at = self.nearest, self.seen_at
        return _Look(self.revision, first, nearest, seen_at)


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
            rules.check_key(waiting_key_of(name, "0" * 2 * ID_BYTES, 0, shared=shared))
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
            TooManyRequestsError: ``GATE_MAX`` acquisitions of this program wait to enter, or so
                many that `wait_s` was over before it was our turn.  Nothing was asked of the store.
            InvalidRequestError: `wait_s` is negative, or the lease is one that the store refuses.
        """
        if not wait_s >= 0:  # NaN included
            raise InvalidRequestError(f"wait_s is not negative: {wait_s}")
        at_once = wait_s == 0
        if at_once:
            await self._refuse_if_busy(0.0)
        keeper, began = _LeaseKeeper(self._store, self._ttl_s), False
        try:
            async with asyncio.timeout(AT_ONCE_S if at_once else wait_s):
                async with AsyncExitStack() as turn:
                    if not at_once:
                        await turn.enter_async_context(_Gate.of(self._store).entering())
                    began = True
                    token = await self._enter(keeper, at_once=at_once, wait_s=wait_s)
                    if not at_once:
                        await self._wait(keeper, token, turn)
        except BaseException as error:
            await shielded(keeper.end(), patience_s=LET_GO_S)
            if isinstance(error, TimeoutError) and not began:
                raise TooManyRequestsError(
                    f"{wait_s:g} s went by before it was our turn to enter the queue"
                ) from error
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
        keeper.entries = [Revision(key, commit.revision) for key in keys]
        return commit.revision

    async def _refuse_if_busy(self, waited_s: float) -> list[Compare]:
        """Raise LockBusyError if somebody is in the way; else return compares that say so."""
        free: list[Compare] = []
        for name in self._names:
            look = await self._look(name, LAST_PLACE)
            if look.first is not None:
                raise LockBusyError(name, look.first.owner, waited_s)
            free.append(Unchanged(queue_of(name), look.revision))
        return free

    async def _wait(self, keeper: _LeaseKeeper, place: int, turn: AsyncExitStack) -> None:
        """Return when nobody is ahead in any of the queues; who waits gives up his `turn`."""
        moved, known = False, place
        for number, name in enumerate(self._names):
            while True:
                own = keeper.entries[number].key
                look = await self._look(name, place, own, known, anybody=not moved)
                if look.first is None or look.nearest is None:
                    break
                if not moved:
                    await self._refuse_deadlock(keeper)
                    await self._line_up(keeper, place)
                    moved, known = True, keeper.entries[number].revision
                    continue  # whoever entered just before us may have lined up by now, too
                keeper.blocked_by = (name, look.first.owner)
                await turn.aclose()
                gone = self._gone(look.nearest, look.seen_at)
                known = await keeper.unless_lost(gone, self._names)

    async def _line_up(self, keeper: _LeaseKeeper, place: int) -> None:
        """Move our entries to where those lie who wait, in the order of places."""
        value = _encode(self._owner, shared=self._shared, holding=keeper.holding)
        keys = [waiting_key_of(name, keeper.id, place, shared=self._shared) for name in self._names]
        writes: list[Write] = [Delete(entry.key) for entry in keeper.entries]
        writes += [Put(key, value, keeper.lease) for key in keys]
        try:
            commit = await settled_commit(self._store, keeper.entries, writes)
        except ConflictError as gone:
            raise LockLostError(self._names) from gone
        keeper.entries = [Revision(key, commit.revision) for key in keys]

    async def _scan(
        self,
        known: int | None,
        prefix: str,
        *,
        after: str | None = None,
        limit: int = SCAN_KEYS_MAX,
    ) -> Snapshot:
        """Return a page as it was when `known` was the revision, or later; None: as it is."""
        if known is not None and isinstance(self._store, ReadsThePast):
            return await self._store.scan_at(known, prefix, after=after, limit=limit)
        return await self._store.scan(prefix, after=after, limit=limit)

    async def _look(
        self,
        name: str,
        place: int,
        own: str | None = None,
        known: int | None = None,
        *,
        anybody: bool = False,
    ) -> _Look:
        """Look who is ahead of a place in a queue: a few short scans, however long it is.

        Of those who enter at this moment it finds some, not always the nearest.  As it is now, or,
        if a revision is ``known``, as it was then or later: no earlier than the place and ``own``.
        With ``anybody`` it is enough to see that somebody is ahead, whoever he is.

        Raises:
            LockLostError: our own entry, if its key is given, is not there any more.
        """
        page = await self._scan(known, queue_of(name), limit=PAGE)
        found = [_decode(item) for item in page.items.values()]
        look = _Look(page.revision)
        if not page.more:
            if own is not None and own not in page.items:
                raise LockLostError(self._names)
            return look.behind(blockers(found, place, shared=self._shared), page.revision)
        entering = [entry for entry in found if entry.key == key_of(name, entry.id)]
        look = look.behind(blockers(entering, place, shared=self._shared), page.revision)
        if anybody and look.first is not None:
            return look
        # No earlier than the look into enter/: who left it since must be found where he went.
        known = known and page.revision
        look = await self._look_along(look, name, place, own, known)
        if look.first is None and len(entering) == len(found):
            look = await self._look_among_entering(look, name, place, found[-1].key)
            if look.first is None:
                look = await self._look_along(look, name, place, own, None)
        return look

    async def _look_among_entering(self, look: _Look, name: str, place: int, after: str) -> _Look:
        """Look who is ahead among those who enter, behind a page of them, until one is found."""
        while True:
            page = await self._store.scan(key_of(name, ""), after=after)
            some = [_decode(item) for item in page.items.values()]
            if ahead := blockers(some, place, shared=self._shared):
                return look.behind(ahead, page.revision)
            if not page.more:
                return look
            after = some[-1].key

    async def _look_along(
        self, look: _Look, name: str, place: int, own: str | None, known: int | None
    ) -> _Look:
        """Look who is ahead among those who wait, and whether we are still there."""
        lines = [line_of(name, shared=False)]
        lines += [] if self._shared else [line_of(name, shared=True)]
        firsts = [*lines, own] if own is not None else lines
        pages = await asyncio.gather(*[self._scan(known, each, limit=1) for each in firsts])
        if own is not None and own not in pages[-1].items:
            raise LockLostError(self._names)
        for line, front in zip(lines, pages, strict=False):
            for first in map(_decode, front.items.values()):
                if first.place < place:
                    nearest, seen_at = await self._nearest(
                        line, first, front.revision, place, known
                    )
                    look = look.behind([first, nearest], seen_at)
        return look

    async def _nearest(
        self, line: str, first: Entry, seen_at: int, place: int, known: int | None
    ) -> tuple[Entry, int]:
        """Return who is just ahead of a place in a line, and the revision at which he was there.

        Looks back from the place over a stretch that grows until somebody is in it.
        """
        nearest, stretch, end = None, PAGE, f"{line}{place:016}"
        while nearest is None and place != LAST_PLACE and place - stretch > first.place:
            after: str | None = f"{line}{place - stretch:016}"
            while after is not None:
                limit = min(stretch, SCAN_KEYS_MAX)
                page = await self._scan(known, line, after=after, limit=limit)
                ahead = [key for key in page.items if key < end]
                if ahead:
                    nearest, seen_at = page.items[ahead[-1]], page.revision
                whole = len(ahead) < len(page.items) or not page.more
                after = None if whole else ahead[-1]
            stretch *= STRETCH
        return (first if nearest is None else _decode(nearest)), seen_at

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

    async def _gone(self, entry: Entry, revision: int) -> int:
        """Wait until an entry that was there at ``revision`` is deleted, or moved; return when."""
        key = entry.key
        async with aclosing(self._store.watch(key, after=revision)) as events:
            async for event in events:
                if isinstance(event, Compacted):
                    return event.revision  # what we missed may have been it: look again
                if any(change.key == key and change.current is None for change in event.changes):
                    return event.revision
        raise UnavailableError("the store was closed")


class _LeaseKeeper:
    """One acquisition's lease: granted, renewed, noticed when lost, ended once."""

    def __init__(self, store: Store, ttl_s: float) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._renewing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._good_until_s = 0.0
        self.id = secrets.token_hex(ID_BYTES)
        self.entries: list[Revision] = []
        """Our entries, one for each name, and the commit that put them where they are."""
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

    def look_after(self) -> None:
        """Notice at once, by a watch, that somebody else took an entry of ours away."""
        if self._watching is None and self.lease is not None and self._store.capabilities.watch:
            entry = self.entries[0]
            self._watching = asyncio.create_task(self._watch(entry.key, entry.revision))

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

    async def unless_lost(self, waiting: Coroutine[None, None, int], names: Sequence[str]) -> int:
        """Await ``waiting``, but not beyond the loss of the lease."""
        awaited = asyncio.ensure_future(waiting)
        tasks = (awaited, asyncio.ensure_future(self.lost.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.is_set():
                raise LockLostError(names)
            return await awaited
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

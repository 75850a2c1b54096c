"""The primitive: one linearizable map of keys, changed by compare-and-write commits.

Theory of operation
-------------------
The model is etcd's.  A store is a map from ``str`` keys to ``bytes`` and a counter, the
**revision**.  Every commit that writes advances the counter by at least one and stamps the keys
it writes; a key's ``revision`` is the number of the commit that last wrote it, and 0 means absent.
Because the counter belongs to the store and never goes back, a revision seen once never returns: it
is safe as a compare-and-swap token (no ABA by value, nor by delete and recreate) and as a fencing
token.

``commit(compares, writes)`` is the only way to change anything.  The compares are evaluated and
the writes made at one point in time, after everything that was acknowledged before the call
started (linearizability: Herlihy & Wing, TOPLAS 1990).  A decision made on an earlier read is
therefore repeated as a compare, or it is not a decision.  A range that was read is compared by
``Unchanged(prefix, since)``, which sees inserts and deletes as well (no phantoms, no write skew).

Every write carries an ``op_id``, stored in the same commit.  It makes a repeat return the first
result, and lets ``resolve(op_id)`` settle a write whose answer was lost::

      caller                         store
        |-- commit(op_id=x) ---------> applied, record x
        |   <---------- lost --------X
        |   OutcomeUnknownError(x)
        |-- resolve(x) --------------> record found      -> Applied(commit)
        |                              no record: fence  -> Fenced; a late commit(x) is refused

Time: ``now()`` is the authority's business time, strictly monotone and persisted with commits.
``elapsed_s()`` is this machine's time since boot, which runs on in suspend.  Neither decides
anything that compares decide.

This module defines the Protocol; ``values.py`` what travels, ``stores/`` the engines.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from transactional.caller import OWNER, Caller
from transactional.errors import AnswerTooLargeError, InvalidRequestError
from transactional.tokens import nonce
from transactional.values import (
    SCAN_KEYS_MAX,
    Absent,
    Applied,
    Capabilities,
    Commit,
    CommitRequest,
    Compacted,
    Compare,
    Fenced,
    KeyValue,
    Lease,
    Put,
    Revision,
    Snapshot,
    WatchEvent,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from datetime import datetime

BY_LEASE: Final = "lease"
"""Who deleted the keys of a lease that ended."""

# --- the protocol --------------------------------------------------------------------------------


@runtime_checkable
class Store(Protocol):
    """A linearizable map.  Every method may raise UnavailableError; see errors.py for the tree."""

    @property
    def epoch(self) -> str:
        """Name of this life of the store; another one after a backup was restored."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this engine promises."""
        ...

    async def get(self, key: str) -> KeyValue | None:
        """Return the key's latest acknowledged state, None if absent.  Linearizable."""
        ...

    async def get_many(self, keys: Sequence[str]) -> Snapshot:
        """Return up to ``SCAN_KEYS_MAX`` keys at one revision.  Linearizable.

        Raises:
            AnswerTooLargeError: they hold more than ``READ_BYTES_MAX`` bytes.
        """
        ...

    async def scan(
        self, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return keys that start with ``prefix`` and sort behind ``after``, at one revision.

        A page ends at ``limit`` keys or ``READ_BYTES_MAX`` bytes, and has one key at least.
        """
        ...

    async def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write] = (),
        *,
        op_id: str | None = None,
        by: str | None = None,
    ) -> Commit:
        """Write all of ``writes`` if every compare holds, else all of ``otherwise``, at one point.

        No two writes of one list may touch the same key.  Without ``op_id`` one is minted.  ``by``
        is kept beside what is written (``KeyValue.by``); without it stands ``local:USER`` if this
        process has the store, and behind an authority the name that it knows the caller by.  It is
        no part of the operation: a repeat by another name is a repeat.

        Raises:
            ConflictError: a compare did not hold and there is no ``otherwise``; nothing written.
            OutcomeUnknownError: the answer was lost; carries the op_id for ``resolve``.
            OperationIdReusedError, OpIdFencedError, OpIdExpiredError: refused; see errors.py.
            LeaseExpiredError: a put names a lease that is not alive; nothing written.
            InvalidRequestError: a limit or rule is broken; nothing sent.
        """
        ...

    async def resolve(self, op_id: str) -> Applied | Fenced:
        """Say that ``op_id`` was applied, or make sure that it never will be."""
        ...

    async def lease(self, ttl_s: float) -> Lease:
        """Grant a lease; attach keys to it with ``Put(…, lease=id)``."""
        ...

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew; LeaseExpiredError if it is over (nothing is revived)."""
        ...

    async def revoke(self, lease_id: str) -> None:
        """End the lease now and delete its keys in one commit; no effect if it is over."""
        ...

    def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield every commit under ``prefix`` with a revision above ``after``, once, in order.

        ``after=None`` starts at the first iteration's present; 0 at the oldest remembered commit.
        Resume with the revision of the last event.  Close it with ``aclose()``.
        """
        ...

    async def now(self) -> datetime:
        """Return the authority's business time: aware, UTC, never before an acknowledged commit."""
        ...

    def elapsed_s(self) -> float:
        """Return seconds since this machine booted, suspend included."""
        ...

    def mint_op_id(self) -> str:
        """Return a fresh op_id that carries the epoch and the last revision seen."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, release everything; a second call does nothing."""
        ...


@runtime_checkable
class TakesCommitsTogether(Protocol):
    """What an engine may offer besides: commits that arrive in one batch, in one hand-over.

    It means what as many concurrent calls of ``Store.commit`` mean, in the order of the list, and
    saves each of them a task and a wake-up.
    """

    async def commit_all(
        self, requests: Sequence[CommitRequest], *, caller: Caller = OWNER
    ) -> list[Commit | BaseException]:
        """Decide each request alone; return its commit, or the error ``commit`` would raise.

        Raises:
            UnavailableError: none was accepted; nothing is written.
        """
        ...


@runtime_checkable
class ServesRoles(Store, Protocol):
    """An engine that tells its callers apart: op_ids and leases are those of the caller's role.

    So a colleague in the same role can renew a lease and resolve an operation, and nobody else can.
    Without a role it is the store's owner, who may use every lease; his op_ids are his own, too.
    What is read for a caller is counted, and ends where his answer would be too large: each of the
    methods may raise AnswerTooLargeError or TooManyRequestsError; nothing is written then.
    """

    async def get(self, key: str, *, caller: Caller = OWNER) -> KeyValue | None:
        """Return the key as it stands."""
        ...

    async def get_many(self, keys: Sequence[str], *, caller: Caller = OWNER) -> Snapshot:
        """Return several keys at one revision."""
        ...

    async def scan(
        self,
        prefix: str,
        *,
        after: str | None = None,
        limit: int = SCAN_KEYS_MAX,
        caller: Caller = OWNER,
    ) -> Snapshot:
        """Return a page of keys."""
        ...

    async def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write] = (),
        *,
        op_id: str | None = None,
        by: str | None = None,
        caller: Caller = OWNER,
    ) -> Commit:
        """Decide and write."""
        ...

    async def resolve(self, op_id: str, *, caller: Caller = OWNER) -> Applied | Fenced:
        """Say what became of an op_id of the role, or make sure that it never is applied."""
        ...

    async def lease(self, ttl_s: float, *, caller: Caller = OWNER) -> Lease:
        """Grant a lease to the role."""
        ...


# --- on top of it --------------------------------------------------------------------------------


async def compare_and_swap(
    store: Store, key: str, value: bytes, *, expected: int, op_id: str | None = None
) -> Commit:
    """Set ``key`` if its revision is ``expected`` (0: if absent), else raise ConflictError."""
    return await store.commit([Revision(key, expected)], [Put(key, value)], op_id=op_id)


async def create(store: Store, key: str, value: bytes, *, op_id: str | None = None) -> Commit:
    """Set ``key`` if it is absent, else raise ConflictError with the winner in ``current``."""
    return await store.commit([Absent(key)], [Put(key, value)], op_id=op_id)


async def get_all(store: Store, keys: Sequence[str]) -> dict[str, KeyValue]:
    """Return those of the keys that there are, in as many readings as it takes.

    Each reading is of one revision, all together are not.  What one answer cannot hold is asked for
    in halves.
    """
    found: dict[str, KeyValue] = {}
    parts = [keys[first : first + SCAN_KEYS_MAX] for first in range(0, len(keys), SCAN_KEYS_MAX)]
    while parts:
        part = parts.pop()
        try:
            found |= (await store.get_many(part)).items
        except AnswerTooLargeError:
            if len(part) == 1:
                raise
            half = len(part) // 2
            parts += [part[:half], part[half:]]
    return found


async def scan_all(store: Store, prefix: str, *, keys_max: int = 100_000) -> Snapshot:
    """Return everything under ``prefix`` in pages, at the *first* page's revision number.

    The pages are read one after the other; a commit that depends on the whole compares
    ``Unchanged(prefix, snapshot.revision)``, which fails if anything changed since page one.

    Raises:
        InvalidRequestError: there are more than ``keys_max`` keys.
    """
    first = page = await store.scan(prefix)
    items = dict(page.items)
    while page.more:
        if len(items) >= keys_max:
            raise InvalidRequestError(f"more than {keys_max} keys under {prefix!r}")
        page = await store.scan(prefix, after=next(reversed(items)))
        items.update(page.items)
    return Snapshot(first.revision, items)


async def scan_pages(store: Store, prefix: str) -> AsyncIterator[KeyValue]:
    """Yield every key under ``prefix``, in order, however many; each page at its own revision."""
    after = None
    while True:
        page = await store.scan(prefix, after=after)
        for item in page.items.values():
            after = item.key
            yield item
        if not page.more:
            return


async def scan_names(store: Store, prefix: str) -> AsyncIterator[str]:
    """Yield what stands between ``prefix`` and the next slash in the keys below it, each once.

    One short read per name, however many keys lie below it.
    """
    after = None
    while True:
        page = await store.scan(prefix, after=after, limit=1)
        if not page.items:
            return
        name = next(iter(page.items)).removeprefix(prefix).partition("/")[0]
        yield name
        after = f"{prefix}{name}0"  # "0" is the character behind "/"


@runtime_checkable
class Measured(Protocol):
    """An engine that tells of itself in numbers; names that end with ``_total`` only grow."""

    def figures(self) -> Mapping[str, float]:
        """Return them by name; costs next to nothing."""
        ...


@runtime_checkable
class Compactable(Protocol):
    """An engine that can be asked to remove at once what it would remove in passing."""

    async def compact(self) -> int:
        """Remove all that is beyond the limits; return how many rows went."""
        ...

    async def compact_piece(self) -> tuple[int, bool]:
        """Remove a piece of it; return how many rows went, and whether there is more."""
        ...


@runtime_checkable
class Advises(Protocol):
    """An engine that knows what an operator should change about its server."""

    def advice(self) -> Sequence[str]:
        """Return a sentence for each such thing, as it was when the store was opened."""
        ...


@runtime_checkable
class Verifies(Protocol):
    """An engine on a server that can look whether each row is what was written."""

    async def verify(self) -> list[str]:
        """Return what is wrong, in words; O(store)."""
        ...


@runtime_checkable
class Shareable(Protocol):
    """An engine that wants to know that holders of its leases may live in other processes."""

    def share(self) -> None:
        """Keep the leases that are granted from now on over a restart of this process."""
        ...


@runtime_checkable
class ReadsThePast(Protocol):
    """An engine of several machines, of which any one can tell what was, without the others.

    For what only vanishes: who finds in a state of the past that nothing is in his way, knows it of
    the present, too, and has not waited for a majority.
    """

    async def scan_at(
        self, revision: int, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return a page as ``Store.scan`` does, of what was at a revision that this client saw.

        Of a later one, as the snapshot says, if that is not to be had any more, or not at once.
        """
        ...


@runtime_checkable
class RenewsFromThreads(Protocol):
    """An engine whose leases can be renewed while the event loop is busy with something else."""

    def renew_from_thread(self, lease_id: str) -> None:
        """Start the lease's time anew, called from any thread but the loop's; blocks meanwhile.

        Raises:
            LeaseExpiredError: it is over.  UnavailableError: the store did not answer in time.
        """
        ...


async def next_change(store: Store, prefix: str, after: int) -> None:
    """Return when something under ``prefix`` changed after revision ``after``; at once if it has.

    ``after`` is the revision of the snapshot in which the awaited thing was not there yet: who
    reads at a revision and waits for what comes after it misses nothing.
    """
    events = store.watch(prefix, after=after)
    try:
        async for _ in events:
            return
    finally:
        await events.aclose()


def this_user() -> str:
    """Return who writes in this process if nobody says: ``local:USER``."""
    try:
        import pwd  # noqa: PLC0415 - not of Windows
    except ImportError:
        return f"local:{os.environ.get('USERNAME') or 'somebody'}"
    try:
        return f"local:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a user without a name, as containers have
        return f"local:{os.getuid()}"


def mint_op_id(epoch: str, revision: int) -> str:
    """Return ``op:<epoch>:<revision>:<nonce>``; see ``rules.py`` for how it is judged."""
    return f"op:{epoch}:{revision}:{nonce()}"

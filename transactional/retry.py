"""Decide, try, and if somebody was faster decide again: loops around ``Store.commit``.

Conflicts are retried with *full jitter*, a pause drawn from ``U(0, min(cap, base * 2**n))``, which
spreads contenders best for the work spent (Brooker, "Exponential Backoff and Jitter", 2015); within
a budget of attempts and a deadline.  The base is never shorter than the failed attempt took: on a
slow store, pauses shorter than an attempt would let all contenders collide again.  Tasks of one
process that update the same key take turns before they read, so they do not contend with each
other at all.

One op_id, made outside the loop, names the whole loop.  A write whose answer was lost is repeated
with the *same* content and op_id until the store says what became of it; it can take effect once::

    commit(A, x) -- lost                     -> repeat commit(A, x)
      repeat answers                         -> A was applied, once
      repeat conflicts                       -> not applied so far; decide B under the same x
        commit(B, x) answers                 -> B was applied; a late A is refused by x
        OperationIdReusedError               -> a late A came in; resolve(x) says so

Whatever else ends the loop while a decision is in doubt (no budget, ``decide`` raises, the store
refuses), the last word is ``resolve(x)`` as well: either the decision was applied, and its result
is returned, or it never will be.  If that cannot be asked, the outcome is unknown and is called so.
To *settle* a doubt is to ask until the answer is one of the two.

The loop has three doors, all with two outcomes instead of the store's three::

    propose(decide)            decides anew after a conflict, and commits
    decided(decide)            the same, but a decision without writes is final and needs no commit
    settled_commit(content)    a *fixed* content, for a coordinator that must hear of a conflict

``update`` and ``transact`` are ``propose`` for one key and for several.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar, overload
from weakref import WeakKeyDictionary, WeakValueDictionary

from transactional import rules
from transactional.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OperationIdReusedError,
    OutcomeUnknownError,
    RetriesExhaustedError,
    TransactionalError,
    UnavailableError,
)
from transactional.store import Store, scan_all
from transactional.values import (
    Absent,
    Applied,
    Commit,
    Compare,
    Delete,
    Exists,
    KeyValue,
    Put,
    Revision,
    Snapshot,
    Unchanged,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to insist.  All pauses are in seconds; the first limit that is reached ends it."""

    base_s: float = 0.005
    cap_s: float = 1.0
    attempts_max: int = 64
    deadline_s: float = 30.0
    dice: random.Random = field(default_factory=random.Random, compare=False, repr=False)

    def pause_s(self, attempt: float, least_s: float = 0.0) -> float:
        """Return the pause after failed attempt number ``attempt`` (from 0).

        ``least_s`` raises the base: where one attempt takes longer than ``base_s``, pauses below
        that time would not spread the contenders at all.
        """
        base_s = max(self.base_s, least_s)
        return self.dice.uniform(0.0, min(self.cap_s, base_s * 2.0 ** min(attempt, 32)))


DEFAULT_RETRY: Final = Retry()
INSIST: Final = Retry(base_s=0.01, cap_s=1.0, attempts_max=12)
"""How a fixed commit is repeated: within about five seconds, then the trouble is handed on."""
CROWD_MAX: Final = 5
"""Most doublings that one task's patience hands to the next."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What one attempt decided, on what, and what it takes to make it true."""

    result: T
    compares: Sequence[Compare] = ()
    writes: Sequence[Write] = ()


class _Budget:
    """One loop's budget, which runs from here on."""

    def __init__(self, store: Store, retry: Retry) -> None:
        self._store = store
        self._retry = retry
        self._crowd = 0.0
        self._begun_s = store.elapsed_s()
        self._attempt_s = 0.0
        self._end_s = self._begun_s + retry.deadline_s
        self.attempts = 0

    @asynccontextmanager
    async def turn(self, turn: _Turn) -> AsyncIterator[None]:
        """Wait for the turn within the budget, then pause if the key is known to be contended.

        Raises:
            UnavailableError: the turn did not come in time; nothing was done.
        """
        try:
            async with asyncio.timeout(self._retry.deadline_s):
                await turn.lock.acquire()
        except TimeoutError as error:
            waited = f"other tasks kept the key busy for {self._retry.deadline_s:g} s"
            raise UnavailableError(waited) from error
        try:
            self._crowd = turn.crowd
            if self._crowd:
                await asyncio.sleep(self._retry.pause_s(self._crowd, turn.attempt_s))
            self._begun_s = self._store.elapsed_s()
            yield
        finally:
            turn.learn(self.attempts, self._attempt_s)
            turn.lock.release()

    async def again(self) -> bool:
        """Count a failed attempt; pause and return True if another one is allowed."""
        self.attempts += 1
        now_s = self._store.elapsed_s()
        self._attempt_s = now_s - self._begun_s
        pause_s = self._retry.pause_s(self._crowd + self.attempts - 1, self._attempt_s)
        if self.attempts >= self._retry.attempts_max or now_s + pause_s >= self._end_s:
            return False
        await asyncio.sleep(pause_s)
        self._begun_s = self._store.elapsed_s()
        return True


async def propose(
    store: Store,
    decide: Callable[[ConflictError | None], Awaitable[Decision[T]]],
    *,
    op_id: str | None = None,
    retry: Retry = DEFAULT_RETRY,
) -> tuple[T, Commit]:
    """Commit the first decision that meets no conflict; return its result and the commit.

    ``decide`` is given the conflict that its last decision met (None at first) and reads and
    decides anew each time; what it raises ends the loop, and nothing was or will be written.  At
    most one decision is applied, whatever is lost on the way.  An ``op_id`` of yours makes a repeat
    of the whole loop harmless if ``decide`` comes to the same content again; with other content the
    repeat is OperationIdReusedError.

    Raises:
        RetriesExhaustedError: conflicts used up the budget; nothing was written.
        UnavailableError: the store stayed out of reach; nothing was written.
        OutcomeUnknownError: the store stayed out of reach after an answer was lost.
    """
    return _committed(await _insist(store, decide, op_id, _Budget(store, retry)))


async def decided(
    store: Store,
    decide: Callable[[ConflictError | None], Awaitable[Decision[T]]],
    *,
    retry: Retry = DEFAULT_RETRY,
) -> tuple[T, int]:
    """Decide and commit until a decision stands; its result and revision (0: nothing to write).

    A decision without writes is final (a booking that is confirmed already needs no confirming).
    Otherwise as ``propose``.
    """
    budget = _Budget(store, retry)
    result, commit = await _insist(store, decide, None, budget, commit_always=False)
    return result, commit.revision if commit is not None else 0


def check_guards(conflict: ConflictError | None, guards: Collection[Compare]) -> None:
    """Raise the conflict if a compare that the caller brought failed: nothing can decide that."""
    if conflict is not None and any(failed in guards for failed in conflict.failed):
        raise conflict


async def settled_commit(
    store: Store,
    compares: Sequence[Compare],
    writes: Sequence[Write],
    *,
    op_id: str | None = None,
    retry: Retry = INSIST,
) -> Commit:
    """Commit this content once; repeat it while the store is away or an answer was lost.

    Raises:
        ConflictError: a compare did not hold; nothing was written, nor will be.
        UnavailableError: the store stayed out of reach; nothing was written.
        OutcomeUnknownError: an answer was lost and the store stayed out of reach since.
    """

    async def decide(conflict: ConflictError | None) -> Decision[None]:
        if conflict is not None:
            raise conflict
        return Decision(None, compares, writes)

    _, commit = await propose(store, decide, op_id=op_id, retry=retry)
    return commit


def _committed(outcome: tuple[T, Commit | None]) -> tuple[T, Commit]:
    result, commit = outcome
    assert commit is not None, "only decided() takes a decision without a commit"
    return result, commit


async def _insist(
    store: Store,
    decide: Callable[[ConflictError | None], Awaitable[Decision[T]]],
    op_id: str | None,
    budget: _Budget,
    *,
    commit_always: bool = True,
) -> tuple[T, Commit | None]:
    doubted: dict[bytes, Decision[T]] = {}
    conflict: ConflictError | None = None
    while True:
        try:
            decision = await decide(conflict)
        except UnavailableError as error:  # a read failed: it decided nothing
            if await budget.again():
                continue
            return await _leave(store, op_id, doubted, error)
        except Exception as error:  # noqa: BLE001 the caller's own; raised again unless applied
            return await _leave(store, op_id, doubted, error)
        if not decision.writes and not commit_always:
            applied = await _settle(store, op_id, doubted, "the last decision writes nothing")
            return applied or (decision.result, None)
        # Minted once for the whole loop, after the first read: reading tells a client the present.
        op_id = op_id or store.mint_op_id()
        try:
            return decision.result, await _until_known(store, decision, op_id, budget, doubted)
        except OutcomeUnknownError:
            raise
        except ConflictError as error:
            conflict = error
            if not await budget.again():
                exhausted = RetriesExhaustedError(budget.attempts, error)
                return await _leave(store, op_id, doubted, exhausted)
        except TransactionalError as error:
            return await _leave(store, op_id, doubted, error)


async def _until_known(
    store: Store,
    decision: Decision[T],
    op_id: str,
    budget: _Budget,
    doubted: dict[bytes, Decision[T]],
) -> Commit:
    """Repeat one commit, content and op_id unchanged, until its outcome is definite."""
    while True:
        try:
            return await store.commit(decision.compares, decision.writes, op_id=op_id)
        except OutcomeUnknownError:
            doubted[rules.fingerprint(decision.compares, decision.writes, ())] = decision
            if not await budget.again():
                raise
        except UnavailableError as error:
            if not await budget.again():
                if doubted:
                    raise OutcomeUnknownError(op_id, str(error)) from error
                raise


async def _leave(
    store: Store, op_id: str | None, doubted: dict[bytes, Decision[T]], cause: Exception
) -> tuple[T, Commit]:
    """End the loop: with the result of a doubted decision that was applied, else with ``cause``."""
    applied = await _settle(store, op_id, doubted, cause)
    if applied is None:
        raise cause
    return applied


async def _settle(
    store: Store, op_id: str | None, doubted: dict[bytes, Decision[T]], why: Exception | str
) -> tuple[T, Commit] | None:
    """Return the doubted decision that was applied, None if none was.

    After this none of the doubted decisions can take effect any more.
    """
    if not doubted or op_id is None:
        return None
    try:
        outcome = await store.resolve(op_id)
    except TransactionalError as error:
        cause = why if isinstance(why, Exception) else error
        raise OutcomeUnknownError(op_id, f"{why}; then {error}") from cause
    if isinstance(outcome, Applied) and outcome.fingerprint in doubted:
        return doubted[outcome.fingerprint].result, outcome.commit
    return None


# --- one key -------------------------------------------------------------------------------------


class _Turn:
    """How this process's tasks take turns on one key, and what they learnt about the others.

    It saves conflicts and nothing depends on it: other processes are met in the commit.  The next
    task starts about as patiently as the last one ended; starting anew at once, each winner would
    win again and keep the other processes out.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.crowd = 0.0
        self.attempt_s = 0.0

    def learn(self, attempts: int, attempt_s: float) -> None:
        """Take in how many attempts of a task failed, and how long the last one took (0: none)."""
        self.attempt_s = attempt_s or self.attempt_s
        if attempts:
            self.crowd = min(CROWD_MAX, self.crowd + attempts)
        else:  # half a step: two tasks in three then pass at their first attempt
            self.crowd = max(0.0, self.crowd - 0.5)


_turns: WeakKeyDictionary[Store, WeakValueDictionary[str, _Turn]] = WeakKeyDictionary()


def _turn(store: Store, key: str) -> _Turn:
    turns = _turns.setdefault(store, WeakValueDictionary())
    return turns.setdefault(key, _Turn())


async def update(
    store: Store,
    key: str,
    fn: Callable[[bytes | None], bytes],
    *,
    op_id: str | None = None,
    retry: Retry = DEFAULT_RETRY,
) -> KeyValue:
    """Set ``key`` to ``fn(its value, None if absent)``, atomically; return what was written.

    ``fn`` may run several times, its result is written once.  What it raises ends the update and
    nothing is written.  Errors: see ``propose``.  With an ``op_id`` (a saga step's idempotency key,
    say) it has its effect once, however often it is called, as long as the store remembers op_ids
    (7 days); a repeat calls ``fn`` no more and returns the key as it stands, by now perhaps changed
    by others.  The key must be there still.
    """
    if op_id is not None and await _applied_before(store, op_id) is not None:
        return await _updated_before(store, key, op_id)

    async def decide(_: ConflictError | None) -> Decision[tuple[bytes, KeyValue | None]]:
        # Read anew: the value that the conflict brought along has aged by the pause.
        old = await store.get(key)
        revision = old.revision if old is not None else 0
        value = fn(old.value if old is not None else None)
        return Decision((value, old), [Revision(key, revision)], [Put(key, value)])

    budget = _Budget(store, retry)  # waiting for the turn counts
    try:
        async with budget.turn(_turn(store, key)):
            (value, old), commit = _committed(await _insist(store, decide, op_id, budget))
    except OperationIdReusedError:  # another call of this operation was faster
        return await _updated_before(store, key, op_id or "")
    created = old.created_revision if old is not None else commit.revision
    return KeyValue(key, value, commit.revision, created)


# --- several keys --------------------------------------------------------------------------------


class Transaction:
    """What one attempt read and wants to write; reads see the attempt's own writes.

    Reads are taken one by one, so an attempt that will be refused may have seen two revisions; the
    function must not act on what it reads except through this object.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, KeyValue | None] = {}
        self._prefixes: dict[str, Snapshot] = {}
        self._writes: dict[str, Put | Delete] = {}

    async def get(self, key: str) -> bytes | None:
        """Return the value of ``key``, None if absent."""
        if key in self._writes:
            write = self._writes[key]
            return write.value if isinstance(write, Put) else None
        if key not in self._read:
            self._read[key] = await self._store.get(key)
        found = self._read[key]
        return found.value if found is not None else None

    async def scan(self, prefix: str) -> dict[str, bytes]:
        """Return the keys under ``prefix`` with their values, in order."""
        if prefix not in self._prefixes:
            self._prefixes[prefix] = await scan_all(self._store, prefix)
        values = {key: item.value for key, item in self._prefixes[prefix].items.items()}
        for key, write in self._writes.items():
            if key.startswith(prefix):
                values.pop(key, None)
                if isinstance(write, Put):
                    values[key] = write.value
        return dict(sorted(values.items()))

    def put(self, key: str, value: bytes, *, lease: str | None = None) -> None:
        """Set ``key`` when the transaction commits."""
        self._writes[key] = Put(key, value, lease)

    def delete(self, key: str) -> None:
        """Remove ``key`` when the transaction commits."""
        self._writes[key] = Delete(key)

    def decision(self, result: T) -> Decision[T]:
        """Return the commit that validates every read and makes every write."""
        compares: list[Compare] = [
            Revision(key, found.revision if found is not None else 0)
            for key, found in self._read.items()
        ]
        compares += [Unchanged(prefix, seen.revision) for prefix, seen in self._prefixes.items()]
        if len(compares) > self._store.capabilities.max_operations:
            raise InvalidRequestError(f"a transaction read {len(compares)} keys: too many")
        return Decision(result, compares, list(self._writes.values()))


@overload
async def transact(
    store: Store,
    fn: Callable[[Transaction], Awaitable[T]],
    *,
    op_id: None = None,
    retry: Retry = DEFAULT_RETRY,
) -> tuple[T, Commit]: ...


@overload
async def transact(
    store: Store,
    fn: Callable[[Transaction], Awaitable[T]],
    *,
    op_id: str,
    retry: Retry = DEFAULT_RETRY,
) -> tuple[T | None, Commit]: ...


async def transact(
    store: Store,
    fn: Callable[[Transaction], Awaitable[T]],
    *,
    op_id: str | None = None,
    retry: Retry = DEFAULT_RETRY,
) -> tuple[T | None, Commit]:
    """Run ``fn`` against the store as if alone (strictly serializable); return (result, commit).

    Everything it read, ranges included, is compared in the commit that makes its writes.  ``fn``
    may run several times and must have no effect of its own.  Errors: see ``propose``.  With an
    ``op_id`` it has its effect once, as for ``update``; a repeat does not call ``fn`` and returns
    (None, the first commit).
    """
    if op_id is not None and (first := await _applied_before(store, op_id)) is not None:
        return None, first

    async def decide(_: ConflictError | None) -> Decision[T]:
        transaction = Transaction(store)
        return transaction.decision(await fn(transaction))

    try:
        return await propose(store, decide, op_id=op_id, retry=retry)
    except OperationIdReusedError:  # another call of this operation was faster
        if op_id is None or (first := await _applied_before(store, op_id)) is None:
            raise
        return None, first


async def _updated_before(store: Store, key: str, op_id: str) -> KeyValue:
    stands = await store.get(key)
    if stands is None:
        raise NotFoundError(f"{key!r} was updated by {op_id!r} and is absent by now")
    return stands


async def _applied_before(store: Store, op_id: str) -> Commit | None:
    """The commit of an operation, None if it was not applied; without fencing it off.

    It is asked by a commit that cannot be made: an op_id that was used is told before compares are.
    """
    try:
        await store.commit([Absent("op"), Exists("op")], [Put("op", b"")], op_id=op_id)
    except OperationIdReusedError:
        outcome = await store.resolve(op_id)
        return outcome.commit if isinstance(outcome, Applied) else None
    except ConflictError:
        return None
    raise AssertionError("a key is not absent and present at once")

"""A store for threads, and the recipes on it.

Every call is carried to the thread in which the store lives (`loop_thread`).  A function that is
handed over (`update`, a reducer, an upcaster) runs there: it computes, and is refused if it calls
the store (ReentrantCallError).  The function of `transact` runs in a thread of its own, because it
reads through its transaction.

`close` finishes what the store accepted, and ends every other call that waits by StoreClosedError.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from transactional import retry as loops
from transactional import store as sugar
from transactional.blocking.loop_thread import LoopThread, Refusals, awaited, called, iterated
from transactional.blocking.recipes import (
    BlockingEventLog,
    BlockingLock,
    BlockingRegister,
    BlockingReservations,
    BlockingSagas,
    BlockingWorkQueue,
)
from transactional.errors import ForkedError, ReentrantCallError, StoreClosedError
from transactional.events import EventLog
from transactional.lock import Lock
from transactional.queues import WorkQueue
from transactional.register import Register
from transactional.reservations import Reservations
from transactional.retry import DEFAULT_RETRY, Retry, Transaction
from transactional.sagas import Sagas
from transactional.store import Store
from transactional.stores import connect
from transactional.sweeper import RETENTION_S
from transactional.tokens import fresh_token

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from transactional.sagas import Saga
    from transactional.values import Capabilities, Commit, KeyValue, Snapshot

T = TypeVar("T")

TRANSACTIONS_MAX: Final = 32
"""How many functions of `transact` run at once; the next one waits."""

REFUSALS: Final = Refusals(
    closed=lambda name: StoreClosedError(f"{name} is closed"),
    reentrant=lambda name: ReentrantCallError(f"{name} is called out of its own thread"),
    forked=lambda name: ForkedError(f"{name} was opened before this process was forked"),
)


class BlockingTransaction:
    """What one attempt read and wants to write; reads see the attempt's own writes."""

    def __init__(self, carrier: LoopThread, inner: Transaction) -> None:
        self._carrier = carrier
        self._inner = inner

    get = awaited(Transaction.get)
    scan = awaited(Transaction.scan)
    put = called(Transaction.put)
    delete = called(Transaction.delete)


class BlockingStore:
    """A linearizable map, as `Store` is, for any number of threads; `open_sync` makes it.

    What it hands out - recipes, grants, iterators - ends with it.
    """

    def __init__(self, carrier: LoopThread, inner: Store) -> None:
        self._carrier = carrier
        self._inner = inner
        self._pool = ThreadPoolExecutor(TRANSACTIONS_MAX, thread_name_prefix="transact")

    @property
    def epoch(self) -> str:
        """Name of this life of the store; another one after a backup was restored."""
        return self._carrier.call(lambda: self._inner.epoch)

    @property
    def capabilities(self) -> Capabilities:
        """What this engine promises."""
        return self._carrier.call(lambda: self._inner.capabilities)

    get = awaited(Store.get)
    get_many = awaited(Store.get_many)
    scan = awaited(Store.scan)
    commit = awaited(Store.commit)
    resolve = awaited(Store.resolve)
    lease = awaited(Store.lease)
    renew = awaited(Store.renew)
    revoke = awaited(Store.revoke)
    watch = iterated(Store.watch)
    now = awaited(Store.now)
    elapsed_s = called(Store.elapsed_s)
    mint_op_id = called(Store.mint_op_id)

    def close(self) -> None:
        """Finish what was accepted, release everything, end the thread; a second call waits."""
        self._carrier.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._carrier.forked:  # that end is the parent's
            self.close()

    # --- what functions on a store do -------------------------------------------------------------

    def compare_and_swap(
        self, key: str, value: bytes, *, expected: int, op_id: str | None = None
    ) -> Commit:
        """Set ``key`` if its revision is ``expected`` (0: if absent), else raise ConflictError."""
        swap = partial(sugar.compare_and_swap, expected=expected, op_id=op_id)
        return self._carrier.wait(swap, self._inner, key, value)

    def create(self, key: str, value: bytes, *, op_id: str | None = None) -> Commit:
        """Set ``key`` if it is absent, else raise ConflictError with the winner in ``current``."""
        return self._carrier.wait(sugar.create, self._inner, key, value, op_id=op_id)

    def scan_all(self, prefix: str, *, keys_max: int = 100_000) -> Snapshot:
        """Return everything under ``prefix`` in pages; see ``transactional.scan_all``."""
        return self._carrier.wait(sugar.scan_all, self._inner, prefix, keys_max=keys_max)

    def update(
        self,
        key: str,
        fn: Callable[[bytes | None], bytes],
        *,
        op_id: str | None = None,
        retry: Retry = DEFAULT_RETRY,
    ) -> KeyValue:
        """Set ``key`` to ``fn(its value, None if absent)``, atomically; return what was written.

        ``fn`` may run several times, its result is written once; with an ``op_id`` once for all
        calls that bring it.
        """
        return self._carrier.wait(loops.update, self._inner, key, fn, op_id=op_id, retry=retry)

    @overload
    def transact(
        self,
        fn: Callable[[BlockingTransaction], T],
        *,
        op_id: None = None,
        retry: Retry = DEFAULT_RETRY,
    ) -> tuple[T, Commit]: ...

    @overload
    def transact(
        self, fn: Callable[[BlockingTransaction], T], *, op_id: str, retry: Retry = DEFAULT_RETRY
    ) -> tuple[T | None, Commit]: ...

    def transact(
        self,
        fn: Callable[[BlockingTransaction], T],
        *,
        op_id: str | None = None,
        retry: Retry = DEFAULT_RETRY,
    ) -> tuple[T | None, Commit]:
        """Run ``fn`` against the store as if alone (strictly serializable); (result, commit).

        It runs in a thread of its own, maybe several times, and must have no effect of its own.
        With an ``op_id`` it has its effect once for all calls that bring it, and a repeat returns
        (None, the first commit).
        """

        async def run(transaction: Transaction) -> T:
            given = BlockingTransaction(self._carrier, transaction)
            return await asyncio.get_running_loop().run_in_executor(self._pool, fn, given)

        if op_id is None:
            return self._carrier.wait(loops.transact, self._inner, run, retry=retry)
        return self._carrier.wait(loops.transact, self._inner, run, op_id=op_id, retry=retry)

    # --- recipes ----------------------------------------------------------------------------------

    def register(self, key: str, *, by: str) -> BlockingRegister:
        """The register under ``key``; ``by`` is written beside each value that it sets."""
        return BlockingRegister(
            self._carrier, self._carrier.call(Register, self._inner, key, by=by)
        )

    def lock(
        self, *names: str, owner: str, ttl_s: float = 10.0, shared: bool = False
    ) -> BlockingLock:
        """One name or several, to be held together; ``shared`` locks share with each other."""
        make = partial(Lock, self._inner, *names, owner=owner, ttl_s=ttl_s, shared=shared)
        return BlockingLock(self._carrier, self._carrier.call(make))

    def event_log(
        self,
        *,
        namespace: str = "log",
        upcasters: Mapping[str, Sequence[Callable[[Any], Any]]] | None = None,
        retention_s: float = RETENTION_S,
    ) -> BlockingEventLog:
        """The event log of that namespace; see ``EventLog``."""
        make = partial(
            EventLog,
            self._inner,
            namespace=namespace,
            upcasters=upcasters,
            retention_s=retention_s,
        )
        return BlockingEventLog(self._carrier, self._carrier.call(make))

    def sagas(
        self,
        definitions: Iterable[Saga],
        *,
        worker: str = "worker",
        namespace: str = "saga",
        lease_ttl_s: float = 10.0,
        recover_every_s: float | None = None,
        runs_max: int = 1000,
        retention_s: float = RETENTION_S,
    ) -> BlockingSagas:
        """A worker for these sagas inside of ``with``, a client outside; see ``Sagas``.

        Steps that are plain functions run in threads.
        """
        make = partial(
            Sagas,
            self._inner,
            worker=worker,
            namespace=namespace,
            lease_ttl_s=lease_ttl_s,
            recover_every_s=recover_every_s,
            runs_max=runs_max,
            retention_s=retention_s,
        )
        return BlockingSagas(self._carrier, make, definitions)

    def queue(
        self,
        name: str,
        *,
        worker: str | None = None,
        lanes: Mapping[str, int] | None = None,
        attempts_max: int | None = None,
        keep_ended_s: float | None = None,
    ) -> BlockingWorkQueue:
        """The queue of jobs of that name; see ``WorkQueue``."""
        make = partial(
            WorkQueue,
            self._inner,
            name,
            worker=worker,
            lanes=lanes,
            attempts_max=attempts_max,
            keep_ended_s=keep_ended_s,
        )
        return BlockingWorkQueue(self._carrier, self._carrier.call(make))

    def reservations(
        self,
        *,
        namespace: str = "reservation",
        new_id: Callable[[], str] = lambda: fresh_token()[:16],
        retention_s: float = RETENTION_S,
    ) -> BlockingReservations:
        """Holds and bookings of any number of resources; see ``Reservations``."""
        make = partial(
            Reservations, self._inner, namespace=namespace, new_id=new_id, retention_s=retention_s
        )
        return BlockingReservations(self._carrier, self._carrier.call(make))


def open_sync(
    url: str,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    accept_clock: bool = False,
) -> BlockingStore:
    """Open a store for threads and code without a loop; see ``connect`` for URLs and errors.

    Close it, best by ``with open_sync(url) as store:``.  If a process ends without, it is closed
    then, with a ResourceWarning.
    """
    opened: list[Store] = []

    async def last() -> None:
        for store in opened:
            await store.close()

    shown = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])  # no token and no password
    carrier = LoopThread(f"store {shown}", REFUSALS, last)
    try:
        how = partial(connect, token=token, tls=tls, accept_clock=accept_clock)
        opened.append(carrier.wait(how, url))
    except BaseException:
        carrier.close()
        raise
    return BlockingStore(carrier, opened[0])

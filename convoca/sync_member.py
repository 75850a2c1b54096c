"""The synchronous twin of a member, for threads and for code without a loop.

Theory of operation. Its halves are the twins of the halves (`BlockingAgent`, `BlockingStore`), each
with a loop in a thread of its own, and any number of threads may share it. Where `Member` tries a
store that is out of reach in the background, this one tries again when an eager call needs it, and
at most once in `RETRY_S`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from convoca.errors import NoStoreError
from convoca.member import ASKED_MAX, PROVE_S, check_secrets
from replication import AlreadyStartedError
from transactional import BlockingStore, UnavailableError, open_sync

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from convoca.discovery import Whereabouts
    from crdt import Codec, DocumentType, LWWRegister, ORMap, ORSet, PNCounter
    from replication import BlockingAgent, BlockingBounded
    from transactional import (
        BlockingEventLog,
        BlockingLock,
        BlockingReservations,
        BlockingSagas,
        BlockingWorkQueue,
        Saga,
    )

D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")

RETRY_S = 0.5
"""How long what the last try to open the store met is told again, instead of another try."""
PAUSE_S = 0.1


class BlockingMember:
    """Takes what `Member` takes, and does what `Member` does, without `await`, from any thread.

    A store that it is given is a `BlockingStore`, or a URL.
    """

    def __init__(
        self,
        agent: BlockingAgent,
        store: BlockingStore | str | None = None,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        peers: Sequence[str] = (),
        whereabouts: Whereabouts | None = None,
    ) -> None:
        self.agent = agent
        self._peers = peers
        self._given = store
        self._token = token
        self._tls = tls
        self._whereabouts = whereabouts
        self._opened: BlockingStore | None = None
        self._opening = threading.Lock()
        self._failed: tuple[float, UnavailableError] | None = None
        self._queues: dict[object, BlockingWorkQueue] = {}
        self._closed = True

    # ------------------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start the agent, make it known on this host, open the store; raises as `Member.start`."""
        with self._opening:
            if not self._closed:
                raise AlreadyStartedError(f"member {self.name!r} was started already")
            self._closed = False
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        where = self._whereabouts
        if where is not None:
            where.check_free()
        self.agent.start()
        asked = list(self._peers)
        if where is not None:
            where.claim(self.agent.address, self.agent.id)
            asked += [each.address for each in where.others()]
            self.agent.meet(asked)
        asked = asked[:ASKED_MAX]
        with ThreadPoolExecutor(ASKED_MAX) as pool:
            answers = list(pool.map(lambda each: self.agent.shares_secret(each, PROVE_S), asked))
        check_secrets(asked, answers)
        if self._given is not None:
            with contextlib.suppress(UnavailableError):
                _ = self.store

    def close(self) -> None:
        """Close the recipes, the store if it was opened here, and the agent."""
        with self._opening:
            self._closed = True
            opened, self._opened = self._opened, None
            queues, self._queues = self._queues, {}
        with contextlib.ExitStack() as last:  # in reverse; one that fails stops no other
            last.callback(self.agent.close)
            if opened is not None:
                last.callback(opened.close)
            for queue in queues.values():
                last.callback(queue.close)
            if self._whereabouts is not None:
                last.callback(self._whereabouts.leave)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    # ------------------------------------------------------------------------------ lazy

    def counter(self, name: str) -> PNCounter:
        """The counter of that name; see `Agent.counter`. So for the documents below."""
        return self.agent.counter(name)

    def register(self, name: str, values: Codec[T] | type[T] | None = None) -> LWWRegister[T]:
        """The last-writer-wins register of that name."""
        return self.agent.register(name, values)

    def set(self, name: str) -> ORSet:
        """The add-wins set of that name."""
        return self.agent.orset(name)

    def map(self, name: str) -> ORMap:
        """The nested add-wins map of that name."""
        return self.agent.map(name)

    def bounded(self, name: str, minimum: int = 0) -> BlockingBounded:
        """The quantity of that name that never falls below `minimum`."""
        return self.agent.bounded(name, minimum)

    def document(self, name: str, kind: type[D] | DocumentType[D]) -> D:
        """The document (name, kind), of any type of `crdt`."""
        return self.agent.document(name, kind)

    @overload
    def batch(self) -> AbstractContextManager[object]: ...

    @overload
    def batch(self, action: Callable[[], R]) -> R: ...

    def batch(self, action: Callable[[], R] | None = None) -> AbstractContextManager[object] | R:
        """Group writes of documents; see `BlockingAgent.batch`."""
        return self.agent.batch() if action is None else self.agent.batch(action)

    # ------------------------------------------------------------------------------ eager

    @property
    def store(self) -> BlockingStore:
        """The store; opened now if it was out of reach before.

        Raises:
            NoStoreError: none was given.
            UnavailableError: it is out of reach. Nothing was written, in both cases.
        """
        if self._given is None:
            raise NoStoreError(f"member {self.name!r} has no store")
        if isinstance(self._given, BlockingStore):
            return self._given
        with self._opening:
            if self._opened is not None:
                return self._opened
            if self._closed:
                raise UnavailableError("the store is not open: the member is closed")
            if self._failed is not None and time.monotonic() < self._failed[0] + RETRY_S:
                raise UnavailableError(self._failed[1].reason)
            try:
                self._opened = open_sync(self._given, token=self._token, tls=self._tls)
            except UnavailableError as error:
                self._failed = (time.monotonic(), error)
                raise
            return self._opened

    def store_ready(self, timeout_s: float | None = None) -> BlockingStore:
        """Wait until the store is open; UnavailableError if it stayed out of reach."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return self.store
            except UnavailableError:
                if self._closed or (until_s is not None and time.monotonic() >= until_s):
                    raise
            time.sleep(PAUSE_S)

    @property
    def rooms(self) -> BlockingReservations:
        """Holds and bookings of any number of resources. Errors as of `store`; so for all below."""
        return self.store.reservations()

    @property
    def log(self) -> BlockingEventLog:
        """The team's event log."""
        return self.store.event_log()

    def queue(
        self,
        name: str,
        *,
        lanes: Mapping[str, int] | None = None,
        attempts_max: int | None = None,
        keep_ended_s: float | None = None,
    ) -> BlockingWorkQueue:
        """The queue of jobs of that name; this member is the worker that claims.

        The same question gives the same object; it is closed with the member.
        """
        store = self.store
        asked = (name, tuple(sorted((lanes or {}).items())), attempts_max, keep_ended_s)
        with self._opening:
            if asked not in self._queues:
                self._queues[asked] = store.queue(
                    name,
                    worker=self.name,
                    lanes=lanes,
                    attempts_max=attempts_max,
                    keep_ended_s=keep_ended_s,
                )
            return self._queues[asked]

    def lock(self, *names: str, ttl_s: float = 10.0, shared: bool = False) -> BlockingLock:
        """A lock of one name or several, to be held by this member."""
        return self.store.lock(*names, owner=self.name, ttl_s=ttl_s, shared=shared)

    def sagas(self, definitions: Iterable[Saga] = (), **options: Any) -> BlockingSagas:
        """A worker for these sagas inside of `with`, a client outside; see `Sagas`."""
        return self.store.sagas(definitions, **{"worker": self.name, **options})

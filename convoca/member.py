"""A member of a team: an agent and a store behind one handle.

Theory of operation. A `Member` makes nothing of its own. Documents are the agent's (`member.agent`)
and recipes are made on the store (`member.store`), by the functions that anybody could call; what
it adds is their life. The two halves start apart: the agent at once, the store when it can be
reached.

    start   the agent starts -> its address is written down, and those of others are read
            (`discovery`) -> they are asked whether they hold our secret -> the store is opened
    close   the address is taken away -> what the recipes run is ended -> the store -> the agent

*A store out of reach* (an authority that does not run, a file that another process has) keeps
nothing of the lazy half from working. It is tried again in the background, from 0.1 to 2 seconds
apart; until it is open an eager call raises what the last try met: `UnavailableError`, nothing was
written. What no second try can mend (an unknown scheme, a token that is not accepted, a damaged
file) fails the start.

*A wrong secret* could not be told later: to an agent its peers would just be out of reach. So some
of those that are known are asked, all at the same time and for at most `PROVE_S`. If all who answer
hold another secret, the start fails, and everything is closed again.

*A member lives in one event loop*, as its halves do; a thread uses the twin (`join_sync`), or is
refused before anything is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload

from convoca.errors import NoStoreError, WrongSecretError
from replication import AlreadyStartedError, WrongThreadError
from transactional import (
    EventLog,
    Lock,
    Reservations,
    Sagas,
    Store,
    UnavailableError,
    WorkQueue,
    connect,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from convoca.discovery import Whereabouts
    from crdt import (
        Codec,
        DocumentType,
        LWWRegister,
        ORMap,
        ORSet,
        PNCounter,
    )
    from replication import Agent, Bounded
    from transactional import Saga

D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")

RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
"""How long is waited between two tries to open the store; each pause is twice the last one."""
PROVE_S = 1.0
"""How long a start waits for what the others say of their secret."""
ASKED_MAX = 8
"""So many of them are asked."""
FROM_THREADS = "a member lives in one event loop; a thread has its own: `convoca.join_sync(...)`"
logger = logging.getLogger("convoca")


class Page(Protocol):
    """What shows the team to a browser, while the member lives."""

    @property
    def url(self) -> str:
        """Where it is served."""

    async def close(self) -> None:
        """Serve it no more."""


class Member:
    """An agent and a store, started together: `join` makes it.

    Args:
        agent: not started; the member starts and closes it.
        store: one that is open, which stays its maker's to close; or the URL of one to be opened;
            or None: then eager calls raise NoStoreError.
        token, tls: for the authority of a URL.
        peers: those of the agent, to be asked whether they hold its secret.
        whereabouts: how others on this host find it; None if they do not.
        ui: serve the page about this team, on loopback; or `HOST:PORT` to serve it at.
    """

    def __init__(
        self,
        agent: Agent,
        store: Store | str | None = None,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        peers: Sequence[str] = (),
        whereabouts: Whereabouts | None = None,
        ui: bool | str = False,
    ) -> None:
        self.agent = agent
        self._peers = peers
        self._late = None if store is None else LateStore(store, token, tls)
        self._whereabouts = whereabouts
        self._ui = ui
        self._page: Page | None = None
        self._queues: dict[object, WorkQueue] = {}
        self._thread: int | None = None
        self._started = False

    # ------------------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Start the agent, make it known on this host, open the store if it can be reached.

        Raises:
            NameTakenError, WrongSecretError, RuntimeDirectoryError: see there.
            AlreadyStartedError: it runs, and goes on.
            whatever `Agent.start` raises, and of a store what no second try can mend. What was
                started by then was closed again.
        """
        if self._started:
            raise AlreadyStartedError(f"member {self.name!r} was started already")
        self._started, self._thread = True, threading.get_ident()
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        return self

    async def _begin(self) -> None:
        where = self._whereabouts
        if where is not None:
            await asyncio.to_thread(where.check_free)
        await self.agent.start()
        asked = list(self._peers)
        if where is not None:
            await asyncio.to_thread(where.claim, self.agent.address, self.agent.id)
            others = await asyncio.to_thread(where.others)
            asked += [each.address for each in others]
            self.agent.meet(asked)
        asked = asked[:ASKED_MAX]
        answers = await asyncio.gather(
            *(self.agent.shares_secret(address, PROVE_S) for address in asked)
        )
        check_secrets(asked, answers)
        if self._late is not None:
            await self._late.start()
        if self._ui:
            opened = import_module("convoca.page").open_page(self.agent, self._late, self._ui)
            self._page = await opened

    async def close(self) -> None:
        """Close the page, the recipes, the store if it was opened here, and the agent."""
        page, self._page = self._page, None
        queues, self._queues = self._queues, {}
        async with contextlib.AsyncExitStack() as last:  # in reverse; one that fails stops no other
            last.push_async_callback(self.agent.close)
            if self._late is not None:
                last.push_async_callback(self._late.close)
            for queue in queues.values():
                last.push_async_callback(queue.close)
            if page is not None:
                last.push_async_callback(page.close)
            if self._whereabouts is not None:
                last.push_async_callback(asyncio.to_thread, self._whereabouts.leave)
        self._started = False

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    @property
    def page(self) -> str:
        """Where the page is served, as a URL; "" if it was not asked for."""
        return self._page.url if self._page is not None else ""

    # ------------------------------------------------------------------------------ lazy

    def counter(self, name: str) -> PNCounter:
        """The counter of that name; see `Agent.counter`. So for the documents below."""
        return self._at_home().counter(name)

    def register(self, name: str, values: Codec[T] | type[T] | None = None) -> LWWRegister[T]:
        """The last-writer-wins register of that name."""
        return self._at_home().register(name, values)

    def set(self, name: str) -> ORSet:
        """The add-wins set of that name."""
        return self._at_home().orset(name)

    def map(self, name: str) -> ORMap:
        """The nested add-wins map of that name."""
        return self._at_home().map(name)

    def bounded(self, name: str, minimum: int = 0) -> Bounded:
        """The quantity of that name that never falls below `minimum`."""
        return self._at_home().bounded(name, minimum)

    def document(self, name: str, kind: type[D] | DocumentType[D]) -> D:
        """The document (name, kind), of any type of `crdt`."""
        return self._at_home().document(name, kind)

    @overload
    def batch(self) -> AbstractContextManager[object]: ...

    @overload
    def batch(self, action: Callable[[], R]) -> R: ...

    def batch(self, action: Callable[[], R] | None = None) -> AbstractContextManager[object] | R:
        """Group writes of documents: they travel and apply as one; see `Agent.batch`."""
        agent = self._at_home()
        return agent.batch() if action is None else agent.batch(action)

    # ------------------------------------------------------------------------------ eager

    @property
    def store(self) -> Store:
        """The store, once it is open.

        Raises:
            NoStoreError: none was given.
            UnavailableError: it is out of reach for now. Nothing was written, in both cases.
        """
        self._at_home()
        if self._late is None:
            raise NoStoreError(f"member {self.name!r} has no store")
        return self._late.store

    async def store_ready(self, timeout_s: float | None = None) -> Store:
        """Wait until the store is open.

        Raises:
            NoStoreError: none was given.
            UnavailableError: it stayed out of reach for that long.
        """
        self._at_home()
        if self._late is None:
            raise NoStoreError(f"member {self.name!r} has no store")
        return await self._late.ready(timeout_s)

    @property
    def rooms(self) -> Reservations:
        """Holds and bookings of any number of resources. Errors as of `store`; so for all below."""
        return Reservations(self.store)

    @property
    def log(self) -> EventLog:
        """The team's event log."""
        return EventLog(self.store)

    def queue(
        self,
        name: str,
        *,
        lanes: Mapping[str, int] | None = None,
        attempts_max: int | None = None,
        keep_ended_s: float | None = None,
    ) -> WorkQueue:
        """The queue of jobs of that name; this member is the worker that claims.

        The same question gives the same object; it is closed with the member.
        """
        asked = (name, tuple(sorted((lanes or {}).items())), attempts_max, keep_ended_s)
        if asked not in self._queues:
            self._queues[asked] = WorkQueue(
                self.store,
                name,
                worker=self.name,
                lanes=lanes,
                attempts_max=attempts_max,
                keep_ended_s=keep_ended_s,
            )
        return self._queues[asked]

    def lock(self, *names: str, ttl_s: float = 10.0, shared: bool = False) -> Lock:
        """A lock of one name or several, to be held by this member."""
        return Lock(self.store, *names, owner=self.name, ttl_s=ttl_s, shared=shared)

    def sagas(self, definitions: Iterable[Saga] = (), **options: Any) -> Sagas:
        """A worker for these sagas inside of `async with`, a client outside; see `Sagas`."""
        return Sagas(self.store, definitions, **{"worker": self.name, **options})

    def _at_home(self) -> Agent:
        if self._thread is not None and self._thread != threading.get_ident():
            raise WrongThreadError(
                f"member {self.name!r} is used from another thread", hint=FROM_THREADS
            )
        return self.agent


def check_secrets(addresses: Sequence[str], answers: Sequence[bool | None]) -> None:
    """Raise WrongSecretError if somebody said that he holds another secret, and nobody ours."""
    others = tuple(a for a, same in zip(addresses, answers, strict=True) if same is False)
    if others and True not in answers:
        raise WrongSecretError(
            f"{', '.join(others)}: no secret, or not the one of this member", others
        )


class LateStore:
    """A store that is opened as soon as it can be reached."""

    def __init__(self, given: Store | str, token: str | None, tls: ssl.SSLContext | None) -> None:
        self._given = given
        self._token = token
        self._tls = tls
        self._store: Store | None = None if isinstance(given, str) else given
        self._why = "it was not started"
        self._opening: asyncio.Task[None] | None = None

    @property
    def store(self) -> Store:
        """The open store; UnavailableError while there is none."""
        if self._store is None:
            raise UnavailableError(f"the store is not open: {self._why}")
        return self._store

    async def start(self) -> None:
        """Open it, or go on trying if it is out of reach."""
        if self._store is not None:
            return
        try:
            await self._open()
        except UnavailableError as error:
            self._why = error.reason
            logger.warning("store-out-of-reach", extra={"facts": {"reason": error.reason}})
            self._opening = asyncio.create_task(self._keep_trying(), name="the store is opened")

    async def _open(self) -> None:
        assert isinstance(self._given, str)
        self._store = await connect(self._given, token=self._token, tls=self._tls)

    async def _keep_trying(self) -> None:
        pause_s = RETRY_S_MIN
        while self._store is None:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)
            try:
                await self._open()
            except UnavailableError as error:
                self._why = error.reason
            except Exception as error:  # noqa: BLE001 - a second try does not mend it: say so
                self._why = f"{error}; it is not tried again"
                logger.error("store-refused", extra={"facts": {"reason": str(error)}})  # noqa: TRY400
                return

    async def ready(self, timeout_s: float | None) -> Store:
        """Wait until it is open; UnavailableError if that takes longer."""
        if self._opening is not None:
            await asyncio.wait([self._opening], timeout=timeout_s)
        return self.store

    async def close(self) -> None:
        """Stop trying; close what was opened here."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        if isinstance(self._given, str):
            store, self._store = self._store, None
            self._why = "the member is closed"
            if store is not None:
                await store.close()

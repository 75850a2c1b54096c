"""The synchronous twin: the same agent for code that is not async.

Theory of operation. An event loop runs in a thread of its own, and the agent lives there. A kernel
is not thread-safe, so every call - a method of a document as much as `durable` - is carried to that
thread and its result brought back; a caller blocks only itself. Iterating a document takes a
snapshot in the loop's thread.

    with BlockingAgent("sales", peers=["127.0.0.1:7002"]) as agent:
        agent.counter("stock").increment(5)
        agent.durable(agent.version(), timeout_s=1)
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from replication.agent.agent import Agent
from replication.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import TracebackType

    from replication.agent.admin import MemberView
    from replication.agent.watch import ChangeEvent, Watch
    from replication.version import Version

T = TypeVar("T")
STOP_WAIT_S = 30.0


class BlockingDocument:
    """A document whose every use happens in the agent's thread; it reads like the document."""

    def __init__(self, agent: BlockingAgent, view: Any) -> None:
        self._agent = agent
        self._view = view

    def __getattr__(self, name: str) -> Any:
        found = self._agent.call(lambda: getattr(self._view, name))
        if not callable(found):
            return found

        def carried(*args: Any, **options: Any) -> Any:
            async def done() -> Any:
                result = found(*args, **options)
                return await result if asyncio.iscoroutine(result) else result

            return self._agent.carry(done)

        return carried

    def __iter__(self) -> Iterator[Any]:
        return iter(self._agent.call(lambda: list(self._view)))

    def __len__(self) -> int:
        return self._agent.call(lambda: len(self._view))

    def __contains__(self, item: object) -> bool:
        return self._agent.call(lambda: item in self._view)

    def __getitem__(self, key: Any) -> Any:
        return self._agent.call(lambda: self._view[key])

    def __repr__(self) -> str:
        return self._agent.call(lambda: repr(self._view))


class BlockingWatch:
    """A subscription that a `for` loop reads; it ends when the agent closes, or by `close`."""

    def __init__(self, agent: BlockingAgent, watch: Watch) -> None:
        self._agent = agent
        self._watch = watch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChangeEvent:
        """The next event, however long that takes."""
        if (event := self.take()) is None:
            raise StopIteration
        return event

    def take(self, timeout_s: float | None = None) -> ChangeEvent | None:
        """The next event; None at the end.

        Raises:
            TimeoutError: none came in time; nothing is lost by that.
        """

        async def taken() -> ChangeEvent | None:
            async with asyncio.timeout(timeout_s):
                return await anext(self._watch, None)

        return self._agent.carry(taken)

    @property
    def token(self) -> Version:
        """Where to go on after a break, with `watch(prefix, after=token)`."""
        return self._watch.token

    def close(self) -> None:
        """End it: what is queued is still handed out."""
        self._agent.carry(self._watch.aclose)


class BlockingAgent:
    """Takes what `Agent` takes, and does what `Agent` does, without `await`."""

    def __init__(self, name: str, **options: Any) -> None:
        self._agent = Agent(name, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start the thread, the loop and the agent; raises what `Agent.start` raises."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="agent", daemon=True)
        thread.start()
        self._loop, self._thread = loop, thread
        try:
            self._await(self._agent.start())
        except BaseException:
            self._stop()
            raise
        return self

    def close(self) -> None:
        """Flush, say goodbye, end the thread."""
        if self._loop is not None:
            self._await(self._agent.close())
            self._stop()

    def _stop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_WAIT_S)
            loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------ carrying

    def call(self, action: Callable[[], T]) -> T:
        """Run `action` in the agent's thread; for several writes that belong together.

        `agent.call(lambda: ...)` sees and changes the async agent (`agent.inner`) without a race.
        """

        async def carried() -> T:
            return action()

        return self._await(carried())

    def carry(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function in the agent's thread, and wait for its result."""
        return self._await(action())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise ClosedError("the agent is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def inner(self) -> Agent:
        """The async agent; to be used inside `call` only."""
        return self._agent

    # ------------------------------------------------------------------------------ state

    def counter(self, name: str) -> Any:
        """The counter of that name."""
        return BlockingDocument(self, self.call(lambda: self._agent.counter(name)))

    def register(self, name: str) -> Any:
        """The last-writer-wins register of that name."""
        return BlockingDocument(self, self.call(lambda: self._agent.register(name)))

    def orset(self, name: str) -> Any:
        """The add-wins set of that name."""
        return BlockingDocument(self, self.call(lambda: self._agent.orset(name)))

    def map(self, name: str) -> Any:
        """The nested add-wins map of that name."""
        return BlockingDocument(self, self.call(lambda: self._agent.map(name)))

    def bounded(self, name: str, minimum: int = 0) -> Any:
        """The quantity of that name and bound; `decrement` returns when it is durable here."""
        return BlockingDocument(self, self.call(lambda: self._agent.bounded(name, minimum)))

    def document(self, name: str, kind: Any) -> Any:
        """The document (name, kind)."""
        return BlockingDocument(self, self.call(lambda: self._agent.document(name, kind)))

    def batch(self, action: Callable[[Agent], T]) -> T:
        """Run `action(agent)` as one batch."""

        def grouped() -> T:
            with self._agent.batch():
                return action(self._agent)

        return self.call(grouped)

    @property
    def id(self) -> str:
        """`name~incarnation`."""
        return self.call(lambda: self._agent.id)

    @property
    def address(self) -> str:
        """Where peers reach this agent."""
        return self._agent.address

    def members(self) -> list[MemberView]:
        """Peers that this agent knows."""
        return self.call(self._agent.members)

    def digest(self) -> bytes:
        """16 bytes that are equal on agents with equal state."""
        return self.call(self._agent.digest)

    # ------------------------------------------------------------------------------ waiting

    def version(self) -> Version:
        """A token for everything this agent has seen."""
        return self.call(self._agent.version)

    def durable(self, token: Version | None = None, timeout_s: float | None = None) -> None:
        """Wait until the token's events are on this disk."""
        self._await(self._agent.durable(token, timeout_s))

    def replicated(self, token: Version, n: int, timeout_s: float | None = None) -> int:
        """Wait until `n` others have them on theirs."""
        return self._await(self._agent.replicated(token, n, timeout_s))

    def stable(self, token: Version, timeout_s: float | None = None) -> int:
        """Wait until every current member has them."""
        return self._await(self._agent.stable(token, timeout_s))

    def seen(self, token: Version, timeout_s: float | None = None) -> None:
        """Wait until another agent's token is covered here."""
        self._await(self._agent.seen(token, timeout_s))

    def read(
        self, name: str, kind: Any, *, at_least: Version, timeout_s: float | None = None
    ) -> Any:
        """The document (name, kind), once it shows everything that `at_least` names."""
        found = self._await(self._agent.read(name, kind, at_least=at_least, timeout_s=timeout_s))
        return BlockingDocument(self, found)

    def watch(self, prefix: str = "", *, after: Version | None = None) -> BlockingWatch:
        """Changes under a prefix, from now on or from where an earlier watch stood."""
        return BlockingWatch(self, self.call(lambda: self._agent.watch(prefix, after=after)))

    # ------------------------------------------------------------------------------ operating

    def quarantine(self) -> dict[str, str]:
        """Origins that are stopped before an event that cannot be applied: origin -> why."""
        return self.call(self._agent.quarantine)

    def skip(self, origin: str) -> None:
        """Give up the event at which `origin` stands in quarantine, wherever it does."""
        self.call(lambda: self._agent.skip(origin))

"""The synchronous twin: the same agent for code that is not async.

Theory of operation. An agent lives in one event loop. From threads, and from code without a loop,
use this: the loop runs in a thread of its own (`loop_thread`), every call is carried to it, and a
caller blocks only itself. What it hands out does the same (`proxy`): documents, children of maps,
iterators, watches. Any number of threads may share one twin and its documents.

    with BlockingAgent("sales", peers=["127.0.0.1:7002"]) as agent:
        agent.counter("stock").increment(5)
        agent.durable(agent.version(), timeout_s=1)

Each method has the signature of the original, because it is made from it. What is different:

* Waiting methods return when the wait is over.
* A batch belongs to the thread that opened it: what other threads write comes before or after it.
  `with twin.batch():` and `batch(f)` group what this thread does with the twin's documents; they
  hold up the agent, for at most `BATCH_S_MAX` seconds: only write inside.
* A function that runs in the agent's thread must not call the twin: `ReentrantCallError`. It gets
  the agent itself.
* `close` frees every thread that waits; a process that ends without it is closed at its end, with a
  ResourceWarning. A forked child is refused: `ForkedError`.
"""

from __future__ import annotations

import inspect
import threading
from functools import partial
from typing import TYPE_CHECKING, Self, SupportsIndex, TypeVar, cast, overload

from crdt import ReadsAsNumber
from replication.agent.agent import Agent, grouped
from replication.agent.bounded import Bounded
from replication.agent.loop_thread import BlockingIterator, awaited, called
from replication.agent.proxy import REFUSALS, AgentThread, BlockingBatch
from replication.errors import ClosedError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from crdt import Kernel
    from replication.agent.vitals import Vitals
    from replication.agent.watch import ChangeEvent, Watch
    from replication.config import Config
    from replication.credentials import Secret
    from replication.journal import Journal
    from replication.protocol import AccessPolicy
    from replication.transport import Transport
    from replication.version import Version

T = TypeVar("T")


class BlockingBounded(ReadsAsNumber):
    """A bounded quantity; `decrement` returns when it is durable here, and so does `-=`."""

    _instead = "`+=` and `-=` write; for a plain number start from `.value`"

    def __init__(self, carrier: AgentThread, inner: Bounded) -> None:
        self._carrier = carrier
        self._inner = inner

    @property
    def value(self) -> int:
        """The quantity as seen from here; never below the bound. O(replicas)."""
        return self._carrier.call(lambda: self._inner.value)

    @property
    def minimum(self) -> int:
        """The bound."""
        return self._carrier.call(lambda: self._inner.minimum)

    def __iadd__(self, amount: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `+`
        self.increment(int(amount) if isinstance(amount, ReadsAsNumber) else amount)
        return self

    def __isub__(self, operand: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `-`
        self.decrement(int(operand) if isinstance(operand, ReadsAsNumber) else operand)
        return self

    __repr__ = called(Bounded.__repr__)
    rights = called(Bounded.rights)
    increment = called(Bounded.increment)
    decrement = awaited(Bounded.decrement)
    transfer = called(Bounded.transfer)
    stranded = called(Bounded.stranded)
    adopt = called(Bounded.adopt)


class BlockingWatch:
    """A subscription that a `for` loop reads; it ends when the agent closes, or by `close`."""

    def __init__(self, carrier: AgentThread, watch: Watch) -> None:
        self._carrier = carrier
        self._watch = watch
        self._events = BlockingIterator(carrier, watch)
        self._after_the_end = threading.Lock()

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
        try:
            return self._events.take(timeout_s)
        except ClosedError:  # its loop has ended: what was queued is still handed out
            with self._after_the_end:
                return self._events.left() or self._watch.queued()

    @property
    def token(self) -> Version:
        """Where to go on after a break, with `watch(prefix, after=token)`."""
        return self._carrier.call(lambda: self._watch.token)

    def close(self) -> None:
        """End it: what is queued is still handed out."""
        self._carrier.wait(self._watch.aclose)


class BlockingAgent:
    """Takes what `Agent` takes, and does what `Agent` does, without `await`, from any thread."""

    def __init__(
        self,
        name: str,
        *,
        listen: str = "127.0.0.1:0",
        peers: Iterable[str] = (),
        hubs: Iterable[str] = (),
        journal: str | Path | Journal | None = None,
        secret: Secret | None = None,
        key: Secret | None = None,
        principals: Mapping[str, Secret] | None = None,
        rules: AccessPolicy | None = None,
        cluster: str = "convoca",
        namespace: str = "default",
        config: Config | None = None,
        transport: Transport | None = None,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        address: str = "",
        seed: int | None = None,
    ) -> None:
        self._make = partial(
            Agent,
            name,
            listen=listen,
            peers=peers,
            hubs=hubs,
            journal=journal,
            secret=secret,
            key=key,
            principals=principals,
            rules=rules,
            cluster=cluster,
            namespace=namespace,
            config=config,
            transport=transport,
            server_tls=server_tls,
            client_tls=client_tls,
            address=address,
            seed=seed,
        )
        self._inner = self._make()
        self._thread: AgentThread | None = None
        self._stopped = False

    def __reduce_ex__(self, _: SupportsIndex) -> str:
        return self._inner.__reduce_ex__(_)

    # ------------------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start the thread, the loop and the agent; raises what `Agent.start` raises."""
        if self._thread is not None and not self._stopped:
            self._carrier.wait(self._inner.start)  # what a second start means is the agent's to say
            return self
        if self._stopped:  # an agent is of one loop, and that one has ended
            self._inner, self._stopped = self._make(), False
        thread = AgentThread(f"agent {self._inner.name!r}", self._inner.close)
        self._thread = thread
        try:
            thread.wait(self._inner.start)
        except BaseException:
            self._stopped = True
            thread.close()
            raise
        return self

    def close(self) -> None:
        """Flush, say goodbye, end the thread; at most 5 s, and who still waits is told so.

        A second call waits for the first. Before the start it does nothing.
        """
        if self._thread is not None:
            self._thread.close()
            self._stopped = True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None and not self._thread.thread.forked:  # that end is the parent's
            self.close()

    @property
    def _carrier(self) -> AgentThread:
        if self._thread is None:
            raise REFUSALS.closed(f"agent {self._inner.name!r}")
        return self._thread

    def call(self, action: Callable[[], T]) -> T:
        """Run `action` in the agent's thread, for what the twin does not offer.

        It sees the async agent (`inner`) without a race; what it returns of it may be kept.
        """
        return self._carrier.call(action)

    def carry(self, action: Callable[[], Awaitable[T]]) -> T:
        """Run `action` in the agent's thread, await what it returns there; the result of that."""

        async def done() -> T:
            return await action()

        return self._carrier.wait(done)

    @property
    def inner(self) -> Agent:
        """The async agent; to be used inside of `call`, `carry` and `batch` only."""
        return self._inner

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._inner.name

    @property
    def config(self) -> Config:
        """The knobs it was given, or the defaults."""
        return self._inner.config

    @property
    def rules(self) -> AccessPolicy:
        """Who may bring and write what."""
        return self._inner.rules

    @property
    def address(self) -> str:
        """Where peers reach this agent; known from `start` on if the port was left open."""
        return self._inner.address

    # ------------------------------------------------------------------------------ state

    counter = called(Agent.counter)
    register = called(Agent.register)
    orset = called(Agent.orset)
    map = called(Agent.map)
    document = called(Agent.document)
    documents = called(Agent.documents)
    delete = called(Agent.delete)

    def bounded(self, name: str, minimum: int = 0) -> BlockingBounded:
        """The quantity of that name that never falls below `minimum`, which is part of its type.

        Its `decrement` returns when it is durable here.
        """
        found = self._carrier.call(self._inner.bounded, name, minimum)
        return BlockingBounded(self._carrier, found)

    @overload
    def batch(self) -> BlockingBatch: ...

    @overload
    def batch(self, action: Callable[[], T]) -> T: ...

    @overload
    def batch(self, action: Callable[[Agent], T]) -> T: ...

    def batch(
        self, action: Callable[[], T] | Callable[[Agent], T] | None = None
    ) -> BlockingBatch | T:
        """Group writes: they travel, apply and are published as one change, anywhere.

        In `with twin.batch():`, what this thread does inside, with this twin and its documents, is
        one batch. Other threads wait meanwhile; waits inside are refused. `batch(f)` is such a
        block around `f()`. If `f` takes an argument, it is the async agent, and `f(agent)` runs in
        the agent's thread: quicker, and the twin is out of its reach.

        Raises:
            BatchTooLargeError: over `batch_bytes_max`.
            BatchExpiredError: the block took over `BATCH_S_MAX` seconds.
            AwaitedBatchError: `f` is not a plain function. Rolled back, in all three cases.
        """
        block = BlockingBatch(self._carrier, self._inner.batch)
        if action is None:
            return block
        if _takes_one(action):
            given = partial(cast("Callable[[Agent], T]", action), self._inner)
            return self._carrier.call(self._inner.batch, given)
        return grouped(block, cast("Callable[[], T]", action))

    @property
    def kernel(self) -> Kernel:
        """The state itself, for reading and for types of your own; carried, like a document."""
        return self._carrier.call(lambda: self._inner.kernel)

    @property
    def id(self) -> str:
        """`name~incarnation`: under this id the agent writes now."""
        return self._carrier.call(lambda: self._inner.id)

    digest = called(Agent.digest)

    # ------------------------------------------------------------------------------ waiting

    version = called(Agent.version)
    durable = awaited(Agent.durable)
    replicated = awaited(Agent.replicated)
    stable = awaited(Agent.stable)
    reached = called(Agent.reached)
    seen = awaited(Agent.seen)
    read = awaited(Agent.read)

    def watch(self, prefix: str = "", *, after: Version | None = None) -> BlockingWatch:
        """Changes under a prefix, from now on or from where an earlier watch stood.

        Bounded: a slow reader gets folded changes, marked `lagged`. Ends when the agent closes.
        """
        return BlockingWatch(
            self._carrier, self._carrier.call(self._inner.watch, prefix, after=after)
        )

    # ------------------------------------------------------------------------------ peers

    members = called(Agent.members)
    lag = called(Agent.lag)
    behind = called(Agent.behind)
    stands = called(Agent.stands)
    meet = called(Agent.meet)
    shares_secret = awaited(Agent.shares_secret)
    retire = called(Agent.retire)
    block = called(Agent.block)
    unblock = called(Agent.unblock)
    blocked = called(Agent.blocked)
    quarantine = called(Agent.quarantine)
    differences = called(Agent.differences)
    skip = called(Agent.skip)

    # ------------------------------------------------------------------------------ measures

    bytes_by_kind = called(Agent.bytes_by_kind)
    counts = called(Agent.counts)

    @property
    def vitals(self) -> Vitals:
        """Delays, queues and arrivals, as measured since the start; carried, like a document."""
        return self._carrier.call(lambda: self._inner.vitals)

    @property
    def has_secret(self) -> bool:
        """Whether its peers and operators have to prove that they know a key."""
        return self._inner.has_secret

    @property
    def journalled(self) -> bool:
        """Whether this agent keeps a journal: whether anything of it can be durable."""
        return self._inner.journalled

    @property
    def read_only(self) -> bool:
        """Whether local writes are refused now, because the journal failed."""
        return self._carrier.call(lambda: self._inner.read_only)

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames sent since the start, without HTTP headers."""
        return self._carrier.call(lambda: self._inner.bytes_sent)

    @property
    def bytes_received(self) -> int:
        """Bytes of frames received since the start, without HTTP headers."""
        return self._carrier.call(lambda: self._inner.bytes_received)


def _takes_one(action: Callable[..., object]) -> bool:
    try:
        inspect.signature(action).bind(None)
    except TypeError:
        return False
    except ValueError:  # of a function that tells nothing about itself
        return True
    return True

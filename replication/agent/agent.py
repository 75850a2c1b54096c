"""The agent: a replica with socket, disk and clock.

Theory of operation. Reads and writes go straight to the kernel of the local replica: they never
wait and never fail because of a peer. An `AgentRuntime` makes them durable and spreads them. A
caller can wait for a *token* (`version()`): durable here, durable on n others, known to everyone.

    async with Agent("sales", listen="127.0.0.1:7001", peers=["127.0.0.1:7002"]) as agent:
        agent.counter("stock/widget").increment(5)
        await agent.durable(agent.version())

A write happened when its mutator returned; a wait changes nothing but what its caller knows.
Conditions are asked after every commit, none of them polls, and each wait that runs out of time
says how far things had got.

What operators decide does not happen by itself. A verdict of the failure detector steers traffic
only; that a member is gone for good, or an event not worth waiting for, is somebody's decision, and
each is refused if it names what this agent does not know. Cutting a peer off is of this agent and
this run; retiring and skipping are for everybody, and never taken back.

*An Agent lives in one event loop; from threads use the twin* (`BlockingAgent`). Writes, batches,
iterations, waits and the making of documents are refused from anywhere else, before they change
anything. A batch is over before anything else runs: see `batch`.

This module is what an author calls. What runs between `start` and `close` is one `AgentRuntime`:
how it is opened and closed, in which order and why, is explained in `runtime`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from functools import partial
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeVar, overload

from crdt import (
    BatchInterruptedError,
    BoundedCounter,
    CRDTError,
    InvalidValueError,
    LWWRegister,
    ORMap,
    ORSet,
    PNCounter,
)
from replication import transport as transports  # its names are loaded where they are used
from replication.addresses import PATH, checked_addresses, split_address
from replication.agent.admin import AdminHandlers, MemberView
from replication.agent.assembly import ReplicaSettings
from replication.agent.bounded import Bounded
from replication.agent.read_only import read_only_view
from replication.agent.runtime import AgentRuntime, despite_cancel
from replication.agent.watch import Watch, missed_since
from replication.config import Config
from replication.errors import (
    AlreadyStartedError,
    AwaitedBatchError,
    ClosedError,
    DocumentNameError,
    ForbiddenWriteError,
    ForkedError,
    MemberAliveError,
    NotYetError,
    UncopyableAgentError,
    UnknownDocumentTypeError,
    UnknownPeerError,
)
from replication.journal import MemoryJournal, SqliteJournal
from replication.options import (
    check_leaves,
    check_reach,
    checked_count,
    checked_kind,
    checked_name,
    checked_text,
    checked_timeout,
    checked_token,
    keyring_of,
)
from replication.protocol import SKIPPED, AccessPolicy, Status, agent_of, is_reserved
from replication.version import Version

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from typing_extensions import TypeVar as DefaultTypeVar  # its `default` is for type checkers

    from crdt import CausalContext, Codec, DocumentType, Kernel
    from replication.agent.vitals import Vitals
    from replication.credentials import Secret
    from replication.journal import Journal
    from replication.protocol import Difference, Reached
    from replication.transport import AdminClient, Application, Transport

NOBODY_MET = (
    "nobody that this agent was told of was met yet; look whether one is there, with the same "
    "cluster and secret: {}"
)
NO_DISKS = "give the others a journal, too; `stable` and `seen` wait for memory as well"

D = TypeVar("D")
R = TypeVar("R")
if TYPE_CHECKING:
    T = DefaultTypeVar("T", default=Any)


class Agent:
    """A named replica that gossips. It lives in one event loop; from threads use the twin.

    The loop is the one that `start` runs in. A call from another thread, loop or forked process is
    refused by WrongThreadError, WrongLoopError or ForkedError, and changed nothing. The exception
    are single looks at a document that was made before: `.value` of a counter, register or flag,
    `x in a_set`, `a_map[key]` of an LWWMap, `len`. They are safe in any thread, show some moment of
    the document, and are refused while a batch is open.

    Args:
        name: 1 to 64 letters, digits, `-`, `_` or `.`; with a random incarnation it makes the id.
        listen: `host:port[/path]`, port 0 for a free one, the one of the last start of its journal
            if that is free; "" to only open exchanges.
        peers: addresses to find the cluster by; one living one is enough.
        hubs: addresses to keep a WebSocket to: over it they reach an agent that cannot be dialled.
        journal: a file path, or None: then the agent is in memory only. It remembers nothing when
            it stops, `durable` is refused, and peers do not count it where they wait for disks.
        secret: required off loopback; a sequence holds (current, previous) for key rotation.
        key: this agent's own key, instead of the secret; it proves the agent's name and no more.
        principals: name -> own key, at a hub: of the agents that have one.
        rules: who may bring and write what; the same on every agent.
        cluster, namespace: frames of others are refused.
        address: where peers reach this agent, if not where it listens (NAT, `mount`).
        seed: fixes the dice of gossip (tests).

    Raises:
        ConfigError: an argument is refused; nothing was started.
    """

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
        # Whatever can be refused is refused here, before a file is made or a port is taken; what is
        # opened, in which order, is the runtime's. The handlers get an agent that is not finished:
        # nobody asks them anything before `start`.
        self.name = checked_name(name)
        for what, text in (("cluster", cluster), ("namespace", namespace)):
            checked_text(what, text)
        for what, text in (("listen", listen), ("address", address)):
            checked_text(what, text, empty=True)
        checked_kind("config", config, Config)
        checked_kind("rules", rules, AccessPolicy)
        checked_kind("seed", seed, int)
        self.config = config or Config()
        self.rules = rules or AccessPolicy()
        keys = keyring_of(secret, key, principals)
        check_leaves(self.rules, keys)
        kept = checked_addresses(hubs)
        if transport is None:
            hosts = [split_address(place)[0] if place else "" for place in (listen, address)]
            check_reach(hosts[0], hosts[1], keys)
            transport = transports.HttpTransport(
                listen,
                self.config,
                server_tls=server_tls,
                client_tls=client_tls,
                admin=AdminHandlers(self),
                keys=keys,
                hubs=kept,
            )
        self._transport = transport
        self._client_tls = client_tls
        self._journal = _journal_of(journal)
        self._given_address = self._address = address
        self._settings = ReplicaSettings(
            cluster=cluster,
            namespace=namespace,
            keys=keys,
            config=self.config,
            rules=self.rules,
            dice=random.Random(seed),  # noqa: S311 - spreads load, guards nothing
            seeds=checked_addresses(peers),
            hubs=kept,
            journalled=journal is not None,
        )
        self._runtime: AgentRuntime | None = None
        self._opening: asyncio.Task[AgentRuntime] | None = None

    def __reduce_ex__(self, _: SupportsIndex) -> str:
        raise UncopyableAgentError(f"agent {self.name!r} cannot be copied")

    # ------------------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Bind the address, open the journal, begin to gossip, in this event loop.

        A cancelled start leaves nothing open. After a close it may be started again: with the state
        of its journal and new watches. If the port was left open, it is the last one, unless
        somebody else has that by now: so agents that are all started again find each other.

        Raises:
            JournalHeldError, JournalUnreadableError, ListenError: nothing was started.
            AlreadyStartedError: it runs, and goes on.
            ClosedError: it was closed while it started; nothing runs.
        """
        if self._opening is not None or not (self._runtime is None or self._runtime.ended):
            raise AlreadyStartedError(f"agent {self.name!r} was started already")
        opening = asyncio.create_task(
            AgentRuntime.open(
                self.name,
                self._settings,
                journal=self._journal,
                transport=self._transport,
                address=self._given_address,
            ),
            name=f"agent {self.name} starts",
        )
        self._opening = opening
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            await self._give_up(opening)
            raise
        finally:
            self._opening = None
        if opening.cancelled():
            raise ClosedError(f"agent {self.name!r} was closed while it started")
        self._runtime = opening.result()
        self._address = self._runtime.address
        return self

    @staticmethod
    async def _give_up(opening: asyncio.Task[AgentRuntime]) -> None:
        """End a start, and wait until nothing of it is left."""
        opening.cancel()
        await despite_cancel(asyncio.ensure_future(asyncio.wait([opening])))
        if not opening.cancelled() and opening.exception() is None:  # it was done by then
            await opening.result().close()

    async def close(self) -> None:
        """Flush, push to two peers what they lack, say goodbye, stop; at most 5 s.

        It is carried through even if the caller is cancelled; a second call waits for the first.
        Who still waits for something gets ClosedError. If the event loop that the agent lives in is
        over, it saves what it can, and lets go of the journal, from any other.

        Raises:
            WrongLoopError, ForkedError: it runs elsewhere, and goes on.
        """
        if self._opening is not None:
            await self._give_up(self._opening)
        elif self._runtime is not None:
            await self._runtime.close()

    def _running(self) -> AgentRuntime:
        """What runs now, for calls from its own loop; ClosedError if nothing does."""
        if self._runtime is None:
            raise ClosedError(f"agent {self.name!r} is not running")
        self._runtime.check_home()
        if not self._runtime.accepts:
            raise self._runtime.refusal()
        return self._runtime

    def _now_s(self) -> float:
        """The time by which this agent lives: that of its event loop."""
        return self._running().now_s()

    def _waiting(self) -> AgentRuntime:
        """What runs now, for calls that wait; BatchOpenError inside a batch."""
        runtime = self._running()
        runtime.check_wait()
        return runtime

    @property
    def address(self) -> str:
        """Where peers reach this agent; known from `start` on if the port was left open."""
        return self._address

    def mount(self, app: Application, path: str = PATH) -> None:
        """Serve peers from an aiohttp application; it starts and closes this agent.

        Give the agent `listen=""` and the `address` at which the application is reached.
        """
        self._transport.mount(app, path, self)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ForkedError):  # a child that leaves the block: it is the parent's
            await self.close()

    # ------------------------------------------------------------------------------ state

    def counter(self, name: str) -> PNCounter:
        """The counter of that name; O(1). Writes are seen here at once."""
        return self.document(name, PNCounter)

    def register(self, name: str, values: Codec[T] | type[T] | None = None) -> LWWRegister[T]:
        """The last-writer-wins register of that name.

        With a type (`agent.register("price", Decimal)`) or a codec it holds values of that type:
        see `crdt.Codec`.
        """
        if values is None:
            plain: type[LWWRegister[T]] = LWWRegister
            return self.document(name, plain)
        return self.document(name, LWWRegister.of(values))

    def orset(self, name: str) -> ORSet:
        """The add-wins set of that name."""
        return self.document(name, ORSet)

    def map(self, name: str) -> ORMap:
        """The nested add-wins map of that name."""
        return self.document(name, ORMap)

    def bounded(self, name: str, minimum: int = 0) -> Bounded:
        """The quantity of that name that never falls below `minimum`, which is part of its type.

        Its `decrement` is awaited: it returns when it is durable here.
        """
        return Bounded(self._view(name, BoundedCounter.at_least(minimum)), self._running)

    def document(self, name: str, kind: type[D] | DocumentType[D]) -> D:
        """The document (name, kind); one name with two types is two documents.

        Raises:
            UnknownDocumentTypeError: `kind` is not a type of `crdt`, or a BoundedCounter, which
                `bounded` gives; nothing was created.

        A document that the rules keep from this agent can be read; its mutators raise
        ForbiddenWriteError.
        """
        if getattr(kind, "type_name", "").startswith(BoundedCounter.__name__):
            hint = f"use agent.bounded({name!r}, minimum): its decrement is awaited"
            raise UnknownDocumentTypeError("a BoundedCounter is bounded() here", hint=hint)
        return self._view(name, kind)

    def documents(self, prefix: str = "") -> list[tuple[str, Any]]:
        """(name, type) of the documents that hold something, in order; of names under a prefix."""
        return [found for found in self.kernel.documents(prefix) if not is_reserved(found[0])]

    def delete(self, prefix: str, *, seen: CausalContext | Mapping[str, int] | None = None) -> int:
        """Reset all documents whose name starts with `prefix`, at once; how many there were.

        What others write concurrently survives, and only that, as in every type that can forget;
        with `seen` (a context or vector, taken before thinking) so does what that does not cover.

        Raises:
            DeletionRefusedError: a bounded quantity is among them.
            ForbiddenWriteError: the rules keep this agent from writing one of them.
            InvalidValueError: an empty prefix. Nothing changed, in all three cases.
        """
        self._running()
        names = [name for name, _ in self.kernel.documents(prefix)]
        for name in names:
            if is_reserved(name) or not self.rules.may_write(self.name, name):
                raise ForbiddenWriteError(f"{name!r} is not {self.name}'s to delete")
        self.kernel.delete(prefix, seen=seen)
        return len(names)

    def _view(self, name: str, kind: type[D] | DocumentType[D]) -> D:
        if not isinstance(name, str):
            raise DocumentNameError(f"a document's name is text, not {name!r:.80}")
        if not hasattr(kind, "attach"):
            raise UnknownDocumentTypeError(f"{kind!r:.80} is not a document type")
        why = f"{name!r} is not {self.name}'s to write"
        try:
            if is_reserved(name) or not self.rules.may_write(self.name, name):
                return read_only_view(self.kernel, name, kind, why)
            return self.kernel.document(name, kind)
        except BatchInterruptedError:
            raise
        except InvalidValueError as error:
            raise DocumentNameError(str(error)) from error
        except (AttributeError, CRDTError, TypeError) as error:
            raise UnknownDocumentTypeError(f"{kind!r:.80} is not a document type") from error

    @overload
    def batch(self) -> AbstractContextManager[object]: ...

    @overload
    def batch(self, action: Callable[[], R]) -> R: ...

    def batch(self, action: Callable[[], R] | None = None) -> AbstractContextManager[object] | R:
        """Group writes: they travel, apply and are published as one change, anywhere.

            agent.batch(write)  # `write` is a plain function without arguments

        calls it, and returns its result; what it wrote is one batch, and nothing of it if it
        raises. For a few lines there is `with agent.batch():`, around a block without `await`. A
        batch belongs to its task, and is over before anything else runs: if the task is suspended
        inside, whoever comes to the state next rolls it back first. The same holds for the
        `batch()` of a document.

        Raises:
            BatchTooLargeError: over `batch_bytes_max`.
            BatchInterruptedError: it was held over a suspension.
            AwaitedBatchError: `write` is asynchronous, or a generator. Each time all of it was
                rolled back, and nothing changed.
        """
        self._running()
        batch = self.kernel.batch()
        if action is None:
            return batch
        return grouped(batch, action)

    @property
    def kernel(self) -> Kernel:
        """The state itself, for reading and for types of your own.

        It can be read after the close, too; ClosedError before the start.
        """
        runtime = self._started()
        runtime.check_home()
        return runtime.replica.kernel

    def _started(self) -> AgentRuntime:
        """What runs, or ran last."""
        if self._runtime is None:
            raise ClosedError(f"agent {self.name!r} was not started")
        return self._runtime

    @property
    def id(self) -> str:
        """`name~incarnation`: under this id the agent writes now."""
        return self._started().replica.id

    def digest(self) -> bytes:
        """16 bytes that are equal on agents with equal state; O(state) when it changed."""
        return self._settled().digest()

    def _settled(self) -> Kernel:
        """The state, without what somebody else's open batch wrote."""
        kernel = self.kernel
        kernel.admit()
        return kernel

    # ------------------------------------------------------------------------------ waiting

    def version(self) -> Version:
        """A token for everything this agent has seen, its own writes included."""
        return Version(self._settled().vector)

    async def durable(self, token: Version | None = None, timeout_s: float | None = None) -> None:
        """Wait until the events of `token` (default: of now) are on this disk.

        Raises:
            NoJournalError: this agent has no disk: it was started without a journal.
            JournalFailedError: it failed; the writes stay visible here and are retried.
            NotYetError: the time ran out; not a rollback.
            BatchOpenError: inside a batch, which is durable after its end; so for all waits.
        """
        runtime = self._waiting()
        wanted = self.version() if token is None else checked_token(token)
        await runtime.durable(wanted, checked_timeout(timeout_s))

    async def replicated(self, token: Version, n: int, timeout_s: float | None = None) -> int:
        """Wait until `n` other agents have the events of `token` on their disks; how many have.

        An agent without a journal has no disk and is not counted; `reached` tells of it, too.

        Raises:
            NotYetError: the time ran out; not a rollback.
        """
        checked_count(n)
        members = self._running().replica.members
        done, reached = await self._spread(token, n, timeout_s)
        if done:
            return reached.on_disk
        known = len(members.current())
        memory = f", {reached.in_memory} more in memory only" if reached.in_memory else ""
        few = f"; it knows {known} others in all" if known < n else ""
        raise NotYetError(
            f"replicated: {reached.on_disk} of {n} others have it on disk{memory} after "
            f"{timeout_s:g} s{few}; the write stands",
            reached=reached.on_disk,
            wanted=n,
            in_memory=reached.in_memory,
            hint=NO_DISKS if reached.members >= n else None,
        )

    async def stable(self, token: Version, timeout_s: float | None = None) -> int:
        """Wait until every current member, dead ones included, has the events of `token`.

        On its disk, if it keeps a journal, else in its memory; how many have.
        """
        replica = self._running().replica
        done, reached = await self._spread(token, None, timeout_s)
        if done:
            return reached.members
        everyone = len(replica.members.current())
        if unmet := replica.waits.unmet:
            everyone = max(everyone, 1)
        raise NotYetError(
            f"stable: {reached.members} of {everyone} others have it after {timeout_s:g} s; "
            "the write stands",
            reached=reached.members,
            wanted=everyone,
            in_memory=reached.in_memory,
            hint=NOBODY_MET.format(", ".join(replica.scheduler.seeds)) if unmet else None,
        )

    def reached(self, token: Version) -> Reached:
        """How many others said by now that they have the events of `token`: on disk, in memory.

        O(members x origins).
        """
        acknowledgements = self._running().replica.acknowledgements
        return acknowledgements.reached(checked_token(token).vector)

    async def _spread(
        self, token: Version, copies: int | None, timeout_s: float | None
    ) -> tuple[bool, Reached]:
        """Wait until so many others, or all, said that they have a token's events; who has."""
        runtime = self._waiting()
        vector = checked_token(token).vector
        checked_timeout(timeout_s)
        waits = runtime.replica.waits
        if waits.unmet:
            runtime.replica.scheduler.hurry(self._now_s())
        wait = waits.begin(vector, copies)
        try:
            done = await runtime.until(partial(waits.over, wait), timeout_s)
        finally:
            waits.end(wait)
        return done, runtime.replica.acknowledgements.reached(vector)

    async def seen(self, token: Version, timeout_s: float | None = None) -> None:
        """Wait until this agent has a `token's` events; else NotYetError with what is `missing`."""
        runtime = self._waiting()
        replica = runtime.replica
        checked_token(token)
        checked_timeout(timeout_s)
        replica.scheduler.hurry(self._now_s())

        def lacks() -> dict[str, int]:
            return token.beyond(Version(replica.kernel.vector))

        if not await runtime.until(lambda: not lacks(), timeout_s):
            missing = lacks()
            events = ", ".join(f"{count} of {origin}" for origin, count in missing.items())
            raise NotYetError(
                f"seen: events lacked here after {timeout_s:g} s: {events}",
                reached=0,
                wanted=1,
                missing=missing,
            )

    async def read(
        self,
        name: str,
        kind: type[D] | DocumentType[D],
        *,
        at_least: Version,
        timeout_s: float | None = None,
    ) -> D:
        """The document (name, kind), once it shows everything that `at_least` names.

        A session guarantee in one call: pass on the token of the last write or read, and no agent
        of the cluster shows you an older state (read-your-writes, monotonic reads).

        Raises:
            NotYetError: `missing` did not come in time; `document` shows what is here.
        """
        await self.seen(at_least, timeout_s)
        return self.document(name, kind)

    # ------------------------------------------------------------------------------ watching

    def watch(self, prefix: str = "", *, after: Version | None = None) -> Watch:
        """Changes of documents whose name starts with `prefix`, from now on, whole batches.

        Bounded: a slow reader gets folded changes, marked `lagged`. Ends when the agent closes.
        With `after` - the `token` of an earlier watch, of any agent - it begins with one folded
        event, cause "resume", for what changed since; what is not durable yet may come again.
        """
        if after is not None:
            checked_token(after)
        kernel = self._settled()
        missed = None if after is None else missed_since(kernel, after.vector, prefix)
        now = self.version()
        return self._started().watchers.watch(prefix, after or now, now, missed)

    # ------------------------------------------------------------------------------ peers

    def operator(self, address: str, timeout_s: float = 2.0) -> AdminClient:
        """What asks another agent as an operator, by this agent's cluster secret.

        For who shows a team to people: a look at somebody else's state makes nobody know more.
        Values leave a machine by TLS only: by `client_tls`, with which this agent dials its peers.
        """
        return transports.AdminClient(
            address, self._settings.keys.cluster, timeout_s, self._client_tls
        )

    def members(self) -> list[MemberView]:
        """Peers that this agent knows, gone ones included; O(members)."""
        replica = self._running().replica
        return [MemberView.of(m, self._now_s()) for m in replica.members.everyone()]

    def lag(self) -> dict[str, int]:
        """Per current member: events of this agent's state that it is not known to have.

        Whoever seems to lack some is asked: a look a round trip later shows what is so now.
        """
        runtime = self._running()
        replica, vector = runtime.replica, runtime.replica.kernel.vector
        lag = replica.acknowledgements.lag(vector)
        if any(lag.values()) and replica.waits.look(vector, runtime.now_s()):
            runtime.call(replica.flush)
        return lag

    def behind(self) -> dict[str, tuple[int, float]]:
        """Per origin that peers know more of: (events lacked here, seconds since the first)."""
        replica = self._running().replica
        return replica.behind.lag(replica.kernel.vector, self._now_s())

    def stands(self) -> dict[str, int]:
        """Per current member: up to which of this agent's own events it has on its disk."""
        replica = self._running().replica
        peer, own = replica.peers.peer, self.id
        return {m.replica: peer(m.replica).known.get(own, 0) for m in replica.members.current()}

    @property
    def vitals(self) -> Vitals:
        """Delays, queues and arrivals, as measured since the start."""
        return self._running().vitals

    def meet(self, peers: Iterable[str]) -> None:
        """Look for the cluster at these addresses as well, as at the `peers` it was made with.

        Raises:
            ConfigError: one is no address; nothing changed.
        """
        scheduler = self._running().replica.scheduler
        more = set(checked_addresses(peers)) - {*scheduler.seeds, self.address}
        if more:
            scheduler.seeds += tuple(sorted(more))
            scheduler.hurry(self._now_s())

    async def shares_secret(self, address: str, timeout_s: float = 1.0) -> bool | None:
        """Whether the agent at an address holds the same secret; None if nobody there says.

        To gossip a peer with another secret is out of reach, as one that does not run.
        """
        keys = self._settings.keys.cluster or self._settings.keys.own
        return await transports.AdminClient(
            address, keys, timeout_s, self._client_tls
        ).shares_secret()

    def retire(self, peer: str) -> None:
        """Declare a member gone for good (a name, id or address): `stable` waits no longer.

        Should it live all the same, it says so, and is a member again. Of several namesakes those
        that live are left alone.

        Raises:
            UnknownPeerError: nobody is known so.
            MemberAliveError: all that are known so live.
            ForbiddenWriteError: by the rules this agent is a leaf, whom nobody would believe.
                Nothing changed, in all three cases.
        """
        runtime = self._running()
        found = runtime.replica.members.find(peer)
        if not found:
            raise self._unknown(peer)
        if not self.rules.may_relay(self.name):
            raise ForbiddenWriteError(f"the rules do not let {self.name} speak for others")
        cut_off = runtime.replica.exchanges.is_blocked
        gone = [m for m in found if m.status is not Status.ALIVE or cut_off(m.replica)]
        if not gone:
            raise MemberAliveError(found[0].replica)
        for member in gone:
            leave = partial(runtime.replica.leave, status=Status.RETIRED, who=member.replica)
            runtime.call(leave)

    def block(self, peer: str) -> None:
        """Cut this agent off from a peer (a name, id or address), both ways, until `unblock`.

        For maintenance and fault injection: exchanges fail as if the network were partitioned. An
        agent that is cut off by its name stays so under the ids that it takes later.

        Raises:
            UnknownPeerError: it is neither a member nor an address to find the cluster by.
        """
        replica = self._running().replica
        if not replica.members.find(peer) and peer not in replica.scheduler.seeds:
            raise self._unknown(peer)
        replica.exchanges.blocked.add(peer)

    def unblock(self, peer: str) -> None:
        """End a `block`, by any name of the peer: the one given to it, or another.

        Raises:
            UnknownPeerError: nothing that is blocked is called so.
        """
        replica = self._running().replica
        found = replica.members.find(peer)
        names = {peer, *(name for m in found for name in (m.replica, m.address, m.name))}
        healed = replica.exchanges.blocked & names
        if not healed:
            blocked = ", ".join(self.blocked()) or "nobody"
            raise UnknownPeerError(f"{peer!r} is not blocked", hint=f"blocked: {blocked}")
        replica.exchanges.blocked -= healed
        replica.scheduler.hurry(self._now_s())

    def _unknown(self, peer: object) -> UnknownPeerError:
        """An error that says who is known."""
        known = ", ".join(sorted({member.name for member in self.members()})) or "nobody yet"
        return UnknownPeerError(f"{peer!r} is not a known member", hint=f"known: {known}")

    def blocked(self) -> list[str]:
        """Peers that this agent is cut off from by `block`, as they were named."""
        return sorted(self._running().replica.exchanges.blocked)

    def quarantine(self) -> dict[str, str]:
        """Origins that are stopped before an event that cannot be applied: origin -> why."""
        stopped = {}
        for origin, held in self._running().replica.gossip.intake.quarantine.items():
            first, last = held.span
            stopped[origin] = f"{first}-{last}: {held.why}"
        return stopped

    def differences(self) -> dict[str, Difference]:
        """Peers that heard the same as this agent and hold something else: peer -> what is known.

        As of the last comparison with each. An agent mends what it can by itself; what stays here
        names in `contradicted` the dots that stand for two different entries.
        """
        return self._running().replica.differences()

    def skip(self, origin: str) -> None:
        """Give up the event at which `origin` stands in quarantine, here and everywhere.

        The decision is a local write: journalled, gossiped, and never taken back. What followed the
        event goes on; what it said is void everywhere, and what it replaced is not restored.

        Raises:
            UnknownPeerError: that origin is not in quarantine here.
            ForbiddenWriteError: the rules keep this agent from writing something.
            JournalFailedError: this agent is read-only. Nothing changed, in all three cases.
        """
        replica = self._running().replica
        if origin not in replica.gossip.intake.quarantine:
            raise UnknownPeerError(f"{origin!r} is not in quarantine")
        name = agent_of(replica.id)
        if not self.rules.may_write(name, SKIPPED):
            raise ForbiddenWriteError(f"the rules do not let {name} take back what others wrote")
        replica.skip(origin)

    @property
    def has_secret(self) -> bool:
        """Whether its peers and operators have to prove that they know a key."""
        return bool(self._settings.keys)

    @property
    def journalled(self) -> bool:
        """Whether this agent keeps a journal: whether anything of it can be durable."""
        return self._settings.journalled

    @property
    def read_only(self) -> bool:
        """Whether local writes are refused now: the journal failed, or the agent's loop ended."""
        return self._started().failure is not None

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames sent since the start, without HTTP headers."""
        return self._transport.traffic.sent

    @property
    def bytes_received(self) -> int:
        """Bytes of frames received since the start, without HTTP headers."""
        return self._transport.traffic.received

    def bytes_by_kind(self) -> dict[tuple[str, str], int]:
        """(direction, kind of message) -> bytes of frames; refused ones are left out."""
        return dict(self._running().replica.exchanges.wire.bytes_by_kind)

    def counts(self) -> dict[str, int]:
        """How often what happened: exchanges, deltas by outcome, refusals by code."""
        counts, traffic = dict(self._running().replica.counts), self._transport.traffic
        for kind, more in (
            ("refused:unauthenticated", traffic.unauthenticated),
            ("refused-by-peer:unauthenticated", traffic.turned_away),
        ):
            if more:
                counts[kind] = counts.get(kind, 0) + more
        return counts


def _journal_of(given: Any) -> Journal:
    """What an agent is given as its journal: nothing, one of one's own, or the path of a file."""
    if given is None:
        return MemoryJournal()
    return given if hasattr(given, "append") and hasattr(given, "open") else SqliteJournal(given)


def grouped(batch: AbstractContextManager[object], action: Callable[[], R]) -> R:
    """Call a plain function inside of a batch; AwaitedBatchError if it is not one."""
    if inspect.isgeneratorfunction(action) or inspect.isasyncgenfunction(action):
        raise AwaitedBatchError(action)
    with batch:
        result = action()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise AwaitedBatchError(action)
    return result

"""The agent: a replica with a body - socket, disk and clock.

Theory of operation. Reads and writes go straight to the kernel of the local replica: they never
wait and never fail because of a peer. A `Driver` makes them durable and spreads them. What a caller
can wait for is a *token* (`version()`): durable here, durable on n others, known to everyone.

    async with Agent("sales", listen="127.0.0.1:7001", peers=["127.0.0.1:7002"]) as agent:
        agent.counter("stock/widget").increment(5)
        await agent.durable(agent.version())

What it consists of, and how it starts and stops, is in `body`; this module is what an author calls.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from crdt import BoundedCounter, CRDTError, LWWRegister, ORMap, ORSet, PNCounter
from replication.agent import operating, waiting
from replication.agent.admin import Console
from replication.agent.bounded import Bounded
from replication.agent.member_view import MemberView
from replication.agent.read_only import barred
from replication.agent.runtime import Body
from replication.agent.watch import Watch, Watchers, missed_since
from replication.config import Config
from replication.errors import UnknownDocumentTypeError
from replication.journal.memory import MemoryJournal
from replication.journal.sqlite import SqliteJournal
from replication.options import check_reach, checked_name, keyring_of
from replication.protocol import standing
from replication.protocol.rules import Rules
from replication.transport.base import PATH, split_address
from replication.transport.http import HttpTransport, checked_addresses
from replication.version import Version

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager

    from crdt import DocumentType, Kernel
    from replication.agent.vitals import Vitals
    from replication.journal.base import Journal
    from replication.options import Secret
    from replication.transport.base import Transport
    from replication.transport.http import Application

D = TypeVar("D", covariant=True)  # noqa: PLC0105 - a private name


class Agent:
    """A named replica that gossips.

    Args:
        name: 1 to 64 letters, digits, `-`, `_` or `.`; with a random incarnation it makes the id.
        listen: `host:port[/path]`, port 0 for a free one, "" to only open exchanges.
        peers: addresses to find the cluster by; one living one is enough.
        hubs: addresses to keep a WebSocket to: over it they reach an agent that cannot be dialled.
        journal: a file path, or None: then the agent remembers nothing when it stops.
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
        rules: Rules | None = None,
        cluster: str = "convoca",
        namespace: str = "default",
        config: Config | None = None,
        transport: Transport | None = None,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        address: str = "",
        seed: int | None = None,
    ) -> None:
        self.name = checked_name(name)
        self.config = config or Config()
        self.rules = rules or Rules()
        keys = keyring_of(secret, key, principals)
        kept = checked_addresses(hubs)
        if transport is None:
            hosts = [split_address(place)[0] if place else "" for place in (listen, address)]
            check_reach(hosts[0], hosts[1], keys)
            transport = HttpTransport(
                listen,
                self.config,
                server_tls=server_tls,
                client_tls=client_tls,
                desk=Console(self),
                keys=keys,
                hubs=kept,
            )
        self._transport = transport
        self._watchers = Watchers(self.config.subscription_events_max)
        if isinstance(journal, str | Path):
            journal = SqliteJournal(journal)
        self._body = Body(
            name=self.name,
            journal=journal or MemoryJournal(),
            transport=transport,
            config=self.config,
            cluster=cluster,
            namespace=namespace,
            keys=keys,
            rules=self.rules,
            dice=random.Random(seed),  # noqa: S311 - spreads load, guards nothing
            peers=checked_addresses(peers),
            hubs=kept,
            address=address,
            publish=self._watchers.publish,
            stopped=self._watchers.close,
        )

    # ------------------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Bind the address, open the journal, begin to gossip.

        Raises:
            JournalHeldError, JournalUnreadableError, ListenError: nothing was started.
        """
        await self._body.start()
        return self

    async def close(self) -> None:
        """Flush, push to two peers what they lack, say goodbye, stop; at most `close_timeout_s`.

        It is carried through even if the caller is cancelled; a second call waits for the first.
        """
        await self._body.close()

    @property
    def address(self) -> str:
        """Where peers reach this agent; known from `start` on if the port was left open."""
        return self._body.address

    def mount(self, app: Application, path: str = PATH) -> None:
        """Serve peers from an aiohttp application; it starts and closes this agent.

        Give the agent `listen=""` and the `address` at which the application is reached.
        """
        self._transport.mount(app, path, self)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------ state

    def counter(self, name: str) -> PNCounter:
        """The counter of that name; O(1). Writes are seen here at once."""
        return self.document(name, PNCounter)

    def register(self, name: str) -> LWWRegister:
        """The last-writer-wins register of that name."""
        return self.document(name, LWWRegister)

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
        return Bounded(self._view(name, BoundedCounter.at_least(minimum)), self._body.running)

    def document(self, name: str, kind: DocumentType[D]) -> D:
        """The document (name, kind); one name with two types is two documents.

        Raises:
            UnknownDocumentTypeError: `kind` is no type of `crdt`, or a BoundedCounter, which is to
                be had by `bounded`; nothing was created.

        A document that the rules keep from this agent can be read; its mutators raise
        ForbiddenWriteError.
        """
        if getattr(kind, "type_name", "").startswith(BoundedCounter.__name__):
            hint = f"use agent.bounded({name!r}, minimum): its decrement is awaited"
            raise UnknownDocumentTypeError("a BoundedCounter is bounded() here", hint=hint)
        return self._view(name, kind)

    def _view(self, name: str, kind: DocumentType[D]) -> D:
        why = f"{name!r} is not {self.name}'s to write"
        try:
            if not self.rules.may_write(self.name, name):
                return barred(self.kernel, name, kind, why)
            return self.kernel.document(name, kind)
        except (AttributeError, CRDTError, TypeError) as error:
            raise UnknownDocumentTypeError(f"{kind!r} is no document type") from error

    def batch(self) -> AbstractContextManager[object]:
        """Group writes: they travel, apply and are published as one change, anywhere.

        Nothing else happens in this agent meanwhile, so do not wait for peers inside. The same
        holds for the `batch()` of a document.

        Raises:
            BatchTooLargeError: over `batch_bytes_max`; rolled back, nothing changed.
        """
        self._body.running()
        return self.kernel.batch()

    @property
    def kernel(self) -> Kernel:
        """The state itself, for reading and for types of your own."""
        return self._body.kernel

    @property
    def id(self) -> str:
        """`name~incarnation`: under this id the agent writes now."""
        return self.kernel.replica

    def digest(self) -> bytes:
        """16 bytes that are equal on agents with equal state; O(state) when it changed."""
        return self.kernel.digest()

    # ------------------------------------------------------------------------------ waiting

    def version(self) -> Version:
        """A token for everything this agent has seen, its own writes included."""
        return Version(dict(self.kernel.vector))

    async def durable(self, token: Version | None = None, timeout_s: float | None = None) -> None:
        """Wait until the events of `token` (default: of now) are on this disk.

        Raises:
            JournalFailedError: it failed; the writes stay visible here and are retried.
            NotYetError: the time ran out; not a rollback.
        """
        await waiting.durable(*self._body.running(), token or self.version(), timeout_s)

    async def replicated(self, token: Version, n: int, timeout_s: float | None = None) -> int:
        """Wait until `n` other agents have the events of `token` on their disks; how many have.

        Raises:
            NotYetError: the time ran out; not a rollback.
        """
        return await waiting.spread(
            *self._body.running(), token, wanted=lambda: n, what="replicated", timeout_s=timeout_s
        )

    async def stable(self, token: Version, timeout_s: float | None = None) -> int:
        """Wait until every current member, dead ones included, has the events of `token`."""
        running = self._body.running()
        everyone = running[1].members.current
        return await waiting.spread(
            *running, token, wanted=lambda: len(everyone()), what="stable", timeout_s=timeout_s
        )

    async def seen(self, token: Version, timeout_s: float | None = None) -> None:
        """Wait until this agent has a `token's` events; else NotYetError with what is `missing`."""
        await waiting.seen(*self._body.running(), token, timeout_s)

    async def read(
        self, name: str, kind: DocumentType[D], *, at_least: Version, timeout_s: float | None = None
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
        missed = None if after is None else missed_since(self.kernel, after.vector, prefix)
        now = self.version()
        return self._watchers.watch(prefix, after or now, now, missed)

    # ------------------------------------------------------------------------------ peers

    def members(self) -> list[MemberView]:
        """Peers that this agent knows, gone ones included; O(members)."""
        replica = self._body.running()[1]
        return [MemberView.of(m, time.monotonic()) for m in replica.members.everyone()]

    def lag(self) -> dict[str, int]:
        """Per current member: events of this agent's state that it is not known to have."""
        replica = self._body.running()[1]
        return standing.lag(replica.members, replica.eager, replica.kernel.vector)

    def behind(self) -> dict[str, tuple[int, float]]:
        """Per origin that peers told more of: (events lacked here, seconds since the first)."""
        replica = self._body.running()[1]
        return replica.behind.lag(replica.kernel.vector, time.monotonic())

    def stands(self) -> dict[str, int]:
        """Per current member: up to which of this agent's own events it told to have durably."""
        replica = self._body.running()[1]
        peer, own = replica.eager.peer, self.id
        return {m.replica: peer(m.replica).known.get(own, 0) for m in replica.members.current()}

    @property
    def vitals(self) -> Vitals:
        """Delays, queues and arrivals, as measured since the start."""
        return self._body.running()[0].vitals

    def retire(self, peer: str) -> None:
        """Declare a member gone for good (a name, id or address): `stable` waits no longer.

        Should it return, it takes a new incarnation. UnknownPeerError if nobody is known so.
        """
        operating.retire(*self._body.running(), peer)

    def block(self, peer: str) -> None:
        """Cut this agent off from a peer (a name, id or address), both ways, until `unblock`.

        For maintenance and fault injection: exchanges fail as if the network were partitioned.
        """
        self._body.running()[1].exchanges.blocked.add(peer)

    def unblock(self, peer: str) -> None:
        """End a `block`, with the very string given to it; UnknownPeerError if there is none."""
        operating.unblock(self._body.running()[1], peer, time.monotonic())

    def blocked(self) -> list[str]:
        """Peers that this agent is cut off from by `block`, as they were named."""
        return sorted(self._body.running()[1].exchanges.blocked)

    def quarantine(self) -> dict[str, str]:
        """Origins that are stopped before an event that cannot be applied: origin -> why."""
        return operating.quarantine(self._body.running()[1])

    def skip(self, origin: str) -> None:
        """Give up the event at which `origin` stands in quarantine, here and everywhere.

        The decision is a local write: journalled, gossiped, and never taken back. What followed the
        event goes on; what it said is void everywhere, and what it replaced is not restored.

        Raises:
            UnknownPeerError: that origin is not in quarantine here.
            ForbiddenWriteError: the rules keep this agent from writing something.
            JournalFailedError: this agent is read-only. Nothing changed, in all three cases.
        """
        operating.skip(self._body.running()[1], origin)

    @property
    def read_only(self) -> bool:
        """Whether local writes are refused now, because the journal failed."""
        return self._body.running()[0].failure is not None

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
        return dict(self._body.running()[1].exchanges.wire.bytes_by_kind)

    def counts(self) -> dict[str, int]:
        """How often what happened: exchanges, deltas by outcome, refusals by code."""
        return dict(self._body.running()[1].counts)

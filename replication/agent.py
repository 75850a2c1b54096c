"""The agent: a replica with a body - socket, disk and clock.

Theory of operation. Reads and writes go straight to the kernel of the local replica: they never
wait and never fail because of a peer. A `Driver` makes them durable and spreads them. What a caller
can wait for is a *token* (`version()`): durable here, durable on n others, known to everyone.

    async with Agent("sales", listen="127.0.0.1:7001", peers=["127.0.0.1:7002"]) as agent:
        agent.counter("stock/widget").increment(5)
        await agent.durable(agent.version())

This module reads the clocks: monotonic seconds for the machine, wall milliseconds for the stamps of
the kernel (which order only what is concurrent).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets as tokens
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from crdt import LWWRegister, ORMap, ORSet, PNCounter
from crdt.errors import CRDTError
from replication.assembly import assemble
from replication.config import Config
from replication.console import Console
from replication.driver import Driver
from replication.errors import (
    ClosedError,
    NotYetError,
    UnknownDocumentTypeError,
    UnknownPeerError,
)
from replication.journal.base import Journal, boot
from replication.journal.memory import MemoryJournal
from replication.journal.sqlite import SqliteJournal
from replication.member_view import MemberView
from replication.options import check_reach, checked_name, keys_of
from replication.protocol.messages import Status
from replication.protocol.wire import BOOT_BYTES
from replication.transport.base import PATH, split_address
from replication.transport.http import HttpTransport
from replication.version import Version
from replication.watching import Watch, Watchers

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from crdt import Kernel
    from crdt.store import DocumentType
    from replication.protocol.replica import Replica
    from replication.transport.base import Transport
    from replication.transport.http import Application
    from replication.vitals import Vitals

D = TypeVar("D", covariant=True)  # noqa: PLC0105 - a private name


class Agent:
    """A named replica that gossips.

    Args:
        name: 1 to 64 letters, digits, `-`, `_` or `.`; with a random incarnation it makes the id.
        listen: `host:port[/path]`, port 0 for a free one, "" to only open exchanges.
        peers: addresses to find the cluster by; one living one is enough.
        journal: a file path, or None: then the agent remembers nothing when it stops.
        secret: required off loopback; a sequence holds (current, previous) for key rotation.
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
        journal: str | Path | Journal | None = None,
        secret: str | bytes | Sequence[str | bytes] | None = None,
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
        self._peers = [peer for peer in peers if peer and split_address(peer)]
        self._secrets = keys_of(secret)
        if transport is None:
            hosts = [split_address(place)[0] if place else "" for place in (listen, address)]
            check_reach(hosts[0], hosts[1], self._secrets)
        self._journal: Journal = (
            SqliteJournal(journal)
            if isinstance(journal, str | Path)
            else journal or MemoryJournal()
        )
        self._transport: Transport = transport or HttpTransport(
            listen,
            self.config,
            server_tls=server_tls,
            client_tls=client_tls,
            desk=Console(self),
            keys=self._secrets,
        )
        self._cluster, self._namespace = cluster, namespace
        self._dice = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self._driver: Driver | None = None
        self._replica: Replica | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._watchers = Watchers(self.config.subscription_events_max)
        self.address = address

    # ------------------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Open the journal, bind the address, begin to gossip.

        Raises:
            JournalHeldError, JournalUnreadableError, ListenError: nothing was started.
        """
        self._closing = None
        fresh = f"{self.name}~{tokens.token_hex(8)}"
        booted = await asyncio.to_thread(boot, self._journal, fresh, _wall_ms)
        try:
            bound = await self._transport.listen(self._serve)
            self.address = self.address or bound
        except BaseException:
            await self._transport.close()
            self._journal.close()
            raise
        self._replica = assemble(
            booted,
            cluster=self._cluster,
            namespace=self._namespace,
            secrets=self._secrets,
            boot=tokens.token_bytes(BOOT_BYTES),
            config=self.config,
            dice=self._dice,
            address=self.address,
            now_s=time.monotonic(),
            seeds=self._peers,
        )
        self._driver = Driver(
            self._replica,
            self._journal,
            self._transport,
            config=self.config,
            now_s=time.monotonic,
            publish=self._watchers.publish,
            lease=booted.lease,
            wall_ms=_wall_ms,
        )
        booted.kernel.before_write = self._writable
        self._loop_task = asyncio.create_task(self._driver.run(), name=f"agent {self.name}")
        return self

    async def close(self) -> None:
        """Flush, push to two peers what they lack, say goodbye, stop; at most `close_timeout_s`.

        It is carried through even if the caller is cancelled; a second call waits for the first.
        """
        if self._closing is None and self._driver is not None:
            self._closing = asyncio.create_task(self._close(), name=f"agent {self.name} closes")
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        driver, replica, task = self._driver, self._replica, self._loop_task
        if driver is None or replica is None or task is None:
            return
        self._driver = None
        half_s = self.config.close_timeout_s / 2
        with contextlib.suppress(Exception):
            await driver.until(lambda: replica.durable == dict(replica.kernel.vector), half_s)
        driver.call(replica.part)
        await driver.settle(half_s / 2)
        driver.call(replica.leave)
        await driver.settle(half_s / 2)
        driver.stop()
        await task
        self._watchers.close()  # before the transport: streams of changes end in order
        await self._transport.close()
        await driver.release()

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

    def document(self, name: str, kind: DocumentType[D]) -> D:
        """The document (name, kind); one name with two types is two documents.

        Raises:
            UnknownDocumentTypeError: `kind` is no type of `crdt`; nothing was created.
        """
        try:
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
        self._running()
        return self.kernel.batch()

    @property
    def kernel(self) -> Kernel:
        """The state itself, for reading and for types of your own."""
        if self._replica is None:
            raise ClosedError(f"agent {self.name!r} was not started")
        return self._replica.kernel

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
        driver, replica = self._running()
        want = token or self.version()
        if not await driver.until(lambda: want <= Version(replica.durable), timeout_s):
            raise NotYetError("durable", reached=0, wanted=1)

    async def replicated(self, token: Version, n: int, timeout_s: float | None = None) -> int:
        """Wait until `n` other agents have the events of `token` on their disks; how many have.

        Raises:
            NotYetError: the time ran out; not a rollback.
        """
        return await self._spread_to(token, lambda: n, "replicated", timeout_s)

    async def stable(self, token: Version, timeout_s: float | None = None) -> int:
        """Wait until every current member, dead ones included, has the events of `token`."""
        _, replica = self._running()
        everyone = replica.members.current
        return await self._spread_to(token, lambda: len(everyone()), "stable", timeout_s)

    async def seen(self, token: Version, timeout_s: float | None = None) -> None:
        """Wait until this agent has the events of another's `token`; NotYetError in vain."""
        driver, replica = self._running()
        replica.hurry(time.monotonic())
        if not await driver.until(lambda: token <= self.version(), timeout_s):
            raise NotYetError("seen", reached=0, wanted=1)

    async def _spread_to(
        self, token: Version, wanted: Callable[[], int], what: str, timeout_s: float | None
    ) -> int:
        driver, replica = self._running()
        replica.hurry(time.monotonic())

        def reached() -> int:
            return replica.holders(token.vector)

        if not await driver.until(lambda: reached() >= wanted(), timeout_s):
            raise NotYetError(what, reached=reached(), wanted=wanted())
        return reached()

    # ------------------------------------------------------------------------------ watching

    def watch(self, prefix: str = "") -> Watch:
        """Changes of documents whose name starts with `prefix`, from now on, whole batches.

        Bounded: a slow reader gets folded changes, marked `lagged`. Ends when the agent closes.
        """
        return self._watchers.watch(prefix)

    # ------------------------------------------------------------------------------ peers

    def members(self) -> list[MemberView]:
        """Peers that this agent knows, gone ones included; O(members)."""
        replica = self._running()[1]
        return [MemberView.of(m, time.monotonic()) for m in replica.members.everyone()]

    def lag(self) -> dict[str, int]:
        """Per current member: events of this agent's state that it is not known to have."""
        return self._running()[1].lag()

    def behind(self) -> dict[str, tuple[int, float]]:
        """Per origin that peers told more of: (events lacked here, seconds since the first)."""
        replica = self._running()[1]
        return replica.behind.lag(replica.kernel.vector, time.monotonic())

    def stands(self) -> dict[str, int]:
        """Per current member: up to which of this agent's own events it told to have durably."""
        replica = self._running()[1]
        peer, own = replica.eager.peer, self.id
        return {m.replica: peer(m.replica).known.get(own, 0) for m in replica.members.current()}

    @property
    def vitals(self) -> Vitals:
        """Delays, queues and arrivals, as measured since the start."""
        return self._running()[0].vitals

    def retire(self, peer: str) -> None:
        """Declare a member gone for good (a name, id or address): `stable` waits no longer.

        Should it return, it takes a new incarnation. UnknownPeerError if nobody is known so.
        """
        driver, replica = self._running()
        found = replica.members.find(peer)
        if not found:
            raise UnknownPeerError(f"{peer!r} is no known member")
        for member in found:
            driver.call(partial(replica.leave, status=Status.RETIRED, who=member.replica))

    def block(self, peer: str) -> None:
        """Cut this agent off from a peer (a name, id or address), both ways, until `unblock`.

        For maintenance and fault injection: exchanges fail as if the network were partitioned.
        """
        self._running()[1].exchanges.blocked.add(peer)

    def unblock(self, peer: str) -> None:
        """End a `block`, with the very string given to it; UnknownPeerError if there is none."""
        replica = self._running()[1]
        if peer not in replica.exchanges.blocked:
            raise UnknownPeerError(f"{peer!r} is not blocked")
        replica.exchanges.blocked.discard(peer)
        replica.hurry(time.monotonic())

    def blocked(self) -> list[str]:
        """Peers that this agent is cut off from by `block`, as they were named."""
        return sorted(self._running()[1].exchanges.blocked)

    def quarantine(self) -> dict[str, str]:
        """Origins that are stopped before an event that cannot be applied: origin -> why."""
        held = self._running()[1].entropy.intake.quarantine
        return {origin: f"{first}-{last}: {why}" for origin, (first, last, why) in held.items()}

    @property
    def read_only(self) -> bool:
        """Whether local writes are refused now, because the journal failed."""
        return self._running()[0].failure is not None

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
        return dict(self._running()[1].exchanges.wire.bytes_by_kind)

    def counts(self) -> dict[str, int]:
        """How often what happened: exchanges, deltas by outcome, refusals by code."""
        return dict(self._running()[1].counts)

    # ------------------------------------------------------------------------------ within

    def _running(self) -> tuple[Driver, Replica]:
        if self._driver is None or self._replica is None:
            raise ClosedError(f"agent {self.name!r} is not running")
        return self._driver, self._replica

    def _writable(self) -> None:
        """The kernel asks before every local write."""
        driver, _ = self._running()
        if driver.failure is not None:
            raise driver.refusal()

    async def _serve(self, frame: bytes) -> tuple[int, bytes]:
        driver = self._driver
        return (503, b"") if driver is None else await driver.serve(frame)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000

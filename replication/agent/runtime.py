"""The life of an agent: what is opened at its start, and closed in which order at its end.

Theory of operation. A start takes the address first (peers are told it), then the journal (it says
who we are and refuses a second process; a start that cannot listen leaves no new one behind), then
builds the machine and lets its loop run; frames that come before that are answered `busy`. An error
on the way gives back what was taken. A close is a promise with a time limit: flush, push what
peers lack to two of them, say goodbye, stop the loop, then let go of socket and disk. It is carried
through even if its caller is cancelled, and a second caller waits for the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets as tokens
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from replication.agent.assembly import assemble
from replication.agent.driver import Driver
from replication.errors import ClosedError
from replication.journal.base import Journal, boot
from replication.protocol.wire import BOOT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from crdt import Kernel
    from replication.config import Config
    from replication.protocol.effects import Published
    from replication.protocol.keyring import Keyring
    from replication.protocol.link import PeerConnection
    from replication.protocol.membership import Dice
    from replication.protocol.policy import AccessPolicy
    from replication.protocol.replica import Replica
    from replication.transport.base import Transport


@dataclass(slots=True, kw_only=True)
class Body:
    """Journal, transport and loop around one replica, which lives from `start` to `close`."""

    name: str
    journal: Journal
    transport: Transport
    config: Config
    cluster: str
    namespace: str
    keys: Keyring
    rules: AccessPolicy
    dice: Dice
    peers: tuple[str, ...]
    hubs: tuple[str, ...]
    address: str
    publish: Callable[[Published, dict[str, int]], None]
    stopped: Callable[[], None]
    replica: Replica | None = None
    driver: Driver | None = None
    _loop: asyncio.Task[None] | None = None
    _closing: asyncio.Task[None] | None = field(default=None)

    async def start(self) -> None:
        """Bind the address, open the journal, begin to gossip.

        Raises:
            JournalHeldError, JournalUnreadableError, ListenError: nothing was started.
        """
        self._closing = None
        fresh = f"{self.name}~{tokens.token_hex(8)}"
        try:
            bound = await self.transport.listen(self._serve, self._line_news)
            booted = await asyncio.to_thread(boot, self.journal, fresh, _wall_ms)
        except BaseException:
            await self.transport.close()
            raise
        self.address = self.address or bound
        self.replica = assemble(
            booted,
            cluster=self.cluster,
            namespace=self.namespace,
            keys=self.keys,
            boot=tokens.token_bytes(BOOT_BYTES),
            config=self.config,
            dice=self.dice,
            address=self.address,
            now_s=time.monotonic(),
            seeds=self.peers,
            hubs=self.hubs,
            rules=self.rules,
        )
        self.driver = Driver(
            self.replica,
            self.journal,
            self.transport,
            config=self.config,
            now_s=time.monotonic,
            publish=self.publish,
            lease=booted.lease,
            wall_ms=_wall_ms,
        )
        booted.kernel.before_write = self._writable
        self._loop = asyncio.create_task(self.driver.run(), name=f"agent {self.name}")

    async def close(self) -> None:
        """Flush, push to two peers what they lack, say goodbye, stop; at most `close_timeout_s`."""
        if self._closing is None and self.driver is not None:
            self._closing = asyncio.create_task(self._close(), name=f"agent {self.name} closes")
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        driver, replica, loop = self.driver, self.replica, self._loop
        if driver is None or replica is None or loop is None:
            return
        self.driver = None
        half_s = self.config.close_timeout_s / 2
        with contextlib.suppress(Exception):
            await driver.until(lambda: replica.durable == dict(replica.kernel.vector), half_s)
        driver.call(replica.part)
        await driver.settle(half_s / 2)
        driver.call(replica.leave)
        await driver.settle(half_s / 2)
        driver.stop()
        await loop
        self.stopped()  # before the transport: streams of changes end in order
        await self.transport.close()
        await driver.release()

    def running(self) -> tuple[Driver, Replica]:
        """Loop and machine; ClosedError before the start and after the close."""
        if self.driver is None or self.replica is None:
            raise ClosedError(f"agent {self.name!r} is not running")
        return self.driver, self.replica

    @property
    def kernel(self) -> Kernel:
        """The state, which can be read after the close, too; ClosedError before the start."""
        if self.replica is None:
            raise ClosedError(f"agent {self.name!r} was not started")
        return self.replica.kernel

    def _writable(self) -> None:
        """The kernel asks before every local write."""
        driver, _ = self.running()
        if driver.failure is not None:
            raise driver.refusal()

    async def _serve(self, frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
        driver = self.driver
        return (503, b"") if driver is None else await driver.serve(frame, caller)

    def _line_news(self, via: str, up: bool) -> None:  # noqa: FBT001 - the callback's news
        driver, replica = self.driver, self.replica
        if driver is not None and replica is not None:
            driver.call(partial(replica.line, via, up=up))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000

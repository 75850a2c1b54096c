"""The runtime of an agent: socket, disk and clock around one replica, and the only loop.

Theory of operation. *The loop.* Steps (frames, answers, failures) queue in an inbox; local writes
pile up in the machine. One task drains both, at its own pace, and executes what comes out in the
order of the fields of `Effects`: one journal transaction for all of it (group commit), then the
frames, then the subscribers. While a commit is under way the next steps gather, so a slow disk
makes batches larger and a slow peer stalls nobody:

    frame, answer, line --> inbox --+
    local write --> kernel ---------+--> drain --> journal --> frames --> subscribers --> waiters
    clock --> tick -----------------+      ^                                                |
                                           +------------------- next turn ------------------+

*A failing disk.* If a transaction fails, nothing of it was sent and nothing will be until a retry
succeeded: rows are kept, their frames are dropped (the exchanges count as failed), and `failure`
makes local writes raise. Meanwhile peers that ask are answered from a second kernel, rebuilt from
the journal: what is durable here goes on spreading.

*A life.* A runtime exists from `open` to `close`, and an agent that starts again gets another one.
What is opened, in this order, and given back if a later step fails:

    address     peers will dial it, so it must be known before the machine is made; and a start
                that cannot listen must not leave a new journal behind. A frame that comes before
                the machine is there is answered `busy`.
    journal     it says who we are, and refuses a second process. Read in a thread: it may be long.
    machine     from what the journal held, under a new boot id.
    permission  the kernel asks this runtime before each local write, from the first one on.
    loop        last, because whatever it executes needs all of the above.

A close is a promise with a time limit: flush, push what peers lack to two of them, say goodbye,
stop the loop, then let go of socket and disk. It is carried through even if its caller is
cancelled, and a second caller waits for the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets as tokens
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Self

from replication.agent.assembly import assemble
from replication.agent.vitals import Vitals
from replication.errors import (
    ClosedError,
    JournalFailedError,
    JournalUnreadableError,
    NoJournalError,
    NotYetError,
    PeerUnreachableError,
)
from replication.journal import Entry, boot, leased, rebuild
from replication.protocol import BOOT_BYTES, NOTHING, Effects, Published, Row, Send
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crdt import Kernel
    from replication.agent.assembly import ReplicaSettings
    from replication.agent.watch import Watchers
    from replication.config import Config
    from replication.journal import Booted, Journal
    from replication.protocol import MemberClaim, PeerConnection, Replica
    from replication.transport import Transport

logger = logging.getLogger("replication")

STEPS_PER_COMMIT = 32
INBOX_STEPS_MAX = 4096  # frames and answers waiting for the loop; over it a frame is answered 503
CLOSE_TIMEOUT_S = 5.0  # what is not sent by then is in the journal
HELD_LOOK_S = 0.05  # how often a loop that a batch holds looks whether it is over
SNAPSHOT_ABOVE_BYTES = 4 * 1024 * 1024
BOOK_EVERY_S = 5.0


class AgentRuntime:
    """What runs while an agent does: its machine (`replica`), loop, disk thread and exchanges.

    Made by `open`. `accepts` until its close begins: whether frames and local writes are taken.

    Args:
        address: where peers reach it.
        booted: what the journal held; its log goes on to grow from there.
        watchers: get every change after its commit, in order, with the vector committed.
    """

    def __init__(
        self,
        name: str,
        replica: Replica,
        journal: Journal,
        transport: Transport,
        *,
        address: str,
        config: Config,
        watchers: Watchers,
        booted: Booted,
    ) -> None:
        self.name = name
        self.replica = replica
        self.address = address
        self.accepts = True
        self.failure: JournalFailedError | None = None
        self.now_s = asyncio.get_running_loop().time  # an agent lives by the clock of its loop
        self.vitals = Vitals(self.now_s, wall_ms)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._journal = journal
        self._transport = transport
        self._config = config
        self._watchers = watchers
        self._lease = booted.lease
        self._leased_to = replica.id
        self._log_bytes = sum(len(row.data) for row in booted.recovered.rows)
        self._snapshot_bytes = len(booted.recovered.snapshot)
        self._book = replica.members.address_book()
        self._book_s = self.now_s()
        self._inbox: deque[Callable[[float], Effects]] = deque()
        self._wake = asyncio.Event()
        self._answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._exchange = 0
        self._deliveries: set[asyncio.Task[None]] = set()
        self._unsaved: list[Row] = []
        self._vector: Mapping[str, int] = replica.durable
        self._unpublished: list[Published] = []
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._stopping = False
        self._retry_s = 0.0
        self._not_before_s = 0.0  # after a step that raised, time stands still for a moment
        self._closing: asyncio.Task[None] | None = None
        replica.on_write = self._wake.set
        replica.kernel.before_write = self._check_writable
        self._loop = asyncio.create_task(self._run(), name=f"agent {name}")

    # ------------------------------------------------------------------------------ life

    @classmethod
    async def open(
        cls,
        name: str,
        settings: ReplicaSettings,
        *,
        journal: Journal,
        transport: Transport,
        watchers: Watchers,
        address: str = "",
    ) -> Self:
        """Bind the address, open the journal, begin to gossip; the order is explained above.

        `address` is where peers reach the agent, if not where the transport listens.

        Raises:
            JournalHeldError, JournalUnreadableError, ListenError: nothing was started.
        """
        runtime: Self | None = None  # the socket is open before there is one

        async def serve(frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
            return (503, b"") if runtime is None else await runtime.serve(frame, caller)

        def line_news(via: str, up: bool) -> None:  # noqa: FBT001 - the callback's news
            if runtime is not None and runtime.accepts:
                runtime.call(partial(runtime.replica.line, via, up=up))

        fresh = f"{name}~{tokens.token_hex(8)}"
        try:
            bound = await transport.listen(serve, line_news)
            booted = await asyncio.to_thread(boot, journal, fresh, wall_ms)
        except BaseException:
            await transport.close()
            raise
        address = address or bound
        replica = assemble(
            settings,
            booted,
            boot=tokens.token_bytes(BOOT_BYTES),
            address=address,
            now_s=asyncio.get_running_loop().time(),
        )
        runtime = cls(
            name,
            replica,
            journal,
            transport,
            address=address,
            config=settings.config,
            watchers=watchers,
            booted=booted,
        )
        return runtime

    async def close(self) -> None:
        """Flush, push to two peers what they lack, say goodbye, stop; at most `CLOSE_TIMEOUT_S`."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"agent {self.name} closes")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.accepts = False
        replica, half_s = self.replica, CLOSE_TIMEOUT_S / 2
        with contextlib.suppress(Exception):
            await self.until(lambda: replica.durable == dict(replica.kernel.vector), half_s)
        self.call(replica.part)
        await self._exchanges_over(half_s / 2)
        self.call(replica.leave)
        await self._exchanges_over(half_s / 2)
        self._stopping = True  # the turn under way is the last one, and saves what is unsaved
        self.vitals.heartbeat.stop()
        self._wake.set()
        await self._loop
        self._watchers.close()  # before the transport: streams of changes end in order
        await self._transport.close()
        await self._release()

    async def _exchanges_over(self, timeout_s: float) -> None:
        """Wait until every exchange of ours is over, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._deliveries or self._inbox:
                    if self._deliveries:
                        await asyncio.wait(self._deliveries)
                    await asyncio.sleep(0)
        except TimeoutError:
            return

    async def _release(self) -> None:
        """Cut exchanges and end the disk thread."""
        for task in list(self._deliveries):
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result((503, b""))
        await asyncio.get_running_loop().run_in_executor(self._disk, self._journal.close)
        self._disk.shutdown(wait=False)

    def _check_writable(self) -> None:
        """The kernel asks before every local write."""
        if not self.accepts:
            raise ClosedError(f"agent {self.name!r} is not running")
        if self.failure is not None:
            raise self._refusal()

    # ------------------------------------------------------------------------------ the loop

    async def _run(self) -> None:
        """Until the close stops it: wait, drain, execute, wake who waits.

        A turn takes at most `STEPS_PER_COMMIT` steps, so that no flood of frames delays the commit
        of a local write by more than that. While a batch is open the loop only looks: a drain would
        show half of it to peers and journal. What comes out of a turn is executed before the next
        one begins, so effects never overtake each other.
        """
        self.vitals.heartbeat.start()
        while not self._stopping:
            await self._pause()
            if self.replica.kernel.in_batch:  # half of one must not be seen by anybody
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HELD_LOOK_S):  # a rolled back batch wakes nobody
                        await self._wake.wait()
                self._wake.clear()
                continue
            effects = self._drain()
            await self._execute(effects)
            self._satisfy()

    async def _pause(self) -> None:
        """Sleep until there is a step, a local write, or something due."""
        due_s = self.replica.wake_s if self.failure is None else self._retry_s
        due_s = max(due_s, self._not_before_s)
        wait_s = due_s - self.now_s()
        if self._inbox or wait_s <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _drain(self) -> Effects:
        self._wake.clear()
        now_s = self.now_s()
        steps = [self._inbox.popleft() for _ in range(min(len(self._inbox), STEPS_PER_COMMIT))]
        if self.failure is None:
            due = now_s >= max(self.replica.wake_s, self._not_before_s)
            steps.append(self.replica.tick if due else self.replica.flush)
        return sum((self._taken(step, now_s) for step in steps), NOTHING)

    def _taken(self, step: Callable[[float], Effects], now_s: float) -> Effects:
        """The effects of a step; a fault in one must not end the loop, and with it the agent.

        The clock of the machine waits a moment then: a tick that raises is due again at once, and
        would turn the loop into a spin.
        """
        try:
            return step(now_s)
        except Exception:
            logger.exception("step-raised")  # its exchange will run out of time
            self.replica.counts["step:raised"] += 1
            self._not_before_s = now_s + self._config.journal_retry_s
            return NOTHING

    async def _execute(self, effects: Effects) -> None:
        """Persist, then send, then publish."""
        for notice in effects.notices:
            logger.warning(notice.code, extra={"facts": dict(notice.data)})
        self._unsaved += effects.persist
        self._vector = effects.vector or self._vector
        self._unpublished += effects.publish
        try:
            if self.failure is None or self.now_s() >= self._retry_s:
                await self._persist()
                self._recover()
        except JournalFailedError as error:
            self._retry_s = self.now_s() + self._config.journal_retry_s
            if self.failure is None:
                for send in effects.send:
                    self._drop(send)
                await self._degrade(error)
                return
        for send in effects.send:
            self._send(send)
        if self.failure is None:
            changes, self._unpublished = self._unpublished, []
            reached = dict(self._vector) if changes else {}
            for change in changes:
                self._watchers.publish(change, reached)

    async def _degrade(self, error: JournalFailedError) -> None:
        """Go read-only; from now on peers learn what the journal holds, and nothing more."""
        self.failure = error
        logger.error("read-only", extra={"facts": {"why": str(error)}})
        durable: Kernel | None = None
        try:
            recovered = await asyncio.get_running_loop().run_in_executor(
                self._disk, self._journal.read
            )
            durable = rebuild(recovered, self.replica.id, None)
        except JournalUnreadableError as unreadable:
            facts = {"why": str(unreadable)}
            logger.error("journal-unreadable", extra={"facts": facts})  # noqa: TRY400 - an operator wants the line, not our stack
        self.replica.degrade(durable)

    def _recover(self) -> None:
        if self.failure is not None:
            logger.warning("writable-again")
            self.failure = None
            self.replica.recover()

    async def _persist(self) -> None:
        """One transaction for everything unsaved, with the vector it leads to."""
        book = self._news_of_book()
        renewed = self.replica.id != self._leased_to
        if not (self._unsaved or book is not None or renewed or self.failure):
            return
        kernel, vector = self.replica.kernel, self._vector
        if kernel.replica != self._leased_to:
            self._leased_to, self._lease = kernel.replica, 0
        own = vector.get(kernel.replica, 0)
        lease = leased(own, self._lease, self._config.seq_lease)
        log_bytes = self._log_bytes + sum(len(row.data) for row in self._unsaved)
        snapshot = b""
        room = max(SNAPSHOT_ABOVE_BYTES, 2 * self._snapshot_bytes)
        if log_bytes > room and not kernel.in_batch:  # else the next commit takes it
            snapshot = kernel.to_bytes()
        rows, self._unsaved = self._unsaved, []
        entry = Entry(rows, vector, kernel.replica, lease, snapshot, book)
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._disk, self._journal.append, entry
            )
        except JournalFailedError:
            self._unsaved = rows + self._unsaved
            raise
        self._lease, self._log_bytes = lease, log_bytes
        if snapshot:
            self._log_bytes, self._snapshot_bytes = 0, len(snapshot)
        self.vitals.committed(kernel.replica, self.replica.durable, vector)
        self.replica.persisted(vector)

    def _news_of_book(self) -> tuple[MemberClaim, ...] | None:
        now_s = self.now_s()
        if now_s - self._book_s < BOOK_EVERY_S and not self._stopping:
            return None
        self._book_s = now_s
        book = self.replica.members.address_book()
        if book == self._book:
            return None
        self._book = book
        return book

    # ------------------------------------------------------------------------------ exchanges

    async def serve(self, frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
        """A peer's request: (status, answer), once everything the answer shows is durable."""
        if len(self._inbox) >= INBOX_STEPS_MAX or not self.accepts:
            return 503, b""
        self._exchange += 1
        exchange = self._exchange
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[exchange] = answer
        self.vitals.queued["inbound"] += len(frame)
        self.call(lambda now_s: self.replica.receive(frame, now_s, exchange, caller))
        try:
            return await answer
        finally:
            self.vitals.queued["inbound"] -= len(frame)
            self._answers.pop(exchange, None)

    def call(self, step: Callable[[float], Effects]) -> None:
        """Queue a step of the machine."""
        self._inbox.append(step)
        self._wake.set()

    def _send(self, send: Send) -> None:
        if not send.address:
            waiting = self._answers.get(send.exchange)
            if waiting is not None and not waiting.done():
                waiting.set_result((send.status, send.frame))
            return
        task = asyncio.get_running_loop().create_task(self._deliver(send))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    def _drop(self, send: Send) -> None:
        """A frame that may not leave: its events are not durable.

        That its exchange failed is a step like any other: its effects hold local writes that were
        made during the commit, and they go through the one door that persists them.
        """
        exchange = send.exchange
        if send.address:
            self.call(lambda now_s: self.replica.failed(exchange, now_s))
        else:
            waiting = self._answers.get(send.exchange)
            if waiting is not None and not waiting.done():
                waiting.set_result((503, b""))

    async def _deliver(self, send: Send) -> None:
        exchange = send.exchange
        self.vitals.queued["outbound"] += len(send.frame)
        try:
            answer = await self._transport.exchange(send.address, send.frame)
        except Exception as error:  # noqa: BLE001 - whatever it was, the exchange is over
            level = logging.DEBUG if isinstance(error, PeerUnreachableError) else logging.WARNING
            facts = {"peer": send.address, "why": str(error)}
            logger.log(level, "no-answer", extra={"facts": facts})
            self.call(lambda now_s: self.replica.failed(exchange, now_s))
        else:
            self.call(lambda now_s: self.replica.answered(exchange, answer, now_s))
        finally:
            self.vitals.queued["outbound"] -= len(send.frame)

    # ------------------------------------------------------------------------------ waiting

    async def until(self, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `reached()`, asked after every commit; False if the time ran out.

        Raises:
            JournalFailedError: while waiting, the journal failed.
        """
        if reached():
            return True
        if self.failure is not None:
            raise self._refusal()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((reached, waiter))
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters = [pair for pair in self._waiters if pair[1] is not waiter]
        return True

    def _refusal(self) -> JournalFailedError:
        """A fresh error that says why this agent is read-only."""
        return JournalFailedError(str(self.failure))

    def _satisfy(self) -> None:
        replica = self.replica
        members, reached = replica.members, replica.acknowledgements.reached
        self.vitals.spread(lambda v: reached(v).members == len(members.current()))
        for condition, waiter in self._waiters:
            if waiter.done():
                continue
            if condition():
                waiter.set_result(None)
            elif self.failure is not None:
                waiter.set_exception(self._refusal())

    async def durable(self, token: Version, timeout_s: float | None) -> None:
        """Until the events of a token are on this disk.

        Raises:
            NoJournalError: there is none.
            JournalFailedError, NotYetError: not yet.
        """
        self.check_journalled()
        if not await self.until(lambda: token <= Version(self.replica.durable), timeout_s):
            raise NotYetError(
                f"durable: not on this disk after {timeout_s:g} s; the write stands",
                reached=0,
                wanted=1,
            )

    def check_journalled(self) -> None:
        """Raise NoJournalError if what is persisted ends with this process."""
        if not self.replica.members.me.journalled:
            raise NoJournalError(f"agent {self.name!r} keeps no journal: it is in memory only")


def wall_ms() -> int:
    """Milliseconds since 1970, by the wall."""
    return time.time_ns() // 1_000_000

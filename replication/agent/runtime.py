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
stop the loop, end every wait, then let go of socket and disk. It is carried through even if its
caller is cancelled, and a second caller waits for the first. Should everything in the event loop
be cancelled, courtesies are left out; what was written is saved and the journal let go of.

*One event loop.* Everything here belongs to the event loop that it was opened in, `_home`. A call
from another thread, loop or forked process is refused before it changes anything. If the loop below
is ended from outside - whoever cancels all tasks cancels it too - the commit under way is carried
through, what is unsaved is saved, and the agent is read-only: `failure` says why. An event loop
that is over can say no goodbyes; a close from another one saves, and lets go of the journal.

*Batches* belong to tasks. The turns of this loop, like anything else that comes to the state, first
roll back a batch that its task holds over a suspension (`crdt.kernel.writer`). A batch that nobody
came across is not lucky: what the event loop calls soon after its begin rolls it back as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets as tokens
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from crdt import BatchOpenError
from replication.addresses import port_of
from replication.agent.assembly import SEED_BYTES, assemble
from replication.agent.vitals import Vitals
from replication.agent.watch import Watchers
from replication.descriptors import kept_from_children
from replication.errors import (
    ClosedError,
    ForkedError,
    JournalFailedError,
    JournalUnreadableError,
    LoopEndedError,
    NoJournalError,
    NotYetError,
    PeerUnreachableError,
    ReplicationError,
    VectorAheadError,
    WrongLoopError,
    WrongThreadError,
)
from replication.journal import HOW_TO_GO_ON, Entry, boot, leased, rebuild
from replication.protocol import (
    NOTHING,
    Effects,
    PeerConnection,
    Published,
    Row,
    Send,
)
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crdt import Kernel, VersionVector
    from replication.agent.assembly import ReplicaSettings
    from replication.config import Config
    from replication.journal import Booted, Journal, KeptOut
    from replication.protocol import MemberClaim, Replica
    from replication.transport import Transport

T = TypeVar("T")

logger = logging.getLogger("replication")

STEPS_PER_COMMIT = 32
INBOX_STEPS_MAX = 4096  # frames and answers waiting for the loop; over it a frame is answered 503
CLOSE_TIMEOUT_S = 5.0  # what is not sent by then is in the journal
SNAPSHOT_ABOVE_BYTES = 4 * 1024 * 1024
BOOK_EVERY_S = 5.0


class AgentRuntime:
    """What runs while an agent does: its machine (`replica`), loop, disk thread and exchanges.

    Made by `open`. Its `watchers` get every change after its commit, in order, with the vector
    committed. `accepts` until its close begins: whether frames and local writes are taken.

    Args:
        address: where peers reach it.
        booted: what the journal held; its log goes on to grow from there.
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
        booted: Booted,
        disk: ThreadPoolExecutor,
    ) -> None:
        self.name = name
        self.replica = replica
        self.address = address
        self.accepts = True
        self.failure: ReplicationError | None = None  # why it is read-only
        self.ended = False
        self._home = asyncio.get_running_loop()
        self._thread, self._pid = threading.get_ident(), os.getpid()
        self.now_s = self._home.time  # an agent lives by the clock of its loop
        self.vitals = Vitals(self.now_s, wall_ms)
        self._disk = disk
        self._journal = journal
        self._transport = transport
        self._config = config
        self.watchers = Watchers(config.subscription_events_max, self.check_wait)
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
        self._vector: VersionVector = replica.durable
        self._unpublished: list[Published] = []
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._stopping = False
        self._batch_watched = False
        self._retry_s = 0.0
        self._not_before_s = 0.0  # after a step that raised, time stands still for a moment
        self._closing: asyncio.Task[None] | None = None
        if config.replaced_bytes_max:
            replica.kernel.keep_replaced(config.replaced_bytes_max)
        replica.on_write = self._wake.set
        replica.kernel.before_write = self._check_writable
        replica.kernel.current_owner = self._current_owner
        replica.kernel.on_batch = self._batch_began
        kept_from_children(self)
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
        address: str = "",
    ) -> Self:
        """Bind the address, open the journal, begin to gossip; the order is explained above.

        `address` is where peers reach the agent, if not where the transport listens.

        Raises:
            JournalHeldError, JournalUnreadableError, ListenError: nothing was started.

        Nor is anything left open when it is cancelled; a journal that is being read is read to its
        end first.
        """
        runtime: Self | None = None  # the socket is open before there is one

        async def serve(frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
            return (503, b"") if runtime is None else await runtime.serve(frame, caller)

        def line_news(via: str, up: bool) -> None:  # noqa: FBT001 - the callback's news
            if runtime is not None and runtime.accepts:
                runtime.call(partial(runtime.replica.line, via, up=up))

        fresh = f"{name}~{tokens.token_hex(8)}"
        disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        booted: Booted | None = None
        cancels = _cancels()
        try:
            listening = asyncio.create_task(transport.listen(serve, line_news, journal.port))
            bound = await despite_cancel(listening)  # cut half way it would keep the port
            journal.port = port_of(bound)
            reading = in_thread(disk, boot, journal, fresh, wall_ms, settings.rules)
            booted = await despite_cancel(reading)
            if _cancels() > cancels:
                raise asyncio.CancelledError
            replica = assemble(
                settings,
                booted,
                seed=tokens.token_bytes(SEED_BYTES),
                address=address or bound,
                now_s=asyncio.get_running_loop().time(),
            )
            runtime = cls(
                name,
                replica,
                journal,
                transport,
                address=address or bound,
                config=settings.config,
                booted=booted,
                disk=disk,
            )
            runtime.tell(booted.kept_out)
        except BaseException:
            if booted is not None:
                await despite_cancel(in_thread(disk, journal.close))
            disk.shutdown()
            await transport.close()
            raise
        return runtime

    def tell(self, kept_out: Iterable[KeptOut]) -> None:
        """Say of which origins the journal held less than it claimed."""
        for lost in kept_out:
            self.replica.counts["journal:kept-out"] += 1
            facts = {"origin": lost.origin, "why": str(lost), "hint": HOW_TO_GO_ON}
            logger.error("kept-out", extra={"facts": facts})

    async def close(self) -> None:
        """Flush, push to two peers what they lack, say goodbye, stop; at most `CLOSE_TIMEOUT_S`.

        Raises:
            WrongLoopError, ForkedError: it runs elsewhere, and goes on.
        """
        if self._pid == os.getpid() and not self._home.is_running():
            await self._abandon()
            return
        self.check_home()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"agent {self.name} closes")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.accepts = False
        if self.failure is None or isinstance(self.failure, JournalFailedError):
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._part()
        self._stopping = True  # the turn under way is the last one, and saves what is unsaved
        self.vitals.heartbeat.stop()
        self._wake.set()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await despite_cancel(self._loop)
        with contextlib.suppress(JournalFailedError):
            await self._save()
        self._satisfy()
        self.watchers.close()  # before the transport: streams of changes end in order
        for _ in range(2):  # a cancellation may hit the first
            closing = asyncio.create_task(self._transport.close())
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await despite_cancel(closing)
                break
        await self._release()

    async def _part(self) -> None:
        """What a close does for others: save, push, say goodbye."""
        replica, half_s = self.replica, CLOSE_TIMEOUT_S / 2
        with contextlib.suppress(ReplicationError):
            await self.until(lambda: replica.durable == replica.kernel.vector, half_s)
        self.call(replica.part)
        await self._exchanges_over(half_s / 2)
        self.call(replica.leave)
        await self._exchanges_over(half_s / 2)

    async def _abandon(self) -> None:
        """Save what is unsaved, let go of the journal: its own event loop will not do it."""
        if self.ended:
            return
        self.accepts, self._stopping = False, True
        self.replica.kernel.current_owner = lambda: self  # whoever else came, will not come back
        self._deliveries.clear()
        self._answers.clear()
        with contextlib.suppress(RuntimeError):  # a closed loop takes no timers back
            self.vitals.heartbeat.stop()
        with contextlib.suppress(JournalFailedError):
            await self._save()
        with contextlib.suppress(Exception):
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
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result((503, b""))
        try:
            await despite_cancel(in_thread(self._disk, self._journal.close))
        finally:
            self._disk.shutdown()
            self.ended = True
            kernel = self.replica.kernel
            kernel.current_owner = kernel.on_batch = None  # from here on it is only read

    # ------------------------------------------------------------------------------ who may come

    def check_home(self) -> None:
        """Raise unless this is the thread, and the event loop, that the agent lives in.

        In that thread a call without any running loop is welcome: between two runs of it, say.

        Raises:
            ForkedError, WrongThreadError, WrongLoopError: nothing changed.
        """
        try:
            running: object = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._home or self.ended:
            return
        if self._pid != os.getpid():
            raise ForkedError(f"agent {self.name!r} runs in the process this one was forked from")
        if self._thread != threading.get_ident():
            raise WrongThreadError(f"agent {self.name!r} lives in the event loop of another thread")
        if running is not None:
            raise WrongLoopError(f"agent {self.name!r} lives in another event loop")

    def check_wait(self) -> None:
        """Raise unless the caller may wait here; a batch of somebody else is rolled back.

        Raises:
            BatchOpenError: the caller has one open, and nothing leaves it before its end.
        """
        self.check_home()
        kernel = self.replica.kernel
        if kernel.in_batch and not self.ended:
            kernel.admit()
            if kernel.in_batch:
                raise BatchOpenError(
                    "a wait inside a batch would not end: what it waits for follows the batch"
                )

    def _batch_began(self) -> None:
        if not self._batch_watched:
            self._batch_watched = True
            self._home.call_soon(self._end_held_batch)

    def _end_held_batch(self) -> None:
        """The event loop has come round, so whoever opened a batch before is suspended inside."""
        self._batch_watched = False
        self.replica.kernel.interrupt()

    def _current_owner(self) -> object:
        """The kernel asks who comes to it: the task that runs, or a plain call of this thread."""
        if threading.get_ident() != self._thread:
            self.check_home()
        return asyncio.current_task(self._home) or self

    def forget(self) -> None:
        """In a forked child, whose thread is not the agent's, although it has the same number."""
        self._thread = 0

    def _check_writable(self) -> None:
        """The kernel asks before every local write."""
        if threading.get_ident() != self._thread:  # asking for the loop would be a system call
            self.check_home()
        if self.failure is not None or not self.accepts:
            raise self.refusal()

    # ------------------------------------------------------------------------------ the loop

    async def _run(self) -> None:
        """Until the close stops it: wait, drain, execute, wake who waits.

        A turn takes at most `STEPS_PER_COMMIT` steps, so that no flood of frames delays the commit
        of a local write by more than that. What comes out of a turn is executed before the next one
        begins, so effects never overtake each other.
        """
        self.vitals.heartbeat.start()
        try:
            while not self._stopping:
                await self._pause()
                effects = self._drain()
                await self._execute(effects)
                self._satisfy()
                if _cancels():
                    raise asyncio.CancelledError
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            await self._died("its task was cancelled" if cancelled else repr(error))
            raise

    async def _died(self, why: str) -> None:
        """The loop ends, and not by a close: save what there is, and say so to everybody."""
        self.failure = LoopEndedError(f"agent {self.name!r} saves and sends nothing more: {why}")
        logger.error("loop-ended", extra={"facts": {"agent": self.name, "why": why}})
        self.accepts = False
        with contextlib.suppress(Exception):
            await self._save()
        self._satisfy()
        self.vitals.heartbeat.stop()
        self.watchers.close()

    async def _save(self) -> None:
        """One more commit, of everything written; without the loop, and nothing is sent."""
        if not self.ended:
            self.replica.kernel.admit()
            effects = self.replica.flush(self.now_s())
            self._unsaved += effects.persist
            self._vector = effects.vector or self._vector
            await self._persist()

    async def _pause(self) -> None:
        """Sleep until there is a step, a local write, or something due."""
        due_s = self._retry_s
        if self.failure is None:
            due_s = min(self.replica.wake_s, self.vitals.look_s)
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
        self.replica.kernel.admit()  # half of a batch must not be seen by anybody
        now_s = self.now_s()
        steps = [self._inbox.popleft() for _ in range(min(len(self._inbox), STEPS_PER_COMMIT))]
        if self.failure is None:
            if now_s >= self.vitals.look_s:
                self.replica.waits.look(self.vitals.looked(), now_s)
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
            for change in changes:
                self.watchers.publish(change, self._vector)

    async def _degrade(self, error: JournalFailedError) -> None:
        """Go read-only; from now on peers learn what the journal holds, and nothing more."""
        self.failure = error
        logger.error("read-only", extra={"facts": {"why": str(error)}})
        durable: Kernel | None = None
        try:
            recovered = await despite_cancel(in_thread(self._disk, self._journal.read))
            durable = rebuild(recovered, self.replica.id, None, [])
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
        rows = list(self._unsaved)
        entry = Entry(rows, vector, kernel.replica, lease, snapshot, book)
        # Rows leave `_unsaved` once they are known to be there: should nobody be left to hear,
        # they are appended twice, which is harmless.
        try:
            await despite_cancel(in_thread(self._disk, self._journal.append, entry))
        except VectorAheadError as error:
            if kernel.in_batch:
                raise
            logger.error("vector-ahead", extra={"facts": {"why": str(error)}})  # noqa: TRY400
            snapshot = kernel.to_bytes()  # which holds what the rows do not
            entry = replace(entry, snapshot=snapshot)
            await despite_cancel(in_thread(self._disk, self._journal.append, entry))
        del self._unsaved[: len(rows)]
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
            names = self._transport.names_at(send.address) if self.replica.policy.certified else ()
            came = PeerConnection(names=frozenset(names))
            self.call(lambda now_s: self.replica.answered(exchange, answer, now_s, came))
        finally:
            self.vitals.queued["outbound"] -= len(send.frame)

    # ------------------------------------------------------------------------------ waiting

    async def until(self, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `reached()`, asked after every commit; False if the time ran out.

        Raises:
            JournalFailedError: while waiting, the journal failed.
            ClosedError: while waiting, the agent was closed, or its loop ended.
        """
        if reached():
            return True
        if self.failure is not None or self._stopping:
            raise self.refusal()
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

    def refusal(self) -> ReplicationError:
        """A fresh error that says why this agent takes nothing: read-only, or not running."""
        if self.failure is None:
            return ClosedError(f"agent {self.name!r} is not running")
        return type(self.failure)(str(self.failure))

    def _satisfy(self) -> None:
        """End the waits that are over: what they wait for is there, or will not come any more."""
        self.replica.kernel.admit()
        replica = self.replica
        self.vitals.spread(replica.waits.everywhere)
        for condition, waiter in self._waiters:
            if waiter.done():
                continue
            if condition():
                waiter.set_result(None)
            elif self.failure is not None:
                waiter.set_exception(self.refusal())
            elif self._loop.done():
                closed = f"agent {self.name!r} was closed while this waited; its writes stand"
                waiter.set_exception(ClosedError(closed))

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


def in_thread(disk: ThreadPoolExecutor, work: Callable[..., T], *given: Any) -> asyncio.Future[T]:
    """Work for the disk's thread, handed over by the loop: a loop in virtual time waits for it."""
    return asyncio.get_running_loop().run_in_executor(disk, work, *given)


async def despite_cancel(future: asyncio.Future[T]) -> T:
    """The result of what cannot be taken back, however often who waits for it is cancelled."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    return future.result()


def _cancels() -> int:
    """How often the current task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
